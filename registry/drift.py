"""What people decide about edits by others: the policy of each tree, and what becomes of an edit that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, F
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals.services import require_reason
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict
from registry import services
from registry.models import Drift, DriftPolicy, Edit, Publication
from registry.rendering import pairs_of
from registry.repairs import MISSING
from registry.roots import ROOTS

if TYPE_CHECKING:
    from accounts.models import User


def ensure_policies(**_kwargs: Any) -> None:
    """A row for each tree, as soon as the tables are there; until somebody decides otherwise edits are repaired at once."""
    DriftPolicy.objects.bulk_create([DriftPolicy(name=name) for name in ROOTS], ignore_conflicts=True)


def set_policy(*, actor: User, policy: DriftPolicy, to: str, reason: str) -> DriftPolicy:
    """Say what registrars do about edits by others in a tree. What waits there is repaired when waiting ends.

    Problems: reason_required, invalid, state_changed.
    """
    reason = require_reason(reason)
    if to not in DriftPolicy.Policy.values:
        detail = _("Choose repair or alert.")
        raise Problem("invalid", detail, errors=[FieldError("/policy", detail)])
    if policy.policy == to:
        return policy
    with transaction.atomic():
        same = DriftPolicy.objects.filter(pk=policy.pk, version=policy.version)
        if same.update(policy=to, version=F("version") + 1, changed_at=timezone.now()) != 1:
            raise changed_meanwhile()
        record(
            actor=actor,
            action="change",
            kind="drift policy",
            name=policy.name,
            before={"policy": policy.policy},
            after={"policy": to},
            reason=reason,
        )
        if to == DriftPolicy.Policy.REPAIR:
            below = Publication.objects.held().filter(path__startswith=f"{policy.root}/").order_by("path")
            # In the order of their paths, as everybody locks them.
            held = [pk for pk, _path in below.select_for_update(no_key=True).values_list("pk", "path")]
            Publication.objects.filter(pk__in=held).update(held_at=None, next_attempt_at=Now(), attempts=0)
            services.notify("")
    policy.refresh_from_db()
    return policy


def waiting() -> dict[str, int]:
    """How many nodes of each tree wait for a person."""
    counts = Publication.objects.held().order_by().values_list("root").annotate(n=Count("pk"))
    by_root = dict(counts)  # the room of shadow groups publishes with the first name of the path as its root
    return {name: by_root.get(root, 0) for name, (root, _depth) in ROOTS.items()}


def repair(*, actor: User, drift: Drift, reason: str) -> Drift:
    """Write ours over an edit that waits, and over no other: if the node is changed once more, that waits again.

    Problems: reason_required, drift_settled.
    """
    reason = require_reason(reason)
    with transaction.atomic():
        row = settle(actor=actor, drift=drift, outcome=Drift.Outcome.OPEN, reason=reason)
        record(
            actor=actor,
            action="repair",
            kind="publication",
            name=row.path,
            before=told(drift.format, drift.data),
            after=told(row.format, None if row.deleted else row.data),
            reason=reason,
        )
    drift.refresh_from_db()
    return drift


def settle(*, actor: User, drift: Drift, outcome: str, reason: str) -> Publication:
    """Decide an edit that waits, and let its node be written over; in the caller's transaction. Problem: drift_settled."""
    row = Publication.objects.select_for_update(no_key=True).filter(path=drift.path).first()
    values: dict[str, Any] = {"outcome": outcome, "decided_by": actor, "reason": reason}
    if outcome != Drift.Outcome.OPEN:
        values["settled_at"] = Now()
    if row is None or Drift.objects.waiting().filter(pk=drift.pk).update(**values) != 1:
        raise conflict(
            "drift_settled",
            _("This edit does not wait for a decision: it is settled, or the node was changed again."),
            hint=_("Look at the last edit of this node."),
        )
    row.overrules = MISSING if drift.edit == Edit.DELETED else drift.incident
    row.held_at = None
    Publication.objects.filter(pk=row.pk).update(overrules=row.overrules, held_at=None, next_attempt_at=Now(), attempts=0)
    services.notify(row.path)
    return row


def told(kind: str, data: Any) -> dict[str, Any]:
    """A node as the audit keeps it."""
    return {key or "data": value[:500] for key, value in pairs_of(kind, None if data is None else bytes(data)).items()}
