"""Sending to a RabbitMQ cluster."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from mqadmin_sdk.errors import Busy, MqadminError, TransportError, UnreachableError, UnsupportedError
from mqadmin_sdk.message import SendResult
from mqadmin_sdk.transports.rabbitmq.clients import ID, KEY, SENT_AT, SHARDING_KEY, TAG, Link, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mqadmin_sdk.message import Outgoing
    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context, Sent

log = logging.getLogger(__name__)

CHANNELS = 500  # at most, while some are idle; servers allow 2047
_REACH = 2.0  # seconds; then it is tried again, maybe on the cluster that the topic has moved to
_REFUSED = {403, 406}  # access refused, precondition failed
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (\d+)")


@dataclass(frozen=True)
class Place:
    """Where messages go: the exchange of a topic, or with `arguments` a queue. Either is declared."""

    name: str
    arguments: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def is_queue(self) -> bool:
        """Whether it is a queue."""
        return self.arguments is not None


@dataclass
class Letter:
    """A message with all its headers. `report` is called on the link's thread with what kept it from being stored, or None when it is."""

    message: Outgoing
    headers: Mapping[str, str]
    report: Callable[[MqadminError | None], object]
    is_wanted: Callable[[], bool] = lambda: True


class _Way:
    """A channel to a place.

    Until it is known that messages arrive there they go one by one, so that none overtakes one that comes back.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.channel: Any = None
        self.ready = False
        self.arrives = self.probing = False
        self.waiting: deque[Letter] = deque()
        self.unconfirmed: dict[int, Letter] = {}  # by the channel's number of the message
        self.returned: set[str] = set()
        self.number = 0


class _Batch:
    """The messages of one send, until it is known what became of each, or the caller has gone."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.results: list[Sent | None] = [None] * len(messages)
        self.left = len(messages)
        self.is_waited_for = True
        self.done = threading.Event()
        if not messages:
            self.done.set()
        self._lock = threading.Lock()

    def put(self, i: int, result: Sent) -> None:
        """Note what became of one."""
        with self._lock:
            self.results[i] = result
            self.left -= 1
            if not self.left:
                self.done.set()


