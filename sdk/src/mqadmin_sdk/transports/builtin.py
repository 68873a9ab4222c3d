"""mqadmin's own store, over its REST interface."""

from __future__ import annotations

import base64
import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from mqadmin_sdk.errors import ConflictError, MqadminError, NotFoundError, UnsupportedError
from mqadmin_sdk.message import Message, Outgoing, SendResult
from mqadmin_sdk.transports import Delivery, HalfMessage, Pulled, Settled, Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mqadmin_sdk.http import ControlPlane
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)

MAX_MESSAGES = 1000  # of one request; mqadmin's own limits
MAX_BYTES = 8 * 1024 * 1024  # half of what it takes by default: base64 and names of fields come on top
MAX_ACKS = 1000
MAX_WAIT = 30.0
_ANSWER = 10.0  # seconds for a request that does not wait
_GOODBYE = 2.0  # seconds for one whose loss costs others a minute


def producer(cluster: ClusterMetadata, context: Context) -> Producer:
    """Return the transport of a producer."""
    return Producer(cluster.name, _control(cluster, context))


def consumer(cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> Consumer:
    """Return the transport of a group's consumer."""
    return Consumer(group.name, _control(cluster, context), consumer=consumer, lease=lease)


def _control(cluster: ClusterMetadata, context: Context) -> ControlPlane:
    if context.control is None:
        raise UnsupportedError(f"cluster {cluster.name} is mqadmin's own store: give the client mqadmin's address (url, MQADMIN_URL)")
    return context.control


class Producer:
    """One commit for each send; a single one shares it with those of others inside mqadmin."""

    def __init__(self, cluster: str, control: ControlPlane) -> None:
        self.cluster = cluster
        self._control = control

    def send(self, topic: str, messages: Sequence[Outgoing], *, timeout: float) -> list[SendResult]:
        """All or nothing in one commit, unless they are too many or too large for one. Errors: those of ControlPlane.request."""
        results: list[SendResult] = []
        ends = time.monotonic() + timeout
        for part in _parts(messages):
            # Also a repetition within the request: a message with an id is stored once.
            body: Any = _document(part[0]) if len(part) == 1 else {"messages": [_document(message) for message in part]}
            answer = self._control.post(
                f"topics/{quote(topic, safe='')}/messages", body, timeout=max(0.0, ends - time.monotonic()), key=topic, repeat=True
            )
            results += [self._result(topic, one) for one in answer["messages"]]
        return results

    def prepare(self, topic: str, message: Outgoing, *, check_after: float | None, timeout: float) -> SendResult:
        """Store a half message."""
        body = _document(message)
        if check_after is not None:
            body["check_after_ms"] = round(check_after * 1000)
        path = f"topics/{quote(topic, safe='')}/half-messages"
        return self._result(topic, self._control.post(path, body, timeout=timeout, key=topic, repeat=True))

    def decide(self, half: SendResult, decision: Literal["commit", "rollback"], *, timeout: float) -> None:
        """Commit or roll back."""
        self._control.post(f"half-messages/{half.id}/{decision}", {}, timeout=timeout, key=half.topic, repeat=True)

    def undecided(self, topic: str, *, limit: int, timeout: float) -> list[HalfMessage]:
        """Ask what is open; not repeated after a lost answer: the same are handed out again later."""
        path = f"topics/{quote(topic, safe='')}/half-messages/open"
        answer = self._control.post(path, {"max": limit}, timeout=timeout, key=topic)
        return [
            HalfMessage(
                half=SendResult(id=str(one["id"]), topic=topic, cluster=self.cluster, state="half"),
                producer_id=one["producer_id"],
                key=one["key"],
                tag=one["tag"],
                headers=one["headers"] or {},
            )
            for one in answer["half_messages"]
        ]

    def flush(self, *, timeout: float) -> None:
        """Nothing waits here: a send returns when it is stored."""

    def close(self) -> None:
        """Nothing is kept here: the connections are the client's."""

    def _result(self, topic: str, one: Mapping[str, Any]) -> SendResult:
        due = one["deliver_at"]
        return SendResult(str(one["id"]), topic, self.cluster, one["state"], one["duplicate"], None if due is None else _moment(due))


class Consumer:
    """Pull and settle in one commit; a delivery's lease is that of its pull."""

    def __init__(self, group: str, control: ControlPlane, *, consumer: str, lease: float) -> None:
        self.group, self.consumer, self.lease = group, consumer, lease
        self._control = control
        self._path = f"consumer-groups/{quote(group, safe='')}"
        self._closed = False
        self._sticky = False  # each sharding key stays with its worker, as the last answer said

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        """Settle and pull: in one commit, but for acks of further leases, which go before it."""
        if self._closed:
            raise MqadminError("the transport is closed")
        if not max_messages:
            return Pulled(settled=self.settle(settle))
        leases: dict[str, list[int]] = {}
        for i, settlement in enumerate(settle):
            leases.setdefault(settlement.delivery.lease, []).append(i)
        lease = max(leases, key=lambda one: len(leases[one]), default=None)
        own = leases.get(lease, [])[:MAX_ACKS] if lease is not None else []
        chosen = set(own)
        others = [i for i in range(len(settle)) if i not in chosen]
        settled: list[Settled | None] = [None] * len(settle)
        for i, done in zip(others, self.settle([settle[i] for i in others]), strict=True):
            settled[i] = done
        wait = min(wait, MAX_WAIT)
        asked: dict[str, Any] = {
            "max": min(max_messages, 1000),
            "wait_ms": int(wait * 1000),
            "visibility_ms": round(self.lease * 1000),
            "consumer": self.consumer,
        }
        if own:
            asked.update(lease=lease, acks=[_ack(settle[i]) for i in own])
        latest = time.monotonic() + wait
        answer, headers = self._control.ask("POST", f"{self._path}/next", asked, timeout=wait + _ANSWER, key=self.group)
        for i, result in zip(own, answer["acks"], strict=True):
            settled[i] = _settled(settle[i], result)
        # The lease began when the messages were handed out, before they arrived: not after `latest`, had this process been frozen since.
        expires = min(time.monotonic(), latest) + self.lease
        given, ordered = answer["lease"], answer.get("ordered", {})
        self._sticky = answer.get("sticky", False)
        retry = headers.get("retry-after")
        return Pulled(
            deliveries=[_delivery(_message(one, self.group), given, expires, one["id"], ordered) for one in answer["messages"]],
            settled=[one for one in settled if one is not None],
            reason=answer["reason"],
            retry_after=float(retry) if retry and retry.isdigit() else None,
            moved_at=_moment(answer.get("moved_at")),
        )

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Settle, of several leases too, each in a commit of its own. Repeated until it is answered: the second time changes nothing."""
        found: list[Settled] = []
        for start in range(0, len(settlements), MAX_ACKS):
            part = settlements[start : start + MAX_ACKS]
            acks = [{"lease": one.delivery.lease, **_ack(one)} for one in part]
            answer = self._control.post(f"{self._path}/acks", {"acks": acks}, timeout=_ANSWER, key=self.group, repeat=True)
            found += [_settled(one, result) for one, result in zip(part, answer["acks"], strict=True)]
        return found

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:
        """Extend the leases that the deliveries came under, each with one request."""
        ends: dict[str, float | None] = {}
        for lease in dict.fromkeys(one.lease for one in deliveries):
            began = time.monotonic()
            try:
                path = f"{self._path}/leases/{lease}/extension"
                self._control.post(path, {"visibility_ms": round(seconds * 1000)}, timeout=_ANSWER, key=self.group, repeat=True)
                ends[lease] = began + seconds
            except ConflictError as error:
                if error.code == "lease_too_long":
                    raise
                ends[lease] = None
            except NotFoundError:
                ends[lease] = None
        for one in deliveries:
            until = ends[one.lease]
            if until is not None:
                one.expires = until
        return [ends[one.lease] is not None for one in deliveries]

    def close(self) -> None:
        """Take no more; a `next` that waits ends with its time, or with the client. Of a sticky group the keys go to the other workers."""
        if self._sticky and not self._closed:
            try:
                self._control.post(f"{self._path}/departures", {"consumer": self.consumer}, timeout=_GOODBYE, key=self.group)
            except MqadminError as error:
                log.warning("Group %s: it could not say goodbye, so the others get its keys after a minute only: %s", self.group, error)
        self._closed = True


def _parts(messages: Sequence[Outgoing]) -> Sequence[Sequence[Outgoing]]:
    """Split into what one request takes."""
    if len(messages) <= MAX_MESSAGES and sum([message.size for message in messages]) <= MAX_BYTES:
        return [messages]
    parts: list[list[Outgoing]] = []
    size = 0
    for message in messages:
        if not parts or len(parts[-1]) >= MAX_MESSAGES or size + message.size > MAX_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += message.size
    return parts


def _document(message: Outgoing) -> dict[str, Any]:
    document: dict[str, Any] = {"id": message.id}
    try:
        document["body"] = message.body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(message.body).decode()
    if message.key is not None:
        document["key"] = message.key
    if message.tag:
        document["tag"] = message.tag
    if message.sharding_key is not None:
        document["sharding_key"] = message.sharding_key
    if message.headers:
        document["headers"] = dict(message.headers)
    if message.delay:
        document["delay_ms"] = max(1, round(message.delay * 1000))
    if message.deliver_at is not None:
        document["deliver_at"] = message.deliver_at.isoformat()
    return document


def _ack(settlement: Settlement) -> dict[str, Any]:
    ack: dict[str, Any] = {"id": settlement.delivery.handle, "status": settlement.status}
    if settlement.delay is not None and settlement.status in {"failed", "later"}:
        ack["delay_ms"] = round(settlement.delay * 1000)
    if settlement.error is not None:
        ack["error"] = settlement.error[:2000]
    return ack


def _settled(settlement: Settlement, result: Mapping[str, Any]) -> Settled:
    problem = result.get("problem")
    if problem is None:
        return Settled(settlement, result["status"])
    return Settled(settlement, None, problem["code"], problem["detail"])


def _delivery(message: Message, lease: str, expires: float, handle: int, ordered: Mapping[str, str]) -> Delivery:
    """Of an ordered topic the lane is what is in one order; elsewhere a sharding key keeps what belongs together from running at once."""
    lane: Any = None
    order = ordered.get(message.topic)
    if order == "topic":
        lane = message.topic
    elif message.sharding_key is not None:
        lane = (message.topic, message.sharding_key)
    return Delivery(message, lease, expires, handle, lane, order is not None)


def _message(one: Mapping[str, Any], group: str) -> Message:
    body = one.get("body")
    origin = one["origin_id"]
    message = object.__new__(Message)  # its own __init__, which sets what is frozen field by field, is a tenth of all that consuming costs
    vars(message).update(
        id=str(one["id"]),
        topic=one["topic"],
        group=group,
        body=base64.b64decode(one["body_base64"]) if body is None else body.encode(),
        key=one["key"],
        tag=one["tag"],
        sharding_key=one["sharding_key"],
        headers=one["headers"] or {},
        attempt=one["attempt"],
        sent_at=_moment(one["sent_at"]),
        origin_id=None if origin is None else str(origin),
    )
    return message


def _moment(text: str | None) -> datetime | None:
    """Read a time of mqadmin's: RFC 3339 in UTC."""
    if text is None:
        return None
    return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
