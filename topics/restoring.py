"""What a rollback does to a topic: its cluster is that of the release again, by a move with all of a move's checks."""

from collections.abc import Mapping

from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster
from core.errors import not_found
from registry.releases import Change
from registry.rollbacks import Room, gone
from topics import moving
from topics.models import Topic

PERMISSION = "topics.move_topic"


def restore(*, actor: User, path: str, values: Mapping[str, str], change: Change, accept_warnings: bool) -> None:
    """Move it back. Problems: cannot_be_restored when the cluster is gone, and those of a move."""
    topic = Topic.objects.restrict(actor, PERMISSION).select_related("cluster").filter(name=path.rpartition("/")[2]).first()
    if topic is None:
        raise not_found(_("topic"), path.rpartition("/")[2])
    name = values.get("clusterName", "")
    cluster = Cluster.objects.filter(name=name).first()
    if cluster is None:
        raise gone(_("The cluster “{name}” of this release is gone.").format(name=name), _("Choose an earlier or a later release."))
    if topic.cluster_id != cluster.pk:
        moving.move(actor=actor, topic=topic, cluster=cluster, reason=change.message, accept_warnings=accept_warnings, change=change)


ROOM = Room(PERMISSION, restore)
