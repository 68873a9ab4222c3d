"""Retention: letting go what topics keep no longer, and who needs which partition of the store."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import structlog
from django.db import DatabaseError, connection, transaction

from messages.broadcast import owners
from messages.db import fetch
from messages.names import group_names, topic_name, topic_names
from messages.storekeeper import KEEP
from messages.types import STATUS_WORDS, Status

log = structlog.get_logger(__name__)

TOPICS = 500  # looked at in a call, those first that were not looked at for longest
EVERY = "10 s"  # at most, for each topic
SHOWN = 50  # groups and topics that are named, of each partition and of a topic
State = Literal["ahead", "current", "behind"]


def retain(*, every: str = EVERY) -> int:
    """Move the floors of topics by their rules; returns how many topics had messages skipped.

    A topic for which it fails holds up no other: it is logged and tried again at the next call.
    """
    moved = 0
    for (topic_id,) in fetch("SELECT * FROM mq_retention_turn(%s::int, %s::interval)", (TOPICS, every)):
        try:
            if not fetch("SELECT mq_retention_look(%s::bigint)", (topic_id,))[0][0]:
                continue
            for (group_id,) in fetch("SELECT * FROM mq_retention_late(%s::bigint)", (topic_id,)):
                moved += fetch("SELECT mq_retention_pass(%s::bigint, %s::bigint)", (group_id, topic_id))[0][0] > 0
            fetch("SELECT mq_retention_arrive(%s::bigint)", (topic_id,))
        except DatabaseError:
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("retention_not_enforced", topic_id=topic_id)
    return moved


@dataclass(frozen=True, slots=True)
class Holder:
    """A group, or an instance of a broadcast group, for which messages of a topic wait; since when the oldest of them does."""

    group_id: int
    group: str
    instance: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a topic. `floor`: everything at or below this id is gone by the topic's rule; 0: nothing is.

    `earliest_id`: a rewind may go back to it; `oldest_at`: when the oldest message that is there was sent, None for none. `messages` and
    `bytes` are None when the topic is not counted: it has never had a group nor a rule. `bytes` is an estimate from samples.
    """

    floor: int
    earliest_id: int
    earliest_at: datetime
    oldest_at: datetime | None
    messages: int | None
    bytes: int | None
    holders: list[Holder]
    holders_total: int


def retention(*, topic_id: int) -> Kept:
    """What is kept of a topic, and which groups hold its messages."""
    floor, first, earliest_at, oldest_at, counted = fetch(
        """
        SELECT x.floor_id, x.first, mq_time_of(x.first + 1),
               (SELECT m.sent_at FROM mq_message m WHERE m.topic_id = x.id AND m.id > x.floor_id ORDER BY m.id LIMIT 1),
               EXISTS (SELECT FROM mq_topic t WHERE t.topic_id = x.id)
          FROM (SELECT i.id, mq_floor(i.id) AS floor_id, mq_first_position(i.id) AS first FROM (SELECT %s::bigint AS id) i) x
        """,
        (topic_id,),
    )[0]
    messages = size = None
    if counted:
        messages, size = fetch(
            "SELECT coalesce(sum(messages), 0)::bigint, coalesce(sum(bytes), 0)::bigint"
            " FROM mq_horizon h, mq_sizes(%s::bigint, %s::bigint, h.closed_id)",
            (topic_id, floor),
        )[0]
    rows = fetch(
        """
        SELECT c.group_id, f.sent_at, count(*) OVER () FROM mq_cursor c CROSS JOIN LATERAL (
          SELECT m.id, m.sent_at FROM mq_message m
           WHERE m.topic_id = c.topic_id AND m.id > c.pos AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)) ORDER BY m.id LIMIT 1) f
         WHERE c.topic_id = %s::bigint AND c.active ORDER BY f.id, c.group_id LIMIT %s::int
        """,
        (topic_id, SHOWN),
    )
    names, owned = group_names(r[0] for r in rows), owners(r[0] for r in rows)
    holders = [Holder(owned.get(g, (g, None))[0], names[g], owned.get(g, (g, None))[1], since) for g, since, _total in rows]
    return Kept(floor, first + 1, earliest_at, oldest_at, messages, size, holders, rows[0][2] if rows else 0)


