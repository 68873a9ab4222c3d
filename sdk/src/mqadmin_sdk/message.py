"""What travels: messages to send and received ones, what became of a send, and what a handler may raise."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_NO_HEADERS: Mapping[str, str] = {}

SHADOW_HEADER = "mqadmin-shadow"  # marks the traffic of a stress test; its value is the name of the test
SHADOW: ContextVar[str | None] = ContextVar("mqadmin_shadow", default=None)  # the stress test whose message is being handled now


class _Ids:
    """Ids of messages: random for the process, counted within it. A source of randomness for each would cost as much as the rest."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begin anew: a forked child must not go on with its parent's."""
        self._prefix, self._numbers = secrets.token_hex(12), itertools.count(1)

    def __call__(self) -> str:
        """Return the next one."""
        return f"{self._prefix}{next(self._numbers):08x}"


new_id = _Ids()


def encode(body: Any) -> bytes:
    """Return the bytes of a body: bytes and text as they are, everything else as JSON. Raises TypeError."""
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def seconds(duration: timedelta | float) -> float:
    """Return a duration in seconds. Raises ValueError if it is negative."""
    found = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not found >= 0:
        raise ValueError("a duration is not negative")
    return found


@dataclass(frozen=True)
class Message:
    """A message as a handler gets it.

    `id` is the broker's. `attempt` counts from 1. `tag` is a single tag or several, `paid || urgent`. `sent_at` has a time zone; None
    where the broker does not keep it. `origin_id` is the id that the producer of a delayed message got. `shadow` is the name of the
    stress test that a message of shadow traffic belongs to.
    """

    id: str
    topic: str
    group: str
    body: bytes
    key: str | None = None
    tag: str = ""
    sharding_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    attempt: int = 1
    sent_at: datetime | None = None
    origin_id: str | None = None

    @property
    def text(self) -> str:
        """The body as text. Raises UnicodeDecodeError."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body, read as JSON. Raises ValueError."""
        return json.loads(self.body)

    @property
    def shadow(self) -> str | None:
        """The stress test that it belongs to, if any."""
        return self.headers.get(SHADOW_HEADER)


@dataclass(slots=True)
class Outgoing:
    """A message on its way to a broker. `id` is the producer's own: within a day a broker that knows it stores it once.

    `delay` is in seconds from when the broker takes it, `deliver_at` has a time zone; at most one of them is given.
    """

    body: bytes
    id: str = field(default_factory=new_id)
    key: str | None = None
    tag: str = ""
    sharding_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    delay: float | None = None
    deliver_at: datetime | None = None

    @classmethod
    def of(  # noqa: PLR0917 - keywords in every call
        cls,
        body: Any,
        key: str | None = None,
        tag: str = "",
        sharding_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        id: str | None = None,  # noqa: A002 - the name that the REST interface has
    ) -> Outgoing:
        """Make one from what an application gives; an `Outgoing` is taken as it is. Raises ValueError, TypeError."""
        if isinstance(body, cls):
            return body
        if delay is not None and deliver_at is not None:
            raise ValueError("give either delay or deliver_at")
        if deliver_at is not None and deliver_at.tzinfo is None:
            raise ValueError("deliver_at needs a time zone")
        if headers and not all(isinstance(name, str) and isinstance(value, str) for name, value in headers.items()):
            raise TypeError(f"headers are text with text, not {dict(headers)!r}")
        return cls(  # by position, which takes half of the time
            encode(body),
            new_id() if id is None else id,
            key,
            tag,
            sharding_key,
            _NO_HEADERS if headers is None else headers,
            None if delay is None else seconds(delay),
            deliver_at,
        )

    @property
    def size(self) -> int:
        """Roughly the bytes that it takes on the wire."""
        size = len(self.body) + 200
        return size + sum(len(name) + len(value) for name, value in self.headers.items()) if self.headers else size


class SendResult(NamedTuple):
    """A message that the broker has stored for good.

    `id` is the broker's. `state` delayed: it is delivered at `deliver_at`. `duplicate`: the producer's id was known, so nothing was
    stored again and this is the first result.
    """

    id: str
    topic: str
    cluster: str = ""
    state: Literal["accepted", "delayed", "half", "rolled_back"] = "accepted"
    duplicate: bool = False
    deliver_at: datetime | None = None


class Later(Exception):  # noqa: N818 - an order, not a fault
    """Raised by a handler: not now. The message comes again after `delay` (seconds or a timedelta); it is not counted as an attempt."""

    def __init__(self, delay: timedelta | float | None = None, reason: str = "") -> None:
        super().__init__(reason or "later")
        self.delay = None if delay is None else seconds(delay)
        self.reason = reason


class Dead(Exception):  # noqa: N818 - an order, not a fault
    """Raised by a handler: this message can never be handled. It becomes a dead letter at once, with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
