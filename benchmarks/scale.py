"""What grows with a queue and what does not: pulls and counts beside a backlog of millions, delayed messages that come due.

    make bench ARGS=scale           # five million messages, a million of them delayed; ten minutes
    make bench ARGS=scale=500000    # a backlog of half a million
    make bench ARGS=scale=5000000,60  # messages come due for a minute

It fills a database of its own, drops it, and draws docs/backlog.svg.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import Row, plot

SMALL, LARGE = 100_000, 5_000_000
STEPS = (0.06, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the largest backlog: where it is looked at
PULLS, TAKEN = 300, 100
COUNTS = 50
PENDING, DUE_PER_SECOND, DUE_SECONDS = 1_000_000, 10_000, 15


def run(largest: str = str(LARGE), due_seconds: str = str(DUE_SECONDS)) -> list[Row]:
    """In a process of its own, on a database of its own on the same server."""
    from benchmarks.peers import database

    with database("bench_scale") as dsn:
        env = {**os.environ, "DATABASE_URL": dsn.replace("postgresql://", "postgres://")}
        command = [sys.executable, "-m", "benchmarks.scale", largest, due_seconds]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def measure(largest: int, due_seconds: int) -> list[Row]:
    """All of it, in this process's database."""
    from benchmarks.store import _storekeeper

    with _storekeeper():
        return [*_backlog(largest), *_delayed(due_seconds)]


