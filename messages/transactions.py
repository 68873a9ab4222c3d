"""Transactions: sends to several topics and outcomes of leases in one commit, under a producer's epoch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from django.db import transaction
from django.utils.translation import gettext as _

from core.errors import FieldError, Problem, conflict
from messages import backpressure, broadcast
from messages.consuming import settle
from messages.db import fetch, hot_cursor
from messages.sending import MAX_TEXT, check, claimed, headers_text, storable
from messages.types import Accepted, NewMessage, Outcome, Settled

_BEGIN = "SELECT epoch, result, digest FROM mq_transaction_begin(%s::bigint, %s::text, %s::bigint, %s::text, %b::bytea, %s::bigint[])"
_APPEND = "SELECT mq_transaction_append(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])"
_DELAY = "SELECT mq_delay(%s::bigint, %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])"


@dataclass(frozen=True, slots=True)
class Send:
    """Messages of one topic; `ceiling` is its `max_backlog`, 0: none."""

    topic_id: int
    messages: Sequence[NewMessage]
    ceiling: int = 0


@dataclass(frozen=True, slots=True)
class Acks:
    """Outcomes of one lease of a group."""

    group_id: int
    lease: str
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of a transaction, in the order of what was asked for. `duplicate`: its id was known, this is the first result."""

    sends: list[list[Accepted]]
    acks: list[list[Settled]]
    duplicate: bool = False


def open_epoch(*, application_id: int, producer: str) -> int:
    """Begin a producer's next epoch and return it: whoever goes on under an older one is refused from now on. Problem: invalid_text."""
    _check_text("producer", producer)
    return int(fetch("SELECT mq_epoch_open(%s::bigint, %s::text)", (application_id, producer))[0][0])


def commit(
    *, application_id: int, producer: str, epoch: int, transaction_id: str, sends: Sequence[Send] = (), acks: Sequence[Acks] = ()
) -> Committed:
    """Do all of it, or nothing: no group sees a part, and an outcome that cannot be taken takes everything back.

    The same id again, within a day, returns the first result, under a newer epoch too. Must come last in a surrounding transaction.
    Problems: those of send and settle, empty_transaction, too_many_acks, unknown_producer, producer_fenced (another epoch is open),
    transaction_id_reused, backlog_full, ack_refused (with an error and a code for each).
    """
    _check_text("producer", producer)
    _check_text("id", transaction_id)
    messages = [(part.topic_id, message) for part in sends for message in part.messages]
    _check_parts(messages, sends, acks)
    digest = _digest(messages, acks)
    acks = [_held(part) for part in acks]
    groups = sorted({part.group_id for part in acks})
    with transaction.atomic():
        known = fetch(_BEGIN, (application_id, producer, epoch, transaction_id, digest, groups))[0]
        _check_epoch(producer, epoch, known[0])
        if known[2] is not None:
            return _first_result(transaction_id, known[1], known[2] == digest)
        for part in sends:  # not before: a repetition gets its first result at any backlog
            backpressure.admit(topic_id=part.topic_id, ceiling=part.ceiling, messages=sum(m.deliver_at is None for m in part.messages))
        settled = _settle(acks)
        with hot_cursor() as cursor:
            accepted = iter(_send(cursor, messages))
            done = Committed([[next(accepted) for _message in part.messages] for part in sends], settled)
            cursor.execute(
                "UPDATE mq_transaction SET result = %s WHERE application_id = %s AND producer = %s AND id = %s",
                (_dump(done), application_id, producer, transaction_id),
            )
    return done


def _held(part: Acks) -> Acks:
    """With the group of the store that holds the lease: of a broadcast group an instance."""
    group_id, lease = broadcast.holder(group_id=part.group_id, lease=part.lease)
    return replace(part, group_id=group_id, lease=lease)


