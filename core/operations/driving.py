"""The work itself: chunks of items, each chunk one transaction with its effects, so that a worker may be killed at any instant.

Any number of workers drive at once: a chunk claims its items with SKIP LOCKED, so two of them never do the same item, and counts what
it did in the same transaction. What goes wrong with one item is that item's reason. When the database fails a whole chunk (a deadlock,
a timeout), or workers die in it, the operation goes on after a pause and item by item for a while; an item in which that happens again
and again is given up as failed.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _
from django.utils.translation import override

from core.audit.services import record
from core.errors import Problem
from core.operations import kinds, services
from core.operations.models import Operation, OperationStep, State
from core.request_context import RequestContext, current

if TYPE_CHECKING:
    from accounts.models import User

log = structlog.get_logger(__name__)

BUDGET = 2.0  # seconds that one call works: with a call each second, two drive at once and other tasks get their turn
CHUNK_SECONDS = 2.0  # after so many, a chunk done item by item ends where it is: pausing takes no longer
LEASE = 10  # seconds in which an item that was tried alone is not tried by others: its worker may be about to claim it
ATTEMPTS = 3  # an item that fails the database or its worker so often, alone, is given up
DEATHS = 10  # chunks begun in a row of which none was committed: workers die in it (few enough drive at once, see BUDGET)
BACKOFF = 0.5, 30.0  # seconds: the first pause after the database has failed a chunk, and the longest
MARK = 10.0  # seconds between two marks of the rate
PACE = 0.5  # seconds of items that a chunk of a kind with a pace has
CREDIT = 2.0  # seconds that such an operation may catch up on when nobody came in time

# As long as a chunk is in flight, nobody else holds this lock alone; see services.
_SHARE = "SELECT pg_try_advisory_xact_lock_shared(%s, %s)"
_CLAIM = """
SELECT id, index, key, input FROM operations_operationitem
 WHERE operation_id = %s AND step = %s AND state = 'pending' ORDER BY index LIMIT %s FOR UPDATE SKIP LOCKED
"""
_CLAIM_ONE = """
SELECT id, index, key, input FROM operations_operationitem
 WHERE operation_id = %s AND step = %s AND state = 'pending' AND id = %s FOR UPDATE SKIP LOCKED
"""
_ATTEMPT = """
UPDATE operations_operationitem SET attempts = attempts + 1, tried_at = clock_timestamp()
 WHERE id = (SELECT i.id FROM operations_operationitem i JOIN operations_operation o ON o.id = i.operation_id AND o.step = i.step
              WHERE i.operation_id = %s AND i.state = 'pending' AND o.state = 'running' AND o.wanted = ''
                AND (i.tried_at IS NULL OR i.tried_at < clock_timestamp() - %s * interval '1 second')
              ORDER BY i.index LIMIT 1 FOR UPDATE OF i SKIP LOCKED)
RETURNING id, step, attempts
"""
_BEGIN = """
UPDATE operations_operation
   SET state = 'running', started_at = COALESCE(started_at, clock_timestamp()), heartbeat_at = clock_timestamp(), worker = %(worker)s,
       -- workers that die count as much as a database that fails
       begun = CASE WHEN begun >= %(deaths)s THEN 0 ELSE begun + 1 END,
       careful = CASE WHEN begun >= %(deaths)s AND careful = 0 THEN %(chunk)s ELSE careful END,
       mark_at = COALESCE(mark_at, clock_timestamp()), before_at = COALESCE(before_at, clock_timestamp()),
       mark_settled = CASE WHEN mark_at IS NULL THEN done + failed + skipped ELSE mark_settled END,
       before_settled = CASE WHEN before_at IS NULL THEN done + failed + skipped ELSE before_settled END,
       -- with a pace: the turn of the next chunk, whoever does it; set before the work, so that nobody else begins one meanwhile
       not_before = CASE WHEN %(lasts)s::float8 IS NULL THEN not_before ELSE %(lasts)s::float8 * interval '1 second'
         + GREATEST(COALESCE(not_before, clock_timestamp()), clock_timestamp() - %(credit)s * interval '1 second') END
 WHERE id = %(id)s AND state IN ('queued', 'running') AND wanted = '' AND (not_before IS NULL OR not_before <= clock_timestamp())
RETURNING careful
"""
_SETTLE_ITEMS = """
UPDATE operations_operationitem i
   SET state = CASE WHEN x.code = '' THEN 'done' ELSE 'failed' END, code = x.code, detail = x.detail, done_at = clock_timestamp(),
       attempts = GREATEST(i.attempts, 1)
  FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS x (id, code, detail) WHERE i.id = x.id
