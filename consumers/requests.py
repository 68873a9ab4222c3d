"""What can be asked for about consumer groups: a new one, a change of an active one, its retirement."""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.models import User
from clusters.drivers import builtin
from consumers import push, services
from consumers.models import ConsumeFrom, ConsumerGroup
from core.approvals import services as approvals
from core.approvals.kinds import Ask, Decision, Draft, Field, Kind, nothing_changes, register
from core.approvals.models import Policy, Request, State
from core.audit.services import record
from core.errors import FieldError, Problem, conflict
from core.names import check_name
from topics.models import Topic
from topics.requests import columns, resolved
from topics.services import change_of

FIELDS = {
    "application": Field(gettext_lazy("Application"), str),
    "owner": Field(gettext_lazy("Owner"), str),
    "subscriptions": Field(gettext_lazy("Subscriptions"), list),
    "mode": Field(gettext_lazy("Mode"), str),
    "instance_ttl_hours": Field(gettext_lazy("Instance is given up after"), int, "h"),
    "consume_from": Field(gettext_lazy("Consume from"), str),
    "max_attempts": Field(gettext_lazy("Attempts at most"), int),
    "backoff_ms": Field(gettext_lazy("First retry after"), int, "ms"),
    "backoff_max_ms": Field(gettext_lazy("Longest wait"), int, "ms"),
    "push_url": Field(gettext_lazy("Webhook"), str),
    "push_concurrency": Field(gettext_lazy("Deliveries at once"), int),
    "push_timeout_ms": Field(gettext_lazy("Answer within"), int, "ms"),
    "max_outstanding": Field(gettext_lazy("Outstanding at most"), int),
    "on_exhausted": Field(gettext_lazy("Out of attempts"), str),
    "balance": Field(gettext_lazy("Load balance"), str),
}


def values_of(group: ConsumerGroup) -> dict[str, Any]:
    """A group's present values by the payload's names."""
    return {
        "application": group.application.name,
        "owner": group.owner.get_username(),
        "subscriptions": [{"topic": row.topic.name, "tags": row.tags} for row in group.subscriptions.select_related("topic")],
        "mode": group.mode,
        "instance_ttl_hours": group.instance_ttl_hours,
        "consume_from": group.consume_from,
        "max_attempts": group.max_attempts,
        "backoff_ms": group.backoff_ms,
        "backoff_max_ms": group.backoff_max_ms,
        "push_url": group.push_url,
        "push_concurrency": group.push_concurrency,
        "push_timeout_ms": group.push_timeout_ms,
        "max_outstanding": group.max_outstanding,
        "on_exhausted": group.on_exhausted,
        "balance": group.balance,
        "purpose": group.reason,
    }


