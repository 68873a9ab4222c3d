"""A client that is connected to a broker in memory: its transports, and what it follows metadata with."""

# ruff: noqa: SLF001 - the broker's other half, in a file of its own
# ruff: noqa: D102 - the protocols of transports and the follower's own methods say what these do

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk.client import Client
from mqadmin_sdk.errors import ConflictError, MqadminError
from mqadmin_sdk.message import Outgoing, SendResult
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata, NotPublishedError, ShadowGroup, TopicMetadata
from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
from mqadmin_sdk.transports import Delivery, HalfMessage, Pulled, Settled, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mqadmin_sdk.testing.broker import Broker
    from mqadmin_sdk.transports import Context

KIND = "memory"
_WAIT = 0.1  # seconds: whoever closes a client waits for its pull


class Producer:
    """Behind the seam of transports."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> list[SendResult]:  # noqa: ARG002
        self._broker._take_fault()
        with self._broker.changed:
            return [self._broker._store(topic, one) for one in messages]

    def prepare(self, topic: str, message: Outgoing, *, check_after: float | None, timeout: float) -> SendResult:  # noqa: ARG002
        broker = self._broker
        broker._take_fault()
        with broker.changed:
            number = len(broker._halves) + 1
            broker._halves[number] = (topic, message, "open")
        return SendResult(str(number), topic, state="half")

    def decide(self, half: SendResult, decision: Literal["commit", "rollback"], *, timeout: float) -> None:  # noqa: ARG002
        broker = self._broker
        broker._take_fault()
        with broker.changed:
            topic, message, state = broker._halves[int(half.id)]
            if state == "open":
                broker._halves[int(half.id)] = (topic, message, decision)
                if decision == "commit":
                    broker._store(topic, message)
            elif state != decision:
                raise ConflictError(status=409, document={"code": "already_decided", "detail": "It was decided otherwise."})

    def undecided(self, topic: str, *, limit: int, timeout: float) -> list[HalfMessage]:  # noqa: ARG002
        with self._broker.changed:
            return [
                HalfMessage(SendResult(str(number), topic, state="half"), one.id, one.key, one.tag, one.headers)
                for number, (name, one, state) in self._broker._halves.items()
                if name == topic and state == "open"
            ][:limit]

    def flush(self, *, timeout: float) -> None:
        pass

    def close(self) -> None:
        pass


class Consumer:
    """Behind the seam of transports."""

    def __init__(self, broker: Broker, group: str, instance: str, lease: float) -> None:
        self._broker, self._group, self._instance, self._lease = broker, group, instance, lease
        self._closed = False
        with broker.changed:
            broker._queue(group, instance)

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        broker = self._broker
        settled = self.settle(settle)
        if not max_messages:
            return Pulled(settled=settled)
        with broker.changed:
            found: list[Delivery] = []

            def ready() -> bool:
                if not self._closed:
                    found.extend(broker._pull(self._group, self._instance, max_messages, self._lease))
                return self._closed or bool(found)

            broker.changed.wait_for(ready, min(wait, _WAIT))
            if self._closed and not found:
                raise MqadminError("the transport is closed")
            return Pulled(found, settled, None if found else "empty")

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        with self._broker.changed:
            return [self._broker._settle(self._group, self._instance, one) for one in settlements]

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:
        with self._broker.changed:
            hands = self._broker._queue(self._group, self._instance).hands
            kept = [hands.get(one.handle) is one for one in deliveries]
        for one, held in zip(deliveries, kept, strict=True):
            if held:
                one.expires = time.monotonic() + seconds
        return kept

    def close(self) -> None:
        with self._broker.changed:
            self._closed = True
            self._broker.changed.notify_all()


class Transports:
    """What the client looks for under the broker's kind."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def producer(self, _cluster: ClusterMetadata, _context: Context) -> Producer:
        return Producer(self._broker)

    def consumer(self, _cluster: ClusterMetadata, group: GroupMetadata, _context: Context, *, consumer: str, lease: float) -> Consumer:
        return Consumer(self._broker, group.name, consumer if group.broadcast else "", lease)


