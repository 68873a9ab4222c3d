"""Asking for a rebuild: every node that should stand is looked at, and what is missing is written again, whatever the tree's policy.

Registrars do it, as they do after a wipe by themselves where the policy is to repair; this is the way to ask for it and to see its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db import connection, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.approvals.services import require_reason
from core.errors import Problem, conflict
from core.operations import kinds
from core.operations import services as operations
from registry import services
from registry.models import Drift, Edit, Publication, RegistrarHeartbeat
from registry.repairs import MISSING
from registry.statements import sql

if TYPE_CHECKING:
    from accounts.models import User
    from core.operations.models import Operation
    from registry.querysets import PublicationQuerySet

KIND = "registry.rebuild"
PERMISSION = "registry.change_publication"
MARK, WRITTEN = "mark", "written"


def start(*, actor: User | None, reason: str) -> Operation:
    """Let all nodes that should stand be looked at, clusters before what depends on them. Problems: reason_required, forbidden."""
    reason = require_reason(reason)
    with transaction.atomic():
        paths = list(Publication.objects.live().exclude(generation=0).order_by("path").values_list("path", flat=True))
        items = (operations.NewItem(path, step=step) for step in (0, 1) for path in paths)
        return operations.start(actor=actor, kind=KIND, title=_("Rebuild ZooKeeper"), items=items, params={}, reason=reason)


def _perform(actor: User | None, item: kinds.Item, params: kinds.Params) -> None:
    if (problem := _perform_many(actor, [item], params)[0]) is not None:
        raise problem


def _perform_many(actor: User | None, items: Sequence[kinds.Item], params: kinds.Params) -> Sequence[Problem | None]:  # noqa: ARG001
    paths = [item.key for item in items]
    if items[0].step == MARK:
        _mark(actor, paths)
        return [None] * len(items)
    rows = {row.path: row for row in Publication.objects.filter(path__in=paths).defer("data")}
    return [_not_there(rows.get(path)) for path in paths]


def _mark(actor: User | None, paths: list[str]) -> None:
    """Have these nodes looked at; one that is missing may be made, also where somebody deleted it and a person was to decide."""
    with connection.cursor() as cursor:
        cursor.execute(sql("mark_for_rebuild"), {"paths": paths, "missing": MISSING})
        released = [path for (path,) in cursor.fetchall()]
    gone = Drift.objects.waiting().filter(path__in=released, edit=Edit.DELETED)
    gone.update(outcome=Drift.Outcome.OPEN, decided_by=actor, reason=_("A rebuild was asked for."))
    services.notify("")


def _not_there(row: Publication | None) -> Problem | None:
    """Why a node is not as it should be, although registrars have looked at it."""
    if row is None or row.deleted or row.is_published:
        return None
    if row.is_held:
        return conflict(
            "drift_waits", _("Somebody else edited the node, and it waits for a person."), hint=_("Decide on it under “Drift”.")
        )
    why = row.last_error or _("Something that it depends on is not there.")
    return conflict("not_written", why, hint=_("Registrars go on trying; its publication says how it stands."))


def _guard(operation: Operation, between: bool) -> kinds.Wait | None:
    """Before the second step: as long as registrars still have nodes to look at, it waits for them."""
    if not between:
        return None
    marked = operation.items.filter(step=1).values("key")
    at_work = _at_work(Publication.objects.live().due_now().filter(path__in=marked, last_error=""))
    if not at_work:
        return None
    if not RegistrarHeartbeat.objects.alive().filter(zookeeper="connected").exists():
        return kinds.Wait(_("No registrar is connected to ZooKeeper: {n} nodes wait.").format(n=f"{at_work:,}"), seconds=2)
    return kinds.Wait(_("Registrars look at the nodes: {n} are left.").format(n=f"{at_work:,}"), seconds=0.5)


def _at_work(rows: PublicationQuerySet) -> int:
    """How many of these registrars can still do: what depends on a node that cannot be written waits for that."""
    stuck = set(Publication.objects.failing().values_list("path", flat=True))
    stuck |= set(Publication.objects.held().filter(last_foreign_edit=Edit.DELETED).values_list("path", flat=True))
    while stuck:
        more = set(rows.filter(requires__overlap=list(stuck)).values_list("path", flat=True)) - stuck
        if not more:
            break
        stuck |= more
    return rows.exclude(path__in=stuck).count()


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Rebuild of ZooKeeper"),
        permission=PERMISSION,
        perform=_perform,
        perform_many=_perform_many,
        steps=(kinds.Step(MARK, gettext_lazy("Have the nodes looked at")), kinds.Step(WRITTEN, gettext_lazy("See that they stand"))),
        chunk=1000,
        guard=_guard,
    )
)
