"""Moving everything that is on a cluster to another one, when a cluster is lost: what it would do, and the operation that does it."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster
from core import bulk
from core.approvals.models import State
from core.approvals.services import require_reason
from core.errors import FieldError, Problem, conflict
from core.operations.models import Operation
from registry import services as registry
from topics import moving
from topics.models import Topic
from topics.querysets import TopicQuerySet

SHOWN = 200  # of the topics that cannot be moved so many are listed with their reasons


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet move would do now; of instances None: nobody watches, so nobody knows."""

    topics: int
    movable: int
    refused: Sequence[tuple[str, Problem]]  # the first of them
    groups: int
    instances: int | None
    plain_clients: int | None

    @property
    def refused_count(self) -> int:
        """How many cannot be moved."""
        return self.topics - self.movable


def on(cluster: Cluster, actor: User) -> TopicQuerySet:
    """The active topics on a cluster that this person may move."""
    topics: TopicQuerySet = Topic.objects.restrict(actor, "topics.move_topic").filter(cluster=cluster, state=State.ACTIVE)
    return topics


def plan(*, actor: User, source: Cluster, cluster: Cluster, accept_warnings: bool = False) -> Plan:
    """Look at each topic as the move itself would. Problems: same_cluster, nothing_to_move."""
    topics = list(moving.as_moved(on(source, actor)).order_by("name"))
    _check(source, cluster, len(topics))
    verdicts = moving.judge(topics=topics, cluster=cluster, accept_warnings=accept_warnings)
    going = [topic for topic, verdict in zip(topics, verdicts, strict=True) if verdict.problem is None]
    refused = [(topic.name, verdict.problem) for topic, verdict in zip(topics, verdicts, strict=True) if verdict.problem is not None]
    groups = moving.following([topic.pk for topic in going])
    known = registry.instances_known()
    online, plain = registry.count_online(paths=[*groups, *(topic.zookeeper_path for topic in going)])
    return Plan(len(topics), len(going), refused[:SHOWN], len(groups), online if known else None, plain if known else None)


def start(
    *, actor: User, source: Cluster, cluster: Cluster, reason: str, accept_warnings: bool = False, rate: float | None = None
) -> Operation:
    """Move the topics that are on the cluster now, `rate` of them per second at most: an operation, which is the bulk verb's.

    Problems: same_cluster, nothing_to_move, reason_required, forbidden.
    """
    topics = on(source, actor)
    _check(source, cluster, int(topics.exists()))
    values = {"cluster": cluster.name, "accept_warnings": accept_warnings, "reason": require_reason(reason)}
    return bulk.begin(actor=actor, bulk=bulk.verb_of("topics", "move"), values=values, select=topics, rate=rate)


def _check(source: Cluster, cluster: Cluster, topics: int) -> None:
    if source.pk == cluster.pk:
        detail = _("Choose another cluster than the one they are on.")
        raise Problem("same_cluster", detail, status=409, errors=[FieldError("/cluster", detail)])
    if not topics:
        raise conflict("nothing_to_move", _("No active topic is on “{name}”.").format(name=source.name))
