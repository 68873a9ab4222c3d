"""The storekeeper: ticks the horizon, cuts counters, makes partitions ahead, forgets old producers' ids. One active, the others wait."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg import sql

from messages.waiting import connect

log = structlog.get_logger(__name__)

TICK = 0.02  # seconds between ticks while messages come
TICK_IDLE = 0.1  # when none has come for a second: a pull that finds the horizon behind ticks by itself
CUT = 2.0
UPKEEP = 60.0
AGAIN = 1.0  # until a chore goes on that had more to do than its round, or no lock
ROUND = 0.3  # seconds that a chore may keep the ticks waiting; a lock that is taken costs another 0.5 at most
BEAT = 1.0
ELECTION = 1.0  # between two tries to become the active one
LEADER_LOCK = 7310000  # session-level advisory lock


@dataclass(slots=True)
class _Chore:
    every: float
    work: Callable[[psycopg.Connection[Any]], bool]  # False: there is more to do
    next_at: float = 0.0


class Storekeeper:
    """Runs until `stop`. Clock and connection are injected for the tests."""

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection[Any]] = connect,
        clock: Callable[[], float] = time.monotonic,
        accept_jump: bool = True,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._stop = threading.Event()
        # Whoever starts a storekeeper has looked at the clock: its first tick may follow a jump (a machine that slept for days).
        self._accept_jump = accept_jump

    def stop(self) -> None:
        """End after the current step."""
        self._stop.set()

    def run(self) -> None:
        """Be the active storekeeper or wait to become it; a lost connection is opened anew."""
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    if self._elected(connection):
                        log.info("storekeeper is active")
                        self._serve(connection)
            except psycopg.Error as error:
                log.warning("storekeeper lost Postgres", error=str(error).strip())
                self._stop.wait(ELECTION)

    def _elected(self, connection: psycopg.Connection[Any]) -> bool:
        while not self._stop.is_set():
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LEADER_LOCK,)).fetchone()
            if row and row[0]:
                return True
            self._stop.wait(ELECTION)
        return False

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        _try(upkeep, connection)  # before the first tick: ids must not leave the partitions
        chores = [_Chore(CUT, cut), _Chore(UPKEEP, upkeep), _Chore(UPKEEP, drop_promoted), _Chore(CUT, purge), _Chore(BEAT, beat)]
        closed, moved_at, refused_said = None, self._clock(), 0.0
        while not self._stop.is_set():
            jump = "100 years" if self._accept_jump else "1 day"
            row = connection.execute(
                "SELECT mq_tick(%s::interval), drawn_id, refused_at > clock_timestamp() - interval '15 s' FROM mq_horizon", (jump,)
            ).fetchone()
            self._accept_jump = False
            now = self._clock()
            if row is not None and row[1] != closed:
                closed, moved_at = row[1], now
            if row is not None and row[2] and now > refused_said:
                refused_said = now + 60
                log.error(
                    "the clock jumped ahead; ids do not follow it", hint="Set the clock right, or restart the storekeeper to accept it."
                )
            for chore in chores:
                if now >= chore.next_at:
                    done = _try(chore.work, connection)
                    chore.next_at = self._clock() + (chore.every if done else AGAIN)
            self._stop.wait(TICK if now - moved_at < 1.0 else TICK_IDLE)


def _try(work: Callable[[psycopg.Connection[Any]], bool], connection: psycopg.Connection[Any]) -> bool:
    """One round of a chore; a lock that somebody else holds means: later."""
    try:
        return work(connection)
    except psycopg.errors.LockNotAvailable:
        log.info("a chore waits for a lock; trying again", chore=work.__name__)
        return False


def beat(connection: psycopg.Connection[Any]) -> bool:
    """Say that this storekeeper works: readiness and overview look at it."""
    connection.execute("SELECT mq_beat()")
    return True


def cut(connection: psycopg.Connection[Any]) -> bool:
    """Cut the cumulative counters at the horizon where a topic has grown."""
    end = time.monotonic() + ROUND
    while time.monotonic() < end:
        row = connection.execute("SELECT mq_cut()").fetchone()
        if not row or not row[0]:
            return True
    return False


def purge(connection: psycopg.Connection[Any]) -> bool:
    """Forget producers' ids after their time to live."""
    connection.execute("SELECT mq_purge_claims()")
    return True


def upkeep(connection: psycopg.Connection[Any]) -> bool:
    """Make the partitions that are missing ahead, one short transaction each; False when there was no time, or no lock, for all."""
    end = time.monotonic() + ROUND
    while True:
        row = connection.execute("SELECT mq_upkeep()").fetchone()
        if not row or row[0] is None:
            return True
        log.info("partition made", partition=row[0])
        if time.monotonic() > end:
            return False


def drop_promoted(connection: psycopg.Connection[Any]) -> bool:
    """Drop a partition of delayed messages whose time is over and that is empty: cheaper than vacuuming it. False: there may be more."""
    rows = connection.execute(
        "SELECT p.partition::text, i.inhdetachpending FROM mq_partitions('mq_delayed') p JOIN pg_inherits i ON i.inhrelid = p.partition"
        " WHERE p.hi::timestamptz < clock_timestamp() - interval '7 days' ORDER BY p.hi::timestamptz"
    ).fetchall()
    for name, half_detached in rows:
        if connection.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(sql.Identifier(name))).fetchone() == (True,):
            drop_partition(connection, "mq_delayed", name, half_detached=half_detached)
            return False
    return True


def drop_partition(connection: psycopg.Connection[Any], parent: str, name: str, *, half_detached: bool) -> None:
    """Detach and drop a partition without blocking anybody. Raises LockNotAvailable: somebody reads it, try again later."""
    table = sql.Identifier(name)
    connection.execute("SET lock_timeout = '500ms'")
    try:
        # A lock that did not come in time, or a kill, leaves it half detached; that can only be finished, not begun again.
        how = sql.SQL("FINALIZE" if half_detached else "CONCURRENTLY")
        connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(sql.Identifier(parent), table, how))
        connection.execute(sql.SQL("DROP TABLE {}").format(table))
    finally:
        connection.execute("RESET lock_timeout")
    log.info("partition dropped", partition=name)
