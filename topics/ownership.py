"""Handing topics and groups over to another owner, many at once with few statements."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts.models import User
from core.approvals.models import State
from core.approvals.services import changed, require_reason, require_state
from core.audit.services import in_one_statement, record
from core.errors import Problem


def as_owned(rows: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    """The rows with what `change_owners` needs of each."""
    return rows.select_related(None).only("name", "state", "version", "owner_id")


def change_owner(*, actor: User, kind: str, thing: Any, owner: User, reason: str) -> None:
    """Make another person answer for an active topic or group; a request that is not decided is edited instead.

    `kind` is the audit's word for it. Problems: wrong_state, reason_required, state_changed.
    """
    for problem in change_owners(actor=actor, kind=kind, things=[thing], owner=owner, reason=reason):
        if problem is not None:
            raise problem


def change_owners(*, actor: User, kind: str, things: Sequence[Any], owner: User, reason: str) -> list[Problem | None]:
    """The same for many of one kind, in one transaction; what stands in the way of each, None where nothing does."""
    reason = require_reason(reason)
    results: list[Problem | None] = []
    wanted: dict[int, Any] = {}
    for thing in things:
        try:
            require_state(thing=thing, allowed=(State.ACTIVE,), what="change-owner")
        except Problem as problem:
            results.append(problem)
            continue
        results.append(None)
        if thing.owner_id != owner.pk:
            wanted[thing.pk] = thing
    if not wanted:
        return results
    rows: Any = type(things[0])._default_manager  # noqa: SLF001 - Django's public name for it
    with transaction.atomic(), in_one_statement():
        # The version that was read is the one that is changed: of two people at once the second is told.
        standing = rows.select_for_update(no_key=True).filter(pk__in=wanted, state=State.ACTIVE).order_by("pk")
        locked = dict(standing.values_list("pk", "version"))
        won = [pk for pk, thing in wanted.items() if locked.get(pk) == thing.version]
        rows.filter(pk__in=won).update(owner_id=owner.pk, version=F("version") + 1, changed_at=timezone.now())
        before = dict(User.objects.filter(pk__in={wanted[pk].owner_id for pk in won}).values_list("pk", "username"))
        for pk in won:
            thing = wanted[pk]
            record(
                actor=actor,
                action="change owner",
                kind=kind,
                name=thing.name,
                before={"owner": before[thing.owner_id]},
                after={"owner": owner.get_username()},
                reason=reason,
            )
            thing.owner = owner
            thing.version += 1
    late = wanted.keys() - set(won)
    return [changed(State.ACTIVE) if thing.pk in late else problem for thing, problem in zip(things, results, strict=True)]
