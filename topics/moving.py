"""Moving topics to another cluster: one, or a chunk of a whole fleet with few statements. What SDKs are told changes, messages stay."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster, Kind
from core.approvals import services as approvals
from core.approvals import workflow
from core.approvals.models import State
from core.audit.services import in_one_statement, record
from core.errors import Problem, conflict, not_found
from registry import gates
from registry import services as registry
from registry.releases import Change
from topics import placement
from topics.models import Draining, Retention, Topic
from topics.services import change_of, keep_orders, nodes_of


@dataclass(frozen=True, slots=True)
class Follower:
    """What of a room above follows when topics move: its nodes that name the cluster of a topic."""

    paths: Callable[[Collection[int]], dict[int, list[str]]]  # of these topics, by the topic
    draining: Callable[[Collection[int]], list[str]]  # all that name the clusters which these topics have left, those above among them
    nodes: Callable[[Collection[str]], list[registry.Node]]  # what shall stand at such paths; asked when they are locked
    obstacles: Callable[[Collection[int], Cluster], Mapping[int, Problem]]  # which of the topics cannot go to the cluster, and why
    moved: Callable[[Collection[str], Cluster, Change], None]  # what else becomes of the nodes at such paths


followers: list[Follower] = []


def move(*, actor: User, topic: Topic, cluster: Cluster, reason: str, accept_warnings: bool = False, change: Change | None = None) -> Topic:
    """Assign an active topic to another cluster: what SDKs are told changes; messages that wait on the old one stay there to be drained.

    A `change` that is given is what it releases by, as a part of something larger. Problems: wrong_state, state_changed, same_cluster,
    confirmation_needed (the cluster would be over its limits, knows less than the built-in store does, is of another kind while plain
    ZMS clients are online, or is RabbitMQ, which groups may miss something on), and what rooms above refuse.
    """
    for problem in move_many(actor=actor, topics=[topic], cluster=cluster, reason=reason, accept_warnings=accept_warnings, change=change):
        if problem is not None:
            raise problem
    topic.refresh_from_db()
    return topic


def move_many(
    *,
    actor: User,
    topics: Sequence[Topic],
    cluster: Cluster,
    reason: str,
    accept_warnings: bool = False,
    change: Change | None = None,
) -> list[Problem | None]:
    """The same for many, in one transaction; what stands in the way of each, None where nothing does.

    They are taken in their order: each that moves takes room that the next ones do not have.
    """
    reason = approvals.require_reason(reason)
    with transaction.atomic(), in_one_statement():
        # First the topics, then the cluster, then publications by their paths: the order of approvals and of a change of address.
        standing = Topic.objects.select_for_update(no_key=True).filter(pk__in=[topic.pk for topic in topics]).order_by("pk")
        versions = dict(standing.values_list("pk", "version"))
        target = Cluster.objects.select_for_update(no_key=True).filter(pk=cluster.pk).first()
        if target is None:
            raise not_found(_("cluster"), cluster.name)
        verdicts = judge(topics=topics, cluster=target, accept_warnings=accept_warnings, versions=versions)
        going = [(topic, bool(verdict.warnings)) for topic, verdict in zip(topics, verdicts, strict=True) if verdict.problem is None]
        if going:
            _move(actor, going, target, reason, change)
    return [verdict.problem for verdict in verdicts]


def as_moved(rows: QuerySet[Topic]) -> QuerySet[Topic]:
    """The rows with what `move_many` needs of each."""
    needed = [
        "name", "state", "version", "expected_rate", "message_bytes", "partitions", "ordered", "order_scope", "ttl_seconds", "max_length",
        "max_backlog", "retention", "cluster__name", "cluster__kind",
    ]  # fmt: skip
    return rows.select_related(None).select_related("cluster").only(*needed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands in the way of a topic, None if it can be moved; and the warnings that were accepted."""

    problem: Problem | None
    warnings: Sequence[str] = ()