"""
_SETTLE_STEP = """
UPDATE operations_operationstep SET done = done + %(done)s, failed = failed + %(failed)s,
       started_at = COALESCE(started_at, clock_timestamp())
 WHERE operation_id = %(id)s AND number = %(step)s
"""
# The last statement of a chunk, so that two chunks of one operation wait for each other only while they commit.
_SETTLE = """
UPDATE operations_operation
   SET done = done + %(done)s, failed = failed + %(failed)s, heartbeat_at = clock_timestamp(), begun = 0,
       stumbles = 0, not_before = CASE WHEN %(paced)s THEN not_before END, careful = GREATEST(careful - %(one_by_one)s, 0),
       before_at = CASE WHEN turn THEN mark_at ELSE before_at END,
       before_settled = CASE WHEN turn THEN mark_settled ELSE before_settled END,
       mark_at = CASE WHEN turn THEN clock_timestamp() ELSE mark_at END,
       mark_settled = CASE WHEN turn THEN done + failed + skipped + %(done)s + %(failed)s ELSE mark_settled END
  FROM (SELECT clock_timestamp() - mark_at > %(mark)s * interval '1 second' AS turn FROM operations_operation WHERE id = %(id)s) AS m
 WHERE id = %(id)s
"""


def worker_name() -> str:
    """Which process it is, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"[:120]


def drive(*, budget: float = BUDGET) -> int:
    """Take open operations on, a chunk each in turn, for `budget` seconds; returns how many chunks were done."""
    until, chunks = time.monotonic() + budget, 0
    while time.monotonic() < until:
        found = list(Operation.objects.workable(kinds.names()).values_list("pk", flat=True)[:20])
        found += Operation.objects.wished().values_list("pk", flat=True)[:20]
        busy = False
        for operation_id in found:
            busy = take_on(operation_id) or busy
            chunks += 1
            if time.monotonic() >= until:
                break
        if not busy:
            break
    return chunks


def take_on(operation_id: int) -> bool:
    """Do one chunk, or what stands instead of it (a wish, the end); False when there was nothing for us to do."""
    try:
        with transaction.atomic():
            services.settle_wish(operation_id)
        begun = _begin(operation_id)
        return begun is not None and _chunk(operation_id, begun)
    except (OperationalError, InterfaceError):
        if connection.in_atomic_block or not connection.is_usable():
            raise  # the connection is gone: the task ends, and the next one gets another
        log.exception("operation_chunk_failed", operation=operation_id)
        _back_off(operation_id)
        return False


@dataclass(frozen=True, slots=True)
class _Begun:
    """A chunk that we may do: of so many items, or of one, as long as `careful` are to be taken one by one."""

    careful: int
    limit: int
    paced: bool


def _begin(operation_id: int) -> _Begun | None:
    """Say that we are at it; None when there is nothing to do now."""
    name, given = Operation.objects.values_list("kind", "params").get(pk=operation_id)
    kind = kinds.get(name)
    if kind is None:
        return None
    pace = kind.pace(given) if kind.pace else None
    limit = kind.chunk if pace is None else max(1, min(kind.chunk, int(pace * PACE)))
    params: dict[str, Any] = {"id": operation_id, "worker": worker_name(), "deaths": DEATHS, "chunk": kind.chunk, "credit": CREDIT}
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN, {**params, "lasts": None if pace is None else limit / pace})
        row = cursor.fetchone()
    return None if row is None else _Begun(int(row[0]), limit, pace is not None)


def _chunk(operation_id: int, begun: _Begun) -> bool:
    one_by_one, alone = begun.careful > 0, None
    if one_by_one:
        alone, given_up = _attempt(operation_id)
        if given_up:
            return True
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_SHARE, (services.LOCK, operation_id % 2**31))
            if not (row := cursor.fetchone()) or not row[0]:
                return False  # somebody pauses or ends it just now
        operation = Operation.objects.select_related("started_by").get(pk=operation_id)
        kind = kinds.get(operation.kind)
        if operation.state != State.RUNNING or operation.wanted or kind is None:
            return False
        refusal = None if services.starter_may(kind, operation) else services.starter_not_allowed(operation)
        if refusal is None and kind.guard is not None:
            refusal = _said_by(kind, operation, between=False)
            if isinstance(refusal, kinds.Wait):
                return _wait(operation_id, refusal)
        rows: list[Any] = []
        if refusal is None:
            with connection.cursor() as cursor:
                if one_by_one:
                    cursor.execute(_CLAIM_ONE, (operation_id, operation.step, alone))
                else:
                    cursor.execute(_CLAIM, (operation_id, operation.step, begun.limit))
                rows = cursor.fetchall()
        if rows:
            _perform(kind, operation, rows, one_by_one=one_by_one, paced=begun.paced)
            return True
    return _hold(operation_id, refusal) if refusal else _next_step(operation_id)


