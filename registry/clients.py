"""Applications without ZooKeeper: they register over REST and send heartbeats; who is silent for too long is evicted.

They are rows of the same table as the ephemeral nodes, so whoever asks who follows a topic or a group finds both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from django.db import connection
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from core.errors import Problem, conflict
from mqadmin_sdk.zk import paths, properties
from registry.models import Instance, Publication
from registry.statements import sql

if TYPE_CHECKING:
    from uuid import UUID

logger = structlog.get_logger(__name__)

#: How often a client beats, and after how long a silence it is gone.
HEARTBEAT = timedelta(seconds=5)
EVICT_AFTER = timedelta(seconds=120)
EVICTED, LEFT = "evicted", "left"  # the state of those that are gone


@dataclass(frozen=True, slots=True)
class Report:
    """What a client says of itself; None: as before."""

    generation: int | None = None
    state: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client should run. `configuration` and `clusters` are None when it says that it runs this generation already."""

    generation: int
    configuration: dict[str, str] | None
    clusters: dict[str, dict[str, str]] | None


def znode_of(client: UUID) -> str:
    """In the place of an ephemeral node's path."""
    return f"client:{client}"


def register(
    *, client: UUID, path: str, role: str, app: str, ip: str, name: str, sdk: str, pid: int | None, report: Report
) -> tuple[bool, Wanted]:
    """Make a client known as following a path; whether it is a new one, and what it should run.

    Registering again under the same id is harmless, and brings back one that was evicted. Problem: client_id_taken.
    """
    values = {
        "znode": znode_of(client), "path": path, "node": name, "ip": ip, "role": role, "sdk": sdk, "app": app, "pid": pid,
        "state": report.state or "running", "generation": report.generation, "error": report.error or "",
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(sql("register_client"), values)
        row = cursor.fetchone()
    if row is None:
        detail = _("This id is that of a client with another role or another topic or group.")
        raise conflict("client_id_taken", detail, hint=_("Choose a new UUID for each pair of a process and what it follows."))
    return bool(row[0]), wanted(path, report.generation)


def find(client: UUID) -> Instance | None:
    """The client with this id, online or gone."""
    return Instance.objects.filter(znode=znode_of(client)).first()


def beat(*, instance: Instance, report: Report) -> Wanted:
    """A client is alive and reports. Problem: client_evicted, also when it has said goodbye."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql("beat_client"),
            {"znode": instance.znode, "generation": report.generation, "state": report.state, "error": report.error},
        )
        if cursor.fetchone() is None:
            raise Problem(
                "client_evicted",
                _("This client was silent for more than {n} seconds, or has said goodbye.").format(n=int(EVICT_AFTER.total_seconds())),
                status=410,
                hint=_("Register again; the same id may be used."),
            )
    return wanted(instance.path, instance.applied_generation if report.generation is None else report.generation)


def leave(*, instance: Instance) -> None:
    """A client ends. Once more is harmless."""
    Instance.objects.filter(pk=instance.pk).gone(state=LEFT)


def evict() -> int:
    """Mark as gone who has been silent for too long; returns how many. Any number may do so at once: each finds its own."""
    gone = Instance.objects.filter(znode__startswith="client:", beat_at__lt=Now() - EVICT_AFTER).gone(state=EVICTED)
    if gone:
        logger.info("clients_evicted", count=len(gone))
    return len(gone)


def wanted(path: str, runs: int | None) -> Wanted:
    """What follows from the publication of a path, for a client that runs this generation."""
    row = Publication.objects.live().filter(path=path).only("format", "data", "generation", "requires").first()
    if row is None:  # never published: there is nothing to run
        return Wanted(0, None, None)
    if runs == row.generation:
        return Wanted(row.generation, None, None)
    named = [one for one in row.requires if one.startswith(f"{paths.CLUSTERS}/")]
    clusters = Publication.objects.live().filter(path__in=named).only("path", "format", "data")
    return Wanted(row.generation, _keys(row), {one.path.rpartition("/")[2]: _keys(one) for one in clusters})


def _keys(row: Publication) -> dict[str, str]:
    """The keys of a node, as ZooKeeper's clients read them."""
    data = bytes(row.data)
    if row.format == Publication.Format.JSON:
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in json.loads(data).items()}
    return dict(properties.loads(data))
