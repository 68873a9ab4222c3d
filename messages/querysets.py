"""Reads of the store: counts, lag, messages and their status, search, dead letters, delayed messages. Bounded, set-based."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.utils.translation import gettext as _

from core.errors import Problem, not_found
from messages.broadcast import owners
from messages.db import fetch
from messages.names import group_names, topic_name, topic_names, topic_of
from messages.types import (
    NO_HEADERS,
    STATUS_WORDS,
    Cause,
    Causes,
    Counts,
    DeadFilter,
    DeadLetter,
    DelayedFilter,
    GroupStatus,
    Lag,
    Page,
    StoredMessage,
    StoreHealth,
)

MAX_PAGE = 500
CAUSES_OF = 50_000  # newest dead letters that causes are told of
SCAN = 5000  # rows that one page of a search looks at; the page then says where to go on
_MESSAGE = "m.id, m.topic_id, m.key, m.tag, m.skey, m.headers, m.body, octet_length(m.body), m.sent_at, m.origin_id, NULL::timestamptz"
_DELAYED = "d.id, d.topic_id, d.key, d.tag, d.skey, d.headers, d.body, octet_length(d.body), d.sent_at, NULL::bigint, d.deliver_at"
_HALF = "h.id, h.topic_id, h.key, h.tag, h.skey, h.headers, h.body, octet_length(h.body), h.prepared_at, NULL::bigint, h.deliver_at"

_FIND = (
    # the function in a CTE of its own: in the condition the planner would call it once more for its estimate
    f"WITH x AS MATERIALIZED (SELECT mq_topic_of(%(id)s::bigint) AS topic_id) SELECT {_MESSAGE}"  # noqa: ISC004, S608 - one statement
    " FROM x JOIN mq_message m ON m.topic_id = x.topic_id WHERE m.id = %(id)s::bigint AND mq_visible(m.topic_id, m.id, m.tag)",
    # in the order of its life, so that one that moves on meanwhile is found where it is then
    f"SELECT {_HALF} FROM mq_half h WHERE h.id = %(id)s::bigint AND h.state IN ('O', 'U')",  # noqa: S608
    f"SELECT {_DELAYED} FROM mq_delayed d WHERE d.id = %(id)s::bigint",  # noqa: S608
    # promoted or committed: its place in the log is above the id that the producer got
    f"SELECT {_MESSAGE} FROM mq_message m"  # noqa: ISC004, S608 - one statement
    " WHERE m.origin_id = %(id)s::bigint AND m.id > %(id)s::bigint AND mq_visible(m.topic_id, m.id, m.tag)",
)


def counts(*, group_ids: Sequence[int]) -> dict[int, Counts]:
    """Exact counts per status of many groups, in one statement; of a broadcast group those of all its instances together."""
    return {group_id: Counts(group_id, *values) for group_id, values in _summed(_COUNT_ROWS, group_ids).items()}


def counts_by_topic(*, group_id: int) -> dict[int, Counts]:
    """Exact counts per status of one group, by topic id."""
    rows = fetch(f"{_COUNT_ROWS} ORDER BY 2", ([group_id],))
    topic_names(r[1] for r in rows)  # who shows them names them
    found: dict[int, tuple[int, ...]] = {}
    for r in sorted(rows, key=lambda row: abs(row[1])):  # what lies in a private topic counts with its own
        found[topic_of(r[1])] = tuple(a + b for a, b in zip(found.get(topic_of(r[1]), (0,) * 7), r[2:9], strict=True))
    return {topic_id: Counts(group_id, *values) for topic_id, values in found.items()}


_COUNT_ROWS = (
    "SELECT c.group_id, c.topic_id, c.waiting, c.processing, c.succeeded, c.later, c.dead, c.failed, c.skipped, i.group_id"
    " FROM mq_counts(mq_members(%s::bigint[])) c LEFT JOIN mq_instance i ON i.instance_id = c.group_id"
)


def _summed(sql: str, group_ids: Sequence[int]) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = dict.fromkeys(group_ids, (0, 0, 0, 0, 0, 0, 0))
    for row in fetch(sql, (list(group_ids),)):
        key = row[0] if row[0] in found else row[9]  # an instance that was not asked for itself counts with its group
        found[key] = tuple(a + b for a, b in zip(found[key], row[2:9], strict=True))
    return found


def lag(*, group_ids: Sequence[int]) -> dict[int, Lag]:
    """Messages that wait, and the age in seconds of the oldest of them, of many groups in one statement.

    Of a broadcast group: of the instance for which most wait, and the age of the oldest that waits for any.
    """
    return {group_id: Lag(group_id) for group_id in group_ids} | behind(group_ids=group_ids)


def behind(*, group_ids: Sequence[int]) -> dict[int, Lag]:
    """The same of those groups only for which something waits: few, even among ten thousand."""
    rows = fetch(_BEHIND, (list(group_ids),))
    now, asked = datetime.now(UTC), set(group_ids)
    found: dict[int, Lag] = {}
    for store_id, waiting, oldest, owner in rows:
        group_id = store_id if store_id in asked else owner
        worst, seconds = found.get(group_id, Lag(group_id)), max(0.0, (now - oldest).total_seconds())
        found[group_id] = Lag(group_id, max(worst.messages, waiting), max(worst.seconds, seconds))
    return found


_BEHIND = (
    "SELECT l.group_id, sum(l.messages)::bigint, min(l.oldest), i.group_id FROM mq_lag(mq_members(%s::bigint[])) l"
    " LEFT JOIN mq_instance i ON i.instance_id = l.group_id GROUP BY 1, 4"
)


def lag_by_topic(*, group_id: int) -> dict[int, float]:
    """The age in seconds of the oldest message that waits, of each topic for which one does."""
    now = datetime.now(UTC)
    rows = fetch("SELECT topic_id, min(oldest) FROM mq_lag(mq_members(%s::bigint[])) GROUP BY 1", ([group_id],))
    return {topic_id: max(0.0, (now - oldest).total_seconds()) for topic_id, oldest in rows}


def totals(*, group_ids: Sequence[int]) -> dict[str, int]:
    """What many groups have in hand, done, to retry and given up, in all, and `dead_groups`: in how many of them messages are dead."""
    keys = ("processing", "succeeded", "later", "dead", "dead_groups")
    rows = fetch(
        """
        SELECT coalesce(sum(processing), 0)::bigint, coalesce(sum(succeeded), 0)::bigint, coalesce(sum(later), 0)::bigint,
               coalesce(sum(dead), 0)::bigint, count(DISTINCT coalesce(i.group_id, c.group_id)) FILTER (WHERE dead > 0)
          FROM mq_cursor c LEFT JOIN mq_instance i ON i.instance_id = c.group_id
         WHERE c.group_id IN (SELECT unnest(mq_members(%s::bigint[])))
        """,
        (list(group_ids),),
    )
    return dict(zip(keys, rows[0], strict=True))


def most_dead(*, group_ids: Sequence[int], limit: int) -> dict[int, int]:
    """The groups with most dead letters, and how many; those without any are left out."""
    sql = (
        "SELECT coalesce(i.group_id, c.group_id), sum(c.dead)::bigint FROM mq_cursor c"
        " LEFT JOIN mq_instance i ON i.instance_id = c.group_id"
        " WHERE c.dead > 0 AND c.group_id IN (SELECT unnest(mq_members(%s::bigint[]))) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s::int"
    )
    return dict(fetch(sql, (list(group_ids), limit)))


def message(*, message_id: int) -> StoredMessage:
    """A message with its body, by its id or by the id that the producer of a delayed or half message got. Problem: not_found."""
    found = _find(message_id)
    if found is None:
        raise not_found(_("message"), message_id)
    return found


def message_status(*, message_id: int) -> list[GroupStatus]:
    """The status of one message in every group of its topic, in a broadcast one in every instance.

    None as long as it is delayed or half. Problem: not_found.
    """
    found = message(message_id=message_id)
    if found.state != "accepted":
        return []
    rows = fetch("SELECT * FROM mq_status(%s::bigint, %s::bigint)", (found.topic_id, found.id))
    owned = owners(r[0] for r in rows)
    names = group_names(r[0] for r in rows)
    told = []
    for r in rows:
        group_id, instance = owned.get(r[0], (r[0], None))
        if group_id > 0:  # of an instance that was given up the rows go in steps
            told.append(
                GroupStatus(
                    group_id, names[r[0]], STATUS_WORDS[r[1]], r[2], r[3], r[4], r[5], r[6], r[7], r[8], instance=instance, store_id=r[0]
                )
            )
    return sorted(told, key=lambda s: (s.group_id, s.instance or ""))


def _find(message_id: int) -> StoredMessage | None:
    if not 0 < message_id < 2**63:
        return None
    for i, sql in enumerate(_FIND):
        rows = fetch(sql, {"id": message_id})
        if rows:
            return _stored(rows[0], half=i == 1)
    return None


def _stored(r: Any, *, with_body: bool = True, half: bool = False) -> StoredMessage:
    return StoredMessage(
        id=r[0],
        topic_id=r[1],
        topic=topic_name(r[1]),
        state="half" if half else "delayed" if r[10] else "accepted",
        key=r[2],
        tag=r[3],
        sharding_key=r[4],
        headers=json.loads(r[5]) if r[5] else NO_HEADERS,
        body=r[6] if with_body else b"",
        body_bytes=r[7],
        sent_at=r[8],
        origin_id=r[9],
        deliver_at=r[10],
    )


def search(
    *,
    topic_id: int,
    sent_from: datetime | None = None,
    sent_to: datetime | None = None,
    message_id: int | None = None,
    key: str | None = None,
    tag: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[StoredMessage]:
    """Messages of a topic, newest first, without bodies; what is None matches all.

    Looks at a bounded number of messages per page: a page may hold fewer than `limit`, even none, and still go on at `next`.
    """
    limit = page_size(limit)
    if message_id is not None:
        found = _find(message_id)
        return Page([found] if found is not None and topic_of(found.topic_id) == topic_id else [])
    # An id may lag behind the clock (no ticker ran) but is never ahead of it: `to` bounds the ids, `from` is seen in the rows.
    upper = int_cursor(cursor) or 2**63 - 1
    params = {"topic": topic_id, "upper": upper, "from": sent_from, "to": sent_to, "key": key, "tag": tag, "scan": SCAN, "limit": limit}
    rows = fetch(
        f"""
        WITH seen AS MATERIALIZED (
          SELECT m.* FROM mq_message m
           WHERE m.topic_id = %(topic)s::bigint AND m.id < %(upper)s::bigint AND m.id > (SELECT mq_floor(%(topic)s::bigint))
             AND m.id <= coalesce(mq_id_at(%(to)s::timestamptz + interval '5 s'), 9223372036854775807)
             {"AND m.key = %(key)s::text" if key is not None else ""}
           ORDER BY m.id DESC LIMIT %(scan)s::int),
        hits AS (
          SELECT m.* FROM seen m
           WHERE (%(from)s::timestamptz IS NULL OR m.sent_at >= %(from)s::timestamptz)
             AND (%(to)s::timestamptz IS NULL OR m.sent_at <= %(to)s::timestamptz)
             AND (%(key)s::text IS NULL OR m.key = %(key)s::text) AND (%(tag)s::text IS NULL OR mq_tagged(m.tag, %(tag)s::text))
           ORDER BY m.id DESC LIMIT %(limit)s::int)
        SELECT m.id, m.topic_id, m.key, m.tag, m.skey, m.headers, ''::bytea, octet_length(m.body), m.sent_at, m.origin_id,
               NULL::timestamptz, NULL::bigint FROM hits m
        UNION ALL
        SELECT min(id), count(*), NULL, NULL, NULL, NULL, NULL, NULL, min(sent_at), NULL, NULL, -1 FROM seen
        """,  # noqa: S608 - only the choice between two constants
        params,
    )
    hits = sorted((r for r in rows if r[11] is None), key=lambda r: -r[0])
    last, scanned, oldest = next(((r[0], r[1], r[8]) for r in rows if r[11] == -1), (None, 0, None))
    if len(hits) == limit:
        go_on: int | None = hits[-1][0]
    elif scanned == SCAN and (sent_from is None or oldest is None or oldest >= sent_from):
        go_on = last
    else:
        go_on = None
    return Page([_stored(r, with_body=False) for r in hits], None if go_on is None else str(go_on))


DELAYED_WHERE = """
  (%(topic_id)s::bigint IS NULL OR d.topic_id = %(topic_id)s::bigint)
  AND (%(topic_ids)s::bigint[] IS NULL OR d.topic_id = ANY (%(topic_ids)s::bigint[]))
  AND d.deliver_at >= coalesce(%(due_from)s::timestamptz, '-infinity') AND d.deliver_at <= coalesce(%(due_to)s::timestamptz, 'infinity')
  AND (%(key)s::text IS NULL OR d.key = %(key)s::text) AND (%(tag)s::text IS NULL OR mq_tagged(d.tag, %(tag)s::text))
  AND (%(sent_to)s::timestamptz IS NULL OR d.sent_at <= %(sent_to)s::timestamptz)
