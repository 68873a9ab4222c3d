"""What the rooms above say: publish this here, retract that; in their own transaction. ZooKeeper is written later, by a registrar."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from core.errors import Problem, conflict
from mqadmin_sdk.zk import properties
from registry import releases, rendering
from registry.discovery_records import MAX_SERVICES
from registry.models import Instance, Publication, RegistrarHeartbeat
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from django.db.models import QuerySet

    from registry.releases import Change
    from registry.trees import Standing

#: A node larger than this is refused before it is stored (ZooKeeper's own limit is 1 MB, and a value over it costs the connection).
MAX_NODE_BYTES = 512 * 1024
CHANNEL = "mqadmin_registry"
#: What rooms above have to end in time, also while no Celery runs: each registrar calls these every second, whoever else does.
sweeps: list[Callable[[], object]] = []


@dataclass(frozen=True, slots=True)
class Node:
    """What a node should hold: the keys of ZMS in their order, then our own; `requires` are the paths that must be published before it."""

    path: str
    zms: Mapping[str, str]
    own: Mapping[str, str]
    requires: Sequence[str] = ()
    #: Keys of others that it is to begin with where its path was never published; those of a path that was are kept as they are.
    foreign: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A node of any format: how its bytes are made of its row (which has the foreign keys) and a generation."""

    path: str
    kind: str
    render: Callable[[Publication, int], bytes]
    requires: Sequence[str]
    foreign: Sequence[Sequence[str]] = ()


def publish_properties(
    *, path: str, zms: Mapping[str, str], own: Mapping[str, str], requires: Sequence[str] = (), change: Change
) -> Publication:
    """Say what a node should hold: the keys of ZMS in their order, `mqadmin.generation`, our other keys, then the foreign keys kept.

    `requires` are the paths that must be published before this one becomes visible. Unchanged content makes no new generation, and so
    no release; a new generation is one, by `change`.
    Raises the problems `invalid_path`, `invalid_value` and `node_too_large`.
    """
    return publish_many([Node(path, zms, own, requires)], change=change)[0]


def publish_many(nodes: Sequence[Node], *, change: Change) -> list[Publication]:
    """The same for many nodes with few statements and one notification, all or none; in the order of `nodes`."""
    return _publish([_of_properties(node) for node in nodes], change)


def adopt_many(nodes: Sequence[tuple[Node, Standing]], *, change: Change) -> None:
    """Take over nodes that others have written, with the bytes that stand: nothing is written until something really changes.

    Each `node` is what we would write; what its keys do not include are foreign keys, which are kept. Generations go on above the embedded
    one. All or none. Problems: already_published, node_too_large, and those of `publish_properties`.
    """
    for node, _standing in nodes:
        _check_path(node.path)
    with transaction.atomic():
        rows = {row.path: row for row in _locked([node.path for node, _standing in nodes])}
        made = []
        for node, standing in sorted(nodes, key=lambda one: one[0].path):
            wanted = _of_properties(node)
            row = rows.get(node.path) or Publication(path=node.path)
            if row.published_digest and not row.deleted:
                raise _already_published(node.path)
            embedded = rendering.generation_in(wanted.kind, standing.data) or 0
            row.generation = row.published_generation = max(row.generation + 1 if row.generation else 0, embedded)
            row.foreign_keys = _foreign_in(node, standing)
            row.data, row.published_digest, row.node_version = standing.data, rendering.digest(standing.data), standing.version
            _check_size(row)
            row.format, row.root, row.requires, row.deleted = wanted.kind, _root(wanted), list(node.requires), False
            row.drifted_at, row.attempts, row.last_error = None, 0, ""
            row.changed_at = row.published_at = Now()
            if row.pk:
                row.save()  # a path that was retired: there are few of them
            else:
                made.append(row)
        try:
            with transaction.atomic():
                Publication.objects.bulk_create(made)
        except IntegrityError:
            raise _already_published(made[0].path) from None
        releases.record(change=change, paths=[node.path for node, _standing in nodes])


def bring_many(nodes: Sequence[tuple[Node, Standing | None]], *, change: Change) -> None:
    """Publish what comes from elsewhere: what stands in our own ZooKeeper is adopted, of other nodes the foreign keys come along."""
    standing = [(node, there) for node, there in nodes if there is not None and not there.elsewhere]
    fresh = [
        node if there is None else replace(node, foreign=_foreign_in(node, there))
        for node, there in nodes
        if there is None or there.elsewhere
    ]
    if standing:
        adopt_many(standing, change=change)
    if fresh:
        publish_many(fresh, change=change)


def _foreign_in(node: Node, standing: Standing) -> list[list[str]]:
    wanted = _of_properties(node)
    return rendering.foreign_in(wanted.kind, standing.data, wanted.render(Publication(path=node.path), 0), [])


def _already_published(path: str) -> Problem:
    return conflict("already_published", _("mqadmin publishes {path} already.").format(path=path))


