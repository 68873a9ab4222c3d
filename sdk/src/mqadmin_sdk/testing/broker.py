"""The broker in memory: what a test sets up, what it looks at, and what transports and followers ask of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.message import Message, Outgoing, SendResult, seconds
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata, NotPublishedError, ShadowGroup, TopicMetadata
from mqadmin_sdk.testing.client import KIND, BrokerClient, Follower
from mqadmin_sdk.transports import Delivery, Settled, Settlement
from mqadmin_sdk.transports.filters import matches

if TYPE_CHECKING:
    from mqadmin_sdk.client import Client

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class DeadLetter:
    """A message that a group has given up."""

    message: Message
    error: str


@dataclass
class _Stored:
    number: int
    topic: str
    outgoing: Outgoing
    due: float
    sent_at: datetime

    def message(self, group: str, attempt: int) -> Message:
        one = self.outgoing
        return Message(
            str(self.number), self.topic, group, one.body, one.key, one.tag, one.sharding_key, dict(one.headers), attempt, self.sent_at
        )


@dataclass
class _Queue:
    """What one group, or one instance of a broadcast group, has to do and has done."""

    attempts: Counter[int] = field(default_factory=Counter)
    waiting: dict[int, float] = field(default_factory=dict)  # number → when it is due
    hands: dict[int, Delivery] = field(default_factory=dict)
    succeeded: list[Message] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


@dataclass
class _Group:
    metadata: GroupMetadata
    backoff: float
    queues: dict[str, _Queue] = field(default_factory=dict)  # by instance; "" of a group that is not broadcast


class Broker:
    """Topics and groups that a test publishes, and all messages. Thread-safe."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._clock = 0.0
        self._numbers = itertools.count(1)
        self._generation = itertools.count(1)
        self._topics: dict[str, TopicMetadata] = {}
        self._ordered: set[str] = set()
        self._groups: dict[str, _Group] = {}
        self._shadow: dict[tuple[str, str], ShadowGroup] = {}
        self._log: list[_Stored] = []
        self._ids: dict[tuple[str, str], int] = {}
        self._halves: dict[int, tuple[str, Outgoing, str]] = {}
        self._leases = itertools.count(1)
        self._followers: list[Follower] = []
        self._faults: list[MqadminError] = []

    # --- what a test sets up --------------------------------------------------------------------------------------------

    def topic(self, name: str, *, cluster: str = "memory", ordered: bool = False) -> None:
        """Publish a topic, or move it to another cluster; clients that follow it have switched when this returns."""
        with self.changed:
            self._topics[name] = TopicMetadata(name, self._cluster(cluster), next(self._generation))
            (self._ordered.add if ordered else self._ordered.discard)(name)
        self._tell("topic", name)

    def group(
        self,
        name: str,
        *topics: str,
        subscriptions: Mapping[str, str] | None = None,
        cluster: str = "memory",
        suspended: bool = False,
        broadcast: bool = False,
        max_attempts: int = 16,
        backoff: timedelta | float = 0.0,
    ) -> None:
        """Publish a consumer group of these topics, or change it; `subscriptions` maps topics to tag expressions (`created || paid`).

        A new group gets what is sent from now on; an instance of a broadcast group what is sent after it has come.
        """
        wanted = dict(subscriptions or dict.fromkeys(topics, "*"))
        with self.changed:
            metadata = GroupMetadata(
                name=name,
                cluster=self._cluster(cluster),
                binding_topic=next(iter(wanted), ""),
                subscriptions=wanted,
                suspended=suspended,
                broadcast=broadcast,
                max_attempts=max_attempts,
                generation=next(self._generation),
            )
            known = self._groups.get(name)
            if known is None:
                self._groups[name] = _Group(metadata, seconds(backoff), {} if broadcast else {"": _Queue()})
            else:
                known.metadata, known.backoff = metadata, seconds(backoff)
            self.changed.notify_all()
        self._tell("group", name)

    def suspend(self, group: str, suspended: bool = True) -> None:
        """Suspend a group, or resume it."""
        with self.changed:
            one = self._group(group)
            one.metadata = replace(one.metadata, suspended=suspended, generation=next(self._generation))
            self.changed.notify_all()
        self._tell("group", group)

    def shadow(self, task: str, group: str, topic: str, *, running: bool = True, app: str = "test") -> None:
        """Switch a shadow group on or off."""
        state = ShadowGroup(app, task, group, topic, running, "" if running else "off", generation=next(self._generation))
        with self.changed:
            self._shadow[task, group] = state
        for follower in list(self._followers):
            follower.tell_shadow(state)

    def client(self, app: str = "test", **arguments: Any) -> Client:
        """Return a client of this broker; `arguments` are those of `Client`."""
        return BrokerClient(self, app=app, **arguments)

    def advance(self, duration: timedelta | float) -> None:
        """Let time pass: what is due then is delivered."""
        with self.changed:
            self._clock += seconds(duration)
            self.changed.notify_all()

    def fail(self, *errors: MqadminError) -> None:
        """Let the next sends raise these errors, one each."""
        with self.changed:
            self._faults += errors

    def put(self, topic: str, body: Any, **fields: Any) -> str:
        """Send a message as if another application had; `fields` are those of `Client.send`. Returns its id."""
        return self._store(topic, Outgoing.of(body, **fields)).id

    # --- what a test looks at -------------------------------------------------------------------------------------------

    def sent(self, topic: str) -> list[Message]:
        """Return what was sent to a topic, in its order, delayed messages included."""
        with self.changed:
            return [one.message("", 0) for one in self._log if one.topic == topic]

    def handled(self, group: str) -> list[Message]:
        """Return what a group has handled with success, in that order."""
        with self.changed:
            return [one for queue in self._group(group).queues.values() for one in queue.succeeded]

    def dead(self, group: str) -> list[DeadLetter]:
        """Return what a group has given up."""
        with self.changed:
            return [one for queue in self._group(group).queues.values() for one in queue.dead]

    def waiting(self, group: str) -> int:
        """Return how many messages wait for a group or are in its hands, those that are not due yet included."""
        with self.changed:
            return sum(len(queue.waiting) + len(queue.hands) for queue in self._group(group).queues.values())

    def wait(self, group: str, *, timeout: float = 10.0) -> None:
        """Wait until a group that is being consumed has nothing left that is due. Raises TimeoutError."""
        with self.changed:
            queues = self._group(group).queues
            if not self.changed.wait_for(lambda: not any(one.hands or self._due(one) for one in queues.values()), timeout):
                hands, due = (sum(map(len, found)) for found in zip(*((one.hands, self._due(one)) for one in queues.values()), strict=True))
                raise TimeoutError(f"group {group} has {hands} messages in hand, and {due} are due")

    # --- inside: what transports and followers ask ----------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The broker's time."""
        return _START + timedelta(seconds=self._clock)

    @staticmethod
    def _cluster(name: str) -> ClusterMetadata:
        return ClusterMetadata(name, name, KIND)

    def _group(self, name: str) -> _Group:
        found = self._groups.get(name)
        if found is None:
            raise NotPublishedError(f"group {name} is not published")
        return found

    def _state(self, kind: str, name: str) -> Any:
        with self.changed:
            if kind == "topic":
                return self._topics.get(name)
            group = self._groups.get(name)
            return None if group is None else group.metadata

    def _tell(self, kind: str, name: str) -> None:
        for follower in list(self._followers):
            follower.tell(kind, name)

    def _take_fault(self) -> None:
        with self.changed:
            if self._faults:
                raise self._faults.pop(0)

    def _store(self, topic: str, message: Outgoing) -> SendResult:
        with self.changed:
            if topic not in self._topics:
                raise NotPublishedError(f"topic {topic} is not published")
            cluster = self._topics[topic].cluster.name
            known = self._ids.get((topic, message.id))
            if known is not None:
                return SendResult(str(known), topic, cluster, duplicate=True)
            due = self._clock
            if message.delay is not None:
                due += message.delay
            elif message.deliver_at is not None:
                due = max(due, (message.deliver_at - _START).total_seconds())
            stored = _Stored(next(self._numbers), topic, message, due, self.now)
            self._log.append(stored)
            self._ids[topic, message.id] = stored.number
            for group in self._groups.values():
                wanted = group.metadata.subscriptions.get(topic)
                if wanted is not None and matches(wanted, message.tag):
                    for queue in group.queues.values():
                        queue.waiting[stored.number] = due
            self.changed.notify_all()
            if due > self._clock:
                return SendResult(str(stored.number), topic, cluster, state="delayed", deliver_at=_START + timedelta(seconds=due))
            return SendResult(str(stored.number), topic, cluster)

    def _due(self, group: _Queue) -> list[int]:
        """What may be handed out: of an ordered topic nothing that has one of its key ahead of it."""
        found, busy = [], {one.lane for one in group.hands.values() if one.ordered}
        for number in sorted(group.waiting):
            stored = self._log[number - 1]
            lane, ordered = self._lane(stored)
            if ordered and lane in busy:
                continue
            if group.waiting[number] <= self._clock:
                found.append(number)
            elif ordered:
                busy.add(lane)
        return found

    def _lane(self, stored: _Stored) -> tuple[Any, bool]:
        key = stored.outgoing.sharding_key
        return (None if key is None else (stored.topic, key)), key is not None and stored.topic in self._ordered

    def _queue(self, name: str, instance: str) -> _Queue:
        return self._group(name).queues.setdefault(instance, _Queue())

    def _pull(self, name: str, instance: str, most: int, lease: float) -> list[Delivery]:
        if self._group(name).metadata.suspended:
            return []
        group = self._queue(name, instance)
        token, found = str(next(self._leases)), []
        for number in self._due(group)[:most]:
            del group.waiting[number]
            group.attempts[number] += 1
            stored = self._log[number - 1]
            message = stored.message(name, group.attempts[number])
            lane, ordered = self._lane(stored)
            delivery = Delivery(message, token, time.monotonic() + lease, number, lane, ordered)
            group.hands[number] = delivery
            found.append(delivery)
        return found

    def _settle(self, name: str, instance: str, one: Settlement) -> Settled:
        of, group, number = self._group(name), self._queue(name, instance), one.delivery.handle
        if group.hands.get(number) is not one.delivery:
            return Settled(one, None, "lease_expired", "others may have the message")
        del group.hands[number]
        status: str = one.status
        if status == "failed" and group.attempts[number] >= (of.metadata.max_attempts or 16):
            status = "dead"
        if status == "succeeded":
            group.succeeded.append(one.delivery.message)
        elif status == "dead":
            group.dead.append(DeadLetter(one.delivery.message, one.error or ""))
        else:
            if status == "later":
                group.attempts[number] -= 1
            group.waiting[number] = self._clock + (of.backoff if one.delay is None else one.delay)
            behind = [other for other in group.hands.values() if other.ordered and other.lane == one.delivery.lane]
            for other in behind if one.delivery.ordered else ():  # they come again after it
                del group.hands[other.handle]
                group.attempts[other.handle] -= 1
                group.waiting[other.handle] = self._clock
            status = "later"
        self.changed.notify_all()
        return Settled(one, status)
