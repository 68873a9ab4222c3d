"""Kafka, through librdkafka (confluent-kafka).

What a message has besides its body: its sharding key is Kafka's key, the headers `mqadmin-id`, `mqadmin-key` and `mqadmin-tag` hold the
rest, and its own headers stand beside them. A handler's `id` is the producer's, since Kafka may hold a message twice.

A group's offsets are committed only up to the first message that is not settled. Failed messages wait in this process, which counts
their attempts: after a crash, or when others take over the partition, these begin at 1 again. Dead letters go to the topic `<group>.dead`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk.transports.kafka.consuming import Consumer
from mqadmin_sdk.transports.kafka.producing import Producer

if TYPE_CHECKING:
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context


def producer(cluster: ClusterMetadata, context: Context) -> Producer:
    """Return the transport of a producer; it connects by itself, and again."""
    return Producer(cluster, context)


def consumer(cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> Consumer:
    """Return the transport of a group's consumer; of a broadcast group, each `consumer` is a group of Kafka's own: `<group>.<consumer>`."""
    return Consumer(cluster, group, context, consumer=consumer, lease=lease)