@dataclass(frozen=True, slots=True)
class GroupNeed:
    """How many messages of a partition a group, or an instance of a broadcast group, needs, in which status."""

    group_id: int
    group: str
    instance: str | None
    topic: str
    status: Status
    messages: int


@dataclass(frozen=True, slots=True)
class TopicNeed:
    """Until when a topic keeps what it has in a partition; of delayed messages: no time, until they are delivered."""

    topic: str
    until: datetime | None


@dataclass(slots=True)
class Partition:
    """A partition of the log with its history, or of the delayed messages.

    `rows` is Postgres's own estimate, None as long as it has none. Of the groups and topics that need it the first are listed. `others`: so
    many topics without an age of their own keep it, all to the same time, `others_until`; None: not known, as long as a group needs it.
    `can_go_at`: when it may be dropped if nothing changes, None: nobody knows; `after`: the older one that has to go before.
    """

    name: str
    kind: Literal["log", "delayed"]
    begins_at: datetime
    ends_at: datetime
    bytes: int
    rows: int | None
    state: State
    groups: list[GroupNeed] = field(default_factory=list)
    groups_total: int = 0
    topics: list[TopicNeed] = field(default_factory=list)
    topics_total: int = 0
    others: int = 0
    others_until: datetime | None = None
    can_go_at: datetime | None = None
    after: str | None = None


