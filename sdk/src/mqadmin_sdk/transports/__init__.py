"""How messages reach brokers: two small protocols, one implementation for each kind of broker, chosen by the cluster's metadata.

A transport knows one cluster and nothing of metadata, retries or threads of an application: producing/ and consuming/ do that for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mqadmin_sdk.errors import MqadminError, UnsupportedError
from mqadmin_sdk.message import Message, Outgoing, SendResult

if TYPE_CHECKING:
    from mqadmin_sdk.http import ControlPlane
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata

Sent = SendResult | MqadminError  # what became of one message of a send


@dataclass(frozen=True)
class Context:
    """What transports of a client have in common.

    `control` reaches the built-in store, None without an address of mqadmin. `instance` names this process among those of `app`.
    `options` are what the application sets for the broker's own client, by kind of broker. `transports` are kinds of its own, or
    others for known kinds: a module, or anything else that has `producer` and `consumer`.
    """

    app: str
    instance: str
    control: ControlPlane | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    transports: Mapping[str, Any] = field(default_factory=dict)


class ProducerTransport(Protocol):
    """Sends to one cluster; thread-safe."""

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> Sequence[Sent]:
        """Store the messages: one result or error for each, in their order, within so many seconds.

        Raises MqadminError if it befell all of them. The order of what has the same sharding key is kept. A message with an id that
        was sent before is not stored again where the broker can tell. It is called again with the same messages after a temporary error.
        """

    def flush(self, *, timeout: float) -> None:
        """Wait until everything that was taken is stored."""

    def close(self) -> None:
        """Give up connections and threads; nothing is sent any more. May be called twice, also while a send is under way."""


class TransactionalTransport(ProducerTransport, Protocol):
    """A cluster that knows half messages: stored, and seen by nobody before they are committed."""

    def prepare(self, topic: str, message: Outgoing, *, check_after: float | None, timeout: float) -> SendResult:
        """Store a half message; `check_after` seconds later its producer is asked what became of it. May be repeated."""

    def decide(self, half: SendResult, decision: Literal["commit", "rollback"], *, timeout: float) -> None:
        """Deliver it, or throw it away. May be repeated; the other decision is a ConflictError then."""

    def undecided(self, topic: str, *, limit: int, timeout: float) -> Sequence[HalfMessage]:
        """Half messages of the topic that wait for their producer's decision, oldest first; each is handed out to one asker at a time."""


@dataclass(frozen=True)
class HalfMessage:
    """A half message that nobody has decided; `producer_id` is the id that it was sent with."""

    half: SendResult
    producer_id: str | None
    key: str | None
    tag: str
    headers: Mapping[str, str]


@dataclass
class Delivery:
    """A message in this process's hands. `expires` is on the monotonic clock: from then on others may get the message, None is never.

    Deliveries of one `lane` are handled one after the other, as they came; None is in no order. Where they are `ordered`, a failed or
    postponed one takes those with it that stand behind it in the same lease: they come again after it, and are not settled.
    `lease` and `handle` belong to the transport; a lease is held, lost and extended as one. `begun`: a handler has it.
    """

    message: Message
    lease: str = ""
    expires: float | None = None
    handle: Any = None
    lane: Hashable = None
    ordered: bool = False
    begun: bool = False


@dataclass
class Settlement:
    """What became of a delivery.

    `failed`: again after the group's backoff, or `delay` seconds, dead at its limit of attempts; `later`: the same, not counted as an
    attempt; `dead`: at once. `error` is kept, its first 2,000 characters.
    """

    delivery: Delivery
    status: Literal["succeeded", "failed", "later", "dead"]
    delay: float | None = None
    error: str | None = None


@dataclass
class Settled:
    """What the broker made of a settlement: the message's status now, or a problem, and nothing was changed.

    Problems: `lease_expired` (others may have the message), `not_in_lease`, `already_settled`, `held_back` (of an ordered topic: one
    before it failed, so this one comes again).
    """

    settlement: Settlement
    status: str | None
    problem: str | None = None
    detail: str = ""


@dataclass
class Pulled:
    """What a pull brought.

    Without deliveries, `reason` may say why: empty, suspended, retired, not_subscribed, outstanding, parked, crowded. `retry_after` is
    the seconds before asking again makes sense. `settled` answers the settlements that were given, in their order.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    reason: str | None = None
    retry_after: float | None = None
    moved_at: datetime | None = None


class ConsumerTransport(Protocol):
    """Receives for one group on one cluster. `next` is called by one thread; the other verbs by any thread meanwhile."""

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        """Settle, and pull; waits so many seconds for a first message. `max_messages` 0 only settles.

        Raises MqadminError: then it is unknown what of `settle` was done, and it is given again; what was done is `already_settled`.
        """

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Settle without pulling; as in `next`."""

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:
        """Keep deliveries for so many seconds from now and set their `expires`; False for what is lost. Raises MqadminError: unknown."""

    def close(self) -> None:
        """Give up connections and threads. A `next` that waits ends, returning or raising. May be called twice."""


_MODULES: Mapping[str, tuple[str, str]] = {  # by kind of broker: the module, and the extra that it needs
    "builtin": ("builtin", ""),
    "kafka": ("kafka", "kafka"),
    "rocketmq": ("rocketmq", "rocketmq"),
    "rabbitmq": ("rabbitmq", "rabbitmq"),
}


def producer_transport(cluster: ClusterMetadata, context: Context) -> ProducerTransport:
    """Return a transport that sends to the cluster. Raises UnsupportedError, and what its connecting raises."""
    make: Callable[..., ProducerTransport] = _of(cluster, context).producer
    return make(cluster, context)


def consumer_transport(
    group: GroupMetadata, context: Context, *, consumer: str, lease: float = 60.0, cluster: ClusterMetadata | None = None
) -> ConsumerTransport:
    """Return a transport that receives for the group; `consumer` names this worker, or this instance of a broadcast group.

    A delivery is kept from others for `lease` seconds. `cluster` is another one than the group's own: one that is drained.
    """
    chosen = cluster or group.cluster
    make: Callable[..., ConsumerTransport] = _of(chosen, context).consumer
    return make(chosen, group, context, consumer=consumer, lease=lease)


def _of(cluster: ClusterMetadata, context: Context) -> Any:
    kind = cluster.broker_type
    if kind in context.transports:
        return context.transports[kind]
    if kind not in _MODULES:
        raise UnsupportedError(
            f"cluster {cluster.name}: this version of mqadmin-sdk has no client for {kind or 'an unknown kind of broker'};"
            f" it has {', '.join(sorted({*_MODULES, *context.transports}))}"
        )
    module, extra = _MODULES[kind]
    try:
        return importlib.import_module(f"mqadmin_sdk.transports.{module}")
    except ImportError as error:
        raise UnsupportedError(f"cluster {cluster.name} is {kind}: pip install 'mqadmin-sdk[{extra}]' ({error})") from error
