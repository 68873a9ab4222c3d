"""What clusters, topics and groups are, apart from any deployment: a manifest, the nodes of a tree, or an exported tree; read strictly.

An item that is wrong carries its problem and is refused with it; the others go on.
"""

import base64
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.models import Cluster
from clusters.services import LIMITS
from consumers.models import ConsumerGroup
from consumers.requests import FIELDS as GROUP_FIELDS
from core.approvals.models import State
from core.errors import FieldError, Problem
from registry import trees
from registry.trees import Standing
from topics.models import Topic
from topics.requests import CreateTopic
from topics.requests import values_of as topic_values

KINDS = ("clusters", "topics", "consumer_groups")  # in the order in which one depends on the other
LINES = "lines"  # the kind of what of an exported tree could not be read
MAX_ITEMS = 100_000
#: The fields of an item besides its name, with their JSON types; a limit may be null as well.
FIELDS: Mapping[str, Mapping[str, type]] = {
    "clusters": {"kind": str, "address": str, "proxy_address": str, "description": str, **dict.fromkeys(LIMITS, int)},
    "topics": {"cluster": str, **{name: field.type for name, field in CreateTopic.fields.items()}, "purpose": str},
    "consumer_groups": {**{name: field.type for name, field in GROUP_FIELDS.items()}, "suspended": bool, "purpose": str},
}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_WORDS = {str: "a string", int: "an integer", bool: "true or false", list: "a list"}
_KNOWN = {  # the keys of ZMS in the nodes of each kind
    "clusters": ("bootAddr", "brokerType"),
    "topics": ("clusterName",),
    "consumer_groups": ("bindingTopic",),
}
_TYPES = {"topics": "topic", "consumer_groups": "consumergroup"}


@dataclass(slots=True)
class Entry:
    """One thing that shall be there: what is said of it, the node that says it if it was one, and what is wrong with it."""

    kind: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    node: Standing | None = None
    problem: Problem | None = None

    @property
    def key(self) -> str:
        """Its name for people, with what it is."""
        return f"{self.kind}/{self.name}"

    @property
    def order(self) -> int:
        """The number of its kind among `KINDS`: what it depends on has a lower one."""
        return KINDS.index(self.kind) if self.kind in KINDS else 0


