"""Adopting what exists: clusters, topics and groups of a manifest or of a tree, first as a plan, then as an operation with a result each.

What is the same is left alone; what differs is changed by the verbs that people's requests use; a node of ZMS that stands is taken over
with its bytes and written again only when something really changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application, User
from clusters import services as clusters
from clusters.addresses import check_address
from clusters.models import Cluster, Kind
from consumers import manifests, requests, services
from consumers.manifests import KINDS, Entry
from consumers.models import ConsumerGroup
from core import tags
from core.approvals.kinds import Ask, Decision
from core.approvals.kinds import Kind as RequestKind
from core.approvals.models import Request, State
from core.approvals.services import require_reason
from core.errors import FieldError, Problem, conflict
from core.names import check_name
from core.operations import kinds
from core.operations import services as operations
from registry import services as registry
from registry.trees import parsed
from topics import moving
from topics import services as topics
from topics.models import Topic
from topics.requests import ChangeTopic, CreateTopic

if TYPE_CHECKING:
    from core.operations.models import Operation

KIND = "imports.apply"
PERMISSION = "consumers.import_consumergroup"
SHOWN = 500  # items that a plan lists; what is the same is only counted
_LOGGER = {"statisticsLogger": "disk"}  # what we write, whatever stood there
#: What ZMS does not know of a topic: nothing is promised to its cluster until somebody says what flows.
UNKNOWN = {"expected_rate": 0, "message_bytes": 1}


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the things are that do not say it themselves: by the longest prefix of their names, or one application for all."""

    application: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""

    def application_of(self, name: str) -> str:
        """The application of a thing; empty: nobody said."""
        fitting = [prefix for prefix in self.prefixes if name.startswith(prefix)]
        return self.prefixes[max(fitting, key=len)] if fitting else self.application


@dataclass(frozen=True, slots=True)
class Planned:
    """What an import would do with one item: create, same, differs (with `changes`, field: before and after), or refused."""

    entry: Entry
    action: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    problem: Problem | None = None


def plan(entries: Sequence[Entry], owners: Owners) -> list[Planned]:
    """Look at each item without doing anything; with few statements, however many there are."""
    known = _Known(entries)
    planned = []
    for entry in entries:
        try:
            if entry.problem is not None:
                raise entry.problem
            planned.append(_judge(entry, owners, known))
        except Problem as problem:
            planned.append(Planned(entry, "refused", problem=problem))
            if problem.code != "duplicate_item":  # the first of that name may well be there
                known.refused(entry)
    return planned


def start(*, actor: User, planned: Sequence[Planned], owners: Owners, source: str, reason: str) -> Operation:
    """Do it: every item of the plan, what is refused included, so that each has a result. Problems: forbidden, reason_required."""
    reason = require_reason(reason)
    return operations.start(
        actor=actor,
        kind=KIND,
        title=_("Import: {source}").format(source=source),
        items=(operations.NewItem(one.entry.key, _frozen(one), KINDS.index(one.entry.kind)) for one in planned),
        params={"application": owners.application, "prefixes": dict(owners.prefixes), "owner": owners.owner, "reason": reason},
        reason=reason,
    )


def _frozen(one: Planned) -> dict[str, Any]:
    entry = one.entry
    frozen: dict[str, Any] = {"kind": entry.kind, "name": entry.name, "fields": entry.fields}
    if entry.node is not None:
        frozen["node"] = {"path": entry.node.path, "data": entry.node.data.decode("latin-1"), "version": entry.node.version}
    if entry.problem is not None:  # wrong in itself: looking again would find the same
        frozen["problem"] = {"code": entry.problem.code, "detail": str(entry.problem.detail)}
    return frozen


def telling(planned: Sequence[Planned]) -> list[Planned]:
    """What a person wants to see of a plan: first what is refused, then what differs, then what is new."""
    order = ("refused", "differs", "create")
    return sorted((one for one in planned if one.action in order), key=lambda one: order.index(one.action))[:SHOWN]


# --- planning ---------------------------------------------------------------------------------------------------------------


