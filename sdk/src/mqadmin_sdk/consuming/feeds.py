"""How a group is consumed, and the transports that its messages come by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.consuming.core import Source
from mqadmin_sdk.message import seconds

if TYPE_CHECKING:
    import threading
    from collections.abc import Hashable

    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import ConsumerTransport

UNKNOWN = object()


@dataclass(frozen=True)
class Options:
    """How a group is consumed.

    `concurrency` handlers at once; `prefetch` messages in hand at most. Messages are kept from others for `lease` seconds, extended while
    their handlers run, but after `max_handling` seconds a message is given up: failed, and what its handler returns counts no more.
    A pull waits `poll` seconds for a first message; a stop waits for it, since what came after it would be late by its lease.
    """

    concurrency: int = 1
    prefetch: int = 1000
    lease: float = 60.0
    max_handling: timedelta | float = timedelta(hours=1)
    poll: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 1000:
            raise ValueError("concurrency is 1 to 1000")
        if not 1 <= self.prefetch <= 2000:
            raise ValueError("prefetch is 1 to 2000")
        if not 1 <= self.lease <= 12 * 3600:
            raise ValueError("lease is 1 second to 12 hours")
        if not seconds(self.max_handling) > 0:
            raise ValueError("max_handling is above 0")
        if not 0 < self.poll <= 30:
            raise ValueError("poll is above 0 and at most 30 seconds")


class Feed:
    """One transport, with the thread that pulls from it."""

    def __init__(self, transport: ConsumerTransport, cluster: ClusterMetadata, lease: float) -> None:
        self.transport, self.cluster = transport, cluster
        self.source = Source(lease=lease)
        self.main = True  # the group's own cluster; False: one that it has left
        self.left_at: float | None = None  # the group is on another cluster now: when that was heard, or when it brought something last
        self.ended = False  # no pull any more: what is in hand is finished, then the transport is closed
        self.thread: threading.Thread | None = None
        self.not_before = -math.inf  # on the monotonic clock: no pull earlier
        self.settle_not_before = -math.inf
        self.failures = 0
        self.error: str | None = None
        self.moved_at: Any = UNKNOWN  # as the last pull said


def key_of(group: GroupMetadata, cluster: ClusterMetadata) -> tuple[Hashable, ...]:
    """What a transport was made for, its cluster first: when it changes, another one is made."""
    return (
        (cluster.name, cluster.boot_addr, cluster.broker_type, cluster.server_ips, cluster.proxy_addr),
        tuple(sorted(group.subscriptions.items())),
        group.broadcast,
        group.consume_from,
    )
