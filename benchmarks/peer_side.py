"""The other queues at work, run by the Python of their own environment: `peer_side.py NAME DSN SECONDS`; prints one JSON object.

Per measurement the microseconds per message: `one` and `five` from the send to its deletion for one and five groups, the sender and each
group's consumer in a process of its own; `singles` for sends of one message each by 256 producers in one process. Each way is the peer's
quickest documented one: batches of 1,000, deletion in batches where it has them, a worker with a handler that does nothing where it has
only that.
"""

import asyncio
import dataclasses
import json
import logging
import multiprocessing
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from importlib import resources
from typing import Any, Protocol

BODY = secrets.token_hex(100)
BATCH, PRODUCERS, AHEAD = 1000, 256, 20_000
POOL = 32  # connections of the asynchronous producers: more were slower
AT_WORK = 256  # jobs that a worker has in hand at once, where it takes them one by one
WARM = 1.5  # seconds
PAUSE = 0.002
_processes = multiprocessing.get_context("spawn")


class Side(Protocol):
    """One queue, as it is sent to and taken from; it is handed to processes of its own, so it holds nothing but settings."""

    def send(self, flow: "Flow") -> None:
        """Send batches to all groups until it is over, and say how many."""

    def take(self, flow: "Flow", group: int) -> None:
        """Take and settle what comes for a group until it is over, and say how many."""


class Flow:
    """Processes at work and how much they did; the sender waits while it is too far ahead of the slowest group."""

    def __init__(self, groups: int, seconds: float) -> None:
        self.groups, self.seconds = groups, seconds
        self.over, self._ready = _processes.Event(), _processes.Barrier(groups + 2, timeout=120)
        self._sent, self._done = _processes.RawValue("q", 0), _processes.RawArray("q", groups)

    def begin(self) -> None:
        """Said by each process when it is connected; it goes on when all are."""
        self._ready.wait()

    def sent(self, number: int) -> None:
        """The sender has sent so many to each group."""
        self._sent.value += number

    def done(self, group: int, number: int) -> None:
        """The group's consumer is done with so many."""
        self._done[group] += number

    @property
    def ahead(self) -> bool:
        """Whether the sender has to wait."""
        return bool(self._sent.value - min(self._done) > AHEAD)

    def micros(self, side: Side) -> float:
        """The time a message takes, over all groups."""
        processes = [_processes.Process(target=side.send, args=(self,))]
        processes += [_processes.Process(target=side.take, args=(self, group)) for group in range(self.groups)]
        for process in processes:
            process.start()
        self._ready.wait()
        time.sleep(WARM)
        began, before = time.perf_counter(), sum(list(self._done))
        time.sleep(self.seconds)
        spent, done = time.perf_counter() - began, sum(list(self._done)) - before
        self.over.set()
        for process in processes:
            process.join(30)
            if process.exitcode is None:
                process.kill()
        if not done:
            raise RuntimeError("nothing was done")
        return float(spent / done * 1e6)


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
        queue = f"q{flow.groups}_{group}"
        with self._connect() as c:
            flow.begin()
            while not flow.over.is_set():
                rows = c.execute("SELECT msg_id, message FROM pgmq.read(%s, 60, %s)", (queue, BATCH)).fetchall()
                if not rows:
                    time.sleep(PAUSE)
                    continue
                c.execute("SELECT pgmq.delete(%s, %s::bigint[])", (queue, [r[0] for r in rows]))
                flow.done(group, len(rows))

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

            queries, manager = await self._queries(1), uuid.uuid4()
            entry = {f"g{flow.groups}_{group}": EntrypointExecutionParameter(0)}
            flow.begin()
            while not flow.over.is_set():
                jobs = await queries.dequeue(BATCH, entry, manager, None, timedelta(seconds=60))
                if not jobs:
                    await asyncio.sleep(PAUSE)
                    continue
                await queries.log_jobs([(job, "successful", None) for job in jobs])
                flow.done(group, len(jobs))

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

            @app.task(name="work")  # type: ignore[untyped-decorator]
            async def work(body: str) -> None:  # noqa: ARG001
                flow.done(group, 1)

            async with app.open_async():
                flow.begin()
                options = {"concurrency": AT_WORK, "delete_jobs": "successful", "install_signal_handlers": False}
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

    def prepare(self, groups: int) -> None:
        """Nothing: a queue is a name."""

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
            client, queue = self._client(8), f"g{flow.groups}_{group}"

            @client.task(Work, queue=queue)  # type: ignore[untyped-decorator]
            async def work(_job: Any) -> None:
                flow.done(group, 1)

            await client.start([(queue, AT_WORK)], poll_interval_ms=20)
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


def main(name: str, dsn: str, seconds: float) -> dict[str, float]:
    """Install the queue and measure it."""
    side = SIDES[name](dsn)
    side.install()
    found = {}
    for key, groups in (("one", 1), ("five", 5)):
        side.prepare(groups)
        found[key] = Flow(groups, seconds).micros(side)
    return {**found, "singles": side.singles(seconds)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