"""


def delayed_messages(
    *, only: DelayedFilter | None = None, topic_ids: Sequence[int] | None = None, limit: int = 50, cursor: str | None = None
) -> Page[StoredMessage]:
    """Delayed messages that match, next due first, without bodies; `topic_ids`: only of these topics."""
    limit = page_size(limit)
    after_at, after_id = _pair_cursor(cursor)
    rows = fetch(
        f"""
        SELECT d.id, d.topic_id, d.key, d.tag, d.skey, d.headers, ''::bytea, octet_length(d.body), d.sent_at, NULL::bigint, d.deliver_at
          FROM mq_delayed d
         WHERE {DELAYED_WHERE}
           AND (%(after_at)s::timestamptz IS NULL OR (d.deliver_at, d.id) > (%(after_at)s::timestamptz, %(after_id)s::bigint))
         ORDER BY d.deliver_at, d.id LIMIT %(limit)s::int
        """,  # noqa: S608 - a constant
        {
            **asdict(only or DelayedFilter()),
            "topic_ids": None if topic_ids is None else list(topic_ids),
            "after_at": after_at,
            "after_id": after_id,
            "limit": limit + 1,
        },
    )
    topic_names(r[1] for r in rows)
    items = [_stored(r) for r in rows[:limit]]
    return Page(items, f"{items[-1].deliver_at.isoformat()}_{items[-1].id}" if len(rows) > limit and items[-1].deliver_at else None)


#: OFFSET 0 keeps the message a lookup by its key: left to choose, the planner reads the whole log beside ten thousand dead letters.
DEAD_FROM = """
  mq_exception e CROSS JOIN LATERAL (SELECT m.* FROM mq_message m WHERE m.topic_id = e.topic_id AND m.id = e.msg_id OFFSET 0) m
