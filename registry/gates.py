"""Gated releases: some instances of a topic or group, by address or label, use another cluster, until it is promoted or abandoned.

A gate is a row, and what stands in the node follows from it (`keys`). Abandoning ends only when every instance that was gated is known
to be back, which a task looks at (`prove`); of plain ZMS clients nobody knows it, so a person closes those with a reason.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from core.api.permissions import require
from core.approvals.services import require_reason
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict
from mqadmin_sdk.zk import paths
from registry import rollbacks
from registry.models import Gate, Instance, Publication, Release
from registry.releases import Change
from registry.services import instances_known, online_instances

if TYPE_CHECKING:
    from accounts.models import User

logger = structlog.get_logger(__name__)

MAX_IPS, MAX_LABELS = 200, 10
#: An instance that came so long after the end of a gate has read the node as it is without: ZooKeeper's clock tells when it came.
MARGIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster as far as gates need it."""

    name: str
    kind: str


class Gated(Protocol):
    """What a room says about the things of it that can be gated."""

    permission: str

    def main(self, actor: User, path: str) -> Place:
        """The cluster of everybody else, with the thing locked. Problems: not_found, wrong_state."""

    def place(self, name: str) -> Place:
        """A cluster by name. Problem: invalid."""

    def places(self) -> list[tuple[str, str]]:
        """All clusters for a menu: name and label."""

    def publish(self, path: str, change: Change) -> None:
        """Write the node as it shall be now."""

    def abandoned(self, path: str, cluster: str, change: Change) -> None:
        """Write what shall stand now that nobody is told to use the gated cluster any more."""

    def promotion(self, actor: User, path: str, cluster: str, change: Change, *, accept_warnings: bool) -> Callable[[], object]:
        """What makes this the cluster of everybody, to be called when the gate is out of the way. Problem: promoted_with_topic."""


#: By root; the rooms above enter themselves when they are ready.
rooms: dict[str, Gated] = {}


@dataclass(frozen=True, slots=True)
class Member:
    """An instance that is, or was, gated.

    `gated`: on the gated cluster. `waiting`: it will be. `back`: on the main cluster again. `left`: offline. `unknown`: it does not
    report its cluster, as plain ZMS clients and those over REST.
    """

    instance: Instance
    status: str


Keys = tuple[dict[str, str], dict[str, str], list[str]]


def keys(path: str) -> Keys:
    """What a node says of its gate: the keys of ZMS, ours, and the paths that must be published first.

    Without labels there is no key of ours, so that all other nodes stay as they are.
    """
    return keys_at([path])[path]


def keys_at(paths: Sequence[str]) -> dict[str, Keys]:
    """The same of many nodes, in one statement."""
    gates = Gate.objects.open().filter(publication__path__in=list(paths)).select_related("publication")
    found = {gate.publication.path: _keys_of(gate) for gate in gates}
    return {path: found.get(path) or ({"gatedIps": "", "gatedCluster": ""}, {}, []) for path in paths}


def _keys_of(gate: Gate) -> Keys:
    own = {"mqadmin.gatedLabels": json.dumps(gate.labels, ensure_ascii=False, separators=(",", ":"))} if gate.labels else {}
    return {"gatedIps": ",".join(gate.ips), "gatedCluster": gate.cluster}, own, [paths.cluster(gate.cluster)]


def paths_on(cluster: str) -> list[str]:
    """The nodes whose gates name a cluster: they are set again when its address changes."""
    return list(Gate.objects.open().filter(cluster=cluster).order_by("publication__path").values_list("publication__path", flat=True))


def standing(path: str) -> Problem | None:
    """Why the cluster of what stands at a path cannot be changed now, if a gate is the reason."""
    return standing_at([path]).get(path)


def standing_at(paths: Sequence[str], *, but_for: str = "") -> dict[str, Problem]:
    """The same of many paths, by the path, in one statement; `but_for`: not gates that are open to this cluster."""
    rows = Gate.objects.standing().filter(publication__path__in=list(paths)).select_related("publication")
    return {gate.publication.path: _refusal(gate) for gate in rows if gate.state != Gate.State.OPEN or gate.cluster != but_for}


