"""The machinery below registries, leaders and jobs: one session and two threads, which bring the parts up to date again and again.

Everything is level-triggered: an event only says what to look at, and after a reconnection everything is looked at.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import signal
import threading
import time
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, SessionExpiredError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState

from mqadmin_sdk.registry.contract import RegistryClosedError, RegistryUnavailableError
from mqadmin_sdk.zk import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.zk import Access
    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)
T = TypeVar("T")

DISCONNECTED: Final = (ConnectionLoss, SessionExpiredError, ConnectionClosedError, KazooTimeoutError)
#: Seconds that a process which gets SIGTERM takes at most to say goodbye.
GOODBYE: Final = 3.0
_AGAIN_AFTER: Final = 0.5  # seconds, when something failed that is no lost connection


class Part:
    """Something that is kept up to date on the keeper's thread, and only there unless a method says otherwise."""

    def connected(self) -> None:
        """A connection, perhaps a new session: look at everything again."""

    def suspended(self) -> None:
        """On kazoo's connection thread, at once when the connection is lost: set flags, nothing more."""

    def catch_up(self, client: ZooKeeper) -> None:
        """Do what is due. What a lost connection leaves undone has to be due still."""

    def due(self) -> float | None:
        """Return when it has to be called even if nothing happens, by the monotonic clock."""
        return None

    def leave(self, client: ZooKeeper) -> None:
        """Say goodbye; the connection stands."""

    def ended(self) -> None:
        """It is over, with or without a goodbye: let nobody wait for it."""

    def forked(self) -> None:
        """In a forked child: the session is another one, and the threads are."""


