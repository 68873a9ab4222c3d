"""Writes what is due to ZooKeeper: version-conditional, in `multi`s, with no transaction or row lock open meanwhile."""

from __future__ import annotations

import contextlib
import random
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
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError

from registry import rendering, repairs
from registry.deciding import decide
from registry.models import Publication
from registry.repairs import Sighting
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mqadmin_sdk.zk import Client
    from registry.deciding import Decision

logger = structlog.get_logger(__name__)

MAX_OPERATIONS = 100
MAX_BYTES = 512 * 1024
ROWS_A_ROUND = 500
WRITE_TIMEOUT = 15.0  # seconds; a paused server is noticed by the connection itself after two thirds of the session
AWAY = "ZooKeeper is not reachable."
BROKE = "The connection to ZooKeeper broke while this node was written; is it larger than the server takes (jute.maxbuffer)?"
#: The connection, not the item, is to blame.
DISCONNECTED = (ConnectionLoss, SessionExpiredError, ConnectionClosedError, KazooTimeoutError)


@dataclass
class Write:
    """One conditional operation."""

    row: Publication
    action: Literal["create", "set", "delete"]
    version: int = -1

    @property
    def size(self) -> int:
        """Bytes that it adds to a request."""
        return len(self.row.path) + (len(self.row.data) if self.action != "delete" else 0) + 64


@dataclass
class Round:
    """What one pass over the due rows came to."""

    published: int = 0
    skipped_fresh: bool = False
    done: list[tuple[Publication, int | None, bool]] = field(default_factory=list)  # row, version of the node, written by us


