"""All delayed messages that match a filter: cancelled, or delivered at another time, as an operation with a result per message."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from core.errors import Problem, conflict
from core.operations import kinds
from core.operations import services as operations
from core.operations.models import Operation
from messages import scope
from messages.db import fetch
from messages.delayed import check_delivery_time
from messages.names import topic_name
from messages.querysets import DELAYED_WHERE
from messages.types import DelayedFilter

CANCEL, RESCHEDULE = "messages.cancel_delayed", "messages.reschedule_delayed"
PERMISSION = "mq_messages.change_delayed"
CHUNK = 200  # messages per transaction; each takes a lock of its own
COUNTED = 100_000  # a count for people ends here


def start_cancelling(*, only: DelayedFilter, actor: User | None = None, reason: str = "") -> Operation:
    """Begin to cancel all delayed messages that match now; they are gone afterwards. Problems: forbidden, too_many_items."""
    return _start(CANCEL, _("Cancel delayed messages: {topic}"), only, {}, actor=actor, reason=reason)


def start_rescheduling(*, only: DelayedFilter, deliver_at: datetime | None, actor: User | None = None, reason: str = "") -> Operation:
    """Begin to deliver all that match now at another time, None: at once. Problems: delay_out_of_range, forbidden, too_many_items."""
    if deliver_at is not None:
        check_delivery_time(deliver_at)
    params = {"deliver_at": None if deliver_at is None else deliver_at.isoformat()}
    return _start(RESCHEDULE, _("Reschedule delayed messages: {topic}"), only, params, actor=actor, reason=reason)


def count_delayed(*, only: DelayedFilter, topic_ids: Sequence[int] | None) -> int:
    """How many match, counted up to a limit."""
    sql = f"SELECT count(*) FROM (SELECT 1 FROM mq_delayed d WHERE {DELAYED_WHERE} LIMIT %(most)s::bigint) x"  # noqa: S608 - a constant
    found: int = fetch(sql, {**_params(only, topic_ids), "most": COUNTED})[0][0]
    return found


def per_hour(*, start: datetime, hours: int, topic_ids: Sequence[int] | None) -> list[tuple[datetime, int]]:
    """How many are due in each of so many hours from the hour of `start` on, those without any included."""
    first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    sql = "SELECT extract(epoch FROM hour)::bigint, messages FROM mq_delayed_hours(%s::timestamptz, %s::int, %s::bigint[])"
    found = dict(fetch(sql, (first, hours, None if topic_ids is None else list(topic_ids))))
    seconds = [int(first.timestamp()) + 3600 * n for n in range(hours)]
    return [(datetime.fromtimestamp(at, UTC), found.get(at, 0)) for at in seconds]


def _params(only: DelayedFilter, topic_ids: Sequence[int] | None) -> dict[str, Any]:
    return {**asdict(only), "topic_ids": None if topic_ids is None else list(topic_ids)}


def _start(kind: str, title: str, only: DelayedFilter, params: Mapping[str, Any], *, actor: User | None, reason: str) -> Operation:
    within = None if actor is None else scope.topic_ids(actor, PERMISSION)
    with transaction.atomic():
        rows = fetch(
            f"SELECT d.id FROM mq_delayed d WHERE {DELAYED_WHERE} ORDER BY d.deliver_at, d.id LIMIT %(most)s::bigint",  # noqa: S608
            {**_params(only, within), "most": operations.MAX_ITEMS + 1},
        )
        given = {name: value for name, value in asdict(only).items() if value is not None}
        if "topic_id" in given:
            given["topic"] = topic_name(given.pop("topic_id"))
        shown = {name: value if isinstance(value, str) else value.isoformat() for name, value in given.items()}
        return operations.start(
            actor=actor,
            kind=kind,
            title=title.format(topic=shown.get("topic", _("all topics"))),
            items=(operations.NewItem(str(row[0])) for row in rows),
            params={**params, "values": {**shown, **{name: value for name, value in params.items() if value}}},
            reason=reason,
        )


def _do(actor: User | None, items: Sequence[kinds.Item], sql: str, *more: Any) -> list[Problem | None]:
    ids = [int(item.key) for item in items]
    found = dict(fetch(sql, (ids, None if actor is None else scope.topic_ids(actor, PERMISSION), *more)))
    texts = [_("Message {id} is no longer delayed: it was delivered or cancelled.").format(id=pk) for pk in ids]
    return [conflict(found[pk], text) if found[pk] else None for pk, text in zip(ids, texts, strict=True)]


def _cancel(actor: User | None, items: Sequence[kinds.Item], _params: Mapping[str, Any]) -> list[Problem | None]:
    return _do(actor, items, "SELECT message_id, refusal FROM mq_delayed_cancel_many(%s::bigint[], %s::bigint[])")


def _reschedule(actor: User | None, items: Sequence[kinds.Item], params: Mapping[str, Any]) -> list[Problem | None]:
    due = params["deliver_at"]
    sql = "SELECT message_id, refusal FROM mq_delayed_move_many(%s::bigint[], %s::bigint[], %s::timestamptz)"
    return _do(actor, items, sql, None if due is None else datetime.fromisoformat(due))


def _alone(many: kinds.PerformMany) -> kinds.Perform:
    def perform(actor: User | None, item: kinds.Item, params: Mapping[str, Any]) -> None:
        if (problem := many(actor, [item], params)[0]) is not None:
            raise problem

    return perform


for _name, _label, _many in (
    (CANCEL, gettext_lazy("Cancel delayed messages"), _cancel),
    (RESCHEDULE, gettext_lazy("Reschedule delayed messages"), _reschedule),
):
    kinds.register(
        kinds.Kind(name=_name, label=_label, permission=PERMISSION, perform=_alone(_many), perform_many=_many, chunk=CHUNK),
    )
