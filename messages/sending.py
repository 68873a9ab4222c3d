"""Send: one append for every way in; a producer's own message id makes a retry harmless."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext as _

from core.approvals.models import State
from core.errors import FieldError, Problem
from core.tags import MAX_MESSAGE_TAGS, valid_tags
from messages import coalescing
from messages.db import brief_cursor, fetch, hot_cursor
from messages.types import Accepted, NewMessage, SeenTopic
from topics.models import Topic

MAX_DELAY = timedelta(days=3650)
PAST_TOLERANCE = timedelta(minutes=1)  # clocks of producers differ
MAX_TEXT = 255  # characters of a key, sharding key or producer's id
MAX_HEADER_BYTES = 32 * 1024
COPY_FROM = 20  # rows: below, one statement with arrays costs less than a COPY of its own
_ONE = "mq_send_one(%s::bigint, %s::text, %s::timestamptz, %s::text, %s::text, %s::text, %s::text, %s::bytea)"
_GROUP = "mq_send_group(%b::bigint[], %b::text[], %b::timestamptz[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[])"
# The same, of topics that somebody looked at before, if they are still so: the functions get their topics from a query that finds
# nothing otherwise, so they are not called at all. One statement, so nothing has to be looked up anew before each send.
_STILL = f"{Topic._meta.db_table} t WHERE t.state = '{State.ACTIVE}'"  # noqa: SLF001 - the model's own name of its table
_ONE_STILL = (
    f"SELECT id, due, duplicate FROM (SELECT t.id AS topic_id FROM {_STILL} AND t.id = %s::bigint AND t.application_id = %s::bigint"  # noqa: S608
    f" AND t.cluster_id = %s::bigint AND t.max_backlog = %s::bigint) seen, LATERAL {_ONE.replace('%s::bigint', 'seen.topic_id', 1)}"
)
_GROUP_STILL = (
    f"SELECT ids, due, duplicates FROM (SELECT %b::bigint[] AS topic_ids WHERE NOT EXISTS (SELECT FROM unnest(%b::bigint[], %b::bigint[],"  # noqa: S608
    f" %b::bigint[], %b::bigint[]) s(id, application, cluster, ceiling) WHERE NOT EXISTS (SELECT FROM {_STILL} AND t.id = s.id"
    " AND t.application_id = s.application AND t.cluster_id = s.cluster AND t.max_backlog = s.ceiling)) OFFSET 0) seen,"
    f" LATERAL {_GROUP.replace('%b::bigint[]', 'seen.topic_ids', 1)}"
)
_HALF: Mapping[str, Literal["half", "rolled_back"]] = {"O": "half", "U": "half", "R": "rolled_back"}
_COLUMNS = "topic_id, id, tag, key, skey, headers, body"


class TopicChangedError(Exception):
    """A topic is not any more as the sender saw it: nothing was stored."""


def send(*, topic_id: int, messages: Sequence[NewMessage]) -> list[Accepted]:
    """Store messages for good and return their ids in the order given; all or nothing, in one commit.

    Up to `MAX_BATCH_MESSAGES` messages of up to `MAX_MESSAGE_BYTES` each. A message whose `producer_id` was seen within a day is
    not stored again: its first result is returned. Must come last in a surrounding transaction: until its commit no consumer
    gets any later message. Single sends outside of transactions share a commit with those of other threads: see coalescing.py.
    Problems: empty_batch, batch_too_large, body_too_large, invalid_tag, invalid_text, invalid_headers, delay_out_of_range.
    """
    if len(messages) == 1:
        return [send_one(topic=topic_id, message=messages[0])]
    check(messages)
    with transaction.atomic(), hot_cursor() as cursor:
        results = _send_batch(cursor, topic_id, messages)
    return as_now(results) if any(r.duplicate for r in results) else results


def send_one(*, topic: coalescing.Topic, message: NewMessage) -> Accepted:
    """`send` of one message; raises TopicChangedError if the topic, given as somebody saw it, is not so any more."""
    check([message])
    result = (_send_one if connection.in_atomic_block else _coalescer.send)(topic, message)
    return as_now([result])[0] if result.duplicate else result


def as_now(results: Sequence[Accepted]) -> list[Accepted]:
    """The same, where a producer's id stands for a half message with what has become of that one."""
    sql = "SELECT id, state::text, message_id, deliver_at FROM mq_half WHERE id = ANY (%s::bigint[])"
    half = {r[0]: r[1:] for r in fetch(sql, ([r.id for r in results if r.duplicate],))}
    return [r if r.id not in half else _as_now(r, *half[r.id]) for r in results]


