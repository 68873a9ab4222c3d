"""Back-pressure of topics: sends are refused while as many messages wait for one of the topic's groups as its ceiling allows.

Counting before each send would cost more than the send. So a process counts (from the store's counters, a few probes) at most once a
second and topic, and only for topics with a ceiling; what it sends meanwhile it subtracts. A topic can so get beyond its ceiling by
what all web processes together send in a second, and by the rest of a batch that began below it.
"""

import threading
from dataclasses import dataclass
from time import monotonic

from django.utils.translation import gettext as _

from core.errors import Problem
from messages.db import fetch

FRESH = 1.0  # seconds that a count is gone by
RETRY_AFTER = "1"


@dataclass(slots=True)
class _Room:
    until: float
    ceiling: int
    left: int


_rooms: dict[int, _Room] = {}
_lock = threading.Lock()


def admit(*, topic_id: int, ceiling: int, messages: int) -> None:
    """Let a send of so many messages pass, or refuse it; 0 is no ceiling. Problem: backlog_full (429)."""
    if not ceiling or not messages:
        return
    with _lock:
        room = _rooms.get(topic_id)
        old = room is None or room.until <= monotonic() or room.ceiling != ceiling
        if old and room is not None:
            room.until = monotonic() + FRESH  # this thread counts, the others go by the old number meanwhile
    if room is None or old:
        room = _Room(monotonic() + FRESH, ceiling, ceiling - backlog(topic_id=topic_id))
    with _lock:
        if old:
            if len(_rooms) > 10_000:
                _rooms.clear()
            _rooms[topic_id] = room
        full = room.left <= 0
        if not full:
            room.left -= messages
    if full:
        raise Problem(
            "backlog_full",
            _("The topic's backlog is at its ceiling: {n} messages wait for one of its groups.").format(n=f"{ceiling - room.left:,}"),
            status=429,
            hint=_("Send again when its groups have caught up, or raise the topic's max_backlog, {n} now.").format(n=f"{ceiling:,}"),
            extra={"ceiling": "max_backlog", "limit": ceiling},
            headers={"Retry-After": RETRY_AFTER},
        )


def backlog(*, topic_id: int) -> int:
    """What waits for the group of the topic that is furthest behind."""
    rows: list[tuple[int]] = fetch("SELECT mq_topic_backlog(%s::bigint)", (topic_id,))
    return rows[0][0]


def too_many_outstanding(*, group_id: int) -> Problem:
    """The refusal of a pull of a group that has as many messages in its workers' hands as it may."""
    rows: list[tuple[int]] = fetch("SELECT max_outstanding FROM mq_group WHERE group_id = %s::bigint", (group_id,))
    ceiling = rows[0][0] if rows else 0
    return Problem(
        "too_many_outstanding",
        _("The group is at its ceiling of outstanding messages: {n} are in its workers' hands.").format(n=f"{ceiling:,}"),
        status=429,
        hint=_("Settle some, wait for the leases of lost workers to expire, or raise the group's max_outstanding."),
        extra={"ceiling": "max_outstanding", "limit": ceiling},
        headers={"Retry-After": RETRY_AFTER},
    )
