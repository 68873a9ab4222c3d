"""Edits by others: written into the history, repaired within a budget or held for a person, foreign keys kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from registry import releases, rendering
from registry.models import Drift, DriftPolicy, Edit, Publication, Release
from registry.roots import root_of
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from django.db.models.expressions import CombinedExpression

    from mqadmin_sdk.zk import NodeData
    from registry.deciding import Decision

logger = structlog.get_logger(__name__)

#: More repairs of one path than this within the window mean that somebody repairs against us.
BUDGET = 5
WINDOW = timedelta(seconds=60)
#: Nodes below one root that mqadmin does not know: so many of them are written down, not more.
MAX_UNKNOWN = 1000
KEEP_DAYS = 90
KEEP_OF_PATH = 50
#: What a person's decision to write a deleted node again overrules.
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row, its node as it was read, and what follows from the two."""

    row: Publication
    node: NodeData | None
    decision: Decision

    @property
    def incident(self) -> str:
        """The name of this edit, the same for every registrar that sees it."""
        return incident_of(self.node, self.row)

    @property
    def overruled(self) -> bool:
        """Whether a person has decided that just this may be written over."""
        return self.row.overrules in {self.incident, MISSING if self.node is None else self.incident}


def incident_of(node: NodeData | None, row: Publication | None = None) -> str:
    """Name an edit by the node's last transaction; that of a deleted node is not known, so by what had been published."""
    if node is not None:
        return f"{node.stat.mzxid:x}@{node.stat.mtime}"
    return f"deleted@{row.published_at.isoformat() if row is not None and row.published_at else ''}"


def seconds_from_now(seconds: float) -> CombinedExpression:
    """A time on the database's clock."""
    return Now() + timedelta(seconds=seconds)


def take(sightings: Sequence[Sighting]) -> set[int]:
    """Write the edits down, and return the rows that may be written now: not those that wait for a person or are out of repairs."""
    if not sightings:
        return set()
    with transaction.atomic():
        return _take(_still_meant(sightings))


