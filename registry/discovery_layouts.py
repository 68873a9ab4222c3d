"""Where service registries keep what, and what a node of theirs says: read only, whoever wrote it (docs/service-registry.md)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from core.redaction import redacted_text
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mqadmin_sdk.zk import NodeData

DUBBO, MESSAGES, JOBS = "dubbo", "messages", "jobs"
#: Names of the nodes of a Dubbo service, and what a child of theirs is.
CATEGORIES = {"providers": "provider", "consumers": "consumer", "routers": "router", "configurators": "configurator"}
#: When our SDK registered a host, in the registry of messages; Java writes local time without a zone.
_OUR_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
#: Nodes of a job or latch, and what a child of theirs is; candidates are those of a latch that say whose they are.
JOB_MEMBERS = {"instances": "instance", "leader/candidates": "candidate"}
#: What makes a node below a namespace a job, or a latch.
JOB_NODES = {"config", "instances", "leader", "servers", "sharding"}
#: Longer names are no names.
MAX_NAME = 500
_OURS = ("/zms", paths.SHADOW, paths.SHADOW_INSTANCES, "/mqadmin", "/zookeeper")


@dataclass(frozen=True, slots=True)
class Tree:
    """A registry: the node below which it stands, and how it is laid out."""

    layout: str
    root: str

    def covers(self, path: str) -> bool:
        """Whether a node lies below the root."""
        return path.startswith(f"{self.root}/")


def trees(dubbo: Iterable[str], messages: Iterable[str], jobs: Iterable[str]) -> tuple[Tree, ...]:
    """The registries to show, by layout; raises ValueError for roots that cannot be."""
    named = [(DUBBO, root) for root in dubbo] + [(MESSAGES, root) for root in messages] + [(JOBS, root) for root in jobs]
    found = tuple(Tree(layout, "/" + root.strip().strip("/")) for layout, root in named if root.strip())
    for number, tree in enumerate(found):
        if tree.root == "/" or any(not part or part in {".", ".."} for part in tree.root.split("/")[1:]):
            raise ValueError(f"“{tree.root}” is no node below which a registry can stand.")
        others = [*(other.root for other in found[:number]), *_OURS]
        if clash := next((other for other in others if _overlap(tree.root, other)), None):
            raise ValueError(f"“{tree.root}” overlaps “{clash}”.")
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a path: a member of a service, a worker id, or something that belongs to a service's description.

    `service` is the path of the service's node; `member` is empty for its description; a worker id has no service.
    """

    service: str = ""
    member: str = ""
    worker: bool = False


def place_of(tree: Tree, path: str) -> Place | None:
    """Say what a node below the root is by where it stands; None for what is nothing that is shown."""
    parts = path.removeprefix(f"{tree.root}/").split("/")
    if len(parts[0]) > MAX_NAME or (tree.layout == MESSAGES and sum(map(len, parts)) > MAX_NAME):
        return None  # longer than an index takes
    if tree.layout == DUBBO:
        service = f"{tree.root}/{parts[0]}"
        if len(parts) == 3:
            return Place(service, CATEGORIES[parts[1]]) if parts[1] in CATEGORIES else None
        return Place(service) if len(parts) == 2 and parts[1] in CATEGORIES else None
    if tree.layout == MESSAGES:
        if parts[0] == "id":
            return Place(worker=True) if len(parts) == 3 else None
        if parts[0] not in {"producer", "consumer"} or len(parts) not in {2, 3}:
            return None
        return Place(f"{tree.root}/{parts[0]}/{parts[1]}", "host" if len(parts) == 3 else "")
    service = f"{tree.root}/{parts[0]}"
    return Place(service, JOB_MEMBERS.get("/".join(parts[1:-1]), ""))


def service_row(tree: Tree, path: str) -> dict[str, str]:
    """The row of a service by its path: its name, and for the registry of messages whether it produces or consumes."""
    role, _slash, name = path.removeprefix(f"{tree.root}/").rpartition("/")
    shown = unquote_plus(name) if tree.layout == DUBBO else name
    return {"path": path, "root": tree.root, "layout": tree.layout, "role": role, "name": _text(shown, 500)}


def describe(tree: Tree, path: str, node: NodeData) -> dict[str, Any] | None:
    """The row of a member; None for what no member can be, such as a child of a Dubbo category that is no URL."""
    place = place_of(tree, path)
    if place is None or not place.member:
        return None
    report = _report(node.data)
    name = path.rpartition("/")[2]
    said = _of_url(unquote_plus(name)) if tree.layout == DUBBO else {"name": name, "address": _address(tree, name)}
    if said is None:
        return None
    app = path.split("/")[-2] if tree.layout == MESSAGES else ""
    pid = report.get("pid")
    return {
        "service": place.service,
        "kind": place.member,
        "key": key_of(path),
        "znode": path,
        "name": redacted_text(_text(said["name"], 4000)),
        "app": _text(said.get("app") or report.get("app") or app, 120),
        "address": _text(said.get("address"), 300),
        "service_version": _text(said.get("version"), 120),
        "service_group": _text(said.get("group"), 120),
        "pid": pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 <= pid < 2**62 else None,
        "sdk": _text(report.get("sdk"), 120),
        "polite": isinstance(report.get("sdk"), str) or (place.member == "host" and bool(_OUR_TIME.fullmatch(node.data))),
        "session": session_of(node),
        "czxid": node.stat.czxid,
        "mzxid": node.stat.mzxid,
        "since": node.stat.ctime,
    }


