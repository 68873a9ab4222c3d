"""The verbs of operations: start, pause, resume, cancel, retry what failed; the work itself is done in `driving`.

A chunk in flight holds a shared advisory lock of its operation until its transaction ends. Whoever wants to pause or cancel writes
down the wish and then tries to take that lock alone: if it is free, no chunk is in flight and the state changes at once, even when no
worker runs; otherwise the next chunk sees the wish and does it. So a paused or cancelled operation does not move any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from psycopg.types.json import Jsonb

from core.audit.services import record
from core.errors import Problem, conflict
from core.operations import kinds
from core.operations.models import ItemState, Operation, OperationItem, OperationStep, State, Wanted
from core.request_context import current

if TYPE_CHECKING:
    from accounts.models import User

log = structlog.get_logger(__name__)

MAX_ITEMS = 1_000_000
LOCK = 5_770_000  # the class of our advisory locks; the second number is the operation
#: What has ended is kept for so long; the audit keeps for good who started what, and what it did. docs/architecture.md says so.
KEEP = timedelta(days=90)
_COLUMNS = "operation_id, step, index, key, input, state, code, detail, attempts"


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to freeze: its name for people, what `perform` needs besides, and the number of its step."""

    key: str
    input: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0


def start(
    *,
    actor: User | None,
    kind: str,
    title: Any,
    items: Iterable[NewItem | str] | None = None,
    select: QuerySet[Any, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    reason: str = "",
) -> Operation:
    """Freeze the items in the caller's transaction and let workers do them once it commits.

    Give `items`, or `select`: a queryset of one column of texts, the keys, that is frozen in one statement. `params` are JSON.
    Problems: forbidden (the kind's permission), too_many_items. A kind that is not registered is a mistake in the code.
    """
    known = kinds.get(kind)
    if known is None:
        raise ValueError(f"no kind {kind} is registered")
    if (items is None) == (select is None):
        raise ValueError("give either items or select")
    check_permission(known, actor)
    context = current.get()
    with transaction.atomic():
        operation = Operation.objects.create(
            kind=kind, title=str(title)[:250], params=dict(params or {}), state=State.QUEUED, started_by=actor, reason=reason,
            credential=context.credential, application=context.application, address=context.address, request_id=context.request_id,
            language=get_language() or "", scopes=scopes_of(actor),
        )  # fmt: skip
        if items is not None:
            _copy(operation, items)
        elif select is not None:
            _select(operation, select)
        counted = _count(operation, known)
        if counted > MAX_ITEMS:
            detail = _("An operation has at most {n} items; these are {count}.").format(n=f"{MAX_ITEMS:,}", count=f"{counted:,}")
            raise Problem("too_many_items", detail, status=422, hint=_("Narrow the filter."))
        Operation.objects.filter(pk=operation.pk).update(total=counted)
        after = {"kind": kind, "title": operation.title, "items": counted, "parameters": operation.params}
        record(actor=actor, action="start", kind="operation", name=str(operation.uid), after=after, reason=reason)
        transaction.on_commit(wake, robust=True)
    operation.refresh_from_db()
    return operation


def pause(*, actor: User | None, operation: Operation, reason: str = "") -> Operation:
    """Stop taking items on; what is in hand is finished first. Problem: wrong_state."""
    return _wish(
        actor=actor, operation=operation, wanted=Wanted.PAUSE, action="pause", reason=reason, allowed=(State.QUEUED, State.RUNNING)
    )


def cancel(*, actor: User | None, operation: Operation, reason: str = "") -> Operation:
    """End it: what is not done is skipped, what is done stays done. Problem: wrong_state."""
    allowed = (State.QUEUED, State.RUNNING, State.PAUSED)
    return _wish(actor=actor, operation=operation, wanted=Wanted.CANCEL, action="cancel", reason=reason, allowed=allowed)


def resume(*, actor: User | None, operation: Operation, reason: str = "") -> Operation:
    """Go on where it was paused. Problems: wrong_state; starter_not_allowed while its starter may not do this kind any more."""
    known = kinds.get(operation.kind)
    if known is not None and not starter_may(known, operation):
        raise starter_not_allowed(operation)
    with transaction.atomic():
        won = Operation.objects.filter(pk=operation.pk, state=State.PAUSED, wanted="").update(
            state=State.QUEUED, **_afresh(), **_narrower(operation, actor)
        )
        if won != 1:
            raise wrong_state(operation, "resume", (State.PAUSED,))
        if known is not None and known.resumed is not None:
            known.resumed(operation)
        record(actor=actor, action="resume", kind="operation", name=str(operation.uid), reason=reason)
        transaction.on_commit(wake, robust=True)
    operation.refresh_from_db()
    return operation


def retry_failed(*, actor: User | None, operation: Operation, reason: str = "") -> Operation:
    """Do again what failed, and what was skipped because of it. Problems: wrong_state, nothing_failed, starter_not_allowed."""
    known = kinds.get(operation.kind)
    if known is not None and not starter_may(known, operation):
        raise starter_not_allowed(operation)
    allowed = (State.PARTIAL, State.FAILED)
    with transaction.atomic():
        won = Operation.objects.filter(pk=operation.pk, state__in=allowed, failed__gt=0).update(
            state=State.QUEUED, wanted="", step=0, finished_at=None, **_afresh(), **_narrower(operation, actor)
        )
        if won != 1:
            operation.refresh_from_db()
            if operation.state in allowed:
                raise conflict("nothing_failed", _("No item of this operation has failed."))
            raise wrong_state(operation, "retries", allowed)
        again = OperationItem.objects.filter(operation=operation, state__in=[ItemState.FAILED, ItemState.SKIPPED])
        count = again.update(state=ItemState.PENDING, code="", detail="", done_at=None, tried_at=None, attempts=0)
        OperationStep.objects.filter(operation=operation).update(failed=0, skipped=0, finished_at=None)
        Operation.objects.filter(pk=operation.pk).update(failed=0, skipped=0)
        record(actor=actor, action="retry", kind="operation", name=str(operation.uid), after={"items": count}, reason=reason)
        transaction.on_commit(wake, robust=True)
    operation.refresh_from_db()
    return operation


def check_permission(kind: kinds.Kind, actor: User | None) -> None:
    """Refuse with the problem `forbidden` who may not do what an operation of this kind does."""
    if actor is not None and kind.permission and not actor.has_perm(kind.permission):
        detail = _("You need the permission “{permission}” for this.").format(permission=kind.permission)
        raise Problem("forbidden", detail, status=403, hint=_("An administrator grants it."))


def starter_may(kind: kinds.Kind, operation: Operation) -> bool:
    """Whether who started it may still do this, asked of the database anew; the system may."""
    starter = starter_of(operation)
    return starter is None or (starter.is_active and (not kind.permission or starter.has_perm(kind.permission)))


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What is left of the token that an operation was started with: what it was for."""

    scopes: Sequence[str]


def scopes_of(actor: User | None) -> list[str] | None:
    """The scopes of the token that the request came with; None: no token, so nothing is narrowed."""
    token = actor.token if actor is not None else None
    return None if token is None else list(token.scopes)


def starter_of(operation: Operation) -> User | None:
    """Who started it, read anew with nothing remembered of earlier permissions, and no wider than by the token; None for the system."""
    if operation.started_by_id is None:
        return None
    field_ = Operation._meta.get_field("started_by")  # noqa: SLF001 - Django's public API
    people: Any = field_.related_model
    starter: User = people._default_manager.get(pk=operation.started_by_id)  # noqa: SLF001 - Django's public name for it
    if operation.scopes is not None:
        starter.token = Narrowed(operation.scopes)  # type: ignore[assignment]
    return starter


def starter_not_allowed(operation: Operation) -> Problem:
    """The person in whose name it works may not do this any more."""
    name = operation.started_by.get_username() if operation.started_by else ""
    return conflict(
        "starter_not_allowed",
        _("It works in the name of {name}, who may not do this any more.").format(name=name),
        hint=_("Grant the permission again and resume, or cancel it and start one of your own."),
    )


def try_alone(operation_id: int) -> bool:
    """Whether no chunk of this operation is in flight; until this transaction ends, none begins."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", (LOCK, operation_id % 2**31))
        row = cursor.fetchone()
    return bool(row and row[0])


