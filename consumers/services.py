"""The verbs of consumer groups: apply, decide, suspend, retire; each is one transaction with audit, publication and the store's own row."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from django.db import transaction
from django.db.models import Prefetch, Q
from django.utils.translation import gettext as _

from accounts.models import Application, User
from clusters.drivers import builtin
from clusters.models import Cluster
from clusters.models import Kind as ClusterKind
from consumers import push
from consumers.models import Balance, ConsumeFrom, ConsumerGroup, OnExhausted, Subscription
from core import tags
from core.approvals import services as approvals
from core.approvals import workflow
from core.approvals.models import State
from core.audit.services import record
from core.errors import FieldError, Problem, conflict
from registry import gates
from registry import services as registry
from registry.releases import Change
from topics.models import Draining, Topic
from topics.services import check_nobody_uses, named, request_of, validate

CREATE = "group.create"  # the kind of request behind a group that is not active yet (see consumers.requests)
MAX_SUBSCRIPTIONS = 50
Wanted = Sequence[tuple[str, str]]  # topic name and tag expression


def apply(
    *,
    actor: User,
    name: str,
    application: Application,
    owner: User,
    consume_from: str | None = None,
    max_attempts: int,
    backoff_ms: int,
    backoff_max_ms: int,
    subscriptions: Wanted,
    reason: str,
    push_url: str = "",
    push_concurrency: int = 4,
    push_timeout_ms: int = 10_000,
    max_outstanding: int = 0,
    mode: str = ConsumerGroup.Mode.CLUSTERING,
    instance_ttl_hours: int = 168,
    on_exhausted: str = "dead_letter",
    balance: str = "shared",
) -> ConsumerGroup:
    """Apply for a group; another person decides, or a policy does at once. The name is taken from then on.

    Without `consume_from` it begins at the earliest message, a new instance of a broadcast group at the latest.
    Raises `invalid_name`, `duplicate_name`, `unknown_topic`, `topic_not_active`, `invalid_tag_expression`, `invalid`,
    `address_not_allowed`.
    Call `consumers.push.look_up` before, outside of any transaction: it asks the network.
    """
    payload = {
        "application": application.name,
        "owner": owner.get_username(),
        "subscriptions": listed(subscriptions),
        "mode": str(mode),
        "instance_ttl_hours": instance_ttl_hours,
        "consume_from": consume_from or start_of(mode),
        "max_attempts": max_attempts,
        "backoff_ms": backoff_ms,
        "backoff_max_ms": backoff_max_ms,
        "push_url": push_url,
        "push_concurrency": push_concurrency,
        "push_timeout_ms": push_timeout_ms,
        "max_outstanding": max_outstanding,
        "on_exhausted": str(on_exhausted),
        "balance": str(balance),
    }
    workflow.submit(actor=actor, kind=CREATE, target=name, payload=payload, reason=reason)
    return ConsumerGroup.objects.get(name=name)


def start_of(mode: str) -> str:
    """Where a group begins that does not say."""
    return str(ConsumeFrom.LATEST if mode == ConsumerGroup.Mode.BROADCAST else ConsumeFrom.EARLIEST)


def edit(*, actor: User, group: ConsumerGroup, changes: Mapping[str, Any], subscriptions: Wanted | None = None) -> ConsumerGroup:
    """Edit a request that is not decided, or was rejected; the person who applied does it."""
    approvals.require_state(thing=group, allowed=(State.PENDING, State.REJECTED), what="edit")
    payload = {key: named(value) for key, value in changes.items() if key != "reason"}
    if subscriptions is not None:
        payload["subscriptions"] = listed(subscriptions)
    request = request_of(group, CREATE)
    workflow.edit(actor=actor, request=request, payload=payload, reason=changes.get("reason"), version=group.version, send=False)
    return _again(group)


def resubmit(*, actor: User, group: ConsumerGroup) -> ConsumerGroup:
    """Send a rejected request again."""
    approvals.require_state(thing=group, allowed=(State.REJECTED,), what="submission")
    workflow.resubmit(actor=actor, request=request_of(group, CREATE), version=group.version)
    return _again(group)


def approve(*, actor: User, group: ConsumerGroup, reason: str = "") -> ConsumerGroup:
    """Approve: the group begins where `consume_from` says, and stands in ZooKeeper. Nobody approves their own request."""
    approvals.require_state(thing=group, allowed=(State.PENDING,), what="approval")
    workflow.approve(actor=actor, request=request_of(group, CREATE), version=group.version, reason=reason)
    return _again(group)


def reject(*, actor: User, group: ConsumerGroup, reason: str) -> ConsumerGroup:
    """Reject with a reason; the request can be edited and sent again."""
    approvals.require_state(thing=group, allowed=(State.PENDING,), what="rejection")
    workflow.decline(actor=actor, request=request_of(group, CREATE), reason=reason, version=group.version)
    return _again(group)


def listed(subscriptions: Wanted) -> list[dict[str, str]]:
    """Subscriptions as requests keep them."""
    return [{"topic": topic, "tags": tags or "*"} for topic, tags in subscriptions]


def _again(group: ConsumerGroup) -> ConsumerGroup:
    """The group as it is now, in the same object."""
    group.refresh_from_db()
    group._prefetched_objects_cache = {}  # type: ignore[attr-defined]  # noqa: SLF001 - else its old subscriptions stay
    return group


def activate(*, actor: User | None, group: ConsumerGroup, reason: str, request: int) -> None:
    """Make a pending group known to the store and publish it; in the transaction of its approval. Actor None: a policy."""
    approvals.move(thing=group, expected=State.PENDING, to=State.ACTIVE, values=approvals.decision(actor=actor, reason=reason))
    subscriptions = list(group.subscriptions.select_related("topic"))
    _lock_clusters(lock_active([subscription.topic.name for subscription in subscriptions]))
    # The store knows every group, wherever its topics are: delayed and dead messages of all of them live in it.
    builtin.create_group(group_id=group.pk, max_attempts=group.max_attempts, backoff_ms=group.backoffs_ms, suspended=group.suspended)
    builtin.set_ceiling(group_id=group.pk, max_outstanding=group.max_outstanding)
    set_broadcast(group)
    builtin.set_exhaustion(group_id=group.pk, stop_key=group.on_exhausted == OnExhausted.STOP_KEY)
    builtin.set_balance(group_id=group.pk, sticky=group.balance == Balance.STICKY)
    for subscription in subscriptions:
        _subscribe(group, subscription.topic_id, subscription.tags)
    push.ensure_secret(group)
    record(actor=actor, action="approve", kind="consumer group", name=group.name, after={"request": request}, reason=reason)
    publish(group, Change(author=actor, message=reason or f"Request {request} approved."))


def alter(*, group: ConsumerGroup, values: Mapping[str, Any], wanted: list[tuple[Topic, str]] | None, change: Change) -> None:
    """Write what an approved change asks for: columns, and the subscriptions as they shall be; in the caller's transaction.

    The store changes with it. A topic that is new begins where the group's `consume_from` says, or goes on where the group stood if it
    had been subscribed before; a changed filter holds from the group's position on; of a topic that is dropped what waits is skipped.
    """
    approvals.move(thing=group, expected=State.ACTIVE, to=State.ACTIVE, values=values)
    if wanted is not None:
        old = {row.topic_id: row.tags for row in group.subscriptions.all()}
        _lock_clusters({topic.name: topic for topic, _tags in wanted})
        group.subscriptions.all().delete()
        store_subscriptions(group, wanted)
    builtin.update_group(
        group_id=group.pk,
        max_attempts=group.max_attempts,
        backoff_ms=group.backoffs_ms,
        suspended=group.suspended,
        max_outstanding=group.max_outstanding,
    )
    set_broadcast(group)
    builtin.set_exhaustion(group_id=group.pk, stop_key=group.on_exhausted == OnExhausted.STOP_KEY)
    builtin.set_balance(group_id=group.pk, sticky=group.balance == Balance.STICKY)
    if wanted is not None:
        new = {topic.pk: expression for topic, expression in wanted}
        for topic_id in sorted(old.keys() - new.keys()):
            builtin.unsubscribe(group_id=group.pk, topic_id=topic_id)
        for topic_id, expression in sorted(new.items()):
            if topic_id not in old:
                _subscribe(group, topic_id, expression)
            elif old[topic_id] != expression:
                builtin.change_filter(group_id=group.pk, topic_id=topic_id, tag_expression=expression)
    push.ensure_secret(group)
    publish(group, change)


def start_in_store(group: ConsumerGroup) -> Literal["earliest", "latest"]:
    """Where the group begins on a topic, in the store's words."""
    return "latest" if group.consume_from == ConsumeFrom.LATEST else "earliest"