def _refusal(gate: Gate) -> Problem:
    path = gate.publication.path
    hint = _("Promote or abandon it first.") if gate.state == Gate.State.OPEN else _("Wait until its clients are back, or close it.")
    detail = _("{path} is gated to “{cluster}”: {state}.").format(path=path, cluster=gate.cluster, state=gate.get_state_display())
    return conflict("gated", detail, hint=hint, extra={"gate": gate.pk})


def gated(paths: Collection[str]) -> list[str]:
    """Those of the paths at which a gate stands, in their order."""
    rows = Gate.objects.standing().filter(publication__path__in=list(paths)).order_by("publication__path")
    return list(rows.values_list("publication__path", flat=True))


def check_none(path: str) -> None:
    """Refuse while a gate stands. Problem: gated."""
    if (problem := standing(path)) is not None:
        raise problem


rollbacks.obstacles.append(standing)


def gate(*, actor: User, path: str, cluster: str, reason: str, ips: Sequence[str] = (), labels: Mapping[str, str] | None = None) -> Gate:
    """Let the instances with these addresses, or with all of these labels, use another cluster.

    Problems: gated_without_cluster, gated_nobody, invalid, address_contained, same_cluster, broker_kind_differs, gated (already).
    """
    require(actor, "registry.add_gate")
    reason = require_reason(reason)
    if not cluster:
        detail = _("Name the cluster that they use: a gate without one crashes ZMS clients.")
        raise Problem("gated_without_cluster", detail, errors=[FieldError("/cluster", detail)])
    chosen, wanted = _checked_ips(ips), _checked_labels(labels or {})
    if not chosen and not wanted:
        detail = _("Choose instances by address, or by label.")
        raise Problem("gated_nobody", detail, errors=[FieldError("/ips", detail)])
    room = _room(path)
    require(actor, room.permission)
    with transaction.atomic():
        main, place = room.main(actor, path), room.place(cluster)
        if main.name == place.name:
            raise conflict("same_cluster", _("It is on “{name}” already.").format(name=place.name))
        instances = online_instances(paths=[path])
        _check_contained(chosen, instances)
        _check_kinds(main, place, chosen, instances)
        publication = Publication.objects.get(path=path)
        try:
            with transaction.atomic():
                row = Gate.objects.create(
                    publication=publication,
                    cluster=place.name,
                    main_cluster=main.name,
                    ips=chosen,
                    labels=wanted,
                    opened_by=actor.get_username(),
                    reason=reason,
                )
        except IntegrityError:
            raise standing(path) or changed_meanwhile() from None
        room.publish(path, Change(author=actor, message=reason, kind=Release.Kind.GATED))
        row.generation = _generation(publication)
        row.save(update_fields=["generation"])
        after = {"cluster": place.name, "ips": chosen, "labels": wanted}
        record(actor=actor, action="gate", kind="publication", name=path, after=after, reason=reason)
    return _again(row)


def promote(*, actor: User, gate: Gate, reason: str, accept_warnings: bool = False) -> Gate:
    """The gated cluster becomes that of everybody. Problems: wrong_state, promoted_with_topic, and those of a move."""
    require(actor, "registry.change_gate")
    reason = require_reason(reason)
    room = _room(gate.path)
    require(actor, room.permission)
    with transaction.atomic():
        room.main(actor, gate.path)
        change = Change(author=actor, message=reason)
        carry_out = room.promotion(actor, gate.path, gate.cluster, change, accept_warnings=accept_warnings)
        _end(gate, actor.get_username(), reason, Gate.State.OPEN, Gate.State.PROMOTED, closed=True)
        carry_out()
        Gate.objects.filter(pk=gate.pk).update(ended_generation=_generation(gate.publication))
        record(actor=actor, action="promote", kind="publication", name=gate.path, after={"cluster": gate.cluster}, reason=reason)
    return _again(gate)


def promoted_along(*, path: str, cluster: str, change: Change) -> None:
    """The topic of a gated group has come to the cluster that the group is gated to: the gate is promoted with it.

    Problem: gated, when the topic goes anywhere else.
    """
    found = Gate.objects.at(path).standing().select_related("publication").first()
    if found is None:
        return
    if found.state != Gate.State.OPEN or found.cluster != cluster:
        check_none(path)
    author = change.author.get_username() if change.author else "system"
    _end(found, author, change.message, Gate.State.OPEN, Gate.State.PROMOTED, closed=True)
    record(actor=change.author, action="promote", kind="publication", name=path, after={"cluster": cluster}, reason=change.message)


