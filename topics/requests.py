"""What can be asked for about topics: a new one, a change of an active one, its retirement."""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application, User
from clusters.drivers import builtin
from clusters.models import Cluster
from core.approvals import services as approvals
from core.approvals.kinds import Ask, Decision, Draft, Field, Kind, nothing_changes, register
from core.approvals.models import Policy, Request, State
from core.audit.services import record
from core.errors import FieldError, Problem, conflict
from core.names import check_name
from topics import placement, services
from topics.models import Topic

# Payload field: its column if it has another name. The purpose is the topic's `reason`; a request has a reason of its own.
COLUMNS = {"application": "application_id", "owner": "owner_id", "purpose": "reason"}
FIELDS = {
    "application": Field(gettext_lazy("Application"), str),
    "owner": Field(gettext_lazy("Owner"), str),
    "expected_rate": Field(gettext_lazy("Expected messages per second"), int, "/s"),
    "message_bytes": Field(gettext_lazy("Typical message size"), int, "B"),
    "partitions": Field(gettext_lazy("Partitions"), int),
    "max_backlog": Field(gettext_lazy("Backlog at most"), int),
    "ttl_seconds": Field(gettext_lazy("Time to live"), int, "s"),
    "max_length": Field(gettext_lazy("Length at most"), int),
    "retention": Field(gettext_lazy("Messages go"), str),
    "retention_hours": Field(gettext_lazy("Kept for"), int, "h"),
    "retention_mib": Field(gettext_lazy("Size at most"), int, "MiB"),
}


def application_named(name: str) -> Application:
    """An application by name, or the problem of the field `application`."""
    found = Application.objects.filter(name=name).first()
    if found is None:
        detail = _("There is no application “{value}”; make it first.").format(value=name)
        raise Problem("invalid", detail, errors=[FieldError("/application", detail)])
    return found


def person_named(name: str) -> User:
    """An active person by user name, or the problem of the field `owner`."""
    found = User.objects.filter(username=name, is_active=True).first()
    if found is None:
        detail = _("There is no active person “{value}”.").format(value=name)
        raise Problem("invalid", detail, errors=[FieldError("/owner", detail)])
    return found