def data_at(paths: Sequence[str]) -> dict[str, bytes]:
    """Return what stands, as far as is known, at those of the paths that we publish."""
    rows = Publication.objects.live().filter(path__in=list(paths)).exclude(published_digest="")
    return {path: bytes(data) for path, data in rows.values_list("path", "data")}


def _of_properties(node: Node) -> _Wanted:
    for key, value in [*node.zms.items(), *node.own.items()]:
        if not isinstance(value, str) or value == "null":
            raise Problem(
                "invalid_value",
                _("“{key}” would be published as {value}.").format(key=key, value=repr(value)),
                hint=_("Clients read the word null as a value. Leave it empty instead."),
            )

    def render(row: Publication, generation: int) -> bytes:
        try:
            return rendering.render_properties(zms=node.zms, own=node.own, foreign=row.foreign_keys, generation=generation)
        except properties.PropertiesError as error:
            raise Problem("invalid_value", str(error), hint=_("Leave out signs that are not valid Unicode text.")) from error

    return _Wanted(node.path, Publication.Format.PROPERTIES, render, node.requires, node.foreign)


def publish_json(*, path: str, document: Mapping[str, object], requires: Sequence[str] = (), change: Change) -> Publication:
    """Say what a node should hold as UTF-8 JSON; `generation` is added. Otherwise like `publish_properties`."""

    def render(_row: Publication, generation: int) -> bytes:
        return rendering.render_json(document, generation)

    return _publish([_Wanted(path, Publication.Format.JSON, render, requires)], change)[0]


def republish(*, paths: Sequence[str], change: Change) -> int:
    """Give the same content a new generation at each path; clients that watch only these nodes look again. Returns how many.

    A cluster's dependants need it after the cluster's address changed (ZMS clients never watch cluster nodes). Retired paths are left.
    """
    with transaction.atomic():
        rows = list(Publication.objects.select_for_update().live().filter(path__in=list(paths)).order_by("path"))
        for row in rows:
            row.generation += 1
            row.data = rendering.with_generation(row.format, bytes(row.data), row.generation)
            _due_at_once(row)
        Publication.objects.bulk_update(rows, ["data", *_CHANGED], batch_size=500)
        if rows:
            releases.record(change=change, paths=[row.path for row in rows])
            notify(rows[0].path if len(rows) == 1 else "")
    return len(rows)


def lock(*, paths: Sequence[str]) -> None:
    """Keep others from changing these publications until the transaction ends: what is read after this call is what gets published.

    Who publishes from rows that other verbs change as well takes it first. They are locked in the order of their paths.
    """
    list(_locked(paths).values_list("pk", flat=True))


def retract(*, path: str, change: Change) -> Publication | None:
    """Say that a node should be gone. What depends on it goes first; a node with live instances stays, with an error, until they are gone.

    The row stays as a tombstone: if the path is published again, its generations go on counting. None if it was never published.
    """
    with transaction.atomic():
        row = Publication.objects.select_for_update().filter(path=path).first()
        if row is not None and not row.deleted:
            row.deleted = True
            row.generation += 1
            _due_at_once(row)
            row.save(update_fields=["deleted", *_CHANGED])
            row.refresh_from_db(fields=["changed_at", "next_attempt_at"])
            releases.record(change=change, paths=[path])
            notify(path)
    return row


def retry(*, paths: Sequence[str]) -> int:
    """Let the registrars try these paths at once instead of at their next attempt. Returns how many had something to do."""
    with transaction.atomic():
        count = Publication.objects.dirty().filter(path__in=list(paths)).update(next_attempt_at=Now(), attempts=0)
        if count:
            notify("")
    return count


def publication_for(path: str) -> Publication | None:
    """Return the publication of a path, or None; `state`, `generation`, `published_generation` and `last_error` say how far it is."""
    return Publication.objects.filter(path=path).first()


def blockers(publication: Publication) -> list[str]:
    """Return the paths that this one waits for: what it requires and is not there yet, or, when retired, what still depends on it."""
    if publication.deleted:
        dependants = Publication.objects.depending_on(publication.path).exclude(deleted=True, published_generation=F("generation"))
        return sorted(dependants.values_list("path", flat=True))
    there = Publication.objects.standing().filter(path__in=publication.requires)
    return sorted(set(publication.requires) - set(there.values_list("path", flat=True)))


def online_instances(*, paths: Sequence[str]) -> list[Instance]:
    """Return the instances that follow these paths now. Ask `instances_known` whether the answer can be relied on."""
    return list(Instance.objects.online().at(paths))


def plain_clients(*, paths: Sequence[str]) -> list[Instance]:
    """Return the plain ZMS clients among the instances that follow these paths now."""
    return list(Instance.objects.online().at(paths).filter(plain=True))


def count_online(*, paths: Sequence[str]) -> tuple[int, int]:
    """How many instances follow these paths now, and how many of them are plain ZMS clients. Ask `instances_known` as well."""
    counted = Instance.objects.online().at(paths).aggregate(online=Count("pk"), plain=Count("pk", filter=Q(plain=True)))
    return int(counted["online"]), int(counted["plain"])