def _as_now(result: Accepted, state: str, message_id: int | None, deliver_at: datetime | None) -> Accepted:
    delayed = state == "C" and message_id is None
    return replace(result, state="delayed" if delayed else _HALF.get(state, "accepted"), deliver_at=deliver_at if delayed else None)


def _send_one(topic: coalescing.Topic, m: NewMessage) -> Accepted:
    params = (m.producer_id, m.deliver_at, m.tag, m.key, m.sharding_key, headers_text(m.headers), m.body)
    with brief_cursor() as cursor:
        if isinstance(topic, SeenTopic):
            cursor.execute(_ONE_STILL, (*topic, *params), binary=True)
        else:
            cursor.execute(f"SELECT id, due, duplicate FROM {_ONE}", (topic, *params), binary=True)  # noqa: S608 - our own text
        row = cursor.fetchone()
    if row is None:
        raise TopicChangedError
    return Accepted(row[0], "delayed" if row[1] else "accepted", row[2], row[1])


def _send_group(items: Sequence[coalescing.Item]) -> list[Accepted]:
    """Messages of many producers in one statement; raises UndoneError when Postgres refused it as a whole."""
    topics = [topic.topic_id if isinstance(topic, SeenTopic) else topic for topic, _m in items]
    seen = {topic for topic, _m in items if isinstance(topic, SeenTopic)}
    first_with: dict[tuple[int, str], int] = {}  # a producer's id that stands twice counts once
    for i, (_topic, m) in enumerate(items):
        if m.producer_id is not None:
            first_with.setdefault((topics[i], m.producer_id), i)
    places = [first_with[topics[i], m.producer_id] if m.producer_id is not None else i for i, (_topic, m) in enumerate(items)]
    kept = sorted(set(places))
    rows = [items[i][1] for i in kept]
    params = (
        [m.producer_id for m in rows] if first_with else None,
        [m.deliver_at for m in rows] if any(m.deliver_at is not None for m in rows) else None,
        [m.tag for m in rows],
        [m.key for m in rows],
        [m.sharding_key for m in rows],
        [headers_text(m.headers) for m in rows],
        [m.body for m in rows],
    )
    cursor: psycopg.Cursor[Any] | None = None
    try:
        with brief_cursor() as cursor:
            if seen:
                cursor.execute(_GROUP_STILL, ([topics[i] for i in kept], *map(list, zip(*seen, strict=True)), *params), binary=True)
            else:
                cursor.execute(f"SELECT ids, due, duplicates FROM {_GROUP}", ([topics[i] for i in kept], *params), binary=True)  # noqa: S608 - our own text
            found = cursor.fetchone()
    except DatabaseError as error:
        if cursor is None or cursor.connection.broken:
            raise  # whether it was stored is unknown
        raise coalescing.UndoneError from error
    if found is None:  # one of the topics has changed: alone, each hears of its own
        raise coalescing.UndoneError
    ids, due, duplicates = found
    due = due or [None] * len(ids)
    by_place = {place: Accepted(ids[i], "delayed" if due[i] else "accepted", duplicates[i], due[i]) for i, place in enumerate(kept)}
    return [by_place[place] if place == i else replace(by_place[place], duplicate=True) for i, place in enumerate(places)]


_coalescer = coalescing.Coalescer(one=_send_one, group=_send_group)


