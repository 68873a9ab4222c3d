"""RabbitMQ, through pika.

A topic is a durable fanout exchange of its name, a group a quorum queue of its name, bound to the exchanges of its topics; the SDK declares
both. What a message has besides its body stands in headers: `mqadmin-id`, `mqadmin-key`, `mqadmin-tag`, `mqadmin-sharding-key` and
`mqadmin-sent-at`, and its own headers beside them. A handler's `id` is the producer's, since RabbitMQ may hold a message twice.

A send has succeeded when RabbitMQ has confirmed it; a message that no queue would get is refused, not dropped. Failed messages wait for a
moment in this process, and for longer in queues whose time to live brings them back: `<group>.wait.4s` and so on; their header
`mqadmin-attempt` counts. Dead letters go to the queue `<group>.dead`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk.transports.rabbitmq.consuming import Consumer
from mqadmin_sdk.transports.rabbitmq.producing import Producer

if TYPE_CHECKING:
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context


def producer(cluster: ClusterMetadata, context: Context) -> Producer:
    """Return the transport of a producer; it connects by itself, and again."""
    return Producer(cluster, context)


def consumer(cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> Consumer:  # noqa: ARG001 - RabbitMQ keeps a message for as long as the connection stands
    """Return the transport of a group's consumer; of a broadcast group, each `consumer` has a queue of its own: `<group>.<consumer>`."""
    return Consumer(cluster, group, context, consumer=consumer)
