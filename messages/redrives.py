"""Redrive: dead letters go back to their group, or on to a topic, as an operation: a result per message, paced, watched, resumable."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from clusters.models import Kind as ClusterKind
from core.approvals.models import State
from core.errors import FieldError, Problem, conflict, not_found
from core.operations import driving, kinds
from core.operations import services as operations
from core.operations.models import Operation
from messages import scope
from messages.backpressure import backlog
from messages.broadcast import owners
from messages.db import fetch
from messages.models import Redrive
from messages.names import full_name, group_names, topic_name, topic_of
from messages.querysets import DEAD_FROM, DEAD_WHERE
from messages.types import DeadFilter
from topics.models import Topic

KIND = "messages.redrive"
PERMISSION = "mq_messages.add_redrive"
MAX_IDS = 1000
MAX_RATE = 10_000.0
AT_ONCE = 1000  # messages that are done before the answer, when nothing holds them back
JUDGED = 200  # newest messages of an operation by which its share of failures is told
ENOUGH = 20  # of them must be settled first
CANARIES = 1000
CHUNK = 500

Destination = Literal["group", "topic"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where dead letters go, and how carefully.

    `to` topic: each to its own topic, or all to `topic_id`. `rate`: messages per second at most. `canary`: so many go first, and the
    others only when each of these has succeeded. `stop_at`: the share of failures, 0 to 1, at which the operation pauses.
    """

    to: Destination = "group"
    topic_id: int | None = None
    rate: float | None = None
    canary: int = 0
    stop_at: float | None = None

    @property
    def careful(self) -> bool:
        """Whether something holds it back."""
        return bool(self.rate or self.canary or self.stop_at)


def start_redrive(
    *,
    group_id: int,
    ids: Sequence[int] | None = None,
    only: DeadFilter | None = None,
    plan: Plan | None = None,
    actor: User | None = None,
    reason: str = "",
) -> Operation:
    """Begin to redrive the given dead letters, or all that match `only` now (frozen: later ones are not taken), oldest first.

    A given message that is not a dead letter gets its refusal as its result. Problems: invalid_redrive (neither or both of ids and
    filter, too many ids, a plan that makes no sense), not_found (the group, the topic), group_retired, topic_not_active, forbidden.
    """
    plan = plan or Plan()
    check_selection(ids, only)
    check_plan(plan)
    with transaction.atomic():
        _check_group(group_id, plan)
        if plan.topic_id is not None and plan.topic_id not in open_topics(actor, [plan.topic_id]):
            raise topic_not_active(topic_name(plan.topic_id))
        chosen = frozen(group_id=group_id, ids=ids, only=only)
        name = full_name(group_id)
        shown = {
            "group": name,
            "to": plan.to if plan.topic_id is None else topic_name(plan.topic_id),
            "rate": plan.rate,
            "canary": plan.canary or None,
            "stop_at": plan.stop_at,
            **filter_values(only),
        }
        return operations.start(
            actor=actor,
            kind=KIND,
            title=_("Redrive: {group}").format(group=name),
            items=(operations.NewItem(str(pk), step=0 if n < plan.canary else 1) for n, pk in enumerate(chosen)),
            params={"group_id": group_id, **asdict(plan), "values": {k: v for k, v in shown.items() if v is not None}},
            reason=reason,
        )


