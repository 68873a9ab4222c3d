"""The other queues at work, run by the Python of their own environment: `peer_side.py NAME DSN SECONDS`; prints one JSON object.

Per measurement the microseconds per message: `one` and `five` from the send to its deletion for one and five groups, `singles` for sends
of one message each by 256 producers. Each way is the peer's quickest documented one: batches of 1,000, deletion in batches.
"""

import asyncio
import json
import secrets
import sys
import threading
import time
from datetime import timedelta
from importlib import resources

BODY = secrets.token_hex(100)
BATCH, PRODUCERS, AHEAD = 1000, 256, 20_000
POOL = 32  # connections of the asynchronous producers: more were slower
WARM = 1.0  # seconds


class Flow:
    """How much was sent and done; the sender waits while it is too far ahead of the slowest group."""

    def __init__(self, groups: int, seconds: float) -> None:
        self.sent, self.done = 0, [0] * groups
        self.started = time.perf_counter()
        self.end = self.started + WARM + seconds
        self.at_warm: int | None = None

    @property
    def over(self) -> bool:
        now = time.perf_counter()
        if self.at_warm is None and now >= self.started + WARM:
            self.at_warm, self.warm = sum(self.done), now
        return now >= self.end

    @property
    def ahead(self) -> bool:
        return self.sent - min(self.done) > AHEAD

    def micros(self) -> float:
        assert self.at_warm is not None
        return (time.perf_counter() - self.warm) / max(1, sum(self.done) - self.at_warm) * 1e6


def pgmq(dsn: str, seconds: float) -> dict[str, float]:
    """By its functions in SQL, without an extension; the body as JSON, as it wants it. One queue a group: it has no groups."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as c:
        c.execute(resources.files("pgmq").joinpath("sql/pgmq.sql").read_text())

    def connect() -> "psycopg.Connection":
        return psycopg.connect(dsn, autocommit=True)

    message = json.dumps({"b": BODY})

    def flow(groups: int) -> float:
        queues = [f"q{groups}_{i}" for i in range(groups)]
        with connect() as c:
            for q in queues:
                c.execute("SELECT pgmq.create(%s)", (q,))
        state = Flow(groups, seconds)

        def send() -> None:
            with connect() as c:
                while not state.over:
                    if state.ahead:
                        time.sleep(0.002)
                        continue
                    with c.transaction():
                        for q in queues:
                            c.execute("SELECT pgmq.send_batch(%s, %s::jsonb[])", (q, [message] * BATCH))
                    state.sent += BATCH

        def take(i: int) -> None:
            with connect() as c:
                while not state.over:
                    rows = c.execute("SELECT msg_id, message FROM pgmq.read(%s, 60, %s)", (queues[i], BATCH)).fetchall()
                    if not rows:
                        time.sleep(0.002)
                        continue
                    c.execute("SELECT pgmq.delete(%s, %s::bigint[])", (queues[i], [r[0] for r in rows]))
                    state.done[i] += len(rows)

        threads = [threading.Thread(target=send), *(threading.Thread(target=take, args=(i,)) for i in range(groups))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return state.micros()

    def singles() -> float:
        with connect() as c:
            c.execute("SELECT pgmq.create('singles')")
        import psycopg_pool

        state = Flow(1, seconds)
        with psycopg_pool.ConnectionPool(dsn, min_size=POOL, max_size=POOL, kwargs={"autocommit": True}, timeout=60) as pool:
            lock = threading.Lock()

            def send() -> None:
                while not state.over:
                    with pool.connection() as c:
                        c.execute("SELECT pgmq.send('singles', %s::jsonb)", (message,))
                    with lock:
                        state.done[0] += 1

            threads = [threading.Thread(target=send) for _ in range(PRODUCERS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            return state.micros()

    return {"one": flow(1), "five": flow(5), "singles": singles()}


def pgqueuer(dsn: str, seconds: float) -> dict[str, float]:
    """Over asyncpg. One entrypoint a group: it has no groups."""
    return asyncio.run(_pgqueuer(dsn, seconds))


async def _pgqueuer(dsn: str, seconds: float) -> dict[str, float]:
    import asyncpg  # type: ignore[import-not-found]  # it is in the peers' environment, as the next two
    from pgqueuer.ports.repository import EntrypointExecutionParameter  # type: ignore[import-not-found]
    from pgqueuer.queries import Queries  # type: ignore[import-not-found]

    body = BODY.encode()
    async with asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL) as pool:
        queries = Queries.from_asyncpg_pool(pool)
        await queries.install()

        async def flow(groups: int) -> float:
            import uuid

            names = [f"g{groups}_{i}" for i in range(groups)]
            state = Flow(groups, seconds)

            async def send() -> None:
                while not state.over:
                    if state.ahead:
                        await asyncio.sleep(0.002)
                        continue
                    n = BATCH * groups
                    await queries.enqueue(names * BATCH, [body] * n, [0] * n)
                    state.sent += BATCH

            async def take(i: int) -> None:
                manager = uuid.uuid4()
                while not state.over:
                    entry = {names[i]: EntrypointExecutionParameter(0)}
                    jobs = await queries.dequeue(BATCH, entry, manager, None, timedelta(seconds=60))
                    if not jobs:
                        await asyncio.sleep(0.002)
                        continue
                    await queries.log_jobs([(job, "successful", None) for job in jobs])
                    state.done[i] += len(jobs)

            await asyncio.gather(send(), *(take(i) for i in range(groups)))
            return state.micros()

        async def singles() -> float:
            state = Flow(1, seconds)

            async def send() -> None:
                while not state.over:
                    await queries.enqueue("single", body)
                    state.done[0] += 1

            await asyncio.gather(*(send() for _ in range(PRODUCERS)))
            return state.micros()

        return {"one": await flow(1), "five": await flow(5), "singles": await singles()}


if __name__ == "__main__":
    name, dsn, seconds = sys.argv[1:]
    print(json.dumps({"pgmq": pgmq, "pgqueuer": pgqueuer}[name](dsn, float(seconds))))
