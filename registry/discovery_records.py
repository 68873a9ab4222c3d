"""Writes down what stands in the service registries; any number of registrars do so at once, and the first to see something tells it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce, Now

from registry.discovery_models import Registration, Service, ServiceEvent, WorkerId
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

Row = TypeVar("Row")
CHUNK = 500
#: Services of a registry that are recorded: whoever can write into its tree could fill the database otherwise. Those beyond are counted.
MAX_SERVICES = 20_000
#: Registrations that are gone are kept for a week, and this many of a service; what happened for a month, and so many a service.
KEEP_DAYS = 7
KEEP_GONE = 200
KEEP_EVENT_DAYS = 30
KEEP_EVENTS = 500


def note(services: Collection[Mapping[str, str]]) -> list[str]:
    """See that there is a row for each of these services, whose nodes stand. Returns the paths of those that there is no room for."""
    known = dict(Service.objects.filter(path__in=[row["path"] for row in services]).values_list("path", "standing"))
    new, refused = _that_find_room([row for row in services if row["path"] not in known])
    Service.objects.bulk_create([Service(**row) for row in new], ignore_conflicts=True, batch_size=CHUNK)
    back = [path for path, standing in known.items() if not standing]
    Service.objects.filter(path__in=back).update(standing=True)
    return refused


def _that_find_room(new: Sequence[Mapping[str, str]]) -> tuple[list[Mapping[str, str]], list[str]]:
    """Of new services those that may be recorded, and the paths of the others; those gone for longest make room."""
    taken, refused = [], []
    for root in sorted({row["root"] for row in new}):
        here = [row for row in new if row["root"] == root]
        room = MAX_SERVICES - Service.objects.filter(root=root).count()
        if room < len(here):
            gone = _gone().filter(root=root).order_by("last", "pk").values_list("pk", flat=True)[: len(here) - max(room, 0)]
            _gone().filter(pk__in=list(gone)).delete()
            room = MAX_SERVICES - Service.objects.filter(root=root).count()
        room = max(room, 0)
        taken += here[:room]
        refused += [row["path"] for row in here[room:]]
    return taken, refused


def record(found: Sequence[dict[str, Any]], services: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Write down registrations as they were read, a chunk at most; `services` has the row of each service by its path.

    Returns the paths of services that there is no room for: what is registered with them is left out.
    """
    known = dict(Registration.objects.filter(key__in=[row["key"] for row in found]).values_list("key", "mzxid"))
    news = [row for row in found if known.get(row["key"], -1) < row["mzxid"]]
    if not news:  # another registrar was first
        return []
    paths = {row["service"] for row in news}
    refused = note([services[path] for path in paths])
    with transaction.atomic():
        ids = _locked(Q(path__in=paths))
        rows = [{**row, "service_id": ids[row["service"]]} for row in news if row["service"] in ids]
        _run("record_registrations", found=json.dumps(rows))
        _run("count_registrations", ids=list(ids.values()))
    return refused


def end(gone: Mapping[str, str], *, zxid: int) -> None:
    """Write down that these registrations, by their keys, are gone since before that transaction, and how each left."""
    for keys in _chunks(list(gone)):
        online = Registration.objects.online().filter(key__in=keys, czxid__lte=zxid)
        services = set(online.values_list("service_id", flat=True))
        if not services:
            continue
        with transaction.atomic():
            ids = _locked(Q(pk__in=services))
            _run("end_registrations", gone=json.dumps([{"key": key, "departure": gone[key]} for key in keys]), zxid=zxid)
            _run("count_registrations", ids=list(ids.values()))


def witnesses(sessions: Collection[str], except_for: Collection[str], *, most: int) -> list[str]:
    """Return the paths of other nodes of these sessions, as many of each at most, without those of these keys."""
    with connection.cursor() as cursor:
        cursor.execute(sql("witnesses"), {"sessions": list(sessions), "gone": list(except_for), "most": most})
        return [path for (path,) in cursor.fetchall()]


