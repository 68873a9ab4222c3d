"""What an application reads about its topics, groups and shadow groups: frozen values, read from the nodes that mqadmin publishes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.zk import properties

if TYPE_CHECKING:
    from collections.abc import Mapping


_READ = (
    "bootAddr", "brokerType", "serverIps", "mqadmin.proxyAddr",
    "clusterName", "gatedIps", "gatedCluster", "mqadmin.gatedLabels", "mqadmin.drainClusters", "mqadmin.generation",
    "bindingTopic", "broadcast", "consumeFrom", "suspend", "mqadmin.subscriptions", "mqadmin.maxAttempts",
)  # fmt: skip


class NotPublishedError(MqadminError, LookupError):
    """Nothing is published under this name (yet)."""


class BrokenNodeError(MqadminError, ValueError):
    """A node is there but cannot be understood."""


@dataclass(frozen=True)
class ClusterMetadata:
    """Where a topic lives. `broker_type`: kafka, rocketmq, rabbitmq or builtin (mqadmin's own store, reached over HTTP).

    `stale` is said of a cluster that was asked for by its name, and means what it does in a topic. `proxy_addr`: of a RocketMQ cluster,
    where its gRPC proxies are.
    """

    name: str
    boot_addr: str
    broker_type: str
    server_ips: str = ""
    generation: int | None = None
    stale: bool = field(default=False, compare=False)
    proxy_addr: str = ""


@dataclass(frozen=True)
class TopicMetadata:
    """A topic as this instance should use it: a gated instance gets the gated cluster.

    `stale`: it could not be held against ZooKeeper, since that cannot be reached; it is what was known last, maybe by another process.
    """

    name: str
    cluster: ClusterMetadata
    generation: int | None = None
    gated: bool = False
    drain_clusters: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict, compare=False)
    stale: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class GroupMetadata:
    """A consumer group. `subscriptions` maps each topic to its tag expression; `consume_from` is earliest or latest.

    `stale` means what it does in a topic.
    """

    name: str
    cluster: ClusterMetadata
    binding_topic: str
    subscriptions: Mapping[str, str]
    suspended: bool = False
    broadcast: bool = False
    consume_from: str = "earliest"
    max_attempts: int | None = None
    generation: int | None = None
    gated: bool = False
    drain_clusters: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict, compare=False)
    stale: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class ShadowGroup:
    """A shadow group of the application, as it should be run now; `reason` says why it should not: off, deleted or lease."""

    app: str
    task: str
    group: str
    topic: str = ""
    running: bool = False
    reason: str = ""
    lease_until: datetime | None = None
    generation: int | None = None


def pairs_of(data: bytes, what: str) -> dict[str, str]:
    """Read a node of properties; raises BrokenNodeError."""
    try:
        return properties.loads(data)
    except properties.PropertiesError as error:
        raise BrokenNodeError(f"{what}: {error}") from error


def for_the_file(pairs: Mapping[str, str]) -> dict[str, str] | None:
    """What of a node may be kept in a file: the keys that are read here, whatever others put beside them; None: nothing.

    An address with somebody's name in it may hold a password, too.
    """
    if "@" in pairs.get("bootAddr", ""):
        return None
    return {key: pairs[key] for key in _READ if key in pairs}


def parse_cluster(name: str, pairs: Mapping[str, str]) -> ClusterMetadata:
    """Understand a cluster's node."""
    return ClusterMetadata(
        name=name,
        boot_addr=pairs.get("bootAddr", ""),
        broker_type=pairs.get("brokerType", ""),
        server_ips=pairs.get("serverIps", ""),
        generation=properties.generation_of(pairs),
        proxy_addr=pairs.get("mqadmin.proxyAddr", ""),
    )


def cluster_names(pairs: Mapping[str, str], *, ip: str, what: str, labels: Mapping[str, str] | None = None) -> tuple[str, bool]:
    """Return the cluster that an instance with this address and these labels should use, and whether that is so because it is gated."""
    gated = pairs.get("gatedCluster", "")
    if gated and (ip in _list(pairs.get("gatedIps", "")) or _labelled(pairs.get("mqadmin.gatedLabels", ""), labels or {}, what)):
        return gated, True
    name = pairs.get("clusterName", "")
    if not name:
        raise BrokenNodeError(f"{what} names no cluster")
    return name, False


def parse_topic(name: str, pairs: Mapping[str, str], cluster: ClusterMetadata, *, gated: bool) -> TopicMetadata:
    """Understand a topic's node."""
    return TopicMetadata(
        name=name,
        cluster=cluster,
        generation=properties.generation_of(pairs),
        gated=gated,
        drain_clusters=_list(pairs.get("mqadmin.drainClusters", "")),
        extra=pairs,
    )


def parse_group(name: str, pairs: Mapping[str, str], cluster: ClusterMetadata, *, gated: bool) -> GroupMetadata:
    """Understand a group's node; one written by plain ZMS has no subscriptions of ours, then the binding topic is the only one."""
    topic = pairs.get("bindingTopic", "")
    try:
        subscriptions: Any = json.loads(pairs.get("mqadmin.subscriptions") or "{}")
        attempts = pairs.get("mqadmin.maxAttempts", "")
        max_attempts = int(attempts) if attempts else None
    except ValueError as error:
        raise BrokenNodeError(f"group {name}: {error}") from error
    if not isinstance(subscriptions, dict):
        raise BrokenNodeError(f"group {name}: mqadmin.subscriptions is no object")
    return GroupMetadata(
        name=name,
        cluster=cluster,
        binding_topic=topic,
        subscriptions={str(key): str(value) for key, value in subscriptions.items()} or ({topic: "*"} if topic else {}),
        suspended=pairs.get("suspend") == "true",
        broadcast=pairs.get("broadcast") == "true",
        consume_from=pairs.get("consumeFrom", "earliest"),
        max_attempts=max_attempts,
        generation=properties.generation_of(pairs),
        gated=gated,
        drain_clusters=_list(pairs.get("mqadmin.drainClusters", "")),
        extra=pairs,
    )


def parse_shadow(app: str, task: str, group: str, data: bytes) -> ShadowGroup:
    """Read a shadow group's node; anything but the string "1" means off, and so does a node that cannot be read."""
    try:
        document: Any = json.loads(data)
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    generation = document.get("generation")
    on = document.get("enable") == "1"
    return ShadowGroup(
        app=app,
        task=task,
        group=group,
        topic=str(document.get("topic") or ""),
        running=on,
        reason="" if on else "off",
        lease_until=_moment(document.get("leaseUntil")),
        generation=generation if isinstance(generation, int) else None,
    )


def _labelled(wanted: str, labels: Mapping[str, str], what: str) -> bool:
    """Whether an instance has all the labels of a gate, a JSON object; without any nobody is meant."""
    if not wanted:
        return False
    try:
        pairs: Any = json.loads(wanted)
    except ValueError as error:
        raise BrokenNodeError(f"{what}: mqadmin.gatedLabels: {error}") from error
    if not isinstance(pairs, dict):
        raise BrokenNodeError(f"{what}: mqadmin.gatedLabels is no object")
    return bool(pairs) and all(labels.get(key) == value for key, value in pairs.items())


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _moment(value: object) -> datetime | None:
    """Read ISO 8601 text with a zone, or milliseconds since 1970."""
    try:
        if isinstance(value, str) and value:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return datetime.fromtimestamp(value / 1000, tz=timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    return None
