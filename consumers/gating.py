"""What gated releases need of consumer groups."""

from typing import NoReturn

from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster
from consumers import services
from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.approvals.services import require_state
from core.errors import conflict, not_found
from registry.gates import Place
from registry.releases import Change
from topics import gating


class GroupGates:
    """A group: its main cluster is that of its first topic."""

    permission = "consumers.approve_consumergroup"

    def main(self, actor: User, path: str) -> Place:
        """That cluster, with the group locked. Problems: not_found, wrong_state."""
        name = path.rpartition("/")[2]
        rows = ConsumerGroup.objects.restrict(actor, self.permission).select_for_update(of=("self",), no_key=True)
        group = rows.filter(name=name).first()
        if group is None:
            raise not_found(_("consumer group"), name)
        require_state(thing=group, allowed=(State.ACTIVE,), what="gate")
        return gating.place(group.subscriptions.select_related("topic__cluster").order_by("position")[0].topic.cluster)

    def place(self, name: str) -> Place:
        """A cluster by name. Problem: invalid."""
        return gating.named(name)

    def places(self) -> list[tuple[str, str]]:
        """All clusters."""
        return gating.listed(Cluster.objects.all())

    def publish(self, path: str, change: Change) -> None:
        """Its node."""
        services.publish(ConsumerGroup.objects.get(name=path.rpartition("/")[2]), change)

    def abandoned(self, path: str, cluster: str, change: Change) -> None:  # noqa: ARG002 - what is left there is the topic's
        """Its node."""
        self.publish(path, change)

    def promotion(self, actor: User, path: str, cluster: str, change: Change, *, accept_warnings: bool) -> NoReturn:  # noqa: ARG002
        """A group is where its topic is. Problem: promoted_with_topic."""
        detail = _("A group consumes where its topic is: it is promoted when the topic comes to “{cluster}”.").format(cluster=cluster)
        hint = _("Promote the topic's gate, or move the topic there: the group's gate goes with it. Or abandon this one.")
        raise conflict("promoted_with_topic", detail, hint=hint)