def _check_epoch(producer: str, epoch: int, current: int | None) -> None:
    if current is None:
        raise conflict("unknown_producer", _("There is no producer “{name}”.").format(name=producer), hint=_("Open an epoch for it first."))
    if current != epoch:
        raise conflict(
            "producer_fenced",
            _("The producer “{name}” goes on under epoch {current}; this is {epoch}.").format(name=producer, current=current, epoch=epoch),
            hint=_("Another instance has taken over: stop, or open an epoch of your own."),
            extra={"epoch": current},
        )


def _first_result(transaction_id: str, result: str, same: bool) -> Committed:
    if not same:
        raise conflict(
            "transaction_id_reused",
            _("The transaction id “{id}” stands for another transaction.").format(id=transaction_id),
            hint=_("Take a new id for each transaction; a repetition says the same as the first time."),
        )
    return _load(result)


def _settle(acks: Sequence[Acks]) -> list[list[Settled]]:
    """The groups' rows are locked already, in their order; so are those of cursors and leases of one group after the other."""
    results: list[list[Settled]] = [[] for _part in acks]
    for i in sorted(range(len(acks)), key=lambda i: (acks[i].group_id, i)):
        results[i] = settle(group_id=acks[i].group_id, lease=acks[i].lease, outcomes=acks[i].outcomes)
    refused = [(i, k, r) for i, part in enumerate(results) for k, r in enumerate(part) if r.problem_code is not None]
    if refused:
        problem = conflict(
            "ack_refused",
            _("{n} of the outcomes cannot be taken, so nothing of the transaction was done.").format(n=len(refused)),
            hint=_("Give the transaction up: its messages are no longer in these hands."),
            extra={"acks": [{"id": r.id, "code": r.problem_code} for _i, _k, r in refused[:100]]},
        )
        problem.errors = tuple(FieldError(f"/acks/{i}/acks/{k}", r.detail) for i, k, r in refused[:100])
        raise problem
    return results


def _send(cursor: psycopg.Cursor[Any], messages: Sequence[tuple[int, NewMessage]]) -> list[Accepted]:
    """As a batch of send, to many topics: claims of all, in order, then what is delayed, then the message lock for the rest."""
    results: list[Accepted | None] = [None] * len(messages)
    first_with: dict[tuple[int, str], int] = {}  # a producer's id that stands twice counts once
    for i, (topic, m) in enumerate(messages):
        if m.producer_id is not None:
            first_with.setdefault((topic, m.producer_id), i)
    by_topic: dict[int, list[int]] = {}
    for (topic, _id), i in first_with.items():
        by_topic.setdefault(topic, []).append(i)
    claims: dict[int, int] = {}
    for topic, places in sorted(by_topic.items()):
        claims[topic], repeated = claimed(cursor, topic, {str(messages[i][1].producer_id): at for at, i in enumerate(places)})
        for at, (prior, due) in repeated.items():
            results[places[at]] = Accepted(prior, "delayed" if due else "accepted", duplicate=True, deliver_at=due)
    new = [
        i
        for i, (topic, m) in enumerate(messages)
        if results[i] is None and (m.producer_id is None or first_with[topic, m.producer_id] == i)
    ]
    for topic in sorted({messages[i][0] for i in new}):
        delayed = [i for i in new if messages[i][0] == topic and messages[i][1].deliver_at is not None]
        if delayed:
            due_at = [messages[i][1].deliver_at for i in delayed]
            for i, message_id in zip(delayed, _ids(cursor, _DELAY, (topic, due_at, *_columns(messages, delayed))), strict=True):
                results[i] = Accepted(message_id, "delayed", deliver_at=messages[i][1].deliver_at)
    now = [i for i in new if messages[i][1].deliver_at is None]
    if now:
        topics = [messages[i][0] for i in now]
        for i, message_id in zip(now, _ids(cursor, _APPEND, (topics, *_columns(messages, now))), strict=True):
            results[i] = Accepted(message_id, "accepted")
    for topic, places in by_topic.items():
        found = [results[i] for i in places]
        cursor.execute(
            "SELECT mq_record_claim(%s::bigint, %s::bigint[], %s::timestamptz[])",
            (claims[topic], [r.id if r else None for r in found], [r.deliver_at if r else None for r in found]),
        )
    for i, (topic, m) in enumerate(messages):
        if results[i] is None and m.producer_id is not None:
            first = results[first_with[topic, m.producer_id]]
            assert first is not None
            results[i] = replace(first, duplicate=True)
    return [r for r in results if r is not None]


