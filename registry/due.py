"""Rows that are due, read for writing: of thousands of them only what a write needs, and without a model's weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import connection

from registry.models import Publication
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime


@dataclass(slots=True)
class Due:
    """A publication as its node is to be written. `guards`: what was known of retirements before it was read (guarding.py)."""

    pk: int
    path: str
    data: bytes
    requires: Sequence[str]
    deleted: bool
    generation: int
    node_version: int | None
    drifted_at: datetime | None
    attempts: int
    fresh: bool = False  # a few moments old: the registrar that prefers its path takes it first
    guards: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_doubt(self) -> bool:
        """Whether its node has to be read before anything is written."""
        return self.drifted_at is not None or (self.deleted and self.node_version is None)


def due_of(row: Publication, guards: Mapping[str, int]) -> Due:
    """The same of a row that was read as a model."""
    return Due(
        row.pk,
        row.path,
        bytes(row.data),
        row.requires,
        row.deleted,
        row.generation,
        row.node_version,
        row.drifted_at,
        row.attempts,
        guards=guards,
    )


def read_due(guards: Mapping[str, int], *, limit: int, ids: Collection[int] | None = None) -> list[Due]:
    """Whose turn it is and whose order across paths allows it now; with `ids` of these only."""
    with connection.cursor() as cursor:
        cursor.execute(sql("due"), {"limit": limit, "ids": None if ids is None else list(ids)})
        found = [Due(*row) for row in cursor]
    for row in found:
        row.guards = guards
    return found


def turns(limit: int) -> list[tuple[int, str, bool]]:
    """Id, path and whether it is fresh of all whose turn it is, whatever their order across paths allows."""
    with connection.cursor() as cursor:
        cursor.execute(sql("turns"), {"limit": limit})
        return list(cursor)
