"""Receiving from a Kafka cluster as a member of its group."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import re
import threading
import time
from collections import deque
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from mqadmin_sdk.errors import MqadminError, UnreachableError
from mqadmin_sdk.message import Message, Outgoing
from mqadmin_sdk.transports import Delivery, Pulled, Settled, Settlement
from mqadmin_sdk.transports.filters import matches
from mqadmin_sdk.transports.kafka.clients import ID, KEY, TAG, alive, cause_of, connected, settings_of
from mqadmin_sdk.transports.kafka.producing import Producer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)

DEAD = "mqadmin-dead-"  # and group, topic, partition, offset, reason, error, attempts, at
MAX_ATTEMPTS = 16  # of a group whose node names no number
BACKOFF, BACKOFF_MOST = 1.0, 600.0  # seconds; doubled with each attempt
READY_MOST, READY_BYTES = 2000, 32 * 1024 * 1024  # fetched, and not handed out
NOTE = "mqadmin tried "  # begins what is committed with an offset: `<offset>:<attempts>` of messages behind it
NOTE_MOST = 3500  # characters; brokers take 4096 (offset.metadata.max.bytes)
AHEAD = 5000  # messages of a partition from the first unsettled one: what may come twice after a crash
_COMMIT_EVERY = 0.2  # seconds
_TURN = 0.1
_REACH = 3.0
_CLOSING = 10.0
_USELESS = {KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL}  # noqa: SLF001 - librdkafka's own


class _Partition:
    """A partition while it is ours: which messages are settled, and up to where."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic, self.number = topic, number
        self.lost = False
        self.paused = False
        self.records: deque[_Record] = deque()  # from the first that is not settled
        self.position: int | None = None  # to commit
        self.committing: tuple[int, str] | None = None
        self.tried: dict[int, int] = {}  # how often those have been tried that whoever had the partition before did not settle
        self.lease = f"{topic}/{number}/{time.monotonic_ns()}"

    def settled(self) -> None:
        """Move on over what is settled without a gap."""
        records = self.records
        while records and records[0].state == "done":
            self.position = records.popleft().offset + 1

    def note(self, *, leaving: bool) -> str:
        """Tell who comes next how often what is not settled was tried. What a handler has counts, unless it is given up in order."""
        parts: list[str] = []
        room = NOTE_MOST
        for record in self.records:
            begun = record.state == "held" and record.delivery is not None and record.delivery.begun
            tried = record.attempt if record.state == "burying" or (begun and not leaving) else record.attempt - 1
            if record.state != "done" and tried:
                parts.append(f"{record.offset}:{tried}")
                room -= len(parts[-1]) + 1
                if room < 0:
                    break
        return NOTE + ",".join(parts) if parts else ""


class _Record:
    """A message that was fetched. One that is `held` is in the application's hands by its `delivery`."""

    __slots__ = ("attempt", "delivery", "error", "message", "offset", "partition", "reason", "state")

    def __init__(self, partition: _Partition, offset: int, message: Message | None) -> None:
        self.partition, self.offset, self.message = partition, offset, message
        self.attempt = 1
        self.state: Literal["ready", "held", "waiting", "burying", "done"] = "ready"
        self.delivery: Delivery | None = None
        self.reason = self.error = ""


