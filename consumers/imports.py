"""Adopting what exists: clusters, topics and groups of a manifest or of a tree; the plan, and the start of the operation that does it.

What is the same is left alone; what differs is changed by the verbs that people's requests use; a node of ZMS that stands is taken over
with its bytes and written again only when something really changes. The work is done in `imports_work`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from clusters import services as clusters
from clusters.addresses import check_address, check_proxy_address
from clusters.models import Cluster, Kind
from consumers import manifests, requests, services
from consumers.adopting import check_bound
from consumers.imports_known import Known, Owners
from consumers.manifests import Entry
from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.approvals.services import require_reason
from core.errors import FieldError, Problem, conflict
from core.names import check_name
from core.operations import services as operations
from topics import services as topics
from topics.models import Topic

if TYPE_CHECKING:
    from accounts.models import User
    from core.operations.models import Operation

KIND = "imports.apply"
PERMISSION = "consumers.import_consumergroup"
ACTIONS = ("create", "differs", "same", "refused")
SHOWN = 500  # items that a plan lists; what is the same is only counted
_LOGGER = {"statisticsLogger": "disk"}  # what we write, whatever stood there
#: What ZMS does not know of a topic: nothing is promised to its cluster until somebody says what flows.
UNKNOWN = {"expected_rate": 0, "message_bytes": 1}
_REFERENCES = (
    "application",
    "owner",
    "cluster",
    "requested_by",
    "decided_by",
)  # found by their names; to check them again would ask for each


@dataclass(frozen=True, slots=True)
class Planned:
    """What an import would do with one item: create, same, differs (with `changes`, field: before and after), or refused.

    `thing`: what would be made, not saved yet. `forced`: what speaks against it was accepted; it is among the warnings.
    """

    entry: Entry
    action: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    problem: Problem | None = None
    thing: Any = None
    forced: bool = False


def plan(entries: Sequence[Entry], owners: Owners, *, accept_warnings: bool = False) -> list[Planned]:
    """Look at each item without doing anything, in their order; with few statements, however many there are.

    What speaks against an item, such as a limit of its cluster, refuses it with confirmation_needed unless warnings are accepted.
    """
    known = Known(entries, owners, accept_warnings=accept_warnings)
    planned = []
    for entry in sorted(entries, key=lambda entry: entry.order):  # what the others depend on is there before them
        try:
            if entry.problem is not None:
                raise entry.problem
            planned.append(_judge(entry, known))
        except Problem as problem:
            planned.append(Planned(entry, "refused", problem=problem))
    return planned


def start(*, actor: User, planned: Sequence[Planned], owners: Owners, source: str, reason: str, accept_warnings: bool = False) -> Operation:
    """Do it: every item of the plan, what is refused included, so that each has a result. Problems: forbidden, reason_required."""
    reason = require_reason(reason)
    given = {"application": owners.application, "prefixes": dict(owners.prefixes), "owner": owners.owner}
    return operations.start(
        actor=actor,
        kind=KIND,
        title=_("Import: {source}").format(source=source),
        items=(operations.NewItem(one.entry.key, _frozen(one.entry), one.entry.order) for one in planned),
        params={**given, "reason": reason, "accept_warnings": accept_warnings},
        reason=reason,
    )


def _frozen(entry: Entry) -> dict[str, Any]:
    frozen: dict[str, Any] = {"kind": entry.kind, "name": entry.name, "fields": entry.fields}
    if (node := entry.node) is not None:
        data = node.data.decode("latin-1")
        frozen["node"] = {"path": node.path, "data": data, "version": node.version, "elsewhere": node.elsewhere}
    if entry.problem is not None:  # wrong in itself: looking again would find the same
        frozen["fields"] = {}  # which may be anything
        frozen["problem"] = {"code": entry.problem.code, "detail": str(entry.problem.detail)}
    return frozen


def counts(planned: Sequence[Planned]) -> dict[str, int]:
    """How many items a plan has of each action."""
    found = Counter(one.action for one in planned)
    return {action: found[action] for action in ACTIONS}


def digest(planned: Sequence[Planned]) -> str:
    """Names all that a plan says, item by item: what a person has seen is what they confirm."""
    hashed = hashlib.sha256()
    for one in planned:
        entry, problem = one.entry, one.problem
        node = [entry.node.path, entry.node.version, entry.node.data.decode("latin-1")] if entry.node else None
        told = [problem.code, str(problem.detail)] if problem else None
        said = [entry.kind, entry.name, entry.fields, node, one.action, one.changes, [*one.warnings], told]
        hashed.update(json.dumps(said, sort_keys=True, default=str).encode() + b"\n")
    return hashed.hexdigest()


def telling(planned: Sequence[Planned]) -> list[Planned]:
    """What a person wants to see of a plan: first what is refused, then what differs, then what is new."""
    order = ("refused", "differs", "create")
    return sorted((one for one in planned if one.action in order), key=lambda one: order.index(one.action))[:SHOWN]


# --- one item ---------------------------------------------------------------------------------------------------------------


def _judge(entry: Entry, known: Known) -> Planned:
    check_name(entry.name)
    stands = entry.node is not None and not entry.node.elsewhere
    if stands and entry.node is not None and known.published.get(entry.node.path, entry.node.data) != entry.node.data:
        raise conflict(
            "drifted",
            _("mqadmin publishes this node, and something else stands there."),
            hint=_("It is repaired, or a person decides: see the publication."),
        )
    judged, accepted = {"clusters": _cluster, "topics": _topic, "consumer_groups": _group}[entry.kind](entry, known)
    return replace(judged, warnings=[*accepted, *judged.warnings], forced=bool(accepted))


def _cluster(entry: Entry, known: Known) -> tuple[Planned, list[str]]:
    fields, there = entry.fields, known.clusters.get(entry.name)
    kind = fields.get("kind", there.kind if there else "")
    if kind not in Kind.values or (kind == Kind.BUILTIN and there is None):
        detail = _("“{kind}” is no kind of broker that mqadmin knows.").format(kind=kind)
        raise Problem("invalid_kind", detail, errors=[FieldError("/kind", detail)])
    if there is not None and kind != there.kind:
        raise conflict("kind_is_fixed", _("The kind of a cluster cannot be changed."))
    if "address" in fields or there is None:
        check_address(kind, fields.get("address", ""))
    check_proxy_address(kind, fields.get("proxy_address", ""))
    clusters.checked_limits(_only(fields, *clusters.LIMITS))
    wanted = Cluster(
        **{**({name: getattr(there, name) for name in manifests.FIELDS["clusters"]} if there else {}), **fields}, name=entry.name
    )
    _check_columns(wanted)
    if there is None:
        known.clusters[entry.name] = wanted
        return Planned(entry, "create", warnings=_becomes(entry, clusters.node_of(wanted).zms)), []
    judged = _differing(entry, {name: getattr(there, name) for name in manifests.FIELDS["clusters"]})
    for name, value in fields.items():  # the limits that hold for the topics of this import
        setattr(there, name, value)
    return judged, []


def _topic(entry: Entry, known: Known) -> tuple[Planned, list[str]]:
    fields, there = entry.fields, known.topics.get(entry.name)
    if "cluster" in fields and fields["cluster"] not in known.clusters:
        detail = _("There is no cluster “{name}”.").format(name=fields["cluster"])
        raise Problem("unknown_cluster", detail, errors=[FieldError("/cluster", detail)])
    values = _owned(entry, known, there)
    if there is None:
        _needed(entry, ("cluster", *(() if entry.node else UNKNOWN)))
        values = {**(UNKNOWN if entry.node else {}), **values}
        values["reason"] = values.pop("purpose", "")
        target = known.clusters[values.pop("cluster")]
        made = Topic(name=entry.name, state=State.ACTIVE, **values)
        topics.check(made, but_for=(*_REFERENCES, *(() if made.reason else ("reason",))))
        return Planned(entry, "create", warnings=_becomes(entry, _LOGGER), thing=made), known.allocate(made, target)
    for name in ("ordered", "order_scope"):
        if name in fields and fields[name] != getattr(there, name):
            raise conflict("order_is_fixed", _("Whether a topic is ordered cannot be changed."))
    judged = _differing(entry, manifests.topic_fields(there))
    if judged.action == "same":
        return judged, []
    wanted = _changed(there, values, judged.changes)
    topics.check(wanted, but_for=_REFERENCES)
    return judged, known.change(there, wanted, known.clusters[fields["cluster"]] if "cluster" in judged.changes else None)


def _group(entry: Entry, known: Known) -> tuple[Planned, list[str]]:
    fields, there = entry.fields, known.groups.get(entry.name)
    values = _owned(entry, known, there)
    if "subscriptions" in fields:
        _check_subscriptions(entry, known)
    if there is None:
        _needed(entry, ("subscriptions",))
        for name in ("cluster", "subscriptions"):
            values.pop(name, None)
        values["reason"] = values.pop("purpose", "")
        values.setdefault("consume_from", services.start_of(str(values.get("mode", ""))))
        made = ConsumerGroup(name=entry.name, **values)
        services.check_fields(made, but_for=(*_REFERENCES, *(() if made.reason else ("reason",))))
        return Planned(entry, "create", warnings=_becomes(entry, _LOGGER), thing=made), []
    if fields.get("mode", there.mode) != there.mode:
        raise conflict("mode_fixed", _("The mode of an active group cannot be changed: its positions would mean something else."))
    judged = _differing(entry, {**manifests.group_fields(there), "cluster": fields.get("cluster")})
    if judged.action == "same":
        return judged, []
    services.check_fields(_changed(there, values, judged.changes), but_for=_REFERENCES)
    wanted = judged.changes.get("subscriptions")
    return judged, known.dropping(there, wanted[1]) if wanted is not None else []


def wanted_of(entry: Entry) -> list[tuple[str, str]]:
    """The subscriptions of an item, as they are stored."""
    return [(topic, " ".join(expression.split()) or "*") for topic, expression in requests.rows_of(entry.fields)]


def _check_subscriptions(entry: Entry, known: Known) -> None:
    rows = wanted_of(entry)
    services.check_rows(rows)
    found = {}
    for name, _expression in rows:
        topic = known.topic(name)
        if topic is None:
            detail = _("There is no topic “{name}”.").format(name=name)
            raise Problem("unknown_topic", detail, errors=[FieldError("/subscriptions", detail)])
        found[name] = topic
    services.check_expressions(rows, found)
    first = found[rows[0][0]]
    check_bound(str(entry.fields.get("cluster", "")), first.cluster.name if first.cluster else "")


def _owned(entry: Entry, known: Known, there: Any) -> dict[str, Any]:
    """What is said of a thing, with whose it is; of one that is there, the application must be the one that it has already."""
    values, name = dict(entry.fields), known.owners.application_of(entry)
    if empty := [key for key in ("application", "owner") if values.get(key) == ""]:
        raise Problem(
            "invalid", _("It lacks {names}.").format(names=", ".join(empty)), errors=[FieldError(f"/{key}", "?") for key in empty]
        )
    application = known.applications.get(name)
    if name and application is None:
        detail = _("There is no application “{value}”; make it first.").format(value=name)
        raise Problem("invalid", detail, errors=[FieldError("/application", detail)])
    if there is not None and there.state != State.ACTIVE:
        detail = _("“{name}” is there already, and is {state}.").format(name=entry.name, state=State(there.state).label)
        raise conflict("wrong_state", detail, hint=_("A name is given once: decide the request, or take another name."))
    if there is not None and name and there.application.name != name:
        detail = _("“{name}” is there already, and belongs to {owner}.").format(name=entry.name, owner=there.application.name)
        raise conflict("other_owner", detail, hint=_("Name its application, or ask for the change of it."))
    if there is None and application is None:
        detail = _("It lacks {names}.").format(names="application")
        raise Problem("invalid", detail, errors=[FieldError("/application", detail)])
    owner = str(values.get("owner") or known.owners.owner or ("" if there or application is None else application.owner.get_username()))
    person = known.people.get(owner)
    if person is None and there is None and application is not None and application.owner.get_username() == owner:
        person = application.owner if application.owner.is_active else None
    if person is None and owner:
        detail = _("There is no active person “{value}”.").format(value=owner)
        raise Problem("invalid", detail, errors=[FieldError("/owner", detail)])
    found = {"application": application, "owner": person}
    return {**values, **{key: value for key, value in found.items() if value is not None}}


def _needed(entry: Entry, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in entry.fields]:
        errors = [FieldError(f"/{name}", _("It is needed.")) for name in missing]
        raise Problem("invalid", _("It lacks {names}.").format(names=", ".join(missing)), errors=errors)


def _check_columns(thing: Any) -> None:
    try:
        thing.clean_fields()
    except ValidationError as error:
        errors = [FieldError(f"/{name}", " ".join(messages)) for name, messages in error.message_dict.items()]
        raise Problem("invalid", f"{errors[0].pointer.strip('/')}: {errors[0].detail}", errors=errors) from None


def _changed(there: Any, values: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """A thing as it would be, apart from what it is bound to."""
    wanted = copy.copy(there)
    for name in changes.keys() - {"cluster", "subscriptions"}:
        setattr(wanted, "reason" if name == "purpose" else name, values[name])
    return wanted


def _differing(entry: Entry, now: Mapping[str, Any]) -> Planned:
    """What of the fields that are said is not so."""
    wanted = dict(entry.fields)
    if "subscriptions" in wanted:
        wanted["subscriptions"] = services.listed(wanted_of(entry))
    changes = {name: (now[name], value) for name, value in wanted.items() if now[name] != value}
    return Planned(entry, "differs" if changes else "same", changes)


def _becomes(entry: Entry, ours: Mapping[str, str]) -> list[str]:
    """What of a node that stands will read otherwise when it is written the first time."""
    if entry.node is None or entry.node.elsewhere:
        return []
    text = _("{key}: “{before}” becomes “{after}” with the first change.")
    pairs = entry.node.pairs
    return [
        text.format(key=key, before=pairs[key][:200], after=value[:200])
        for key, value in ours.items()
        if key in pairs and pairs[key] != value
    ]


def _only(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}
