"""Half messages: stored before the application's own transaction, delivered after it, thrown away when it fails."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk.errors import ConflictError, MqadminError, UnsupportedError
from mqadmin_sdk.message import Outgoing, SendResult
from mqadmin_sdk.producing.delivering import MOVED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta
    from types import TracebackType

    from typing_extensions import Self

    from mqadmin_sdk.producing.pool import Shared
    from mqadmin_sdk.producing.producer import Producer
    from mqadmin_sdk.producing.topics import Topic
    from mqadmin_sdk.transports import HalfMessage, TransactionalTransport

log = logging.getLogger(__name__)
_PAUSE_MOST = 2.0  # seconds
Decision = Literal["commit", "rollback", "unknown"]


class UndecidedError(MqadminError):
    """The block of a transaction has ended, and not all of its half messages could be committed in time.

    Nothing is lost: `undecided` are open, and mqadmin asks the application what became of them (its check-back, or `check_back`).
    """

    permanent = False

    def __init__(self, undecided: list[SendResult], cause: BaseException) -> None:
        self.undecided = undecided
        super().__init__(f"{len(undecided)} half messages could not be committed: {cause}")


class Transaction:
    """Half messages of one or more topics. A context manager: they are committed when its block ends, rolled back when it raises.

    Each is committed by itself: together with the application's own transaction they are delivered at least once, not at one moment.
    """

    def __init__(self, producer: Producer, topic: str, *, check_after: float | None, timeout: float) -> None:
        self._producer, self._topic = producer, topic
        self._check_after, self._timeout = check_after, timeout
        self._halves: list[tuple[Shared, SendResult]] = []
        self._state: Literal["new", "open", "ended"] = "new"

    def send(
        self,
        body: Any,
        *,
        key: str | None = None,
        tag: str = "",
        sharding_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        id: str | None = None,  # noqa: A002 - the name that the REST interface has
        topic: str | None = None,
    ) -> SendResult:
        """Store a half message, to the transaction's topic or another one. Arguments and errors are those of `Client.send`."""
        if self._state != "open":
            raise RuntimeError("a transaction sends within its `with` block")
        message = Outgoing.of(body, key=key, tag=tag, sharding_key=sharding_key, headers=headers, delay=delay, deliver_at=deliver_at, id=id)
        followed, message = self._producer.intercepted(topic or self._topic, message)
        shared, half = _prepare(followed, message, self._check_after, time.monotonic() + self._timeout)
        self._halves.append((shared, half))
        return half

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a transaction is used once")
        self._state = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._state = "ended"
        try:
            if error is None:
                self._commit()
            else:
                self._roll_back()
        finally:
            for shared, _half in self._halves:
                shared.release()

    def _commit(self) -> None:
        ends = time.monotonic() + self._timeout
        for i, (shared, half) in enumerate(self._halves):
            try:
                _decide(shared, half, "commit", ends)
            except MqadminError as error:
                raise UndecidedError([one for _shared, one in self._halves[i:]], error) from error

    def _roll_back(self) -> None:
        ends = time.monotonic() + self._timeout
        for shared, half in self._halves:
            try:
                _decide(shared, half, "rollback", ends)
            except MqadminError as error:  # the block's own error is the one to be raised
                log.warning("topic %s: half message %s is not rolled back, mqadmin will ask about it: %s", half.topic, half.id, error)


def check_back(topic: Topic, judge: Callable[[HalfMessage], Decision], *, limit: int, timeout: float) -> int:
    """Ask for the topic's half messages that wait for a decision, and decide them; return how many were decided."""
    ends = time.monotonic() + timeout
    decided = 0
    shared = topic.use(ends)
    with shared:
        found: list[HalfMessage] = _repeated(ends, lambda: _transactional(shared).undecided(topic.name, limit=limit, timeout=_left(ends)))
        for half in found:
            decision = judge(half)
            if decision == "unknown":
                continue
            try:
                _decide(shared, half.half, decision, ends)
            except ConflictError as error:  # somebody was faster, and decided otherwise
                log.warning("topic %s: half message %s: %s", topic.name, half.half.id, error)
            else:
                decided += 1
    return decided


def _prepare(topic: Topic, message: Outgoing, check_after: float | None, ends: float) -> tuple[Shared, SendResult]:
    """Store a half message; the transport that has it is held, since no other one can decide it."""
    while True:
        shared = topic.use(ends)
        try:
            half = _repeated(
                ends,
                lambda: _transactional(shared).prepare(topic.name, message, check_after=check_after, timeout=_left(ends)),  # noqa: B023
            )
        except ConflictError as error:
            if error.code not in MOVED:
                raise
            topic.wait_for_change(shared, ends)
        else:
            return shared.hold(), half
        finally:
            shared.release()


def _decide(shared: Shared, half: SendResult, decision: Literal["commit", "rollback"], ends: float) -> None:
    _repeated(ends, lambda: _transactional(shared).decide(half, decision, timeout=_left(ends)))


def _transactional(shared: Shared) -> TransactionalTransport:
    transport: Any = shared.transport
    if not hasattr(transport, "prepare"):
        raise UnsupportedError(f"cluster {shared.key[0]} is {shared.key[1]}, which knows no half messages")
    return transport  # type: ignore[no-any-return]


def _left(ends: float) -> float:
    return max(0.05, ends - time.monotonic())


def _repeated(ends: float, do: Callable[[], Any]) -> Any:
    """Do it, again after a temporary error, until the time is over."""
    pause = 0.05
    while True:
        try:
            return do()
        except MqadminError as error:
            wait = error.retry_after if error.retry_after is not None else pause * random.uniform(0.5, 1.5)  # noqa: S311
            if error.permanent or time.monotonic() + wait >= ends:
                raise
        time.sleep(wait)
        pause = min(_PAUSE_MOST, pause * 2)
