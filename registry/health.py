"""How far behind publication is, and what each registrar sees; from Postgres, so anybody may ask, and cheap enough to be asked often."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.utils.translation import gettext as _

from registry.models import RegistrarHeartbeat
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class PublicationHealth:
    """What is not in ZooKeeper yet. `held` waits for a person: no registrar is late with it, so it counts for no lag."""

    dirty: int
    failing: int
    drifted: int
    held: int
    lag: float  # seconds since the oldest change that a registrar has to write; 0: there is none
    oldest_path: str
    oldest_since: datetime | None

    @property
    def behind(self) -> timedelta:
        """The lag, for people."""
        return timedelta(seconds=self.lag)


def publication() -> PublicationHealth:
    """One statement; only rows that are dirty, drifted or held are read."""
    with connection.cursor() as cursor:
        cursor.execute(sql("publication_health"))
        row = cursor.fetchone()
    assert row is not None  # counts of nothing are a row, too
    return PublicationHealth(*row)


def registrars() -> Sequence[RegistrarHeartbeat]:
    """Those that were seen within the last minute, the oldest first; `is_alive` says whether they still are."""
    return list(RegistrarHeartbeat.objects.alive(within=timedelta(seconds=60)).order_by("started_at"))


def said(row: RegistrarHeartbeat) -> dict[str, Any]:
    """A registrar with its connection and its watch in the reader's language."""
    connections = {"connected": _("connected"), "suspended": _("suspended"), "lost": _("lost"), "refused": _("refused")}
    watches = {"live": _("live"), "comparing": _("comparing")}
    sees = row.is_alive and row.zookeeper == "connected"
    return {
        "row": row,
        "zookeeper": connections.get(row.zookeeper, _("not made yet")),
        "watch": watches.get(row.watch, _("none")) if sees else _("none"),
    }


def details() -> dict[str, Any]:
    """For probes, which need no login: numbers, no names."""
    found, running = publication(), [row for row in registrars() if row.is_alive]
    return {
        "lag_seconds": round(found.lag, 1),
        "dirty": found.dirty,
        "failing": found.failing,
        "drifted": found.drifted,
        "held": found.held,
        "registrars": len(running),
        "watching": sum(row.is_watching for row in running),
    }
