"""What people decide about edits by others: the policy of each tree, and what becomes of an edit that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, F
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from core.api.permissions import require
from core.approvals.services import require_reason
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict
from registry import releases, rendering, services
from registry.models import Drift, DriftPolicy, Edit, Publication
from registry.releases import Change
from registry.repairs import MISSING
from registry.rollbacks import rooms
from registry.roots import ROOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def adopt(*, actor: User, drift: Drift, reason: str, accept_warnings: bool = False) -> Drift:
    """Let what others wrote become what mqadmin wants: a change of the room's row, by the room's own verbs, with all their checks.

    Of the edit counts what it changed; keys that it left alone have the values that they have now. Keys of others are kept.
    Problems: reason_required, drift_settled; cannot_be_adopted, which names the keys; and what the room's verbs refuse.
    """
    reason = require_reason(reason)
    edited = _edited(drift)
    row = Publication.objects.filter(path=drift.path).first()
    room = rooms.get(row.root) if row is not None else None
    if row is None or room is None or row.deleted:
        raise cannot_be_adopted(_("Nothing of mqadmin stands at {path}.").format(path=drift.path))
    require(actor, room.permission)
    change = Change(author=actor, message=reason)
    values = {**rendering.values_in(row.format, bytes(row.data)), **edited}
    with transaction.atomic():
        # The room first: it locks what it changes in the order in which everybody does.
        if edited:
            room.restore(actor=actor, path=row.path, values=values, change=change, accept_warnings=accept_warnings)
        row = settle(actor=actor, drift=drift, outcome=Drift.Outcome.ADOPTED, reason=reason)
        now = rendering.values_in(row.format, bytes(row.data))
        left = {key: value for key, value in edited.items() if now.get(key) != value}
        if left:
            raise cannot_be_adopted(
                _("Not everything of this edit can be had: {keys}.").format(keys=", ".join(f"{k}: {v!r}" for k, v in left.items())),
                [FieldError(f"/{key}", _("It would be {value}.").format(value=repr(now.get(key)))) for key in left],
            )
        _keep_foreign(row, bytes(drift.data or b""), change)
        record(
            actor=actor,
            action="adopt",
            kind="publication",
            name=row.path,
            before={key: value for key, value in told(drift.format, drift.wanted).items() if key in edited},
            after=edited,
            reason=reason,
        )
    drift.refresh_from_db()
    return drift


def _edited(drift: Drift) -> dict[str, str]:
    """The keys of ours that an edit set to something else. Problem: cannot_be_adopted for what leaves nothing to adopt."""
    if drift.data is None or drift.size > len(drift.data):
        raise cannot_be_adopted(_("There is no node whose values could be had, or it is too large."))
    if drift.edit == Edit.CREATED:
        raise cannot_be_adopted(_("What stood here has been retired, and was created again by others."))
    found = rendering.pairs_of(drift.format, bytes(drift.data))
    if "" in found or not found:
        raise cannot_be_adopted(_("The node is not readable as what it should be."))
    differences = [d for d in drift.differences if d.key not in {rendering.GENERATION, rendering.JSON_GENERATION}]
    # A tool that does not know our own keys leaves them out, and means nothing by it.
    gone = [d.key for d in differences if d.kind == "missing" and not d.own]
    if gone:
        detail = _("The edit leaves out what a node of ours must have: {keys}.").format(keys=", ".join(gone))
        raise cannot_be_adopted(detail, [FieldError(f"/{key}", _("It is needed.")) for key in gone])
    return {d.key: str(d.found) for d in differences if d.kind == "changed"}


def _keep_foreign(row: Publication, data: bytes, change: Change) -> None:
    """Keep the keys of others as the edit has them, in a generation of their own if they differ."""
    pairs = rendering.foreign_in(row.format, data, bytes(row.data), row.foreign_keys)
    if pairs == [list(pair) for pair in row.foreign_keys]:
        return
    row.generation += 1
    row.data = rendering.with_generation(row.format, bytes(row.data), row.generation, pairs, row.foreign_keys)
    values = {"generation": row.generation, "data": row.data, "foreign_keys": pairs, "changed_at": Now()}
    Publication.objects.filter(pk=row.pk).update(**values)
    releases.record(change=change, paths=[row.path])


def cannot_be_adopted(detail: Any, errors: Sequence[FieldError] = ()) -> Problem:
    """What others wrote cannot become ours."""
    return Problem(
        "cannot_be_adopted",
        detail,
        status=409,
        hint=_("Repair the node, and make the change in mqadmin: there each value says why it is refused."),
        errors=errors,
    )


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
    return {key or "data": value[:500] for key, value in rendering.pairs_of(kind, None if data is None else bytes(data)).items()}
