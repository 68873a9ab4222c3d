"""Pull, settle and next: the life of a lease."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog
from django.db import DatabaseError, connection
from django.utils.translation import gettext as _

from core.errors import FieldError, Problem, conflict, not_found
from messages import balancing
from messages import broadcast as broadcasts
from messages.db import fetch
from messages.names import topic_name, topic_order
from messages.types import NO_HEADERS, STATUS_WORDS, Batch, Delivery, Outcome, Settled

log = structlog.get_logger(__name__)

MAX_PULL = 1000
MAX_VISIBILITY_MS = 12 * 3600 * 1000
MAX_RETRY_DELAY_MS = 10 * 365 * 86400 * 1000
MAX_ERROR = 2000  # characters kept of a reason
MAX_BIGINT = 2**63 - 1
_LETTER = {"succeeded": "S", "failed": "X", "later": "L", "dead": "D"}
_BEHIND, _SCAN_ENDED = 1, 2  # of a header's `attempt`
_ROW = "SELECT kind, id, at, tag, code, topic_id, origin_id, attempt, key, skey, headers, body"
_PULL = f"{_ROW} FROM mq_pull(%s::bigint, %s::int, %s::bigint * interval '1 ms', %s::text, %s)"
_NEXT = (
    f'{_ROW} FROM mq_next(%s::bigint, %s::bigint, %s::bigint[], %s::"char"[], %s::bigint[], %s::text[],'
    " %s::int, %s::bigint * interval '1 ms', %s::text, %s)"
)
_EXTEND = "SELECT until, refused FROM mq_extend(%s::bigint, %s::bigint, %s::bigint * interval '1 ms', %s::bigint * interval '1 ms', %s)"
#: Why a sticky group has nothing for who asks.
NOBODY: dict[str, Callable[[], Problem]] = {
    "consumer_required": balancing.consumer_required,
    "too_many_workers": balancing.too_many_workers,
}
_SCANS = 20  # bounded scans that one pull of a rare tag may take


def pull(*, group_id: int, limit: int, visibility_ms: int, consumer: str, broadcast: bool = False) -> Batch:
    """Hand out up to `limit` messages under one lease of `visibility_ms`; due retries first, then fresh ones.

    Every message is in one worker's hands at a time. Those whose lease has expired before are handed out alone.
    `broadcast`: the instance `consumer` of a broadcast group pulls, which gets every message, whoever else does.
    Of a sticky group the worker `consumer` gets the messages whose sharding keys are its own, and those without one.
    Problems: not_found, invalid_limit, invalid_visibility; of an instance those of broadcast.join; of a sticky group consumer_required,
    too_many_workers.
    """
    _check_pull(limit, visibility_ms)
    if not broadcast:
        found = _pull(group_id, limit, visibility_ms, consumer)
        if found.reason in NOBODY:
            refusal = NOBODY[found.reason]()
            raise refusal
        return found
    found = _pull(broadcasts.join(group_id=group_id, name=consumer), limit, visibility_ms, consumer)
    if found.reason == "retired":  # given up since it was last looked for: it begins anew
        broadcasts.forget(group_id=group_id, name=consumer)
        found = _pull(broadcasts.join(group_id=group_id, name=consumer), limit, visibility_ms, consumer)
    return found


def settle(*, group_id: int, lease: str, outcomes: Sequence[Outcome]) -> list[Settled]:
    """Take the outcomes of a lease, some or all, of fresh and retried messages alike; one result per outcome, in their order.

    `failed` is retried after the group's backoff, dead at its attempts limit; `later` is retried without counting an attempt;
    `dead` goes to the dead letters at once. An outcome that cannot be taken gets `problem_code` and changes nothing:
    lease_expired (no longer yours), not_in_lease, already_settled, held_back (of an ordered topic: one before it of its sharding key
    is to be tried again, and this one after it).
    Problems: invalid_outcome.
    """
    group_id, lease = broadcasts.holder(group_id=group_id, lease=lease)
    params = _settle_params(lease, outcomes)
    if params is None:
        return [_refused(o.id, "lease_expired") for o in outcomes]
    rows = fetch(
        'SELECT kind, id, at, tag, code FROM mq_settle(%s::bigint, %s::bigint, %s::bigint[], %s::"char"[], %s::bigint[], %s::text[], %s)',
        (group_id, *params, not connection.in_atomic_block),
    )
    return _settled(outcomes, rows)


def next(  # noqa: A001 - the verb of the API
    *, group_id: int, lease: str | None, outcomes: Sequence[Outcome], limit: int, visibility_ms: int, consumer: str, broadcast: bool = False
) -> tuple[list[Settled], Batch]:
    """Settle the previous lease and pull the next batch in one commit; see settle and pull.

    What pull refuses of a sticky group is the batch's reason here: the outcomes are committed.
    """
    _check_pull(limit, visibility_ms)
    store_id = broadcasts.join(group_id=group_id, name=consumer) if broadcast else group_id
    if lease is not None:
        holder, lease = broadcasts.holder(group_id=group_id, lease=lease)
        lease = lease if holder == store_id else ""  # another instance's: nobody's here
    params = _settle_params(lease, outcomes) if lease is not None and outcomes else None
    again: Any = {"limit": limit, "visibility_ms": visibility_ms, "consumer": consumer, "broadcast": broadcast}
    if params is None:
        settled = [_refused(o.id, "lease_expired") for o in outcomes]
        return settled, pull(group_id=group_id, **again)
    rows = fetch(
        _NEXT,
        (store_id, *params, limit, visibility_ms, _consumer(consumer), not connection.in_atomic_block),
    )
    settled = _settled(outcomes, [r for r in rows if r[0] == "S"])
    batch, hint = _batch(store_id, [r for r in rows if r[0] != "S"])
    if hint:
        batch = _pull(store_id, limit, visibility_ms, consumer, hint=hint)
    elif broadcast and batch.reason == "retired":
        batch = pull(group_id=group_id, **again)
    return settled, batch


def extend(*, group_id: int, lease: str, visibility_ms: int) -> datetime:
    """Keep what a lease still holds for `visibility_ms` from now on; when it ends. Never earlier than before.

    At most 12 hours after the pull in all: a worker that hangs and still extends must not keep its messages for ever.
    Problems, nothing changed: invalid_visibility, lease_expired (no longer yours, or never was), lease_too_long.
    """
    _check_visibility(visibility_ms)
    found: list[tuple[datetime | None, bool]] = [(None, False)]
    group_id, lease = broadcasts.holder(group_id=group_id, lease=lease)
    if _is_token(lease):
        found = fetch(_EXTEND, (group_id, int(lease), visibility_ms, MAX_VISIBILITY_MS, not connection.in_atomic_block))
    until, refused = found[0]
    if until is None:
        raise conflict("lease_expired", lease_expired(), hint=_("Its messages are handed out again: drop them, and pull."))
    if refused:
        raise conflict(
            "lease_too_long",
            _("A lease lasts {n} hours at most from its pull.").format(n=MAX_VISIBILITY_MS // 3_600_000),
            hint=_("Ask for less, or settle its messages as later: they are handed out again then."),
            extra={"lease_until": until.isoformat()},
        )
    return until


def tick() -> int | None:
    """Close what has ended, push the ids up to the clock: the storekeeper's work, done by a pull that finds the horizon behind.

    None inside a transaction (its own messages must not be closed) and when another session ticks.
    """
    if connection.in_atomic_block:
        return None
    rows: list[tuple[int | None]] = fetch("SELECT mq_tick()")
    return rows[0][0]


def expire(*, limit: int = 100) -> int:
    """Take back what expired leases hold, one short transaction per group; returns how many messages.

    A group that cannot be expired holds up no other: it is logged and tried again at the next call.
    """
    taken = 0
    for (group_id,) in fetch("SELECT * FROM mq_expired_groups()"):
        try:
            taken += fetch("SELECT mq_expire(%s::bigint, %s::int)", (group_id, limit))[0][0]
        except DatabaseError:
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("leases_not_expired", group_id=group_id)
    return taken


def _pull(group_id: int, limit: int, visibility_ms: int, consumer: str, *, hint: int = 0) -> Batch:
    ticked = False
    for _round in range(_SCANS):
        if hint == _BEHIND:
            if ticked or connection.in_atomic_block:
                break
            tick()
            ticked = True
        rows = fetch(
            _PULL,
            (group_id, limit, visibility_ms, _consumer(consumer), not connection.in_atomic_block),
        )
        batch, hint = _batch(group_id, rows)
        if not hint:
            return batch
    return batch


def _batch(group_id: int, rows: list[Any]) -> tuple[Batch, int]:
    """The batch, and whether to pull again (the header's hint) because it is empty for a reason that passes."""
    _kind, token, until, _tag, reason, worker, _origin, hint, *_rest = rows[-1]
    if reason == "unknown" and group_id < 0:  # an instance that was given up, and whose rows are gone
        reason = "retired"
    if reason == "unknown":
        raise not_found(_("consumer group"), group_id)
    if token is None:
        return Batch(None, None, [], reason, worker), hint
    topics = {topic_id: topic_name(topic_id) for topic_id in {r[5] for r in rows[:-1]}}
    messages = [
        Delivery(
            id=r[1],
            topic=topics[r[5]],
            key=r[8],
            tag=r[3],
            sharding_key=r[9],
            headers=json.loads(r[10]) if r[10] else NO_HEADERS,
            body=r[11],
            attempt=r[7],
            sent_at=r[2],
            origin_id=r[6],
            topic_id=r[5],
        )
        for r in rows[:-1]
    ]
    ordered = {name: order for topic_id, name in topics.items() if (order := topic_order(topic_id))}
    return Batch(broadcasts.lease_name(group_id, token), until, messages, ordered=ordered), 0


def _check_pull(limit: int, visibility_ms: int) -> None:
    if not 1 <= limit <= MAX_PULL:
        detail = _("A pull takes 1 to {n} messages.").format(n=MAX_PULL)
        raise Problem("invalid_limit", detail, errors=[FieldError("/max", detail)])
    _check_visibility(visibility_ms)


def _check_visibility(visibility_ms: int) -> None:
    if not 1 <= visibility_ms <= MAX_VISIBILITY_MS:
        detail = _("The visibility time-out is 1 to {n} milliseconds.").format(n=MAX_VISIBILITY_MS)
        raise Problem("invalid_visibility", detail, errors=[FieldError("/visibility_ms", detail)])


def _consumer(consumer: str) -> str:
    return consumer.replace("\x00", "")[:255]


def _is_token(lease: str) -> bool:
    return lease.isascii() and lease.isdigit() and len(lease) <= 19 and int(lease) <= MAX_BIGINT


def lease_expired() -> str:
    """What is said of a lease that nobody holds."""
    return _("The lease is no longer yours: it has expired, or it never was.")


def _settle_params(lease: str | None, outcomes: Sequence[Outcome]) -> tuple[Any, ...] | None:
    """Token and arrays in the order of ids; None when the lease can be nobody's."""
    for i, o in enumerate(outcomes):
        if o.status not in _LETTER:
            detail = _("The status is succeeded, failed, later or dead.")
            raise Problem("invalid_outcome", detail, errors=[FieldError(f"/acks/{i}/status", detail)])
        if o.delay_ms is not None and not 0 <= o.delay_ms <= MAX_RETRY_DELAY_MS:
            detail = _("The delay is 0 to {n} milliseconds.").format(n=MAX_RETRY_DELAY_MS)
            raise Problem("invalid_outcome", detail, errors=[FieldError(f"/acks/{i}/delay_ms", detail)])
    if lease is None or not _is_token(lease) or not outcomes:
        return None
    by_id: dict[int, Outcome] = {}
    for o in outcomes:
        if -MAX_BIGINT <= o.id <= MAX_BIGINT:
            by_id.setdefault(o.id, o)
    ids = sorted(by_id)
    array = f"{{{','.join(map(str, ids))}}}"  # psycopg's own way with a list costs ten times as much
    if all(o.status == "succeeded" for o in by_id.values()):
        return int(lease), array, None, None, None
    ordered = [by_id[i] for i in ids]
    return (
        int(lease),
        array,
        [_LETTER[o.status] for o in ordered],
        [o.delay_ms for o in ordered],
        [None if o.error is None else o.error.encode("utf-8", "replace").decode().replace("\x00", "")[:MAX_ERROR] for o in ordered],
    )


def _settled(outcomes: Sequence[Outcome], rows: list[Any]) -> list[Settled]:
    told = {r[1]: r for r in rows}
    seen: set[int] = set()
    if not told and len({o.id for o in outcomes}) == len(outcomes) and all(-MAX_BIGINT <= o.id <= MAX_BIGINT for o in outcomes):
        return [Settled(o.id, "succeeded") for o in outcomes]  # of what has simply succeeded nothing is told
    results = []
    for o in outcomes:
        row = told.get(o.id)
        if o.id in seen:
            results.append(_refused(o.id, "already_settled"))
        elif not -MAX_BIGINT <= o.id <= MAX_BIGINT:
            results.append(_refused(o.id, "not_in_lease"))
        elif row is None:
            results.append(Settled(o.id, "succeeded"))
        elif row[4] is not None:
            results.append(_refused(o.id, row[4]))
        else:
            results.append(Settled(o.id, STATUS_WORDS[row[3]], next_retry_at=row[2]))
        seen.add(o.id)
    return results


def _refused(message_id: int, code: str) -> Settled:
    details = {
        "lease_expired": lease_expired(),
        "not_in_lease": _("This message is not in the lease."),
        "already_settled": _("This message was settled before under the same lease."),
        "held_back": _("A message before it with the same sharding key is to be tried again first: this one is handed out after it."),
    }
    return Settled(message_id, None, code, details[code])