def _backlog(largest: int) -> list[Row]:
    from benchmarks.store import _topic
    from messages import services
    from messages.db import fetch

    small, large = _topic(groups=1), _topic(groups=1)
    _fill(small, SMALL)
    rows, stored, points = [], 0, [(SMALL, 1.0)]
    for backlog in sorted({max(2 * SMALL, round(largest * step) // 1000 * 1000) for step in STEPS}):
        stored += _fill(large, backlog - stored)
        least, cost = _pulls(_group(small), _group(large))
        points.append((backlog, cost / least))
        name = f"next of {TAKEN} beside a backlog of {backlog:,}"
        rows.append(Row(name, round(cost, 2), round(least, 2), round(cost / least, 2), "µs per message", f"in turns beside {SMALL:,}"))
    plot.draw(Path(__file__).parent.parent / "docs" / "backlog.svg", points)
    while fetch("SELECT mq_cut()")[0][0]:
        pass  # what the storekeeper, which shares this process, has not got round to
    ours = statistics.median(_timed(lambda: services.counts(group_ids=[large])) for _ in range(COUNTS))
    floor = statistics.median(_timed(lambda: fetch("SELECT count(*) FROM mq_message WHERE topic_id = %s", (large,))) for _ in range(3))
    assert services.counts(group_ids=[large])[large].waiting == stored
    name = f"exact counts by status at {stored:,} messages"
    return [*rows, Row(name, round(ours * 1e3, 2), round(floor * 1e3, 2), round(ours / floor, 5), "ms", "against counting the rows")]


def _fill(topic: int, messages: int) -> int:
    from benchmarks.store import BATCH, BODY
    from messages import services
    from messages.consuming import tick
    from messages.types import NewMessage

    for _ in range(messages // BATCH):
        services.send(topic_id=topic, messages=[NewMessage(BODY)] * BATCH)
    tick()
    return messages


def _group(topic: int) -> int:
    """One that has the whole topic before it."""
    from benchmarks.store import _ids
    from clusters.drivers import builtin

    group = next(_ids) + 50_000_000
    builtin.create_group(group_id=group, max_attempts=16, backoff_ms=[1000])
    builtin.subscribe(group_id=group, topic_id=topic)
    return group


def _pulls(*groups: int) -> list[float]:
    """What a message costs each of them; they pull in turns, so that whatever else happens hits all."""
    from messages import services
    from messages.types import Outcome

    take: dict[str, Any] = {"limit": TAKEN, "visibility_ms": 60_000, "consumer": "bench"}
    batches = {group: services.pull(group_id=group, **take) for group in groups}
    spent: dict[int, list[float]] = {group: [] for group in groups}
    for _ in range(PULLS):
        for group in groups:
            outcomes = [Outcome(m.id, "succeeded") for m in batches[group].messages]
            started = time.perf_counter()
            _done, batches[group] = services.next(group_id=group, lease=batches[group].lease, outcomes=outcomes, **take)
            spent[group].append(time.perf_counter() - started)
            assert len(batches[group].messages) == TAKEN
    return [statistics.median(times) / TAKEN * 1e6 for times in spent.values()]


def _delayed(due_seconds: int) -> list[Row]:
    """Messages that come due at a rate beside a million that do not, while others are sent; how late the consumer has them."""
    from benchmarks.store import BATCH, BODY, _topic
    from messages import services
    from messages.types import NewMessage, Outcome

    topic, busy = _topic(groups=1), _topic(groups=1)
    later = datetime.now(UTC) + timedelta(days=30)
    due = PENDING - DUE_PER_SECOND * due_seconds
    for n in range(0, due, BATCH):
        at = later + timedelta(seconds=n / 10)
        services.send(topic_id=topic, messages=[NewMessage(BODY, deliver_at=at)] * BATCH)
    began = time.time() + 15 + due_seconds  # they are stored by then
    for n in range(0, DUE_PER_SECOND * due_seconds, BATCH):
        times = [began + (n + i) / DUE_PER_SECOND for i in range(BATCH)]
        batch = [NewMessage(f"{at:.4f}".encode(), deliver_at=datetime.fromtimestamp(at, UTC)) for at in times]
        services.send(topic_id=topic, messages=batch)
    assert time.time() < began, "the machine was too slow to store what comes due before it does"
    over = threading.Event()
    late: list[float] = []
    sent = [0]

    def promote() -> None:
        from django.db import connection

        while not over.is_set():
            if not services.promote():
                time.sleep(0.02)
        connection.close()

    def send() -> None:
        from django.db import connection

        while not over.is_set():
            services.send(topic_id=busy, messages=[NewMessage(BODY)] * 100)
            sent[0] += 100
            time.sleep(0.05)
        connection.close()

    threads = [threading.Thread(target=promote), threading.Thread(target=send)]
    sending = time.time()
    for thread in threads:
        thread.start()
    lease: str | None = None
    outcomes: list[Outcome] = []
    take: dict[str, Any] = {"group_id": topic, "limit": 1000, "visibility_ms": 60_000, "consumer": "bench"}
    until = began + due_seconds + 30
    while len(late) < DUE_PER_SECOND * due_seconds and time.time() < until:
        _done, found = services.next(lease=lease, outcomes=outcomes, **take)
        now = time.time()
        late += [now - float(m.body) for m in found.messages]
        lease, outcomes = found.lease, [Outcome(m.id, "succeeded") for m in found.messages]
        if not outcomes:
            time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert len(late) == DUE_PER_SECOND * due_seconds, f"{len(late)} of {DUE_PER_SECOND * due_seconds} came in time"
    assert min(late) >= 0
    last = late[-DUE_PER_SECOND:]  # had it fallen behind, those of the last second would be the latest
    late.sort()
    last.sort()
    others = f"{sent[0] / (time.time() - sending):,.0f} others sent a second"
    note = f"{PENDING:,} pending, {DUE_PER_SECOND:,} due a second for {due_seconds} s, {others}; against a second"
    quantiles = {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "of the last second, p50": last[len(last) // 2]}
    return [Row(f"delayed: how late, {key}", round(s * 1e3, 1), 1000.0, round(s, 3), "ms", note) for key, s in quantiles.items()]


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    from dataclasses import asdict

    import django
    from django.core.management import call_command

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    print(json.dumps([asdict(row) for row in measure(*map(int, sys.argv[1:]))]))