def rows_of(payload: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The subscriptions of a payload, whose JSON may be anything."""
    rows = []
    for position, row in enumerate(payload["subscriptions"]):
        fits = isinstance(row, dict) and set(row) <= {"topic", "tags"} and isinstance(row.get("topic"), str)
        if not fits or not isinstance(row.get("tags", "*"), str) or "\x00" in row["topic"] + row.get("tags", "*"):
            detail = _("A subscription is an object with a topic and tags, both strings.")
            raise Problem("invalid", detail, errors=[FieldError(f"/subscriptions/{position}", detail)])
        rows.append((row["topic"], row.get("tags", "*")[:501]))
    return rows


def _columns_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the subscriptions, references looked up."""
    return resolved({key: value for key, value in payload.items() if key != "subscriptions"})


def _check_start(payload: Mapping[str, Any]) -> None:
    if "consume_from" in payload and payload["consume_from"] not in ConsumeFrom.values:
        detail = _("Choose earliest or latest.")
        raise Problem("invalid", detail, errors=[FieldError("/consume_from", detail)])
    if "mode" in payload and payload["mode"] not in ConsumerGroup.Mode.values:
        detail = _("Choose clustering or broadcast.")
        raise Problem("invalid", detail, errors=[FieldError("/mode", detail)])


def dropped_warnings(group: ConsumerGroup, topics: list[str]) -> list[str]:
    """What is lost with topics that a group drops: messages that wait or are to be tried again."""
    rows = list(Topic.objects.filter(name__in=topics).order_by("name").only("name"))
    left = builtin.backlogs_of([(group.pk, topic.pk) for topic in rows])
    return [text for topic in rows if (text := dropped_warning(topic, left[group.pk, topic.pk]))]


def dropped_warning(topic: Topic, left: builtin.Backlog) -> str:
    """What is lost with one of them, in words; empty: nothing."""
    number = left.waiting + left.later
    text = ngettext(
        "{topic}: {n} message that waits will be skipped or given up.",
        "{topic}: {n} messages that wait will be skipped or given up.",
        number,
    )
    return text.format(topic=topic.name, n=f"{number:,}") if number else ""


class GroupKind(Kind):
    """What requests about groups share."""

    subject = "consumer group"
    icon = "group"
    ask = "consumers.add_consumergroup"
    decide = "consumers.approve_consumergroup"

    def look_up(self, payload: Mapping[str, Any]) -> None:
        """The name of the webhook."""
        push.look_up(payload)

    def url(self, request: Request) -> str:
        """The group's page; what was withdrawn has none."""
        return reverse("admin:consumers_detail", args=[request.target]) if self._any(request.target).exists() else ""

    def _any(self, name: str) -> Any:
        return ConsumerGroup.objects.filter(name=name)

    def active(self, name: str, asker: User | None = None) -> ConsumerGroup:
        """The group of a change or a retirement, which must be active; what is out of the asker's reach does not exist."""
        within = self._any(name).restrict(asker, self.ask) if asker else self._any(name)
        group: ConsumerGroup | None = within.select_related("application", "owner").first()
        if group is None:
            detail = _("There is no consumer group “{name}”.").format(name=name)
            raise Problem("unknown_group", detail, hint=_("Apply for the group first."))
        approvals.require_state(thing=group, allowed=(State.ACTIVE,), what=self.name)
        return group


class CreateGroup(GroupKind):
    """A new group: its row takes the name while it is pending, with the same version as the request."""

    name = services.CREATE
    label = gettext_lazy("New consumer group")
    submitted_word = "apply"
    fields = FIELDS

    def draft(self, ask: Ask) -> Draft:
        """Make the row, or change it."""
        missing = [name for name in ("application", "owner", "subscriptions") if name not in ask.payload]
        if missing:
            errors = [FieldError(f"/{name}", _("It is needed.")) for name in missing]
            raise Problem("invalid", _("Some fields are not right."), errors=errors)
        _check_start(ask.payload)
        values = {**_columns_of(ask.payload), "reason": ask.reason}
        if ask.request is None:
            check_name(ask.target)
            values.setdefault("consume_from", services.start_of(str(values.get("mode", ""))))
            group = ConsumerGroup(name=ask.target, requested_by=ask.actor, **values)
            services.check_fields(group)
            wanted = services.check_subscriptions(rows_of(ask.payload))
            try:
                with transaction.atomic():
                    group.save(force_insert=True)
            except IntegrityError:
                raise conflict(
                    "duplicate_name",
                    _("There is a consumer group “{name}” already.").format(name=ask.target),
                    hint=_("Choose another name."),
                ) from None
            services.store_subscriptions(group, wanted)
        else:
            group = self._row(ask.request)
            for key, value in values.items():
                setattr(group, key, value)
            services.check_fields(group)
            if ask.payload != ask.request.payload or ask.reason != ask.request.reason:
                state = State(group.state)
                approvals.move(thing=group, expected=state, to=state, values=columns(values))
                if ask.payload["subscriptions"] != ask.request.payload["subscriptions"]:
                    wanted = services.check_subscriptions(rows_of(ask.payload))
                    group.subscriptions.all().delete()
                    services.store_subscriptions(group, wanted)
        return Draft(payload=ask.payload, application_id=group.application_id, owner_id=group.owner_id)

    def _row(self, request: Request) -> ConsumerGroup:
        groups = ConsumerGroup.objects.select_for_update(of=("self",)).select_related("application", "owner")
        return groups.get(name=request.target)

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """Into the store, and publish."""
        services.activate(actor=decision.actor, group=self._row(request), reason=decision.reason, request=request.pk)
        return {}

    def declined(self, request: Request, decision: Decision) -> None:
        """The row keeps the name, and says by whom and why."""
        values = approvals.decision(actor=decision.actor, reason=decision.reason)
        approvals.move(thing=self._row(request), expected=State.PENDING, to=State.REJECTED, values=values)

    def reopened(self, request: Request) -> None:
        """It waits again."""
        approvals.move(thing=self._row(request), expected=State.REJECTED, to=State.PENDING, values={"requested_at": timezone.now()})

    def withdrawn(self, request: Request) -> None:
        """The name is free again."""
        self._any(request.target).filter(state__in=[State.PENDING, State.REJECTED]).delete()


class ChangeGroup(GroupKind):
    """A change of an active group, its subscriptions included: the store follows in the same transaction."""

    name = "group.change"
    label = gettext_lazy("Change of a consumer group")
    submitted_word = "ask for change"
    fields = {**FIELDS, "purpose": Field(gettext_lazy("Purpose"), str)}

    def draft(self, ask: Ask) -> Draft:
        """Check the group as it would be."""
        group = self.active(ask.target, ask.actor)
        now = values_of(group)
        _check_start(ask.payload)
        asked = dict(ask.payload)
        if "subscriptions" in asked:
            wanted = services.check_subscriptions(rows_of(asked))
            asked["subscriptions"] = services.listed([(topic.name, expression) for topic, expression in wanted])
        payload = {key: value for key, value in asked.items() if value != now[key]}
        if "mode" in payload:
            detail = _("The mode of an active group cannot be changed: its positions would mean something else.")
            hint = _("Apply for another group, and retire this one.")
            raise Problem("mode_fixed", detail, status=409, hint=hint, errors=[FieldError("/mode", detail)])
        if not payload:
            raise nothing_changes()
        owning = group.application_id
        for key, value in _columns_of(payload).items():
            setattr(group, key, value)
        services.check_fields(group)
        return Draft(payload, owning, group.owner_id, {key: now[key] for key in payload}, group.version)

    def current(self, request: Request) -> tuple[int, dict[str, Any]] | None:
        """The group now."""
        group = self._any(request.target).filter(state=State.ACTIVE).select_related("application", "owner").first()
        return (group.version, values_of(group)) if group else None

    def warnings(self, request: Request, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """What is lost with a topic that is dropped: messages that wait or are to be tried again."""
        if "subscriptions" not in request.payload:
            return []
        kept = {row["topic"] for row in request.payload["subscriptions"]}
        dropped = [row["topic"] for row in request.before["subscriptions"] if row["topic"] not in kept]
        group = self._any(request.target).first()
        return dropped_warnings(group, dropped) if group else []

    def policy_values(self, request: Request, policy: Policy) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Nothing to add; but to lose messages is for a person to decide."""
        return None if self.warnings(request, {}) else {}

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """Write it, tell the store, publish."""
        groups = ConsumerGroup.objects.select_for_update(of=("self",)).select_related("application", "owner")
        group = groups.get(name=request.target)
        approvals.require_state(thing=group, allowed=(State.ACTIVE,), what=self.name)
        if group.version != request.base_version:
            raise approvals.changed(State.ACTIVE)
        before, values = values_of(group), _columns_of(request.payload)
        for key, value in values.items():
            setattr(group, key, value)
        services.check_fields(group)
        wanted = services.check_subscriptions(rows_of(request.payload)) if "subscriptions" in request.payload else None
        message = decision.reason or f"Request {request.pk} approved."
        change = change_of(actor=decision.actor, message=message, forced=decision.forced)
        services.alter(group=group, values=columns(values), wanted=wanted, change=change)
        after = {**before, **request.payload, "request": request.pk}
        record(
            actor=decision.actor,
            action="change",
            kind="consumer group",
            name=group.name,
            before=before,
            after=after,
            reason=decision.reason,
        )
        return {}


class RetireGroup(GroupKind):
    """The retirement of an active group."""

    name = "group.retire"
    label = gettext_lazy("Retirement of a consumer group")
    submitted_word = "ask for retirement"
    decide = "consumers.retire_consumergroup"
    retires = True

    def draft(self, ask: Ask) -> Draft:  # noqa: D102 - as the class says
        group = self.active(ask.target, ask.actor)
        return Draft(payload={}, application_id=group.application_id, owner_id=group.owner_id)

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """As the verb does it: refused while an instance is online, or nobody knows."""
        group = self.active(request.target)
        services.retire(actor=decision.actor, group=group, reason=decision.reason or request.reason)
        return {}


for kind in (CreateGroup(), ChangeGroup(), RetireGroup()):
    register(kind)
