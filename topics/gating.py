"""What gated releases need of topics."""

from collections.abc import Callable

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster, Kind
from core.approvals.models import State
from core.approvals.services import require_state
from core.errors import FieldError, Problem, not_found
from registry.gates import Place
from registry.releases import Change
from topics import moving, services
from topics.models import Topic


class TopicGates:
    """A topic: its main cluster is its own."""

    permission = "topics.move_topic"

    def main(self, actor: User, path: str) -> Place:
        """Its cluster, with the topic locked. Problems: not_found, wrong_state."""
        name = path.rpartition("/")[2]
        rows = Topic.objects.restrict(actor, self.permission).select_related("cluster").select_for_update(of=("self",))
        topic = rows.filter(name=name).first()
        if topic is None:
            raise not_found(_("topic"), name)
        require_state(thing=topic, allowed=(State.ACTIVE,), what="gate")
        return place(topic.cluster)

    def place(self, name: str) -> Place:
        """A broker's cluster by name: the built-in store takes messages only of topics that are there. Problem: invalid."""
        found = named(name)
        if found.kind == Kind.BUILTIN:
            detail = _(
                "The built-in store takes messages only of topics that are on it: instances cannot send there before the topic moves."
            )
            raise Problem("invalid", detail, errors=[FieldError("/cluster", detail)], hint=_("Move the topic there instead."))
        return found

    def places(self) -> list[tuple[str, str]]:
        """All clusters of brokers."""
        return listed(Cluster.objects.exclude(kind=Kind.BUILTIN))

    def publish(self, path: str, change: Change) -> None:
        """Its node."""
        services.publish(_topic(path), change)

    def abandoned(self, path: str, cluster: str, change: Change) -> None:
        """The gated producers leave messages behind, which all of the topic's groups drain."""
        topic = _topic(path)
        moving.leave([(topic, Cluster.objects.get(name=cluster))], timezone.now())
        moving.lock([topic])
        moving.publish_anew([topic], change)

    def promotion(self, actor: User, path: str, cluster: str, change: Change, *, accept_warnings: bool) -> Callable[[], object]:
        """A move there, with all that a move checks."""
        topic, target = _topic(path), Cluster.objects.get(name=cluster)
        reason = change.message
        return lambda: moving.move(actor=actor, topic=topic, cluster=target, reason=reason, accept_warnings=accept_warnings, change=change)


def place(cluster: Cluster | None) -> Place:
    """A cluster as gates see it."""
    if cluster is None:
        raise ValueError("an active topic has a cluster")
    return Place(cluster.name, cluster.kind)


def named(name: str) -> Place:
    """A cluster by name. Problem: invalid."""
    cluster = Cluster.objects.filter(name=name).first() if "\x00" not in name else None
    if cluster is None:
        detail = _("There is no cluster “{name}”.").format(name=name)
        raise Problem("invalid", detail, errors=[FieldError("/cluster", detail)])
    return place(cluster)


def listed(clusters: QuerySet[Cluster]) -> list[tuple[str, str]]:
    """Clusters with their kinds."""
    return [(row.name, f"{row.name} · {row.get_kind_display()}") for row in clusters.order_by("name")]


def _topic(path: str) -> Topic:
    return Topic.objects.select_related("cluster").get(name=path.rpartition("/")[2])
