"""The full check: what Postgres wants, what ZooKeeper holds and what the brokers know, node by node, as an operation.

A registrar reads ZooKeeper, with no transaction open, and leaves what it found in a row; workers compare it with the brokers and settle the
items. An item that fails is a difference, with what to do about it. The check itself repairs nothing: drift that it comes upon is marked,
and goes by its tree's policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.errors import Problem, conflict
from core.operations import kinds
from core.operations import services as operations
from core.operations.models import OPEN, Operation
from registry.models import DriftPolicy, Publication, RegistrarHeartbeat, TreeCheck
from registry.roots import ROOTS, root_of

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from accounts.models import User

KIND = "registry.check"
PERMISSION = "registry.change_drift"
TREES, NODES, STRAYS = "trees", "nodes", "strays"
#: What a registrar has found is used for so long; then it looks again.
FRESH = timedelta(seconds=30)
SHOWN = 20

#: By the name of a tree: of the things behind these paths, those that their broker knows otherwise, with what differs, in words. What has
#: no broker with a driver is not among them. Rooms above enter themselves.
surveys: dict[str, Callable[[Sequence[str]], Mapping[str, str]]] = {}
#: By what people call them: what brokers have that nobody knows. Rooms above enter themselves.
strays: dict[str, Callable[[], Sequence[str]]] = {}


def start(*, actor: User | None, reason: str = "") -> Operation:
    """Compare everything. Problems: forbidden; check_running, since a second one at the same time tells nothing more."""
    with transaction.atomic():
        running = Operation.objects.filter(kind=KIND, state__in=OPEN).first()
        if running is not None:
            raise conflict("check_running", _("A full check is running already."), extra={"operation": str(running.uid)})
        paths = Publication.objects.exclude(generation=0).filter(Q(deleted=False) | ~Q(node_version=None)).order_by("path")
        items = [
            *(operations.NewItem(name, step=0) for name in ROOTS),
            *(operations.NewItem(path, step=1) for path in paths.values_list("path", flat=True)),
            *(operations.NewItem(name, step=2) for name in sorted(strays)),
        ]
        return operations.start(actor=actor, kind=KIND, title=_("Full check"), items=items, params={}, reason=reason)


def _perform(actor: User | None, item: kinds.Item, params: kinds.Params) -> None:
    if (problem := _perform_many(actor, [item], params)[0]) is not None:
        raise problem


def _perform_many(actor: User | None, items: Sequence[kinds.Item], params: kinds.Params) -> Sequence[Problem | None]:  # noqa: ARG001
    keys = [item.key for item in items]
    if items[0].step == STRAYS:
        return [_strays(key) for key in keys]
    found = {check.tree: check for check in _fresh(items[0].operation_id).exclude(done_at=None).order_by("pk")}
    if items[0].step == TREES:
        return [_unknown(found.get(key)) for key in keys]
    policies = dict(DriftPolicy.objects.values_list("name", "policy"))
    brokers: dict[str, str] = {}
    for name, survey in surveys.items():
        brokers |= survey([key for key in keys if root_of(key) == name])
    return [_node(key, found.get(root_of(key)), policies) or _broker(brokers.get(key)) for key in keys]


def _unknown(check: TreeCheck | None) -> Problem | None:
    if check is None or not check.unknown:
        return None
    shown = ", ".join(check.unknown[:SHOWN])
    detail = _("Nodes that mqadmin does not know stand here ({n}): {paths}.").format(n=len(check.unknown), paths=shown)
    return conflict("unknown_nodes", detail, hint=_("Import what is in use, delete by hand what is not."))


def _node(path: str, check: TreeCheck | None, policies: Mapping[str, str]) -> Problem | None:
    kind = check.differing.get(path) if check else None
    if kind is None:
        return None
    waits = policies.get(root_of(path)) == DriftPolicy.Policy.ALERT
    drift = _("Decide on it under “Drift”.") if waits else _("The registrars repair it; if they cannot, its publication says why.")
    match kind:
        case "missing":
            return conflict("node_missing", _("The node is not in ZooKeeper."), hint=drift)
        case "pending":
            hint = _("Its publication says what it waits for.")
            return conflict("node_pending", _("The last change is not in ZooKeeper yet; what stands there is the one before."), hint=hint)
        case "left":
            hint = _("Instances may still be online below it: it goes when they are gone.")
            return conflict("node_left", _("What stood here is retired, and the node is still in ZooKeeper."), hint=hint)
        case _:
            return conflict("node_changed", _("The node holds something else in ZooKeeper than Postgres wants."), hint=drift)


def _broker(differs: str | None) -> Problem | None:
    if not differs:
        return None
    hint = _("Suspend and resume it, or change it and back: that tells the broker again. If it stays so, it is a fault of mqadmin.")
    return conflict("broker_differs", _("The broker knows it otherwise: {what}.").format(what=differs), hint=hint)


def _strays(name: str) -> Problem | None:
    found = strays[name]() if name in strays else []
    if not found:
        return None
    detail = _("Only the broker knows these ({n}): {names}.").format(n=len(found), names=", ".join(found[:SHOWN]))
    return conflict("broker_strays", detail, hint=_("They are left as they are; a restored database may lack what was made since."))


def _fresh(operation_id: int) -> QuerySet[TreeCheck, TreeCheck]:
    return TreeCheck.objects.filter(operation_id=operation_id).filter(Q(done_at=None) | Q(done_at__gt=Now() - FRESH))


def _guard(operation: Operation, between: bool) -> kinds.Wait | None:
    """Ask registrars for what stands in ZooKeeper, and wait for it."""
    if between:
        return None
    asked = {check.tree: check for check in _fresh(operation.pk)}
    TreeCheck.objects.bulk_create(TreeCheck(operation=operation, tree=name) for name in ROOTS if name not in asked)
    left = [name for name in ROOTS if name not in asked or asked[name].done_at is None]
    if not left:
        return None
    if not RegistrarHeartbeat.objects.alive().filter(zookeeper="connected").exists():
        return kinds.Wait(_("No registrar is connected to ZooKeeper, so nobody can look."), seconds=2)
    return kinds.Wait(_("A registrar looks at ZooKeeper."), seconds=0.3)


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Full check"),
        permission=PERMISSION,
        perform=_perform,
        perform_many=_perform_many,
        steps=(
            kinds.Step(TREES, gettext_lazy("Look at ZooKeeper")),
            kinds.Step(NODES, gettext_lazy("Compare each node with Postgres and the brokers")),
            kinds.Step(STRAYS, gettext_lazy("Look for what only the brokers know")),
        ),
        chunk=2000,
        guard=_guard,
    )
)