class _Known:
    """What is there of the things that a list of items names, and what the list itself brings."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        names: dict[str, set[str]] = {kind: {entry.name for entry in entries if entry.kind == kind} for kind in KINDS}
        subscribed = {str(row.get("topic")) for entry in entries for row in _rows(entry)}
        targets = {str(entry.fields["cluster"]) for entry in entries if "cluster" in entry.fields}
        self.clusters = _by_name(Cluster.objects.all(), names["clusters"] | targets)
        self.topics = _by_name(Topic.objects.select_related("application", "owner", "cluster"), names["topics"] | subscribed)
        groups = ConsumerGroup.objects.select_related("application", "owner").prefetch_related("subscriptions__topic")
        self.groups = _by_name(groups, names["consumer_groups"])
        self.applications = set(Application.objects.values_list("name", flat=True))
        self.people = set(User.objects.filter(is_active=True).values_list("username", flat=True))
        self.published = registry.data_at([entry.node.path for entry in entries if entry.node is not None])
        self.coming = names

    def refused(self, entry: Entry) -> None:
        """It will not be there."""
        self.coming[entry.kind].discard(entry.name)

    def cluster(self, name: str) -> bool:
        """Whether there is such a cluster, or will be."""
        return name in self.clusters or name in self.coming["clusters"]

    def topic(self, name: str) -> bool:
        """Whether there is such an active topic, or will be."""
        found = self.topics.get(name)
        return found.state == State.ACTIVE if found is not None else name in self.coming["topics"]


def _by_name(rows: Any, names: set[str]) -> dict[str, Any]:
    return {row.name: row for row in rows.filter(name__in=[name for name in names if "\x00" not in name])}


def _rows(entry: Entry) -> list[dict[str, Any]]:
    rows = entry.fields.get("subscriptions")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _judge(entry: Entry, owners: Owners, known: _Known) -> Planned:
    check_name(entry.name)
    if entry.node is not None and (published := known.published.get(entry.node.path)) is not None and published != entry.node.data:
        raise conflict(
            "drifted",
            _("mqadmin publishes this node, and something else stands there."),
            hint=_("It is repaired, or a person decides: see the publication."),
        )
    judge = {"clusters": _cluster, "topics": _topic, "consumer_groups": _group}[entry.kind]
    return judge(entry, owners, known)


def _cluster(entry: Entry, _owners: Owners, known: _Known) -> Planned:
    fields, there = entry.fields, known.clusters.get(entry.name)
    kind = fields.get("kind", there.kind if there else "")
    if kind not in Kind.values or (kind == Kind.BUILTIN and there is None):
        detail = _("“{kind}” is no kind of broker that mqadmin knows.").format(kind=kind)
        raise Problem("invalid_kind", detail, errors=[FieldError("/kind", detail)])
    if there is not None and kind != there.kind:
        raise conflict("kind_is_fixed", _("The kind of a cluster cannot be changed."))
    if "address" in fields or there is None:
        check_address(kind, fields.get("address", ""))
    if there is not None:
        return _differing(entry, {name: getattr(there, name) for name in manifests.FIELDS["clusters"]})
    return Planned(
        entry, "create", warnings=_becomes(entry, clusters.node_of(Cluster(name=entry.name, **_only(fields, "kind", "address"))).zms)
    )


def _topic(entry: Entry, owners: Owners, known: _Known) -> Planned:
    fields, there = entry.fields, known.topics.get(entry.name)
    _check_cluster(fields, known)
    application = _check_owner(entry, owners, known, there)
    if there is None:
        _needed(entry, ("cluster", *(() if entry.node else UNKNOWN)), application)
        values = {
            name: value for name, value in _values(entry, owners).items() if name not in {"application", "owner", "cluster", "purpose"}
        }
        _check_fields(Topic(name=entry.name, **values))
        return Planned(entry, "create", warnings=_becomes(entry, _LOGGER))
    for name in ("ordered", "order_scope"):
        if name in fields and fields[name] != getattr(there, name):
            raise conflict("order_is_fixed", _("Whether a topic is ordered cannot be changed."))
    return _differing(entry, manifests.topic_fields(there))


def _group(entry: Entry, owners: Owners, known: _Known) -> Planned:
    fields, there = entry.fields, known.groups.get(entry.name)
    application = _check_owner(entry, owners, known, there)
    for row in requests.rows_of(fields) if "subscriptions" in fields else ():
        tags.parse(row[1], pointer="/subscriptions")
        if not known.topic(row[0]):
            detail = _("There is no topic “{name}”.").format(name=row[0])
            raise Problem("unknown_topic", detail, errors=[FieldError("/subscriptions", detail)])
    if there is None:
        _needed(entry, ("subscriptions",), application)
        if not fields["subscriptions"]:
            detail = _("Name at least one topic.")
            raise Problem("invalid", detail, errors=[FieldError("/subscriptions", detail)])
        left = {"application", "owner", "cluster", "purpose", "subscriptions", "suspended"}
        _check_fields(ConsumerGroup(name=entry.name, **{k: v for k, v in fields.items() if k not in left}))
        return Planned(entry, "create", warnings=_becomes(entry, _LOGGER))
    if fields.get("mode", there.mode) != there.mode:
        raise conflict("mode_fixed", _("The mode of an active group cannot be changed: its positions would mean something else."))
    now = manifests.group_fields(there)
    return _differing(entry, {**now, "cluster": fields.get("cluster")})


def _check_cluster(fields: Mapping[str, Any], known: _Known) -> None:
    if "cluster" in fields and not known.cluster(fields["cluster"]):
        detail = _("There is no cluster “{name}”.").format(name=fields["cluster"])
        raise Problem("unknown_cluster", detail, errors=[FieldError("/cluster", detail)])


def _check_owner(entry: Entry, owners: Owners, known: _Known, there: Any) -> str:
    """The application of a thing, which must be the one that it has already if it is there."""
    application = str(entry.fields.get("application") or owners.application_of(entry.name))
    if application and application not in known.applications:
        detail = _("There is no application “{value}”; make it first.").format(value=application)
        raise Problem("invalid", detail, errors=[FieldError("/application", detail)])
    owner = entry.fields.get("owner") or owners.owner
    if owner and owner not in known.people:
        detail = _("There is no active person “{value}”.").format(value=owner)
        raise Problem("invalid", detail, errors=[FieldError("/owner", detail)])
    if there is not None and there.state != State.ACTIVE:
        detail = _("“{name}” is there already, and is {state}.").format(name=entry.name, state=State(there.state).label)
        raise conflict("wrong_state", detail, hint=_("A name is given once: decide the request, or take another name."))
    if there is not None and application and there.application.name != application:
        detail = _("“{name}” is there already, and belongs to {owner}.").format(name=entry.name, owner=there.application.name)
        raise conflict("other_owner", detail, hint=_("Name its application, or ask for the change of it."))
    return application


def _needed(entry: Entry, names: Sequence[str], application: str) -> None:
    missing = [name for name in names if name not in entry.fields] + ([] if application else ["application"])
    if missing:
        errors = [FieldError(f"/{name}", _("It is needed.")) for name in missing]
        raise Problem("invalid", _("It lacks {names}.").format(names=", ".join(missing)), errors=errors)


def _check_fields(thing: Any) -> None:
    try:
        thing.clean_fields(exclude=["application", "owner", "requested_by", "reason", "cluster"])
    except ValidationError as error:
        errors = [FieldError(f"/{name}", " ".join(messages)) for name, messages in error.message_dict.items()]
        raise Problem("invalid", f"{errors[0].pointer.strip('/')}: {errors[0].detail}", errors=errors) from None


def _differing(entry: Entry, now: Mapping[str, Any]) -> Planned:
    """What of the fields that are said is not so."""
    wanted = _normal(entry.fields)
    changes = {name: (now[name], value) for name, value in wanted.items() if now[name] != value}
    return Planned(entry, "differs" if changes else "same", changes)


def _normal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As it would be stored."""
    if "subscriptions" not in fields:
        return dict(fields)
    rows = [(topic, " ".join(expression.split()) or "*") for topic, expression in requests.rows_of(fields)]
    return {**fields, "subscriptions": services.listed(rows)}


