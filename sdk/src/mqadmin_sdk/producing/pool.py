"""The transports of a client: one a cluster, shared by its topics, closed when nobody sends through it any more."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import ProducerTransport

log = logging.getLogger(__name__)
FLUSH = 30.0  # seconds that an old transport has to get rid of what it took
Key = tuple[str, str, str, str, str]


def key_of(cluster: ClusterMetadata) -> Key:
    """What makes two states of a cluster the same for a client of its broker: all but the generation."""
    return cluster.name, cluster.broker_type, cluster.boot_addr, cluster.server_ips, cluster.proxy_addr


class Shared:
    """A transport with those who hold it: each topic that is on its cluster, and each send that is under way. A context manager."""

    def __init__(self, pool: Pool, cluster: ClusterMetadata) -> None:
        self.key = key_of(cluster)
        self.building = threading.Lock()
        self.transport: ProducerTransport | None = None
        self.holders = 0
        self._pool = pool

    def hold(self) -> Shared:
        """Keep it from being closed until `release`."""
        self._pool.hold(self)
        return self

    def release(self) -> None:
        """Let it go; the last one has it flushed and closed."""
        self._pool.release(self)

    def __enter__(self) -> ProducerTransport:
        assert self.transport is not None
        return self.transport

    def __exit__(self, *_: object) -> None:
        self.release()


class Pool:
    """Makes transports and ends them. Thread-safe."""

    def __init__(self, make: Callable[[ClusterMetadata], ProducerTransport]) -> None:
        self._make = make
        self._closing = False
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: connections and threads of the parent's transports are not its own."""
        self._lock = threading.Lock()
        self._by_key: dict[Key, Shared] = {}
        self._old: set[Shared] = set()  # being flushed and closed

    def acquire(self, cluster: ClusterMetadata) -> Shared:
        """Return the transport for the cluster, held once; it is built if there is none. Raises what its building raises."""
        with self._lock:
            shared = self._by_key.setdefault(key_of(cluster), Shared(self, cluster))
            shared.holders += 1
        try:
            with shared.building:  # two topics that move together build one; others are not held up
                if shared.transport is None:
                    shared.transport = self._make(cluster)
        except BaseException:
            self.release(shared)
            raise
        return shared

    def hold(self, shared: Shared) -> None:
        """Count one more holder."""
        with self._lock:
            shared.holders += 1

    def release(self, shared: Shared) -> None:
        """Count one less; after the last one, flush and close it, beside the caller."""
        with self._lock:
            shared.holders -= 1
            if shared.holders or self._by_key.get(shared.key) is not shared:
                return
            del self._by_key[shared.key]
            if shared.transport is None:
                return
            self._old.add(shared)
            inline = self._closing  # an interpreter that ends starts no threads
        if inline:
            self._end(shared)
        else:
            threading.Thread(target=self._end, args=(shared,), name="mqadmin-retire", daemon=True).start()

    def close(self, *, timeout: float) -> None:
        """End all transports; what they have taken has so many seconds to be stored."""
        with self._lock:
            self._closing = True
            left = [*self._by_key.values(), *self._old]
            self._by_key.clear()
        for shared in left:
            self._end(shared, timeout)

    def _end(self, shared: Shared, timeout: float = FLUSH) -> None:
        transport = shared.transport
        if transport is None:
            return
        try:
            transport.flush(timeout=timeout)
        except Exception:
            log.exception("The old transport to cluster %s could not be flushed", shared.key[0])
        try:
            transport.close()
        except Exception:
            log.exception("The old transport to cluster %s could not be closed", shared.key[0])
        with self._lock:
            self._old.discard(shared)