def run_at_once(operation: Operation, plan: Plan | None = None) -> None:
    """Do what is small and unguarded before the answer; the rest, and whatever does not get done here, is the workers'."""
    if operation.total > AT_ONCE or (plan is not None and (plan.careful or plan.to != "group")):
        return
    for _chunk in range(AT_ONCE // CHUNK + 3):  # the chunks, the empty canary, the end
        if not driving.take_on(operation.pk):
            break
    operation.refresh_from_db()


def check_selection(ids: Sequence[int] | None, only: DeadFilter | None) -> None:
    """Either ids or a filter. Problem: invalid_redrive."""
    if (ids is None) == (only is None):
        raise _invalid("/ids", _("Give either ids or a filter."))
    if ids is not None and (not ids or len(ids) > MAX_IDS or any(not 0 < i < 2**63 for i in ids)):
        raise _invalid("/ids", _("Give 1 to {n} message ids; for more use a filter.").format(n=MAX_IDS))


def frozen(*, group_id: int, ids: Sequence[int] | None, only: DeadFilter | None) -> list[int]:
    """The chosen ids in their order; a filter in one statement, whose snapshot freezes it. Problem: too_many_items."""
    if ids is not None:
        return sorted(set(ids))
    rows = fetch(
        f"SELECT e.msg_id FROM {DEAD_FROM} WHERE {DEAD_WHERE} ORDER BY e.msg_id LIMIT %(most)s::bigint",  # noqa: S608 - constants
        {**asdict(only or DeadFilter()), "group": group_id, "most": operations.MAX_ITEMS + 1},
    )
    return [row[0] for row in rows]


def filter_values(only: DeadFilter | None) -> dict[str, Any]:
    """A filter as people read it."""
    given = {} if only is None else {k: v for k, v in asdict(only).items() if v is not None}
    if "topic_id" in given:
        given["topic"] = topic_name(given.pop("topic_id"))
    return {name: value if isinstance(value, str) else value.isoformat() for name, value in given.items()}


def check_plan(plan: Plan) -> None:
    """Whether a plan makes sense. Problem: invalid_redrive."""
    if plan.rate is not None and not 0.1 <= plan.rate <= MAX_RATE:
        raise _invalid("/rate", _("The rate is {low} to {high} messages per second.").format(low=0.1, high=f"{MAX_RATE:,.0f}"))
    if not 0 <= plan.canary <= CANARIES:
        raise _invalid("/canary", _("The canary is {low} to {high} messages.").format(low=0, high=CANARIES))
    if plan.stop_at is not None and not 0 < plan.stop_at <= 1:
        raise _invalid("/stop_at", _("The share of failures is more than 0 and at most 1."))
    if plan.topic_id is not None and plan.to != "topic":
        raise _invalid("/topic", _("A topic goes with “to”: “topic”."))


def _check_group(group_id: int, plan: Plan) -> None:
    found = fetch("SELECT retired FROM mq_group WHERE group_id = %s::bigint", (group_id,))
    if not found:
        raise not_found(_("consumer group"), group_id)
    if found[0][0] and plan.to == "group":
        raise conflict(
            "group_retired",
            _("The consumer group is retired: it takes no messages any more."),
            hint=_("Its dead letters can still be read; send what is needed to another topic."),
        )


def _invalid(pointer: str, detail: str) -> Problem:
    return Problem("invalid_redrive", detail, errors=[FieldError(pointer, detail)])


def topic_not_active(name: str) -> Problem:
    """Nothing can be sent there, by this person at least."""
    return conflict(
        "topic_not_active",
        _("The topic “{name}” takes no messages here.").format(name=name),
        hint=_("It must be active, in the built-in store, and one that you may send to."),
    )


def open_topics(actor: User | None, topic_ids: Sequence[int]) -> list[int]:
    """Those of the topics that take messages in the built-in store, from this person."""
    rows = Topic.objects.all() if actor is None else scope.topics(actor, "mq_messages.send_message")
    active = rows.filter(pk__in=topic_ids, state=State.ACTIVE, cluster__kind=ClusterKind.BUILTIN)
    return list(active.values_list("pk", flat=True))


def refusal(code: str) -> Problem | None:
    """What a refusal of the store's functions says; None: it was done."""
    texts = {
        "not_dead": _("It is no longer a dead letter."),
        "not_subscribed": _("The group is no longer subscribed to its topic."),
        "group_retired": _("The consumer group is retired: it takes no messages any more."),
        "message_gone": _("The message is gone."),
        "topic_not_active": _("Its topic takes no messages here, or not from who started this."),
    }
    return conflict(code, texts[code]) if code else None


def out_of_reach(actor: User | None, group_id: int, permission: str) -> Problem | None:
    """The group is no longer one of those that this person may do it with, or the instance was given up."""
    owner = owners([group_id]).get(group_id, (group_id, ""))[0]
    if owner < 0:
        return not_found(_("instance"), group_id)
    if actor is None or scope.groups(actor, permission).filter(pk=owner).exists():
        return None
    return not_found(_("consumer group"), group_names([group_id])[group_id])


def _perform_many(actor: User | None, items: Sequence[kinds.Item], params: Mapping[str, Any]) -> list[Problem | None]:
    group_id, ids = params["group_id"], [int(item.key) for item in items]
    if (gone := out_of_reach(actor, group_id, PERMISSION)) is not None:
        return [gone] * len(items)
    by = (items[0].operation_id, actor.pk if actor else None)
    if params["to"] == "group":
        rows = fetch("SELECT message_id, refusal FROM mq_redrive(%s::bigint, %s::bigint[], %s::bigint, %s::bigint)", (group_id, ids, *by))
    else:
        topic_id = params["topic_id"]
        own = "SELECT DISTINCT topic_id FROM mq_exception WHERE group_id = %s::bigint AND msg_id = ANY (%s::bigint[])"
        wanted = [topic_id] if topic_id is not None else [topic_of(row[0]) for row in fetch(own, (group_id, ids))]
        rows = fetch(
            "SELECT message_id, refusal FROM"
            " mq_redrive_to(%s::bigint, %s::text, %s::bigint[], %s::bigint, %s::bigint[], %s::bigint, %s::bigint)",
            (group_id, group_names([group_id])[group_id], ids, topic_id, open_topics(actor, wanted), *by),
        )
    found = dict(rows)
    return [refusal(found[pk]) for pk in ids[: len(found)]]


def _perform(actor: User | None, item: kinds.Item, params: Mapping[str, Any]) -> None:
    if (problem := _perform_many(actor, [item], params)[0]) is not None:
        raise problem


def _guard(operation: Operation, between: bool) -> Problem | kinds.Wait | None:
    """Between canary and the rest: all of the canary must have succeeded. Before each chunk: the share of failures so far, and room."""
    canary, stop_at = operation.params["canary"], operation.params["stop_at"]
    if not (between and canary) and not stop_at:
        return None if between else _no_room(operation)
    looked = CANARIES if between else JUDGED
    counted = fetch("SELECT * FROM mq_redriven_outcomes(%s::bigint, %s::int)", (operation.pk, looked))[0]
    still, troubled, succeeded, failed = counted
    hint = _("Look at the messages, then resume it to go on all the same, or cancel it.")
    if between and canary:
        if failed:
            detail = _("The canary has failed: {failed} of {n} messages.").format(failed=failed, n=still + succeeded + failed)
            return conflict("canary_failed", detail, hint=hint)
        if still:
            detail = _("It waits for the canary: {done} of {n} messages have succeeded.")
            return kinds.Wait(detail.format(done=succeeded, n=still + succeeded))
        return None
    settled = succeeded + failed + troubled
    if stop_at and settled >= min(ENOUGH, operation.total) and failed + troubled >= stop_at * settled and failed + troubled:
        detail = _("{failed} of the last {n} redriven messages that were tried have failed again.")
        detail = detail.format(failed=failed + troubled, n=settled)
        return conflict("failure_share_reached", detail, hint=hint)
    return None if between else _no_room(operation)


def _no_room(operation: Operation) -> kinds.Wait | None:
    """A topic that the next messages go to is at its ceiling, which holds for a redrive as for any other sender: it waits for room."""
    if operation.params["to"] != "topic":
        return None
    wanted = operation.params["topic_id"]
    limited = Topic.objects.filter(max_backlog__gt=0, **({} if wanted is None else {"pk": wanted}))
    if not limited.exists():
        return None
    pending = operation.items.filter(step=operation.step, state="pending").order_by("pk").values_list("key", flat=True)[:CHUNK]
    if not (ids := [int(key) for key in pending]):
        return None  # all are there
    if wanted is None:
        own = "SELECT DISTINCT topic_id FROM mq_exception WHERE group_id = %s::bigint AND msg_id = ANY (%s::bigint[])"
        limited = limited.filter(pk__in=[topic_of(row[0]) for row in fetch(own, (operation.params["group_id"], ids))])
    for topic_id, name, ceiling in limited.order_by("pk").values_list("pk", "name", "max_backlog"):
        if (waiting := backlog(topic_id=topic_id)) >= ceiling:
            detail = _("It waits for room: {n} messages of “{name}” wait for one of its groups, and its ceiling is {ceiling}.")
            return kinds.Wait(detail.format(n=f"{waiting:,}", name=name, ceiling=f"{ceiling:,}"))
    return None


def _resumed(operation: Operation) -> None:
    """A person goes on all the same: what has failed until now counts no more."""
    Redrive.objects.filter(operation=operation, watched=True).update(watched=False)


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Redrive dead letters"),
        permission=PERMISSION,
        perform=_perform,
        perform_many=_perform_many,
        steps=(kinds.Step("canary", gettext_lazy("Canary")), kinds.Step("rest", gettext_lazy("All others"))),
        chunk=CHUNK,
        pace=lambda params: params["rate"],
        guard=_guard,
        resumed=_resumed,
    )
)