class Keeper:
    """One for an address and a process, shared by what uses it (`acquire`, `release`)."""

    def __init__(self, hosts: str, *, session_timeout: float = 10.0, access: Access | None = None) -> None:
        self.hosts = hosts
        self._connection = PerProcess(
            hosts, timeout=session_timeout, prepare=lambda client: client.add_listener(self._on_state), access=access
        )
        self.parts: list[Part] = []
        self._began = 0.0
        self.closed = False
        self._reset()
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(myself))

    # --- for any thread ---------------------------------------------------------------------------------------------------

    def call(self, run: Callable[[], T]) -> Future[T]:
        """Run something on the keeper's thread, and then bring everything up to date."""
        if self.closed:
            raise RegistryClosedError("it is closed")
        self._start()
        future: Future[T] = Future()

        def task() -> None:
            try:
                future.set_result(run())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                future.set_exception(error)

        self._inbox.put(task)
        return future

    def post(self, run: Callable[[], object]) -> None:
        """Like `call` for callbacks of kazoo, which wait for nothing."""
        self._inbox.put(run)

    def add(self, part: Part) -> None:
        """Keep this part up to date from now on."""
        self.call(lambda: self.parts.append(part))

    def remove(self, part: Part, *, timeout: float = 10.0) -> None:
        """Keep a part no longer, and let it say goodbye, now or when there is a connection."""

        def gone() -> None:
            if part in self.parts:
                self.parts.remove(part)
                self._leaving += self._say_goodbye([part])

        with contextlib.suppress(RegistryClosedError, FutureTimeout):
            future = self.call(gone)
            if threading.current_thread() not in self._threads[:1]:
                future.result(timeout)

    def poke(self) -> None:
        """Have a look at everything that is due."""
        self.post(_nothing)

    def later(self, run: Callable[[], object]) -> None:
        """Run a callback on the thread for callbacks, one after another."""
        self._work.put(run)

    @property
    def client(self) -> ZooKeeper:
        """This process's client, connected or not."""
        return self._connection.get()

    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return not self.closed and bool(self._threads) and bool(self.client.connected)

    def reached(self, timeout: float) -> ZooKeeper:
        """Return the client with a connection. Raises RegistryUnavailableError when it has been without for `timeout` seconds."""
        if self.closed:
            raise RegistryClosedError("it is closed")
        self._start()
        client = self.client
        if not client._live.wait(max(0.0, self._began + timeout - time.monotonic())):  # noqa: SLF001 - kazoo's own event for it
            why = f" ({client.trouble})" if client.trouble else ""
            raise RegistryUnavailableError(f"ZooKeeper at {self.hosts} was not reached within {timeout:g} s{why}")
        return client

    def close(self) -> None:
        """Say goodbye and end the session. A callback that is running is waited for."""
        if self.closed:
            return
        self.closed = True
        if not self._threads:
            return
        self._inbox.put(_nothing)
        self._work.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=10)
        self._connection.close()

    def leave_now(self, seconds: float) -> None:
        """Say goodbye from a signal handler: no lock is taken that the interrupted thread may hold."""
        self.closed = True
        if self._threads:
            self._inbox.put(_nothing)
            self._left.wait(seconds)

    # --- its threads ------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._left = threading.Event()
        self._again_at: float | None = None
        self._leaving: list[Part] = []

    def after_fork(self) -> None:
        """Begin anew in a child; nothing starts before it is used."""
        self._reset()
        for part in self.parts:
            part.forked()
        if self.parts and not self.closed:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if not self._threads and not self.closed:
                self._began = time.monotonic()
                for name, run in (("registry", self._run), ("registry-callbacks", self._callbacks)):
                    thread = threading.Thread(target=run, name=f"mqadmin-{name}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _callbacks(self) -> None:
        work = self._work
        while (run := work.get()) is not None:
            try:
                run()
            except Exception:
                log.exception("A callback of the registry failed")

    def _run(self) -> None:
        inbox = self._inbox
        try:
            self._connection.get()
            while True:
                with contextlib.suppress(queue.Empty):
                    self._do(inbox.get(timeout=self._patience()))
                    while True:
                        self._do(inbox.get_nowait())
                if self.closed:
                    self._say_goodbye([*self._leaving, *self.parts])
                    return
                self._catch_up()
        finally:
            self._left.set()

    @staticmethod
    def _do(run: Callable[[], object]) -> None:
        try:
            run()
        except Exception:
            log.exception("An event of the registry could not be handled")

    def _patience(self) -> float | None:
        times = [moment for part in self.parts if (moment := part.due()) is not None] if self._again_at is None else [self._again_at]
        if not times:
            return None
        return max(0.0, min(times) - time.monotonic()) if self.client.connected else 1.0

    def _catch_up(self) -> None:
        if self._again_at is not None:
            if time.monotonic() < self._again_at:
                return
            self._again_at = None
        client = self.client
        if self._leaving and client.connected:
            self._leaving = self._say_goodbye(self._leaving)  # others keep the session alive, and with it what was left behind
        for part in list(self.parts):
            if not client.connected:
                return  # a connection makes everything due
            try:
                part.catch_up(client)
            except DISCONNECTED:
                # The session may live on: a time-out of one request, a connection that was back before this was noticed.
                self._again_at = time.monotonic() + 0.05
            except Exception:
                log.exception("%s failed; it is tried again", type(part).__name__)
                self._again_at = time.monotonic() + _AGAIN_AFTER

    def _say_goodbye(self, parts: list[Part]) -> list[Part]:
        """Return those that could not say it: without a connection, and unless that comes back the session's end says it."""
        left = []
        client = self.client
        for part in parts:
            part.ended()
            try:
                if client.connected:
                    part.leave(client)
                else:
                    left.append(part)
            except DISCONNECTED:
                left.append(part)
            except Exception:
                log.exception("%s could not say goodbye", type(part).__name__)
        return left

    def _connected(self) -> None:
        for part in self.parts:
            part.connected()

    def _on_state(self, state: str) -> None:
        """Kazoo's connection thread: flags, and only enqueue."""
        if state == KazooState.CONNECTED:
            self.post(self._connected)
        else:
            self._began = time.monotonic()
            for part in list(self.parts):
                part.suspended()
            self.poke()


# --- one for an address ---------------------------------------------------------------------------------------------------

_keepers: dict[tuple[Any, ...], tuple[Keeper, int]] = {}
_lock = threading.Lock()


def acquire(hosts: str, *, session_timeout: float = 10.0, access: Access | None = None) -> Keeper:
    """Return the process's keeper for an address, to be given back by `release`."""
    with _lock:
        key = (hosts, session_timeout, access)
        keeper, users = _keepers.get(key, (None, 0))
        if keeper is None or keeper.closed:
            keeper, users = Keeper(hosts, session_timeout=session_timeout, access=access), 0
        _keepers[key] = (keeper, users + 1)
    _hear_sigterm()
    return keeper


def release(keeper: Keeper) -> None:
    """Give a keeper back; with its last user its session ends."""
    with _lock:
        found = [key for key, (one, _) in _keepers.items() if one is keeper]
        if not found:
            return
        users = _keepers[found[0]][1] - 1
        if users:
            _keepers[found[0]] = (keeper, users)
            return
        del _keepers[found[0]]
    keeper.close()


def _nothing() -> None:
    pass


def _forked(myself: weakref.ref[Keeper]) -> None:
    if (keeper := myself()) is not None:
        keeper.after_fork()


def _forked_here() -> None:
    global _lock  # noqa: PLW0603 - it may have been held in the parent
    _lock = threading.Lock()


def _hear_sigterm() -> None:
    """Have SIGTERM say goodbye first, where the application leaves it to the system; one with a handler of its own exits by itself."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _frame: object) -> None:
    until = time.monotonic() + GOODBYE
    for keeper, _users in list(_keepers.values()):
        keeper.leave_now(max(0.0, until - time.monotonic()))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    if os.getpid() == 1:  # the system spares the first process of a container
        os._exit(128 + number)


def _on_exit() -> None:
    for keeper, _users in list(_keepers.values()):
        keeper.close()


atexit.register(_on_exit)
os.register_at_fork(after_in_child=_forked_here)
