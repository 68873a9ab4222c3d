"""The built-in cluster: the message store in Postgres, spoken to through its SQL functions so that no lower room imports messages.

Every verb runs in the caller's transaction: the metadata of a group and the store's own row of it change together. The group's row
is locked first, so a verb waits for a pull in flight (milliseconds) and a pull for the caller's commit: change the store last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django.db import connection

from core import tags

ConsumeFrom = Literal["earliest", "latest"]
Ordering = Literal["none", "key", "topic"]
ORDERINGS: tuple[Ordering, ...] = ("none", "key", "topic")


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a topic still holds for the group that is furthest behind, its delayed messages, and those prepared and not decided."""

    waiting: int
    processing: int
    later: int
    delayed: int
    half: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost with the topic."""
        return not (self.waiting or self.processing or self.later or self.delayed or self.half)


def create_group(*, group_id: int, max_attempts: int, backoff_ms: Sequence[int], suspended: bool = False) -> None:
    """Make the group known to the store. `backoff_ms`: the wait before the 2nd, 3rd, … try; the last one holds from there on."""
    if max_attempts < 1 or not backoff_ms or min(backoff_ms) < 0:
        raise ValueError("max_attempts must be at least 1 and backoff_ms must hold at least one wait that is not negative")
    _call("SELECT mq_group_put(%s, %s, %s::bigint[], %s)", group_id, max_attempts, list(backoff_ms), suspended)


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A group as `create_group` takes it, with what else the store may be told of it."""

    group_id: int
    max_attempts: int
    backoff_ms: Sequence[int]
    suspended: bool = False
    max_outstanding: int = 0
    stop_key: bool = False
    sticky: bool = False


def create_groups(groups: Sequence[NewGroup]) -> None:
    """Make several known to the store, in few statements however many they are."""
    _each(
        "SELECT mq_group_put(t.group_id, t.max_attempts, ARRAY(SELECT jsonb_array_elements_text(t.backoff_ms)::bigint), t.suspended)",
        "group_id bigint, max_attempts int, backoff_ms jsonb, suspended boolean",
        [
            {"group_id": g.group_id, "max_attempts": g.max_attempts, "backoff_ms": list(g.backoff_ms), "suspended": g.suspended}
            for g in groups
        ],
    )
    _each(
        "SELECT mq_group_ceiling(t.id, t.n)",
        "id bigint, n int",
        [{"id": g.group_id, "n": g.max_outstanding} for g in groups if g.max_outstanding],
    )
    _each("SELECT mq_group_policy(t.id, true)", "id bigint", [{"id": g.group_id} for g in groups if g.stop_key])
    _each("SELECT mq_group_balance(t.id, true)", "id bigint", [{"id": g.group_id} for g in groups if g.sticky])


def update_group(
    *, group_id: int, max_attempts: int, backoff_ms: Sequence[int], suspended: bool, max_outstanding: int | None = None
) -> None:
    """Change what pull and settle go by; a suspended group hands out nothing, what is in workers' hands may be settled.

    `max_outstanding`: as of `set_ceiling`; None: as it is.
    """
    create_group(group_id=group_id, max_attempts=max_attempts, backoff_ms=backoff_ms, suspended=suspended)
    if max_outstanding is not None:
        _call("SELECT mq_group_ceiling(%s, %s)", group_id, max_outstanding)
    _call("SELECT mq_instances_follow(%s)", group_id)


def set_broadcast(*, group_id: int, instance_ttl_hours: float, consume_from: ConsumeFrom) -> None:
    """Make it a broadcast group: each instance gets every message, from `consume_from` on, and is given up when not seen for so long.

    Before the first subscription, and for good; later on it changes both.
    """
    _call("SELECT mq_broadcast_put(%s, %s * interval '1 hour', %s)", group_id, instance_ttl_hours, consume_from == "latest")


def set_ceiling(*, group_id: int, max_outstanding: int) -> None:
    """Hand out no more than so many messages at once; 0: no ceiling. What is in workers' hands beyond it stays there.

    Of a broadcast group each instance has this ceiling for itself.
    """
    _call("SELECT mq_group_ceiling(%s, %s)", group_id, max_outstanding)
    _call("SELECT mq_instances_follow(%s)", group_id)


def set_limits(*, topic_id: int, ttl_seconds: int, max_length: int) -> None:
    """How long a message may wait, and how many may wait for one group; 0: no limit. What is beyond becomes a dead letter."""
    _call("SELECT mq_limit_put(%s, %s, %s)", topic_id, ttl_seconds, max_length)


def set_limits_of(limits: Mapping[int, tuple[int, int]]) -> None:
    """The same of several topics, by their ids: time to live in seconds, and length."""
    rows = [{"id": pk, "ttl": ttl, "length": length} for pk, (ttl, length) in sorted(limits.items())]
    _each("SELECT mq_limit_put(t.id, t.ttl, t.length)", "id bigint, ttl bigint, length bigint", rows)


