"""Broadcast groups: every instance gets every message. An instance is a group of the store of its own, with an id below zero."""

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from time import monotonic

from django.db import connection, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from consumers.models import ConsumerGroup
from core.audit.services import record
from core.errors import FieldError, Problem, conflict, not_found
from messages.db import fetch
from messages.types import Counts, Instance, Lag, Page

MAX_INSTANCES = 1000  # of one group: each is a position that is kept, locked and counted
MAX_NAME = 255
SEEN_EVERY = 5.0  # seconds after which a process writes down again that an instance is there; it asks for its id no oftener, either
ONLINE = 60.0  # seconds since an instance was last seen in which nobody gives it up by hand
STEPS = 200  # of deletions that one sweep does
STEP = 5000  # rows in one of them
_known: dict[tuple[int, str], tuple[float, int]] = {}
_owners: dict[int, tuple[float, int]] = {}
_lock = threading.Lock()


def join(*, group_id: int, name: str) -> int:
    """The instance with this name, which is there now; at its first time it begins where its group says.

    Problems: instance_required, invalid (the name), not_found (the group), not_broadcast, group_retired, too_many_instances.
    """
    found = _known.get((group_id, name))
    if found is not None and found[0] > monotonic():
        return found[1]
    check_name(name)
    sql = "SELECT instance_id, problem FROM mq_join(%s::bigint, %s::text, %s::int, %s)"
    instance_id, problem = fetch(sql, (group_id, name, MAX_INSTANCES, not connection.in_atomic_block))[0]
    if problem is not None:
        raise _not_joined(problem, group_id)
    if not connection.in_atomic_block:  # else it may be rolled back
        with _lock:
            if len(_known) > 10_000:
                _known.clear()
            _known[group_id, name] = (monotonic() + SEEN_EVERY, instance_id)
    return int(instance_id)


def forget(*, group_id: int, name: str) -> None:
    """Ask for the instance's id the next time: it was given up."""
    _known.pop((group_id, name), None)


def forget_all() -> None:
    """Know no instances; for tests."""
    _known.clear()
    _owners.clear()


def check_name(name: str, pointer: str = "/consumer") -> None:
    """Whether an instance can have this name. Problems: instance_required, invalid."""
    if not name.strip():
        raise instance_required(pointer)
    if len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        detail = _("The name of an instance has 1 to {n} printable characters, no blank at its ends.").format(n=MAX_NAME)
        raise Problem("invalid", detail, errors=[FieldError(pointer, detail)])


def instance_required(pointer: str) -> Problem:
    """In a broadcast group nothing is said of all instances at once here."""
    detail = _("This is a broadcast group: name the instance.")
    hint = _("Each instance has a position of its own. Choose a name that stays the same when it starts anew, like its host's.")
    return Problem("instance_required", detail, hint=hint, errors=[FieldError(pointer, detail)])


def _not_joined(problem: str, group_id: int) -> Problem:
    if problem == "unknown":
        return not_found(_("consumer group"), group_id)
    if problem == "retired":
        hint = _("Only an approved group takes messages.")
        return conflict("group_retired", _("The consumer group is retired: it takes no messages any more."), hint=hint)
    if problem == "not_broadcast":
        return not_broadcast()
    return conflict(
        "too_many_instances",
        _("The group has {n} instances, as many as it may.").format(n=MAX_INSTANCES),
        hint=_("Give up those that never return, shorten the time after which that happens by itself, or use names that stay the same."),
        extra={"limit": MAX_INSTANCES},
    )


def not_broadcast() -> Problem:
    """Instances without a position of their own."""
    return conflict(
        "not_broadcast",
        _("This group shares its messages among its workers: its instances have no positions of their own."),
        hint=_("Leave the instance out."),
    )


def is_broadcast(group: ConsumerGroup) -> bool:
    """Whether each instance gets every message."""
    return group.mode == ConsumerGroup.Mode.BROADCAST


