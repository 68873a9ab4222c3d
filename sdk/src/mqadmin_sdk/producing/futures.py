"""The future of an asynchronous send, light enough to be made for each message."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.message import SendResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mqadmin_sdk.message import Outgoing
    from mqadmin_sdk.producing.topics import Topic

log = logging.getLogger(__name__)


class Sending(Future["SendResult"]):
    """A message that waits to be sent, until `ends` on the monotonic clock, and the future of its result.

    The lock and the lists of a Future cost more than all the rest of a message, above all in garbage collections, and most futures are
    asked when they are done, or never. So it becomes a Future in full when something first needs that (`__getattr__`). Of a message that
    is sent `one_way` nobody has the future, and the log says what went wrong.
    """

    __slots__ = ("begun", "ends", "full", "message", "one_way", "outcome", "size", "topic")

    def __init__(self, topic: Topic, message: Outgoing, ends: float, *, one_way: bool = False) -> None:
        self.topic, self.message, self.ends = topic, message, ends
        self.size = message.size
        self.outcome: SendResult | BaseException | None = None
        self.one_way, self.begun, self.full = one_way, False, False

    def result(self, timeout: float | None = None) -> SendResult:
        """As of every Future."""
        outcome = self.outcome
        return outcome if isinstance(outcome, SendResult) else super().result(timeout)

    def done(self) -> bool:
        """As of every Future."""
        return self.outcome is not None or super().done()

    def __getattr__(self, name: str) -> Any:
        with _making.lock:
            if not self.full:
                plain: Future[SendResult] = Future()
                if self.begun:
                    plain.set_running_or_notify_cancel()
                if self.outcome is not None:
                    _tell(plain, self.outcome)
                vars(self).update(vars(plain))  # at once: nobody sees half of it
                self.full = True
        return object.__getattribute__(self, name)


class _Making:
    """The lock between those who ask and those who settle: held for moments, and one for all."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begin anew in a forked child: another thread of the parent may have held it."""
        self.lock = threading.Lock()


_making = _Making()


def begin(sendings: Sequence[Sending]) -> list[Sending]:
    """Take them as under way, and return those that were not cancelled before."""
    with _making.lock:  # and none of theirs within: whoever waits for several holds theirs and may want this one
        full = [one.full for one in sendings]
        for one in sendings:
            one.begun = True
    return [one for one, asked in zip(sendings, full, strict=True) if not asked or one.set_running_or_notify_cancel()]


def settle(sendings: Sequence[Sending], outcomes: Iterable[SendResult | BaseException]) -> None:
    """Give each its outcome, and tell those who wait for it."""
    asked: list[tuple[Sending, SendResult | BaseException]] = []
    lost: list[tuple[Sending, BaseException]] = []
    with _making.lock:
        for one, outcome in zip(sendings, outcomes, strict=True):
            del one.message  # whoever keeps the future keeps no body
            if one.full:
                asked.append((one, outcome))
            else:
                one.outcome = outcome
            if one.one_way and not isinstance(outcome, SendResult):
                lost.append((one, outcome))
    for one, outcome in asked:
        _tell(one, outcome)
    for one, outcome in lost:
        log.error("topic %s: a one-way message was not sent: %s", one.topic.name, outcome)


def _tell(future: Future[SendResult], outcome: SendResult | BaseException) -> None:
    if isinstance(outcome, SendResult):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