def abandon(*, actor: User, gate: Gate, reason: str) -> Gate:
    """Everybody uses the main cluster again; the gate stays until that is proven. Problem: wrong_state."""
    require(actor, "registry.change_gate")
    reason = require_reason(reason)
    room = _room(gate.path)
    require(actor, room.permission)
    with transaction.atomic():
        room.main(actor, gate.path)
        _end(gate, actor.get_username(), reason, Gate.State.OPEN, Gate.State.ABANDONING, closed=False)
        room.abandoned(gate.path, gate.cluster, Change(author=actor, message=reason, kind=Release.Kind.ROLLBACK))
        Gate.objects.filter(pk=gate.pk).update(ended_generation=_generation(gate.publication))
        record(actor=actor, action="abandon", kind="publication", name=gate.path, before={"cluster": gate.cluster}, reason=reason)
    return _again(gate)


def close(*, actor: User, gate: Gate, reason: str) -> Gate:
    """A person answers for it that the clients are back, since it cannot be proven. Problem: wrong_state."""
    require(actor, "registry.change_gate")
    reason = require_reason(reason)
    require(actor, _room(gate.path).permission)
    with transaction.atomic():
        not_proven = [member.instance.node for member in members(gate) if member.status in {"unknown", "gated"}]
        if Gate.objects.filter(pk=gate.pk, state=Gate.State.ABANDONING).update(state=Gate.State.CLOSED, closed_at=Now()) != 1:
            raise _wrong_state(gate)
        record(actor=actor, action="close", kind="publication", name=gate.path, after={"not_proven": not_proven}, reason=reason)
    return _again(gate)


def prove() -> int:
    """End those whose clients are all back; for the task. Any number may do so at once. Returns how many ended."""
    ended = 0
    for row in Gate.objects.filter(state=Gate.State.ABANDONING).select_related("publication"):
        if is_proven(row):
            done = Gate.objects.filter(pk=row.pk, state=Gate.State.ABANDONING).update(state=Gate.State.ABANDONED, closed_at=Now())
            ended += done
            if done:
                logger.info("gate_abandoned", path=row.path, cluster=row.cluster)
    return ended


def is_proven(gate: Gate) -> bool:
    """Whether nobody uses the gated cluster any more: the end stands in ZooKeeper, a registrar watches, all are back or gone."""
    return (
        instances_known()
        and _ended_at(gate) is not None
        and all(member.status in {"back", "left"} for member in members(gate, online=True))
    )


def members(gate: Gate, *, online: bool = False) -> list[Member]:
    """Who is gated, or was, by name, those that are not back first; with `online` only those that still run. Of a closed gate nobody."""
    if gate.closed_at is not None:
        return []
    rows = Instance.objects.at([gate.path]).order_by("app", "node")
    rows = rows.online() if online else rows.filter(offline_at=None) | rows.filter(offline_at__gte=gate.opened_at)
    ended = _ended_at(gate)
    found = [Member(row, _status(gate, row)) for row in rows if _is_member(gate, row, ended)]
    order = ["gated", "unknown", "waiting", "back", "left"]
    return sorted(found, key=lambda member: order.index(member.status))


def _is_member(gate: Gate, row: Instance, ended: Any) -> bool:
    if row.cluster == gate.cluster and not row.plain:
        return True
    if ended is not None and row.online and row.online_since > ended + MARGIN:
        return False  # it came when the gate had gone
    if row.plain:  # ZMS looks for its address in the list as text
        return bool(row.ip) and row.ip in ",".join(gate.ips)
    labels = row.labels or {}
    return row.ip in gate.ips or (bool(gate.labels) and all(labels.get(name) == value for name, value in gate.labels.items()))


def _status(gate: Gate, row: Instance) -> str:
    if not row.online:
        return "left"
    if row.plain or row.applied_generation is None or row.source == Instance.Source.REST:
        return "unknown"
    if gate.state in {Gate.State.OPEN, Gate.State.PROMOTED}:
        return "gated" if row.cluster == gate.cluster and row.applied_generation >= gate.generation else "waiting"
    ended = gate.ended_generation is not None and row.applied_generation >= gate.ended_generation
    return "back" if ended and row.cluster == gate.main_cluster else "gated"


