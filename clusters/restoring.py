"""What a rollback does to a cluster: its address is that of the release again, and all that depends on it is set again."""

from collections.abc import Mapping

from django.utils.translation import gettext as _

from accounts.models import User
from clusters import services
from clusters.models import Cluster
from core.errors import not_found
from registry.releases import Change
from registry.rollbacks import Room, gone

PERMISSION = "clusters.change_cluster"


def restore(*, actor: User, path: str, values: Mapping[str, str], change: Change, accept_warnings: bool) -> None:  # noqa: ARG001 - there are none
    """Change the address back. Problems: cannot_be_restored when the name belonged to a cluster of another kind then."""
    cluster = Cluster.objects.filter(name=path.rpartition("/")[2]).first()
    if cluster is None:
        raise not_found(_("cluster"), path.rpartition("/")[2])
    kind = values.get("brokerType", "")
    if cluster.kind != kind:
        raise gone(_("“{name}” was a cluster of another kind then: {kind}.").format(name=cluster.name, kind=kind))
    services.change(
        actor=actor,
        cluster=cluster,
        address=values.get("bootAddr", ""),
        proxy_address=values.get("mqadmin.proxyAddr", ""),
        description=cluster.description,
        change=change,
    )


ROOM = Room(PERMISSION, restore)
