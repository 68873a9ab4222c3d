"""Sending to a RocketMQ cluster."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import MqadminError, TransportError, UnsupportedError
from mqadmin_sdk.message import Outgoing, SendResult, new_id
from mqadmin_sdk.transports.rocketmq import wire
from mqadmin_sdk.transports.rocketmq.channel import Call
from mqadmin_sdk.transports.rocketmq.clients import ID, TAGS, Client, Link, Route
from mqadmin_sdk.transports.rocketmq.wire import messages as wm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context, Sent

_MAX_BODY = 4 * 1024 * 1024


class Producer:
    """A send returns when all is stored; what is sent again later, under the same id, may be stored twice."""

    def __init__(self, cluster: ClusterMetadata, context: Context) -> None:
        self.cluster = cluster.name
        self._client = Client(cluster, context, settings=_settings, heartbeat=wm.HeartbeatRequest(client_type=wire.PRODUCER))

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> list[Sent]:
        """Each message succeeds or fails by itself. Raises UnreachableError, and what the cluster says of the topic."""
        ends = time.monotonic() + timeout
        route = self._client.route(topic, timeout)
        results: list[Sent | None] = [None] * len(messages)
        made: dict[int, Any] = {}
        for i, message in enumerate(messages):
            try:
                made[i] = self._made(topic, message, route)
            except MqadminError as error:
                results[i] = error
        chains = _chains(made)
        while chains:
            # One message of each chain is under way: the next one of it must not overtake.
            begun = [(chain, self._begin(topic, route, made[chain[0]], ends)) for chain in chains]
            chains = []
            for (first, *rest), under_way in begun:
                trouble = self._ended(topic, under_way, ends)
                results[first] = trouble or _result(messages[first], made[first], topic, self.cluster)
                if trouble is not None and not trouble.permanent:  # what is behind must not be stored before it
                    for i in rest:
                        results[i] = trouble
                elif rest:
                    chains.append(rest)
        return [one or TransportError("nothing became of it") for one in results]

    def _begin(self, topic: str, route: Route, message: Any, ends: float) -> tuple[Link, Call] | MqadminError:
        left = max(0.05, ends - time.monotonic())
        if not route.writable:
            return TransportError(f"topic {topic}: the RocketMQ cluster {self.cluster} has no broker that takes messages for it now")
        group = message.system_properties.message_group
        # What has one key goes to one broker, and there to one queue.
        queues = route.writable
        queue = queues[sum(group.encode()) % len(queues)] if group else random.choice(queues)  # noqa: S311
        try:
            link = self._client.link_of(queue, left)
        except MqadminError as error:
            return error
        return link, link.begin("SendMessage", wm.SendMessageRequest(messages=[message]), timeout=left)

    def _ended(self, topic: str, under_way: tuple[Link, Call] | MqadminError, ends: float) -> MqadminError | None:
        if isinstance(under_way, MqadminError):
            self._client.forget(topic)
            return under_way
        link, call = under_way
        try:
            answer = link.answer("SendMessage", call, ends - time.monotonic())
        except TransportError as error:
            self._client.forget(topic)
            return error
        status = next((one.status for one in answer.entries if one.status.code != wire.OK), answer.status)
        if status.code == wire.OK:
            return None
        self._client.forget(topic)
        return self._client.refused(status, f"topic {topic}")

    def _made(self, topic: str, message: Outgoing, route: Route) -> Any:
        """Return the message as RocketMQ writes it. Raises UnsupportedError where the topic does not take its type."""
        if not message.body:
            raise UnsupportedError(f"topic {topic} is on the RocketMQ cluster {self.cluster}, which takes no message without a body")
        now = time.time()
        due = message.deliver_at.timestamp() if message.deliver_at is not None else now + message.delay if message.delay else None
        properties = wm.SystemProperties(
            message_id=f"01{new_id().upper()}",
            message_type=self._kind(topic, message, due, route.kinds),
            body_encoding=1,
            born_timestamp=wire.moment(now),
        )
        if properties.message_type == wire.DELAY:
            properties.delivery_timestamp.CopyFrom(wire.moment(due or now))
        elif properties.message_type == wire.FIFO:
            properties.message_group = message.sharding_key or message.id
        headers = {**message.headers, ID: message.id}
        if message.sharding_key is not None and not properties.message_group:
            headers[SHARDING] = message.sharding_key
        if message.tag and "|" not in message.tag:
            properties.tag = message.tag
        elif message.tag:
            headers[TAGS] = message.tag
        if message.key is not None:
            properties.keys.append(message.key)
        pairs = [wm.Pair(key=name, value=value) for name, value in headers.items()]
        return wm.Message(topic=self._client.resource(topic), user_properties=pairs, system_properties=properties, body=message.body)

    def _kind(self, topic: str, message: Outgoing, due: float | None, kinds: frozenset[int]) -> int:
        if due is not None:
            wanted = [wire.DELAY]
        elif message.sharding_key:
            wanted = [wire.FIFO, wire.NORMAL, wire.DELAY]
        else:
            wanted = [wire.NORMAL, wire.FIFO, wire.DELAY]  # of a topic for delayed messages: one that is due now
        for kind in wanted:
            if kind in kinds:
                return kind
        have = ", ".join(wire.KINDS.get(kind, str(kind)) for kind in sorted(kinds))
        raise UnsupportedError(
            f"topic {topic} of the RocketMQ cluster {self.cluster} takes messages of type {have} only: for this one it has to be made with"
            f" message.type={wire.KINDS[wanted[0]]}"
        )

    def flush(self, *, timeout: float) -> None:
        """Nothing waits here: a send returns when it is stored."""

    def close(self) -> None:
        """Give up the connections."""
        self._client.close()


SHARDING = "mqadmin-sharding-key"


def _settings(settings: Any) -> None:
    settings.client_type = wire.PRODUCER
    settings.publishing.CopyFrom(wm.Publishing(max_body_size=_MAX_BODY, validate_message_type=True))


def _chains(made: dict[int, Any]) -> list[list[int]]:
    """Sort into what may be sent at once: the messages of one message group go one after the other.

    Each has a request of its own: a proxy (5.3) would give all messages of one request the properties of the first.
    """
    chains: dict[Any, list[int]] = {}
    for i, message in made.items():
        chains.setdefault(message.system_properties.message_group or i, []).append(i)
    return [*chains.values()]


def _result(message: Outgoing, made: Any, topic: str, cluster: str) -> SendResult:
    if message.deliver_at is None and not message.delay:
        return SendResult(message.id, topic, cluster)
    due = made.system_properties.delivery_timestamp
    moment = datetime.fromtimestamp(due.seconds, timezone.utc) + timedelta(microseconds=due.nanos // 1000)
    return SendResult(message.id, topic, cluster, "delayed", deliver_at=moment)
