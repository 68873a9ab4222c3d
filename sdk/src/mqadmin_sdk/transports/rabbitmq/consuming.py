"""Receiving from a group's queue on a RabbitMQ cluster."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk.errors import MqadminError, TransportError, UnreachableError
from mqadmin_sdk.message import Message, Outgoing
from mqadmin_sdk.transports import Delivery, Pulled, Settled, Settlement
from mqadmin_sdk.transports.filters import matches
from mqadmin_sdk.transports.rabbitmq.clients import ID, KEY, QUORUM, SENT_AT, SHARDING_KEY, TAG, Link, settings_of
from mqadmin_sdk.transports.rabbitmq.producing import Letter, Place, Producer, headers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)

TOPIC, ATTEMPT, WAIT = "mqadmin-topic", "mqadmin-attempt", "mqadmin-wait"  # of a message that has waited; the last: seconds still to wait
REDELIVERED = "mqadmin-redelivered"
DEAD = "mqadmin-dead-"  # and group, topic, reason, error, attempts, at
MAX_ATTEMPTS = 16  # of a group whose node names no number
BACKOFF, BACKOFF_MOST = 1.0, 512.0  # seconds; doubled with each attempt
WAITS = (65536, 16384, 4096, 1024, 256, 64, 16, 4)  # seconds that there are queues for; what is shorter waits in the process
WINDOW, WINDOW_MOST, WINDOW_BYTES = 20, 2000, 32 * 1024 * 1024  # unsettled messages here: at first, and at most
KEPT = 3600  # seconds that the queue of a broadcast group's instance outlives it
_AGAIN = 5.0
_STEPS = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds until a refused queue is asked for again
_CONNECTING, _CLOSING = 10.0, 10.0
_BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-")
# Without a limit quorum queues put what comes back behind everything else, and from RabbitMQ 4 on the limit is 20, then it is thrown away.
_KEEPING = {"x-delivery-limit": 1_000_000}
_SAFELY = {"x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

_bound: dict[tuple[str, str], set[str]] = {}  # by cluster and queue: the topics that this process has bound it to


class _Session:
    """The time of a channel. What came by it can be settled by it only."""

    def __init__(self, number: int) -> None:
        self.channel: Any = None
        self.lease = f"session-{number}"
        self.tag = ""  # of what consumes; empty while that is changed
        self.window = self.out = 0  # how many messages it may have out, and has
        self.lost = False
        self.records: dict[int, _Record] = {}  # by delivery tag, in their order: those that are not acknowledged
        self.unwanted: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether all is here that may be, so that nothing is on its way."""
        return bool(self.tag) and self.out >= self.window


class _Record:
    """A message that RabbitMQ has handed out. One that is `held` is in the application's hands by its `delivery`."""

    __slots__ = ("attempt", "consumer", "delivery", "error", "message", "reason", "session", "state", "tag")

    def __init__(self, session: _Session, tag: int, message: Message) -> None:
        self.session, self.tag, self.message = session, tag, message
        self.attempt = message.attempt
        self.consumer = ""
        self.state: Literal["ready", "held", "waiting", "leaving", "done"] = "ready"
        self.delivery: Delivery | None = None
        self.reason = self.error = ""