def judge(*, topics: Sequence[Topic], cluster: Cluster, accept_warnings: bool, versions: Mapping[int, int] | None = None) -> list[Verdict]:
    """Whether they can be moved, taken in this order; `versions` are those that stand now, None: as they were read."""
    look = Look(topics, cluster, versions)
    used: Mapping[str, int] = placement.promised(cluster)
    verdicts: list[Verdict] = []
    for topic in topics:
        try:
            warnings, after = look.at(topic, used)
            if not accept_warnings:
                workflow.confirm(warnings)
        except Problem as problem:
            verdicts.append(Verdict(problem))
        else:
            used = after
            verdicts.append(Verdict(None, warnings))
    return verdicts


class Look:
    """What stands in the way of topics that shall go to one cluster, which need not be saved yet; looked up for all of them at once."""

    def __init__(self, topics: Sequence[Topic], cluster: Cluster, versions: Mapping[int, int] | None = None) -> None:
        self.cluster, self._versions = cluster, versions
        ids = [topic.pk for topic in topics]
        self._obstacles: dict[int, Problem] = {}
        for follower in followers:
            self._obstacles |= follower.obstacles(ids, cluster)
        self._gated = gates.standing_at([topic.zookeeper_path for topic in topics])
        self._plain = _plain_clients(topics, cluster)
        self._deaf = _without_a_queue(ids, cluster)

    def at(self, topic: Topic, used: Mapping[str, int]) -> tuple[list[str], Mapping[str, int]]:
        """What speaks against the move of one, and what the cluster, of which so much is `used`, has promised with it.

        Raises what forbids it.
        """
        approvals.require_state(thing=topic, allowed=(State.ACTIVE,), what="move")
        if topic.cluster_id is not None and topic.cluster_id == self.cluster.pk:
            raise conflict("same_cluster", _("The topic is on “{name}” already.").format(name=self.cluster.name))
        if self._versions is not None and self._versions.get(topic.pk) != topic.version:
            raise approvals.changed(State.ACTIVE)
        if topic.zookeeper_path in self._gated:
            raise self._gated[topic.zookeeper_path]
        if topic.pk in self._obstacles:
            raise self._obstacles[topic.pk]
        place = placement.added(self.cluster, used, topic)
        warnings = [*place.excess, *_lost(topic, self.cluster), *self._plain.get(topic.pk, []), *self._deaf.get(topic.pk, [])]
        return warnings, {**used, **place.after}


def following(topics: Collection[int]) -> list[str]:
    """The nodes of rooms above that go to another cluster with these topics."""
    return sorted({path for follower in followers for paths in follower.paths(topics).values() for path in paths})


def touched(topics: Collection[int]) -> list[str]:
    """The nodes of rooms above that are published anew when these topics move: they go with them, or drain what they leave."""
    return sorted({path for follower in followers for path in follower.draining(topics)})


def publish_anew(topics: Sequence[Topic], change: Change) -> None:
    """Write the nodes of these topics and all that depend on where they are; `lock` was taken before what they say was read."""
    paths = touched([topic.pk for topic in topics])
    nodes = [node for follower in followers for node in follower.nodes(paths)]
    registry.publish_many([*nodes, *nodes_of(topics)], change=change)


def lock(topics: Sequence[Topic]) -> None:
    """Keep others from publishing these topics and all that depend on where they are, until the transaction ends."""
    registry.lock(paths=[*touched([topic.pk for topic in topics]), *(topic.zookeeper_path for topic in topics)])


def leave(left: Sequence[tuple[Topic, Cluster]], now: datetime) -> None:
    """Note that these topics have left a cluster each, which may still hold messages of them.

    Of the built-in store it can be proven that nothing is left. Brokers are not asked: there it ends by the clock, or by a person.
    """
    by_the_clock = now + timedelta(days=settings.DRAIN_DAYS) if settings.DRAIN_DAYS > 0 else None
    rows = [
        Draining(topic=topic, cluster=cluster, left_at=now, until=None if cluster.kind == Kind.BUILTIN else by_the_clock)
        for topic, cluster in left
    ]
    Draining.objects.bulk_create(rows, update_conflicts=True, unique_fields=["topic", "cluster"], update_fields=["left_at", "until"])