def set_broadcast(group: ConsumerGroup) -> None:
    """Tell the store of a broadcast group that it is one, before its first subscription."""
    if group.mode == ConsumerGroup.Mode.BROADCAST:
        builtin.set_broadcast(group_id=group.pk, instance_ttl_hours=group.instance_ttl_hours, consume_from=start_in_store(group))


def _subscribe(group: ConsumerGroup, topic_id: int, expression: str) -> None:
    builtin.subscribe(group_id=group.pk, topic_id=topic_id, tag_expression=expression, consume_from=start_in_store(group))


def _lock_clusters(topics: Mapping[str, Topic]) -> None:
    """A change of a cluster's address republishes the groups that it sees: it waits for us, or we for it."""
    list(Cluster.objects.select_for_update().filter(pk__in={topic.cluster_id for topic in topics.values()}).order_by("pk"))


def suspend(*, actor: User, group: ConsumerGroup, reason: str) -> ConsumerGroup:
    """Hand out nothing more; what is in hand may still be settled."""
    return _set_suspended(actor=actor, group=group, suspended=True, reason=approvals.require_reason(reason))


def resume(*, actor: User, group: ConsumerGroup, reason: str = "") -> ConsumerGroup:
    """Go on where the group stopped."""
    return _set_suspended(actor=actor, group=group, suspended=False, reason=reason)


