"""The other queues at work, run by the Python of their own environment: `-m benchmarks.peer_side NAME DSN WHAT`.

WHAT is an object in JSON, and so is the last line of the answer. `{"what": "rates"}` gives microseconds per message: `one` and `five`
from the send to its deletion for one and five groups, the sender and each group's consumer in a process of its own; `singles` for sends of
one message each by 256 producers in one process. `watch` gives how much was done by when, `store` fills a queue, `sustain` sends and takes
so many messages. Each way is the peer's quickest documented one: batches of 1,000, deletion in batches where it has them, a worker with a
handler that does nothing where it has only that.
"""

import asyncio
import dataclasses
import json
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import resources
from typing import Any

from benchmarks.flow import BATCH, BODY, PAUSE, PRODUCERS, WARM, Flow, in_threads

POOL = 32  # connections of the asynchronous producers: more were slower


class Pgmq:
    """By its functions in SQL, without an extension; the body as JSON, as it wants it. One queue a group: it has no groups."""

    message = json.dumps({"b": BODY})

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.dsn, autocommit=True)

    def install(self) -> None:
        with self._connect() as c:
            c.execute(resources.files("pgmq").joinpath("sql/pgmq.sql").read_text())

    def prepare(self, groups: int) -> None:
        with self._connect() as c:
            for i in range(groups):
                c.execute("SELECT pgmq.create(%s)", (f"q{groups}_{i}",))

    def send(self, flow: Flow) -> None:
        with self._connect() as c:
            flow.begin()
            while not flow.over.is_set():
                if flow.ahead:
                    time.sleep(PAUSE)
                    continue
                with c.transaction():
                    for i in range(flow.groups):
                        c.execute("SELECT pgmq.send_batch(%s, %s::jsonb[])", (f"q{flow.groups}_{i}", [self.message] * BATCH))
                flow.sent(BATCH)

    def take(self, flow: Flow, group: int) -> None:
        import psycopg_pool

        queue, size = f"q{flow.groups}_{group}", min(flow.each, POOL)
        with psycopg_pool.ConnectionPool(self.dsn, min_size=size, max_size=size, kwargs={"autocommit": True}, timeout=60) as pool:

            def work() -> None:
                while not flow.over.is_set():
                    with pool.connection() as c:
                        rows = c.execute("SELECT msg_id, read_ct, message FROM pgmq.read(%s, 60, %s)", (queue, flow.batch)).fetchall()
                        failed = [r[0] for r in rows if flow.failing and r[1] == 1 and r[0] % 2]
                        done = [r[0] for r in rows if not (flow.failing and r[1] == 1 and r[0] % 2)]
                        if failed:
                            c.execute("SELECT pgmq.set_vt(%s, %s::bigint[], 0)", (queue, failed))
                        if done:
                            c.execute("SELECT pgmq.delete(%s, %s::bigint[])", (queue, done))
                            flow.done(group, len(done))
                    if not rows:
                        time.sleep(PAUSE)

            pool.wait()
            flow.begin()
            in_threads(work, flow.each)

    def singles(self, seconds: float) -> float:
        import psycopg_pool

        with self._connect() as c:
            c.execute("SELECT pgmq.create('singles')")
        burst = Burst(seconds)
        with psycopg_pool.ConnectionPool(self.dsn, min_size=POOL, max_size=POOL, kwargs={"autocommit": True}, timeout=60) as pool:

            def produce() -> None:
                while not burst.over:
                    with pool.connection() as c:
                        c.execute("SELECT pgmq.send('singles', %s::jsonb)", (self.message,))
                    burst.one()

            threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        return burst.micros()


