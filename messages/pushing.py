"""Delivery by webhook: a round takes a group for some seconds, pulls for it, and posts its messages, several at once.

One process at a time delivers a group, by a claim in Postgres that ends by itself. Its main thread alone asks Postgres: it pulls under
a lease, settles what has ended and pulls the next in the same commit; threads only talk to the receiver, with nothing open in the
database. Whoever is killed leaves a lease behind, whose end hands the messages out again. Messages of one sharding key form a lane and
go one after the other. When nobody answers, the round ends and the group is left in peace for a while: then one message is tried.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog
from celery.signals import worker_shutting_down
from django.utils.translation import gettext as _

from consumers.models import ConsumerGroup
from consumers.push import signing_secrets
from core.approvals.models import State
from core.approvals.outbox import signature
from core.encryption import CannotDecryptError
from core.errors import Problem
from messages import services
from messages.db import fetch
from messages.types import Batch, Delivery, Outcome

if TYPE_CHECKING:
    import ssl

    import httpx

log = structlog.get_logger(__name__)
BUDGET = 5.0  # seconds after which a round pulls no more, so that other groups have their turn
CLAIM = 15.0  # seconds without a word from a process after which another may deliver its group
MARGIN = 15.0  # seconds of a lease beyond two deliveries: what waits for its lane is given back in time
RESOLVE = 6.0  # a delivery may take so long beyond its limit, while a name is looked up
QUIET = (5, 10, 20, 40, 60)  # seconds of peace after the 1st, 2nd, … round in a row in which nobody answered
RECORD = 1.0
UNSERVED = 30.0  # seconds after which somebody should have come: no worker takes the queue
STATES = ("off", "idle", "delivering", "quiet", "unserved", "suspended")
MAX_ANSWER = 64 * 1024  # bytes that are read of an answer
CONSUMER = "webhook"
AS_A_WHOLE = 2  # of mq_cursor.ordering
AWAY = frozenset({429, 502, 503, 504})  # who says so is no more there than who says nothing
STOPPING = threading.Event()


@dataclass(frozen=True, slots=True)
class Target:
    """A group's webhook, as it is when a round begins."""

    group_id: int
    group: str
    url: str
    concurrency: int
    timeout: float
    secrets: tuple[str, ...]
    orders: Mapping[int, int] = field(default_factory=dict)  # ordered topics: 1 by sharding key, 2 as a whole


@dataclass(frozen=True, slots=True)
class Job:
    """A message in our hands."""

    message: Delivery
    lease: str
    until: float  # of the lease, by our own clock


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    job: Job
    outcome: Outcome
    missed: bool = False  # nobody answered


@dataclass(slots=True)
class _Tally:
    ok: int = 0
    failed: int = 0
    error: str | None = None


@worker_shutting_down.connect
def stop(**_kwargs: Any) -> None:
    """Begin no further delivery in this process: what is on its way ends, the rest is handed out again."""
    STOPPING.set()


def due() -> list[int]:
    """Groups with a webhook and something to deliver, which nobody delivers now; the longest unserved first."""
    rows = ConsumerGroup.objects.filter(state=State.ACTIVE, suspended=False).exclude(push_url="").values_list("pk", flat=True)
    ids = list(rows)
    return [row[0] for row in fetch("SELECT * FROM mq_push_due(%s::bigint[])", (ids,))] if ids else []


def deliver(*, group_id: int) -> int:
    """One round for a group; how many deliveries were tried. None while another process has it, or it is to be left in peace."""
    group = ConsumerGroup.objects.filter(pk=group_id, state=State.ACTIVE, suspended=False).exclude(push_url="").first()
    claimed = fetch("SELECT * FROM mq_push_claim(%s::bigint, %s::float8 * interval '1 s')", (group_id, CLAIM)) if group else []
    if group is None or not claimed:
        return 0
    claim, misses = claimed[0]
    try:
        secrets = tuple(signing_secrets(group_id))
    except CannotDecryptError as error:  # for a person to see on the group's page
        record(group_id, claim, 0, _Tally(error=str(error)), misses, QUIET[-1])
        return 0
    orders = dict(fetch("SELECT topic_id, ordering FROM mq_cursor WHERE group_id = %s::bigint AND ordering > 0", (group_id,)))
    target = Target(group_id, group.name, group.push_url, group.push_concurrency, group.push_timeout_ms / 1000, secrets, orders)
    return Round(target, claim, misses).run()