def from_text(text: str) -> list[Entry]:
    """The items of a manifest in YAML or JSON. Problem: `invalid_manifest`."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a safe loader of ours
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _invalid(_("It is neither YAML nor JSON: {error}").format(error=" ".join(str(error).split())[:300])) from None
    return from_document(document)


def from_document(document: Any) -> list[Entry]:
    """The items of a manifest. Problem: `invalid_manifest`."""
    if not isinstance(document, dict) or not document:
        raise _invalid(_("A manifest is an object with {names}.").format(names=", ".join(KINDS)))
    if unknown := sorted(str(name) for name in set(document) - set(KINDS)):
        detail = _("Unknown fields: {names}.").format(names=", ".join(unknown)[:400])
        raise _invalid(detail, [FieldError(f"/manifest/{name}", _("There is no such field.")) for name in unknown])
    entries = []
    for kind in KINDS:
        rows = document.get(kind)
        if rows is not None and not isinstance(rows, list):
            raise _invalid(_("“{name}” must be {kind}.").format(name=kind, kind="a list"), [FieldError(f"/manifest/{kind}", "a list")])
        entries += [_entry(kind, row, number) for number, row in enumerate(rows or ())]
    return _once(entries)


def from_nodes(nodes: Iterable[Standing]) -> list[Entry]:
    """The items that the nodes of a tree describe."""
    return _once([_of_node(node) for node in nodes])


def from_export(text: str) -> list[Entry]:
    """The items of a tree as it is exported: a line of JSON for each node. Shadow groups are left out: they end by themselves."""
    entries = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            node = _node_in(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # what is no JSON, no base64 or no Unicode is a ValueError
            problem = Problem("broken_line", _("Line {n} is no node: {why}").format(n=number, why=str(error)[:200]))
            entries.append(Entry(LINES, f"#{number}", problem=_storable(problem)))
            continue
        if node is not None:
            entries.append(_of_node(node))
    if not entries:
        detail = _("There is no node in it.")
        raise Problem("invalid_export", detail, errors=[FieldError("/export", detail)])
    return _once(sorted(entries, key=lambda entry: entry.order))


def _node_in(line: str) -> Standing | None:
    """The node of a line; None for one that is not imported. Raises ValueError or TypeError."""
    row = json.loads(line)
    path, text = row["path"], row.get("data")
    if not isinstance(path, str) or ("base64" in row) == isinstance(text, str):
        raise ValueError(_("It needs a path, and either data or base64."))
    if path.startswith(trees.SHADOWS):
        return None
    if path.rpartition("/")[0] not in trees.IMPORTED or _UNSTORABLE.search(path):
        raise ValueError(_("“{path}” is not a path of a cluster, topic or group.").format(path=path[:200]))
    data = text.encode() if isinstance(text, str) else base64.b64decode(row["base64"], validate=True)
    return trees.parsed(path, data, 0, elsewhere=True)


def _of_node(node: Standing) -> Entry:
    kind = {"cluster": "clusters", "topic": "topics", "consumergroup": "consumer_groups"}[node.root.rpartition("/")[2]]
    entry = Entry(kind, node.name, node=node)
    try:
        entry.fields = _fields_of(kind, node)
        for name, value in entry.fields.items():
            _check_text(name, value)
    except Problem as problem:
        entry.problem = _storable(problem)
    return entry


def document_of(user: User) -> dict[str, list[dict[str, Any]]]:
    """The manifest of all that this person may see; active topics and groups only."""
    clusters = Cluster.objects.restrict(user).order_by("name")
    topics = Topic.objects.restrict(user).filter(state=State.ACTIVE).select_related("application", "owner", "cluster").order_by("name")
    groups = ConsumerGroup.objects.restrict(user).filter(state=State.ACTIVE).select_related("application", "owner").order_by("name")
    return {
        "clusters": [{"name": one.name, **cluster_fields(one)} for one in clusters],
        "topics": [{"name": one.name, **topic_fields(one)} for one in topics],
        "consumer_groups": [{"name": one.name, **group_fields(one)} for one in groups.prefetch_related("subscriptions__topic")],
    }


def cluster_fields(cluster: Cluster) -> dict[str, Any]:
    """A cluster as a manifest has it."""
    fields = {"kind": cluster.kind, "address": cluster.address, "proxy_address": cluster.proxy_address, "description": cluster.description}
    return {**fields, **{name: getattr(cluster, name) for name in LIMITS}}


def topic_fields(topic: Topic) -> dict[str, Any]:
    """A topic as a manifest has it."""
    order = {"ordered": topic.ordered, "order_scope": topic.order_scope}
    return {"cluster": topic.cluster.name if topic.cluster else "", **topic_values(topic), **order}


def group_fields(group: ConsumerGroup) -> dict[str, Any]:
    """A group as a manifest has it; its subscriptions with their topics are better fetched before."""
    subscriptions = sorted(group.subscriptions.all(), key=lambda row: row.position)
    own = {name: getattr(group, name) for name in GROUP_FIELDS if name not in {"application", "owner", "subscriptions"}}
    return {
        "application": group.application.name,
        "owner": group.owner.get_username(),
        "subscriptions": [{"topic": row.topic.name, "tags": row.tags} for row in subscriptions],
        **own,
        "purpose": group.reason,
        "suspended": group.suspended,
    }


def to_yaml(document: Mapping[str, Any]) -> str:
    """The manifest for people."""
    text: str = yaml.safe_dump(dict(document), allow_unicode=True, sort_keys=False, width=140)
    return text


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few of them can stand for more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias where it stands."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _("aliases are not taken"), event.start_mark)
        return super().compose_node(parent, index)


def _entry(kind: str, row: Any, number: int) -> Entry:
    name = row.get("name") if isinstance(row, dict) else None
    if not isinstance(name, str) or not name or _UNSTORABLE.search(name):
        named = Entry(kind, f"#{number + 1}")
        named.problem = Problem("invalid", _("An item is an object with a name."), errors=[FieldError(f"/{kind}/{number}/name", "?")])
        return named
    entry = Entry(kind, name, {key: value for key, value in row.items() if key != "name"})
    try:
        _check_types(kind, entry.fields)
    except Problem as problem:
        entry.problem = _storable(problem)
    return entry


def _check_types(kind: str, fields: Mapping[Any, Any]) -> None:
    known = FIELDS[kind]
    if unknown := sorted(str(name) for name in set(fields) - set(known)):
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)[:400]),
            hint=_("Known are: {names}.").format(names=", ".join(["name", *known])),
            errors=[FieldError(f"/{name}", _("There is no such field.")) for name in unknown],
        )
    for name, value in fields.items():
        if type(value) is not known[name] and not (value is None and name in LIMITS):
            detail = _("“{name}” must be {kind}.").format(name=name, kind=_WORDS[known[name]])
            raise Problem("invalid", detail, errors=[FieldError(f"/{name}", detail)])
        _check_text(name, value)


def _check_text(name: str, value: Any) -> None:
    """Refuse what Postgres does not store: NUL, and half of a surrogate pair."""
    if _UNSTORABLE.search(_texts(value)):
        detail = _("Null characters, and halves of characters, are not allowed.")
        raise Problem("invalid", detail, errors=[FieldError(f"/{name}", detail)])


def _storable(problem: Problem) -> Problem:
    """It may quote what cannot be stored."""
    problem.detail = _UNSTORABLE.sub("\ufffd", str(problem.detail))
    return problem


def _texts(value: Any) -> str:
    """All text within, keys included."""
    if isinstance(value, Mapping):
        return "".join(_texts(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""


def _once(entries: list[Entry]) -> list[Entry]:
    """Of two with one name the second is wrong; the number of all of them is bounded."""
    if len(entries) > MAX_ITEMS:
        detail = _("An operation has at most {n} items; these are {count}.").format(n=f"{MAX_ITEMS:,}", count=f"{len(entries):,}")
        raise Problem("too_many_items", detail, status=422)
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen and entry.problem is None:
            entry.problem = Problem("duplicate_item", _("“{name}” is there twice.").format(name=entry.name))
        seen.add(entry.key)
    return entries


# --- nodes ----------------------------------------------------------------------------------------------------------------


def _fields_of(kind: str, node: Standing) -> dict[str, Any]:
    """What a node of ZMS, or of another mqadmin, says. Problems: broken_node, null_value, incomplete_node, gated, gated_without_cluster."""
    if node.broken:
        raise Problem("broken_node", _("The node holds no Java properties: {why}").format(why=node.broken[:300]))
    pairs = node.pairs
    if nulls := sorted(key for key, value in pairs.items() if value == "null"):
        detail = _("The word null stands as value of {keys}; clients take it for a name.").format(keys=", ".join(nulls))
        raise Problem("null_value", detail)
    if missing := [key for key in _KNOWN[kind] if not pairs.get(key) and not (key == "bootAddr" and pairs.get("brokerType") == "builtin")]:
        raise Problem("incomplete_node", _("The node lacks {keys}.").format(keys=", ".join(missing)))
    if kind in _TYPES and pairs.get("type", _TYPES[kind]) != _TYPES[kind]:
        detail = _("The node says that it is of type “{type}”.").format(type=pairs["type"][:100])
        raise Problem("incomplete_node", detail)
    _check_gated(pairs)
    if kind == "clusters":
        fields = {"kind": pairs["brokerType"].lower(), "address": pairs.get("bootAddr", "")}
        # A node of ZMS says nothing about proxies: those that are known stay.
        return {**fields, "proxy_address": pairs["mqadmin.proxyAddr"]} if "mqadmin.proxyAddr" in pairs else fields
    if kind == "topics":
        return {"cluster": pairs["clusterName"]}
    return _group_fields(pairs)


def _check_gated(pairs: Mapping[str, str]) -> None:
    if pairs.get("gatedIps") and not pairs.get("gatedCluster"):
        raise Problem("gated_without_cluster", _("The node has gatedIps without a gatedCluster, at which clients fail."))
    if pairs.get("gatedIps") or pairs.get("gatedCluster"):
        hint = _("Promote it or give it up where it was begun, then import again.")
        raise Problem("gated", _("A gated release is under way on this node."), hint=hint)


def _group_fields(pairs: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"subscriptions": [{"topic": pairs["bindingTopic"], "tags": "*"}]}
    if "mqadmin.subscriptions" in pairs:
        try:
            expressions = json.loads(pairs["mqadmin.subscriptions"])
            fields["subscriptions"] = [{"topic": str(topic), "tags": str(tags)} for topic, tags in expressions.items()]
        except (ValueError, AttributeError, RecursionError):
            raise Problem("incomplete_node", _("The node lacks {keys}.").format(keys="mqadmin.subscriptions")) from None
    if pairs.get("mqadmin.maxAttempts", "").isascii() and pairs.get("mqadmin.maxAttempts", "").isdigit():
        fields["max_attempts"] = int(pairs["mqadmin.maxAttempts"][:9])
    start = pairs.get("consumeFrom") or "earliest"
    if start not in {"earliest", "latest"}:
        raise Problem("incomplete_node", _("“{key}” has the value “{value}”.").format(key="consumeFrom", value=start[:100]))
    switches = {}
    for key in ("broadcast", "suspend"):
        value = (pairs.get(key) or "false").lower()
        if value not in {"true", "false"}:
            raise Problem("incomplete_node", _("“{key}” has the value “{value}”.").format(key=key, value=value[:100]))
        switches[key] = value == "true"
    mode = ConsumerGroup.Mode.BROADCAST if switches["broadcast"] else ConsumerGroup.Mode.CLUSTERING
    named = {"cluster": pairs["clusterName"]} if pairs.get("clusterName") else {}
    return {**fields, **named, "consume_from": start, "mode": str(mode), "suspended": switches["suspend"]}


def _invalid(detail: str, errors: Collection[FieldError] = ()) -> Problem:
    return Problem("invalid_manifest", detail, errors=list(errors) or [FieldError("/manifest", detail)])