class Consumer:
    """A member of Kafka's group. A thread of its own fetches ahead, commits, and takes part in rebalances, whatever handlers do.

    It is made when the cluster answers, so that nobody takes it for applied before: raises UnreachableError.
    `lease` is how long Kafka waits for a process that is gone (session.timeout.ms, 6 s at least); what is in hand has no end of its own.
    """

    def __init__(self, cluster: ClusterMetadata, group: GroupMetadata, context: Context, *, consumer: str, lease: float) -> None:
        self.group, self.cluster = group.name, cluster.name
        self._subscriptions = dict(group.subscriptions)
        self._latest = group.consume_from == "latest"
        self._most = group.max_attempts or MAX_ATTEMPTS
        self._make_graveyard = partial(Producer, cluster, context)
        self._graveyard: Producer | None = None
        self._lock = threading.RLock()  # librdkafka calls back within its calls
        self._arrived, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._ready: deque[_Record] = deque()
        self._bytes = 0
        self._waiting: list[tuple[float, int, _Record]] = []  # a heap by the moment
        self._order = itertools.count()
        self._full = False
        self._noting = True
        self._error: str | None = None
        self._probe_at = self._commit_at = 0.0
        self._closed = False
        own = {
            "group.id": f"{group.name}.{consumer}" if group.broadcast else group.name,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest" if self._latest else "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(min(max(lease, 6.0), 1800.0) * 1000),
            "queued.max.messages.kbytes": 16 * 1024,
            "on_commit": self._committed,
            "error_cb": self._troubled,
        }
        settings = settings_of(cluster, context, own)
        settings.setdefault("max.poll.interval.ms", max(300_000, settings["session.timeout.ms"]))
        self._client = connected(confluent_kafka.Consumer, settings, cluster.name)
        self._reach()
        self._client.subscribe(list(self._subscriptions), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._thread = threading.Thread(target=self._run, name=f"mqadmin-kafka-{group.name}", daemon=True)
        self._thread.start()

    def _reach(self) -> None:
        try:
            self._client.list_topics(timeout=_REACH)
        except KafkaException as error:
            self._client.poll(0)  # librdkafka says why in a callback
            self._client.close()
            alive.discard(self._client)
            raise UnreachableError(self._error or f"the Kafka cluster {self.cluster}: {cause_of(error).str()}") from error

    # --- the seam -------------------------------------------------------------------------------------------------------

    def next(self, *, settle: Sequence[Settlement], max_messages: int, wait: float) -> Pulled:
        """Settle, and take what was fetched. While the cluster cannot be used, and nothing is there: UnreachableError."""
        settled = self.settle(settle)
        if not max_messages:
            return Pulled(settled=settled)
        with self._lock:
            self._arrived.wait_for(lambda: self._ready or self._closed or self._error, wait)
            if self._closed:
                raise MqadminError("the transport is closed")
            if self._error and not self._ready:
                raise UnreachableError(self._error)
            taken = [self._hand_out(self._ready.popleft()) for _ in range(min(max_messages, len(self._ready)))]
            if len(self._ready) <= READY_MOST // 2:
                self._room.notify()
            idle = not any(one.records for one in self._partitions.values())
        return Pulled(taken, settled, None if taken else "empty" if idle else "outstanding")

    def _hand_out(self, record: _Record) -> Delivery:
        message = record.message
        assert message is not None
        if record.attempt != message.attempt:
            message = record.message = replace(message, attempt=record.attempt)
        self._bytes -= len(message.body)
        record.state = "held"
        lane = None if message.sharding_key is None else (message.topic, message.sharding_key)
        record.delivery = Delivery(message, record.partition.lease, None, record, lane)
        return record.delivery

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Note outcomes; offsets are committed soon after. A dead letter is stored first."""
        now = time.monotonic()
        dead: list[_Record] = []
        with self._lock:
            results = [self._settle(one, now, dead) for one in settlements]
        for record in dead:
            self._bury(record)
        return results

    def _settle(self, one: Settlement, now: float, dead: list[_Record]) -> Settled:
        record: _Record = one.delivery.handle
        if record.partition.lost:
            return Settled(one, None, "lease_expired", "Kafka has given the partition to another consumer of the group.")
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
            self._done(record)
        elif status == "dead":
            record.state = "burying"
            dead.append(record)
        else:
            delay = one.delay if one.delay is not None else min(BACKOFF_MOST, BACKOFF * 2.0 ** (record.attempt - 1))
            if status == "failed":
                record.attempt += 1
            record.state = "waiting"
            self._wait(record, now + delay)
        return Settled(one, status)

    def extend(self, deliveries: Sequence[Delivery], *, seconds: float) -> list[bool]:  # noqa: ARG002 - the session is kept by itself
        """Say which are still this process's."""
        return [not one.handle.partition.lost for one in deliveries]

    def close(self) -> None:
        """Commit what is settled and leave the group: others go on with the rest at once."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()
            self._room.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(3 * _CLOSING)

    # --- states of messages; with the lock ------------------------------------------------------------------------------

    def _done(self, record: _Record) -> None:
        record.state, record.message = "done", None
        record.partition.settled()

    def _wait(self, record: _Record, until: float) -> None:
        heapq.heappush(self._waiting, (until, next(self._order), record))

    def _make_ready(self, records: Sequence[_Record]) -> None:
        for record in records:
            record.state = "ready"
            assert record.message is not None
            self._bytes += len(record.message.body)
        self._ready.extend(records)
        if records:
            self._arrived.notify_all()

    # --- dead letters ---------------------------------------------------------------------------------------------------

    def _bury(self, record: _Record) -> None:
        """Send a dead letter; until it is stored, no offset behind it is committed."""
        message = record.message
        assert message is not None
        with self._lock:
            if self._graveyard is None:
                self._graveyard = self._make_graveyard()
        facts = {
            "group": self.group,
            "topic": message.topic,
            "partition": record.partition.number,
            "offset": record.offset,
            "reason": record.reason,
            "error": record.error[:2000],
            "attempts": record.attempt,
            "at": datetime.now(timezone.utc).isoformat(),
        }
        headers = {**message.headers, **{DEAD + name: str(value) for name, value in facts.items()}}
        letter = Outgoing(message.body, message.id, message.key, message.tag, message.sharding_key, headers)

        def stored(error: KafkaError | None) -> None:
            with self._lock:
                if error is None:
                    self._done(record)
                    return
                self._wait(record, time.monotonic() + 5.0)
            log.error("Group %s: the dead letter of message %s could not be stored in %s.dead, it is tried again: %s",
                      self.group, message.id, self.group, error)  # fmt: skip

        self._graveyard.bury(f"{self.group}.dead", letter, stored)

    # --- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                try:
                    self._turn()
                except Exception:
                    log.exception("Group %s: a fault in the consumer of the Kafka cluster %s", self.group, self.cluster)
                    time.sleep(1.0)
        finally:
            self._leave()

    def _turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            due = self._due(now)
            self._keep_bounds()
            committing = self._to_commit(now)
        for record in due:
            self._bury(record)
        if committing:
            with contextlib.suppress(KafkaException):  # the callback is told; a rebalance settles what is left
                self._client.commit(offsets=committing, asynchronous=True)
        if self._error is not None and now >= self._probe_at:
            self._probe_at = now + 1.0
            self._probe()
        wait = min(_TURN, max(0.0, self._waiting[0][0] - now)) if self._waiting else _TURN
        first = self._client.poll(wait)
        if first is not None:
            self._fetched([first])  # before the next call, which may take its partition away
            self._fetched(self._client.consume(500, 0))

    def _due(self, now: float) -> list[_Record]:
        """Have those come again whose time has come; returns the dead letters among them."""
        again: list[_Record] = []
        dead: list[_Record] = []
        while self._waiting and self._waiting[0][0] <= now:
            record = heapq.heappop(self._waiting)[2]
            if not record.partition.lost:
                (dead if record.state == "burying" else again).append(record)
        self._make_ready(again)
        return dead

    def _keep_bounds(self) -> None:
        """Fetch no more while enough is here, and nothing of a partition whose first message holds up too many."""
        full = len(self._ready) >= READY_MOST or self._bytes >= READY_BYTES
        if full and not self._full:  # quick handlers soon make room; pausing throws away what librdkafka has fetched
            self._room.wait_for(lambda: len(self._ready) <= READY_MOST // 2 or self._closed, 0.5)
        low = len(self._ready) <= READY_MOST // 2 and self._bytes <= READY_BYTES // 2
        self._full = not low if self._full else len(self._ready) >= READY_MOST or self._bytes >= READY_BYTES
        for partition in self._partitions.values():
            ahead = len(partition.records)
            wanted = self._full or ahead > (AHEAD // 2 if partition.paused else AHEAD)
            if wanted != partition.paused:
                place = [TopicPartition(partition.topic, partition.number)]
                (self._client.pause if wanted else self._client.resume)(place)
                partition.paused = wanted

    def _fetched(self, messages: Sequence[Any]) -> None:
        with self._lock:
            ready = []
            for one in messages:
                if one.error() is not None:
                    self._failed(one.error())
                    continue
                partition = self._partitions.get((one.topic(), one.partition()))
                if partition is None:
                    continue  # of a partition that has just been taken away
                self._error = None
                wanted = self._subscriptions.get(one.topic(), "*")
                message = _message(one, self.group)
                record = _Record(partition, one.offset(), message)
                partition.records.append(record)
                record.attempt += partition.tried.pop(record.offset, 0)
                if not matches(wanted, message.tag):
                    self._done(record)
                elif record.attempt > self._most:
                    record.attempt, record.reason, record.error = self._most, "attempts", "The process that had it ended without a word."
                    record.state = "burying"
                    self._wait(record, 0.0)
                else:
                    ready.append(record)
            self._make_ready(ready)

    def _troubled(self, error: KafkaError) -> None:
        """Take note of what makes the cluster useless; single connections that break are librdkafka's own affair."""
        if error.fatal() or error.code() in _USELESS:
            with self._lock:
                self._failed(error)

    def _failed(self, error: KafkaError) -> None:
        if self._error and error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            return  # what was said before says why
        text = f"the Kafka cluster {self.cluster}: {error.str()}"
        if self._error != text:
            log.warning("Group %s: %s", self.group, text)
        self._error = text
        self._arrived.notify_all()

    def _probe(self) -> None:
        """After an error: nobody says when a cluster can be used again."""
        try:
            topics = self._client.list_topics(timeout=1.0).topics
        except KafkaException:
            return
        missing = [name for name in self._subscriptions if name not in topics or topics[name].error is not None]
        with self._lock:
            self._error = f"the Kafka cluster {self.cluster} has no topic {', '.join(missing)}" if missing else None

    # --- offsets and rebalances -----------------------------------------------------------------------------------------

    def _to_commit(self, now: float) -> list[TopicPartition]:
        if now < self._commit_at:
            return []
        self._commit_at = now + _COMMIT_EVERY
        return self._offsets(self._partitions.values())

    def _offsets(self, partitions: Iterable[_Partition], *, leaving: bool = False) -> list[TopicPartition]:
        found = []
        for one in partitions:
            note = one.note(leaving=leaving) if self._noting else ""
            position = one.records[0].offset if one.position is None and note else one.position
            if position is not None and one.committing != (position, note):
                one.committing = position, note
                found.append(TopicPartition(one.topic, one.number, position, note))
        return found

    def _committed(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        with self._lock:
            for place in places:
                partition = self._partitions.get((place.topic, place.partition))
                if partition is not None and (error is not None or place.error is not None):
                    partition.committing = None  # again
            if any(place.error is not None and place.error.code() == KafkaError.OFFSET_METADATA_TOO_LARGE for place in places):
                self._noting = False
                log.warning("Group %s: the Kafka cluster %s keeps no notes with offsets (offset.metadata.max.bytes): attempts are"
                            " counted in this process only", self.group, self.cluster)  # fmt: skip
        if error is not None and error.code() != KafkaError._NO_OFFSET:  # noqa: SLF001
            log.warning("Group %s: offsets could not be committed to the Kafka cluster %s, it is tried again: %s",
                        self.group, self.cluster, error)  # fmt: skip

    def _assigned(self, client: Any, places: Sequence[TopicPartition]) -> None:
        partitions = {(place.topic, place.partition): _Partition(place.topic, place.partition) for place in places}
        try:
            committed = client.committed(list(places), timeout=_CLOSING) if places else []
            for one in committed:
                partitions[one.topic, one.partition].tried = _tried(one.metadata)
            if self._latest:
                self._begin_at_the_end(client, [one for one in committed if one.offset < 0])
        except KafkaException as error:
            log.warning("Group %s: where it begins on the Kafka cluster %s could not be read or kept: %s", self.group, self.cluster, error)
        with self._lock:
            self._error = None
            self._partitions |= partitions

    @staticmethod
    def _begin_at_the_end(client: Any, new: Sequence[TopicPartition]) -> None:
        """Commit where a new group begins: else it would begin at the end again after a restart, and miss what came meanwhile."""
        for one in new:
            one.offset = client.get_watermark_offsets(one, timeout=_CLOSING)[1]
        if new:
            client.commit(offsets=list(new), asynchronous=False)

    def _revoked(self, client: Any, places: Sequence[TopicPartition]) -> None:
        """Others get these: commit what is settled; what is in hand is theirs."""
        gone = self._take_away(places)
        with self._lock:
            for one in gone:
                one.committing = None
            offsets = self._offsets(gone, leaving=True)
        if offsets:
            try:
                client.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                log.warning("Group %s: the last offsets of partitions that others get could not be committed: %s", self.group, error)

    def _lost(self, _client: Any, places: Sequence[TopicPartition]) -> None:
        """Others have these since some time: say nothing about them."""
        self._take_away(places)

    def _take_away(self, places: Sequence[TopicPartition]) -> list[_Partition]:
        with self._lock:
            gone = [one for place in places if (one := self._partitions.pop((place.topic, place.partition), None))]
            for partition in gone:
                partition.lost = True
                for record in partition.records:
                    if record.delivery is not None:
                        record.delivery.expires = 0.0  # what is not begun is not begun any more
            if gone:
                self._ready = deque(record for record in self._ready if not record.partition.lost)
                self._bytes = sum(len(record.message.body) for record in self._ready if record.message)
        return gone

    def _leave(self) -> None:
        """Store dead letters, commit the rest, and leave the group."""
        if self._graveyard is not None:
            self._graveyard.flush(timeout=_CLOSING)
            self._graveyard.close()
        try:
            self._client.close()  # revokes, which commits
        except (KafkaException, RuntimeError) as error:
            log.warning("Group %s: leaving the Kafka cluster %s failed: %s", self.group, self.cluster, error)
        alive.discard(self._client)


def _message(one: Any, group: str) -> Message:
    headers: dict[str, str] = {}
    for name, value in one.headers() or ():
        headers[name] = "" if value is None else value.decode("utf-8", "replace")
    kind, milliseconds = one.timestamp()
    key = one.key()
    return Message(
        id=headers.pop(ID, "") or f"{one.topic()}-{one.partition()}-{one.offset()}",
        topic=one.topic(),
        group=group,
        body=one.value() or b"",
        key=headers.pop(KEY, None),
        tag=headers.pop(TAG, ""),
        sharding_key=None if key is None else key.decode("utf-8", "replace"),
        headers=headers,
        sent_at=datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if kind else None,
    )


def _tried(note: str | None) -> dict[int, int]:
    """Read what is committed with an offset; what others have left there says nothing."""
    found = re.fullmatch(NOTE + r"(\d+:\d+(?:,\d+:\d+)*)", note or "")
    return {int(offset): int(tried) for offset, tried in (pair.split(":") for pair in found[1].split(","))} if found else {}
