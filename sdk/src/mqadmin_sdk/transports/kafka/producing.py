"""Sending to a Kafka cluster."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from mqadmin_sdk.errors import Busy, MqadminError, TransportError, UnsupportedError
from mqadmin_sdk.message import Outgoing, SendResult
from mqadmin_sdk.transports.kafka.clients import ID, KEY, TAG, alive, cause_of, connected, error_of, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context, Sent

log = logging.getLogger(__name__)


class _Batch:
    """The messages of one send, until each has its delivery report."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.results: list[Sent | None] = [None] * len(messages)
        self.left = len(messages)
        self.done = threading.Event()
        if not messages:
            self.done.set()

    def put(self, i: int, result: Sent) -> None:
        """Note what became of one; on one thread at a time."""
        if self.results[i] is None:
            self.results[i] = result
            self.left -= 1
            if not self.left:
                self.done.set()


class Producer:
    """An idempotent producer: what librdkafka repeats is stored once. What is sent again later, under the same id, may be stored twice."""

    def __init__(self, cluster: ClusterMetadata, context: Context) -> None:
        self.cluster = cluster.name
        own = {
            "enable.idempotence": True,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "message.timeout.ms": 30_000,
            "error_cb": self._troubled,
        }
        self._trouble = ""  # what librdkafka said last about its connections
        self._settings = settings_of(cluster, context, own)
        self._lock = threading.Lock()
        self._closed = False
        self._client = self._connect()
        self._thread = threading.Thread(target=self._serve, name=f"mqadmin-kafka-{cluster.name}", daemon=True)
        self._thread.start()

    def _connect(self) -> Any:
        return connected(confluent_kafka.Producer, self._settings, self.cluster)

    def _serve(self) -> None:
        while not self._closed:
            self._client.poll(0.5)

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> list[Sent]:
        """Each message succeeds or fails by its delivery report. A `delay` is refused: Kafka has none."""
        if self._closed:
            raise TransportError("the transport is closed")
        batch = _Batch(messages)
        ends = time.monotonic() + timeout
        for i, message in enumerate(messages):
            if message.delay or message.deliver_at is not None:
                refusal = UnsupportedError(
                    f"topic {topic} is on the Kafka cluster {self.cluster}, which delivers nothing later: send it without delay and"
                    " deliver_at, or have the topic moved to the built-in store"
                )
                with self._lock:
                    batch.put(i, refusal)
                continue
            try:
                self._produce(topic, message, ends, partial(self._report, batch, topic, i, message.id, self._client))
            except (KafkaException, MqadminError, BufferError) as error:
                found = error if isinstance(error, MqadminError) else error_of(cause_of(error), f"topic {topic}")
                with self._lock:
                    batch.put(i, found)
        batch.done.wait(max(0.0, ends - time.monotonic()))
        trouble = f" ({self._trouble})" if self._trouble else ""
        unknown = TransportError(f"the Kafka cluster {self.cluster} did not confirm it within {timeout:g} s{trouble}", unknown=True)
        with self._lock:
            return [one or unknown for one in batch.results]

    def _troubled(self, error: KafkaError) -> None:
        self._trouble = error.str()

    def _report(self, batch: _Batch, topic: str, i: int, message: str, client: Any, error: KafkaError | None, _stored: Any) -> None:  # noqa: PLR0917
        if error is not None and error.fatal():
            self._renew(client)
        if error is None:
            self._trouble = ""
        with self._lock:
            batch.put(i, SendResult(message, topic, self.cluster) if error is None else error_of(error, f"topic {topic}"))

    def _produce(self, topic: str, message: Outgoing, ends: float, report: Callable[[KafkaError | None, Any], object]) -> None:
        headers = {**message.headers, ID: message.id}
        if message.key is not None:
            headers[KEY] = message.key
        if message.tag:
            headers[TAG] = message.tag
        key = None if message.sharding_key is None else message.sharding_key.encode()
        while True:
            try:
                self._client.produce(
                    topic, message.body, key, headers=[(name, value.encode()) for name, value in headers.items()], on_delivery=report
                )
            except BufferError:  # full: wait until some are stored
                if self._closed or time.monotonic() + 0.01 > ends:
                    raise Busy(f"the Kafka cluster {self.cluster} does not take messages as fast as they come") from None
                time.sleep(0.01)
            else:
                return

    def _renew(self, old: Any) -> None:
        """After a fatal error an idempotent producer sends nothing any more; what waits in it has failed."""
        with self._lock:
            if self._client is not old or self._closed:
                return
            self._client = self._connect()
        log.error("The producer of the Kafka cluster %s has met a fatal error and is made anew", self.cluster)
        old.purge()
        alive.discard(old)

    def bury(self, topic: str, message: Outgoing, report: Callable[[KafkaError | None], object]) -> None:
        """Send a dead letter; `report` is called on another thread when it is stored, or with what kept it from that."""
        client = self._client

        def reported(error: KafkaError | None, _stored: Any) -> None:
            if error is not None and error.fatal():
                self._renew(client)
            report(error)

        try:
            self._produce(topic, message, 0.0, reported)
        except KafkaException as error:
            report(cause_of(error))
        except Busy:
            report(KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001

    def flush(self, *, timeout: float) -> None:
        """Wait until all are stored or have failed."""
        self._client.flush(timeout)

    def close(self) -> None:
        """Give up what is not stored."""
        if self._closed:
            return
        self._closed = True
        client = self._client
        client.purge()
        client.flush(1.0)  # those whose sends wait are told
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        alive.discard(client)
