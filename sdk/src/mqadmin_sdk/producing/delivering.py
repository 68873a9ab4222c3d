"""Retries: what meets a temporary fault, back-pressure or a move is sent again, with the same id, until its time is over."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from mqadmin_sdk.errors import ConflictError, InvalidError, MqadminError, TransportError
from mqadmin_sdk.message import SendResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqadmin_sdk.message import Outgoing
    from mqadmin_sdk.producing.topics import Topic
    from mqadmin_sdk.transports import Sent

log = logging.getLogger(__name__)
_PAUSE, _PAUSE_MOST = 0.05, 2.0  # seconds
MOVED = frozenset({"not_on_builtin_store"})  # the store knows of a move before this process does


def deliver(topic: Topic, messages: Sequence[Outgoing], ends: Sequence[float], *, split: bool) -> list[Sent]:
    """Send, again where that may help, and count: a result or an error for each message."""
    attempts = Attempts(topic, messages, ends, split=split)
    began = time.monotonic()
    sent = 0
    try:
        results = attempts.run()
        sent = len([one for one in results if type(one) is SendResult])
    finally:
        topic.count(sent=sent, failed=len(messages) - sent, retried=attempts.retries, seconds=time.monotonic() - began)
    return results


class Attempts:
    """Some messages of one topic, each with the moment (monotonic) when its time is over. `split`: one that is refused spoils no others."""

    def __init__(self, topic: Topic, messages: Sequence[Outgoing], ends: Sequence[float], *, split: bool) -> None:
        self._topic, self._messages, self._ends, self._split = topic, messages, ends, split
        self._results: list[Sent | None] = [None] * len(messages)
        self._last: dict[int, MqadminError] = {}
        self.retries = 0

    def run(self) -> list[Sent]:
        """Return a result or an error for each message."""
        left = list(range(len(self._messages)))
        pause = _PAUSE
        while left := self._in_time(left):
            again, wait = self._once(left)
            if again and (wait is not None or again == left):
                # Whoever waits together must not come back together.
                wait = wait if wait is not None else pause * random.uniform(0.5, 1.5)  # noqa: S311
                pause = min(_PAUSE_MOST, pause * 2)
                over = {i for i in again if self._ends[i] <= time.monotonic() + wait}
                for i in over:  # to wait would not help: say it now
                    self._results[i] = self._last[i]
                again = [i for i in again if i not in over]
                if again:
                    time.sleep(wait)
            self.retries += len(again)
            left = again
        return [one if one is not None else TransportError("nothing became of it") for one in self._results]

    def _in_time(self, left: list[int]) -> list[int]:
        now = time.monotonic()
        if left and min([self._ends[i] for i in left]) > now:
            return left
        for i in left:
            if self._ends[i] <= now:
                self._results[i] = self._last.get(i) or TransportError("its time was over before it could be sent")
        return [i for i in left if self._ends[i] > now]

    def _once(self, left: list[int]) -> tuple[list[int], float | None]:
        """Send once; return what is to be sent again, and how many seconds later: 0 for at once, None where nobody said."""
        ends = min([self._ends[i] for i in left])
        messages = self._messages if len(left) == len(self._messages) else [self._messages[i] for i in left]
        sent: Sequence[Sent]
        shared = None
        try:
            shared = self._topic.use(ends)
            with shared as transport:
                sent = transport.send(self._topic.name, messages, timeout=max(0.05, ends - time.monotonic()))
        except MqadminError as error:
            sent = [error] * len(left)
            if self._split and len(left) > 1 and isinstance(error, InvalidError):
                self._halves(left)
                return [], 0
        if len(left) == len(self._messages) and all([type(one) is SendResult for one in sent]):  # noqa: C419 - quicker so
            self._results = list(sent)
            return [], None
        again: list[int] = []
        waits: list[float] = []
        moved = False
        for i, one in zip(left, sent, strict=True):
            if isinstance(one, SendResult):
                self._results[i] = one
            elif isinstance(one, ConflictError) and one.code in MOVED:
                moved = True
                self._last[i] = one
                again.append(i)
            elif one.permanent:
                self._results[i] = one
            else:
                self._last[i] = one
                again.append(i)
                if one.retry_after is not None:
                    waits.append(one.retry_after)
        if again:
            log.log(
                logging.DEBUG if moved or self.retries else logging.WARNING,  # once is enough
                "topic %s: %d of %d messages are sent again: %s",
                self._topic.name, len(again), len(left), self._last[again[0]],
            )  # fmt: skip
        if moved and shared is not None:
            try:
                self._topic.wait_for_change(shared, ends)
            except MqadminError as error:
                self._last.update(dict.fromkeys(again, error))
                if error.permanent:
                    for i in again:
                        self._results[i] = error
                    return [], None
            return again, 0
        return again, max(waits) if waits else None

    def _halves(self, left: list[int]) -> None:
        """The broker refused all because of one that it does not say: send them in halves."""
        middle = len(left) // 2
        for part in (left[:middle], left[middle:]):
            attempts = Attempts(self._topic, [self._messages[i] for i in part], [self._ends[i] for i in part], split=True)
            for i, one in zip(part, attempts.run(), strict=True):
                self._results[i] = one
            self.retries += attempts.retries
