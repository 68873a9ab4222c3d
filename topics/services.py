"""The verbs of topics: apply, decide, allocate, retire; each is one transaction with its audit entry and its publication.

Moving is in `moving`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import Application, User
from clusters.drivers import builtin
from clusters.models import Cluster, Kind
from core.approvals import services as approvals
from core.approvals import workflow
from core.approvals.models import Request, State
from core.audit.services import record
from core.errors import FieldError, Problem, conflict
from registry import gates
from registry import services as registry
from registry.models import Release
from registry.releases import Change
from topics.models import Draining, OrderScope, Retention, Topic

CREATE = "topic.create"  # the kind of request behind a topic that is not active yet (see topics.requests)


def apply(
    *,
    actor: User,
    name: str,
    application: Application,
    owner: User,
    expected_rate: int,
    message_bytes: int,
    partitions: int,
    ordered: bool,
    reason: str,
    max_backlog: int = 0,
    ttl_seconds: int = 0,
    max_length: int = 0,
    order_scope: str = "key",
    retention: str = "store",
    retention_hours: int = 0,
    retention_mib: int = 0,
) -> Topic:
    """Apply for a topic; another person decides, or a policy does at once. The name is taken from then on.

    Raises `invalid_name`, `reserved_name`, `duplicate_name`, `invalid`.
    """
    payload = {
        "application": application.name,
        "owner": owner.get_username(),
        "expected_rate": expected_rate,
        "message_bytes": message_bytes,
        "partitions": partitions,
        "ordered": ordered,
        "max_backlog": max_backlog,
        "ttl_seconds": ttl_seconds,
        "max_length": max_length,
        "order_scope": str(order_scope),
        "retention": str(retention),
        "retention_hours": retention_hours,
        "retention_mib": retention_mib,
    }
    workflow.submit(actor=actor, kind=CREATE, target=name, payload=payload, reason=reason)
    return Topic.objects.get(name=name)


def edit(*, actor: User, topic: Topic, changes: Mapping[str, Any]) -> Topic:
    """Edit a request that is not decided, or was rejected; the person who applied does it."""
    approvals.require_state(thing=topic, allowed=(State.PENDING, State.REJECTED), what="edit")
    payload = {key: named(value) for key, value in changes.items() if key != "reason"}
    workflow.edit(actor=actor, request=request_of(topic), payload=payload, reason=changes.get("reason"), version=topic.version, send=False)
    return _again(topic)


def resubmit(*, actor: User, topic: Topic) -> Topic:
    """Send a rejected request again."""
    approvals.require_state(thing=topic, allowed=(State.REJECTED,), what="submission")
    workflow.resubmit(actor=actor, request=request_of(topic), version=topic.version)
    return _again(topic)


def approve(*, actor: User, topic: Topic, cluster: Cluster, reason: str = "", accept_warnings: bool = False) -> Topic:
    """Approve and allocate to a cluster; from then on the topic stands in ZooKeeper. Nobody approves their own request."""
    approvals.require_state(thing=topic, allowed=(State.PENDING,), what="approval")
    workflow.approve(
        actor=actor,
        request=request_of(topic),
        version=topic.version,
        reason=reason,
        values={"cluster": cluster.name},
        accept_warnings=accept_warnings,
    )
    return _again(topic)


def reject(*, actor: User, topic: Topic, reason: str) -> Topic:
    """Reject with a reason; the request can be edited and sent again."""
    approvals.require_state(thing=topic, allowed=(State.PENDING,), what="rejection")
    workflow.decline(actor=actor, request=request_of(topic), reason=reason, version=topic.version)
    return _again(topic)


def request_of(thing: Any, kind: str = CREATE) -> Request:
    """The request behind a topic or group that is not active yet; both have the same version until it is decided."""
    request = Request.objects.filter(kind=kind, target=thing.name, state__in=workflow.OPEN).order_by("-pk").first()
    if request is None:
        raise approvals.changed(State(thing.state))
    return request


def activate(
    *,
    actor: User | None,
    topic: Topic,
    cluster: Cluster,
    reason: str,
    request: int,
    forced: bool = False,
) -> None:
    """Allocate a pending topic and publish it; in the transaction of its approval. Actor None: a policy."""
    approvals.move(
        thing=topic,
        expected=State.PENDING,
        to=State.ACTIVE,
        values={"cluster_id": cluster.pk, **approvals.decision(actor=actor, reason=reason)},
    )
    if topic.ttl_seconds or topic.max_length:
        builtin.set_limits(topic_id=topic.pk, ttl_seconds=topic.ttl_seconds, max_length=topic.max_length)
    if topic.retention != Retention.STORE:
        keep_messages(topic)
    after = {"cluster": cluster.name, "request": request}
    record(actor=actor, action="approve", kind="topic", name=topic.name, after=after, reason=reason)
    publish(topic, change_of(actor=actor, message=reason or f"Request {request} approved.", forced=forced))
    keep_orders([topic])


def change_of(*, actor: User | None, message: str, forced: bool) -> Change:
    """The change behind a verb; `forced`: warnings spoke against it and were accepted, which makes its releases emergencies."""
    return Change(author=actor, message=message, kind=Release.Kind.EMERGENCY if forced else Release.Kind.NORMAL)


def _again(topic: Topic) -> Topic:
    """The topic as it is now, in the same object."""
    topic.refresh_from_db()
    return topic


def named(value: Any) -> Any:
    """References by name, as requests keep them."""
    return value.get_username() if isinstance(value, User) else value.name if isinstance(value, Application) else value


def retire(*, actor: User | None, topic: Topic, reason: str, cancel_delayed: bool = False) -> Topic:
    """Retire: its node goes, and the store takes its delayed messages away, which would be delivered to nobody.

    Refused while instances are online or groups bound (`in_use`, listing them), while nobody knows, while half messages are not
    decided (`half_messages_wait`), and while delayed messages wait (`delayed_messages_wait`) unless `cancel_delayed` says that they may go.
    """
    approvals.require_state(thing=topic, allowed=(State.ACTIVE,), what="retirement")
    reason = approvals.require_reason(reason)
    with transaction.atomic():
        # Locked, so that no group can be bound between the look and the change; only the database is touched meanwhile.
        Topic.objects.select_for_update().get(pk=topic.pk)
        groups = sorted(
            {str(name) for name in topic.subscriptions.exclude(group__state=State.RETIRED).values_list("group__name", flat=True)}
        )
        gates.check_none(topic.zookeeper_path)
        check_nobody_uses(path=topic.zookeeper_path, groups=groups, what=topic.name)
        backlog = builtin.backlog(topic_id=topic.pk)
        _check_no_half(topic, backlog.half)
        if not cancel_delayed:
            _check_no_delayed(topic, backlog.delayed)
        approvals.move(thing=topic, expected=State.ACTIVE, to=State.RETIRED, values=approvals.decision(actor=actor, reason=reason))
        topic.draining.all().delete()  # no group is left that could
        registry.retract(path=topic.zookeeper_path, change=Change(author=actor, message=reason))
        cancelled = builtin.retire_topic(topic_id=topic.pk)
        after = {"cancelled_delayed_messages": cancelled} if cancelled else None
        record(actor=actor, action="retire", kind="topic", name=topic.name, after=after, reason=reason)
    return topic


def _check_no_half(topic: Topic, half: int) -> None:
    if half:
        raise conflict(
            "half_messages_wait",
            ngettext(
                "{n} half message of “{name}” is neither committed nor rolled back.",
                "{n} half messages of “{name}” are neither committed nor rolled back.",
                half,
            ).format(n=half, name=topic.name),
            hint=_("Wait until their producer decides, or decide under “Half messages”."),
            extra={"half": half},
        )


def _check_no_delayed(topic: Topic, delayed: int) -> None:
    if delayed:
        raise conflict(
            "delayed_messages_wait",
            ngettext(
                "{n} delayed message of “{name}” waits for its time.", "{n} delayed messages of “{name}” wait for their time.", delayed
            ).format(n=delayed, name=topic.name),
            hint=_("Wait until they are delivered, or retire it with “cancel_delayed”: they are cancelled then, for good."),
            extra={"delayed": delayed},
        )


def check_nobody_uses(*, path: str, groups: list[str], what: str) -> None:
    """Refuse with `in_use` while somebody does, and with `instances_unknown` while nobody watches: absence of news proves nothing."""
    instances = registry.online_instances(paths=[path])
    if instances or groups:
        listed = [{"node": i.node, "application": i.app, "address": i.ip, "sdk": i.sdk} for i in instances]
        detail = _("“{name}” is in use; instances online: {instances}, groups bound: {groups}.").format(
            name=what, instances=len(instances), groups=len(groups)
        )
        names = ", ".join([*(i.app or i.ip or i.node for i in instances[:10]), *groups[:10]])
        raise conflict(
            "in_use", detail, hint=_("Stop or unbind first: {names}").format(names=names), extra={"instances": listed, "groups": groups}
        )
    if not registry.instances_known():
        raise Problem(
            "instances_unknown",
            _("No registrar is watching ZooKeeper now, so nobody knows which instances are online."),
            status=503,
            hint=_("See /readyz; try again when the registrar is connected."),
        )


def publish(topic: Topic, change: Change) -> None:
    """Write what SDKs should see."""
    registry.publish_many([node_of(topic)], change=change)


def node_of(topic: Topic) -> registry.Node:
    """What SDKs should see of a topic."""
    return nodes_of([topic])[0]


def nodes_of(topics: Sequence[Topic]) -> list[registry.Node]:
    """The same of many; the order of ZMS's keys is part of the contract."""
    gated = gates.keys_at([topic.zookeeper_path for topic in topics])
    drained = Draining.objects.names_of([topic.pk for topic in topics])
    nodes = []
    for topic in topics:
        cluster = topic.cluster
        if cluster is None:
            raise ValueError("an active topic has a cluster")
        keys, labels, further = gated[topic.zookeeper_path]
        zms = {"clusterName": cluster.name, "type": "topic", **keys, "statisticsLogger": "disk"}
        left = drained.get(topic.pk, [])
        own = {"mqadmin.drainClusters": ",".join(left), **labels}
        nodes.append(registry.Node(topic.zookeeper_path, zms, own, [cluster.zookeeper_path, *map(Cluster.path_of, left), *further]))
    return nodes