def resolved(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with its references looked up, by the model's field names."""
    values = {"reason" if key == "purpose" else key: value for key, value in payload.items()}
    if "application" in values:
        values["application"] = application_named(values["application"])
    if "owner" in values:
        values["owner"] = person_named(values["owner"])
    return values


def columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved values as an UPDATE takes them."""
    return {f"{key}_id" if key in {"application", "owner"} else key: getattr(value, "pk", value) for key, value in values.items()}


def facts(topic: Topic) -> dict[str, Any]:
    """What policies limit."""
    return {"rate": topic.expected_rate, "message_bytes": topic.message_bytes, "partitions": topic.partitions}


def values_of(topic: Topic) -> dict[str, Any]:
    """A topic's present values by the payload's names."""
    return {
        "application": topic.application.name,
        "owner": topic.owner.get_username(),
        "expected_rate": topic.expected_rate,
        "message_bytes": topic.message_bytes,
        "partitions": topic.partitions,
        "max_backlog": topic.max_backlog,
        "ttl_seconds": topic.ttl_seconds,
        "max_length": topic.max_length,
        "retention": topic.retention,
        "retention_hours": topic.retention_hours,
        "retention_mib": topic.retention_mib,
        "purpose": topic.reason,
    }


class TopicKind(Kind):
    """What requests about topics share."""

    subject = "topic"
    icon = "topic"
    ask = "topics.add_topic"
    decide = "topics.approve_topic"

    def url(self, request: Request) -> str:
        """The topic's page; what was withdrawn has none."""
        return reverse("admin:topics_detail", args=[request.target]) if Topic.objects.filter(name=request.target).exists() else ""

    def wanted(self, request: Request) -> Topic | None:
        """The topic as it would be, not saved; None if there is none any more."""
        topic = Topic.objects.select_related("cluster").filter(name=request.target).first()
        if topic is not None:
            for key in ("expected_rate", "message_bytes", "partitions", "ordered"):
                setattr(topic, key, request.payload.get(key, getattr(topic, key)))
        return topic

    def places(self, request: Request) -> list[dict[str, Any]] | None:
        """All clusters for a new topic, its own for a change."""
        topic = None if self.retires else self.wanted(request)
        if topic is None:
            return None
        found = placement.places(topic) if topic.cluster is None else [placement.place(topic, topic.cluster)]
        return [
            {
                "cluster": one.cluster.name,
                "kind": one.cluster.kind,
                "recommended": position == 0 and one.fits and topic.cluster is None,
                "fits": one.fits,
                "limits_known": one.known,
                "why_not": one.excess,
                "measures": [{"measure": m.key, "used": m.used, "after": m.after, "limit": m.limit, "over": m.over} for m in one.measures],
            }
            for position, one in enumerate(found)
        ]

    def active(self, name: str, asker: User | None = None) -> Topic:
        """The topic of a change or a retirement, which must be active; what is out of the asker's reach does not exist."""
        within = Topic.objects.restrict(asker, self.ask) if asker else Topic.objects.all()
        topic = within.select_related("application", "owner").filter(name=name).first()
        if topic is None:
            detail = _("There is no topic “{name}”.").format(name=name)
            raise Problem("unknown_topic", detail, hint=_("Apply for the topic first."))
        approvals.require_state(thing=topic, allowed=(State.ACTIVE,), what=self.name)
        return topic


class CreateTopic(TopicKind):
    """A new topic: its row takes the name while it is pending, with the same version as the request."""

    name = services.CREATE
    label = gettext_lazy("New topic")
    submitted_word = "apply"
    fields = {**FIELDS, "ordered": Field(gettext_lazy("Ordered"), bool), "order_scope": Field(gettext_lazy("Ordered among"), str)}
    wants = ("cluster",)

    def draft(self, ask: Ask) -> Draft:
        """Make the row, or change it."""
        values = {**resolved(ask.payload), "reason": ask.reason}
        if ask.request is None:
            check_name(ask.target)
            self._complete(ask.payload)
            topic = Topic(name=ask.target, requested_by=ask.actor, **values)
            services.check(topic)
            try:
                with transaction.atomic():
                    topic.save(force_insert=True)
            except IntegrityError:
                raise conflict(
                    "duplicate_name", _("There is a topic “{name}” already.").format(name=ask.target), hint=_("Choose another name.")
                ) from None
        else:
            topic = self._row(ask.request)
            for key, value in values.items():
                setattr(topic, key, value)
            services.check(topic)
            if ask.payload != ask.request.payload or ask.reason != ask.request.reason:
                state = State(topic.state)
                approvals.move(thing=topic, expected=state, to=state, values=columns(values))
        return Draft(payload=ask.payload, application_id=topic.application_id, owner_id=topic.owner_id, facts=facts(topic))

    def _complete(self, payload: Mapping[str, Any]) -> None:
        missing = [name for name in ("application", "owner", "expected_rate", "message_bytes") if name not in payload]
        if missing:
            errors = [FieldError(f"/{name}", _("It is needed.")) for name in missing]
            raise Problem("invalid", _("Some fields are not right."), errors=errors)

    def _row(self, request: Request) -> Topic:
        return Topic.objects.select_for_update(of=("self",)).select_related("application", "owner").get(name=request.target)

    def _cluster(self, name: Any, *, lock: bool = False) -> Cluster:
        clusters = Cluster.objects.select_for_update() if lock else Cluster.objects
        found = clusters.filter(name=name).first() if isinstance(name, str) and "\x00" not in name else None
        if found is None:
            detail = _("Choose the cluster that it goes to.") if not name else _("There is no cluster “{name}”.").format(name=name)
            raise Problem("invalid", detail, errors=[FieldError("/cluster", detail)])
        return found

    def warnings(self, request: Request, values: Mapping[str, Any]) -> list[str]:
        """More than the cluster takes; with the cluster locked, so that two approvals at once do not share the last room."""
        return placement.place(self._row(request), self._cluster(values.get("cluster"), lock=True)).excess

    def suggested(self, request: Request) -> Mapping[str, Any]:
        """The recommended cluster, if one is."""
        best = placement.recommended(self._row(request))
        return {"cluster": best.cluster.name} if best else {}

    def policy_values(self, request: Request, policy: Policy) -> Mapping[str, Any] | None:
        """The policy's cluster, or the recommended one; None if it does not fit there."""
        topic = self._row(request)
        if policy.cluster:
            cluster = Cluster.objects.select_for_update().filter(name=policy.cluster).first()
        else:
            best = placement.recommended(topic)
            cluster = Cluster.objects.select_for_update().get(pk=best.cluster.pk) if best else None
        if cluster is None or not placement.place(topic, cluster).fits:
            return None
        return {"cluster": cluster.name}

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """Allocate and publish."""
        topic, cluster = self._row(request), self._cluster(decision.values.get("cluster"))
        services.activate(
            actor=decision.actor, topic=topic, cluster=cluster, reason=decision.reason, request=request.pk, forced=decision.forced
        )
        return {"cluster": cluster.name}

    def declined(self, request: Request, decision: Decision) -> None:
        """The row keeps the name, and says by whom and why."""
        values = approvals.decision(actor=decision.actor, reason=decision.reason)
        approvals.move(thing=self._row(request), expected=State.PENDING, to=State.REJECTED, values=values)

    def reopened(self, request: Request) -> None:
        """It waits again."""
        approvals.move(thing=self._row(request), expected=State.REJECTED, to=State.PENDING, values={"requested_at": timezone.now()})

    def withdrawn(self, request: Request) -> None:
        """The name is free again."""
        Topic.objects.filter(name=request.target, state__in=[State.PENDING, State.REJECTED]).delete()


class ChangeTopic(TopicKind):
    """A change of an active topic."""

    name = "topic.change"
    label = gettext_lazy("Change of a topic")
    submitted_word = "ask for change"
    fields = {**FIELDS, "purpose": Field(gettext_lazy("Purpose"), str)}

    def draft(self, ask: Ask) -> Draft:
        """Check the topic as it would be."""
        topic = self.active(ask.target, ask.actor)
        now = values_of(topic)
        payload = {key: value for key, value in ask.payload.items() if value != now[key]}
        if not payload:
            raise nothing_changes()
        owning = topic.application_id
        for key, value in resolved(payload).items():
            setattr(topic, key, value)
        services.check(topic)
        before = {key: now[key] for key in payload}
        return Draft(payload, owning, topic.owner_id, before, topic.version, facts(topic))

    def current(self, request: Request) -> tuple[int, dict[str, Any]] | None:
        """The topic now."""
        topic = Topic.objects.select_related("application", "owner").filter(name=request.target, state=State.ACTIVE).first()
        return (topic.version, values_of(topic)) if topic else None

    def warnings(self, request: Request, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """More than its cluster takes."""
        topic = Topic.objects.select_for_update().get(name=request.target)  # before its cluster: so everybody locks them
        if topic.cluster_id is None:
            return []
        cluster = Cluster.objects.select_for_update().get(pk=topic.cluster_id)
        for key in ("expected_rate", "message_bytes", "partitions"):
            setattr(topic, key, request.payload.get(key, getattr(topic, key)))
        return placement.place(topic, cluster).excess if request.payload.keys() & {"expected_rate", "message_bytes", "partitions"} else []

    def policy_values(self, request: Request, policy: Policy) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Nothing to add; but what its cluster does not take is for a person."""
        return None if self.warnings(request, {}) else {}

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """Write the values; what SDKs see does not depend on them."""
        topic = Topic.objects.select_for_update(of=("self",)).select_related("application", "owner").get(name=request.target)
        approvals.require_state(thing=topic, allowed=(State.ACTIVE,), what=self.name)
        if topic.version != request.base_version:
            raise approvals.changed(State.ACTIVE)
        before, values = values_of(topic), resolved(request.payload)
        for key, value in values.items():
            setattr(topic, key, value)
        services.check(topic)
        Topic.objects.filter(pk=topic.pk).update(version=F("version") + 1, changed_at=timezone.now(), **columns(values))
        after = {**before, **request.payload, "request": request.pk}
        if values.keys() & {"ttl_seconds", "max_length"}:
            builtin.set_limits(topic_id=topic.pk, ttl_seconds=topic.ttl_seconds, max_length=topic.max_length)
        if values.keys() & {"retention", "retention_hours", "retention_mib"}:
            services.keep_messages(topic)
        record(actor=decision.actor, action="change", kind="topic", name=topic.name, before=before, after=after, reason=decision.reason)
        return {}


class RetireTopic(TopicKind):
    """The retirement of an active topic."""

    name = "topic.retire"
    label = gettext_lazy("Retirement of a topic")
    submitted_word = "ask for retirement"
    decide = "topics.retire_topic"
    retires = True

    def draft(self, ask: Ask) -> Draft:
        """Who still uses it is looked at when it is approved."""
        topic = self.active(ask.target, ask.actor)
        return Draft(payload={}, application_id=topic.application_id, owner_id=topic.owner_id)

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """As the verb does it: refused while somebody uses it, or nobody knows."""
        topic = self.active(request.target)
        services.retire(actor=decision.actor, topic=topic, reason=decision.reason or request.reason)
        return {}


for kind in (CreateTopic(), ChangeTopic(), RetireTopic()):
    register(kind)