def find(*, group: ConsumerGroup, name: str | None, pointer: str = "/instance") -> int:
    """Whose messages somebody means: the group's own id, or that of an instance of a broadcast group.

    Problems: instance_required, not_broadcast, not_found (the instance).
    """
    if not is_broadcast(group):
        if name:
            raise not_broadcast()
        return int(group.pk)
    if not name:
        raise instance_required(pointer)
    sql = "SELECT instance_id FROM mq_instance WHERE group_id = %s::bigint AND name = %s::text AND gone_at IS NULL"
    rows: list[tuple[int]] = fetch(sql, (group.pk, name)) if "\x00" not in name else []
    if not rows:
        raise not_found(_("instance"), name)
    return rows[0][0]


def store_ids(*, group: ConsumerGroup) -> list[int]:
    """The group's id and those of its instances."""
    if not is_broadcast(group):
        return [int(group.pk)]
    return [int(group.pk), *(row[0] for row in fetch("SELECT mq_instances(%s::bigint)", (group.pk,)))]


def owners(ids: Iterable[int]) -> dict[int, tuple[int, str]]:
    """Of those ids that are instances: their group and their name; none of those that were given up."""
    wanted = [i for i in set(ids) if i < 0]
    if not wanted:
        return {}
    sql = "SELECT instance_id, group_id, name FROM mq_instance WHERE instance_id = ANY (%s::bigint[]) AND gone_at IS NULL"
    return {row[0]: (row[1], row[2]) for row in fetch(sql, (wanted,))}


def holder(*, group_id: int, lease: str) -> tuple[int, str]:
    """Who holds a lease and its number in the store: those of instances end in the instance's number. Whoever settles was seen."""
    token, dash, number = lease.partition("-")
    if not dash or not (number.isascii() and number.isdigit()) or len(number) > 18:
        return group_id, lease
    instance_id = -int(number)
    found = _owners.get(instance_id)
    if found is None or found[0] <= monotonic():
        sql = "UPDATE mq_instance SET seen_at = clock_timestamp() WHERE instance_id = %s::bigint AND gone_at IS NULL RETURNING group_id"
        rows = fetch(sql, (instance_id,))
        found = (monotonic() + SEEN_EVERY, rows[0][0] if rows else 0)
        with _lock:
            if len(_owners) > 10_000:
                _owners.clear()
            _owners[instance_id] = found
    return (instance_id, token) if found[1] == group_id else (group_id, "")  # of another group: nobody's


def lease_name(store_id: int, token: int) -> str:
    """A lease as its holder gets it."""
    return str(token) if store_id >= 0 else f"{token}-{-store_id}"


_INSTANCES = """
  SELECT i.instance_id, i.name, i.began_at, i.seen_at, clock_timestamp() > i.seen_at + b.ttl
    FROM mq_instance i JOIN mq_broadcast b USING (group_id)
"""


def instances(*, group_id: int, limit: int = 50, cursor: str | None = None) -> Page[Instance]:
    """The instances of a broadcast group by name, each with its position, counts and lag."""
    rows = fetch(
        f"{_INSTANCES} WHERE i.group_id = %s::bigint AND i.gone_at IS NULL AND i.name > %s::text ORDER BY i.name LIMIT %s::int",
        (group_id, (cursor or "").replace("\x00", ""), limit + 1),
    )
    return Page(_with_figures(rows[:limit]), rows[limit - 1][1] if len(rows) > limit else None)


def furthest_behind(*, group_id: int, limit: int) -> list[Instance]:
    """Those for which most waits."""
    rows = fetch(
        f"""
        WITH l AS MATERIALIZED (
          SELECT x.group_id, sum(x.messages) AS n FROM mq_lag(ARRAY(SELECT mq_instances(%(group)s::bigint))) x GROUP BY 1)
        {_INSTANCES} LEFT JOIN l ON l.group_id = i.instance_id
         WHERE i.group_id = %(group)s::bigint AND i.gone_at IS NULL ORDER BY l.n DESC NULLS LAST, i.name LIMIT %(limit)s::int
        """,  # noqa: S608 - a constant
        {"group": group_id, "limit": limit},
    )
    return _with_figures(rows)


