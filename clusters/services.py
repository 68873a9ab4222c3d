"""The verbs of clusters: add one, change its address; their nodes and those of their topics and groups are published with it."""

from collections.abc import Callable, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.addresses import check_address, check_proxy_address
from clusters.models import Cluster, Kind
from core import deletion
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict
from core.names import check_name
from registry import gates
from registry import services as registry
from registry.releases import Change
from registry.trees import Standing

#: What a cluster takes, as an operator says it, and the largest number that makes sense; None is "nobody knows".
LIMITS = {"max_topics": 1_000_000, "max_rate": 2**31 - 1, "max_bytes_per_second": 2**53, "max_partitions": 10_000_000}

# Rooms above add a function that lists the nodes of theirs that depend on a cluster: clients watch those, never the cluster's node.
dependants: list[Callable[[Cluster], list[str]]] = []
# … and one that raises a Problem while a cluster is needed by something that is not on it.
needs: list[Callable[[Cluster], None]] = []


def ensure_builtin() -> Cluster:
    """The cluster `builtin`; made and published when the tables are made."""
    with transaction.atomic():
        cluster, made = Cluster.objects.get_or_create(name="builtin", defaults={"kind": Kind.BUILTIN})
        if made:
            _publish(cluster, Change(author=None, message="The built-in store."))
    return cluster


def create(
    *,
    actor: User,
    name: str,
    kind: str,
    address: str,
    proxy_address: str = "",
    description: str = "",
    standing: Standing | None = None,
    **limits: int | None,
) -> Cluster:
    """Add a cluster; `standing`: the node that others have written for it, which stays as it is if it is our own ZooKeeper's.

    Raises `invalid_name`, `invalid_kind`, `invalid_address`, `duplicate_name`.
    """
    check_name(name)
    if kind not in Kind.values or kind == Kind.BUILTIN:
        detail = _("Choose kafka, rocketmq or rabbitmq; the built-in store is there already.")
        raise Problem("invalid_kind", detail, errors=[FieldError("/kind", detail)])
    address = check_address(kind, address)
    proxy_address = check_proxy_address(kind, proxy_address)
    try:
        with transaction.atomic():
            addresses = {"address": address, "proxy_address": proxy_address}
            cluster = Cluster.objects.create(name=name, kind=kind, **addresses, description=description, **checked_limits(limits))
            record(actor=actor, action="create", kind="cluster", name=name, after=_audited(cluster))
            change = Change(author=actor, message=f"Cluster “{name}” added.")
            registry.bring_many([(node_of(cluster), standing)], change=change)
    except IntegrityError:
        raise conflict(
            "duplicate_name", _("There is a cluster “{name}” already.").format(name=name), hint=_("Choose another name.")
        ) from None
    return cluster


def change(
    *,
    actor: User,
    cluster: Cluster,
    address: str,
    description: str,
    proxy_address: str | None = None,
    change: Change | None = None,
    **limits: int | None,
) -> Cluster:
    """Change the version at hand; when an address differs, every node that depends on the cluster is set again.

    A `proxy_address` that is None stays as it is. Of the limits (`LIMITS`) those that are given; None: not known. A `change` that is
    given is what it releases by, as a part of something larger. Problems: invalid_address, invalid, state_changed.
    """
    address = check_address(cluster.kind, address)
    proxy_address = cluster.proxy_address if proxy_address is None else check_proxy_address(cluster.kind, proxy_address)
    with transaction.atomic():
        # The row lock keeps two changes of one cluster apart; nothing but the database is touched while it is held.
        found = Cluster.objects.select_for_update().filter(pk=cluster.pk, version=cluster.version).first()
        if found is None:
            raise changed_meanwhile()
        cluster = found
        before = _audited(cluster)
        moved = (address, proxy_address) != (cluster.address, cluster.proxy_address)
        columns = {"address": address, "proxy_address": proxy_address, "description": description, **checked_limits(limits)}
        if all(getattr(cluster, name) == value for name, value in columns.items()):
            return cluster
        Cluster.objects.filter(pk=cluster.pk).update(version=F("version") + 1, changed_at=timezone.now(), **columns)
        cluster.refresh_from_db()
        record(actor=actor, action="change", kind="cluster", name=cluster.name, before=before, after=_audited(cluster))
        if moved:
            message = f"Address of “{cluster.name}”: {before['address']} became {address}."
            if address == before["address"]:
                message = f"Proxies of “{cluster.name}”: {before['proxy_address'] or 'none'} became {proxy_address or 'none'}."
            change = change or Change(author=actor, message=message)
            _publish(cluster, change)
            registry.republish(paths=dependent_paths(cluster), change=change)
    return cluster


def delete(*, actor: User, cluster: Cluster) -> None:
    """Delete a cluster that has no topics; its node goes. Problems: builtin_cluster, in_use (listing what does), state_changed.

    And what rooms above say (`needs`).
    """
    if cluster.kind == Kind.BUILTIN:
        raise conflict("builtin_cluster", _("The built-in store is part of mqadmin and cannot be deleted."))
    if gated := gates.paths_on(cluster.name):
        detail = _("Instances are gated to “{name}”.").format(name=cluster.name)
        raise conflict(
            "in_use", detail, hint=_("Promote or abandon first: {names}").format(names=", ".join(gated[:10])), extra={"gates": gated}
        )
    for check in needs:
        check(cluster)
    before, path = _audited(cluster), cluster.zookeeper_path
    with transaction.atomic():
        deletion.delete(cluster)
        record(actor=actor, action="delete", kind="cluster", name=cluster.name, before=before)
        registry.retract(path=path, change=Change(author=actor, message=f"Cluster “{cluster.name}” deleted."))


def dependent_paths(cluster: Cluster) -> list[str]:
    """The nodes of topics and groups that name this cluster, for all or for those that are gated."""
    found = [path for paths_of in dependants for path in paths_of(cluster)]
    return [*dict.fromkeys([*found, *gates.paths_on(cluster.name)])]


def node_of(cluster: Cluster) -> registry.Node:
    """What SDKs should see; serverIps stays as it is for ever: any difference restarts ZMS clients."""
    zms = {"bootAddr": cluster.address, "brokerType": cluster.kind, "serverIps": ""}
    own = {"mqadmin.proxyAddr": cluster.proxy_address} if cluster.proxy_address else {}
    return registry.Node(path=cluster.zookeeper_path, zms=zms, own=own)


def _publish(cluster: Cluster, change: Change) -> None:
    registry.publish_many([node_of(cluster)], change=change)


def checked_limits(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """The limits if they are numbers that make sense. Problem: `invalid`."""
    if unknown := set(limits) - set(LIMITS):
        raise TypeError(f"no such limits: {sorted(unknown)}")
    wrong = [name for name, value in limits.items() if value is not None and not 0 <= value <= LIMITS[name]]
    if wrong:
        errors = [FieldError(f"/{name}", _("A number from 0 to {most}.").format(most=f"{LIMITS[name]:,}")) for name in wrong]
        raise Problem("invalid", errors[0].detail if len(errors) == 1 else _("Some fields are not right."), errors=errors)
    return dict(limits)


def _audited(cluster: Cluster) -> dict[str, Any]:
    return {
        "kind": cluster.kind,
        "address": cluster.address,
        "proxy_address": cluster.proxy_address,
        "description": cluster.description,
        **{name: getattr(cluster, name) for name in LIMITS},
    }