def retire(*, actor: User | None, group: ConsumerGroup, reason: str) -> ConsumerGroup:
    """Retire: its node goes and the store forgets its position. Refused while instances are online, listing them."""
    approvals.require_state(thing=group, allowed=(State.ACTIVE,), what="retirement")
    reason = approvals.require_reason(reason)
    with transaction.atomic():
        # Locked, so that no shadow group is switched on between the look and the change.
        ConsumerGroup.objects.select_for_update(no_key=True).get(pk=group.pk)
        shadows = [str(shadow) for shadow in group.shadow_tasks.filter(enabled=True).select_related("application", "group")]
        if shadows:
            hint = _("Switch off first: {names}").format(names=", ".join(shadows))
            raise conflict(
                "in_use", _("Shadow groups of “{name}” are on.").format(name=group.name), hint=hint, extra={"shadow_tasks": shadows}
            )
        gates.check_none(group.zookeeper_path)
        check_nobody_uses(path=group.zookeeper_path, groups=[], what=group.name)
        approvals.move(thing=group, expected=State.ACTIVE, to=State.RETIRED, values=approvals.decision(actor=actor, reason=reason))
        builtin.retire_group(group_id=group.pk)
        record(actor=actor, action="retire", kind="consumer group", name=group.name, reason=reason)
        change = Change(author=actor, message=reason)
        for shadow in group.shadow_tasks.select_related("application", "group"):  # the group's node goes after theirs
            registry.retract(path=shadow.zookeeper_path, change=change)
        registry.retract(path=group.zookeeper_path, change=change)
    return group


def publish(group: ConsumerGroup, change: Change) -> None:
    """Write what SDKs should see."""
    # A suspension and a move of the topic may be here at once, each with its own half of the truth: who comes second reads both.
    registry.lock(paths=[group.zookeeper_path])
    registry.publish_many(nodes_of([group.name]), change=change)


def nodes_of(names: Collection[str]) -> list[registry.Node]:
    """What SDKs should see of the active ones among these groups, read anew: call it when their publications are locked."""
    subscribed = Subscription.objects.select_related("topic__cluster").order_by("position")
    groups = ConsumerGroup.objects.filter(name__in=names, state=State.ACTIVE).prefetch_related(Prefetch("subscriptions", subscribed))
    found = list(groups.order_by("name"))
    gated = gates.keys_at([group.zookeeper_path for group in found])
    drained = Draining.objects.names_of({row.topic_id for group in found for row in group.subscriptions.all()})
    return [_node_of(group, gated[group.zookeeper_path], drained) for group in found]


