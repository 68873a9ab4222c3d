"""The producer of a client: every way to send."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.message import SHADOW, SHADOW_HEADER, Outgoing, SendResult
from mqadmin_sdk.producing.delivering import deliver
from mqadmin_sdk.producing.futures import Sending
from mqadmin_sdk.producing.lanes import Lanes
from mqadmin_sdk.producing.mending import Mender
from mqadmin_sdk.producing.pool import Pool
from mqadmin_sdk.producing.topics import Topic
from mqadmin_sdk.producing.transactions import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from mqadmin_sdk.metadata import ClusterMetadata, TopicMetadata
    from mqadmin_sdk.transports import ProducerTransport, Sent

TIMEOUT = 30.0  # seconds


class BatchError(MqadminError):
    """Some messages of a batch were not stored. `results` has a SendResult or an error for each, in their order."""

    def __init__(self, results: Sequence[Sent]) -> None:
        self.results = list(results)
        self.errors = [one for one in results if not isinstance(one, SendResult)]
        self.permanent = all(one.permanent for one in self.errors)
        super().__init__(f"{len(self.errors)} of {len(self.results)} messages were not sent; the first: {self.errors[0]}")


class Producer:
    """Sends for one client. Thread-safe.

    `watch` follows a topic's metadata and calls back; `read` reads them once, within so many seconds; `make` builds transports.
    """

    def __init__(
        self,
        *,
        watch: Callable[[str, Callable[[TopicMetadata | None], object]], Any],
        read: Callable[[str, float], TopicMetadata],
        make: Callable[[ClusterMetadata], ProducerTransport],
        linger: float = 0.0,
        buffer_messages: int = 10_000,
        buffer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._watch, self._read = watch, read
        self._pool = Pool(make)
        self._lanes = Lanes(self._deliver, linger=linger, buffer_messages=buffer_messages, buffer_bytes=buffer_bytes)
        self._mender = Mender()
        self._lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._closed = False
        #: Called with the topic and each message before it is sent, one after the other; what they return is sent.
        self.interceptors: list[Callable[[str, Outgoing], tuple[str, Outgoing]]] = []

    # --- sending --------------------------------------------------------------------------------------------------------

    def send(self, topic: str, message: Outgoing, *, timeout: float = TIMEOUT) -> SendResult:
        """Store one message; raises what kept it from being stored."""
        to, outgoing = self.intercepted(topic, message)
        [sent] = self._attempt(to, [outgoing], timeout, split=True)
        if isinstance(sent, SendResult):
            return sent
        raise sent

    def send_batch(self, topic: str, messages: Iterable[Outgoing], *, timeout: float = TIMEOUT) -> list[SendResult]:
        """Store messages together. Raises BatchError; if a broker refuses a batch as a whole, the errors are one and the same."""
        pairs = [self.intercepted(topic, message) for message in messages]
        results: list[Any] = [None] * len(pairs)
        for to in dict.fromkeys(to for to, _message in pairs):  # an interceptor may part them
            places = [i for i, (one, _message) in enumerate(pairs) if one is to]
            for i, sent in zip(places, self._attempt(to, [pairs[i][1] for i in places], timeout, split=False), strict=True):
                results[i] = sent
        if all(isinstance(one, SendResult) for one in results):
            return results
        raise BatchError(results)

    def send_async(self, topic: str, message: Outgoing, *, timeout: float = TIMEOUT) -> Future[SendResult]:
        """Take a message and send it soon; the future has the result or the error. While the buffer is full it waits, then raises Busy."""
        return self._take(topic, message, timeout, one_way=False)

    def send_oneway(self, topic: str, message: Outgoing, *, timeout: float = TIMEOUT) -> None:
        """The same, but nobody waits for it: what fails is logged."""
        self._take(topic, message, timeout, one_way=True)

    def _take(self, topic: str, message: Outgoing, timeout: float, *, one_way: bool) -> Sending:
        to, outgoing = self.intercepted(topic, message)
        sending = Sending(to, outgoing, time.monotonic() + timeout, one_way=one_way)
        self._lanes.put(sending, timeout=timeout)
        return sending

    def transaction(self, topic: str, *, check_after: float | None = None, timeout: float = TIMEOUT) -> Transaction:
        """Begin a transaction; use it with `with`."""
        return Transaction(self, topic, check_after=check_after, timeout=timeout)

    def flush(self, *, timeout: float = TIMEOUT) -> bool:
        """Wait until what was sent asynchronously is stored or given up; False if it is not within so many seconds."""
        return self._lanes.flush(timeout=timeout)

    @property
    def buffered(self) -> int:
        """How many messages wait to be sent or are on their way."""
        return self._lanes.buffered

    def all(self) -> list[Topic]:
        """Return the topics that were sent to, with their counts."""
        return list(self._topics.values())

    # --- life -----------------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Return the topic, followed from now on."""
        found = self._topics.get(name)
        if found is not None:
            return found
        with self._lock:
            if self._closed:
                raise MqadminError("the client is closed")
            found = self._topics.get(name)
            if found is None:
                found = Topic(name, self._pool, read=self._read, broken=self._mender.add)
                subscription = self._watch(name, found.apply)
                found.mended = getattr(subscription, "applied", found.mended)
                self._topics[name] = found
        return found

    def close(self, *, timeout: float = TIMEOUT) -> None:
        """Send what is buffered, within so many seconds, and close the transports."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        ends = time.monotonic() + timeout
        self._mender.close()
        self._lanes.close(timeout=timeout)
        for topic in self._topics.values():
            topic.close()
        self._pool.close(timeout=max(1.0, ends - time.monotonic()))

    def after_fork(self) -> None:
        """Begin anew in a forked child: what is buffered is the parent's; topics go on when their watches tell of them."""
        self._lock = threading.Lock()
        self._pool.renew()
        self._lanes.renew()
        self._mender.renew()
        for topic in self._topics.values():
            topic.renew()

    # --- inside ---------------------------------------------------------------------------------------------------------

    def intercepted(self, topic: str, message: Outgoing) -> tuple[Topic, Outgoing]:
        """Return what is sent in the place of a message, and the topic that it goes to."""
        shadow = SHADOW.get()
        if shadow is not None and SHADOW_HEADER not in message.headers:
            message = replace(message, headers={**message.headers, SHADOW_HEADER: shadow})
        for intercept in self.interceptors:
            topic, message = intercept(topic, message)
        return self.topic(topic), message

    @staticmethod
    def _attempt(topic: Topic, messages: Sequence[Outgoing], timeout: float, *, split: bool) -> list[Sent]:
        ends = time.monotonic() + timeout
        return deliver(topic, messages, [ends] * len(messages), split=split)

    @staticmethod
    def _deliver(topic: Topic, sendings: Sequence[Sending]) -> list[Sent]:
        """Send a batch of the lanes; on one of their threads."""
        return deliver(topic, [one.message for one in sendings], [one.ends for one in sendings], split=True)