class PgQueuer:
    """Over asyncpg. One entrypoint a group: it has no groups."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def _queries(self, connections: int) -> Any:
        import asyncpg  # type: ignore[import-not-found]  # it is in the peers' environment, as the next ones
        from pgqueuer.queries import Queries  # type: ignore[import-not-found]

        return Queries.from_asyncpg_pool(await asyncpg.create_pool(self.dsn, min_size=connections, max_size=connections))

    def install(self) -> None:
        async def install() -> None:
            await (await self._queries(1)).install()

        asyncio.run(install())

    def prepare(self, groups: int) -> None:
        """Nothing: an entrypoint is a name."""

    def send(self, flow: Flow) -> None:
        async def send() -> None:
            queries, n = await self._queries(1), BATCH * flow.groups
            names, bodies = [f"g{flow.groups}_{i}" for i in range(flow.groups)] * BATCH, [BODY.encode()] * n
            flow.begin()
            while not flow.over.is_set():
                if flow.ahead:
                    await asyncio.sleep(PAUSE)
                    continue
                await queries.enqueue(names, bodies, [0] * n)
                flow.sent(BATCH)

        asyncio.run(send())

    def take(self, flow: Flow, group: int) -> None:
        async def take() -> None:
            import uuid

            from pgqueuer.ports.repository import EntrypointExecutionParameter  # type: ignore[import-not-found]

            queries, manager = await self._queries(min(flow.each, POOL) if not flow.failing else POOL), uuid.uuid4()
            entry = {f"g{flow.groups}_{group}": EntrypointExecutionParameter(0)}

            async def work() -> None:
                while not flow.over.is_set():
                    jobs = await queries.dequeue(flow.batch, entry, manager, None, timedelta(seconds=60))
                    if not jobs:
                        await asyncio.sleep(PAUSE)
                        continue
                    failed = [job for job in jobs if flow.failing and not job.attempts and job.id % 2]
                    done = [job for job in jobs if not (flow.failing and not job.attempts and job.id % 2)]
                    await asyncio.gather(*(queries.retry_job(job, timedelta(0), None) for job in failed))  # it has no way for many at once
                    await queries.log_jobs([(job, "successful", None) for job in done])
                    flow.done(group, len(done))

            flow.begin()
            await asyncio.gather(*(work() for _ in range(flow.each)))

        asyncio.run(take())

    def singles(self, seconds: float) -> float:
        async def singles() -> float:
            queries = await self._queries(POOL)
            return await _produce(lambda: queries.enqueue("single", BODY.encode()), seconds)

        return asyncio.run(singles())


class Procrastinate:
    """One queue a group: it has no groups. A worker takes jobs one by one and deletes each that succeeded."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def _app(self, connections: int) -> Any:
        import procrastinate  # type: ignore[import-not-found]

        logging.disable(logging.WARNING)  # it tells of each job
        return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.dsn, min_size=connections, max_size=connections))

    def install(self) -> None:
        async def install() -> None:
            app = self._app(1)
            async with app.open_async():
                await app.schema_manager.apply_schema_async()

        asyncio.run(install())

    def prepare(self, groups: int) -> None:
        """Nothing: a queue is a name."""

    def send(self, flow: Flow) -> None:
        async def send() -> None:
            app = self._app(1)
            async with app.open_async():
                flow.begin()
                while not flow.over.is_set():
                    if flow.ahead:
                        await asyncio.sleep(PAUSE)
                        continue
                    for i in range(flow.groups):
                        queue = app.configure_task("work", queue=f"g{flow.groups}_{i}")
                        await queue.batch_defer_async(*[{"body": BODY}] * BATCH)
                    flow.sent(BATCH)

        asyncio.run(send())

    def take(self, flow: Flow, group: int) -> None:
        async def take() -> None:
            app = self._app(8)

            @app.task(name="work", pass_context=True, retry=5)  # type: ignore[untyped-decorator]
            async def work(context: Any, body: str) -> None:  # noqa: ARG001
                if flow.failing and not context.job.attempts and context.job.id % 2:
                    raise RuntimeError("failed")
                flow.done(group, 1)

            async with app.open_async():
                flow.begin()
                options = {"concurrency": flow.at_work, "delete_jobs": "successful", "install_signal_handlers": False}
                worker = asyncio.create_task(
                    app.run_worker_async(queues=[f"g{flow.groups}_{group}"], fetch_job_polling_interval=PAUSE * 10, **options)
                )
                await asyncio.to_thread(flow.over.wait)
                worker.cancel()
                await asyncio.wait([worker], timeout=10)

        asyncio.run(take())

    def singles(self, seconds: float) -> float:
        async def singles() -> float:
            app = self._app(POOL)
            async with app.open_async():
                job = app.configure_task("work", queue="singles")
                return await _produce(lambda: job.defer_async(body=BODY), seconds)

        return asyncio.run(singles())


