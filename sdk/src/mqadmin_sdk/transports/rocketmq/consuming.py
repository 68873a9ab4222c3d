"""Receiving from a RocketMQ cluster: messages are popped, each with an invisible time of its own, which is the lease."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
from collections import deque
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import MqadminError, TransportError, UnreachableError
from mqadmin_sdk.message import Message
from mqadmin_sdk.transports import Delivery, Pulled, Settled, Settlement
from mqadmin_sdk.transports.filters import matches
from mqadmin_sdk.transports.rocketmq import wire
from mqadmin_sdk.transports.rocketmq.clients import ANSWER, ID, TAGS, Client, Link
from mqadmin_sdk.transports.rocketmq.producing import SHARDING
from mqadmin_sdk.transports.rocketmq.wire import messages as wm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context
    from mqadmin_sdk.transports.rocketmq.channel import Call

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 16  # of a group whose node names no number; RocketMQ's own limit holds, too (retryMaxTimes of the group)
BACKOFF, BACKOFF_MOST = 1.0, 600.0  # seconds; doubled with each attempt
LEASE_LEAST = 10.0  # seconds; a proxy takes no shorter invisible time
POLL = 5.0  # seconds; a proxy waits for no shorter time, and at most 20
_BATCH = 32  # messages; RocketMQ's limit
_QUICK = 0.2  # seconds for an answer where a pull shall not wait
_MORE = 0.05  # seconds for the rest, where a broker has given all that it may at once
_ACKS = 16  # of one request: a proxy does them one after the other, but requests at once
_REVIVAL = 10.0  # seconds that RocketMQ may take beyond the invisible time


class _Poll:
    """A request for messages of one topic to one broker. It goes on after the pull that began it."""

    def __init__(self, topic: str, queue: Any, link: Link, asked: int) -> None:
        self.topic, self.queue, self.link, self.asked = topic, queue, link, asked
        self.latest = time.monotonic() + POLL  # the server has handed out by then what comes
        self.found: list[Delivery] = []
        self.unwanted: list[_Handle] = []
        self.status: Any = None
        self.call: Call | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.topic, self.queue.broker.name


class _Handle:
    """What a delivery is settled by."""

    __slots__ = ("attempt", "message_id", "poll", "receipt", "settled")

    def __init__(self, poll: _Poll, properties: Any) -> None:
        self.poll = poll
        self.receipt, self.message_id, self.attempt = properties.receipt_handle, properties.message_id, max(1, properties.delivery_attempt)
        self.settled = False


class Consumer:
    """Pops for one group, from each broker of its topics.

    It is made when the cluster answers, so that nobody takes it for applied before: raises UnreachableError.
    """

    def __init__(self, cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> None:
        self.group, self.cluster = group.name, cluster.name
        self.lease = max(lease, LEASE_LEAST)
        self._name = re.sub(r"[^%|a-zA-Z0-9_-]", "_", f"{group.name}-{consumer}") if group.broadcast else group.name
        self._subscriptions = dict(group.subscriptions)
        self._most = group.max_attempts or MAX_ATTEMPTS
        self._client = Client(
            cluster, context, settings=self._settings, heartbeat=wm.HeartbeatRequest(client_type=wire.SIMPLE_CONSUMER), group=self._name
        )
        self._group = self._client.resource(self._name)
        self._client.heartbeat.group.CopyFrom(self._group)
        self._client.on_settings = self._configured
        self._fifo = False  # RocketMQ hands out what is in one queue only after what is before it
        self._arrived = threading.Condition(threading.RLock())
        self._telling = threading.Lock()  # a receipt is not used while it is changed
        self._ready: deque[Delivery] = deque()
        self._polls: dict[tuple[str, str], _Poll] = {}
        self._room = 0  # for how many more messages there is use
        self._errors: dict[str, TransportError] = {}  # by topic
        self._said: dict[str, str] = {}  # by topic, what of that stands in the log
        self._again_until = 0.0  # something that failed comes again until then
        self._closed = False
        self._client.reach()

    def _settings(self, settings: Any) -> None:
        settings.client_type = wire.SIMPLE_CONSUMER
        entries = [
            wm.SubscriptionEntry(topic=self._client.resource(topic), expression=wm.FilterExpression(type=1, expression="*"))
            for topic in self._subscriptions
        ]
        settings.subscription.CopyFrom(wm.Subscription(group=self._group, subscriptions=entries, long_polling_timeout=wire.moment(POLL)))

    def _configured(self, settings: Any) -> None:
        self._fifo = settings.subscription.fifo

    # --- pulling --------------------------------------------------------------------------------------------------------

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        """Settle, and take what has come. While the cluster cannot be used, and nothing is there: UnreachableError, TransportError."""
        settled = self.settle(settle)
        if not max_messages:
            return Pulled(settled=settled)
        if len(self._ready) < max_messages:
            self._ask(max_messages)
        with self._arrived:
            self._arrived.wait_for(lambda: self._ready or self._closed or self._errors, max(wait, _QUICK))
            if self._closed:
                raise MqadminError("the transport is closed")
            if self._ready and self._room > 0:  # a broker gives few at once, and the next ones at once
                self._arrived.wait_for(lambda: self._room <= 0 or self._closed, _MORE)
            taken = self._take(max_messages)
            if self._errors and not taken:
                raise next(iter(self._errors.values()))
            self._room = 0
            again = time.monotonic() < self._again_until
        return Pulled(taken, settled, None if taken else "outstanding" if again else "empty")

    def _take(self, count: int) -> list[Delivery]:
        """Take out what is still ours; others may have what has lain here for too long."""
        taken: list[Delivery] = []
        now = time.monotonic()
        while self._ready and len(taken) < count:
            one = self._ready.popleft()
            if one.expires is not None and one.expires > now:
                taken.append(one)
        return taken

    def _ask(self, count: int) -> None:
        """See to it that each broker of each topic is asked."""
        found = []
        for topic in self._subscriptions:
            try:
                found += [(topic, queue) for queue in self._client.route(topic, ANSWER).readable]
            except TransportError as error:
                self._failed(topic, error)
        with self._arrived:
            under_way = sum(poll.asked for poll in self._polls.values())
            self._room = count - len(self._ready) - under_way
            missing = [(topic, queue) for topic, queue in found if (topic, queue.broker.name) not in self._polls]
        share = max(1, min(_BATCH, self._room // max(1, len(missing))))
        for topic, queue in missing:
            try:
                link = self._client.link_of(queue, ANSWER)
            except TransportError as error:
                self._failed(topic, error)
            else:
                self._begin(_Poll(topic, queue, link, share))

    def _begin(self, poll: _Poll) -> None:
        request = wm.ReceiveMessageRequest(
            group=self._group,
            message_queue=poll.queue,
            filter_expression=wm.FilterExpression(type=1, expression="*"),
            batch_size=poll.asked,
            invisible_duration=wire.moment(self.lease),
            long_polling_timeout=wire.moment(POLL),
        )
        with self._arrived:
            if self._closed:
                return
            self._errors.pop(poll.topic, None)  # what comes of this will tell
            self._polls[poll.key] = poll
            self._room -= poll.asked
        call = poll.link.begin(
            "ReceiveMessage",
            request,
            timeout=POLL + ANSWER,
            on_message=lambda data: self._received(poll, wm.ReceiveMessageResponse.FromString(data)),
            on_end=lambda call: self._answered(poll, call),
        )
        poll.call = call

    # --- on the connection's thread -------------------------------------------------------------------------------------

    def _received(self, poll: _Poll, answer: Any) -> None:
        if answer.HasField("status"):
            poll.status = answer.status
        if not answer.HasField("message"):
            return
        message = _message(answer.message, poll.topic, self.group)
        handle = _Handle(poll, answer.message.system_properties)
        if not matches(self._subscriptions[poll.topic], message.tag):
            poll.unwanted.append(handle)
            return
        # The lease began when the message was handed out, before it arrived: not after `latest`, had this process been frozen since.
        expires = min(time.monotonic(), poll.latest) + self.lease
        lane = None if message.sharding_key is None else (message.topic, message.sharding_key)
        poll.found.append(Delivery(message, self._name, expires, handle, lane, self._fifo))

    def _answered(self, poll: _Poll, call: Call) -> None:
        count = len(poll.found) + len(poll.unwanted)
        with self._arrived:
            if self._polls.get(poll.key) is poll:
                del self._polls[poll.key]
            self._ready.extend(poll.found)
            self._room += poll.asked - len(poll.found)
            closed, more = self._closed, self._room > 0
            if closed:
                return
        if call.error is not None:
            self._client.forget(poll.topic)
            self._failed(poll.topic, self._client.lost(call.error))
        elif poll.status is not None and poll.status.code not in {wire.OK, wire.NOT_FOUND}:
            self._client.forget(poll.topic)
            self._failed(poll.topic, self._client.refused(poll.status, f"topic {poll.topic}"))
            if poll.status.code >= 50000:  # such as: it has forgotten our settings
                threading.Thread(target=poll.link.channel.close, daemon=True).start()
        else:
            if self._said.pop(poll.topic, None) is not None:
                log.info("Group %s: topic %s can be received from the RocketMQ cluster %s again", self.group, poll.topic, self.cluster)
            for start in range(0, len(poll.unwanted), _ACKS):  # what gets lost here comes again, and is unwanted again
                poll.link.begin("AckMessage", self._ack(poll.topic, poll.unwanted[start : start + _ACKS]), timeout=ANSWER)
            if more and count == poll.asked and poll.link.channel.usable:  # there may be more at once
                self._begin(_Poll(poll.topic, poll.queue, poll.link, min(_BATCH, max(1, self._room))))
        with self._arrived:
            self._arrived.notify_all()

    def _failed(self, topic: str, error: TransportError) -> None:
        with self._arrived:
            if self._said.get(topic) != str(error):
                self._said[topic] = str(error)
                log.warning("Group %s: %s", self.group, error)
            self._errors[topic] = error
            self._arrived.notify_all()

    # --- settling -------------------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Tell RocketMQ. A message that failed for the last time goes to the group's dead letters."""
        if not settlements:
            return []
        with self._telling:
            return self._settle(settlements)

    def _settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        results: list[Settled | None] = [None] * len(settlements)
        acks: dict[tuple[int, str], list[int]] = {}
        begun: list[tuple[str, list[int], Link, Call]] = []
        trouble: TransportError | None = None
        statuses = [self._status(one) for one in settlements]
        for i, one in enumerate(settlements):
            handle: _Handle = one.delivery.handle
            if handle.settled:
                results[i] = Settled(one, None, "already_settled", "It has been settled before.")
            elif statuses[i] == "succeeded":
                acks.setdefault((id(handle.poll.link), handle.poll.topic), []).append(i)
            else:
                method, request = self._dead(one) if statuses[i] == "dead" else self._later(one)
                trouble = self._tell(method, [i], handle, request, begun) or trouble
                if one.delivery.ordered and statuses[i] != "dead":
                    self._give_back_behind(one.delivery)
        for (_link, topic), group in acks.items():
            for start in range(0, len(group), _ACKS):
                part = group[start : start + _ACKS]
                handles = [settlements[i].delivery.handle for i in part]
                trouble = self._tell("AckMessage", part, handles[0], self._ack(topic, handles), begun) or trouble
        for method, part, link, call in begun:
            try:
                answer = link.answer(method, call, ANSWER)
            except TransportError as error:
                trouble = error
                continue
            entries = {one.receipt_handle: one.status for one in answer.entries} if method == "AckMessage" else {}
            for i in part:
                one, handle = settlements[i], settlements[i].delivery.handle
                status = entries.get(handle.receipt, answer.status)
                if status.code == wire.OK:
                    handle.settled = True
                    results[i] = Settled(one, statuses[i])
                elif status.code == wire.INVALID_RECEIPT_HANDLE:
                    results[i] = Settled(one, None, "lease_expired", "Its invisible time is over: others may have it.")
                else:
                    trouble = self._client.refused(status, f"group {self.group}")
        if trouble is not None:
            raise trouble
        return [one for one in results if one is not None]

    def _tell(self, method: str, part: list[int], handle: _Handle, request: Any, begun: list[Any]) -> TransportError | None:
        try:
            link = handle.poll.link if handle.poll.link.channel.usable else self._client.link_of(handle.poll.queue, ANSWER)
        except TransportError as error:
            return error
        begun.append((method, part, link, link.begin(method, request, timeout=ANSWER)))
        return None

    def _status(self, one: Settlement) -> Any:
        return "dead" if one.status == "failed" and one.delivery.handle.attempt >= self._most else one.status

    def _ack(self, topic: str, handles: Sequence[_Handle]) -> Any:
        entries = [wm.AckMessageEntry(message_id=one.message_id, receipt_handle=one.receipt) for one in handles]
        return wm.AckMessageRequest(group=self._group, topic=self._client.resource(topic), entries=entries)

    def _later(self, one: Settlement) -> tuple[str, Any]:
        handle: _Handle = one.delivery.handle
        delay = one.delay if one.delay is not None else min(BACKOFF_MOST, BACKOFF * 2.0 ** (handle.attempt - 1))
        self._again_until = max(self._again_until, time.monotonic() + delay + _REVIVAL)
        return "ChangeInvisibleDuration", self._invisible(handle, max(delay, 0.1))

    def _give_back_behind(self, delivery: Delivery) -> None:
        """What stands behind one that comes again is dropped by the consumer: RocketMQ would hold up the queue until its lease ends."""
        handle: _Handle = delivery.handle
        behind = itertools.dropwhile(lambda one: one is not delivery, handle.poll.found)
        for other in behind:
            if other is not delivery and other.lane == delivery.lane and not other.handle.settled:
                other.handle.settled = True
                handle.poll.link.begin("ChangeInvisibleDuration", self._invisible(other.handle, 0.1), timeout=ANSWER)

    def _invisible(self, handle: _Handle, seconds: float) -> Any:
        return wm.ChangeInvisibleDurationRequest(
            group=self._group,
            topic=self._client.resource(handle.poll.topic),
            receipt_handle=handle.receipt,
            invisible_duration=wire.moment(seconds),
            message_id=handle.message_id,
        )

    def _dead(self, one: Settlement) -> tuple[str, Any]:
        handle: _Handle = one.delivery.handle
        # RocketMQ keeps no reason with a dead letter.
        log.warning("Group %s: message %s of topic %s becomes a dead letter, attempt %d: %s",
                    self.group, one.delivery.message.id, handle.poll.topic, handle.attempt, one.error or one.status)  # fmt: skip
        return "ForwardMessageToDeadLetterQueue", wm.ForwardMessageToDeadLetterQueueRequest(
            group=self._group,
            topic=self._client.resource(handle.poll.topic),
            receipt_handle=handle.receipt,
            message_id=handle.message_id,
            delivery_attempt=handle.attempt,
            max_delivery_attempts=self._most,
        )

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:
        """Change the invisible times, each by itself, all at once."""
        with self._telling:
            began = time.monotonic()
            begun: list[tuple[str, list[int], Link, Call]] = []
            trouble: TransportError | None = None
            for i, one in enumerate(deliveries):
                handle: _Handle = one.handle
                if not handle.settled:
                    trouble = self._tell("ChangeInvisibleDuration", [i], handle, self._invisible(handle, seconds), begun) or trouble
            held = [one.handle.settled for one in deliveries]
            for method, [i], link, call in begun:
                try:
                    answer = link.answer(method, call, ANSWER)
                except TransportError as error:
                    trouble = error
                    continue
                if answer.status.code == wire.OK:
                    deliveries[i].handle.receipt = answer.receipt_handle
                    deliveries[i].expires = began + seconds
                    held[i] = True
                elif answer.status.code != wire.INVALID_RECEIPT_HANDLE:
                    trouble = self._client.refused(answer.status, f"group {self.group}")
        if trouble is not None:
            raise trouble
        return held

    def close(self) -> None:
        """Let others have what was not handed out, and give up the connections."""
        with self._arrived:
            if self._closed:
                return
            self._closed = True
            left, polls = [*self._ready], [*self._polls.values()]
            self._ready.clear()
            self._arrived.notify_all()
        for poll in polls:
            if poll.call is not None:
                poll.call.cancel()  # what is on its way to us comes to others in a second
        calls = [one.handle.poll.link.begin("ChangeInvisibleDuration", self._invisible(one.handle, 0.1), timeout=1.0) for one in left]
        for call in calls:
            call.ended.wait(1.0)
        with contextlib.suppress(UnreachableError):
            self._client.close()


def _message(one: Any, topic: str, group: str) -> Message:
    properties = one.system_properties
    headers = {pair.key: pair.value for pair in one.user_properties if pair.key != "__SHARDINGKEY"}
    born = properties.born_timestamp
    return Message(
        id=headers.pop(ID, "") or properties.message_id,
        topic=topic,
        group=group,
        body=one.body,
        key=" ".join(properties.keys) if properties.keys else None,
        tag=headers.pop(TAGS, "") or properties.tag,
        sharding_key=headers.pop(SHARDING, None) or properties.message_group or None,
        headers=headers,
        attempt=max(1, properties.delivery_attempt),
        sent_at=datetime.fromtimestamp(born.seconds, timezone.utc) + timedelta(microseconds=born.nanos // 1000),
    )