def describe(service: Mapping[str, str], details: Mapping[str, Any], *, zxid: int) -> bool:
    """Write down what a service's own nodes say; a new leader goes into its history. False: there is no room for the service."""
    seen = Service.objects.filter(path=service["path"]).values_list("details", "standing").first()
    if seen == (details, True):
        return True
    if note([service]):
        return False
    with transaction.atomic():
        row = Service.objects.select_for_update(no_key=True).filter(path=service["path"]).first()
        if row is None or row.zxid > zxid:
            return True
        leader, token = details.get("leader", ""), details.get("token")
        if (leader, token) != (row.leader, row.leader_token):
            row.leader, row.leader_token, row.leader_since = leader, token, Now() if leader else None
            ServiceEvent.objects.create(service=row, kind=ServiceEvent.Kind.LEADER, name=leader)
        row.details, row.zxid = dict(details), zxid
        row.save(update_fields=["details", "zxid", "leader", "leader_token", "leader_since"])
        _run("count_registrations", ids=[row.pk])
    return True


def end_services(paths: Collection[str], *, zxid: int) -> None:
    """Write down that the nodes of these services are gone; their registrations go by themselves, and the rows with their history."""
    rows = Service.objects.filter(path__in=list(paths), standing=True, zxid__lte=zxid)
    led = list(rows.exclude(leader="").values_list("path", "root", "layout", "name"))
    for path, root, layout, name in led:
        describe({"path": path, "root": root, "layout": layout, "name": name}, {}, zxid=zxid)
    Service.objects.filter(path__in=list(paths), standing=True, zxid__lte=zxid).update(standing=False)


def record_workers(rows: Sequence[dict[str, Any]], gone: Collection[str]) -> None:
    """Write down the ids of hosts, and forget those whose nodes are gone: a number is given once and stays with its host."""
    made = [WorkerId(**{**row, "since": moment(row["since"])}) for row in rows]
    fields = ["number", "mzxid", "since"]
    known = dict(WorkerId.objects.filter(znode__in=[row.znode for row in made]).values_list("znode", "mzxid"))
    news = [row for row in made if known.get(row.znode, -1) < row.mzxid]
    WorkerId.objects.bulk_create(news, update_conflicts=True, unique_fields=["znode"], update_fields=fields, batch_size=CHUNK)
    if gone:
        WorkerId.objects.filter(znode__in=list(gone)).delete()


def forget_history(root: str, *, after: int) -> None:
    """Transactions later than the server has ever seen: its data was wiped or restored. Forget their order."""
    Service.objects.filter(root=root, zxid__gt=after).update(zxid=0)
    Registration.objects.filter(service__root=root, mzxid__gt=after).update(mzxid=0, czxid=0)
    WorkerId.objects.filter(znode__startswith=f"{root}/", mzxid__gt=after).update(mzxid=0)


def forget_old() -> None:
    """Delete what has been gone for long, and of histories what is old or too much."""
    _run("forget_registrations", days=KEEP_DAYS, keep=KEEP_GONE)
    _run("forget_service_events", days=KEEP_EVENT_DAYS, keep=KEEP_EVENTS)
    _gone().filter(last__lt=Now() - timedelta(days=KEEP_EVENT_DAYS)).delete()


def _gone() -> Any:
    """Services whose nodes are gone, with everybody who was registered; `last` is when something was there last."""
    rows = Service.objects.alias(last=Coalesce("offline_at", "first_seen")).filter(standing=False, online=False)
    return rows.exclude(registrations__online=True)


def moment(milliseconds: int) -> datetime:
    """A time of ZooKeeper's."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def _locked(which: Q) -> dict[str, int]:
    """The ids of services by path, locked in the same order by everybody: counts are then those of all registrations committed."""
    rows = Service.objects.select_for_update(no_key=True).filter(which).order_by("pk").values_list("path", "pk")
    return dict(rows)


def _run(name: str, **values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql(name), values)


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