def _columns(messages: Sequence[tuple[int, NewMessage]], places: Sequence[int]) -> tuple[list[Any], ...]:
    rows = [messages[i][1] for i in places]
    return (
        [m.tag for m in rows],
        [m.key for m in rows],
        [m.sharding_key for m in rows],
        [headers_text(m.headers) for m in rows],
        [m.body for m in rows],
    )


def _ids(cursor: psycopg.Cursor[Any], sql: str, params: tuple[Any, ...]) -> list[int]:
    row = cursor.execute(sql, params, binary=True).fetchone()
    assert row is not None
    return list(row[0])


def _check_parts(messages: Sequence[tuple[int, NewMessage]], sends: Sequence[Send], acks: Sequence[Acks]) -> None:
    outcomes = sum(len(part.outcomes) for part in acks)
    if not messages and not outcomes:
        raise Problem("empty_transaction", _("There is nothing to do."), hint=_("Give messages to send, outcomes, or both."))
    if outcomes > 1000:
        hint = _("Send at most {n} acks at once.").format(n=1000)
        raise Problem("too_many_acks", _("{n} acks are too many.").format(n=outcomes), status=413, hint=hint)
    if messages:
        try:
            check([message for _topic, message in messages])
        except Problem as problem:  # the store counts through; the caller has a list of each topic
            places = [f"/sends/{i}/messages/{k}" for i, part in enumerate(sends) for k in range(len(part.messages))]
            problem.errors = tuple(_at_its_place(error, places) for error in problem.errors)
            raise


def _at_its_place(error: FieldError, places: Sequence[str]) -> FieldError:
    _root, _messages, number, *rest = error.pointer.split("/")
    return FieldError("/".join([places[int(number)], *rest]), error.detail)


def _check_text(name: str, value: str) -> None:
    if not 0 < len(value) <= MAX_TEXT or not storable(value):
        detail = _("“{name}” must have 1 to {n} characters that can be stored.").format(name=name, n=MAX_TEXT)
        raise Problem("invalid_text", detail, errors=[FieldError(f"/{name}", detail)])


def _digest(messages: Sequence[tuple[int, NewMessage]], acks: Sequence[Acks]) -> bytes:
    """Of what is asked for; when a delayed message is due may differ, since a delay is counted from each try."""
    sends = [
        [t, m.producer_id, m.key, m.tag, m.sharding_key, dict(m.headers), m.deliver_at is not None, hashlib.sha256(m.body).hexdigest()]
        for t, m in messages
    ]
    settles = [[a.group_id, a.lease, [[o.id, o.status, o.delay_ms, o.error] for o in a.outcomes]] for a in acks]
    return hashlib.sha256(json.dumps([sends, settles], sort_keys=True).encode()).digest()


def _dump(done: Committed) -> str:
    sends = [[[a.id, a.state, a.duplicate, _text(a.deliver_at)] for a in part] for part in done.sends]
    return json.dumps([sends, [[[s.id, s.status, _text(s.next_retry_at)] for s in part] for part in done.acks]])


def _load(result: str) -> Committed:
    sends, acks = json.loads(result)
    return Committed(
        [[Accepted(i, state, duplicate, _moment(due)) for i, state, duplicate, due in part] for part in sends],
        [[Settled(i, status, next_retry_at=_moment(retry)) for i, status, retry in part] for part in acks],
        duplicate=True,
    )


def _text(value: datetime | None) -> str | None:
    return value.isoformat() if value else None


def _moment(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
