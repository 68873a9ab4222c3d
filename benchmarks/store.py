"""The store against what Postgres can do at best: a bare COPY, a bare range read. Medians of interleaved rounds in one run."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from django.db import connection, transaction

from benchmarks import Row
from benchmarks.our_side import singles
from clusters.drivers import builtin
from messages import sending, services
from messages.consuming import tick
from messages.db import hot_cursor
from messages.storekeeper import Storekeeper
from messages.types import NewMessage, Outcome

ROUNDS = 30
BODY = os.urandom(100).hex().encode()  # 200 B that do not compress away
BATCH = 1000
_ids = count(int(time.time()) * 1000)


def run() -> list[Row]:
    """Measure; needs a migrated database and nothing else."""
    with _bare_tables(), _storekeeper():
        return [_send_batch(), _send_one(), _producers(256), *_next_of(100), *_next_of(1000)]


def _send_batch() -> Row:
    """1,000 messages with producers' ids, ids returned, against COPY of the same rows into a heap with its key."""
    topic = _topic(groups=1)
    producer = count()

    def send() -> None:
        batch = [NewMessage(BODY, producer_id=f"producer-7:{next(producer)}") for _ in range(BATCH)]
        started = time.perf_counter()
        services.send(topic_id=topic, messages=batch)
        spent.append(time.perf_counter() - started)

    spent: list[float] = []
    floor = _floor_copy(topic)
    floors = _interleaved(send, floor)
    return _row("batch send of 1,000, ids returned, de-duplicated", spent, floors, BATCH, "floor: bare COPY into heap + key")


def _send_one() -> Row:
    topic = _topic(groups=1)
    spent: list[float] = []

    def send() -> None:
        started = time.perf_counter()
        services.send(topic_id=topic, messages=[NewMessage(BODY)])
        spent.append(time.perf_counter() - started)

    ids = count(1)

    def insert() -> float:
        started = time.perf_counter()
        with hot_cursor() as cursor:
            cursor.execute("INSERT INTO bench_floor (topic_id, id, body) VALUES (%s, %s, %s)", (-topic, next(ids), BODY))
        return time.perf_counter() - started

    floors = _interleaved(send, insert, rounds=300)
    return _row("single send, one commit", spent, floors, 1, "floor: bare INSERT into heap + key")


def _producers(n: int) -> Row:
    """Single sends of many threads at once, as they come, against the same with a commit for each; in turns, medians."""
    topic = _topic(groups=1)
    threads = min(n, _free_connections() - 4)
    rounds = [(singles(topic, n, seconds=2.0), burst(sending._send_one, topic, threads, seconds=2.0)) for _ in range(3)]
    ours, floor = (statistics.median(values) for values in zip(*rounds, strict=True))
    note = f"baseline, not a floor: a commit for each, {threads} threads, as many as Postgres has connections for"
    return Row(
        f"single sends of {n} producers, group commit", round(ours, 1), round(floor, 1), round(ours / floor, 2), "µs per message", note
    )


def _free_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - count(*)"
            " FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        return int(cursor.fetchone()[0])


def burst(send: Callable[[int, NewMessage], object], topic: int, threads: int, seconds: float) -> float:
    """Microseconds per message of `threads` that send one after another for so long."""
    sent, ready, end = [0] * threads, threading.Barrier(threads + 1), 0.0

    def work(number: int) -> None:
        try:
            send(topic, NewMessage(BODY))  # its connection is open then, if it needs one
            ready.wait()
            while time.perf_counter() < end:
                send(topic, NewMessage(BODY))
                sent[number] += 1
        finally:
            connection.close()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    end = time.perf_counter() + seconds + 3600
    ready.wait()
    started = time.perf_counter()
    end = started + seconds
    for worker in workers:
        worker.join()
    return (time.perf_counter() - started) / sum(sent) * 1e6


def _next_of(n: int) -> Iterator[Row]:
    """Settle n and pull n in one commit, against reading n rows of a bare table by its key and moving a counter."""
    topic = _topic(groups=1)
    group = topic
    rounds = ROUNDS if n > 100 else 100
    for _ in range(rounds * n // BATCH + 3):
        services.send(topic_id=topic, messages=[NewMessage(BODY) for _ in range(BATCH)])
    _fill_floor(topic, rounds * n)
    tick()
    take: dict[str, Any] = {"limit": n, "visibility_ms": 60_000, "consumer": "bench"}
    batch = services.pull(group_id=group, **take)
    spent: list[float] = []
    position = 0

    def next_() -> None:
        nonlocal batch
        outcomes = [Outcome(m.id, "succeeded") for m in batch.messages]
        started = time.perf_counter()
        _settled, batch = services.next(group_id=group, lease=batch.lease, outcomes=outcomes, **take)
        spent.append(time.perf_counter() - started)
        assert len(batch.messages) == n, len(batch.messages)

    def read() -> float:
        nonlocal position
        started = time.perf_counter()
        with transaction.atomic(), hot_cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")
            sql = "SELECT id, body FROM bench_floor WHERE topic_id = %s AND id > %s ORDER BY id LIMIT %s"
            rows = cursor.execute(sql, (topic, position, n), binary=True).fetchall()
            cursor.execute("UPDATE bench_position SET pos = %s", (rows[-1][0],))
        position = rows[-1][0]
        return time.perf_counter() - started

    floors = _interleaved(next_, read, rounds=rounds)
    yield _row(f"next of {n:,} (settle and pull in one commit)", spent, floors, n, "floor: range read by key and one UPDATE")


def _interleaved(ours: Callable[[], None], floor: Callable[[], float], *, rounds: int = ROUNDS) -> list[float]:
    floors = []
    for _ in range(rounds):
        ours()
        floors.append(floor())
    return floors


def _floor_copy(topic: int) -> Callable[[], float]:
    ids = count(1)

    def copy_in() -> float:
        rows = [(topic, next(ids), BODY) for _ in range(BATCH)]
        started = time.perf_counter()
        with hot_cursor() as cursor, cursor.copy("COPY bench_floor (topic_id, id, body) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "int8", "bytea"])
            for row in rows:
                copy.write_row(row)
        return time.perf_counter() - started

    return copy_in


def _fill_floor(topic: int, n: int) -> None:
    copy_in = _floor_copy(topic)
    for _ in range(n // BATCH + 1):
        copy_in()


def _row(name: str, spent: list[float], floors: list[float], messages: int, note: str) -> Row:
    ours, floor = (statistics.median(values) / messages * 1e6 for values in (spent, floors))
    return Row(name=name, measured=round(ours, 2), floor=round(floor, 2), ratio=round(ours / floor, 2), unit="µs per message", note=note)


def _topic(*, groups: int, backoff_ms: int = 1000) -> int:
    topic = next(_ids) + 10_000_000
    for group in range(groups):
        builtin.create_group(group_id=topic + group, max_attempts=16, backoff_ms=[backoff_ms])
        builtin.subscribe(group_id=topic + group, topic_id=topic)
    return topic


@contextmanager
def _bare_tables() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_floor, bench_position")
        cursor.execute("CREATE TABLE bench_floor (topic_id bigint, id bigint, body bytea, PRIMARY KEY (topic_id, id))")
        cursor.execute("CREATE TABLE bench_position AS SELECT 0::bigint AS pos")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE bench_floor, bench_position")


@contextmanager
def _storekeeper() -> Iterator[None]:
    """Ticks go on meanwhile, as they do in a running system."""
    keeper = Storekeeper()
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        yield
    finally:
        keeper.stop()
        thread.join()
