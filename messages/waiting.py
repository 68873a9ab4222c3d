"""Waiting for messages: a thread parks on an event without a database connection; one LISTEN connection per process wakes it.

The storekeeper's ticks notify when the horizon has moved. The listener then asks, in one statement for all waiting groups and another
for the workers of sticky groups, each of which waits as itself, who has something to pull, and wakes ONE thread per group: 500 would
only queue for the group's lock. A poll catches what no tick announces (a retry that becomes due) and what a lost connection has missed.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import structlog
from django.conf import settings
from django.db import connections

POLL = 0.5  # seconds between two looks without a notification
HOLD = 0.05  # seconds in which a woken thread pulls before another of its group is woken: 500 would queue for one lock
RETRY = 1.0  # seconds before a lost connection is opened anew
CHANNEL = "mq_horizon"

log = structlog.get_logger(__name__)


class FullError(Exception):
    """As many threads as may wait do so already."""


class Worker(NamedTuple):
    """Who waits in the place of its group, if the group is a sticky one."""

    worker_id: int


class _Waiter:
    __slots__ = ("event", "woken")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.woken = False


class Lobby:
    """The parked threads of one process and the thread that wakes them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[int | Worker, deque[_Waiter]] = {}
        self._parked = 0
        self._woken_at: dict[int | Worker, float] = {}
        self._closed = False
        self._listener: threading.Thread | None = None
        self._bell, self._push = socket.socketpair()
        self._bell.setblocking(False)
        self._push.setblocking(False)

    @property
    def parked(self) -> int:
        """How many threads wait."""
        return self._parked

    def wait(self, group_id: int | Worker, timeout: float) -> bool:
        """Park until the group has something to pull; False after `timeout` seconds and when the lobby closes; FullError if it is full."""
        waiter = _Waiter()
        with self._lock:
            if self._closed:
                return False
            if self._parked >= self.capacity:
                raise FullError
            self._parked += 1
            self._waiting.setdefault(group_id, deque()).append(waiter)
            if self._listener is None or not self._listener.is_alive():
                self._listener = threading.Thread(target=self._listen, name="mq-listener", daemon=True)
                self._listener.start()
        self._ring()  # something may have come between the caller's empty pull and now
        waiter.event.wait(timeout)
        with self._lock:
            self._parked -= 1
            queue = self._waiting.get(group_id)
            if queue is not None:
                with contextlib.suppress(ValueError):
                    queue.remove(waiter)
                if not queue:
                    del self._waiting[group_id]
        return waiter.woken

    def close(self) -> None:
        """Wake all, for good: the process ends. Safe in a signal handler: takes no lock, so it cannot wait for the thread it interrupts."""
        self._closed = True
        self._ring()
        for queue in list(self._waiting.values()):
            for waiter in list(queue):
                waiter.event.set()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # a full pipe rings already
            self._push.send(b"!")

    def _who(self) -> tuple[list[int], list[int]]:
        with self._lock:
            workers = [who.worker_id for who in self._waiting if isinstance(who, Worker)]
            return [who for who in self._waiting if not isinstance(who, Worker)], workers

    def _wake(self, group_ids: list[int | Worker]) -> float:
        """Wake one thread per ready group or worker; returns after how many seconds to look again."""
        now = time.monotonic()
        again = POLL
        with self._lock:
            self._woken_at = {g: at for g, at in self._woken_at.items() if now - at < HOLD}
            for group_id in group_ids:
                queue = self._waiting.get(group_id)
                if queue and group_id in self._woken_at:
                    again = HOLD
                elif queue:
                    self._woken_at[group_id] = now
                    waiter = queue.popleft()
                    waiter.woken = True
                    waiter.event.set()
                    again = HOLD if queue else again
        return again

    def _listen(self) -> None:
        while not self._closed:
            try:
                with connect() as connection:
                    connection.add_notify_handler(_heard)
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._serve(connection)
            except psycopg.Error as error:
                log.warning("waiting pulls poll by themselves: no LISTEN connection", error=str(error).strip())
                self._pause(RETRY)

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        idle = 0
        while not self._closed:
            again = POLL
            groups, workers = self._who()
            if groups or workers:
                idle = 0
                ready: list[int | Worker] = []
                if groups:
                    ready += [row[0] for row in connection.execute("SELECT * FROM mq_ready(%s::bigint[])", (groups,))]
                if workers:
                    ready += [Worker(row[0]) for row in connection.execute("SELECT * FROM mq_workers_ready(%s::bigint[])", (workers,))]
                again = self._wake(ready)
            else:
                idle += 1
                if idle > 120:  # nobody has waited for a minute: give the connection back
                    with self._lock:
                        if not self._waiting:
                            self._listener = None
                            return
            readable, _w, _x = select.select([self._bell.fileno(), connection.fileno()], [], [], again)
            if self._bell.fileno() in readable:
                self._drain()
            if connection.fileno() in readable:
                connection.execute("SELECT 1")  # reads what has come, notifications included

    def _pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass


def connect() -> psycopg.Connection[Any]:
    """A connection of its own, outside Django's pool, in autocommit."""
    params = connections["default"].get_connection_params()
    for name in ("context", "cursor_factory", "prepare_threshold", "pool"):
        params.pop(name, None)
    return psycopg.connect(**params, autocommit=True)


def _heard(_notice: psycopg.Notify) -> None:
    """Being woken says it all; without a handler psycopg would keep every notification for ever."""


_lobby: Lobby | None = None
_making = threading.Lock()


def lobby() -> Lobby:
    """The lobby of this process; a forked child gets one of its own."""
    global _lobby  # noqa: PLW0603 - one per process is the point
    with _making:
        if _lobby is None or _lobby.pid != os.getpid():
            _lobby = Lobby(settings.MAX_WAITING_PULLS)
        return _lobby


def wait(group_id: int | Worker, timeout: float) -> bool:
    """Park this thread until the group, or the worker of a sticky one, may have something to pull.

    True: pull now. False: `timeout` seconds are over, or the process ends. FullError: too many threads wait already. Give the
    thread's database connection back before.
    """
    return lobby().wait(group_id, timeout)


def close() -> None:
    """Wake all waiting threads of this process, for good."""
    if _lobby is not None and _lobby.pid == os.getpid():
        _lobby.close()


def wake_on_signals(*further: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT wake all waiting threads before the server's own handler, which is set later (Granian's worker).

    What else parks threads is woken by `further`.
    """
    original = signal.signal

    def chained(number: int, handler: Any) -> Any:
        if number not in {signal.SIGTERM, signal.SIGINT} or not callable(handler):
            return original(number, handler)

        def wake_first(received: int, frame: Any) -> Any:
            close()
            for wake in further:
                wake()
            return handler(received, frame)

        return original(number, wake_first)

    signal.signal = chained  # type: ignore[assignment]
