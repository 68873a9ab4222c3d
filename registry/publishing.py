"""Writes what is due to ZooKeeper: version-conditional, in `multi`s, with no transaction or row lock open meanwhile."""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import structlog
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError

from registry import protection, rendering, repairs
from registry.deciding import decide
from registry.due import Due, due_of, read_due, turns
from registry.guarding import Guards
from registry.models import Publication
from registry.repairs import Sighting
from registry.roots import PATHS, root_path_of
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kazoo.security import ACL

    from mqadmin_sdk.zk import Client
    from registry.deciding import Decision

logger = structlog.get_logger(__name__)

MAX_OPERATIONS = 100
MAX_BYTES = 512 * 1024
ROWS_A_ROUND = 500
BACKLOG = 20_000  # rows whose turn is told at once when more than a round of them are due
LOGGED = 20  # of so many written together each has a line of its own in the log
WRITE_TIMEOUT = 15.0  # seconds; a paused server is noticed by the connection itself after two thirds of the session
AWAY = "ZooKeeper is not reachable."
BROKE = "The connection to ZooKeeper broke while this node was written; is it larger than the server takes (jute.maxbuffer)?"
#: The connection, not the item, is to blame.
DISCONNECTED = (ConnectionLoss, SessionExpiredError, ConnectionClosedError, KazooTimeoutError)


Done = tuple[Due, int | None, bool]  # row, version of its node, written by us


@dataclass
class Write:
    """One conditional operation."""

    row: Due
    action: Literal["create", "set", "delete"]
    version: int = -1

    @property
    def size(self) -> int:
        """Bytes that it adds to a request."""
        return len(self.row.path) + (len(self.row.data) if self.action != "delete" else 0) + 64


@dataclass
class Batch:
    """Writes of one `multi`; `answer` is None until it is sent."""

    writes: list[Write]
    outdated: list[Write] = field(default_factory=list)  # others have retired something since these rows were read
    guards: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    answer: Any = None


@dataclass
class Round:
    """What one pass over the due rows came to."""

    published: int = 0
    skipped_fresh: bool = False
    done: list[Done] = field(default_factory=list)

    def taken(self) -> list[Done]:
        """What is to be recorded now."""
        taken, self.done = self.done, []
        self.published += len(taken)
        return taken


