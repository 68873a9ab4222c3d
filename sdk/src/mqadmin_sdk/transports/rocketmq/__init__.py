"""RocketMQ 5, through its proxy's gRPC protocol (v2), which is spoken here over HTTP/2 with `h2` and `protobuf`.

Apache's own Python client (rocketmq-python-client 5.1.2) is not used: after a restart of the proxy its consumers failed for ten minutes, it
hangs in a forked child, keeps no id of a message but its own, and writes into ~/logs when it is imported.

A message's sharding key is its message group on FIFO topics; the property `mqadmin-id` holds its id. Leases, attempts, backoff and dead
letters are RocketMQ's own: a message that is not settled comes to others after its invisible time, `%DLQ%<group>` takes the dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk.transports.rocketmq.consuming import Consumer
from mqadmin_sdk.transports.rocketmq.producing import Producer

if TYPE_CHECKING:
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context


def producer(cluster: ClusterMetadata, context: Context) -> Producer:
    """Return the transport of a producer; it connects when it is first used, and again."""
    return Producer(cluster, context)


def consumer(cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> Consumer:
    """Return the transport of a group's consumer; each one of a broadcast group is a group of RocketMQ's own, `<group>-<consumer>`."""
    return Consumer(cluster, group, context, consumer=consumer, lease=lease)
