"""A message's life as a timeline, put together from what is stored anyway; nothing is written for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from core.audit.models import AuditEntry
from messages.broadcast import owners
from messages.db import fetch
from messages.models import Redrive
from messages.names import group_names, topic_name
from messages.types import StoredMessage

Word = Literal[
    "sent", "prepared", "committed", "delayed", "rescheduled", "promoted", "due", "pulled", "failed", "lease_expired", "retry", "dead",
    "given_up", "redriven", "redriven_from", "succeeded",
]  # fmt: skip
WORDS: tuple[str, ...] = get_args(Word)


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """What happened when: in which group, by whose hands, to which try; `message` is the other one of a redrive."""

    at: datetime
    event: Word
    group: str | None = None
    consumer: str | None = None
    attempt: int | None = None
    detail: str | None = None
    by: str | None = None
    message: int | None = None
    topic: str | None = None
    operation: str | None = None
    group_id: int | None = None
    instance: str | None = None  # of a broadcast group


def trace(message: StoredMessage) -> list[TraceEvent]:
    """Oldest first, what is still to come at the end."""
    found = {*_beginning(message), *_by_hand(message)}
    if message.state == "accepted":
        rows = fetch("SELECT * FROM mq_trace(%s::bigint, %s::bigint)", (message.topic_id, message.id))
        owned = owners(row[0] for row in rows)
        names = group_names({row[0] for row in rows})
        found |= {
            TraceEvent(row[1], row[2], names[row[0]], row[3], row[4], row[5], **_whose(row[0], owned))
            for row in rows
            if row[0] >= 0 or row[0] in owned
        }
        found |= set(_redrives(message))
    return sorted(found, key=lambda event: (event.at, WORDS.index(event.event), event.group or "", event.instance or ""))


def _beginning(message: StoredMessage) -> Iterator[TraceEvent]:
    asked = "SELECT prepared_at, decided_at, decided_by, deliver_at FROM mq_half WHERE id = %s::bigint"
    half = fetch(asked, (message.origin_id or message.id,))
    if half:
        prepared, decided, by, due = half[0]
        yield TraceEvent(prepared, "prepared", topic=message.topic)
        if decided is not None:
            yield TraceEvent(decided, "committed", by=by)
        if due is not None and message.state == "delayed":
            yield TraceEvent(decided or prepared, "delayed")
            yield TraceEvent(due, "due")
        elif due is not None and decided is not None and due > decided:
            yield TraceEvent(decided, "delayed")
            yield TraceEvent(message.sent_at, "promoted")
        return
    if message.origin_id is not None:
        at: datetime = fetch("SELECT mq_time_of(%s::bigint)", (message.origin_id,))[0][0]
        yield TraceEvent(at, "sent", topic=message.topic)  # its id tells the second
        yield TraceEvent(at, "delayed")
        yield TraceEvent(message.sent_at, "promoted")
        return
    yield TraceEvent(message.sent_at, "sent", topic=message.topic)
    if message.deliver_at is not None:
        yield TraceEvent(message.sent_at, "delayed")
        yield TraceEvent(message.deliver_at, "due")


def _by_hand(message: StoredMessage) -> Iterator[TraceEvent]:
    """Moved by a person, one by one, while it was delayed; what an operation moved, its own page tells."""
    moved = AuditEntry.objects.filter(kind="delayed message", name=str(message.origin_id or message.id), action="reschedule")
    for entry in moved.order_by("id")[:50]:
        yield TraceEvent(entry.at, "rescheduled", by=entry.actor_name, detail=str((entry.after or {}).get("deliver_at", "")))


def _whose(store_id: int, owned: Mapping[int, tuple[int, str]]) -> dict[str, Any]:
    group_id, instance = owned.get(store_id, (store_id, None))
    return {"group_id": group_id, "instance": instance}


def _redrives(message: StoredMessage) -> Iterator[TraceEvent]:
    """Where it went from a group, and where it came from."""
    here = fetch("SELECT group_id FROM mq_cursor WHERE topic_id = %s::bigint", (message.topic_id,))
    rows: Any = Redrive.objects.select_related("actor", "operation")
    went = list(rows.filter(group_id__in=[row[0] for row in here], message_id=message.id).order_by("id")[:100])
    came = list(rows.filter(new_id=message.id)[:1])
    owned = owners(row.group_id for row in went + came)
    names = group_names({row.group_id for row in went + came})
    told: list[tuple[Redrive, Word, int | None]] = [(row, "redriven", row.new_id) for row in went]
    told += [(row, "redriven_from", row.message_id) for row in came]
    for row, event, other in told:
        yield TraceEvent(
            at=row.at,
            event=event,
            group=names[row.group_id],
            by=row.actor.get_username() if row.actor else None,
            message=other,
            topic=topic_name(row.new_topic_id) if row.new_topic_id is not None and event == "redriven" else None,
            operation=str(row.operation.uid) if row.operation else None,
            **_whose(row.group_id, owned),
        )
