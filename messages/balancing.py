"""Sticky load balance: which worker has which share of the sharding keys, and what happens when one leaves; dealt in sql/sticky.sql."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext as _

from consumers.models import Balance, ConsumerGroup
from core.errors import FieldError, Problem, conflict
from messages.db import fetch
from messages.types import Page

SLOTS = 256  # shares of the sharding keys, in sql/sticky.sql
MAX_WORKERS = 1000  # of one group, there
SILENCE = timedelta(seconds=60)  # who has not asked for so long, and has nothing in hand, has left; a long poll waits half of it
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of a sticky group. `parked` messages wait for it alone; `awaited` of its keys are still in other workers' hands."""

    name: str
    joined_at: datetime
    last_seen_at: datetime
    slots: int
    parked: int
    processing: int
    awaited: int

    @property
    def share(self) -> float:
        """Of all sharding keys, 0 to 1."""
        return self.slots / SLOTS


def is_sticky(group: ConsumerGroup) -> bool:
    """Whether a sharding key stays with its worker."""
    return group.balance == Balance.STICKY


def workers(*, group_id: int, limit: int = 50, cursor: str | None = None) -> Page[Worker]:
    """The workers of a sticky group by name; none of a group that is not."""
    rows = fetch(
        "SELECT * FROM mq_workers(%s::bigint, %s::text, %s::int)",
        (group_id, (cursor or "").replace("\x00", ""), limit + 1),
    )
    return Page([Worker(*row) for row in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else None)


def count_workers(*, group_id: int) -> int:
    """How many there are."""
    rows: list[tuple[int]] = fetch("SELECT count(*) FROM mq_worker WHERE group_id = %s::bigint", (group_id,))
    return rows[0][0]


def leave(*, group_id: int, name: str) -> bool:
    """A worker has said goodbye: its keys go to the others at once. False: it was not there."""
    with transaction.atomic():
        return bool(fetch("SELECT mq_worker_leave(%s::bigint, %s::text)", (group_id, name.replace("\x00", "")))[0][0])


def drop_silent(*, silence: timedelta = SILENCE) -> int:
    """Give the keys of workers that are silent to the others, one short transaction per group; how many workers."""
    dropped = 0
    for (group_id,) in fetch("SELECT * FROM mq_silent_groups(%s)", (silence,)):
        try:
            dropped += fetch("SELECT mq_workers_drop(%s::bigint, %s)", (group_id, silence))[0][0]
        except DatabaseError:
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("silent_workers_not_dropped", group_id=group_id)
    return dropped


def consumer_required() -> Problem:
    """In a sticky group nothing is handed out to nobody in particular."""
    detail = _("In this group a sharding key stays with its worker: say which worker asks.")
    hint = _("Give each process a name of its own, like its host's with its number.")
    return Problem("consumer_required", detail, hint=hint, errors=[FieldError("/consumer", detail)])


def too_many_workers() -> Problem:
    """More names than a group may have workers."""
    return conflict(
        "too_many_workers",
        _("The group has {n} workers, as many as it may.").format(n=MAX_WORKERS),
        hint=_("Use names that stay the same: one that has not asked for a minute leaves by itself."),
        extra={"limit": MAX_WORKERS},
    )