class Publisher:
    """Publishes due rows. One thread uses it; any number of processes may do the same at once."""

    def __init__(
        self,
        zookeeper: Client,
        *,
        name: str,
        prefers: Callable[[str], bool] = lambda _path: True,
        acl: Callable[[str], list[ACL] | None] = lambda _path: None,
    ) -> None:
        self._zookeeper = zookeeper
        self._name = name
        self._prefers = prefers
        self._acl = acl  # of a node that is created
        self._guards = Guards(zookeeper, acl)
        self._parents: set[str] = set()
        self._operations = MAX_OPERATIONS  # shrinks when the connection breaks over a request: one bad item must end up alone
        self._in_flight = 0
        self._one_by_one = False  # the connection broke while several were in flight: next time it is known over which

    def forget_parents(self) -> None:
        """Believe no longer that parent nodes exist; to be called after a reconnection."""
        self._parents.clear()

    def interrupted(self) -> None:
        """The connection has changed; safe in any thread. What was read before is read again before it is written."""
        self._guards.forget()

    def publish_due(self) -> Round:
        """Write all that is due. Raises kazoo's exception when the connection is lost; the rows stay due."""
        result, self._in_flight = Round(), 0
        while True:
            self._guards.learn()
            rows = read_due(self._guards.versions(), limit=ROWS_A_ROUND)
            mine = [row for row in rows if not row.fresh or self._prefers(row.path)]
            result.skipped_fresh = result.skipped_fresh or len(mine) < len(rows)
            if len(rows) == ROWS_A_ROUND:
                moved = self._publish_backlog(mine, result)
            else:
                moved = bool(mine) and self._settle(self._send(self._wanted(mine, result)), result)
            if not moved:
                return result

    def _publish_backlog(self, first: Sequence[Due], result: Round) -> bool:
        """Much is due: what else is asked once; then a slice is read while the one before is on its way and those before that recorded.

        Nodes do not wait for the recording. Each slice is looked at again when it is read. What another registrar prefers comes last: it
        is at it, and both would be in each other's way all the time.
        """
        moved, flying = False, self._send(self._wanted(first, result))
        waiting = turns(BACKLOG)
        seen = {row.pk for row in first}
        mine = [pk for pk, path, _fresh in waiting if pk not in seen and self._prefers(path)]
        known = seen | set(mine)
        theirs = [pk for pk, _path, fresh in waiting if pk not in known and not fresh]
        ids, recordings = [*mine, *theirs], list[Future[None]]()
        with ThreadPoolExecutor(1, thread_name_prefix="recorder") as recorder:
            try:
                for start in range(0, len(ids), ROWS_A_ROUND):
                    rows = read_due(self._guards.versions(), limit=ROWS_A_ROUND, ids=ids[start : start + ROWS_A_ROUND])
                    sent = self._send(self._wanted(rows, result))
                    moved = self._land_all(flying, result) or moved
                    recordings.append(recorder.submit(self._record, result.taken()))
                    flying = sent
                moved = self._settle(flying, result) or moved
                for recording in recordings:
                    recording.result()
            finally:
                recorder.submit(connection.close)  # its thread's own
        return moved

    def _again(self, ids: Sequence[int]) -> list[Due]:
        """Read rows once more: meanwhile another registrar may have recorded more."""
        guards = self._guards.versions()
        return [due_of(row, guards) for row in Publication.objects.filter(pk__in=ids)]

    def _wanted(self, rows: Sequence[Due], result: Round) -> list[Write]:
        """The writes that these rows need; the nodes of those in doubt are read first."""
        blind, doubtful = [], []
        for row in rows:
            if row.in_doubt:
                doubtful.append(row)
            elif row.deleted:
                blind.append(Write(row, "delete", row.node_version or 0))
            elif row.node_version is None:
                blind.append(Write(row, "create"))
            else:
                blind.append(Write(row, "set", row.node_version))
        return [*blind, *self._examine(doubtful, result)]

    # --- reading and deciding ------------------------------------------------------------------------------------------

    def _examine(self, doubtful: Sequence[Due], result: Round) -> list[Write]:
        """Read the nodes of rows whose state is in doubt and return the writes that they need."""
        if not doubtful:
            return []
        denied: set[str] = set()
        guards = {due.pk: due.guards for due in doubtful}
        # One that has changed since stays due: whether the order across paths allows what it wants now was not asked yet.
        generations = {due.pk: due.generation for due in doubtful}
        rows = [row for row in Publication.objects.filter(pk__in=guards) if row.generation == generations[row.pk]]
        if not rows:
            return []
        # A server of an ensemble may be behind what another registrar has written and recorded: it would look like a foreign edit.
        self._zookeeper.sync_async(rows[0].path).get(timeout=WRITE_TIMEOUT)
        _zxid, nodes = self._zookeeper.multi_read([row.path for row in rows], timeout=WRITE_TIMEOUT, denied=denied)
        writes: list[Write] = []
        sightings: list[Sighting] = []
        for row, node in zip(rows, nodes, strict=True):
            due = due_of(row, guards[row.pk])
            if row.path in denied:
                self.fail(due, protection.refused())
                continue
            with self._not_holding_up_others(due):
                decision = decide(row, node)
                if decision.verdict == "published":
                    result.done.append((due, decision.version, False))
                elif decision.foreign_edit:
                    sightings.append(Sighting(row, node, decision))
                else:
                    writes.append(_write_of(due, decision))
        allowed = repairs.take(sightings)
        for sighting in sightings:
            if sighting.row.pk not in allowed:
                continue
            due = due_of(sighting.row, guards[sighting.row.pk])
            with self._not_holding_up_others(due):
                match sighting.decision.verdict:
                    case "behind":
                        repairs.jump_ahead(sighting)
                    case "absorb":
                        repairs.absorb(sighting)
                    case _:
                        writes.append(_write_of(due, sighting.decision))
        return writes

    @contextlib.contextmanager
    def _not_holding_up_others(self, row: Due) -> Iterator[None]:
        """Whatever somebody put into a node, its row steps back and the others go on."""
        try:
            yield
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            logger.exception("node_not_understood", path=row.path)
            self.fail(row, f"{type(error).__name__}: {error}"[:1000].replace("\x00", ""))

    # --- writing -------------------------------------------------------------------------------------------------------

    def _send(self, writes: Sequence[Write]) -> list[Batch]:
        """Send in batches, all at once: the server takes them in this order, and which rows depend on others was asked before."""
        batches = [Batch(batch) for batch in self._batches(writes)]
        # What comes after a retirement is sent when that is answered: it names the version that the retirement makes.
        if not self._one_by_one and not any(write.action == "delete" for write in writes):
            for batch in batches:
                self._commit(batch)
        return batches

    def _settle(self, batches: Sequence[Batch], result: Round) -> bool:
        """Wait for the answers and write down what stands; False if nothing came of it: there is no use in looking again at once."""
        try:
            return self._land_all(batches, result) or bool(result.done)
        finally:
            self._record(result.taken())

    def _land_all(self, batches: Sequence[Batch], result: Round) -> bool:
        """Wait for the answers; an item that failed is dealt with on its own and the rest goes on. True if any row's state has moved."""
        moved, rounds = False, 0
        while batches and rounds < 4:
            rounds += 1
            again: list[Due] = []
            for batch in batches:
                moved = self._land(batch, again, result) or moved
            moved = moved or bool(again)
            batches = self._send(self._examine(again, result))
        return moved

    def _batches(self, writes: Sequence[Write]) -> list[list[Write]]:
        batches: list[list[Write]] = []
        operations = size = 0
        for write in writes:
            cost = 1 + len(write.row.requires)
            if not batches or operations + cost > self._operations or size + write.size > MAX_BYTES:
                batches.append([])
                operations, size = len(PATHS), 0
            batches[-1].append(write)
            operations += cost
            size += write.size
        return batches

    def _land(self, batch: Batch, again: list[Due], result: Round) -> bool:
        """See a `multi` through; repeat it without the item that the server names as failed until the rest is done."""
        moved = False
        while True:
            if batch.answer is None:
                self._commit(batch)
            if batch.outdated:
                again += self._again([write.row.pk for write in batch.outdated])
                batch.outdated = []
            if not batch.writes:
                return moved
            answers = self._answers(batch)
            failed = next((i for i, answer in enumerate(answers) if _is_cause(answer)), None)
            conditions = len(batch.guards) + len(batch.required)
            if failed is None:
                for write, answer in zip(batch.writes, answers[conditions:], strict=True):
                    version = None if write.action == "delete" else 0 if write.action == "create" else answer.version
                    result.done.append((write.row, version, True))
                for root in {root_path_of(write.row.path) for write in batch.writes if write.action == "delete"} - {None}:
                    self._guards.retired(str(root))
                self._operations = min(MAX_OPERATIONS, self._operations * 2)
                self._one_by_one = self._one_by_one and self._operations < MAX_OPERATIONS
                return True
            if failed < len(batch.guards):
                self._guarded(batch, batch.guards[failed], answers[failed])
            elif failed < conditions:
                # What these rows need is gone from ZooKeeper: have it looked at, and leave them due.
                gone = batch.required[failed - len(batch.guards)]
                moved = bool(Publication.objects.filter(path=gone, drifted_at=None).update(drifted_at=Now())) or moved
                batch.writes = [write for write in batch.writes if gone not in write.row.requires]
            else:
                self._failed(batch.writes.pop(failed - conditions), answers[failed], again)
            batch.answer = None

    def _guarded(self, batch: Batch, root: str, error: object) -> None:
        """The condition of a tree does not hold: its rows are older than somebody's retirement, or we may not write there."""
        if isinstance(error, BadVersionError | NoNodeError):
            self._guards.refresh(root)
            return  # the rows are found to be outdated before they are sent again
        for write in [write for write in batch.writes if root_path_of(write.row.path) == root]:
            self._failed(write, error, [])
            batch.writes.remove(write)

    def _commit(self, batch: Batch) -> None:
        """Send a `multi`, unless nothing is left of it."""
        holding: list[Write] = []
        for write in batch.writes:
            (holding if self._guards.holds(write.row.path, write.row.guards) else batch.outdated).append(write)
        batch.writes = self._make_parents(holding)
        if not batch.writes:
            return
        batch.required = sorted({path for write in batch.writes if write.action != "delete" for path in write.row.requires})
        retires: dict[str, bool] = {}
        for write in batch.writes:
            if (root := root_path_of(write.row.path)) is not None:
                retires[root] = retires.get(root, False) or write.action == "delete"
        transaction = self._zookeeper.transaction()
        batch.guards = self._guards.add(transaction, retires)
        for path in batch.required:
            transaction.check(path, -1)
        for write in batch.writes:
            if write.action == "create":
                transaction.create(write.row.path, write.row.data, acl=self._acl(write.row.path))
            elif write.action == "set":
                transaction.set_data(write.row.path, write.row.data, write.version)
            else:
                transaction.delete(write.row.path, write.version)
        batch.answer = transaction.commit_async()
        self._in_flight += 1

    def _answers(self, batch: Batch) -> list[Any]:
        try:
            answers = list(batch.answer.get(timeout=WRITE_TIMEOUT))
        except DISCONNECTED:
            if self._in_flight > 1:
                self._one_by_one = True
            else:
                if self._operations == 1 or len(batch.writes) == 1:
                    # Alone and the connection broke: perhaps because of it. It steps back, the others go on.
                    self.fail(batch.writes[0].row, BROKE)
                self._operations = max(1, min(self._operations, len(batch.writes)) // 2)
            self._in_flight = 0
            raise
        self._in_flight = max(0, self._in_flight - 1)
        return answers

    def _failed(self, write: Write, error: object, again: list[Due]) -> None:
        row = write.row
        if isinstance(error, BadVersionError | NodeExistsError):
            again += self._again([row.pk])
        elif isinstance(error, NoNodeError):
            if write.action == "create":
                self._parents.discard(row.path.rsplit("/", 1)[0])
            again += self._again([row.pk])
        elif isinstance(error, NotEmptyError):
            self.fail(row, _("Instances are still online below this node; it goes when they are gone."))
        elif isinstance(error, NoAuthError):
            self.fail(row, protection.refused())
        else:
            self.fail(row, f"{type(error).__name__}: {error}")

    def _make_parents(self, batch: Sequence[Write]) -> list[Write]:
        """Return the writes whose parents are there."""
        ready = []
        for write in batch:
            parent = write.row.path.rsplit("/", 1)[0]
            if write.action == "create" and parent not in self._parents:
                try:
                    self._zookeeper.ensure_path(parent, acl=self._acl(parent))
                except NoAuthError as error:
                    self._failed(write, error, [])
                    continue
                self._parents.add(parent)
            ready.append(write)
        return ready

    # --- recording -----------------------------------------------------------------------------------------------------

    def _record(self, done: Sequence[Done]) -> None:
        """Write down what is known to stand in ZooKeeper; nothing of this is lost if it fails, the node is read again then."""
        if not done:
            return
        with connection.cursor() as cursor:
            cursor.execute(
                sql("record_published"),
                {
                    "by": self._name,
                    "ids": [row.pk for row, _version, _written in done],
                    "generations": [row.generation for row, _version, _written in done],
                    "versions": [version for _row, version, _written in done],
                    "digests": ["" if row.deleted else rendering.digest(row.data) for row, _version, _written in done],
                    "written": [written for _row, _version, written in done],
                    "drifted": [row.drifted_at for row, _version, _written in done],
                },
            )
        if len(done) > LOGGED:
            logger.info("published_many", nodes=len(done), first=done[0][0].path, last=done[-1][0].path)
            return
        for row, _version, written in done:
            logger.info("published", path=row.path, generation=row.generation, retired=row.deleted, written=written)

    def fail(self, row: Due, error: str) -> None:
        """Push a row forward, so that it does not stop the others: it is tried again after 0.5 s, 1 s, … 60 s."""
        backoff = min(60.0, 0.5 * 2 ** min(row.attempts, 10)) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        Publication.objects.filter(pk=row.pk, generation=row.generation).update(
            last_error=error,
            last_attempt_at=Now(),
            attempts=F("attempts") + 1,
            next_attempt_at=repairs.seconds_from_now(backoff),
        )
        logger.warning("publication_failed", path=row.path, generation=row.generation, error=error, again_in=round(backoff, 1))

    @staticmethod
    def mark_away(error: str = AWAY) -> int:
        """Say on every waiting row why it waits, once; the rows stay due, so that they go out as soon as ZooKeeper is back."""
        with transaction.atomic():
            # What somebody changes right now is left to the next look: waiting for it in no order could deadlock with a cluster's change.
            free = Publication.objects.due().order_by().exclude(last_error=error).select_for_update(skip_locked=True, no_key=True)
            waiting = Publication.objects.filter(pk__in=list(free.values_list("pk", flat=True)))
            return waiting.update(last_error=error, last_attempt_at=Now(), attempts=F("attempts") + 1)


def _write_of(row: Due, decision: Decision) -> Write:
    """Return the operation that brings the node to what the row wants."""
    if row.deleted:
        return Write(row, "delete", decision.version or 0)
    return Write(row, "create") if decision.version is None else Write(row, "set", decision.version)


def _is_cause(answer: object) -> bool:
    """Whether an item failed by itself and not because another one did."""
    return isinstance(answer, KazooException) and not isinstance(answer, RolledBackError | RuntimeInconsistency)
