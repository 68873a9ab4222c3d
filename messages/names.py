"""Names of topics and groups for the store's plain ids; a name never changes, so it is kept per process."""

from collections.abc import Iterable
from functools import lru_cache

from consumers.models import ConsumerGroup
from topics.models import Topic


class _UnknownError(LookupError):
    """Not to be cached: the topic may be on its way."""


@lru_cache(maxsize=100_000)
def _topic_name(topic_id: int) -> str:
    name = Topic.objects.filter(pk=topic_id).values_list("name", flat=True).first()
    if name is None:
        raise _UnknownError
    return name


def topic_name(topic_id: int) -> str:
    """The topic's name; its number when there is no such topic (a store without the rooms below it: benchmarks, tests)."""
    try:
        return _topic_name(topic_id)
    except _UnknownError:
        return str(topic_id)


def group_names(group_ids: Iterable[int]) -> dict[int, str]:
    """Names of groups in one query; a number where there is no such group."""
    wanted = list(group_ids)
    found = dict(ConsumerGroup.objects.filter(pk__in=wanted).values_list("pk", "name"))
    return {group_id: found.get(group_id, str(group_id)) for group_id in wanted}