def _becomes(entry: Entry, ours: Mapping[str, str]) -> list[str]:
    """What of a node that stands will read otherwise when it is written the first time."""
    if entry.node is None:
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


def _values(entry: Entry, owners: Owners) -> dict[str, Any]:
    """What is said of a new topic or group, with whose it is."""
    application = entry.fields.get("application") or owners.application_of(entry.name)
    unknown = UNKNOWN if entry.kind == "topics" and entry.node is not None else {}
    return {
        **unknown,
        **entry.fields,
        "application": application,
        **({"owner": owners.owner} if owners.owner and "owner" not in entry.fields else {}),
    }


# --- doing --------------------------------------------------------------------------------------------------------------------


def _perform(actor: User | None, item: kinds.Item, params: Mapping[str, Any]) -> None:
    """Look at the item again as it is now, and do it."""
    assert actor is not None  # an import is a person's
    given = item.input
    if "problem" in given:
        raise Problem(given["problem"]["code"], given["problem"]["detail"])
    node = given.get("node")
    standing = parsed(node["path"], node["data"].encode("latin-1"), node["version"]) if node else None
    entry = Entry(given["kind"], given["name"], dict(given["fields"]), standing)
    owners = Owners(params["application"], params["prefixes"], params["owner"])
    judged = _judge(entry, owners, _Known([entry]))
    if judged.action == "same":
        return
    work = _Work(actor, entry, owners, params["reason"])
    {"clusters": work.cluster, "topics": work.topic, "consumer_groups": work.group}[entry.kind](judged)