def count_instances(*, group_id: int) -> int:
    """How many there are."""
    rows: list[tuple[int]] = fetch("SELECT count(*) FROM mq_instances(%s::bigint)", (group_id,))
    return rows[0][0]


def _with_figures(rows: Sequence[tuple[int, str, datetime, datetime, bool]]) -> list[Instance]:
    from messages import querysets  # which needs to know who owns what

    ids = [row[0] for row in rows]
    counts, lag = (querysets.counts(group_ids=ids), querysets.lag(group_ids=ids)) if ids else ({}, {})
    stands: dict[int, dict[int, int]] = {}
    at = "SELECT group_id, topic_id, pos FROM mq_cursor WHERE group_id = ANY (%s::bigint[]) AND active AND topic_id >= 0 ORDER BY 1, 2"
    for store_id, topic_id, position in fetch(at, (ids,)) if ids else ():
        stands.setdefault(store_id, {})[topic_id] = position
    return [
        Instance(i, name, began, seen, counts.get(i, Counts(i)), lag.get(i, Lag(i)), stands.get(i, {}), overdue)
        for i, name, began, seen, overdue in rows
    ]


def give_up(*, actor: User | None, group: ConsumerGroup, name: str, reason: str = "", unseen_since: datetime | None = None) -> bool:
    """Forget an instance's position, retries and dead letters; under the same name it would begin anew.

    Nobody gives up by hand one that is there: it would begin anew at once.
    False: it was seen since `unseen_since`, or is gone already.
    Problems: not_broadcast, instance_required, not_found, instance_online.
    """
    if not is_broadcast(group):
        raise not_broadcast()
    instance_id = find(group=group, name=name)
    from messages import querysets

    with transaction.atomic():
        counts = querysets.counts(group_ids=[instance_id])[instance_id]
        sql = "SELECT seen_at, extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM mq_instance WHERE instance_id = %s::bigint"
        seen_at, age = fetch(sql, (instance_id,))[0]
        if unseen_since is None and age < ONLINE:
            detail = _("The instance “{name}” was there {n} seconds ago.").format(name=name, n=int(age))
            hint = _("Stop it first, and wait for {n} seconds: it would begin anew at once.").format(n=int(ONLINE))
            raise conflict("instance_online", detail, hint=hint)
        if not fetch("SELECT mq_instance_give_up(%s::bigint, %s)", (instance_id, unseen_since))[0][0]:
            return False
        lost = {word: getattr(counts, word) for word in ("waiting", "processing", "later", "dead")}
        before = {"instance": name, "last_seen_at": seen_at.isoformat(), **lost}
        record(actor=actor, action="give up", kind="consumer group", name=group.name, before=before, reason=reason)
    forget(group_id=group.pk, name=name)
    _owners.pop(instance_id, None)
    return True


def sweep(*, limit: int = 100) -> int:
    """Give up the instances that were not seen for as long as their group says; how many. Then delete the rows of given-up ones."""
    overdue = fetch(
        "SELECT i.group_id, i.name, clock_timestamp() - b.ttl FROM mq_instance i JOIN mq_broadcast b USING (group_id)"
        " WHERE i.gone_at IS NULL AND i.seen_at < clock_timestamp() - b.ttl ORDER BY i.seen_at LIMIT %s::int",
        (limit,),
    )
    groups = ConsumerGroup.objects.in_bulk({row[0] for row in overdue})
    given_up = 0
    for group_id, name, since in overdue:
        try:
            reason = "not seen for its time to live"
            given_up += give_up(actor=None, group=groups[group_id], name=name, reason=reason, unseen_since=since)
        except (KeyError, Problem):  # the group or the instance has gone meanwhile
            continue
    for _step in range(STEPS):
        if not fetch("SELECT mq_forget_instances(%s::int)", (STEP,))[0][0]:
            break
    return given_up