def set_retention(*, topic_id: int, mode: Literal["done", "limit"] | None, age_seconds: int = 0, size_bytes: int = 0) -> None:
    """When messages of the topic go; None: as the store keeps them.

    `done`: when they are older than this, or the topic is larger, or neither is given, and every group is done with them. `limit`: when
    they are older or the topic is larger, done or not. What has gone does not come back when this is changed.
    """
    _call("SELECT mq_retention_put(%s, %s, %s, %s)", topic_id, {"done": "D", "limit": "L", None: "S"}[mode], age_seconds, size_bytes)


def set_exhaustion(*, group_id: int, stop_key: bool) -> None:
    """What becomes of a message of an ordered topic that is out of attempts: its key stops until a person decides, or dead letter."""
    _call("SELECT mq_group_policy(%s, %s)", group_id, stop_key)


def set_balance(*, group_id: int, sticky: bool) -> None:
    """Which of the group's workers get the next messages: whoever asks first, or, sticky, the one that has the sharding key."""
    _call("SELECT mq_group_balance(%s, %s)", group_id, sticky)


def set_ordering(*, topic_id: int, ordering: Ordering) -> None:
    """In what order the store hands out the topic: none, of each sharding key, or of the topic as a whole. Before its first message."""
    set_orderings({topic_id: ordering})


def set_orderings(orderings: Mapping[int, Ordering]) -> None:
    """The same of several topics, by their ids."""
    if orderings:
        ids = sorted(orderings)
        numbers = [ORDERINGS.index(orderings[pk]) for pk in ids]
        _call("SELECT mq_topic_order(t.id, t.ordering) FROM unnest(%s::bigint[], %s::smallint[]) AS t (id, ordering)", ids, numbers)


def subscribe(*, group_id: int, topic_id: int, tag_expression: str = "*", consume_from: ConsumeFrom = "earliest") -> None:
    """Subscribe the group to the topic; on a running subscription it changes the filter from the group's position on.

    After an unsubscribe, `earliest` goes on where the group stood, `latest` begins anew. Problem: invalid_tag_expression.
    """
    _call("SELECT mq_group_subscribe(%s, %s, %s::text[], %s)", group_id, topic_id, tags.parse(tag_expression), consume_from == "latest")


def subscribe_many(subscriptions: Sequence[tuple[int, int, str, ConsumeFrom]]) -> None:
    """The same for several: group, topic, tag expression, and where it begins."""
    rows = [{"g": group, "t": topic, "tags": tags.parse(text), "latest": start == "latest"} for group, topic, text, start in subscriptions]
    parsed = "CASE WHEN t.tags IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(t.tags)) END"
    _each(f"SELECT mq_group_subscribe(t.g, t.t, {parsed}, t.latest)", "g bigint, t bigint, tags jsonb, latest boolean", rows)


def change_filter(*, group_id: int, topic_id: int, tag_expression: str) -> None:
    """Change the tag filter: what has been handed out keeps the filter that it was handed out under."""
    subscribe(group_id=group_id, topic_id=topic_id, tag_expression=tag_expression)


def unsubscribe(*, group_id: int, topic_id: int) -> None:
    """End the subscription: waiting messages are skipped, retries given up (failed), leases may still be settled."""
    _call("SELECT mq_group_unsubscribe(%s, %s)", group_id, topic_id)


def retire_group(*, group_id: int) -> None:
    """Unsubscribe from everything and hand out nothing any more; the history stays. A broadcast group's instances go."""
    _call("SELECT mq_group_end(%s)", group_id)


def retire_topic(*, topic_id: int) -> int:
    """Close the topic: unsubscribe every group, cancel its delayed messages, stop counting it. Returns how many were cancelled."""
    _call("SELECT mq_broadcast_leave_topic(%s)", topic_id)
    cancelled = int(_call("SELECT mq_topic_retire(%s)", topic_id)[0])
    _call("SELECT mq_unsubscribe(group_id, topic_id) FROM mq_private WHERE of_topic_id = %s ORDER BY group_id", topic_id)
    return cancelled


def backlog(*, topic_id: int) -> Backlog:
    """What would be lost with the topic."""
    return Backlog(*_call("SELECT * FROM mq_backlog(%s)", topic_id))


def backlog_of(*, group_id: int, topic_id: int) -> Backlog:
    """What one group would lose with one topic: waiting messages would be skipped, retries given up. Delayed ones are the topic's.

    Of a broadcast group: all instances together.
    """
    return backlogs_of([(group_id, topic_id)])[group_id, topic_id]