def partitions() -> list[Partition]:
    """All partitions of the log, then of the delayed messages, oldest first. A fixed number of statements."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE mq_message, mq_delayed IN ACCESS SHARE MODE")  # none of them is dropped while we look
        return [*_log(), *_delayed()]


def _log() -> list[Partition]:
    rows = fetch(
        """
        SELECT p.lo::bigint, p.hi::bigint, p.partition::text, mq_time_of(p.lo::bigint), mq_time_of(p.hi::bigint),
               (coalesce(pg_total_relation_size(p.partition), 0) + coalesce(pg_total_relation_size(y.partition), 0))::bigint,
               c.reltuples::bigint,
               CASE WHEN p.lo::bigint > s.last_value THEN 'ahead' WHEN p.hi::bigint <= h.closed_id + 1 THEN 'behind' ELSE 'current' END
          FROM mq_horizon h, mq_id_seq s, mq_partitions('mq_message') p JOIN pg_class c ON c.oid = p.partition
          JOIN pg_inherits i ON i.inhrelid = p.partition AND NOT i.inhdetachpending
          LEFT JOIN mq_partitions('mq_history') y ON y.lo = p.lo AND y.hi = p.hi ORDER BY 1
        """
    )
    found = {r[0]: Partition(r[2], "log", r[3], r[4], r[5], r[6] if r[6] >= 0 else None, r[7]) for r in rows}
    behind = [(r[0], r[1]) for r in rows if r[7] == "behind"]
    bounds = ([lo for lo, _hi in behind], [hi for _lo, hi in behind])
    _add_groups(found, bounds)
    _add_topics(found, bounds)
    _say_when([found[lo] for lo in bounds[0]])
    return list(found.values())


def _add_groups(found: dict[int, Partition], bounds: tuple[list[int], list[int]]) -> None:
    rows = fetch(
        """
        SELECT p.lo, n.group_id, coalesce(v.of_topic_id, n.topic_id), n.status, n.messages, n.total
          FROM unnest(%s::bigint[], %s::bigint[]) p (lo, hi) CROSS JOIN LATERAL (
            SELECT x.*, count(*) OVER () AS total FROM mq_needed_by(p.lo, p.hi) x
             ORDER BY x.messages DESC, x.group_id, x.topic_id LIMIT %s::int) n
          LEFT JOIN mq_private v ON v.topic_id = n.topic_id
        """,
        (*bounds, SHOWN),
    )
    topic_names(r[2] for r in rows)
    names, owned = group_names({r[1] for r in rows}), owners({r[1] for r in rows})
    for lo, store_id, topic_id, letter, messages, total in rows:
        group_id, instance = owned.get(store_id, (store_id, None))
        found[lo].groups_total = total
        found[lo].groups.append(GroupNeed(group_id, names[store_id], instance, topic_name(topic_id), STATUS_WORDS[letter], messages))


def _add_topics(found: dict[int, Partition], bounds: tuple[list[int], list[int]]) -> None:
    rows = fetch(
        """
        SELECT p.lo, t.* FROM unnest(%s::bigint[], %s::bigint[]) p (lo, hi) CROSS JOIN LATERAL (
          WITH n AS MATERIALIZED (SELECT * FROM mq_needed_by_topics(p.lo, p.hi, %s::interval)),
          own AS (SELECT * FROM n WHERE n.own ORDER BY n.until DESC, n.topic_id LIMIT %s::int)
          SELECT (SELECT count(*) FROM n WHERE n.own), ARRAY(SELECT topic_id FROM own), ARRAY(SELECT until FROM own),
                 (SELECT count(*) FROM n WHERE NOT n.own), (SELECT max(until) FROM n WHERE NOT n.own)) t
        """,
        (*bounds, KEEP, SHOWN),
    )
    topic_names(topic_id for r in rows for topic_id in r[2])
    for lo, total, topic_ids, untils, others, others_until in rows:
        one = found[lo]
        one.topics_total, one.others, one.others_until = total, others, others_until
        one.topics = [TopicNeed(topic_name(topic_id), until) for topic_id, until in zip(topic_ids, untils, strict=True)]


def _say_when(behind: Sequence[Partition]) -> None:
    """Always the oldest goes first."""
    now, blocked = datetime.now(UTC), None
    latest: datetime | None = None
    for before, one in zip((None, *behind), behind, strict=False):
        own = one.topics[0].until if one.topics else None
        if one.groups_total or (one.others and one.others_until is None):
            blocked = blocked or one.name
        if blocked is not None:
            one.after = blocked if blocked != one.name else None
            continue
        own_latest = max(filter(None, (own, one.others_until)), default=now)
        one.after = before.name if before is not None and latest is not None and latest > own_latest else None
        latest = one.can_go_at = max(filter(None, (own_latest, latest)))


def _delayed() -> list[Partition]:
    rows: list[Any] = fetch(
        """
        SELECT p.partition::text, p.lo::timestamptz, p.hi::timestamptz, coalesce(pg_total_relation_size(p.partition), 0)::bigint,
               c.reltuples::bigint, CASE WHEN p.lo::timestamptz > clock_timestamp() THEN 'ahead'
                                         WHEN p.hi::timestamptz < clock_timestamp() THEN 'behind' ELSE 'current' END, t.total, t.shown
          FROM mq_partitions('mq_delayed') p JOIN pg_class c ON c.oid = p.partition
          JOIN pg_inherits i ON i.inhrelid = p.partition AND NOT i.inhdetachpending
         CROSS JOIN LATERAL (WITH n AS MATERIALIZED (SELECT * FROM mq_topics_in(p.partition) n (topic_id))
           SELECT (SELECT count(*) FROM n) AS total, ARRAY(SELECT topic_id FROM n ORDER BY 1 LIMIT %s::int) AS shown) t ORDER BY 2
        """,
        (SHOWN,),
    )
    topic_names(topic_id for r in rows for topic_id in r[7])
    found = []
    for name, begins, ends, size, tuples, state, total, shown in rows:
        one = Partition(name, "delayed", begins, ends, size, tuples if tuples >= 0 else None, state, topics_total=total)
        one.topics = [TopicNeed(topic_name(topic_id), None) for topic_id in shown]
        if state == "behind" and not total:
            one.can_go_at = max(ends + timedelta(days=7), datetime.now(UTC))
        found.append(one)
    return found