class Producer:
    """Publishes persistent messages, and waits for RabbitMQ's confirms. What is sent again under the same id may be stored twice."""

    def __init__(self, cluster: ClusterMetadata, context: Context) -> None:
        self.cluster = cluster.name
        self._settings = settings_of(cluster, context)
        self._ways: dict[Place, _Way] = {}  # the one that was used last at the end
        self._connection: Any = None
        self._early: list[tuple[Place, Sequence[Letter]]] = []  # what came before the connection
        self._trouble: dict[str, str] = {}  # by topic, what RabbitMQ said of it last
        self._closed = False
        self._idle = threading.Condition()
        self._open = 0  # letters without a report
        self._link = Link(cluster.name, self._settings, name=cluster.name, opened=self._opened, lost=self._lost)

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> list[Sent]:
        """Each message succeeds or fails by its confirm. A `delay` is refused: RabbitMQ has none."""
        if self._closed:
            raise TransportError("the transport is closed")
        ends = time.monotonic() + timeout
        batch = _Batch(messages)
        letters = []
        for i, message in enumerate(messages):
            if message.delay or message.deliver_at is not None:
                refusal = UnsupportedError(
                    f"topic {topic} is on the RabbitMQ cluster {self.cluster}, which delivers nothing later: send it without delay and"
                    " deliver_at, or have the topic moved to the built-in store"
                )
                batch.put(i, refusal)
            else:
                report = partial(self._report, batch, topic, i, message.id)
                letters.append(Letter(message, headers_of(message), report, lambda: batch.is_waited_for))
        if letters:
            self._link.wait(min(timeout, _REACH))
            if self._link.blocked:
                raise Busy(f"the RabbitMQ cluster {self.cluster} takes no messages now: {self._link.blocked}")
            self.put(Place(topic), letters)
            batch.done.wait(max(0.0, ends - time.monotonic()))
        batch.is_waited_for = False
        trouble = self._link.error or self._link.blocked or self._trouble.get(topic)
        detail = f"the RabbitMQ cluster {self.cluster} did not confirm it within {timeout:g} s{f' ({trouble})' if trouble else ''}"
        return [one or TransportError(detail, unknown=True) for one in batch.results]

    def _report(self, batch: _Batch, topic: str, i: int, message: str, error: MqadminError | None) -> None:
        batch.put(i, SendResult(message, topic, self.cluster) if error is None else error)

    def put(self, place: Place, letters: Sequence[Letter]) -> None:
        """Publish letters, in their order; from any thread. Each gets its report, if need be when the transport is closed."""
        with self._idle:
            self._open += len(letters)
        self._link.call(partial(self._take, place, letters))

    def flush(self, *, timeout: float) -> None:
        """Wait until all are stored or have failed."""
        with self._idle:
            self._idle.wait_for(lambda: not self._open, timeout)

    def close(self) -> None:
        """Give up what is not stored."""
        self._closed = True
        self._link.close()

    # --- on the link's thread -------------------------------------------------------------------------------------------

    def _opened(self, connection: Any) -> None:
        self._connection = connection
        early, self._early = self._early, []
        for place, letters in early:
            self._take(place, letters)

    def _lost(self, reason: str) -> None:
        self._connection = None
        early, self._early = self._early, []
        for _place, letters in early:
            for letter in letters:
                self._done(letter, UnreachableError(f"no connection to the RabbitMQ cluster {self.cluster}: {reason}"))

    def _take(self, place: Place, letters: Sequence[Letter]) -> None:
        way = self._ways.pop(place, None)
        if way is None:
            if self._connection is None or self._connection.is_closing:
                self._early.append((place, letters))
                return
            way = self._open_way(place)
        self._ways[place] = way
        way.waiting.extend(letters)
        self._go_on(way)

    def _open_way(self, place: Place) -> _Way:
        idle = [one for one in self._ways.values() if one.ready and not one.waiting and not one.unconfirmed]
        if len(self._ways) >= CHANNELS and idle:
            del self._ways[idle[0].place]
            idle[0].channel.close()
        way = _Way(place)
        way.arrives = not self._settings.mandatory
        way.channel = self._connection.channel(on_open_callback=lambda channel: self._declare(way, channel))
        way.channel.add_on_close_callback(lambda _channel, reason: self._ended(way, reason))
        return way

    def _declare(self, way: _Way, channel: Any) -> None:
        channel.add_on_return_callback(lambda _channel, _method, properties, _body: way.returned.add(properties.headers[ID]))
        if way.place.is_queue:
            channel.queue_declare(way.place.name, durable=True, arguments=dict(way.place.arguments or {}))
        else:
            channel.exchange_declare(way.place.name, "fanout", durable=True)
        channel.confirm_delivery(partial(self._confirmed, way), callback=lambda _frame: self._declared(way))

    def _declared(self, way: _Way) -> None:
        way.ready = True
        self._go_on(way)

    def _go_on(self, way: _Way) -> None:
        while way.ready and way.waiting and not way.probing:
            letter = way.waiting.popleft()
            if not letter.is_wanted():
                self._done(letter, TransportError("its time was over before it could be sent"))
            elif self._publish(way, letter):
                way.probing = not way.arrives

    def _publish(self, way: _Way, letter: Letter) -> bool:
        exchange, key = ("", way.place.name) if way.place.is_queue else (way.place.name, "")
        properties = pika.BasicProperties(headers=dict(letter.headers), delivery_mode=2, timestamp=int(time.time()))
        try:
            way.channel.basic_publish(exchange, key, letter.message.body, properties, self._settings.mandatory or way.place.is_queue)
        except (AMQPError, ValueError, TypeError, AssertionError) as error:  # before anything of it was written
            self._done(letter, TransportError(f"{way.place.name}: {error!r}", permanent=way.channel.is_open))
            return False
        way.number += 1
        way.unconfirmed[way.number] = letter
        return True

    def _confirmed(self, way: _Way, frame: Any) -> None:
        method = frame.method
        numbers = [method.delivery_tag]
        if method.multiple:
            numbers = []
            for number in way.unconfirmed:
                if number > method.delivery_tag:
                    break
                numbers.append(number)
        for number in numbers:
            letter = way.unconfirmed.pop(number)
            error: MqadminError | None = None
            if letter.message.id in way.returned:  # a return comes before its confirm
                way.returned.discard(letter.message.id)
                error = self._unroutable(way)
            elif isinstance(method, pika.spec.Basic.Nack):
                error = TransportError(f"{way.place.name}: the RabbitMQ cluster {self.cluster} could not store it", unknown=True)
            way.arrives = error is None or not self._settings.mandatory
            way.probing = False
            self._done(letter, error)
            if error is None:
                self._trouble.pop(way.place.name, None)
            else:  # what is behind it does not overtake it
                self._trouble[way.place.name] = str(error)
                self._fail(way, error)
        self._go_on(way)

    def _unroutable(self, way: _Way) -> MqadminError:
        if way.place.is_queue:  # it was deleted: declare it again
            if self._ways.get(way.place) is way:
                del self._ways[way.place]
                way.channel.close()
            return TransportError(f"the RabbitMQ cluster {self.cluster} has no queue {way.place.name}")
        return TransportError(
            f"topic {way.place.name} has no queue of any group on the RabbitMQ cluster {self.cluster}: nobody would ever get the message."
            " A group's queue is made when its first consumer starts"
        )

    def _fail(self, way: _Way, error: MqadminError) -> None:
        waiting, way.waiting = way.waiting, deque()
        for letter in waiting:
            self._done(letter, error)

    def _ended(self, way: _Way, reason: Exception) -> None:
        """The channel is closed: by RabbitMQ, if it does not like something, or with the connection."""
        if self._ways.get(way.place) is way:
            del self._ways[way.place]
        way.ready = False
        code = reason.reply_code if isinstance(reason, ChannelClosedByBroker) else 0
        detail = f"{way.place.name} on the RabbitMQ cluster {self.cluster}: {getattr(reason, 'reply_text', '') or reason}"
        limit = _TOO_LARGE.search(detail)
        refused = code in _REFUSED and not limit
        unconfirmed, way.unconfirmed = way.unconfirmed, {}
        for letter in unconfirmed.values():
            too_large = limit is not None and len(letter.message.body) > int(limit[1])
            self._done(letter, TransportError(detail, permanent=refused or too_large, unknown=not (refused or too_large)))
        self._fail(way, TransportError(detail, permanent=refused))

    def _done(self, letter: Letter, error: MqadminError | None) -> None:
        letter.report(error)
        with self._idle:
            self._open -= 1
            if not self._open:
                self._idle.notify_all()


def headers_of(message: Outgoing) -> dict[str, str]:
    """Return what a message has besides its body."""
    headers = {**message.headers, ID: message.id, SENT_AT: str(time.time_ns() // 1_000_000)}
    if message.key is not None:
        headers[KEY] = message.key
    if message.tag:
        headers[TAG] = message.tag
    if message.sharding_key is not None:
        headers[SHARDING_KEY] = message.sharding_key
    return headers
