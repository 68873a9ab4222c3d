"""Reading what stands in ZooKeeper, whoever wrote it; over the network, so never inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from mqadmin_sdk.zk import ServerTooOldError, paths, properties
from registry.ensemble import away, connect

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What can be imported, in the order in which one depends on the other.
IMPORTED = (paths.CLUSTERS, paths.TOPICS, paths.GROUPS)
SHADOWS = f"{paths.SHADOW}/"  # where shadow groups stand, which are not
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A node as it was read: its bytes and their version, and its properties; none if it holds something else, then `broken` says what.

    `elsewhere`: it does not stand in our own ZooKeeper, so it has to be written.
    """

    path: str
    data: bytes
    version: int
    pairs: Mapping[str, str]
    broken: str = ""
    elsewhere: bool = False

    @property
    def root(self) -> str:
        """The tree that it is in."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.path.rpartition("/")[2]


def parsed(path: str, data: bytes, version: int, *, elsewhere: bool = False) -> Standing:
    """A node with its properties read as a Java client would."""
    try:
        return Standing(path, data, version, properties.loads(data), elsewhere=elsewhere)
    except properties.PropertiesError as error:
        return Standing(path, data, version, {}, str(error) or "no properties", elsewhere)


def read(hosts: str) -> list[Standing]:
    """All clusters, topics and groups that stand there, in this order. Problem: `zookeeper_away`."""
    client = connect(hosts, timeout=TIMEOUT)
    try:
        client.start(timeout=TIMEOUT)
        client.check_server()
        found: list[Standing] = []
        for root in IMPORTED:
            _zxid, (names,) = client.multi_children([root], timeout=TIMEOUT)
            at = [f"{root}/{name}" for name in sorted(names or ())]
            nodes = client.multi_read(at, timeout=TIMEOUT)[1] if at else []
            found += [parsed(path, node.data, node.stat.version) for path, node in zip(at, nodes, strict=True) if node is not None]
    except (KazooException, KazooTimeoutError, ServerTooOldError) as error:
        raise away(str(error) or type(error).__name__) from error
    finally:
        client.stop()
        client.close()
    return found
