"""Delayed messages: cancel, reschedule, promote. The id that the producer got stays good all the time."""

from datetime import UTC, datetime, timedelta

from django.utils.translation import gettext as _

from core.errors import Problem, conflict, not_found
from messages.db import fetch
from messages.querysets import message
from messages.sending import MAX_DELAY, PAST_TOLERANCE, delay_out_of_range

PROMOTE = 2000  # messages per transaction


def cancel_delayed(*, message_id: int) -> int:
    """Cancel a delayed message and return the id of its topic; it is gone. Problems: not_found, not_delayed (already delivered)."""
    topic_id: int | None = fetch("SELECT mq_delayed_cancel(%s::bigint)", (_bigint(message_id),))[0][0]
    if topic_id is None:
        raise _no_longer(message_id)
    return topic_id


def hold_delayed(*, message_id: int) -> datetime | None:
    """When a delayed message is due; nobody else cancels or reschedules it until the transaction ends. None: it is not delayed."""
    number = _bigint(message_id)
    fetch("SELECT pg_advisory_xact_lock(7310005, hashint8(%s::bigint))", (number,))
    rows = fetch("SELECT deliver_at FROM mq_delayed WHERE id = %s::bigint", (number,))
    return rows[0][0] if rows else None


def reschedule_delayed(*, message_id: int, deliver_at: datetime) -> datetime:
    """Move a delayed message to another time, return the former one. Problems: not_found, not_delayed, delay_out_of_range."""
    check_delivery_time(deliver_at)
    before: datetime | None = fetch("SELECT mq_delayed_reschedule(%s::bigint, %s::timestamptz)", (_bigint(message_id), deliver_at))[0][0]
    if before is None:
        raise _no_longer(message_id)
    return before


def check_delivery_time(deliver_at: datetime) -> None:
    """Whether a message may be due then. Problem: delay_out_of_range."""
    now = datetime.now(UTC)
    if deliver_at.tzinfo is None or not now - PAST_TOLERANCE <= deliver_at <= now + MAX_DELAY:
        raise delay_out_of_range("/deliver_at")


def promote(*, seconds: float = 0.8) -> int:
    """Move what is due into the log, oldest first, in bounded transactions for at most `seconds`; returns how many.

    Safe at any number of workers: one promotes at a time, the others return at once.
    """
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    promoted = 0
    while True:
        step: int = fetch("SELECT mq_promote(%s::int)", (PROMOTE,))[0][0]
        promoted += step
        if step == 0 or datetime.now(UTC) >= end:
            return promoted


def _bigint(value: int) -> int:
    if not 0 < value < 2**63:
        raise not_found(_("message"), value)
    return value


def _no_longer(message_id: int) -> Problem:
    message(message_id=message_id)  # not_found when it never was, or was cancelled
    return conflict("not_delayed", _("Message {id} is no longer delayed: it has been delivered to its topic.").format(id=message_id))
