"""Purge: dead letters that nobody wants any more become failed, with a reason; an operation with a result per message."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from core.errors import FieldError, Problem, not_found
from core.operations import kinds
from core.operations import services as operations
from core.operations.models import Operation
from messages.db import fetch
from messages.names import full_name
from messages.redrives import CHUNK, check_selection, filter_values, frozen, out_of_reach, refusal
from messages.types import DeadFilter

KIND = "messages.purge"
PERMISSION = "mq_messages.purge_dead"
MAX_REASON = 500


def start_purge(
    *, group_id: int, reason: str, ids: Sequence[int] | None = None, only: DeadFilter | None = None, actor: User | None = None
) -> Operation:
    """Begin to purge the given dead letters, or all that match `only` now: they become failed, for good.

    Problems: reason_required, invalid_redrive (neither or both of ids and filter, too many ids), not_found (the group), forbidden.
    """
    if not reason.strip():
        detail = _("Say why.")
        raise Problem("reason_required", detail, errors=[FieldError("/reason", detail)])
    check_selection(ids, only)
    with transaction.atomic():
        if not fetch("SELECT 1 FROM mq_group WHERE group_id = %s::bigint", (group_id,)):
            raise not_found(_("consumer group"), group_id)
        name = full_name(group_id)
        return operations.start(
            actor=actor,
            kind=KIND,
            title=_("Purge dead letters: {group}").format(group=name),
            items=(operations.NewItem(str(pk)) for pk in frozen(group_id=group_id, ids=ids, only=only)),
            params={"group_id": group_id, "reason": reason.strip()[:MAX_REASON], "values": {"group": name, **filter_values(only)}},
            reason=reason.strip()[:MAX_REASON],
        )


def _perform_many(actor: User | None, items: Sequence[kinds.Item], params: Mapping[str, Any]) -> list[Problem | None]:
    group_id, ids = params["group_id"], [int(item.key) for item in items]
    if (gone := out_of_reach(actor, group_id, PERMISSION)) is not None:
        return [gone] * len(items)
    sql = "SELECT message_id, refusal FROM mq_purge_dead(%s::bigint, %s::bigint[], %s::text)"
    found = dict(fetch(sql, (group_id, ids, params["reason"])))
    return [refusal(found[pk]) for pk in ids]


def _perform(actor: User | None, item: kinds.Item, params: Mapping[str, Any]) -> None:
    if (problem := _perform_many(actor, [item], params)[0]) is not None:
        raise problem


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Purge dead letters"),
        permission=PERMISSION,
        perform=_perform,
        perform_many=_perform_many,
        chunk=CHUNK,
    )
)
