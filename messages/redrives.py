"""Redrive: dead letters go back to their group, with a result per message; persisted, resumable, in bounded steps."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog
from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext as _

from core.errors import FieldError, Problem, conflict, not_found
from messages.db import hot_cursor
from messages.models import Redrive, RedriveItem
from messages.querysets import DEAD_FROM, DEAD_WHERE, int_cursor, page_size
from messages.types import DeadFilter, Page

log = structlog.get_logger(__name__)

STEP = 500  # messages per transaction
MAX_IDS = 1000
_turn: int | None = None  # the redrive that had the last step in this process

# Locks: the group's row first, as in every verb. An item is taken when it is still pending, so a step may be killed or run twice.
_STEP = """
WITH todo AS MATERIALIZED (
  SELECT i.id, i.message_id FROM mq_redrive_item i WHERE i.redrive_id = %(redrive)s::bigint AND i.state = 'pending'
   ORDER BY i.message_id LIMIT %(limit)s::int FOR UPDATE),
judged AS MATERIALIZED (
  SELECT t.id, t.message_id, e.topic_id,
         CASE WHEN e.msg_id IS NULL THEN 'not_dead' WHEN NOT c.active THEN 'not_subscribed' ELSE '' END AS refusal
    FROM todo t
    LEFT JOIN mq_exception e ON e.group_id = %(group)s::bigint AND e.msg_id = t.message_id AND e.status = 'D'
    LEFT JOIN mq_cursor c ON c.group_id = %(group)s::bigint AND c.topic_id = e.topic_id),
back AS (
  UPDATE mq_exception e SET status = 'L', attempts = 0, single = false, redrives = e.redrives + 1, due_at = clock_timestamp(), token = NULL
    FROM judged j WHERE e.group_id = %(group)s::bigint AND e.msg_id = j.message_id AND j.refusal = '' RETURNING e.topic_id),
counted AS (
  UPDATE mq_cursor c SET dead = c.dead - x.n, later = c.later + x.n FROM (SELECT topic_id, count(*) AS n FROM back GROUP BY 1) x
   WHERE c.group_id = %(group)s::bigint AND c.topic_id = x.topic_id),
done AS (
  UPDATE mq_redrive_item i SET state = CASE WHEN j.refusal = '' THEN 'redriven' ELSE 'refused' END,
         reason = j.refusal, done_at = clock_timestamp()
    FROM judged j WHERE i.id = j.id)
