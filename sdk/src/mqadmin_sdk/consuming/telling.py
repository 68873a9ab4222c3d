"""What people are told of messages that may be handled twice: loudly."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mqadmin_sdk.consuming.core import Item, Status
    from mqadmin_sdk.transports import Settled

log = logging.getLogger(__name__)


def thrown_away(group: str, item: Item, status: Status) -> None:
    """A handler has ended too late."""
    message = item.delivery.message
    why = "it had taken too long and the message was given up" if item.given_up else "the lease had ended"
    log.error(
        "Group %s: what the handler made of message %s of %s (%s) is thrown away: %s; the message may be handled again",
        group,
        message.id,
        message.topic,
        status,
        why,
    )


def wasted(group: str, refused: Sequence[Settled]) -> None:
    """The broker has not taken that these were handled."""
    for result in refused:
        message = result.settlement.delivery.message
        log.error(
            "Group %s: message %s of %s was handled, but that was not taken (%s: %s); it may be handled again",
            group,
            message.id,
            message.topic,
            result.problem,
            result.detail,
        )


def given_up(group: str, items: Sequence[Item], after: float) -> None:
    """Handlers have not returned in time."""
    for item in items:
        message = item.delivery.message
        log.error(
            "Group %s: the handler of message %s of %s has not returned within %g s: it is given up as failed, and what it returns will not"
            " count",
            group,
            message.id,
            message.topic,
            after,
        )


def left(group: str, items: Sequence[Item], after: float) -> None:
    """Handlers still run when everything should have ended."""
    names = ", ".join(f"{item.delivery.message.topic}/{item.delivery.message.id}" for item in items[:10])
    log.error(
        "Group %s: %d handlers did not end within %g s and are left: %s; others get these when their leases end",
        group,
        len(items),
        after,
        names,
    )


def moved(group: str, at: datetime, callback: Callable[[datetime], object] | None) -> None:
    """A person has moved the group's position; the application is told as well."""
    log.warning("Group %s: its position was moved at %s (rewind or skip): messages may come again", group, at.isoformat())
    if callback is not None:
        try:
            callback(at)
        except Exception:
            log.exception("Group %s: what was to be told of the move has failed", group)


def lost(group: str, messages: int) -> None:
    """Leases have ended."""
    log.warning(
        "Group %s: %d messages in hand belong to others now (a lease has ended, or the group's position was moved): what was not begun is"
        " dropped",
        group,
        messages,
    )


def untold(group: str, outcomes: int, in_vain: int, error: Exception) -> None:
    """The broker did not answer; `in_vain` of the outcomes are not told again, since their leases have ended."""
    log.warning("Group %s: %d outcomes could not be told, they are told again: %s", group, outcomes, error)
    if in_vain:
        log.error("Group %s: %d outcomes could not be told before their leases ended: these messages are handled again", group, in_vain)