def instances_known() -> bool:
    """Whether a registrar has had its watch on the instances within the last seconds; if not, nobody knows who is online."""
    return RegistrarHeartbeat.objects.watching().exists()


def registries_known() -> dict[str, Any]:
    """What pages say of the service registries.

    `known`: whether a registrar has had its watch on them within the last seconds; if not, nobody knows who is registered.
    `unrecorded`: how many services of which registry there is no room for; `room`: for how many there is.
    """
    seen = list(RegistrarHeartbeat.objects.discovering().values_list("unrecorded", flat=True))
    beyond = {root: max(one.get(root, 0) for one in seen) for root in sorted({root for one in seen for root in one})}
    return {"known": bool(seen), "unrecorded": {root: n for root, n in beyond.items() if n}, "room": MAX_SERVICES}


def notify(path: str) -> None:
    """Wake the registrars when the transaction commits; an empty path stands for several. The sweep each second needs no call of this."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, path])


_UNASKED = ("published_at", "last_attempt_at", "next_attempt_at", "changed_at", "drifted_at", "held_at", "repairs_since")
_CHANGED = ("generation", "changed_at", "next_attempt_at", "attempts", "last_error")


def _due_at_once(row: Publication) -> None:
    """Set the database's own clock: a registrar compares it with the same one, whatever the hosts believe."""
    row.changed_at = row.next_attempt_at = Now()
    row.attempts, row.last_error = 0, ""


def _locked(paths: Sequence[str]) -> QuerySet[Publication]:
    """In the order of their paths, as a change of a cluster locks them."""
    return Publication.objects.select_for_update().filter(path__in=list(paths)).order_by("path")


def _publish(wanted: Sequence[_Wanted], change: Change) -> list[Publication]:
    for one in wanted:
        _check_path(one.path)
    with transaction.atomic():
        # Of thousands of rows the times that nobody asks for would cost more than all the rest.
        rows = {row.path: row for row in _locked([one.path for one in wanted]).defer(*_UNASKED)}
        if missing := sorted((one for one in wanted if one.path not in rows), key=lambda one: one.path):
            made = [
                Publication(path=one.path, root=_root(one), format=one.kind, foreign_keys=[list(pair) for pair in one.foreign])
                for one in missing
            ]
            Publication.objects.bulk_create(made, ignore_conflicts=True)
            rows |= {row.path: row for row in _locked([one.path for one in missing])}
        changed: list[Publication] = []
        for one in wanted:
            row = rows[one.path]
            if row.generation and not row.deleted and row.format == one.kind and one.render(row, row.generation) == bytes(row.data):
                if list(row.requires) != list(one.requires):
                    row.requires = list(one.requires)
                    row.save(update_fields=["requires"])
                continue
            row.generation += 1
            row.data = one.render(row, row.generation)
            _check_size(row)
            row.format, row.root, row.requires, row.deleted = one.kind, _root(one), list(one.requires), False
            changed.append(row)
        if changed:
            _advance(changed)
            releases.record(change=change, paths=[row.path for row in changed])
            notify(changed[0].path if len(changed) == 1 else "")
    return [rows[one.path] for one in wanted]


def _root(wanted: _Wanted) -> str:
    path = wanted.path
    return path.rsplit("/", 1)[0] if wanted.kind == Publication.Format.PROPERTIES else "/" + path.split("/")[1]


def _advance(rows: Sequence[Publication]) -> None:
    """Write new generations with one statement, due at once by the database's own clock: registrars compare with the same one."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql("advance"),
            {
                "ids": [row.pk for row in rows],
                "generations": [row.generation for row in rows],
                "data": [bytes(row.data) for row in rows],
                "formats": [str(row.format) for row in rows],
                "roots": [row.root for row in rows],
                "requires": [json.dumps(row.requires) for row in rows],
            },
        )
        times = {pk: (changed, due) for pk, changed, due in cursor.fetchall()}
    for row in rows:
        row.changed_at, row.next_attempt_at = times[row.pk]
        row.attempts, row.last_error = 0, ""


def _check_size(row: Publication) -> None:
    if len(row.data) > MAX_NODE_BYTES:
        raise Problem(
            "node_too_large",
            _("{path} would take {size} bytes; a node takes at most {limit}.").format(
                path=row.path, size=len(row.data), limit=MAX_NODE_BYTES
            ),
            status=422,
            hint=_("Shorten lists of addresses or subscriptions."),
        )


def _check_path(path: str) -> None:
    parts = path.split("/")
    wrong = (
        not path.startswith("/") or len(parts) < 3 or any(not part or part in {".", ".."} for part in parts[1:]) or not path.isprintable()
    )
    if wrong or parts[1] == "zookeeper":
        raise Problem("invalid_path", _("“{path}” is not a path in ZooKeeper.").format(path=path[:200]), hint=_("Check the name."))