SELECT count(*), count(*) FILTER (WHERE refusal = ''), count(*) FILTER (WHERE refusal <> '') FROM judged
"""


def start_redrive(
    *, group_id: int, ids: Sequence[int] | None = None, only: DeadFilter | None = None, actor: Any = None, reason: str = ""
) -> Redrive:
    """Begin to redrive the given dead letters, or all that match `only` now (frozen: later ones are not taken).

    The work is done by `redrive_step`. A given message that is not a dead letter gets its refusal as its result.
    Problems: invalid_redrive (neither or both of ids and filter, or too many ids), not_found (the group), group_retired.
    """
    if (ids is None) == (only is None):
        raise Problem("invalid_redrive", _("Give either ids or a filter."), errors=[FieldError("/ids", _("Give either ids or a filter."))])
    if ids is not None and (not ids or len(ids) > MAX_IDS or any(not 0 < i < 2**63 for i in ids)):
        detail = _("Give 1 to {n} message ids; for more use a filter.").format(n=MAX_IDS)
        raise Problem("invalid_redrive", detail, errors=[FieldError("/ids", detail)])
    with transaction.atomic(), hot_cursor() as cursor:
        found = cursor.execute("SELECT retired FROM mq_group WHERE group_id = %s", (group_id,)).fetchone()
        if found is None:
            raise not_found(_("consumer group"), group_id)
        if found[0]:
            raise conflict(
                "group_retired",
                _("The consumer group is retired: it takes no messages any more."),
                hint=_("Its dead letters can still be read; send what is needed to another topic."),
            )
        frozen = (
            None
            if only is None
            else {k: v if isinstance(v, int | str) else v.isoformat() for k, v in asdict(only).items() if v is not None}
        )
        redrive = Redrive.objects.create(group_id=group_id, filter=frozen, actor=actor, reason=reason[:500])
        if ids is not None:
            cursor.execute(
                "INSERT INTO mq_redrive_item (redrive_id, message_id, state, reason)"
                " SELECT %s::bigint, x, 'pending', '' FROM unnest(%s::bigint[]) x",
                (redrive.pk, sorted(set(ids))),
            )
        else:
            # the whole set in one statement: one snapshot freezes it
            cursor.execute(
                "INSERT INTO mq_redrive_item (redrive_id, message_id, state, reason)"  # noqa: S608 - constants
                f" SELECT %(redrive)s::bigint, e.msg_id, 'pending', '' FROM {DEAD_FROM} WHERE {DEAD_WHERE}",
                {**asdict(only or DeadFilter()), "group": group_id, "redrive": redrive.pk},
            )
        redrive.total = cursor.rowcount
        redrive.save(update_fields=["total"])
    return redrive


def redrive_step(*, redrive_id: int, limit: int = STEP) -> bool:
    """Do the next `limit` messages in one transaction; False when the redrive is finished. Idempotent, killable at any instant."""
    with transaction.atomic(), hot_cursor() as cursor:
        row = cursor.execute("SELECT group_id FROM mq_redrive WHERE id = %s::bigint AND state = 'running'", (redrive_id,)).fetchone()
        if row is None:
            return False
        cursor.execute("SELECT mq_lock_group(%s::bigint)", row)
        params = {"redrive": redrive_id, "group": row[0], "limit": limit}
        counted = cursor.execute(_STEP, params, binary=True).fetchone()
        assert counted is not None
        done, redriven, refused = counted
        cursor.execute(
            "UPDATE mq_redrive SET redriven = redriven + %(ok)s::int, refused = refused + %(no)s::int,"
            " state = CASE WHEN %(end)s THEN 'finished' ELSE state END, finished_at = CASE WHEN %(end)s THEN clock_timestamp() END"
            " WHERE id = %(id)s::bigint AND state = 'running'",
            {"ok": redriven, "no": refused, "end": done < limit, "id": redrive_id},
        )
    return bool(done >= limit)


def run_redrives(*, steps: int = 20) -> int:
    """Take running redrives on, one step each in turn; returns how many steps were done.

    Each process goes round, from a random one on, and where a call ends the next one goes on: however many there are, each has its
    turn. One that fails holds up no other: it is logged and tried again in the next round.
    """
    global _turn  # noqa: PLW0603 - where this process is in its round; losing it only begins another round
    running = Redrive.objects.filter(state=Redrive.State.RUNNING)
    if _turn is None:
        _turn = running.order_by("?").values_list("pk", flat=True).first() or 0
    queue = list(running.filter(pk__gt=_turn).order_by("pk").values_list("pk", flat=True)[:steps])
    if len(queue) < steps:
        queue += running.filter(pk__lte=_turn).order_by("pk").values_list("pk", flat=True)[: steps - len(queue)]
    taken = 0
    while queue and taken < steps:
        _turn = redrive_id = queue.pop(0)
        taken += 1
        try:
            if redrive_step(redrive_id=redrive_id, limit=STEP):
                queue.append(redrive_id)
        except DatabaseError:
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("redrive_step_failed", redrive=redrive_id)
    return taken


def redrive_results(*, redrive_id: int, limit: int = 50, cursor: str | None = None) -> Page[RedriveItem]:
    """The result per message, by message id. Problem: not_found, invalid_cursor."""
    limit = page_size(limit)
    if not Redrive.objects.filter(pk=redrive_id).exists():
        raise not_found(_("redrive"), redrive_id)
    rows = list(
        RedriveItem.objects.filter(redrive_id=redrive_id, message_id__gt=int_cursor(cursor) or 0).order_by("message_id")[: limit + 1]
    )
    return Page(rows[:limit], str(rows[limit - 1].message_id) if len(rows) > limit else None)
