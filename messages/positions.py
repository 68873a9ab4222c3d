"""Rewind and skip: a person moves a group's position on one topic; previewed by the computation that does it, and taken back by undo."""

import json
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import FieldError, Problem, conflict, not_found
from messages.consuming import MAX_BIGINT, tick
from messages.db import fetch
from messages.models import Reset
from messages.querysets import message
from messages.types import ResetPlan

Target = str | datetime | int  # "earliest", "latest", a time of sending, or the id of the message that comes next
UNDO_MOST = 100_000  # skipped messages that become retries when a skip is undone after the group has gone on
_PLAN = "problem, pos, target, repeated, first_time, passed, processing, succeeded, later, dead, failed, skipped, fingerprint, done, era"


def preview_reset(*, group_id: int, topic_id: int, to: Target) -> ResetPlan:
    """What moving the position to `to` would do now; nothing is changed. Counters only: no message is read but some at the ends.

    Of a broadcast group all instances are moved, together or not at all; the numbers are their sums.
    Problems: no_instances, not_found (the group, the message), group_retired, not_subscribed, beyond_retention, position_ahead.
    """
    position = _position(group_id, topic_id, to)
    row = fetch(f"SELECT {_PLAN} FROM mq_group_reset_plan(%s::bigint, %s::bigint, %s::bigint)", (group_id, topic_id, position))[0]  # noqa: S608
    return _plan(row, group_id, topic_id)


def reset(*, group_id: int, topic_id: int, position: int, fingerprint: str, actor: Any = None, reason: str = "") -> Reset:
    """Move the position as the preview with this fingerprint said. In one transaction, with the group's verbs waiting.

    Problems, nothing changed: stale_preview (with the preview of now), nothing_changes, and those of the preview.
    """
    if not -MAX_BIGINT <= position <= MAX_BIGINT:
        raise _ahead()
    with transaction.atomic():
        row = fetch(
            f"SELECT {_PLAN}, eras FROM (SELECT (r.plan).*, r.eras"  # noqa: S608
            " FROM mq_group_reset(%s::bigint, %s::bigint, %s::bigint, %s::text) r) x",
            (group_id, topic_id, position, fingerprint.replace("\x00", "")),
        )[0]
        plan = _plan(row, group_id, topic_id)
        if plan.fingerprint != fingerprint:
            raise conflict(
                "stale_preview",
                _("Since the preview the group has gone on: something else would be done now."),
                hint=_("Look at the preview again. Suspend the group meanwhile if it is busy."),
            )
        done, era, eras = row[13:16]
        if not done or not plan.changes:
            raise conflict(
                "nothing_changes",
                _("The group stands there already: no message would be repeated or skipped."),
                hint=_("Choose another target."),
            )
        return Reset.objects.create(
            group_id=group_id,
            topic_id=topic_id,
            kind=plan.kind,
            position_before=plan.position_before,
            position=plan.position,
            era=era,
            eras=eras,
            repeated=plan.repeated,
            first_time=plan.first_time,
            skipped=plan.skipped,
            actor=actor,
            reason=reason[:500],
        )


def undo_reset(*, reset_id: int, actor: Any = None) -> Reset:
    """Take the newest move back: what was not handed out since is as it was before, retries, dead letters and leases included.

    Problems, nothing changed: not_found, already_undone, reset_superseded, nothing_left_to_undo, too_much_to_undo.
    """
    with transaction.atomic():
        found = Reset.objects.filter(pk=reset_id).first()
        if found is None:
            raise not_found(_("move of a position"), reset_id)
        problem, restored = fetch(
            "SELECT problem, restored FROM mq_group_reset_undo(%s::bigint, %s::bigint, %s::int, %s::jsonb, %s::bigint)",
            (found.group_id, found.topic_id, found.era, None if found.eras is None else json.dumps(found.eras), UNDO_MOST),
        )[0]
        if problem is not None:
            raise _not_undone(found, problem)
        changed = {"state": Reset.State.UNDONE, "restored": restored, "undone_by": actor, "undone_at": timezone.now()}
        Reset.objects.filter(pk=reset_id).update(**changed)
        found.refresh_from_db()
    return found


def undoable(*, group_id: int) -> set[int]:
    """Which moves of a group's positions can be taken back now: of each topic the newest, unless the group has gone beyond it."""
    rows = fetch(
        """
        SELECT r.id FROM mq_undo u JOIN mq_cursor c ON c.group_id = u.group_id AND c.topic_id = u.topic_id
          JOIN mq_reset r ON r.group_id = u.group_id AND r.topic_id = u.topic_id AND r.era = u.era AND r.state = 'done'
         WHERE u.group_id = %s::bigint AND c.active AND c.era = u.era AND c.filter_no = u.filter_no
           AND (u.to_pos > u.from_pos OR c.pos < u.from_pos)
        UNION ALL
        SELECT r.id FROM mq_reset r WHERE r.group_id = %s::bigint AND r.state = 'done' AND r.eras IS NOT NULL AND EXISTS (
          SELECT FROM jsonb_each_text(r.eras) e
            JOIN mq_undo u ON u.group_id = e.key::bigint AND u.topic_id = r.topic_id AND u.era = e.value::int
            JOIN mq_cursor c ON c.group_id = u.group_id AND c.topic_id = u.topic_id
           WHERE c.active AND c.era = u.era AND c.filter_no = u.filter_no AND (u.to_pos > u.from_pos OR c.pos < u.from_pos))
        """,
        (group_id, group_id),
    )
    return {row[0] for row in rows}


