"""Traffic of stress tests, kept apart from live traffic from the first message to the last.

It carries a header with the name of the test. Whatever is sent while a message of it is handled, or in a `shadow(…)` block, is of the
same test, and goes to shadow topics, or into the same topics under shadow tags. A consumer hands live messages to the live handler and
shadow messages to the shadow handler, and counts what came to the wrong door.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mqadmin_sdk.message import SHADOW, SHADOW_HEADER, Dead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mqadmin_sdk.message import Message, Outgoing

log = logging.getLogger(__name__)


@contextmanager
def shadow(task: str) -> Iterator[None]:
    """Have everything that is sent in this block, on this thread, belong to a stress test.

    `with shadow("stress-1"): client.send(…)`
    """
    token = SHADOW.set(task)
    try:
        yield
    finally:
        SHADOW.reset(token)


class Leaks:
    """Messages that came to the wrong side: `live` shadow messages to a live handler's door, `shadow` live ones to a shadow handler's.

    Neither was handled. `passed_by` are shadow messages in a topic that is shared by design (`apart="tag"`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter({"live": 0, "shadow": 0, "passed_by": 0})

    def count(self, what: str) -> None:
        """One more."""
        with self._lock:
            self.counts[what] += 1

    @property
    def total(self) -> int:
        """What should be 0 when a test has ended."""
        return self.counts["live"] + self.counts["shadow"]


@dataclass(frozen=True)
class Shadowing:
    """How shadow traffic is kept apart; the same for all applications of a test.

    `topic`: what would go to `orders` goes to the topic `shadow_orders`. `tag`: it goes to `orders`, with each of its tags prefixed
    (`shadow_created`; `shadow_` for a message without one), so that groups with a list of tags do not get it; those that take all tags do,
    and their consumers pass it by. Either way the shadow of group `billing` is the group `shadow_billing`; topics and groups are applied
    for in mqadmin like any other.
    """

    apart: Literal["topic", "tag"] = "topic"
    prefix: str = "shadow_"
    leaks: Leaks = field(default_factory=Leaks, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.apart not in {"topic", "tag"} or not self.prefix:
            raise ValueError("apart is topic or tag, and prefix is not empty")

    def group(self, name: str) -> str:
        """The shadow of a group."""
        return self.prefix + name

    def outgoing(self, topic: str, message: Outgoing) -> tuple[str, Outgoing]:
        """Where a message goes that is about to be sent; one that has the header of a stress test goes apart."""
        if SHADOW_HEADER not in message.headers:
            return topic, message
        if self.apart == "topic":
            return (topic if topic.startswith(self.prefix) else self.prefix + topic), message
        tags = [tag.strip() for tag in message.tag.split("||")]
        return topic, replace(message, tag=" || ".join(tag if tag.startswith(self.prefix) else self.prefix + tag for tag in tags))


def live_only(handler: Callable[[Message], object], shadowing: Shadowing) -> Callable[[Message], object]:
    """Keep messages of stress tests from a live handler."""
    leaks = shadowing.leaks

    def handle(message: Message) -> None:
        task = message.headers.get(SHADOW_HEADER) if message.headers else None
        if task is None:
            handler(message)
        elif shadowing.apart == "tag":
            leaks.count("passed_by")
        else:
            leaks.count("live")
            raise Dead(f"a message of the stress test {task} came to the live group")

    return handle


def shadow_only(handler: Callable[[Message], object], task: str, shadowing: Shadowing) -> Callable[[Message], object]:
    """Have a shadow handler work on messages of stress tests only, so that what it sends belongs to the same test."""
    leaks = shadowing.leaks

    def handle(message: Message) -> None:
        of = message.headers.get(SHADOW_HEADER)
        if of is None:
            leaks.count("shadow")
            raise Dead(f"a live message came to the shadow group of the stress test {task}")
        with shadow(of):
            handler(message)

    return handle
