"""Foreign edits: recorded so that they can be seen, repaired within a budget, foreign keys kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from django.db import connection, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from registry import releases, rendering
from registry.models import Publication, Release

if TYPE_CHECKING:
    from django.db.models.expressions import CombinedExpression

    from registry.deciding import Decision

logger = structlog.get_logger(__name__)

#: More repairs of one path than this within the window mean that somebody repairs against us.
BUDGET = 5
WINDOW = timedelta(seconds=60)


def seconds_from_now(seconds: float) -> CombinedExpression:
    """A time on the database's clock."""
    return Now() + timedelta(seconds=seconds)


def within_budget(row: Publication, decision: Decision) -> bool:
    """Record a foreign edit and take one repair from the path's budget; False, with an error on the row, when it is used up."""
    in_window = Q(repairs_since__gt=Now() - WINDOW)
    # A node that merely stood there before our first publication is no fight.
    counts = bool(decision.foreign_edit) and decision.foreign_edit != "found"
    allowed = Publication.objects.filter(pk=row.pk)
    if counts:
        allowed = allowed.exclude(in_window & Q(repairs__gte=BUDGET))
    changes: dict[str, object] = {
        "last_foreign_edit_at": Now(),
        "last_foreign_edit": decision.foreign_edit,
        "last_foreign_data": decision.foreign_data,
    }
    if counts:
        changes["repairs"] = Case(When(in_window, then=F("repairs") + 1), default=Value(1))
        changes["repairs_since"] = Case(When(in_window, then=F("repairs_since")), default=Now())
    if allowed.update(**changes):
        return True
    Publication.objects.filter(pk=row.pk).update(
        last_error=_(
            "Repaired {count} times within a minute, and changed again by somebody else each time. Is another control plane writing here?"
        ).format(count=BUDGET),
        last_attempt_at=Now(),
        next_attempt_at=F("repairs_since") + WINDOW,
        last_foreign_edit_at=Now(),
        last_foreign_data=decision.foreign_data,
    )
    logger.error("repair_budget_used_up", path=row.path, foreign_edit=decision.foreign_edit)
    return False


def absorb(row: Publication, decision: Decision) -> bool:
    """Keep keys of unknown origin: they become part of what is desired, in a new generation."""
    pairs = [list(pair) for pair in decision.foreign_keys]
    names = ", ".join(key for key, _value in pairs[:20])
    found = _("Keys of others were found in the node and are kept: {names}.").format(names=names)
    return _advance(row, row.generation + 1, decision, pairs, found if pairs else _("Others took their keys out of the node."))


def jump_ahead(row: Publication, decision: Decision) -> bool:
    """Go past a generation that this database never gave (it was restored, or somebody made it up): readers never see it go backwards."""
    node = decision.generation or 0
    pairs = rendering.foreign_in(row.format, decision.foreign_data or b"", bytes(row.data), row.foreign_keys)
    if not Publication.objects.filter(pk=row.pk, generation__lt=node).exists():
        return False  # the row has moved on meanwhile: a later round publishes it
    found = _("The node carried generation {found}, which was never given here; the last one was {last}.").format(
        found=node, last=row.generation
    )
    return _advance(row, node + 1, decision, pairs, found) and within_budget(row, decision)


def _advance(row: Publication, generation: int, decision: Decision, pairs: list[list[str]], found: str) -> bool:
    data = rendering.with_generation(row.format, bytes(row.data), generation, pairs, row.foreign_keys)
    with transaction.atomic():
        # Compare-and-set on the generation: a change made meanwhile wins and finds the foreign keys itself.
        advanced = Publication.objects.filter(pk=row.pk, generation=row.generation).update(
            generation=generation,
            data=data,
            foreign_keys=pairs,
            node_version=decision.version,
            drifted_at=None,
            next_attempt_at=Now(),
        )
        if advanced:
            releases.record(change=releases.Change(author=None, kind=Release.Kind.REPAIR, message=found), paths=[row.path])
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify('mqadmin_registry', %s)", [row.path])
    return bool(advanced)