def session_of(node: NodeData) -> str:
    """The session that a node lives as long as, in hex; empty: it is persistent."""
    owner = node.stat.ephemeralOwner
    return f"{owner & 2**64 - 1:x}" if owner else ""  # of servers with a high number it is negative


def key_of(path: str) -> str:
    """What a registration is found by."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()


def worker_row(path: str, node: NodeData) -> dict[str, Any]:
    """The row of a worker id; `number` is None for data that is no number."""
    _root, app, host = path.rsplit("/", 2)
    text = node.data.decode("utf-8", "replace").strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    row = {"znode": path, "app": _text(app, 120), "host": _text(host, 300), "number": number}
    return {**row, "mzxid": node.stat.mzxid, "since": node.stat.ctime}


def _of_url(url: str) -> dict[str, str] | None:
    """What a Dubbo URL says of whoever registered it."""
    if "://" not in url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:  # an address that is none
        return {"name": url}
    said = {key: value for key, _is, value in (pair.partition("=") for pair in parts.query.split("&"))}  # values as they are
    return {
        "name": url,
        "address": parts.netloc.rpartition("@")[2],  # whoever writes a password into a URL does not want it in a list
        "app": said.get("application", ""),
        "version": said.get("version", ""),
        "group": said.get("group", ""),
    }


def _address(tree: Tree, name: str) -> str:
    return name.partition("@-@")[0] if tree.layout == JOBS else name


# --- jobs -----------------------------------------------------------------------------------------------------------------


def job_lists(job: str) -> list[str]:
    """The nodes of a job whose children its description needs."""
    return [f"{job}/sharding", f"{job}/servers", f"{job}/leader/election/latch"]


def job_paths(job: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    """The nodes to read for a job's description, once those children are known."""
    shards = [f"{job}/sharding/{item}" for item in children[f"{job}/sharding"]]
    below = [f"{shard}/{leaf}" for shard in shards for leaf in ("instance", "running", "failover", "disabled")]
    servers = [f"{job}/servers/{server}" for server in children[f"{job}/servers"]]
    latches = [f"{job}/leader/election/latch/{latch}" for latch in children[f"{job}/leader/election/latch"]]
    return [f"{job}/config", f"{job}/leader/election/instance", f"{job}/leader/sharding/necessary", *servers, *shards, *below, *latches]


def describe_job(job: str, children: Mapping[str, Sequence[str]], nodes: Mapping[str, NodeData | None]) -> dict[str, Any]:
    """A job: its settings, who leads it with which fencing token, and which instance has which shard.

    Who leads is known once the leader has written its name: before that, and while the last one's name still stands, it is empty.
    """

    def text(path: str) -> str:
        node = nodes.get(path)
        return "" if node is None else _text(node.data.decode("utf-8", "replace"), 4000)

    latch = f"{job}/leader/election/latch"
    latches = {name: node for name in children[latch] if (node := nodes.get(f"{latch}/{name}"))}
    first = latches.get(min(latches, key=lambda name: name[-10:], default=""))  # the ten digits that ZooKeeper counts with
    leading = nodes.get(f"{job}/leader/election/instance")
    leads = first is not None and leading is not None and first.stat.ephemeralOwner == leading.stat.ephemeralOwner
    shards = []
    for item in sorted(children[f"{job}/sharding"], key=lambda item: (not item.isdigit(), len(item), item)):
        shard = f"{job}/sharding/{item}"
        has = {leaf: text(f"{shard}/{leaf}") for leaf in ("instance", "running", "failover")}
        runs = nodes.get(f"{shard}/running") is not None
        died = not runs and bool(_report(text(shard).encode()).get("running"))
        state = "running" if runs else "interrupted" if died else "disabled" if nodes.get(f"{shard}/disabled") else "idle"
        shards.append({"item": _text(item, 20), "state": state, **has})
    return {
        "config": redacted_text(text(f"{job}/config")),
        "leader": text(f"{job}/leader/election/instance")[:300] if leads else "",
        "token": first.stat.czxid if first is not None and leads else None,
        "candidates": len(latches),
        "resharding": nodes.get(f"{job}/leader/sharding/necessary") is not None,
        "servers": [
            {"address": _text(server, 300), "enabled": text(f"{job}/servers/{server}").upper() != "DISABLED"}
            for server in sorted(children[f"{job}/servers"])
        ],
        "shards": shards,
    }


def describe_application(node: NodeData) -> dict[str, Any]:
    """What the node of an application in the registry of messages says: its group and name servers."""
    report = _report(node.data)
    return {
        "group": _text(report.get("producerGroup") or report.get("consumerGroup"), 300),
        "servers": _text(report.get("namesrvAddr"), 1000),
    }


def _report(data: bytes) -> dict[str, Any]:
    try:
        report = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _text(value: object, limit: int) -> str:
    """Text that Postgres stores: without NUL, lone surrogates replaced."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "")[:limit] if isinstance(value, str) else ""


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