@dataclasses.dataclass
class Work:
    """What awa's jobs carry."""

    body: str


class Awa:
    """Its engine in Rust. One queue a group: it has no groups; a worker calls the handler once for each job."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def _client(self, connections: int) -> Any:
        import awa  # type: ignore[import-not-found]

        return awa.AsyncClient(self.dsn, connections)

    def install(self) -> None:
        async def install() -> None:
            await self._client(2).migrate()

        asyncio.run(install())

    def prepare(self, _groups: int) -> None:
        """A queue is a name; but sends are refused until a worker has started once."""

        async def prepare() -> None:
            client = self._client(4)

            @client.task(Work, queue="nothing")  # type: ignore[untyped-decorator]
            async def work(_job: Any) -> None:
                pass

            await client.start([("nothing", 1)])
            await client.shutdown()

        asyncio.run(prepare())

    def send(self, flow: Flow) -> None:
        async def send() -> None:
            client, batch = self._client(2), [Work(BODY)] * BATCH
            flow.begin()
            while not flow.over.is_set():
                if flow.ahead:
                    await asyncio.sleep(PAUSE)
                    continue
                for i in range(flow.groups):
                    await client.enqueue_many_copy(batch, queue=f"g{flow.groups}_{i}")
                flow.sent(BATCH)

        asyncio.run(send())

    def take(self, flow: Flow, group: int) -> None:
        async def take() -> None:
            import awa

            client, queue = self._client(8), f"g{flow.groups}_{group}"

            @client.task(Work, queue=queue)  # type: ignore[untyped-decorator]
            async def work(job: Any) -> Any:
                if flow.failing and job.attempt == 1 and job.id % 2:
                    return awa.RetryAfter(0.0)
                flow.done(group, 1)
                return None

            await client.start([(queue, flow.at_work)], poll_interval_ms=20, promote_interval_ms=50)
            flow.begin()
            await asyncio.to_thread(flow.over.wait)
            await client.shutdown()

        asyncio.run(take())

    def singles(self, seconds: float) -> float:
        async def singles() -> float:
            client, work = self._client(POOL), Work(BODY)
            return await _produce(lambda: client.insert(work, queue="singles"), seconds)

        return asyncio.run(singles())


class Burst:
    """Single sends of many producers in one process, and how long one took."""

    def __init__(self, seconds: float) -> None:
        self.done, self._lock = 0, threading.Lock()
        self.started = time.perf_counter()
        self.end = self.started + WARM + seconds
        self.at_warm: int | None = None

    @property
    def over(self) -> bool:
        now = time.perf_counter()
        if self.at_warm is None and now >= self.started + WARM:
            self.at_warm, self.warm = self.done, now
        return now >= self.end

    def one(self) -> None:
        with self._lock:
            self.done += 1

    def micros(self) -> float:
        assert self.at_warm is not None
        return (time.perf_counter() - self.warm) / max(1, self.done - self.at_warm) * 1e6


async def _produce(send: Callable[[], Awaitable[Any]], seconds: float) -> float:
    burst = Burst(seconds)

    async def produce() -> None:
        while not burst.over:
            await send()
            burst.one()

    await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
    return burst.micros()


SIDES: dict[str, Callable[[str], Any]] = {"pgmq": Pgmq, "pgqueuer": PgQueuer, "procrastinate": Procrastinate, "awa": Awa}


def rates(side: Any, seconds: float) -> dict[str, float]:
    """What a message takes."""
    found = {}
    for key, groups in (("one", 1), ("five", 5)):
        side.prepare(groups)
        found[key] = Flow(groups, seconds).micros(side)
    return {**found, "singles": side.singles(seconds)}


def main(name: str, dsn: str, *, what: str, messages: int = 0, **options: Any) -> Any:
    """Install the queue and measure it."""
    side = SIDES[name](dsn)
    side.install()
    if what == "rates":
        return rates(side, **options)
    side.prepare(1)
    flow = Flow(1, **options)
    if what == "watch":
        return flow.watch(side, lambda: print("begun", flush=True))
    return flow.store(side) if what == "store" else flow.sustain(side, messages)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))))