def _node_of(group: ConsumerGroup, gate: gates.Keys, drained: Mapping[int, Collection[str]]) -> registry.Node:
    """Of the first subscription are `bindingTopic` and `clusterName`, since ZMS knows one of each; `drained` of all its topics."""
    subscriptions = list(group.subscriptions.all())
    first = subscriptions[0].topic
    if first.cluster is None:
        raise ValueError("a group is approved on active topics only, and those have a cluster")
    gated, labels, further = gate
    tag_expressions = {subscription.topic.name: subscription.tags for subscription in subscriptions}
    left = sorted({name for subscription in subscriptions for name in drained.get(subscription.topic_id, ())} - {first.cluster.name})
    return registry.Node(
        path=group.zookeeper_path,
        zms={
            "clusterName": first.cluster.name,
            "type": "consumergroup",
            "bindingTopic": first.name,
            "broadcast": "true" if group.mode == ConsumerGroup.Mode.BROADCAST else "false",
            "consumeFrom": group.consume_from,
            "suspend": "true" if group.suspended else "false",
            **gated,
            "statisticsLogger": "disk",
        },
        own={
            "mqadmin.drainClusters": ",".join(left),
            "mqadmin.subscriptions": json.dumps(tag_expressions, ensure_ascii=False, separators=(",", ":")),
            "mqadmin.maxAttempts": str(group.max_attempts),
            **labels,
        },
        requires=[
            first.cluster.zookeeper_path,
            *(subscription.topic.zookeeper_path for subscription in subscriptions),
            *map(Cluster.path_of, left),
            *further,
        ],
    )


def paths_on(cluster: Cluster) -> list[str]:
    """The nodes of the active groups that name a cluster, as theirs or as one that they drain."""
    naming = Q(position=0, topic__cluster=cluster) | Q(topic__in=Draining.objects.filter(cluster=cluster).values("topic"))
    groups = ConsumerGroup.objects.filter(state=State.ACTIVE, pk__in=Subscription.objects.filter(naming).order_by().values("group"))
    return [ConsumerGroup.path_of(name) for name in groups.values_list("name", flat=True)]


def _set_suspended(*, actor: User, group: ConsumerGroup, suspended: bool, reason: str) -> ConsumerGroup:
    approvals.require_state(thing=group, allowed=(State.ACTIVE,), what="suspension")
    if group.suspended == suspended:
        return group
    with transaction.atomic():
        approvals.move(
            thing=group,
            expected=State.ACTIVE,
            to=State.ACTIVE,
            values={"suspended": suspended, "suspend_reason": reason if suspended else ""},
        )
        builtin.update_group(group_id=group.pk, max_attempts=group.max_attempts, backoff_ms=group.backoffs_ms, suspended=suspended)
        record(actor=actor, action="suspend" if suspended else "resume", kind="consumer group", name=group.name, reason=reason)
        publish(group, Change(author=actor, message=reason or ("Suspended." if suspended else "Resumed.")))
    return group


def check_subscriptions(subscriptions: Wanted) -> list[tuple[Topic, str]]:
    """The topics with their filters, locked against being retired; refused with a pointer to the row that is wrong."""
    check_rows(subscriptions)
    topics = lock_active([name for name, _expression in subscriptions])
    check_expressions(subscriptions, topics)
    return [(topics[name], expression.strip() or "*") for name, expression in subscriptions]