def positions(*, group_id: int) -> dict[int, int]:
    """Where a group stands on each topic that it is subscribed to: everything up to this id has been handed out.

    A broadcast group: where the instance stands that is furthest behind.
    Its private topics (below zero), which carry dead letters that were edited for it, are nobody's to move.
    """
    sql = (
        "SELECT topic_id, min(pos) FROM mq_cursor WHERE group_id = ANY (mq_members(ARRAY[%s::bigint])) AND active AND topic_id >= 0"
        " GROUP BY 1 ORDER BY 1"
    )
    return dict(fetch(sql, (group_id,)))


def time_of(position: int) -> datetime | None:
    """The time that an id tells; None before the first one."""
    return datetime.fromtimestamp((position >> 20) + 1_577_836_800, UTC) if position > 1 << 20 else None


def _position(group_id: int, topic_id: int, to: Target) -> int:
    """The position before the first message that is to come next."""
    tick()  # what was sent before this moment counts
    first, closed = fetch("SELECT mq_first_position(%s::bigint), closed_id FROM mq_horizon", (topic_id,))[0]
    stood = positions(group_id=group_id).get(topic_id, 0)
    if to == "earliest":
        return int(min(first, stood))
    if to == "latest":
        return int(max(closed, stood))
    if isinstance(to, datetime):
        if to > datetime.now(UTC):
            raise _ahead()
        # An hour: ids follow the clock only as long as somebody ticks.
        if fetch("SELECT mq_id_at(%s) < mq_oldest() - 3600 * 1048576::bigint", (to,))[0][0]:
            raise _beyond(topic_id)
        found = fetch("SELECT mq_position_at(%s::bigint, %s)", (topic_id, to))[0][0]
        return int(max(closed, stood) if found is None else found)
    assert isinstance(to, int)
    if not 0 < to <= MAX_BIGINT or to > closed:
        raise _ahead()
    if to <= min(first, stood):
        raise _beyond(topic_id)
    try:
        named = message(message_id=to)
    except Problem as problem:
        raise (_beyond(topic_id) if to <= first else problem) from None
    if named.topic_id != topic_id or named.state == "delayed":
        raise not_found(_("message"), to)
    return named.id - 1


def _plan(row: Any, group_id: int, topic_id: int) -> ResetPlan:
    problem = row[0]
    if problem == "unknown":
        raise not_found(_("consumer group"), group_id)
    if problem == "retired":
        raise conflict("group_retired", _("The consumer group is retired: it takes no messages any more."))
    if problem == "no_instances":
        detail = _("No instance of this broadcast group has a position yet.")
        raise conflict("no_instances", detail, hint=_("An instance begins with its first pull, or when it registers."))
    if problem == "not_subscribed":
        detail = _("The group is not subscribed to this topic.")
        raise Problem("not_subscribed", detail, hint=_("Subscribe it first."), errors=[FieldError("/topic", detail)])
    if problem == "beyond_retention":
        raise _beyond(topic_id)
    if problem == "ahead":
        raise _ahead()
    return ResetPlan(*row[1:13])


def _beyond(topic_id: int) -> Problem:
    sql = "SELECT o.id, mq_time_of(o.id) FROM (SELECT mq_first_position(%s::bigint) + 1 AS id) o"
    oldest, since = fetch(sql, (topic_id,))[0]
    return conflict(
        "beyond_retention",
        _("So old messages are no longer kept, or have expired: the oldest that may be there are of {time}.").format(
            time=f"{since:%Y-%m-%d %H:%M} UTC"
        ),
        hint=_("Choose a later time, or “earliest” for all that is kept."),
        extra={"earliest": since.isoformat(), "earliest_id": oldest},
    )


def _ahead() -> Problem:
    return conflict("position_ahead", _("There are no messages so far ahead yet."), hint=_("Choose “latest” to skip all that waits."))


def _not_undone(found: Reset, problem: str) -> Problem:
    if found.state == Reset.State.UNDONE:
        return conflict("already_undone", _("This was taken back already."))
    if problem == "nothing_left":
        return conflict(
            "nothing_left_to_undo",
            _("The group has been handed out all of it again meanwhile: there is nothing left to take back."),
            hint=_("Its messages have the status that the repetition has given them."),
        )
    if problem == "too_many":
        return conflict(
            "too_much_to_undo",
            _("The group has gone on since, and more than {n} messages were skipped.").format(n=f"{UNDO_MOST:,}"),
            hint=_("Rewind to where it stood instead: what has been handed out since is repeated then."),
            extra={"position": found.position_before},
        )
    return conflict(
        "reset_superseded",
        _("Since then the position, the filter or the subscription was changed: this can no longer be taken back."),
        hint=_("Only the newest move of a position can be undone. Rewind or skip to where it shall stand."),
    )