class Consumer:
    """One of a queue's consumers. RabbitMQ keeps from others what is in hand for as long as the connection stands; there is no lease.

    When it is made, its queue is there and bound: what is sent from then on is the group's, and it may be reported as applied. Raises
    TransportError if that cannot be had within some seconds.
    """

    def __init__(self, cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str) -> None:
        self.group, self.cluster = group.name, cluster.name
        self.queue = f"{group.name}.{consumer}" if group.broadcast else group.name
        self._broadcast = group.broadcast
        self._subscriptions = dict(group.subscriptions)
        self._most = group.max_attempts or MAX_ATTEMPTS
        self._settings = settings_of(cluster, context)
        self._graveyard: Producer | None = None
        self._make_graveyard = partial(Producer, cluster, context)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._ready: deque[_Record] = deque()
        self._session: _Session | None = None
        self._sessions = self._refusals = 0
        self._error: str | None = None
        self._reached = False
        self._closed = False
        self._link = Link(cluster.name, self._settings, name=group.name, opened=self._opened, lost=self._unreachable)
        with self._lock:
            self._arrived.wait_for(lambda: self._session or self._error, _CONNECTING)
            trouble = None if self._session else self._trouble()
        if trouble is not None:
            self.close()
            raise trouble

    # --- the seam -------------------------------------------------------------------------------------------------------

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        """Settle, and take what has come. While the cluster cannot be used, and nothing is there: TransportError."""
        if max_messages:
            self._look_at_window()
        settled = self.settle(settle)
        if not max_messages:
            return Pulled(settled=settled)
        with self._lock:
            self._arrived.wait_for(lambda: self._ready or self._closed or self._error, wait)
            if self._closed:
                raise MqadminError("the transport is closed")
            if self._error and not self._ready:
                raise self._trouble()
            taken = [self._hand_out(self._ready.popleft()) for _ in range(min(max_messages, len(self._ready)))]
            idle = self._session is not None and not self._session.records
        return Pulled(taken, settled, None if taken else "empty" if idle else "outstanding")

    def _look_at_window(self) -> None:
        """Take more at once where all that RabbitMQ has handed out is in hand or waits, and more is wanted. Slow handlers hoard nothing."""
        session = self._session
        if session is not None and not self._ready and session.is_full and session.window < WINDOW_MOST:
            self._link.call(partial(self._widen, session))

    def _trouble(self) -> TransportError:
        text = self._error or f"the RabbitMQ cluster {self.cluster} does not answer"
        return TransportError(text) if self._reached else UnreachableError(text)

    def _hand_out(self, record: _Record) -> Delivery:
        message = record.message
        if record.attempt != message.attempt:
            message = record.message = replace(message, attempt=record.attempt)
        record.state = "held"
        lane = None if message.sharding_key is None else (message.topic, message.sharding_key)
        record.delivery = Delivery(message, record.session.lease, None, record, lane)
        return record.delivery

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Note outcomes, and acknowledge what is settled; what becomes a dead letter, or waits for long, is stored elsewhere before."""
        done: dict[_Session, list[int]] = {}
        going: list[tuple[_Record, float | None]] = []
        with self._lock:
            results = [self._settle(one, done, going) for one in settlements]
        for session, tags in done.items():
            self._link.call(partial(self._acknowledge, session, tags))
        for record, delay in going:
            if delay is None:
                self._bury(record)
            else:
                self._postpone(record, delay)
        return results

    def _settle(self, one: Settlement, done: dict[_Session, list[int]], going: list[tuple[_Record, float | None]]) -> Settled:
        record: _Record = one.delivery.handle
        if record.session.lost:
            return Settled(one, None, "lease_expired", "The connection was lost: RabbitMQ hands the message out again.")
        if record.delivery is not one.delivery or record.state != "held":
            return Settled(one, None, "already_settled", "It has been settled before.")
        record.delivery = None
        status = one.status
        record.error = one.error or ""
        if status == "failed" and record.attempt >= self._most:
            record.reason, status = "attempts", "dead"
        elif status == "dead":
            record.reason = "given_up"
        if status == "succeeded":
            record.state = "done"
            done.setdefault(record.session, []).append(record.tag)
        elif status == "dead":
            record.state = "leaving"
            going.append((record, None))
        else:
            record.state = "waiting"
            going.append((record, one.delay if one.delay is not None else min(BACKOFF_MOST, BACKOFF * 2.0 ** (record.attempt - 1))))
            if status == "failed":
                record.attempt += 1
        return Settled(one, status)

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:  # noqa: ARG002 - the connection is kept by itself
        """Say which are still this process's."""
        return [not one.handle.session.lost for one in deliveries]

    def close(self) -> None:
        """Acknowledge what is settled and leave: others get the rest at once."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()
            graveyard = self._graveyard
        if graveyard is not None:
            graveyard.flush(timeout=_CLOSING)
            graveyard.close()
        self._link.close()

    # --- messages that leave: dead letters, and those that wait ---------------------------------------------------------

    def _bury(self, record: _Record) -> None:
        """Store a dead letter, then acknowledge the message."""
        facts = {
            "group": self.group,
            "topic": record.message.topic,
            "reason": record.reason,
            "error": record.error[:2000],
            "attempts": record.attempt,
            "at": datetime.now(timezone.utc).isoformat(),
        }
        place = Place(f"{self.group}.dead", QUORUM)
        self._send_away(record, place, {DEAD + name: str(value) for name, value in facts.items()}, partial(self._bury, record))

    def _postpone(self, record: _Record, delay: float) -> None:
        """Wait here for a short time; for a longer one in a queue from which the message comes back by itself, maybe to another process."""
        if delay < WAITS[-1] or self._broadcast:  # an instance that never comes back would leave such queues behind
            self._link.call(lambda: self._link.later(delay, partial(self._again, record)))
            return
        record.state = "leaving"
        wait = next(one for one in WAITS if one <= delay)
        arguments = {**QUORUM, **_SAFELY, "x-dead-letter-routing-key": self.queue, "x-message-ttl": wait * 1000}
        headers = {TOPIC: record.message.topic, ATTEMPT: str(record.attempt), WAIT: str(delay - wait)}
        self._send_away(record, Place(f"{self.queue}.wait.{wait}s", arguments), headers, partial(self._postpone, record, delay))

    def _again(self, record: _Record) -> None:
        with self._lock:
            if not record.session.lost:
                record.state = "ready"
                self._ready.append(record)
                self._arrived.notify_all()

    def _send_away(self, record: _Record, place: Place, more: dict[str, str], again: Any) -> None:
        message = record.message
        letter = Outgoing(message.body, message.id, message.key, message.tag, message.sharding_key, message.headers)
        headers = {**headers_of(letter), **more}
        headers.pop(REDELIVERED, None)
        if message.sent_at is not None:
            headers[SENT_AT] = str(round(message.sent_at.timestamp() * 1000))

        def stored(error: MqadminError | None) -> None:
            if error is None:
                self._link.call(partial(self._acknowledge, record.session, [record.tag]))
                return
            if not record.session.lost and not self._closed:
                log.error("Group %s: message %s could not be stored in %s, it is tried again: %s",
                          self.group, message.id, place.name, error)  # fmt: skip
                self._link.call(lambda: self._link.later(_AGAIN, again))

        with self._lock:
            if self._graveyard is None:
                self._graveyard = self._make_graveyard()
        self._graveyard.put(place, [Letter(letter, headers, stored, lambda: not record.session.lost)])

    # --- on the link's thread -------------------------------------------------------------------------------------------

    def _opened(self, connection: Any) -> None:
        if self._closed or connection.is_closing or connection.is_closed:
            return
        self._sessions += 1
        session = _Session(self._sessions)
        session.channel = channel = connection.channel(on_open_callback=lambda _channel: self._subscribe(session))
        channel.add_on_close_callback(lambda _channel, reason: self._ended(session, connection, reason))
        channel.add_on_cancel_callback(lambda _frame: channel.close(404, f"the queue {self.queue} was deleted"))

    def _subscribe(self, session: _Session) -> None:
        """Declare what is needed, and consume; RabbitMQ does one after the other, and closes the channel at what it does not like."""
        channel, arguments = session.channel, {**self._settings.queue_arguments}
        if arguments["x-queue-type"] == "quorum":
            arguments = {**_KEEPING, **arguments}
        if self._broadcast:
            arguments["x-expires"] = KEPT * 1000
        channel.queue_declare(self.queue, durable=True, arguments=arguments)
        bound = _bound.setdefault((self.cluster, self.queue), set())
        for topic in self._subscriptions:
            channel.exchange_declare(topic, "fanout", durable=True)
            channel.queue_bind(self.queue, topic)
        for topic in bound - set(self._subscriptions):
            channel.queue_unbind(self.queue, topic)
        bound.clear()
        bound.update(self._subscriptions)
        # To take more later means to consume anew, and another one would become the active one.
        self._consume(session, WINDOW_MOST // 2 if arguments.get("x-single-active-consumer") else WINDOW)

    def _consume(self, session: _Session, window: int) -> None:
        session.window, session.out = window, 0
        session.channel.basic_qos(prefetch_count=window)
        session.channel.basic_consume(self.queue, partial(self._came, session), callback=partial(self._consuming, session))

    def _widen(self, session: _Session) -> None:
        # What was on its way would be given back, and overtaken by what is behind it.
        if session.channel.is_open and session.is_full and sum(len(one.message.body) for one in session.records.values()) < WINDOW_BYTES:
            tag, session.tag = session.tag, ""
            session.channel.basic_cancel(tag, callback=lambda _frame: self._consume(session, min(WINDOW_MOST, session.window * 4)))

    def _consuming(self, session: _Session, frame: Any) -> None:
        session.tag = frame.method.consumer_tag
        self._refusals = 0
        with self._lock:
            self._session, self._error, self._reached = session, None, True
            self._arrived.notify_all()

    def _came(self, session: _Session, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        message, left = _message(method, properties, body, self.group)
        record = _Record(session, method.delivery_tag, message)
        record.consumer = method.consumer_tag
        session.records[record.tag] = record
        session.out += 1
        if left is not None:
            record.state = "waiting"
            self._postpone(record, left)
        elif matches(self._subscriptions.get(message.topic, "*"), message.tag):
            with self._lock:
                self._ready.append(record)
                self._arrived.notify_all()
        else:
            session.unwanted.append(record.tag)
            if len(session.unwanted) == 1:  # with those that are read together with it
                self._link.call(partial(self._drop_unwanted, session))

    def _drop_unwanted(self, session: _Session) -> None:
        tags, session.unwanted = session.unwanted, []
        self._acknowledge(session, tags)

    def _acknowledge(self, session: _Session, tags: Sequence[int]) -> None:
        """Say that messages are settled: with one word up to the first that is not."""
        if session.lost or not session.channel.is_open:
            return
        done = set(tags)
        up_to = 0
        for tag in session.records:
            if tag not in done:
                break
            up_to = tag
        for tag in done:
            record = session.records.pop(tag, None)
            if record is not None and record.consumer == session.tag:
                session.out -= 1
        if up_to:
            session.channel.basic_ack(up_to, multiple=True)
        for tag in tags:
            if tag > up_to:
                session.channel.basic_ack(tag)

    def _ended(self, session: _Session, connection: Any, reason: Exception) -> None:
        """The channel is closed: RabbitMQ hands out anew what came by it."""
        with self._lock:
            session.lost = True
            if self._session is session:
                self._session = None
            for record in session.records.values():
                if record.delivery is not None:
                    record.delivery.expires = 0.0  # what is not begun is not begun any more
            self._ready = deque(record for record in self._ready if record.session is not session)
        if connection.is_open and not self._closed:  # it was about the channel only
            self._failed(getattr(reason, "reply_text", "") or str(reason), reached=True)
            pause = _STEPS[min(self._refusals, len(_STEPS) - 1)]
            self._refusals += 1
            self._link.later(pause, lambda: self._opened(connection))

    def _unreachable(self, reason: str) -> None:
        self._failed(reason, reached=False)

    def _failed(self, reason: str, *, reached: bool) -> None:
        text = f"the RabbitMQ cluster {self.cluster}: {reason}"
        with self._lock:
            if self._error != text:
                log.warning("Group %s: %s", self.group, text)
            self._error, self._reached = text, reached
            self._arrived.notify_all()


def _message(method: Any, properties: Any, body: bytes, group: str) -> tuple[Message, float | None]:
    """Read a message; with it, how many seconds it has still to wait if it comes from a queue where it has waited."""
    headers: dict[str, str] = {}
    for name, value in (properties.headers or {}).items():
        if not name.startswith(_BROKERS_OWN):
            headers[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    topic = headers.pop(TOPIC, "") or method.exchange or headers.get(DEAD + "topic", "")  # the last: redriven by hand
    left = _number(headers.pop(WAIT, None))
    milliseconds = _number(headers.pop(SENT_AT, None))
    attempt = _number(headers.pop(ATTEMPT, None))
    if method.redelivered:
        headers[REDELIVERED] = "true"
    message = Message(
        id=headers.pop(ID, "") or properties.message_id or f"{method.consumer_tag}-{method.delivery_tag}",
        topic=topic,
        group=group,
        body=body,
        key=headers.pop(KEY, None),
        tag=headers.pop(TAG, ""),
        sharding_key=headers.pop(SHARDING_KEY, None),
        headers=headers,
        attempt=1 if attempt is None else int(attempt),
        sent_at=_moment(_number(properties.timestamp) if milliseconds is None else milliseconds / 1000),
    )
    return message, left


def _number(value: Any) -> float | None:
    """Read a number, unless somebody else has put something else there."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < 1e15 else None


def _moment(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