def _send_batch(cursor: psycopg.Cursor[Any], topic_id: int, messages: Sequence[NewMessage]) -> list[Accepted]:
    results: list[Accepted | None] = [None] * len(messages)
    first_with: dict[str, int] = {}  # a producer's id that stands twice in one batch counts once
    for i, m in enumerate(messages):
        if m.producer_id is not None:
            first_with.setdefault(m.producer_id, i)
    claim: int | None = None
    if first_with:
        claim, repeated = claimed(cursor, topic_id, first_with)
        for i, (prior, due) in repeated.items():
            results[i] = Accepted(prior, "delayed" if due else "accepted", duplicate=True, deliver_at=due)
    new = [i for i, m in enumerate(messages) if results[i] is None and (m.producer_id is None or first_with[m.producer_id] == i)]
    delayed = [i for i in new if messages[i].deliver_at is not None]
    if delayed:
        for i, message_id in zip(delayed, _insert(cursor, topic_id, [messages[i] for i in delayed], delayed=True), strict=True):
            results[i] = Accepted(message_id, "delayed", deliver_at=messages[i].deliver_at)
    now = [i for i in new if messages[i].deliver_at is None]
    if now:
        whole = claim if len(now) == len(messages) else None
        for i, message_id in zip(now, _insert(cursor, topic_id, [messages[i] for i in now], delayed=False, claim=whole), strict=True):
            results[i] = Accepted(message_id, "accepted")
    if claim is not None and new and not (len(now) == len(messages) >= COPY_FROM):
        ids = [r.id if r is not None else None for r in results]
        due_at = [m.deliver_at for m in messages] if delayed else None
        cursor.execute("SELECT mq_record_claim(%s::bigint, %s::bigint[], %s::timestamptz[])", (claim, ids, due_at))
    for i, m in enumerate(messages):
        if results[i] is None and m.producer_id is not None:
            first = results[first_with[m.producer_id]]
            assert first is not None
            results[i] = Accepted(first.id, first.state, duplicate=True, deliver_at=first.deliver_at)
    return [r for r in results if r is not None]


def claimed(cursor: psycopg.Cursor[Any], topic_id: int, place_of: Mapping[str, int]) -> tuple[int, dict[int, tuple[int, datetime | None]]]:
    """Claim producers' ids, before the message lock. Returns the claim and, by place, the first id and due time of what is a repetition."""
    ids = sorted(place_of)  # as the function wants them: two producers that retry the same batch must not deadlock
    places = [place_of[one] for one in ids]
    row = cursor.execute(
        "SELECT claim, prior_ids, prior_due FROM mq_claim_ids(%s::bigint, %s::text[], %s::int[])",
        (topic_id, ids, [place + 1 for place in places]),
        binary=True,
    ).fetchone()
    assert row is not None
    claim, prior_ids, prior_due = row
    found = zip(places, prior_ids, prior_due, strict=True) if prior_ids else ()
    return claim, {place: (prior, due) for place, prior, due in found if prior is not None}