def record(group_id: int, claim: int, hold: float, tally: _Tally, misses: int, quiet: float) -> bool:  # noqa: PLR0917 - columns
    """Write down how it went; keep the group for `hold` seconds more, 0: give it back. False: another has it meanwhile."""
    rows = fetch(
        "SELECT mq_push_record(%s::bigint, %s::bigint, %s::float8 * interval '1 s', %s::bigint, %s::bigint, %s::text, %s::int,"
        " %s::float8 * interval '1 s')",
        (group_id, claim, hold, tally.ok, tally.failed, None if tally.error is None else tally.error[:500], misses, quiet),
    )
    return bool(rows and rows[0][0])


@dataclass
class Round:
    """A group's turn."""

    target: Target
    claim: int
    misses: int
    tally: _Tally = field(default_factory=_Tally)
    tried: int = 0

    def __post_init__(self) -> None:
        self._done: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._lanes: dict[Any, deque[Job]] = {}
        self._out = 0
        self._mine = True
        self._away = False  # nobody answered since the last success
        self._probing = self.misses > 0
        self._visibility = 2 * self.target.timeout + MARGIN
        self._ends = time.monotonic() + BUDGET
        self._recorded = time.monotonic()

    def run(self) -> int:
        """Deliver until the time is over, nothing is left, or nobody answers; then wait for what is on its way."""
        from core import outbound  # the HTTP client is of use to the worker that delivers, and to no other process

        pool = ThreadPoolExecutor(self.target.concurrency, thread_name_prefix="push")
        http = outbound.client(purpose=_("the webhook"), timeout=self.target.timeout, redirects=0, max_bytes=MAX_ANSWER, verify=_tls())
        with http, pool:
            self._fill(pool, http)
            while self._out:
                if results := self._collect():
                    self._settle(results, pool, http)
                else:
                    self._fill(pool, http)  # what came in the meantime need not wait for those that are slow
                if time.monotonic() - self._recorded > RECORD:
                    self._record(CLAIM, 0)
        if self._away:
            self.misses += 1
            self._record(0, QUIET[min(self.misses, len(QUIET)) - 1])
        else:
            self._record(0, 0)
        return self.tried

    # --- the main thread --------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more messages may be in our hands; twice as many as are on their way, since some wait for their lane."""
        if self._away or not self._mine or STOPPING.is_set() or time.monotonic() >= self._ends:
            return 0
        return (1 if self._probing else 2 * self.target.concurrency) - self._out

    def _fill(self, pool: ThreadPoolExecutor, http: httpx.Client) -> None:
        while (room := self._room()) > 0:
            began = time.monotonic()
            batch = services.pull(group_id=self.target.group_id, limit=room, visibility_ms=int(self._visibility * 1000), consumer=CONSUMER)
            if not self._take(batch, began, pool, http):
                return

    def _take(self, batch: Batch, began: float, pool: ThreadPoolExecutor, http: httpx.Client) -> bool:
        if batch.lease is None:
            return False
        for message in batch.messages:
            self._out += 1
            job = Job(message, batch.lease, began + self._visibility)
            lane = lane_of(message, self.target.orders)
            waiting = self._lanes.get(lane)
            if waiting is not None:
                waiting.append(job)
            else:
                self._lanes[lane] = deque()
                pool.submit(self._deliver, job, http)
        return True

    def _collect(self) -> list[Result]:
        """What has ended; waits a second at most."""
        found = []
        try:
            found.append(self._done.get(timeout=RECORD))
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            return found

    def _settle(self, results: list[Result], pool: ThreadPoolExecutor, http: httpx.Client) -> None:
        for result in results:
            self._count(result)
        results = results + [given for result in results for given in self._go_on(result, pool, http)]
        by_lease: dict[str, list[Outcome]] = {}
        for result in results:
            by_lease.setdefault(result.job.lease, []).append(result.outcome)
        self._out -= len(results)
        leases = list(by_lease.items())
        for lease, outcomes in leases[:-1]:
            services.settle(group_id=self.target.group_id, lease=lease, outcomes=outcomes)
        for lease, outcomes in leases[-1:]:
            if (room := self._room()) <= 0:
                services.settle(group_id=self.target.group_id, lease=lease, outcomes=outcomes)
                continue
            began = time.monotonic()
            _settled, batch = services.next(
                group_id=self.target.group_id,
                lease=lease,
                outcomes=outcomes,
                limit=room,
                visibility_ms=int(self._visibility * 1000),
                consumer=CONSUMER,
            )
            if self._take(batch, began, pool, http):
                self._fill(pool, http)

    def _count(self, result: Result) -> None:
        if result.outcome.status == "succeeded":
            self.tally.ok += 1
            self._away = self._probing = False
            self.misses = 0
        elif result.outcome.status == "failed":
            self.tally.failed += 1
            self.tally.error = result.outcome.error
            self._away = self._away or result.missed
            if not result.missed:  # it is there, whatever it thinks of the message
                self._probing = False
                self.misses = 0
        self.tried += result.outcome.status != "later"

    def _go_on(self, result: Result, pool: ThreadPoolExecutor, http: httpx.Client) -> list[Result]:
        """The next of its lane; behind one of an ordered topic that was not delivered the rest is given back, to come after it."""
        lane = lane_of(result.job.message, self.target.orders)
        waiting = self._lanes[lane]
        if waiting and result.outcome.status != "succeeded" and result.job.message.topic_id in self.target.orders:
            del self._lanes[lane]
            return [Result(job, Outcome(job.message.id, "later", 0)) for job in waiting]
        if waiting:
            pool.submit(self._deliver, waiting.popleft(), http)
        else:
            del self._lanes[lane]
        return []

    def _record(self, hold: float, quiet: float) -> None:
        tally, self.tally, self._recorded = self.tally, _Tally(), time.monotonic()
        self._mine = record(self.target.group_id, self.claim, hold, tally, self.misses, quiet)

    # --- the other threads ------------------------------------------------------------------------------------------------

    def _deliver(self, job: Job, http: httpx.Client) -> None:
        """Post one message, whatever happens say what became of it; no database here."""
        try:
            self._done.put(self._post(job, http))
        except BaseException as error:  # else the main thread waits for it for ever
            log.exception("push_failed", group=self.target.group, message=job.message.id)
            self._done.put(Result(job, Outcome(job.message.id, "failed", None, type(error).__name__)))

    def _post(self, job: Job, http: httpx.Client) -> Result:
        import httpx

        number = job.message.id
        if self._away or job.until - time.monotonic() < self.target.timeout + RESOLVE:
            return Result(job, Outcome(number, "later", 0, None))  # no attempt was made, so none is counted
        body = document(self.target.group, job.message)
        missed, reason = True, ""
        try:
            with http.stream("POST", self.target.url, content=body, headers=headers(self.target, job.message, body)) as answer:
                missed, status = answer.status_code in AWAY, answer.status_code
        except Problem as problem:  # its address is not allowed, or not any more
            reason = str(problem.detail)
        except (httpx.HTTPError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            if 200 <= status < 300:
                return Result(job, Outcome(number, "succeeded"))
            reason = _("The receiver answered {status}.").format(status=status)
        if missed:
            self._away = True  # at once: the other threads are not to try it as well
        return Result(job, Outcome(number, "failed", None, reason), missed=missed)


@dataclass(frozen=True, slots=True)
class PushState:
    """How the delivery to a group's webhook goes; `state` in a word."""

    state: str
    quiet_until: datetime | None
    succeeded_at: datetime | None
    failed_at: datetime | None
    error: str
    delivered: int
    failed: int
    recent_since: datetime | None
    recent_ok: int
    recent_failed: int

    @property
    def failure_rate(self) -> float | None:
        """Of the attempts of the last hour; None without any."""
        tried = self.recent_ok + self.recent_failed
        return self.recent_failed / tried if tried else None


def state(group: ConsumerGroup) -> PushState:
    """How it goes for one group, by what the rounds have written down and what waits now."""
    rows = fetch(
        "SELECT p.claimed_until > clock_timestamp(), p.quiet_until > clock_timestamp(),"
        " CASE WHEN p.quiet_until > clock_timestamp() THEN p.quiet_until END, p.succeeded_at, p.failed_at, p.error,"
        " p.delivered, p.failed, p.recent_since, p.recent_ok, p.recent_failed,"
        " p.recent_since > clock_timestamp() - interval '1 hour',"
        " coalesce(p.tried_at, g.created_at) < clock_timestamp() - %s::float8 * interval '1 s',"
        " EXISTS (SELECT FROM mq_push_due(ARRAY[g.group_id]))"
        " FROM mq_group g LEFT JOIN mq_push p USING (group_id) WHERE g.group_id = %s::bigint",
        (UNSERVED, group.pk),
    )
    none = (None, None, None, None, None, "", 0, 0, None, 0, 0, False, False, False)
    claimed, quiet, until, succeeded, failed, error, ok, bad, since, recent_ok, recent_failed, lately, long_ago, waits = (
        rows[0] if rows else none
    )
    if not group.push_url:
        word = "off"
    elif group.suspended:
        word = "suspended"
    else:
        next_round = "idle" if not waits else "unserved" if long_ago else "delivering"
        word = "delivering" if claimed else "quiet" if quiet else next_round
    return PushState(
        state=word,
        quiet_until=until if word == "quiet" else None,
        succeeded_at=succeeded,
        failed_at=failed,
        error=error or "",
        delivered=ok or 0,
        failed=bad or 0,
        recent_since=since if lately else None,
        recent_ok=recent_ok if lately else 0,
        recent_failed=recent_failed if lately else 0,
    )


def lane_of(message: Delivery, orders: Mapping[int, int]) -> Any:
    """Messages of the same lane go one after the other."""
    if orders.get(message.topic_id) == AS_A_WHOLE:
        return (message.topic_id,)
    return message.id if message.sharding_key is None else (message.topic_id, message.sharding_key)


def document(group: str, message: Delivery) -> bytes:
    """The body of a delivery: the message as a pull shows it."""
    import orjson

    from messages.api import wire

    return orjson.dumps({"group": group, "message": wire.delivery(message)}, option=orjson.OPT_UTC_Z)


def headers(target: Target, message: Delivery, body: bytes) -> dict[str, str]:
    """What a delivery says of itself before its body, and the signatures by all secrets in force."""
    timestamp = str(int(time.time()))
    signed = {
        "Content-Type": "application/json",
        "X-Mqadmin-Event": "message",
        "X-Mqadmin-Group": target.group,
        "X-Mqadmin-Topic": message.topic,
        "X-Mqadmin-Message": str(message.id),
        "X-Mqadmin-Attempt": str(message.attempt),
        "X-Mqadmin-Timestamp": timestamp,
    }
    signatures = [signature(secret, timestamp, body) for secret in target.secrets]
    return signed | {"X-Mqadmin-Signature": ",".join(f"sha256={one}" for one in signatures)}


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once a process: reading all certificates costs more than a delivery."""
    import httpx

    return httpx.create_ssl_context()
