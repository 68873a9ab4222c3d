"""Groups follow their topics to another cluster: those that are bound to a topic first name its cluster."""

from collections.abc import Collection, Mapping

from django.utils.translation import gettext as _

from clusters.models import Cluster, Kind
from consumers.models import ConsumerGroup, Subscription
from consumers.services import nodes_of
from core.approvals.models import State
from core.errors import Problem, conflict
from registry import gates
from registry.releases import Change
from registry.services import Node
from topics.moving import Follower

_PATH = ConsumerGroup.path_of("")


def paths_of(topics: Collection[int]) -> dict[int, list[str]]:
    """The nodes of the active groups that name the cluster of these topics."""
    found: dict[int, list[str]] = {}
    bound = Subscription.objects.filter(topic__in=topics, position=0, group__state=State.ACTIVE).order_by("group__name")
    for topic_id, name in bound.values_list("topic_id", "group__name"):
        found.setdefault(topic_id, []).append(ConsumerGroup.path_of(name))
    return found


def draining_paths_of(topics: Collection[int]) -> list[str]:
    """The nodes of the active groups that are subscribed to these topics, in whatever place."""
    subscribed = Subscription.objects.filter(topic__in=topics, group__state=State.ACTIVE)
    return [ConsumerGroup.path_of(name) for name in subscribed.order_by("group__name").values_list("group__name", flat=True).distinct()]


def nodes_at(paths: Collection[str]) -> list[Node]:
    """What shall stand there, read anew."""
    return nodes_of([path.removeprefix(_PATH) for path in paths])


def obstacles(topics: Collection[int], cluster: Cluster) -> Mapping[int, Problem]:
    """Topics of groups that are gated elsewhere, or take messages by a regular expression, which only the built-in store knows."""
    following = paths_of(topics)
    gated = gates.standing_at([path for paths in following.values() for path in paths], but_for=cluster.name)
    found = {topic_id: gated[path] for topic_id, paths in following.items() for path in reversed(paths) if path in gated}
    return {**found, **_by_expression(topics, cluster)}


def promote(paths: Collection[str], cluster: Cluster, change: Change) -> None:
    """The gates of groups that are gated to the cluster to which their topic came are promoted with it."""
    for path in gates.gated(paths):
        gates.promoted_along(path=path, cluster=cluster.name, change=change)


def _by_expression(topics: Collection[int], cluster: Cluster) -> Mapping[int, Problem]:
    if cluster.kind == Kind.BUILTIN:
        return {}
    matching: dict[int, tuple[str, list[str]]] = {}
    expressions = Subscription.objects.filter(topic__in=topics, tags__startswith="~", group__state__in=[State.PENDING, State.ACTIVE])
    for topic_id, topic, group in expressions.order_by("group__name").values_list("topic_id", "topic__name", "group__name"):
        matching.setdefault(topic_id, (topic, []))[1].append(group)
    return {
        topic_id: conflict(
            "built_in_store_needed",
            _("Groups take messages of “{name}” by a regular expression: {groups}.").format(name=topic, groups=", ".join(groups[:20])),
            hint=_("Only the built-in store knows regular expressions: give these groups a list of tags first."),
            extra={"groups": groups[:100]},
        )
        for topic_id, (topic, groups) in matching.items()
    }


FOLLOWER = Follower(paths=paths_of, draining=draining_paths_of, nodes=nodes_at, obstacles=obstacles, moved=promote)