def check_rows(subscriptions: Wanted) -> None:
    """Check what subscriptions say by themselves, whatever topics there are."""
    if not subscriptions:
        detail = _("Name at least one topic.")
        raise Problem("invalid", detail, errors=[FieldError("/subscriptions", detail)])
    if len(subscriptions) > MAX_SUBSCRIPTIONS:
        detail = _("A group has at most {count} topics.").format(count=MAX_SUBSCRIPTIONS)
        raise Problem("invalid", detail, errors=[FieldError("/subscriptions", detail)])
    names = [name for name, _expression in subscriptions]
    for position, (name, expression) in enumerate(subscriptions):
        if name in names[:position]:
            detail = _("The topic “{name}” is there twice.").format(name=name)
            raise Problem("duplicate_subscription", detail, errors=[FieldError(f"/subscriptions/{position}/topic", detail)])
        tags.parse(expression, pointer=f"/subscriptions/{position}/tags")


def check_expressions(subscriptions: Wanted, topics: Mapping[str, Topic]) -> None:
    """Refuse what the clusters of these topics do not know."""
    for position, (name, expression) in enumerate(subscriptions):
        if expression.strip().startswith("~") and not _built_in(topics[name]):
            hint = _("Only the built-in store knows regular expressions; “{name}” lies elsewhere. Use a list of tags.").format(name=name)
            detail = _("“{expression}” is not a valid tag expression.").format(expression=expression[:300])
            raise Problem("invalid_tag_expression", detail, hint=hint, errors=[FieldError(f"/subscriptions/{position}/tags", hint)])


def _built_in(topic: Topic) -> bool:
    return topic.cluster is not None and topic.cluster.kind == ClusterKind.BUILTIN


def lock_active(names: list[str]) -> dict[str, Topic]:
    """The topics by name, locked against being retired until the transaction ends; refused unless all are active."""
    topics = {topic.name: topic for topic in Topic.objects.select_for_update().filter(name__in=names).order_by("pk")}
    for position, name in enumerate(names):
        pointer = f"/subscriptions/{position}/topic"
        if name not in topics:
            detail = _("There is no topic “{name}”.").format(name=name)
            raise Problem("unknown_topic", detail, hint=_("Apply for the topic first."), errors=[FieldError(pointer, detail)])
        if topics[name].state != State.ACTIVE:
            detail = _("The topic “{name}” is {state}, not active.").format(name=name, state=State(topics[name].state).label)
            hint = _("A group can be bound once the topic is approved.")
            raise Problem("topic_not_active", detail, status=409, hint=hint, errors=[FieldError(pointer, detail)])
    return topics


def store_subscriptions(group: ConsumerGroup, wanted: list[tuple[Topic, str]]) -> None:
    """Write the rows, in this order."""
    Subscription.objects.bulk_create(
        Subscription(group=group, topic=topic, tags=expression, position=position) for position, (topic, expression) in enumerate(wanted)
    )


def check_fields(group: ConsumerGroup, *, but_for: Collection[str] = ()) -> None:
    """Check the fields of a group, but for these; raises `invalid` with a pointer for each."""
    validate(group, but_for=but_for)
    push.check_form(group.push_url)
    if group.push_url and group.mode == ConsumerGroup.Mode.BROADCAST:
        detail = _("A webhook is one receiver; a broadcast group has instances that pull.")
        hint = _("Leave the webhook out, or let the group share its messages.")
        raise Problem("push_with_broadcast", detail, hint=hint, errors=[FieldError("/push_url", detail)])
    if group.on_exhausted == OnExhausted.STOP_KEY and group.mode == ConsumerGroup.Mode.BROADCAST:
        detail = _("A person cannot decide for each instance of a broadcast group.")
        hint = _("Let what is out of attempts become a dead letter of the instance, or let the group share its messages.")
        raise Problem("stop_with_broadcast", detail, hint=hint, errors=[FieldError("/on_exhausted", detail)])
    if group.balance == Balance.STICKY and (group.push_url or group.mode == ConsumerGroup.Mode.BROADCAST):
        detail = _("Sharding keys are dealt out to workers that pull and share the messages of the group.")
        hint = _("A webhook gets all of them, one of each key at a time; every instance of a broadcast group gets all of them, too.")
        raise Problem("sticky_without_workers", detail, hint=hint, errors=[FieldError("/balance", detail)])
    if group.backoff_max_ms < group.backoff_ms:
        detail = _("The longest wait is shorter than the first one.")
        raise Problem("invalid", detail, errors=[FieldError("/backoff_max_ms", detail)])