class Publisher:
    """Publishes due rows. One thread uses it; any number of processes may do the same at once."""

    def __init__(self, zookeeper: Client, *, name: str, prefers: Callable[[str], bool] = lambda _path: True) -> None:
        self._zookeeper = zookeeper
        self._name = name
        self._prefers = prefers
        self._parents: set[str] = set()
        self._operations = MAX_OPERATIONS  # shrinks when the connection breaks over a request: one bad item must end up alone

    def forget_parents(self) -> None:
        """Believe no longer that parent nodes exist; to be called after a reconnection."""
        self._parents.clear()

    def publish_due(self) -> Round:
        """Write all that is due. Raises kazoo's exception when the connection is lost; the rows stay due."""
        result = Round()
        while True:
            rows = list(Publication.objects.raw(sql("due"), {"limit": ROWS_A_ROUND}))
            mine = [row for row in rows if not getattr(row, "fresh", False) or self._prefers(row.path)]
            result.skipped_fresh = result.skipped_fresh or len(mine) < len(rows)
            if not mine or not self._publish(mine, result):
                return result

    def _publish(self, rows: Sequence[Publication], result: Round) -> bool:
        """Write these rows; False if nothing came of it, so that there is no use in looking again at once."""
        before = result.published
        blind, doubtful = [], []
        for row in rows:
            if row.drifted_at is not None or (row.deleted and row.node_version is None):
                doubtful.append(row)
            elif row.deleted:
                blind.append(Write(row, "delete", row.node_version or 0))
            elif row.node_version is None:
                blind.append(Write(row, "create"))
            else:
                blind.append(Write(row, "set", row.node_version))
        try:
            moved = self._write_all([*blind, *self._examine(doubtful, result)], result)
        finally:
            self._record(result)
        return moved or result.published > before

    # --- reading and deciding ------------------------------------------------------------------------------------------

    def _examine(self, rows: Sequence[Publication], result: Round) -> list[Write]:
        """Read the nodes of rows whose state is in doubt and return the writes that they need."""
        if not rows:
            return []
        _zxid, nodes = self._zookeeper.multi_read([row.path for row in rows], timeout=WRITE_TIMEOUT)
        writes: list[Write] = []
        sightings: list[Sighting] = []
        for row, node in zip(rows, nodes, strict=True):
            with self._not_holding_up_others(row):
                decision = decide(row, node)
                if decision.verdict == "published":
                    result.done.append((row, decision.version, False))
                elif decision.foreign_edit:
                    sightings.append(Sighting(row, node, decision))
                else:
                    writes.append(_write_of(row, decision))
        allowed = repairs.take(sightings)
        for sighting in sightings:
            if sighting.row.pk not in allowed:
                continue
            with self._not_holding_up_others(sighting.row):
                match sighting.decision.verdict:
                    case "behind":
                        repairs.jump_ahead(sighting)
                    case "absorb":
                        repairs.absorb(sighting)
                    case _:
                        writes.append(_write_of(sighting.row, sighting.decision))
        return writes

    @contextlib.contextmanager
    def _not_holding_up_others(self, row: Publication) -> Iterator[None]:
        """Whatever somebody put into a node, its row steps back and the others go on."""
        try:
            yield
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            logger.exception("node_not_understood", path=row.path)
            self.fail(row, f"{type(error).__name__}: {error}"[:1000].replace("\x00", ""))

    # --- writing -------------------------------------------------------------------------------------------------------

    def _write_all(self, writes: list[Write], result: Round) -> bool:
        """Write in batches; an item that fails is dealt with on its own and the rest goes on. True if any row's state has moved."""
        moved, rounds = False, 0
        while writes and rounds < 4:
            rounds += 1
            again: list[Publication] = []
            for batch in self._batches(writes):
                moved = self._write(batch, again, result) or moved
            moved = moved or bool(again)
            writes = self._examine(again, result)
        return moved

    def _batches(self, writes: Sequence[Write]) -> list[list[Write]]:
        batches: list[list[Write]] = []
        operations = size = 0
        for write in writes:
            cost = 1 + len(write.row.requires)
            if not batches or operations + cost > self._operations or size + write.size > MAX_BYTES:
                batches.append([])
                operations = size = 0
            batches[-1].append(write)
            operations += cost
            size += write.size
        return batches

    def _write(self, batch: list[Write], again: list[Publication], result: Round) -> bool:
        """Commit one `multi`; repeat it without the item that the server names as failed until the rest is through."""
        self._make_parents(batch)
        moved = False
        while batch:
            required = sorted({path for write in batch if write.action != "delete" for path in write.row.requires})
            answers = self._commit(required, batch)
            failed = next((i for i, answer in enumerate(answers) if _is_cause(answer)), None)
            if failed is None:
                versions = answers[len(required) :]
                for write, answer in zip(batch, versions, strict=True):
                    version = None if write.action == "delete" else 0 if write.action == "create" else answer.version
                    result.done.append((write.row, version, True))
                self._operations = min(MAX_OPERATIONS, self._operations * 2)
                return True
            if failed < len(required):
                # What these rows need is gone from ZooKeeper: have it looked at, and leave them due.
                moved = bool(Publication.objects.filter(path=required[failed], drifted_at=None).update(drifted_at=Now())) or moved
                batch = [write for write in batch if required[failed] not in write.row.requires]
                continue
            write = batch.pop(failed - len(required))
            self._failed(write, answers[failed], again)
        return moved

    def _commit(self, required: Sequence[str], batch: Sequence[Write]) -> list[Any]:
        transaction = self._zookeeper.transaction()
        for path in required:
            transaction.check(path, -1)
        for write in batch:
            if write.action == "create":
                transaction.create(write.row.path, bytes(write.row.data))
            elif write.action == "set":
                transaction.set_data(write.row.path, bytes(write.row.data), write.version)
            else:
                transaction.delete(write.row.path, write.version)
        try:
            return list(transaction.commit_async().get(timeout=WRITE_TIMEOUT))
        except DISCONNECTED:
            if self._operations == 1 or len(batch) == 1:
                # Alone and the connection broke: perhaps because of it. It steps back, the others go on.
                self.fail(batch[0].row, BROKE)
            self._operations = max(1, min(self._operations, len(batch)) // 2)
            raise

    def _failed(self, write: Write, error: object, again: list[Publication]) -> None:
        row = write.row
        if isinstance(error, BadVersionError | NodeExistsError):
            again.append(_reread(row))
        elif isinstance(error, NoNodeError):
            if write.action == "create":
                self._parents.discard(row.path.rsplit("/", 1)[0])
            again.append(_reread(row))
        elif isinstance(error, NotEmptyError):
            self.fail(row, _("Instances are still online below this node; it goes when they are gone."))
        else:
            self.fail(row, f"{type(error).__name__}: {error}")

    def _make_parents(self, batch: Sequence[Write]) -> None:
        for write in batch:
            parent = write.row.path.rsplit("/", 1)[0]
            if write.action == "create" and parent not in self._parents:
                self._zookeeper.ensure_path(parent)
                self._parents.add(parent)

    # --- recording -----------------------------------------------------------------------------------------------------

    def _record(self, result: Round) -> None:
        """Write down what is known to stand in ZooKeeper; nothing of this is lost if it fails, the node is read again then."""
        done, result.done = result.done, []
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
                    "digests": ["" if row.deleted else rendering.digest(bytes(row.data)) for row, _version, _written in done],
                    "written": [written for _row, _version, written in done],
                    "drifted": [row.drifted_at for row, _version, _written in done],
                },
            )
        result.published += len(done)
        for row, _version, written in done:
            logger.info("published", path=row.path, generation=row.generation, retired=row.deleted, written=written)

    def fail(self, row: Publication, error: str) -> None:
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


def _write_of(row: Publication, decision: Decision) -> Write:
    """Return the operation that brings the node to what the row wants."""
    if row.deleted:
        return Write(row, "delete", decision.version or 0)
    return Write(row, "create") if decision.version is None else Write(row, "set", decision.version)


def _is_cause(answer: object) -> bool:
    """Whether an item failed by itself and not because another one did."""
    return isinstance(answer, KazooException) and not isinstance(answer, RolledBackError | RuntimeInconsistency)


def _reread(row: Publication) -> Publication:
    """Return the row as it is now; meanwhile another registrar may have recorded more."""
    return Publication.objects.get(pk=row.pk)