def settle_wish(operation_id: int) -> None:
    """Do what was asked for, if no chunk is in flight; call it in a transaction."""
    operation = Operation.objects.get(pk=operation_id)
    if not operation.wanted or not try_alone(operation.pk):
        return
    # A chunk may have ended between the look and the lock: from here on the rows stand still.
    operation = Operation.objects.select_for_update(no_key=True).get(pk=operation_id)
    if operation.wanted == Wanted.PAUSE:
        Operation.objects.filter(pk=operation.pk).update(state=State.PAUSED, wanted="")
    elif operation.wanted == Wanted.CANCEL:
        skip_rest(operation, code="cancelled", detail=_("The operation was cancelled."))
        Operation.objects.filter(pk=operation.pk).update(state=State.CANCELLED, wanted="", finished_at=Now())


def skip_rest(operation: Operation, *, code: str, detail: str) -> None:
    """Mark all that is pending as skipped, and count it; with the operation to oneself (`try_alone`)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH rest AS (UPDATE operations_operationitem SET state = 'skipped', code = %s, detail = %s, done_at = clock_timestamp()"
            " WHERE operation_id = %s AND state = 'pending' RETURNING step),"
            " counts AS (SELECT step, count(*) AS n FROM rest GROUP BY step),"
            " steps AS (UPDATE operations_operationstep s SET skipped = s.skipped + r.n FROM counts r"
            " WHERE s.operation_id = %s AND s.number = r.step)"
            " UPDATE operations_operation SET skipped = skipped + (SELECT count(*) FROM rest) WHERE id = %s",
            (code, detail, operation.pk, operation.pk, operation.pk),
        )
    OperationStep.objects.filter(operation=operation, finished_at=None).update(finished_at=Now())


def wake() -> None:
    """Tell a worker that there is something to do; when the broker is away, beat's next call does."""
    from kombu.exceptions import OperationalError

    from core.operations.tasks import drive

    try:
        drive.apply_async(expires=5, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("operations_not_woken", error=str(error))


def _wish(*, actor: User | None, operation: Operation, wanted: Wanted, action: str, reason: str, allowed: tuple[State, ...]) -> Operation:
    with transaction.atomic():
        # A wish to cancel overrides one to pause, never the other way round.
        free = ["", Wanted.PAUSE] if wanted == Wanted.CANCEL else [""]
        won = Operation.objects.filter(pk=operation.pk, state__in=allowed, wanted__in=free).update(wanted=wanted)
        if won != 1:
            raise wrong_state(operation, action, allowed)
        record(actor=actor, action=action, kind="operation", name=str(operation.uid), reason=reason)
        settle_wish(operation.pk)
    operation.refresh_from_db()
    return operation


def wrong_state(operation: Operation, action: str, allowed: tuple[State, ...]) -> Problem:
    """It is not in a state in which this can be done."""
    operation.refresh_from_db()
    stands = Wanted(operation.wanted).label if operation.wanted else operation.shown_state.label
    return conflict(
        "wrong_state",
        _("This cannot be done: it is {state}.").format(state=stands),
        hint=_("Possible while: {states}.").format(states=", ".join(str(state.label) for state in allowed)),
        extra={"state": operation.shown_state.value, "action": action},
    )


def _afresh() -> dict[str, Any]:
    """Nothing is held against it any more, and its rate is measured from now on."""
    return {
        "error": "", "error_code": "", "not_before": None, "begun": 0, "stumbles": 0, "careful": 0, "heartbeat_at": None, "mark_at": None,
        "before_at": None,
    }  # fmt: skip


def _narrower(operation: Operation, actor: User | None) -> dict[str, Any]:
    """Whoever sets it going again with a token lends it no more than that token."""
    own = scopes_of(actor)
    return {} if own is None else {"scopes": [scope for scope in own if operation.scopes is None or scope in operation.scopes]}


def _copy(operation: Operation, items: Iterable[NewItem | str]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY operations_operationitem ({_COLUMNS}) FROM STDIN") as copy:
        for index, given in enumerate(items):
            if index > MAX_ITEMS:
                break  # the caller's count says so
            item = NewItem(given) if isinstance(given, str) else given
            copy.write_row((operation.pk, item.step, index, item.key[:250], _json(item.input), "pending", "", "", 0))


def _json(value: Mapping[str, Any]) -> Jsonb:
    import json

    return Jsonb(dict(value), dumps=lambda data: json.dumps(data, cls=DjangoJSONEncoder))


def _select(operation: Operation, select: QuerySet[Any, Any]) -> None:
    from django.core.exceptions import EmptyResultSet

    try:
        sql, values = select.order_by().query.sql_with_params()
    except EmptyResultSet:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO operations_operationitem ({_COLUMNS})"  # noqa: S608 - text of Django's own compiler, values apart
            f" SELECT %s, 0, row_number() OVER (ORDER BY key) - 1, key, '{{}}', 'pending', '', '', 0"
            f" FROM (SELECT DISTINCT key FROM ({sql}) AS chosen (key) LIMIT {MAX_ITEMS + 1}) AS keys",
            (operation.pk, *values),
        )


def _count(operation: Operation, kind: kinds.Kind) -> int:
    """Make the steps with their totals; returns how many items there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT step, count(*) FROM operations_operationitem WHERE operation_id = %s GROUP BY step", (operation.pk,))
        totals = dict(cursor.fetchall())
    unknown = [number for number in totals if number >= len(kind.steps)]
    if unknown:
        raise ValueError(f"the kind {kind.name} has no step {unknown[0]}")
    OperationStep.objects.bulk_create(
        OperationStep(operation=operation, number=number, name=step.name, total=totals.get(number, 0))
        for number, step in enumerate(kind.steps)
    )
    return sum(totals.values())


def forget(*, limit: int) -> int:
    """Delete some of the items of operations that ended more than `KEEP` ago, then those operations that have none left.

    At most `limit` rows of each; returns how many items went.
    """
    with transaction.atomic():
        old = Operation.objects.filter(finished_at__lt=Now() - KEEP)
        theirs = OperationItem.objects.filter(operation__in=old).order_by().values_list("pk", flat=True)
        items, _by_kind = OperationItem.objects.filter(pk__in=list(theirs[:limit])).delete()
        empty = old.filter(~Exists(OperationItem.objects.filter(operation=OuterRef("pk"))))
        Operation.objects.filter(pk__in=list(empty.values_list("pk", flat=True)[:limit])).delete()
    return items