def _said_by(kind: kinds.Kind, operation: Operation, *, between: bool) -> Any:
    """What the kind's guard says, in the language of who started it."""
    with override(operation.language or None):
        return kind.guard(operation, between) if kind.guard else None


def _wait(operation_id: int, why: kinds.Wait) -> bool:
    """Ask again later; nothing has failed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE operations_operation SET not_before = clock_timestamp() + %s * interval '1 second', begun = 0,"
            " error_code = 'waiting', error = %s WHERE id = %s AND state = 'running'",
            (why.seconds, why.detail, operation_id),
        )
    return False


def _perform(kind: kinds.Kind, operation: Operation, rows: Sequence[Any], *, one_by_one: bool, paced: bool) -> None:
    """Do the claimed items and write down what became of each."""
    step = kind.step(operation.step).name
    items = [
        kinds.Item(index=index, key=key, input=_loaded(given), step=step, operation_id=operation.pk) for _id, index, key, given in rows
    ]
    with in_the_name_of(operation) as starter:
        results = _together(kind, starter, items, operation.params) if len(items) > 1 else None
        if results is None:
            results = list(_one_by_one(kind, starter, items, operation.params))
    settled = rows[: len(results)]
    codes = ["" if problem is None else problem.code[:60] for problem in results]
    details = ["" if problem is None else str(problem).replace("\x00", "")[:2000] for problem in results]
    failed = sum(1 for problem in results if problem is not None)
    counts = {"done": len(results) - failed, "failed": failed, "id": operation.pk, "step": operation.step}
    with connection.cursor() as cursor:
        cursor.execute(_SETTLE_ITEMS, ([row[0] for row in settled], codes, details))
        cursor.execute(_SETTLE_STEP, counts)
        cursor.execute(_SETTLE, {**counts, "one_by_one": len(results) if one_by_one else 0, "mark": MARK, "paced": paced})


def _together(kind: kinds.Kind, starter: User | None, items: Sequence[kinds.Item], params: Any) -> list[Problem | None] | None:
    """All items with few statements; None when the kind cannot, or when one of them spoils it for all."""
    if kind.perform_many is None:
        return None
    try:
        with transaction.atomic():
            results = list(kind.perform_many(starter, items, params))
            if not 0 < len(results) <= len(items):
                raise ValueError(f"{kind.name} answered for {len(results)} of {len(items)} items")  # noqa: TRY301 - undoes what it did
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        log.exception("operation_items_together_failed", kind=kind.name, first=items[0].key)
        return None
    return results


def _one_by_one(kind: kinds.Kind, starter: User | None, items: Sequence[kinds.Item], params: Any) -> Iterator[Problem | None]:
    """Each in a savepoint of its own: a poison item is marked and the rest goes on."""
    until = time.monotonic() + CHUNK_SECONDS
    for item in items:
        try:
            with transaction.atomic():
                kind.perform(starter, item, params)
            yield None
        except Problem as problem:
            yield problem
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            log.exception("operation_item_failed", kind=kind.name, key=item.key, index=item.index)
            yield _internal(error)
        if time.monotonic() > until:
            return


def _internal(error: Exception) -> Problem:
    if isinstance(error, DatabaseError):
        return Problem("database_error", _("The database refused it: {error}").format(error=str(error).strip().splitlines()[0][:300]))
    return Problem("internal", _("This is a fault of mqadmin; it is in the log of the worker, under the id of the operation."), status=500)


@contextmanager
def in_the_name_of(operation: Operation) -> Iterator[User | None]:
    """Whatever is audited meanwhile names the person who started the operation, and the operation."""
    starter = services.starter_of(operation)
    context = RequestContext(
        request_id=f"operation:{operation.uid}",
        address=operation.address,
        credential=operation.credential,
        application=operation.application,
        change_message=operation.reason,
    )
    token = current.set(context)
    with structlog.contextvars.bound_contextvars(operation=str(operation.uid)), override(operation.language or None):
        try:
            yield starter
        finally:
            current.reset(token)


def _attempt(operation_id: int) -> tuple[int | None, bool]:
    """Count the attempt on the next item before it is made, so that one that kills its worker is given up in the end.

    Returns the item, None when others have all that are left, and whether it was given up just now.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        # A chunk of its own, as short as it is: who cancels meanwhile would lock the same rows the other way round.
        cursor.execute(_SHARE, (services.LOCK, operation_id % 2**31))
        if not (row := cursor.fetchone()) or not row[0]:
            return None, False
        cursor.execute(_ATTEMPT, (operation_id, LEASE))
        row = cursor.fetchone()
        if row is None:
            return None, False
        if row[2] <= ATTEMPTS:
            return row[0], False
        detail = _("It was tried {n} times, and each time the worker or the database failed.").format(n=ATTEMPTS)
        counts = {"done": 0, "failed": 1, "id": operation_id, "step": row[1]}
        cursor.execute(_SETTLE_ITEMS, ([row[0]], ["worker_lost"], [detail]))
        cursor.execute(_SETTLE_STEP, counts)
        cursor.execute(_SETTLE, {**counts, "one_by_one": 1, "mark": MARK, "paced": False})
    return row[0], True


