"""What people do to messages by hand: the store's verbs with an audit entry in the same transaction."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from consumers.models import ConsumerGroup
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile
from core.operations.models import Operation
from messages import backpressure, broadcast, services
from messages.editing import KEEP
from messages.half import Decision
from messages.models import Redrive, Reset
from messages.names import topic_name
from messages.redrives import filter_values
from messages.types import Accepted, DeadFilter, DelayedFilter, HalfMessage, NewMessage
from topics.models import Topic


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


def cancel_all_delayed(*, actor: User, only: DelayedFilter, reason: str = "") -> Operation:
    """Begin to cancel all delayed messages that match, within the person's reach. Problems: those of start_cancelling."""
    with transaction.atomic():
        job = services.start_cancelling(only=only, actor=actor, reason=reason)
        _record_delayed("cancel", job, actor=actor, only=only, reason=reason)
    return job


def reschedule_all_delayed(*, actor: User, only: DelayedFilter, deliver_at: datetime | None, reason: str = "") -> Operation:
    """Begin to deliver them at another time, None: now. Problems: those of start_rescheduling."""
    with transaction.atomic():
        job = services.start_rescheduling(only=only, deliver_at=deliver_at, actor=actor, reason=reason)
        _record_delayed("reschedule", job, actor=actor, only=only, reason=reason)
    return job


def _record_delayed(action: str, job: Operation, *, actor: User, only: DelayedFilter, reason: str) -> None:
    name = "*" if only.topic_id is None else topic_name(only.topic_id)
    after = {"operation": str(job.uid), "messages": job.total, **job.params["values"]}
    record(actor=actor, action=action, kind="delayed messages", name=name, after=after, reason=reason)


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
    *,
    actor: User,
    group: ConsumerGroup,
    ids: Sequence[int] | None = None,
    only: DeadFilter | None = None,
    plan: services.Plan | None = None,
    reason: str = "",
    instance: str | None = None,
) -> Operation:
    """Begin to redrive dead letters; a small number, which nothing holds back, is done at once.

    Of a broadcast group those of one instance. Problems: those of start_redrive and of broadcast.find.
    """
    plan = plan or services.Plan()
    with transaction.atomic():
        store_id = broadcast.find(group=group, name=instance)
        job = services.start_redrive(group_id=store_id, ids=ids, only=only, plan=plan, actor=actor, reason=reason)
        after = {"operation": str(job.uid), "messages": job.total, **job.params["values"]}
        record(actor=actor, action="redrive", kind="consumer group", name=group.name, after=after, reason=reason)
    services.run_at_once(job, plan)
    return job


def purge(
    *,
    actor: User,
    group: ConsumerGroup,
    reason: str,
    ids: Sequence[int] | None = None,
    only: DeadFilter | None = None,
    confirm: str,
    instance: str | None = None,
) -> Operation:
    """Begin to purge dead letters; a small number is done at once. Problems: not_confirmed (the group's name), those of start_purge."""
    if confirm != group.name:
        detail = _("To confirm it, give the name of the group, {name}.").format(name=group.name)
        raise Problem("not_confirmed", detail, errors=[FieldError("/confirm", detail)])
    with transaction.atomic():
        store_id = broadcast.find(group=group, name=instance)
        job = services.start_purge(group_id=store_id, ids=ids, only=only, actor=actor, reason=reason)
        after = {"operation": str(job.uid), "messages": job.total, **job.params["values"]}
        record(actor=actor, action="purge", kind="consumer group", name=group.name, after=after, reason=reason)
    services.run_at_once(job)
    return job


def record_export(*, actor: User, group: ConsumerGroup, only: DeadFilter, instance: str | None = None) -> None:
    """Keep that somebody took the dead letters of a group, or of one of its instances, as a file, with the filter."""
    what = {"what": "dead letters", **({"instance": instance} if instance else {}), **filter_values(only)}
    record(actor=actor, action="export", kind="consumer group", name=group.name, after=what)


def redrive_edited(
    *,
    actor: User,
    group: ConsumerGroup,
    message_id: int,
    edit: services.Edit,
    plan: services.Plan,
    reason: str = "",
    instance: str | None = None,
) -> Redrive:
    """Send one dead letter on, edited; the audit keeps what was edited, not the body. Problems: those of the service."""
    with transaction.atomic():
        store_id = broadcast.find(group=group, name=instance)
        done = services.redrive_edited(group_id=store_id, message_id=message_id, edit=edit, plan=plan, actor=actor)
        edited = {name: getattr(edit, name) for name in ("tag", "key", "sharding_key", "headers") if getattr(edit, name) is not KEEP}
        where = "group" if plan.to == "group" else topic_name(done.new_topic_id or 0)
        after = {"message": message_id, "new_message": done.new_id, "to": where, "body": "edited" if edit.body is not KEEP else "as it was"}
        if instance:
            after["instance"] = instance
        record(actor=actor, action="redrive", kind="consumer group", name=group.name, after={**after, **edited}, reason=reason)
    return done


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


def decide_stopped(*, actor: User, group: ConsumerGroup, ids: Sequence[int], decision: str, reason: str) -> dict[int, str]:
    """Decide on messages that stop their keys; for each '' or why nothing was done. Problems: those of the store."""
    with transaction.atomic():
        found = services.decide_stopped(group_id=group.pk, ids=ids, decision=decision, reason=reason)
        if done := [message_id for message_id, refusal in found.items() if not refusal]:
            after = {"decision": decision, "messages": done}
            record(actor=actor, action="decide stopped keys", kind="consumer group", name=group.name, after=after, reason=reason)
    return found