def _insert(cursor: psycopg.Cursor[Any], topic_id: int, rows: list[NewMessage], *, delayed: bool, claim: int | None = None) -> list[int]:
    """Lock, draw ids, insert: by mq_append for a few, by COPY for many (which records the claim as well).

    Delayed ones wait in a table of their own.
    """
    ids: list[int]
    if delayed or len(rows) < COPY_FROM:
        arrays = (
            [m.tag for m in rows],
            [m.key for m in rows],
            [m.sharding_key for m in rows],
            [headers_text(m.headers) for m in rows],
            [m.body for m in rows],
        )
        if delayed:
            sql = "SELECT mq_delay(%s::bigint, %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])"
            found = cursor.execute(sql, (topic_id, [m.deliver_at for m in rows], *arrays), binary=True).fetchone()
        else:
            sql = "SELECT mq_append(%s::bigint, %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])"
            found = cursor.execute(sql, (topic_id, *arrays), binary=True).fetchone()
        assert found is not None
        ids = found[0]
        return ids
    if claim is None:
        found = cursor.execute("SELECT mq_draw_ids(%s::int)", (len(rows),), binary=True).fetchone()
    else:
        found = cursor.execute("SELECT mq_draw_ids(%s::int, %s::bigint)", (len(rows), claim), binary=True).fetchone()
    assert found is not None
    ids = found[0]
    with cursor.copy(f"COPY mq_message ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "int8", "text", "text", "text", "text", "bytea"])
        for message_id, m in zip(ids, rows, strict=True):
            copy.write_row((topic_id, message_id, m.tag, m.key, m.sharding_key, headers_text(m.headers), m.body))
    return ids


def headers_text(headers: Mapping[str, str]) -> str | None:
    """Headers as they are stored."""
    return json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")) if headers else None


def check_message(message: NewMessage) -> None:
    """Whether one message could be sent; what is wrong is pointed at as in a body of its own. Problems: those of `send`."""
    try:
        check([message])
    except Problem as problem:
        problem.errors = tuple(FieldError(error.pointer.removeprefix("/messages/0"), error.detail) for error in problem.errors)
        raise


def check(messages: Sequence[NewMessage]) -> None:
    """Refuse what cannot be stored. Problems: as send."""
    if not messages:
        raise Problem("empty_batch", _("There is no message to send."), hint=_("Give at least one message."))
    if len(messages) > settings.MAX_BATCH_MESSAGES:
        raise Problem(
            "batch_too_large",
            _("A batch of {n} messages is too large.").format(n=len(messages)),
            status=413,
            hint=_("Send at most {n} messages at once.").format(n=settings.MAX_BATCH_MESSAGES),
        )
    now, most = datetime.now(UTC), settings.MAX_MESSAGE_BYTES
    for i, m in enumerate(messages):
        if len(m.body) > most:
            detail = _("The body has {n} bytes.").format(n=len(m.body))
            hint = _("A body may have {n} bytes; keep bigger things elsewhere and send a reference.").format(n=most)
            raise Problem("body_too_large", detail, status=413, hint=hint, errors=[_at(i, "body", detail)])
        if m.tag and not valid_tags(m.tag):
            detail = _("“{tag}” is not a valid tag.").format(tag=m.tag[:140])
            raise Problem(
                "invalid_tag",
                detail,
                hint=_("Use 1 to 120 letters, digits and the signs _ . % : @ / + = -; at most {n} tags with || between them.").format(
                    n=MAX_MESSAGE_TAGS
                ),
                errors=[_at(i, "tag", detail)],
            )
        if m.key is not None:
            _check_text(i, "key", m.key)
        if m.sharding_key is not None:
            _check_text(i, "sharding_key", m.sharding_key)
        if m.producer_id is not None:
            _check_text(i, "id", m.producer_id)
        if m.headers:
            _check_headers(i, m.headers)
        if m.deliver_at is not None and not now - PAST_TOLERANCE <= _aware(i, m.deliver_at) <= now + MAX_DELAY:
            raise delay_out_of_range(f"/messages/{i}/deliver_at")


def _check_text(i: int, name: str, value: str) -> None:
    if not 0 < len(value) <= MAX_TEXT:
        detail = _("“{name}” must have 1 to {n} characters.").format(name=name, n=MAX_TEXT)
        raise Problem("invalid_text", detail, errors=[_at(i, name, detail)])
    if not storable(value):
        detail = _("“{name}” has a character that cannot be stored.").format(name=name)
        raise Problem("invalid_text", detail, errors=[_at(i, name, detail)])


def _check_headers(i: int, headers: Mapping[str, str]) -> None:
    ok = all(isinstance(k, str) and isinstance(v, str) and k and storable(k) and storable(v) for k, v in headers.items())
    if not ok or sum(len(k) + len(v) for k, v in headers.items()) > MAX_HEADER_BYTES:
        detail = _("Headers are names and values, both text, of at most {n} characters together.").format(n=MAX_HEADER_BYTES)
        raise Problem("invalid_headers", detail, errors=[_at(i, "headers", detail)])


def delay_out_of_range(pointer: str) -> Problem:
    """The problem of a delivery time that has passed or lies beyond ten years."""
    detail = _("The delivery time has passed or lies more than ten years ahead.")
    return Problem(
        "delay_out_of_range",
        detail,
        hint=_("Give a time from now on, with its time zone, or a delay in milliseconds."),
        errors=[FieldError(pointer, detail)],
    )


def _aware(i: int, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise delay_out_of_range(f"/messages/{i}/deliver_at")
    return value


def storable(text: str) -> bool:
    """Whether it can be stored: Postgres takes neither NUL nor lone surrogates."""
    if text.isascii():  # nearly always, and no copy is needed
        return "\x00" not in text
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def _at(i: int, name: str, detail: str) -> FieldError:
    return FieldError(f"/messages/{i}/{name}", detail)
