"""Consumer groups that come from elsewhere, from ZMS or another deployment: active at once, many with few statements."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.drivers import builtin
from clusters.models import Cluster
from consumers import push
from consumers.models import Balance, ConsumerGroup, OnExhausted, Subscription
from consumers.services import Wanted, lock_active, nodes_of, set_broadcast, start_in_store
from core.approvals import services as approvals
from core.approvals.models import State
from core.audit.services import in_one_statement, record
from core.errors import Problem, conflict
from registry import services as registry
from registry.releases import Change
from registry.trees import Standing


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group that is not saved yet, checked; its subscriptions; the node that it has where it comes from, and the cluster named there."""

    group: ConsumerGroup
    wanted: Wanted
    node: Standing | None = None
    cluster: str = ""


def adopt(*, actor: User, arrivals: Sequence[Arrival], reason: str) -> None:
    """Save them active, with their subscriptions, in the store as well, and publish them; all or none.

    Problems: duplicate_name, unknown_topic, topic_not_active, cluster_differs, and those of publishing.
    """
    made = [arrival.group for arrival in arrivals]
    with transaction.atomic(), in_one_statement():
        topics = lock_active(sorted({name for arrival in arrivals for name, _tags in arrival.wanted}))
        # A change of a cluster's address republishes the groups that it sees: it waits for us, or we for it.
        there = Cluster.objects.select_for_update(no_key=True).filter(pk__in={topic.cluster_id for topic in topics.values()}).order_by("pk")
        clusters = {cluster.pk: cluster.name for cluster in there}
        for arrival in arrivals:
            check_bound(arrival.cluster, clusters.get(topics[arrival.wanted[0][0]].cluster_id or 0, ""))
        for group in made:
            group.state, group.requested_by = State.ACTIVE, actor
            for name, value in approvals.decision(actor=actor, reason=reason).items():
                setattr(group, name, value)
        try:
            with transaction.atomic():
                ConsumerGroup.objects.bulk_create(made)
        except IntegrityError:
            raise _taken(made) from None
        rows = [
            Subscription(group=arrival.group, topic=topics[name], tags=expression, position=position)
            for arrival in arrivals
            for position, (name, expression) in enumerate(arrival.wanted)
        ]
        Subscription.objects.bulk_create(rows)
        # The store knows every group, wherever its topics are: delayed and dead messages of all of them live in it.
        builtin.create_groups([_stored(group) for group in made])
        for group in made:
            set_broadcast(group)
            push.ensure_secret(group)
            record(actor=actor, action="import", kind="consumer group", name=group.name, reason=reason)
        builtin.subscribe_many([(row.group_id, row.topic_id, row.tags, start_in_store(row.group)) for row in rows])
        nodes = {node.path: node for node in nodes_of([group.name for group in made])}
        brought = [(nodes[arrival.group.zookeeper_path], arrival.node) for arrival in arrivals]
        registry.bring_many(brought, change=Change(author=actor, message=reason))


def check_bound(named: str, there: str) -> None:
    """A group is where its first topic is; a node that says otherwise would read otherwise to its clients. Problem: cluster_differs."""
    if named and named != there:
        detail = _("The node names the cluster “{cluster}”, its topic is on “{other}”.").format(cluster=named, other=there)
        raise conflict("cluster_differs", detail)


def _stored(group: ConsumerGroup) -> builtin.NewGroup:
    return builtin.NewGroup(
        group.pk,
        group.max_attempts,
        group.backoffs_ms,
        suspended=group.suspended,
        max_outstanding=group.max_outstanding,
        stop_key=group.on_exhausted == OnExhausted.STOP_KEY,
        sticky=group.balance == Balance.STICKY,
    )


def _taken(made: Sequence[ConsumerGroup]) -> Problem:
    there = ConsumerGroup.objects.filter(name__in=[group.name for group in made]).values_list("name", flat=True)
    detail = _("There is a consumer group “{name}” already.").format(name=", ".join(there[:10]))
    return conflict("duplicate_name", detail, hint=_("Choose another name."))
