"""What people do to messages by hand: the store's verbs with an audit entry in the same transaction."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from accounts.models import User
from consumers.models import ConsumerGroup
from core.audit.services import record
from core.errors import changed_meanwhile
from messages import backpressure, services
from messages.half import Decision
from messages.models import Redrive, Reset
from messages.names import topic_name
from messages.types import Accepted, DeadFilter, HalfMessage, NewMessage
from topics.models import Topic

INLINE = 1000  # messages of a redrive that are done before its first answer; the worker does the rest


def send(*, actor: User, topic_id: int, message: NewMessage) -> Accepted:
    """Send one message by hand; the audit keeps that it was sent, not its body. Problems: those of the store's send, backlog_full."""
    topic = Topic.objects.get(pk=topic_id)
    backpressure.admit(topic_id=topic_id, ceiling=topic.max_backlog, messages=int(message.deliver_at is None))
    # Until the commit no consumer gets any later message: a send by hand is rare, and its audit entry takes a millisecond.
    with transaction.atomic():
        accepted = services.send(topic_id=topic_id, messages=[message])[0]
        after = {"topic": topic.name, "key": message.key, "tag": message.tag}
        record(actor=actor, action="send", kind="message", name=str(accepted.id), after=after)
    return accepted


def cancel_delayed(*, actor: User, message_id: int, reason: str = "", seen: datetime | None = None) -> None:
    """Cancel a delayed message: it is gone. Problems: not_found, not_delayed, state_changed (no longer due when it was `seen` to be)."""
    with transaction.atomic():
        _still(message_id, seen)
        topic_id = services.cancel_delayed(message_id=message_id)
        topic = Topic.objects.filter(pk=topic_id).values_list("name", flat=True).first()
        record(actor=actor, action="cancel", kind="delayed message", name=str(message_id), before={"topic": topic}, reason=reason)


def reschedule_delayed(*, actor: User, message_id: int, deliver_at: datetime, reason: str = "", seen: datetime | None = None) -> None:
    """Deliver a delayed message at another time. Problems: not_found, not_delayed, delay_out_of_range, state_changed (as above)."""
    with transaction.atomic():
        _still(message_id, seen)
        before = services.reschedule_delayed(message_id=message_id, deliver_at=deliver_at)
        times = {"before": {"deliver_at": before.isoformat()}, "after": {"deliver_at": deliver_at.isoformat()}}
        record(actor=actor, action="reschedule", kind="delayed message", name=str(message_id), reason=reason, **times)


def _still(message_id: int, seen: datetime | None) -> None:
    if seen is not None and services.hold_delayed(message_id=message_id) not in {seen, None}:  # gone: the verb says how
        raise changed_meanwhile()


def decide_half(*, actor: User, message_id: int, decision: Decision, reason: str = "") -> HalfMessage:
    """Commit or roll back in the place of the producer. Problems: not_found, already_committed, already_rolled_back, topic_not_active."""
    with transaction.atomic():
        half, changed = services.decide_half(message_id=message_id, decision=decision, by=actor.get_username())
        if changed:
            after = {"topic": half.topic, "key": half.key, "state": half.state}
            record(actor=actor, action=decision, kind="half message", name=str(message_id), after=after, reason=reason)
    return half


def redrive(
    *, actor: User, group: ConsumerGroup, ids: Sequence[int] | None = None, only: DeadFilter | None = None, reason: str = ""
) -> Redrive:
    """Begin to redrive dead letters and do the first of them at once; Celery goes on. Problems: invalid_redrive, not_found."""
    with transaction.atomic():
        job = services.start_redrive(group_id=group.pk, ids=ids, only=only, actor=actor, reason=reason)
        after = {"redrive": job.pk, "messages": job.total, "filter": job.filter}
        record(actor=actor, action="redrive", kind="consumer group", name=group.name, after=after, reason=reason)
    services.redrive_step(redrive_id=job.pk, limit=INLINE)
    job.refresh_from_db()
    return job


def reset(*, actor: User, group: ConsumerGroup, topic: Topic, position: int, fingerprint: str, reason: str = "") -> Reset:
    """Rewind or skip as the preview with this fingerprint said. Problems: those of the store's reset."""
    with transaction.atomic():
        made = services.reset(group_id=group.pk, topic_id=topic.pk, position=position, fingerprint=fingerprint, actor=actor, reason=reason)
        numbers = {"repeated": made.repeated, "first_time": made.first_time, "skipped": made.skipped}
        record(
            actor=actor,
            action=made.kind,
            kind="consumer group",
            name=group.name,
            before={"topic": topic.name, "position": made.position_before},
            after={"topic": topic.name, "position": made.position, "reset": made.pk, **numbers},
            reason=reason,
        )
    return made


def undo_reset(*, actor: User, group: ConsumerGroup, made: Reset, reason: str = "") -> Reset:
    """Take a rewind or a skip back. Problems: those of the store's undo."""
    with transaction.atomic():
        undone = services.undo_reset(reset_id=made.pk, actor=actor)
        record(
            actor=actor,
            action=f"undo {made.kind}",
            kind="consumer group",
            name=group.name,
            before={"topic": topic_name(made.topic_id), "reset": made.pk},
            after={"topic": topic_name(made.topic_id), "restored": undone.restored},
            reason=reason,
        )
    return undone
