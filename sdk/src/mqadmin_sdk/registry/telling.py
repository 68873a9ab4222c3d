"""What one listener has been told, and what it is still to be told: only the last state of each thing counts."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")
log = logging.getLogger(__name__)


class Teller(Generic[K, V]):
    """A listener; `put` and `deliver` may be called by different threads."""

    def __init__(self, listener: Callable[[V], object], what: str) -> None:
        self.listener, self._what = listener, what
        self.closed = False
        self.begin_anew()

    def begin_anew(self) -> None:
        """At first, and in a forked child, where the listener is told everything again."""
        self.first: Future[None] = Future()  # done when there is something to deliver
        self._lock = threading.Lock()
        self._delivering = threading.RLock()  # a listener may subscribe and unsubscribe
        self._current: dict[K, V] = {}
        self._delivered: dict[K, V] = {}

    def put(self, key: K, value: V) -> bool:
        """Take a state; True if there is something to deliver."""
        with self._lock:
            if self._current.get(key) == value:
                return False
            self._current[key] = value
            return not self.closed

    def state(self) -> dict[K, V]:
        """Return what was put last."""
        with self._lock:
            return dict(self._current)

    def deliver(self) -> None:
        """Tell the listener what it does not know; when it raises, the error is logged and it is told again at the next change."""
        with self._delivering:
            while True:
                with self._lock:
                    news = {} if self.closed else {key: one for key, one in self._current.items() if self._delivered.get(key) != one}
                    self._delivered.update(news)
                if not news:
                    return
                for one in news.values():
                    if self.closed:
                        return
                    try:
                        self.listener(one)
                    except Exception:
                        log.exception("A listener of %s failed", self._what)

    def forget(self, keys: list[K]) -> None:
        """Forget what is gone, once the listener knows."""
        with self._lock:
            for key in keys:
                if key in self._current and self._delivered.get(key) == self._current[key]:
                    del self._current[key], self._delivered[key]
