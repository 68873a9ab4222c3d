"""What travels between the store and its callers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

Status = Literal["waiting", "processing", "succeeded", "later", "dead", "failed", "skipped", "not_subscribed"]
T = TypeVar("T")
OutcomeStatus = Literal["succeeded", "failed", "later", "dead"]
HalfState = Literal["open", "undecided", "committed", "rolled_back"]
NO_HEADERS: Mapping[str, str] = {}

# What exists once per message is not frozen: making a frozen one takes three times as long, a millisecond of each batch of a thousand.


class SeenTopic(NamedTuple):
    """A topic as a sender saw it: active, on this cluster of the built-in store, of this application, with this ceiling."""

    topic_id: int
    application_id: int
    cluster_id: int
    max_backlog: int


@dataclass(slots=True)
class NewMessage:
    """A message to send. `producer_id` is the producer's own id: a retry with it returns the first result."""

    body: bytes
    key: str | None = None
    tag: str = ""
    sharding_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    deliver_at: datetime | None = None
    producer_id: str | None = None


@dataclass(slots=True)
class Accepted:
    """A message that is stored for good. `duplicate`: the producer's id was known, this is the first result.

    `state` half: prepared and not decided; rolled_back: what was prepared under the producer's id was rolled back.
    """

    id: int
    state: Literal["accepted", "delayed", "half", "rolled_back"]
    duplicate: bool = False
    deliver_at: datetime | None = None


@dataclass(slots=True)
class Delivery:
    """A message in a worker's hands; `attempt` counts from 1. `origin_id` is the id that the producer of a delayed message got."""

    id: int
    topic: str
    key: str | None
    tag: str
    sharding_key: str | None
    headers: Mapping[str, str]
    body: bytes
    attempt: int
    sent_at: datetime
    origin_id: int | None
    topic_id: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of a pull. Without messages there is no lease, and `reason` says why.

    empty, suspended, not_subscribed, retired, or outstanding: as many are in the workers' hands as may be; of a sticky group also
    parked: what comes next belongs to other workers, for whom as much is parked as may be. `worker` is who asked, in a sticky group.
    `ordered` names the ordered topics among the messages', and what is in one order: `key` or `topic`.
    """

    lease: str | None
    lease_until: datetime | None
    messages: list[Delivery]
    reason: str | None = None
    worker: int | None = None
    ordered: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What became of one message of a lease. `delay_ms` overrides the group's backoff for failed and later."""

    id: int
    status: OutcomeStatus
    delay_ms: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Settled:
    """What the store made of an outcome: the message's status now (failed becomes later or dead), or a problem and nothing changed."""

    id: int
    status: Status | None
    problem_code: str | None = None
    detail: str = ""
    next_retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """The status of one message in one group; `attempts` are tries so far, the running one included."""

    group_id: int
    group: str
    status: Status
    attempts: int
    last_error: str | None
    next_retry_at: datetime | None
    consumer: str | None
    pulled_at: datetime | None
    settled_at: datetime | None
    lease_until: datetime | None = None
    instance: str | None = None  # of a broadcast group: each has a status of its own
    store_id: int = 0  # the instance's group in the store, else the group's own id


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages of a group by status."""

    group_id: int
    waiting: int = 0
    processing: int = 0
    succeeded: int = 0
    later: int = 0
    dead: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind: messages, and the age in seconds of the oldest one that waits."""

    group_id: int
    messages: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of a broadcast group: where it stands on each topic, and how it does.

    `id` is that of its group in the store. `overdue`: it was not seen for so long that it is about to be given up.
    """

    id: int
    name: str
    began_at: datetime
    last_seen_at: datetime
    counts: Counts
    lag: Lag
    positions: Mapping[int, int]
    overdue: bool


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies in the store; `body` is empty in lists.

    `state` delayed: not yet in the log, due at `deliver_at`; half: not in the log either, its producer has not decided.
    """

    id: int
    topic_id: int
    topic: str
    state: Literal["accepted", "delayed", "half"]
    key: str | None
    tag: str
    sharding_key: str | None
    headers: Mapping[str, str]
    body: bytes
    body_bytes: int
    sent_at: datetime
    origin_id: int | None = None
    deliver_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HalfMessage:
    """A message that its producer has prepared, without its body. `state` undecided: all check-backs have passed, a person decides.

    `message_id` is its place in the log once it is committed, None as long as it is delayed; `id` finds it for good.
    """

    id: int
    topic_id: int
    topic: str
    state: HalfState
    key: str | None
    tag: str
    sharding_key: str | None
    headers: Mapping[str, str]
    producer_id: str | None
    prepared_at: datetime
    deliver_at: datetime | None
    checks: int
    next_check_at: datetime | None
    last_error: str | None
    decided_at: datetime | None
    decided_by: str | None
    message_id: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that a group has given up, with its reason."""

    id: int
    group_id: int
    topic_id: int
    topic: str
    key: str | None
    tag: str
    body_bytes: int
    sent_at: datetime
    attempts: int
    redrives: int
    reason: str
    first_failed_at: datetime
    last_failed_at: datetime
    consumer: str | None


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead letters of one group whose reasons are the same but for numbers and ids, which are #; times are of the last failure."""

    cause: str
    example: str
    messages: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class Causes:
    """The newest dead letters of a group by cause, most frequent first, and how many died within an hour, a day, a week."""

    items: list[Cause]
    looked_at: int
    complete: bool  # all dead letters of the group were looked at
    in_hour: int
    in_day: int
    in_week: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters; what is None matches all. Times bound the last failure; `cause` is one of `dead_causes`."""

    topic_id: int | None = None
    tag: str | None = None
    key: str | None = None
    reason_contains: str | None = None
    failed_from: datetime | None = None
    failed_to: datetime | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class DelayedFilter:
    """Which delayed messages; what is None matches all. `sent_to` leaves out what was sent later."""

    topic_id: int | None = None
    key: str | None = None
    tag: str | None = None
    due_from: datetime | None = None
    due_to: datetime | None = None
    sent_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class ResetPlan:
    """What moving a group's position on a topic would do, in messages; a rewind repeats, a skip skips.

    `processing` to `skipped_before` are those that a rewind goes back over, by their status now. `fingerprint` is of all that this was
    computed from: a reset with it does exactly this, or nothing.
    """

    position_before: int
    position: int
    repeated: int
    first_time: int
    skipped: int
    processing: int
    succeeded: int
    later: int
    dead: int
    failed: int
    skipped_before: int
    fingerprint: str

    @property
    def kind(self) -> Literal["rewind", "skip"]:
        """By the direction."""
        return "rewind" if self.position < self.position_before else "skip"

    @property
    def changes(self) -> bool:
        """Whether any message would get another status."""
        return bool(self.repeated or self.first_time or self.skipped or self.succeeded or self.dead or self.failed)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; `next` goes on where it ended, None at the end. A search may return an empty page that goes on."""

    items: list[T]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Whether the store works; times in seconds.

    `storekeeper_age`: since its last sign of life, None when it has never run. `horizon_age`: since a tick, a pull's too, has closed
    something. `held_back`: of ids that a transaction which has sent and is still open keeps from being closed.
    """

    storekeeper_age: float | None
    horizon_age: float
    held_back: float
    closed_id: int
    last_id: int
    clock_refused: bool
    partition_days_ahead: float


STATUS_WORDS: Mapping[str, Status] = {
    "W": "waiting",
    "P": "processing",
    "S": "succeeded",
    "L": "later",
    "D": "dead",
    "F": "failed",
    "K": "skipped",
    "N": "not_subscribed",
}
