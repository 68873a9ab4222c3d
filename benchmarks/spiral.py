"""The death spiral of queues in Postgres: what a snapshot that is held, readers, many workers and failures do to a queue at full load.

    make bench ARGS=spiral              # a snapshot of a minute, ours and four peers: half an hour
    make bench ARGS=spiral=600          # of ten minutes
    make bench ARGS=spiral=20,ours,pgmq # only these
    make bench ARGS=spiral=20,ours,held # only this: held, readers, workers, failing

While any session keeps a snapshot, Postgres cannot remove what was updated or deleted since, so a queue that updates rows reads past ever
more dead ones. Each row of the table is the time that a message takes under the strain, beside the same queue's time without it: 2 is
half the throughput.
"""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from django.db import connection

from benchmarks import Row
from benchmarks.flow import Flow
from benchmarks.our_side import Ours, pooled
from benchmarks.peers import PEERS, ask, database, dsn_of
from benchmarks.store import BODY, _storekeeper, _topic

BEFORE, WINDOW, REST = 10.0, 10.0, 10.0  # seconds: at peace before, looked at, and allowed for coming back
STRAIN = 20.0  # seconds at most of readers, of many workers and of failures
READERS, HOLD = 64, 5.0  # sessions, and how many seconds each of their transactions lasts
WORKERS, FEW = 256, 4
_processes = multiprocessing.get_context("spawn")
Series = list[tuple[float, int]]
#: Runs a queue for so long and says when it is at work; gives how much was done by when.
Watch = Callable[..., Series]


def run(*asked: str) -> list[Row]:
    """Ours, then each peer in a database of its own, through all four strains; or those that are named."""
    seconds = next((float(word) for word in asked if word.replace(".", "").isdigit()), 60.0)
    sides = [name for name in ("ours", *PEERS) if name in asked] or ["ours", *PEERS]
    strains = [name for name in STRAINS if name in asked] or list(STRAINS)
    rows = []
    for strain in strains:
        for side in sides:
            with _ours() if side == "ours" else _peer(side) as (dsn, watch):
                found = STRAINS[strain](side, dsn, watch, seconds)
            for row in found:
                print(f"  {row.name}: {row.measured} against {row.floor} {row.unit}, {row.ratio}", flush=True)
            rows += found
    return rows


@contextlib.contextmanager
def _ours() -> Iterator[tuple[str, Watch]]:
    def watch(begun: Callable[[], None], *, seconds: float, workers: int = 1, failing: bool = False) -> Series:
        topic = _topic(groups=1, backoff_ms=0)
        with pooled() if workers > 1 else contextlib.nullcontext():
            flow = Flow(1, seconds, workers=workers, failing=failing)
            strain = threading.Thread(target=begun)
            series = flow.watch(Ours(topic, [topic], BODY), strain.start)
            strain.join()
        return series

    with _storekeeper():
        yield dsn_of(str(connection.settings_dict["NAME"])), watch


@contextlib.contextmanager
def _peer(name: str) -> Iterator[tuple[str, Watch]]:
    def watch(begun: Callable[[], None], **options: Any) -> Series:
        with database(f"bench_{name}") as dsn:
            found: Series = ask(name, dsn, begun, what="watch", **options)
        return found

    yield dsn_of(f"bench_{name}"), watch


def _held(side: str, dsn: str, watch: Watch, seconds: float) -> list[Row]:
    """One session begins a transaction, asks once, and keeps its snapshot."""
    times: list[float] = []

    def strain() -> None:
        time.sleep(BEFORE)
        with psycopg.connect(dsn, options="-c idle_in_transaction_session_timeout=0") as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            session.execute("SELECT count(*) FROM pg_class")
            times.append(time.monotonic())
            time.sleep(seconds)
            times.append(time.monotonic())

    series = watch(strain, seconds=BEFORE + seconds + REST + WINDOW + 2)
    began, ended = times
    before = micros(series, began - BEFORE, began)
    return [
        _row(f"a snapshot held for {seconds:.0f} s: all of it", side, micros(series, began, ended), before),
        _row(f"a snapshot held for {seconds:.0f} s: its last {WINDOW:.0f} s", side, micros(series, ended - WINDOW, ended), before),
        _row(f"{REST:.0f} s after its end", side, micros(series, ended + REST, ended + REST + WINDOW), before),
    ]


def _readers(side: str, dsn: str, watch: Watch, seconds: float) -> list[Row]:
    """Many sessions with transactions that overlap, so that there is always a snapshot some seconds old."""
    lasting, times = min(STRAIN, seconds), list[float]()

    def strain() -> None:
        time.sleep(BEFORE)
        over = _processes.Event()
        readers = _processes.Process(target=_read, args=(dsn, over))
        readers.start()
        time.sleep(HOLD)
        times.append(time.monotonic())
        time.sleep(lasting)
        times.append(time.monotonic())
        over.set()
        readers.join()

    series = watch(strain, seconds=BEFORE + HOLD + lasting + 2)
    began, ended = times
    before = micros(series, began - HOLD - BEFORE, began - HOLD)
    return [_row(f"{READERS} reading sessions", side, micros(series, began, ended), before)]


def _read(dsn: str, over: Any) -> None:
    """Each reads a little twice a second, in one transaction for some seconds, and then in the next."""

    def one(number: int) -> None:
        with psycopg.connect(dsn) as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            over.wait(HOLD * number / READERS)
            while not over.is_set():
                end = time.monotonic() + HOLD
                while time.monotonic() < end and not over.is_set():
                    session.execute("SELECT count(*) FROM pg_class")
                    over.wait(0.5)
                session.rollback()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _workers(side: str, _dsn: str, watch: Watch, seconds: float) -> list[Row]:
    few, many = (watch(lambda: None, seconds=min(STRAIN, seconds), workers=number) for number in (FEW, WORKERS))
    return [_row(f"{WORKERS} workers on one group instead of {FEW}", side, micros(many), micros(few))]


def _failing(side: str, _dsn: str, watch: Watch, seconds: float) -> list[Row]:
    """A message that fails once is tried twice, so 1.5 would be no loss at all."""
    well, ill = (watch(lambda: None, seconds=min(STRAIN, seconds), failing=failing) for failing in (False, True))
    return [_row("half of all messages fail once", side, micros(ill), micros(well))]


STRAINS = {"held": _held, "readers": _readers, "workers": _workers, "failing": _failing}


def micros(series: Series, since: float = 0.0, until: float = float("inf")) -> float:
    """What a message took between two moments."""
    looked = [one for one in series if since <= one[0] <= until]
    (began, before), (ended, after) = looked[0], looked[-1]
    return (ended - began) / max(1, after - before) * 1e6


def _row(name: str, side: str, measured: float, floor: float) -> Row:
    note = "the same queue without it" if side == "ours" else f"a peer without it: {side} {PEERS[side]}"
    return Row(f"{name}, {side}", round(measured, 1), round(floor, 1), round(measured / floor, 2), "µs per message", note)