def _move(actor: User, going: Sequence[tuple[Topic, bool]], cluster: Cluster, reason: str, whole: Change | None) -> None:
    """Move these, each with whether warnings spoke against it."""
    topics = [topic for topic, _forced in going]
    now, ids = timezone.now(), [topic.pk for topic in topics]
    Topic.objects.filter(pk__in=ids).update(cluster_id=cluster.pk, version=F("version") + 1, changed_at=now)
    Draining.objects.filter(topic__in=ids, cluster=cluster).delete()  # they are back
    leave([(topic, topic.cluster) for topic in topics if topic.cluster is not None], now)
    for topic in topics:
        before = topic.cluster.name if topic.cluster else None
        record(
            actor=actor,
            action="move",
            kind="topic",
            name=topic.name,
            before={"cluster": before},
            after={"cluster": cluster.name},
            reason=reason,
        )
        topic.cluster, topic.version, topic.changed_at = cluster, topic.version + 1, now
    lock(topics)
    number = uuid4()  # all of it is one change
    for forced in (False, True):
        if part := [topic for topic, warned in going if warned is forced]:
            gone_along = following([topic.pk for topic in part])
            change = whole or replace(change_of(actor=actor, message=reason, forced=forced), id=number)
            for follower in followers:
                follower.moved(gone_along, cluster, change)
            publish_anew(part, change)
    keep_orders(topics)


def _lost(topic: Topic, cluster: Cluster) -> list[str]:
    """What the topic has of the built-in store and another cluster does not know, in words."""
    if cluster.kind == Kind.BUILTIN or topic.cluster is None or topic.cluster.kind != Kind.BUILTIN:
        return []
    used = {
        _("time to live"): topic.ttl_seconds,
        _("length at most"): topic.max_length,
        _("ceiling of the backlog"): topic.max_backlog,
        _("keeping the order"): topic.ordered,
        _("how long messages are kept"): topic.retention != Retention.STORE,
    }
    names = ", ".join(name for name, value in used.items() if value)
    text = _("Only the built-in store sees to what the topic has set: {names}. On “{cluster}” its broker would have to.")
    return [text.format(names=names, cluster=cluster.name)] if names else []


def _without_a_queue(topics: Collection[int], cluster: Cluster) -> dict[int, list[str]]:
    """On RabbitMQ, which replays nothing: the groups that nobody has seen there, if there are several of a topic, in words.

    For the queue of a single one producers wait.
    """
    if cluster.kind != Kind.RABBITMQ:
        return {}
    paths: dict[int, list[str]] = {}
    for follower in followers:
        for pk, following in follower.paths(topics).items():
            paths[pk] = paths.get(pk, []) + following
    gated = set(gates.gated([path for each in paths.values() for path in each]))  # to this cluster: others are an obstacle
    text = _(
        "RabbitMQ keeps messages only for groups that have a queue there: {names} may miss what is sent before their first consumer is on"
        " “{cluster}”. Gate an instance of each to it first, or be sure that the queues are there."
    )
    found = {pk: [path.rsplit("/", 1)[1] for path in each if path not in gated] for pk, each in paths.items() if len(each) > 1}
    return {pk: [text.format(names=", ".join(names[:20]), cluster=cluster.name)] for pk, names in found.items() if names}


def _plain_clients(topics: Sequence[Topic], cluster: Cluster) -> dict[int, list[str]]:
    """Where the kind of broker changes: the plain ZMS clients on the topic and on what follows it, which do not notice that, in words."""
    other = {topic.pk: topic for topic in topics if topic.cluster is not None and topic.cluster.kind != cluster.kind}
    if not other:
        return {}
    paths = {pk: [topic.zookeeper_path] for pk, topic in other.items()}
    for follower in followers:
        for pk, following in follower.paths(other).items():
            paths[pk] += following
    online: dict[str, list[str]] = {}
    for instance in registry.plain_clients(paths=[path for each in paths.values() for path in each]):
        online.setdefault(instance.path, []).append(instance.ip or instance.node)
    text = _("Plain ZMS clients are online, which do not notice that the kind of broker changes and have to be restarted: {names}.")
    found = {pk: sorted({name for path in each for name in online.get(path, [])}) for pk, each in paths.items()}
    return {pk: [text.format(names=", ".join(names[:20]))] for pk, names in found.items() if names}