def paths_on(cluster: Cluster) -> list[str]:
    """The nodes of the active topics that are on a cluster, or of which it is drained."""
    naming = Q(cluster=cluster) | Q(pk__in=Draining.objects.filter(cluster=cluster).order_by().values("topic"))
    topics = Topic.objects.filter(naming, state=State.ACTIVE)
    return [Topic.path_of(name) for name in topics.values_list("name", flat=True)]


def validate(thing: Any, *, but_for: Collection[str] = ()) -> None:
    """Check the fields of a model, but for these; raises `invalid` with a pointer for each."""
    try:
        thing.clean_fields(exclude=but_for)
    except ValidationError as error:
        errors = [FieldError(f"/{field}", " ".join(messages)) for field, messages in error.message_dict.items()]
        summary = errors[0].detail if len(errors) == 1 else _("Some fields are not right.")
        raise Problem("invalid", summary, errors=errors) from None


def check(topic: Topic, *, but_for: Collection[str] = ()) -> None:
    """Check the fields of a topic, and that how long its messages are kept makes sense; raises `invalid` with a pointer for each."""
    validate(topic, but_for=but_for)
    given = [name for name in ("retention_hours", "retention_mib") if getattr(topic, name)]
    if topic.retention == Retention.STORE and given:
        detail = _("Choose when messages go: the store itself keeps them without an age or a size of the topic.")
    elif topic.retention == Retention.LIMIT and not given:
        given = ["retention"]
        detail = _("Give an age or a size: by neither, messages would go at once.")
    else:
        return
    raise Problem("invalid", detail, errors=[FieldError(f"/{name}", detail) for name in given])


def keep_messages(topic: Topic) -> None:
    """Tell the store how long it keeps the topic's messages."""
    builtin.set_retention(
        topic_id=topic.pk,
        mode=None if topic.retention == Retention.STORE else "limit" if topic.retention == Retention.LIMIT else "done",
        age_seconds=topic.retention_hours * 3600,
        size_bytes=topic.retention_mib << 20,
    )


def keep_orders(topics: Iterable[Topic]) -> None:
    """Tell the store the order of the topics that come to it, which is fixed from then on."""
    here = [topic for topic in topics if topic.ordered and topic.cluster is not None and topic.cluster.kind == Kind.BUILTIN]
    builtin.set_orderings({topic.pk: "topic" if topic.order_scope == OrderScope.TOPIC else "key" for topic in here})
