"""What is known of topics, groups and clusters: as it was read last, or as a file remembers it from an earlier time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk import metadata
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mqadmin_sdk.filecache import FileCache
    from mqadmin_sdk.subscriptions import Subscription
    from mqadmin_sdk.zk import NodeData

Kind = Literal["topic", "group"]
State = metadata.TopicMetadata | metadata.GroupMetadata


@dataclass(eq=False)
class Node:
    """A topic or group that is followed, by however many subscriptions. `state` is None until it is known, and when it is gone."""

    kind: Kind
    name: str
    subscriptions: set[Subscription] = field(default_factory=set)
    data: bytes = b""
    pairs: Mapping[str, str] = field(default_factory=dict)
    state: State | None = None
    trouble: str = ""  # why it cannot be understood

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"{self.kind} {self.name}"


class Known:
    """Belongs to the I/O thread; others may look up nodes, and ask what the file remembers."""

    def __init__(self, *, ip: str, labels: Mapping[str, str], cache: FileCache | None) -> None:
        self._ip, self._labels = ip, labels
        self.cache = cache
        self.nodes: dict[str, Node] = {}
        self.clusters: dict[str, tuple[bytes, metadata.ClusterMetadata]] = {}  # many topics share one

    def forget(self) -> None:
        """Begin anew in a forked child."""
        self.nodes, self.clusters = {}, {}
        if self.cache is not None:
            self.cache.renew()

    def understand(self, path: str, data: bytes) -> tuple[str, bool]:
        """Take a node's bytes; return the cluster that this instance should use, and whether it is gated. Raises BrokenNodeError."""
        node = self.nodes[path]
        if data != node.data:
            node.pairs, node.data = metadata.pairs_of(data, node.what), data
            self.keep(path, node.pairs)
        return self.cluster_of(node.kind, node.name, node.pairs)

    def cluster_of(self, kind: Kind, name: str, pairs: Mapping[str, str]) -> tuple[str, bool]:
        """Return the name of the cluster that this instance should use, and whether it is gated. Raises BrokenNodeError."""
        return metadata.cluster_names(pairs, ip=self._ip, labels=self._labels, what=f"{kind} {name}")

    def cluster(self, name: str, found: NodeData | None) -> metadata.ClusterMetadata:
        """Take what stands at a cluster's path. Raises NotPublishedError, BrokenNodeError."""
        if found is None:
            self.clusters.pop(name, None)
            raise metadata.NotPublishedError(f"cluster {name} is not published")
        known = self.clusters.get(name)
        if known is None or known[0] != found.data:
            pairs = metadata.pairs_of(found.data, f"cluster {name}")
            known = self.clusters[name] = (found.data, metadata.parse_cluster(name, pairs))
            self.keep(paths.cluster(name), pairs)
        return known[1]

    def last_of_cluster(self, name: str) -> metadata.ClusterMetadata | None:
        """Return what was known last of a cluster, by this process or as the file remembers it; None: nothing that makes sense."""
        known = self.clusters.get(name)
        if known is not None:
            return replace(known[1], stale=True)
        pairs = _text(self.cache.read().get(paths.cluster(name))) if self.cache is not None else None
        return None if pairs is None else replace(metadata.parse_cluster(name, pairs), stale=True)

    def gone(self, path: str) -> None:
        """Take that a node is not there."""
        node = self.nodes[path]
        node.data, node.pairs = b"", {}
        self.keep(path, None)

    def keep(self, path: str, pairs: Mapping[str, str] | None) -> None:
        """Have the file remember a node, or forget it."""
        if self.cache is not None:
            self.cache.put({path: None if pairs is None else metadata.for_the_file(pairs)})

    def remembered(self, kind: Kind, name: str, values: Mapping[str, Any]) -> State | None:
        """Return what the file, whose values are given, says of a topic or group; None: nothing that makes sense."""
        pairs = _text(values.get(paths.followed(kind, name)))
        try:
            if pairs is None:
                return None
            cluster, gated = self.cluster_of(kind, name, pairs)
            found = _text(values.get(paths.cluster(cluster)))
            if found is None:
                return None
            state = state_of(kind, name, pairs, metadata.parse_cluster(cluster, found), gated=gated)
        except metadata.BrokenNodeError:
            return None
        return replace(state, stale=True)


def _text(value: Any) -> dict[str, str] | None:
    """What was written, unless somebody has edited it into something else."""
    return value if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()) else None


def state_of(kind: Kind, name: str, pairs: Mapping[str, str], cluster: metadata.ClusterMetadata, *, gated: bool) -> State:
    """Return a topic or group from its node and its cluster. Raises BrokenNodeError."""
    if kind == "topic":
        return metadata.parse_topic(name, pairs, cluster, gated=gated)
    return metadata.parse_group(name, pairs, cluster, gated=gated)