def _hold(operation_id: int, refusal: Problem) -> bool:
    """Pause it: whoever started it may not do this any more, and nobody else's name is used instead; or its guard says so."""
    with transaction.atomic():
        return services.try_alone(operation_id) and _stop(operation_id, refusal)


def _stop(operation_id: int, refusal: Problem) -> bool:
    """Pause it for this reason, with the operation to oneself."""
    held = {"state": State.PAUSED, "error_code": refusal.code, "error": str(refusal)}
    if Operation.objects.filter(pk=operation_id, state=State.RUNNING).update(**held):
        log.warning("operation_held", operation=operation_id, code=refusal.code)
        uid = Operation.objects.values_list("uid", flat=True).get(pk=operation_id)
        record(actor=None, action="pause", kind="operation", name=str(uid), reason=str(refusal))
    return True


def _next_step(operation_id: int) -> bool:
    """No item of this step is free: when none is open either, begin the next step, or end the operation."""
    with transaction.atomic():
        if not services.try_alone(operation_id):
            return False  # other workers have the last items in hand; the last of them comes here
        operation = Operation.objects.select_for_update(no_key=True).get(pk=operation_id)
        if operation.state != State.RUNNING or operation.items.filter(step=operation.step, state="pending").exists():
            return False
        steps = list(OperationStep.objects.filter(operation=operation))
        here = next((step for step in steps if step.number == operation.step), None)
        kind = kinds.get(operation.kind)
        more = any(step.number > operation.step for step in steps)
        if more and kind is not None and kind.guard is not None:
            said = _said_by(kind, operation, between=True)
            if isinstance(said, kinds.Wait):
                return _wait(operation_id, said)
            if said is not None:
                return _stop(operation_id, said)
        now = Now()
        OperationStep.objects.filter(operation=operation, number=operation.step).update(
            finished_at=now, started_at=Coalesce("started_at", now)
        )
        stuck = here is not None and here.failed > 0 and kind is not None and kind.step(operation.step).required
        if stuck and kind is not None:
            step = str(kind.step(operation.step).label)
            detail = _("The step “{step}” before it has failed.").format(step=step)
            services.skip_rest(operation, code="step_failed", detail=detail)
            operation.refresh_from_db()
        elif more:
            Operation.objects.filter(pk=operation.pk).update(step=operation.step + 1, not_before=None, error="", error_code="")
            return True
        Operation.objects.filter(pk=operation.pk).update(
            state=_outcome(operation, stuck=stuck), finished_at=now, not_before=None, error="", error_code=""
        )
    return True


def _outcome(operation: Operation, *, stuck: bool) -> State:
    """Green only when everything is done."""
    if stuck or (operation.failed and not operation.done):
        return State.FAILED
    return State.PARTIAL if operation.failed or operation.skipped else State.SUCCEEDED


def _back_off(operation_id: int) -> None:
    """The database has failed a chunk: wait, longer each time, then go on item by item for a while."""
    kind = kinds.get(Operation.objects.values_list("kind", flat=True).get(pk=operation_id))
    first, longest = BACKOFF
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE operations_operation SET stumbles = LEAST(stumbles + 1, 30), careful = GREATEST(careful, %s), begun = 0,"
            " not_before = clock_timestamp() + LEAST(%s, %s * power(2, stumbles)) * %s * interval '1 second' WHERE id = %s",
            (kind.chunk if kind else 1, longest, first, random.uniform(0.5, 1.0), operation_id),  # noqa: S311 - jitter
        )


def _loaded(given: Any) -> Any:
    import json

    return json.loads(given) if isinstance(given, str) else given
