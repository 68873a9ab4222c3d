"""One topic as this process sends to it: follows its metadata and switches to another cluster without a send that fails for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from mqadmin_sdk.errors import MqadminError, TransportError
from mqadmin_sdk.producing.pool import key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.metadata import TopicMetadata
    from mqadmin_sdk.producing.pool import Pool, Shared

log = logging.getLogger(__name__)
_PATIENCE = 0.5  # seconds until a topic that nothing is heard of is asked for


class Topic:
    """`apply` is the callback of a watch; sends take the transport of now with `use`.

    `broken` is called when a transport could not be built for a reason that may pass: `mend` has to be called some time later, and calls
    `mended` with what it has applied.
    """

    def __init__(self, name: str, pool: Pool, *, read: Callable[[str, float], TopicMetadata], broken: Callable[[Topic], object]) -> None:
        self.name = name
        self._pool, self._read, self._broken = pool, read, broken
        self.mended: Callable[[TopicMetadata], object] = lambda _topic: None
        self._closed = False
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child."""
        self._changed = threading.Condition()
        self._applying = threading.Lock()
        self.current: Shared | None = None
        self.metadata: TopicMetadata | None = None
        self.wanted: TopicMetadata | None = None
        self.trouble: Exception | None = None  # why the transport for `wanted` could not be built
        self._counting = threading.Lock()
        self.counts = Counter({"sent": 0, "failed": 0, "retried": 0, "switched": 0})  # messages, and changes of the transport
        self.seconds = 0.0  # that sends took, batches counted once

    def count(self, *, sent: int, failed: int, retried: int, seconds: float) -> None:
        """Count what became of a send."""
        with self._counting:
            self.counts["sent"] += sent
            self.counts["failed"] += failed
            self.counts["retried"] += retried
            self.seconds += seconds

    def apply(self, topic: TopicMetadata | None) -> None:
        """Switch to the state: build, then switch, then let go of the old transport. Raises what building raises; sends go on as before.

        A topic that is gone keeps its transport: whether it takes messages is for its broker to say, and a ZooKeeper that was wiped
        must stop nobody.
        """
        if topic is None:
            log.info("topic %s is not published any more", self.name)
            return
        with self._applying:
            self.wanted = topic
            try:
                self._switch(topic)
            except Exception as error:
                with self._changed:
                    self.trouble = error
                    self._changed.notify_all()
                if not (isinstance(error, MqadminError) and error.permanent):
                    self._broken(self)
                raise

    def mend(self) -> bool:
        """Try again what `apply` could not; False if it cannot be done yet."""
        with self._applying:
            topic = self.wanted
            if topic is None or self._closed or (self.current is not None and self.current.key == key_of(topic.cluster)):
                return True
            try:
                self._switch(topic)
            except Exception as error:  # noqa: BLE001 - whatever a broker's client raises
                log.warning("topic %s: cluster %s cannot be reached yet: %s", self.name, topic.cluster.name, error)
                return False
        self.mended(topic)
        return True

    def _switch(self, topic: TopicMetadata) -> None:
        old = self.current
        if old is not None and old.key == key_of(topic.cluster):
            self.metadata, self.trouble = topic, None
            return
        new = self._pool.acquire(topic.cluster)
        with self._changed:
            if self._closed:
                new.release()
                return
            self.current, self.metadata, self.trouble = new, topic, None
            self._changed.notify_all()
        if old is not None:
            with self._counting:
                self.counts["switched"] += 1
            log.info("topic %s: switched from cluster %s to %s, generation %s", self.name, old.key[0], new.key[0], topic.generation)
            old.release()

    def use(self, ends: float) -> Shared:
        """Return the transport of now, held for the caller. Raises NotPublishedError, NotConnectedError, and what building one raises."""
        with self._changed:
            if self.current is not None:
                return self.current.hold()
            self._changed.wait_for(lambda: self.current is not None, max(0.0, min(_PATIENCE, ends - time.monotonic())))
            if self.current is not None:
                return self.current.hold()
        # Ask by ourselves: it may not be published, and a thread that runs callbacks would wait for itself.
        self.apply(self._read(self.name, max(0.1, ends - time.monotonic())))
        with self._changed:
            if self.current is None:
                raise TransportError("the client is closed", permanent=True)
            return self.current.hold()

    def wait_for_change(self, seen: Shared, ends: float) -> None:
        """Wait until sends go through another transport than the one seen. Raises TransportError, and what keeps one from being built."""
        with self._changed:
            self._changed.wait_for(lambda: self.current is not seen or self._hopeless(), max(0.0, ends - time.monotonic()))
            if self.current is not seen:
                return
            trouble = self.trouble
        if isinstance(trouble, MqadminError):
            raise trouble
        raise TransportError(
            f"topic {self.name} has moved, and its new cluster is not {'reached' if trouble else 'known'} yet: {trouble or ''}"
        )

    def _hopeless(self) -> bool:
        return isinstance(self.trouble, MqadminError) and self.trouble.permanent

    def close(self) -> None:
        """Let go of the transport."""
        with self._changed:
            self._closed = True
            old, self.current = self.current, None
            self._changed.notify_all()
        if old is not None:
            old.release()