def _still_meant(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Those whose row has not moved on since it was read: a node that is ahead of an old row may be our own next write, and no edit."""
    rows = Publication.objects.select_for_update(no_key=True).filter(pk__in=[s.row.pk for s in sightings]).order_by("path")
    generations = dict(rows.values_list("pk", "generation"))
    return [s for s in sightings if generations.get(s.row.pk) == s.row.generation]


def _take(sightings: Sequence[Sighting]) -> set[int]:
    policies = dict(DriftPolicy.objects.values_list("name", "policy"))
    held = [s for s in sightings if policies.get(root_of(s.row.path)) == DriftPolicy.Policy.ALERT and not s.overruled]
    waits = {s.row.pk for s in held}
    free = [s for s in sightings if s.row.pk not in waits]
    # A node that nobody knew has got a row meanwhile: the history tells it as found.
    Drift.objects.unsettled().filter(outcome=Drift.Outcome.LEFT, path__in=[s.row.path for s in sightings]).delete()
    _write_down([_drift_of(s, waits=s.row.pk in waits) for s in sightings])
    # The policy may be another one than when the edit was seen first.
    now_waiting = Drift.objects.unsettled().filter(path__in=[s.row.path for s in held], outcome=Drift.Outcome.OPEN)
    now_waiting.update(outcome=Drift.Outcome.WAITING)
    Drift.objects.waiting().filter(path__in=[s.row.path for s in free]).update(outcome=Drift.Outcome.OPEN)
    _hold(held)
    allowed = _take_from_budget(free)
    for s in free:
        level = "warning" if s.row.pk in allowed else "error"
        word = "foreign_edit_repaired" if s.row.pk in allowed else "repair_budget_used_up"
        getattr(logger, level)(word, path=s.row.path, foreign_edit=s.decision.foreign_edit)
    return allowed


def _take_from_budget(sightings: Sequence[Sighting]) -> set[int]:
    if not sightings:
        return set()
    error = _(
        "Repaired {count} times within a minute, and changed again by somebody else each time. Is another control plane writing here?"
    ).format(count=BUDGET)
    with connection.cursor() as cursor:
        cursor.execute(
            sql("take_repairs"),
            {
                "ids": [s.row.pk for s in sightings],
                "edits": [s.decision.foreign_edit for s in sightings],
                "counts": [s.decision.foreign_edit != Edit.FOUND for s in sightings],
                "budget": BUDGET,
                "window": f"{WINDOW.total_seconds()} seconds",
                "error": error,
            },
        )
        return {pk for pk, used_up in cursor.fetchall() if not used_up}


def _hold(sightings: Sequence[Sighting]) -> None:
    if not sightings:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            sql("hold"),
            {
                "ids": [s.row.pk for s in sightings],
                "edits": [s.decision.foreign_edit for s in sightings],
                "drifted": [s.row.drifted_at for s in sightings],
            },
        )
    logger.warning("foreign_edits_wait_for_a_person", paths=[s.row.path for s in sightings[:20]], number=len(sightings))


# --- the history ------------------------------------------------------------------------------------------------------------


def _drift_of(sighting: Sighting, *, waits: bool) -> Drift:
    row = sighting.row
    drift = _drift(row.path, sighting.node)
    drift.edit = sighting.decision.foreign_edit
    drift.incident = sighting.incident
    drift.format = row.format
    drift.wanted = None if row.deleted else bytes(row.data)
    drift.wanted_generation = row.generation
    drift.outcome = Drift.Outcome.WAITING if waits else Drift.Outcome.OPEN
    return drift


def _drift(path: str, node: NodeData | None) -> Drift:
    if node is None:
        return Drift(path=path)
    stat = node.stat
    return Drift(
        path=path,
        incident=incident_of(node),
        node_mtime=moment(stat.mtime),
        mzxid=stat.mzxid,
        node_version=stat.version,
        session=f"{stat.ephemeralOwner:x}" if stat.ephemeralOwner else "",
        data=node.data[: Drift.KEPT_BYTES],
        size=len(node.data),
    )


def moment(milliseconds: int) -> datetime | None:
    """A time of ZooKeeper; None if it is none that can be stored."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _write_down(drifts: Sequence[Drift]) -> None:
    """Add what is new; of the same path what was open before has been changed again."""
    incidents = {drift.path: drift.incident for drift in drifts}
    open_ones = Drift.objects.unsettled().filter(path__in=incidents).values_list("pk", "path", "incident")
    stale = [pk for pk, path, incident in open_ones if incident != incidents[path]]
    if stale:
        Drift.objects.unsettled().filter(pk__in=stale).update(outcome=Drift.Outcome.SUPERSEDED, settled_at=Now())
    Drift.objects.bulk_create(sorted(drifts, key=lambda drift: drift.path), ignore_conflicts=True)


def note_unknown(found: Mapping[str, NodeData], root: str) -> None:
    """Write down nodes that stand where ours would and that no publication owns. They are left as they are."""
    seen = dict(_unknown_below(root).values_list("path", "incident"))
    room = MAX_UNKNOWN - len(seen)
    drifts = []
    for path, node in found.items():
        drift = _drift(path, node)
        if seen.get(path) == drift.incident or (path not in seen and room <= 0):
            continue
        room -= path not in seen
        drift.edit, drift.outcome = Edit.UNKNOWN, Drift.Outcome.LEFT
        drift.format = Publication.Format.JSON if node.data[:1] == b"{" else Publication.Format.PROPERTIES
        drifts.append(drift)
    if drifts:
        with transaction.atomic():
            _write_down(drifts)
        logger.warning("unknown_nodes_seen", root=root, paths=[drift.path for drift in drifts[:20]], number=len(drifts))


def forget_unknown(*, root: str = "", paths: Iterable[str] | None = None, except_for: Iterable[str] = ()) -> None:
    """Such nodes are gone: those at these paths, or all below a root but some."""
    gone = _unknown_below(root).exclude(path__in=list(except_for)) if paths is None else _unknown_below("").filter(path__in=list(paths))
    if paths is None or list(paths):
        gone.update(outcome=Drift.Outcome.UNDONE, settled_at=Now())


def _unknown_below(root: str) -> Any:
    return Drift.objects.unsettled().filter(outcome=Drift.Outcome.LEFT, path__startswith=f"{root}/")


def forget_old() -> int:
    """Delete what was settled long ago, and of a path at which much happens all but the last; what waits for a person stays."""
    settled = Drift.objects.exclude(settled_at=None)
    count = settled.filter(settled_at__lt=Now() - timedelta(days=KEEP_DAYS)).delete()[0]
    with connection.cursor() as cursor:
        cursor.execute(sql("trim_drift"), {"keep": KEEP_OF_PATH})
        return count + int(cursor.rowcount)


# --- what becomes of the row ----------------------------------------------------------------------------------------------------


def absorb(sighting: Sighting) -> bool:
    """Keep keys of unknown origin: they become part of what is desired, in a new generation."""
    row, decision = sighting.row, sighting.decision
    pairs = [list(pair) for pair in decision.foreign_keys]
    names = ", ".join(key for key, _value in pairs[:20])
    found = f"Keys of others were found in the node and are kept: {names}."
    with transaction.atomic():
        if not _advance(row, row.generation + 1, decision, pairs, found if pairs else "Others took their keys out of the node."):
            return False
        drift = Drift.objects.unsettled().filter(path=row.path, incident=sighting.incident)
        drift.update(outcome=Drift.Outcome.KEPT, settled_at=Now())
    logger.info("foreign_keys_kept", path=row.path)
    return True


def jump_ahead(sighting: Sighting) -> bool:
    """Go past a generation that this database never gave (it was restored, or somebody made it up): readers never see it go backwards."""
    row, decision = sighting.row, sighting.decision
    node = decision.generation or 0
    pairs = rendering.foreign_in(row.format, decision.foreign_data or b"", bytes(row.data), row.foreign_keys)
    if not Publication.objects.filter(pk=row.pk, generation__lt=node).exists():
        return False  # the row has moved on meanwhile: a later round publishes it
    found = f"The node carried generation {node}, which was never given here; the last one was {row.generation}."
    logger.warning("node_ahead_of_database", path=row.path, node_generation=node)
    return _advance(row, node + 1, decision, pairs, found)


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