@dataclass(frozen=True, slots=True)
class _Work:
    """One item that is not so yet."""

    actor: User
    entry: Entry
    owners: Owners
    reason: str

    def cluster(self, judged: Planned) -> None:
        """Add it, or change what differs."""
        fields, name = dict(self.entry.fields), self.entry.name
        if judged.action == "create":
            defaults = {"address": "", **fields}
            clusters.create(actor=self.actor, name=name, standing=self.entry.node, **defaults)
            return
        there = Cluster.objects.get(name=name)
        fields.pop("kind", None)
        wanted = {"address": there.address, "description": there.description, **fields}
        clusters.change(actor=self.actor, cluster=there, **wanted)

    def topic(self, judged: Planned) -> None:
        """Make it active at once, or move and change it."""
        name = self.entry.name
        if judged.action == "create":
            values = self._complete()
            target = self._cluster(values.pop("cluster"))
            purpose = values.pop("purpose", "") or self.reason
            CreateTopic().draft(Ask(self.actor, name, CreateTopic().checked(values), purpose))
            topic = Topic.objects.select_related("application", "owner", "cluster").get(name=name)
            topics.activate(actor=self.actor, topic=topic, cluster=target, reason=self.reason, request=None, standing=self.entry.node)
            return
        fields = {key: after for key, (_before, after) in judged.changes.items()}
        if "cluster" in fields:
            there, target = Topic.objects.select_related("cluster").get(name=name), self._cluster(fields.pop("cluster"))
            moving.move(actor=self.actor, topic=there, cluster=target, reason=self.reason, accept_warnings=True)
        self._change(ChangeTopic(), fields)

    def group(self, judged: Planned) -> None:
        """Make it active at once, or change it."""
        name = self.entry.name
        if judged.action == "create":
            values = self._complete()
            bound, suspended = values.pop("cluster", None), values.pop("suspended", False)
            purpose = values.pop("purpose", "") or self.reason
            requests.CreateGroup().draft(Ask(self.actor, name, requests.CreateGroup().checked(values), purpose))
            group = ConsumerGroup.objects.select_related("application", "owner").get(name=name)
            self._check_bound(group, bound)
            if suspended:
                ConsumerGroup.objects.filter(pk=group.pk).update(suspended=True, suspend_reason=self.reason)
                group.refresh_from_db()
            services.activate(actor=self.actor, group=group, reason=self.reason, request=None, standing=self.entry.node)
            return
        fields = {key: after for key, (_before, after) in judged.changes.items()}
        if (suspended := fields.pop("suspended", None)) is not None:
            there = ConsumerGroup.objects.get(name=name)
            (services.suspend if suspended else services.resume)(actor=self.actor, group=there, reason=self.reason)
        self._change(requests.ChangeGroup(), fields)

    def _complete(self) -> dict[str, Any]:
        values = _values(self.entry, self.owners)
        if not values.get("owner"):
            values["owner"] = Application.objects.values_list("owner__username", flat=True).get(name=values["application"])
        return values

    def _change(self, kind: RequestKind, payload: dict[str, Any]) -> None:
        """As a request that is decided at once; what it says is checked in the same way."""
        if not payload:
            return
        draft = kind.draft(Ask(self.actor, self.entry.name, kind.checked(payload), self.reason))
        asked = Request(kind=kind.name, target=self.entry.name, payload=draft.payload, before=draft.before, base_version=draft.base_version)
        kind.apply(asked, Decision(self.actor, self.reason))

    @staticmethod
    def _cluster(name: str) -> Cluster:
        found = Cluster.objects.select_for_update(no_key=True).filter(name=name).first()
        if found is None:
            raise Problem("unknown_cluster", _("There is no cluster “{name}”.").format(name=name))
        return found

    @staticmethod
    def _check_bound(group: ConsumerGroup, cluster: str | None) -> None:
        """A group is where its first topic is; a node that says otherwise would read otherwise to its clients."""
        first = group.subscriptions.select_related("topic__cluster").order_by("position").first()
        there = first.topic.cluster.name if first is not None and first.topic.cluster is not None else ""
        if cluster and cluster != there:
            detail = _("The node names the cluster “{cluster}”, its topic is on “{other}”.").format(cluster=cluster, other=there)
            raise conflict("cluster_differs", detail)


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Import"),
        permission=PERMISSION,
        perform=_perform,
        steps=(
            kinds.Step("clusters", gettext_lazy("Clusters")),
            kinds.Step("topics", gettext_lazy("Topics")),
            kinds.Step("groups", gettext_lazy("Consumer groups")),
        ),
        chunk=20,
    )
)