def _ended_at(gate: Gate) -> Any:
    """When the end of the gate was seen in ZooKeeper; a later generation of the node is as good. None: not yet."""
    if gate.ended_generation is None:
        return None
    seen = Release.objects.filter(publication=gate.publication_id, generation__gte=gate.ended_generation).exclude(published_at=None)
    return seen.order_by("generation").values_list("published_at", flat=True).first()


def _end(gate: Gate, author: str, reason: str, old: str, new: str, *, closed: bool) -> None:
    values: dict[str, Any] = {"state": new, "ended_by": author, "end_reason": reason, "ended_at": Now()}
    if closed:
        values["closed_at"] = Now()
    if Gate.objects.filter(pk=gate.pk, state=old).update(**values) != 1:
        raise _wrong_state(gate)


def _wrong_state(gate: Gate) -> Problem:
    gate.refresh_from_db()
    detail = _("This gate is {state}.").format(state=gate.get_state_display())
    return conflict("wrong_state", detail, hint=_("Look at it again."), extra={"state": gate.state})


def _room(path: str) -> Gated:
    root = path.rpartition("/")[0]
    if root not in rooms:
        raise Problem("not_gateable", _("Only topics and consumer groups can be gated."))
    return rooms[root]


def _generation(publication: Publication) -> int:
    return Publication.objects.values_list("generation", flat=True).get(pk=publication.pk)


def _again(gate: Gate) -> Gate:
    return Gate.objects.select_related("publication").get(pk=gate.pk)


def _checked_ips(ips: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(ip.strip() for ip in ips if ip.strip()))
    errors = []
    for position, ip in enumerate(chosen):
        try:
            ipaddress.ip_address(ip)
        except ValueError:
            errors.append(FieldError(f"/ips/{position}", _("“{ip}” is not an address.").format(ip=ip[:80])))
    if len(chosen) > MAX_IPS:
        errors.append(FieldError("/ips", _("At most {n} addresses; take labels instead.").format(n=MAX_IPS)))
    if errors:
        raise Problem("invalid", errors[0].detail, errors=errors)
    return chosen


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    wanted = {name.strip(): value.strip() for name, value in labels.items()}
    fit = all(name and value and len(name) <= 120 and len(value) <= 200 and (name + value).isprintable() for name, value in wanted.items())
    if not fit or len(wanted) > MAX_LABELS:
        detail = _("Labels are names with values, {n} at most.").format(n=MAX_LABELS)
        raise Problem("invalid", detail, errors=[FieldError("/labels", detail)])
    return wanted


def _check_contained(chosen: Sequence[str], instances: Sequence[Instance]) -> None:
    """ZMS clients look for their own address in the joined list as text: 10.0.0.1 finds itself in 10.0.0.11."""
    others = {*chosen, *(instance.ip for instance in instances if instance.ip)}
    found = {tuple(sorted((ip, other), key=len)) for ip in chosen for other in others if ip != other and (ip in other or other in ip)}
    pairs = sorted(found)
    if pairs:
        ip, other = pairs[0]
        detail = _("{ip} is contained in {other}: ZMS clients look for their address as text, so both would be gated.").format(
            ip=ip, other=other
        )
        hint = _("Choose others, or instances of our SDK by label.")
        raise conflict("address_contained", detail, hint=hint, extra={"addresses": [list(pair) for pair in pairs]})


def _check_kinds(main: Place, place: Place, chosen: Sequence[str], instances: Sequence[Instance]) -> None:
    """A plain ZMS client ignores that the kind of its broker changes, and would talk to the new one as to the old one."""
    plain = [row.node for row in instances if row.plain and row.ip in chosen] if main.kind != place.kind else []
    if plain:
        raise conflict(
            "broker_kind_differs",
            _("“{cluster}” is of another kind than “{main}”, which plain ZMS clients ignore.").format(cluster=place.name, main=main.name),
            hint=_("Leave them out: {names}").format(names=", ".join(plain[:10])),
            extra={"instances": plain},
        )
