"""Stopped keys: what a person sees and decides where a group stops a key of an ordered topic instead of going on without a message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from core.errors import FieldError, Problem
from messages.db import fetch
from messages.names import topic_name, topic_names

MAX_DECIDED = 1000
MAX_REASON = 500
DECISIONS: Mapping[str, str] = {"retry": "R", "dead_letter": "D", "skip": "F"}


@dataclass(frozen=True, slots=True)
class StoppedKey:
    """A message that is out of attempts, and how many are held back behind it."""

    message_id: int
    topic_id: int
    topic: str
    sharding_key: str | None
    key: str | None
    attempts: int
    reason: str
    consumer: str | None
    stopped_at: datetime
    held_back: int


def stopped_keys(*, group_id: int, limit: int = 100) -> list[StoppedKey]:
    """The oldest messages of a group that stop their keys, `limit` at most."""
    rows = fetch("SELECT * FROM mq_stopped(%s::bigint, %s::int)", (group_id, limit))
    topic_names({r[1] for r in rows})
    return [StoppedKey(r[0], r[1], topic_name(r[1]), r[2], r[3], r[4], r[5] or "", r[6], r[7], r[8]) for r in rows]


def decide_stopped(*, group_id: int, ids: Sequence[int], decision: str, reason: str) -> dict[int, str]:
    """Decide on messages that stop their keys, which go on then; for each '' or `not_stopped`, and nothing was changed.

    `retry`: again, with fresh attempts; `dead_letter`: to the dead letters; `skip`: given up, as failed.
    Problems, nothing changed: invalid_decision, reason_required, too_many_ids.
    """
    if decision not in DECISIONS:
        detail = _("The decision is retry, dead_letter or skip.")
        raise Problem("invalid_decision", detail, errors=[FieldError("/decision", detail)])
    if not reason.strip():
        detail = _("Say why.")
        raise Problem("reason_required", detail, errors=[FieldError("/reason", detail)])
    if not 1 <= len(ids) <= MAX_DECIDED:
        detail = _("Name 1 to {n} messages.").format(n=MAX_DECIDED)
        raise Problem("too_many_ids", detail, errors=[FieldError("/message_ids", detail)])
    rows = fetch(
        'SELECT d.message_id, d.refusal FROM mq_group g, mq_stopped_decide(g.group_id, %s::bigint[], %s::"char", %s::text) d'
        " WHERE g.group_id = %s::bigint",
        (list(dict.fromkeys(ids)), DECISIONS[decision], reason.strip().replace("\x00", "")[:MAX_REASON], group_id),
    )
    return dict.fromkeys(ids, "not_stopped") | dict(rows)  # the store knows nothing of a group that was never approved