"""
DEAD_WHERE = """
  e.group_id = %(group)s::bigint AND e.status = 'D'
  AND (%(topic_id)s::bigint IS NULL OR e.topic_id = %(topic_id)s::bigint
       OR e.topic_id = (SELECT p.topic_id FROM mq_private p WHERE p.group_id = %(group)s::bigint AND p.of_topic_id = %(topic_id)s::bigint))
  AND (%(reason_contains)s::text IS NULL OR strpos(lower(coalesce(e.error, '')), lower(%(reason_contains)s::text)) > 0)
  AND (%(cause)s::text IS NULL OR mq_reason(e.error) = %(cause)s::text)
  AND (%(failed_from)s::timestamptz IS NULL OR e.last_at >= %(failed_from)s::timestamptz)
  AND (%(failed_to)s::timestamptz IS NULL OR e.last_at <= %(failed_to)s::timestamptz)
  AND (%(tag)s::text IS NULL OR mq_tagged(m.tag, %(tag)s::text))
  AND (%(key)s::text IS NULL OR m.key = %(key)s::text)
"""


def dead_letters(*, group_id: int, only: DeadFilter | None = None, limit: int = 50, cursor: str | None = None) -> Page[DeadLetter]:
    """Dead letters of a group, newest message first; bodies by `message`."""
    limit = page_size(limit)
    rows = fetch(
        f"""
        SELECT e.msg_id, e.group_id, e.topic_id, m.key, m.tag, octet_length(m.body), m.sent_at, e.attempts, e.redrives,
               coalesce(e.error, ''), e.first_at, e.last_at, e.consumer
          FROM {DEAD_FROM}
         WHERE {DEAD_WHERE} AND e.msg_id < %(upper)s::bigint ORDER BY e.msg_id DESC LIMIT %(limit)s::int
        """,  # noqa: S608 - a constant
        {**asdict(only or DeadFilter()), "group": group_id, "upper": int_cursor(cursor) or 2**63 - 1, "limit": limit + 1},
    )
    topic_names(r[2] for r in rows)
    items = [DeadLetter(r[0], r[1], r[2], topic_name(r[2]), *r[3:]) for r in rows[:limit]]
    return Page(items, str(items[-1].id) if len(rows) > limit else None)


def dead_causes(*, group_id: int, most: int = CAUSES_OF) -> Causes:
    """Why the newest dead letters of a group, 50,000 if not told otherwise, have died, and when."""
    rows = fetch("SELECT * FROM mq_dead_causes(%s::bigint, %s::int)", (group_id, most + 1))
    looked_at = sum(row[2] for row in rows)
    return Causes(
        items=[Cause(*row[:5]) for row in rows],
        looked_at=looked_at,
        complete=looked_at <= most,
        in_hour=sum(row[5] for row in rows),
        in_day=sum(row[6] for row in rows),
        in_week=sum(row[7] for row in rows),
        oldest=min((row[3] for row in rows), default=None),
    )


def health() -> StoreHealth:
    """What readiness and the overview need to know of the store, in one statement."""
    row = fetch(
        """
        SELECT (SELECT extract(epoch FROM clock_timestamp() - k.beat_at)::float8 FROM mq_storekeeper k),
               extract(epoch FROM clock_timestamp() - h.at)::float8, greatest((s.last_value - h.closed_id) >> 20, 0)::float8,
               h.closed_id, s.last_value,
               coalesce(h.refused_at > clock_timestamp() - interval '1 minute', false),
               extract(epoch FROM mq_time_of(h.partitioned_to) - clock_timestamp())::float8 / 86400
          FROM mq_horizon h, mq_id_seq s
        """
    )[0]
    return StoreHealth(*row)


def page_size(limit: int) -> int:
    """The limit of a page, checked. Problem: invalid_limit."""
    if not 1 <= limit <= MAX_PAGE:
        raise Problem("invalid_limit", _("A page has 1 to {n} items.").format(n=MAX_PAGE))
    return limit


def int_cursor(cursor: str | None) -> int | None:
    """A cursor that is an id. Problem: invalid_cursor."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit()) or int(cursor) >= 2**63:
        raise bad_cursor()
    return int(cursor)


def _pair_cursor(cursor: str | None) -> tuple[datetime | None, int | None]:
    if cursor is None:
        return None, None
    at, _sep, last = cursor.rpartition("_")
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise bad_cursor() from None
    number = int_cursor(last)
    if moment.tzinfo is None:
        raise bad_cursor()
    return moment, number


def bad_cursor() -> Problem:
    """The problem of a cursor that none of our pages gave out."""
    return Problem("invalid_cursor", _("This cursor is not one of ours."), hint=_("Begin again without a cursor."))