def backlogs_of(pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Backlog]:
    """The same of several groups with a topic each, in one statement."""
    rows = _rows(
        "SELECT p.g, p.t, b.* FROM unnest(%s::bigint[], %s::bigint[]) AS p(g, t) CROSS JOIN LATERAL ("
        " SELECT coalesce(sum(mq_count(topic_id, pos, 9223372036854775807, tags) + held), 0)::bigint, coalesce(sum(processing), 0)::bigint,"
        " coalesce(sum(later), 0)::bigint, 0 FROM mq_cursor"
        " WHERE group_id = ANY (mq_members(ARRAY[p.g])) AND topic_id = p.t AND active) AS b",
        [group for group, _topic in pairs],
        [topic for _group, topic in pairs],
    )
    return {(group, topic): Backlog(*found) for group, topic, *found in rows}


def holding(*, topic_ids: Sequence[int]) -> set[int]:
    """Those of the topics of which somebody still gets something from the store, in one statement that counts nothing.

    A message that waits or is in hand, also one for a single group, one that comes again, a delayed one, and a half message that may be
    committed yet.
    """
    rows = _rows(
        "WITH log AS (SELECT t.id AS of, t.id FROM unnest(%s::bigint[]) AS t(id)"
        "  UNION ALL SELECT p.of_topic_id, p.topic_id FROM mq_private p WHERE p.of_topic_id = ANY (%s::bigint[]))"
        " SELECT DISTINCT l.of FROM log l WHERE EXISTS (SELECT FROM mq_delayed d WHERE d.topic_id = l.id)"
        " OR EXISTS (SELECT FROM mq_half h WHERE h.topic_id = l.id AND h.state IN ('O', 'U'))"
        " OR EXISTS (SELECT FROM mq_cursor c WHERE c.topic_id = l.id AND c.active AND (c.processing > 0 OR c.later > 0 OR c.held > 0"
        "  OR EXISTS (SELECT FROM mq_message m WHERE m.topic_id = c.topic_id AND m.id > c.pos"
        "   AND m.id <= (SELECT last_value FROM mq_id_seq) AND (c.tags IS NULL OR mq_has_tag(m.tag, c.tags)))))",
        list(topic_ids),
        list(topic_ids),
    )
    return {pk for (pk,) in rows}


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group as the store has it; `tags` by topic, None for all tags."""

    max_attempts: int
    backoff_ms: list[int]
    suspended: bool
    retired: bool
    max_outstanding: int
    stop_key: bool
    sticky: bool
    tags: dict[int, list[str] | None]


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """What the store was told of a topic; it knows nothing of one without limits that nobody is subscribed to."""

    retired: bool
    ordering: Ordering
    ttl_seconds: int
    max_length: int


def survey_groups(*, group_ids: Sequence[int]) -> dict[int, StoredGroup]:
    """The groups as the store has them, in one statement; those that it does not know are not among them."""
    rows = _rows(
        "SELECT g.group_id, g.max_attempts, g.backoff_ms, g.suspended, g.retired, g.max_outstanding, g.stop_key, g.sticky,"
        " coalesce((SELECT jsonb_object_agg(c.topic_id, c.tags) FROM mq_cursor c"
        "            WHERE c.group_id = g.group_id AND c.active AND c.topic_id > 0), '{}')::text"
        "  FROM mq_group g WHERE g.group_id = ANY (%s::bigint[])",
        list(group_ids),
    )
    found = {}
    for group_id, attempts, backoff, suspended, retired, outstanding, stop_key, sticky, subscribed in rows:
        by_topic = {int(topic): tags_ for topic, tags_ in json.loads(subscribed).items()}
        found[group_id] = StoredGroup(attempts, backoff, suspended, retired, outstanding, stop_key, sticky, by_topic)
    return found


def survey_topics(*, topic_ids: Sequence[int]) -> dict[int, StoredTopic]:
    """The topics as the store has them, in one statement."""
    rows = _rows(
        "SELECT i.id, coalesce(t.retired, false), coalesce(t.ordering, 0), coalesce(l.ttl_s, 0), coalesce(l.max_length, 0)"
        "  FROM unnest(%s::bigint[]) AS i(id) LEFT JOIN mq_topic t ON t.topic_id = i.id LEFT JOIN mq_limit l ON l.topic_id = i.id",
        list(topic_ids),
    )
    return {topic_id: StoredTopic(retired, ORDERINGS[ordering], *limits) for topic_id, retired, ordering, *limits in rows}


def living_groups() -> list[int]:
    """The groups that the store hands out messages to, without the instances of broadcast groups."""
    instances = "SELECT instance_id FROM mq_instance"
    return [pk for (pk,) in _rows(f"SELECT group_id FROM mq_group WHERE NOT retired AND group_id > 0 AND group_id NOT IN ({instances})")]  # noqa: S608


def _rows(sql: str, *params: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def _each(select: str, columns: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Call a function for each row, in their order."""
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(f"{select} FROM jsonb_to_recordset(%s) AS t({columns})", (json.dumps(rows),))


def _call(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()