class Follower:
    """Metadata from the broker; callbacks run in the thread that changes them, so that a test sees what they did."""

    def __init__(self, broker: Broker, *, app: str, ip: str, labels: Mapping[str, str]) -> None:
        self._broker = broker
        self.app, self.ip, self.labels = app, ip, labels
        self._subscriptions: list[Subscription] = []
        self._shadows: list[ShadowSubscription] = []
        broker._followers.append(self)

    def check(self, *, timeout: float) -> None:
        pass

    def topic(self, name: str, *, timeout: float = 0) -> TopicMetadata:  # noqa: ARG002
        return self._read("topic", name)  # type: ignore[no-any-return]

    def group(self, name: str, *, timeout: float = 0) -> GroupMetadata:  # noqa: ARG002
        return self._read("group", name)  # type: ignore[no-any-return]

    def cluster(self, name: str, *, timeout: float = 0) -> ClusterMetadata:  # noqa: ARG002
        return ClusterMetadata(name, name, KIND)

    def watch_topic(self, name: str, on_change: Callable[[TopicMetadata | None], object]) -> Subscription:
        return self._follow("topic", name, on_change)

    def watch_group(self, name: str, on_change: Callable[[GroupMetadata | None], object]) -> Subscription:
        return self._follow("group", name, on_change)

    def watch_shadow(self, on_change: Callable[[ShadowGroup], object], *, groups: Collection[str] | None = None) -> ShadowSubscription:
        one = ShadowSubscription(app=self.app, ip=self.ip, callback=on_change, groups=groups)
        one.on_close = lambda _: self._shadows.remove(one) if one in self._shadows else None
        self._shadows.append(one)
        for state in list(self._broker._shadow.values()):
            if state.running:
                self._tell_one(one, state)
        return one

    def tell(self, kind: str, name: str) -> None:
        for one in [one for one in self._subscriptions if (one.kind, one.name) == (kind, name)]:
            if one.offer(self._broker._state(kind, name)):
                one.deliver()

    def tell_shadow(self, state: ShadowGroup) -> None:
        for one in list(self._shadows):
            self._tell_one(one, state)

    def _tell_one(self, one: ShadowSubscription, state: ShadowGroup) -> None:
        served = {other.name for other in self._subscriptions if other.kind == "group"} if one.groups is None else one.groups
        if state.app == self.app and state.group in served:
            one.callback(state)

    def after_fork(self) -> None:
        for one in self._subscriptions:
            one.renew()
            self.tell(one.kind, one.name)

    def close(self) -> None:
        if self in self._broker._followers:
            self._broker._followers.remove(self)

    def _read(self, kind: str, name: str) -> Any:
        found = self._broker._state(kind, name)
        if found is None:
            raise NotPublishedError(f"{kind} {name} is not published")
        return found

    def _follow(self, kind: Literal["topic", "group"], name: str, callback: Callable[[Any], object]) -> Subscription:
        one = Subscription(kind=kind, name=name, app=self.app, ip=self.ip, labels=self.labels, callback=callback)
        one.on_close = lambda closed: self._subscriptions.remove(closed) if closed in self._subscriptions else None
        self._subscriptions.append(one)
        self.tell(kind, name)
        return one


class BrokerClient(Client):
    """A client without a network."""

    def __init__(self, broker: Broker, *, app: str, **arguments: Any) -> None:
        self._broker = broker
        super().__init__(zookeeper="memory", app=app, ip="127.0.0.1", transports={KIND: Transports(broker)}, **arguments)

    def _new_follower(self, zookeeper: str, **arguments: Any) -> Any:  # noqa: ARG002
        return Follower(self._broker, **{name: arguments[name] for name in ("app", "ip", "labels")})
