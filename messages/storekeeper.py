"""The storekeeper: ticks the horizon, cuts counters, makes partitions ahead and drops those behind. One active, the others wait."""

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
RETAIN = 600.0
KEEP = "7 days"  # from when the last group has done with a partition of the log until it is dropped, if a topic has no rule of its own
AGAIN = 1.0  # until a chore goes on that had more to do than its round
LOCKED = 15.0  # until one that got no lock tries again: each try keeps the ticks waiting
ROUND = 0.3  # seconds that a chore may keep the ticks waiting; a lock that is taken costs another 0.5 at most
BEAT = 1.0
ELECTION = 1.0  # between two tries to become the active one
LEADER_LOCK = 7310000  # session-level advisory lock


@dataclass(slots=True)
class _Chore:
    every: float
    work: Callable[[psycopg.Connection[Any]], bool]  # False: there is more to do
    next_at: float = 0.0


@dataclass(slots=True)
class Retention:
    """Drops the oldest partition of the log when no group and no topic needs it any more; one at a time, in their order.

    Looking through all partitions may take longer than a chore's round, so it remembers how far it came.
    """

    keep: str = KEEP
    looked_to: int = 0
    oldest_is_needed: bool = False

    def __call__(self, connection: psycopg.Connection[Any]) -> bool:
        """A round. False: there is more to do."""
        end = time.monotonic() + ROUND
        while True:
            row = connection.execute("SELECT partition, hi, needed FROM mq_mark_done(%s)", (self.looked_to,)).fetchone()
            if self.looked_to == 0:
                self.oldest_is_needed = bool(row and row[2])
            if row is None or row[2]:
                break
            self.looked_to = row[1]
            if time.monotonic() > end:
                return False
        self.looked_to = 0
        return True if self.oldest_is_needed else self._drop(connection, end)

    def _drop(self, connection: psycopg.Connection[Any], end: float) -> bool:
        found = connection.execute(
            "SELECT p.partition::text, p.lo::bigint, p.hi::bigint, i.inhdetachpending FROM mq_partitions('mq_message') p"
            " JOIN pg_inherits i ON i.inhrelid = p.partition WHERE p.hi::bigint <= (SELECT closed_id FROM mq_horizon) + 1"
            " ORDER BY p.lo::bigint LIMIT 1"
        ).fetchone()
        if found is None or not self._may_drop(connection, found[1], found[2]):
            return True
        name, low, high, half_detached = found
        while connection.execute("SELECT mq_cut_at(%s)", (high,)).fetchone() != (0,):
            if time.monotonic() > end:
                return False
        if not self._may_drop(connection, low, high):
            return True
        history = connection.execute(
            "SELECT p.partition::text, i.inhdetachpending FROM mq_partitions('mq_history') p JOIN pg_inherits i ON i.inhrelid = p.partition"
            " WHERE p.hi::bigint <= %s ORDER BY p.lo::bigint",
            (high,),
        ).fetchall()
        for old, half in history:  # who has had the messages that go
            drop_partition(connection, "mq_history", old, half_detached=half)
        drop_partition(connection, "mq_message", name, half_detached=half_detached)
        connection.execute("DELETE FROM mq_done WHERE hi <= %s", (high,))
        connection.execute("SELECT mq_forget_redriven()")
        return False

    def _may_drop(self, connection: psycopg.Connection[Any], low: int, high: int) -> bool:
        return connection.execute("SELECT mq_may_drop(%s, %s, %s::interval)", (low, high, self.keep)).fetchone() == (True,)


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
        self._stopping = False  # no Event: a signal handler that sets one may wait for the lock of the thread that it interrupted
        # Whoever starts a storekeeper has looked at the clock: its first tick may follow a jump (a machine that slept for days).
        self._accept_jump = accept_jump

    def stop(self) -> None:
        """End after the current step, a second later at most; from a signal handler, too."""
        self._stopping = True

    def run(self) -> None:
        """Be the active storekeeper or wait to become it; a lost connection is opened anew."""
        while not self._stopping:
            try:
                with self._connect() as connection:
                    if self._elected(connection):
                        log.info("storekeeper is active")
                        self._serve(connection)
            except psycopg.Error as error:
                log.warning("storekeeper lost Postgres", error=str(error).strip())
                time.sleep(ELECTION)

    def _elected(self, connection: psycopg.Connection[Any]) -> bool:
        while not self._stopping:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LEADER_LOCK,)).fetchone()
            if row and row[0]:
                return True
            time.sleep(ELECTION)
        return False

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        _round(_Chore(UPKEEP, upkeep), connection)  # before the first tick: ids must not leave the partitions
        chores = [_Chore(CUT, cut), _Chore(UPKEEP, upkeep), _Chore(UPKEEP, drop_promoted), _Chore(CUT, purge), _Chore(RETAIN, Retention())]
        chores.append(_Chore(BEAT, beat))
        closed, moved_at, refused_said = None, self._clock(), 0.0
        while not self._stopping:
            jump = "100 years" if self._accept_jump else "1 day"
            row = connection.execute(
                "SELECT mq_tick(%s::interval), h.drawn_id, h.refused_at > clock_timestamp() - interval '15 s' FROM mq_horizon_now() h",
                (jump,),
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
                if now >= chore.next_at and not self._stopping:
                    chore.next_at = self._clock() + _round(chore, connection)
            time.sleep(TICK if now - moved_at < 1.0 else TICK_IDLE)


def _round(chore: _Chore, connection: psycopg.Connection[Any]) -> float:
    """One round of a chore; in how many seconds the next one is due. A lock that somebody else holds means: later."""
    try:
        return chore.every if chore.work(connection) else AGAIN
    except psycopg.errors.LockNotAvailable:
        log.info("a chore waits for a lock; trying again", chore=getattr(chore.work, "__name__", "retention"))
        return LOCKED


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
    """Forget producers' ids, transactions and decided half messages after their time to live."""
    end = time.monotonic() + ROUND
    while time.monotonic() < end:
        row = connection.execute("SELECT mq_purge_claims()").fetchone()
        if not row or not row[0]:
            break
    connection.execute("SELECT mq_half_purge()")
    connection.execute("SELECT mq_transaction_purge()")
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
