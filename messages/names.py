"""Names of topics and groups for the store's plain ids; a topic's name never changes, so it is kept per process."""

import time
from collections.abc import Iterable

from consumers.models import ConsumerGroup
from messages import broadcast
from messages.db import fetch
from topics.models import Topic

UNKNOWN_FOR = 5.0  # seconds before a topic that is not there is looked for again
_names: dict[int, str] = {}
_orders: dict[int, str | None] = {}  # of the topics whose names are known; fixed from a topic's request on
_unknown: dict[int, float] = {}
_private: dict[int, int] = {}


def topic_of(topic_id: int) -> int:
    """The topic that people know: of a private one, which carries what only one group gets, the one that it belongs to."""
    if topic_id >= 0:
        return topic_id
    if topic_id not in _private:
        _private.update(fetch("SELECT topic_id, of_topic_id FROM mq_private WHERE topic_id = %s::bigint", (topic_id,)))
    return _private.get(topic_id, topic_id)


def topic_name(topic_id: int) -> str:
    """The topic's name; its number when there is no such topic (the store alone, as in benchmarks)."""
    topic_id = topic_of(topic_id)
    name = _names.get(topic_id)
    if name is None and _unknown.get(topic_id, 0.0) < time.monotonic():
        _look_up({topic_id})
        name = _names.get(topic_id)
    return name or str(topic_id)


def topic_order(topic_id: int) -> str | None:
    """Which messages of the topic are in one order: those with the same sharding key (`key`), all (`topic`), or none."""
    topic_name(topic_id)
    return _orders.get(topic_of(topic_id))


def topic_names(topic_ids: Iterable[int]) -> None:
    """Have the names of these topics at hand: one query for all that are not known yet, before a page asks for each."""
    wanted = set(map(topic_of, topic_ids)) - set(_names)
    if wanted:
        _look_up(wanted)


def _look_up(wanted: set[int]) -> None:
    for pk, name, ordered, scope in Topic.objects.filter(pk__in=wanted).values_list("pk", "name", "ordered", "order_scope"):
        _orders[pk] = scope if ordered else None
        _names[pk] = name
    _unknown.update(dict.fromkeys(wanted - set(_names), time.monotonic() + UNKNOWN_FOR))


def forget() -> None:
    """Know no names; for tests, which roll topics back."""
    _names.clear()
    _orders.clear()
    _unknown.clear()
    _private.clear()
    broadcast.forget_all()


def group_names(group_ids: Iterable[int]) -> dict[int, str]:
    """Names of groups in one query, of an instance the name of its broadcast group; a number where there is no such group."""
    wanted = list(group_ids)
    owners = broadcast.owners(wanted)
    groups = {group_id: owners[group_id][0] if group_id in owners else group_id for group_id in wanted}
    found = dict(ConsumerGroup.objects.filter(pk__in=set(groups.values())).values_list("pk", "name"))
    return {group_id: found.get(pk, str(group_id)) for group_id, pk in groups.items()}


def full_name(group_id: int) -> str:
    """A group's name; of an instance also its own."""
    owner = broadcast.owners([group_id]).get(group_id)
    name = group_names([group_id])[group_id]
    return f"{name} / {owner[1]}" if owner else name
