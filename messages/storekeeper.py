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
ELECTION = 1.0  # between two tries to become the active one
LEADER_LOCK = 7310000  # session-level advisory lock


@dataclass(slots=True)
class _Chore:
    every: float
    work: Callable[[psycopg.Connection[Any]], None]
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
        upkeep(connection)  # before the first tick: ids must not leave the partitions
        chores = [_Chore(CUT, cut), _Chore(UPKEEP, upkeep), _Chore(UPKEEP, drop_promoted), _Chore(CUT, purge)]
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
                    chore.work(connection)
                    chore.next_at = self._clock() + chore.every
            self._stop.wait(TICK if now - moved_at < 1.0 else TICK_IDLE)


def cut(connection: psycopg.Connection[Any]) -> None:
    """Cut the cumulative counters at the horizon where a topic has grown."""
    for _round in range(50):
        row = connection.execute("SELECT mq_cut()").fetchone()
        if not row or not row[0]:
            return


def purge(connection: psycopg.Connection[Any]) -> None:
    """Forget producers' ids after their time to live."""
    connection.execute("SELECT mq_purge_claims()")


def upkeep(connection: psycopg.Connection[Any]) -> None:
    """Make the partitions that are missing ahead, one short transaction each; a lock that is taken means: next time."""
    for _step in range(200):
        try:
            row = connection.execute("SELECT mq_upkeep()").fetchone()
        except psycopg.errors.LockNotAvailable:
            log.info("a partition waits for a lock; trying again")
            continue
        if not row or row[0] is None:
            return
        log.info("partition made", partition=row[0])


def drop_promoted(connection: psycopg.Connection[Any]) -> None:
    """Drop the partitions of delayed messages whose time is over and that are empty: cheaper than vacuuming them."""
    rows = connection.execute(
        "SELECT p.partition::text, i.inhdetachpending FROM mq_partitions('mq_delayed') p JOIN pg_inherits i ON i.inhrelid = p.partition"
        " WHERE p.hi::timestamptz < clock_timestamp() - interval '7 days'"
    ).fetchall()
    for name, half_detached in rows:
        table = sql.Identifier(name)
        if connection.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(table)).fetchone() != (True,):
            continue
        try:
            connection.execute("SET lock_timeout = '500ms'")
            # A lock that did not come in time, or a kill, leaves it half detached; that can only be finished, not begun again.
            how = sql.SQL("FINALIZE" if half_detached else "CONCURRENTLY")
            connection.execute(sql.SQL("ALTER TABLE mq_delayed DETACH PARTITION {} {}").format(table, how))
            connection.execute(sql.SQL("DROP TABLE {}").format(table))
            log.info("partition dropped", partition=name)
        except psycopg.errors.LockNotAvailable:
            log.info("an old partition is in use; trying again later", partition=name)
        finally:
            connection.execute("RESET lock_timeout")
