"""The benchmarks' data set at a thousandth: it fills every table that it names, and the store's numbers in it are consistent."""

import pytest
from django.db import connection

from benchmarks import dataset
from benchmarks.dataset import Size
from consumers.models import ConsumerGroup
from core.approvals.models import State
from messages import services
from registry.models import Publication
from topics.models import Topic

pytestmark = pytest.mark.django_db


def _rows(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@pytest.fixture
def filled():
    return dataset.fill(scale=0.01, say=lambda *_args, **_kwargs: None)


def test_every_message_of_a_subscription_has_one_status(filled):
    """waiting + processing + succeeded + later + dead + failed is what matches the filter, for each group and topic."""
    groups = list(ConsumerGroup.objects.filter(state=State.ACTIVE).values_list("pk", flat=True))
    matching = dict(
        _rows(
            "SELECT c.group_id, count(m.id) FROM mq_cursor c LEFT JOIN mq_message m ON m.topic_id = c.topic_id"
            " AND (c.tags IS NULL OR m.tag = ANY (c.tags)) WHERE c.active GROUP BY 1"
        )
    )
    counts = services.counts(group_ids=groups)
    for group, c in counts.items():
        assert c.waiting + c.processing + c.succeeded + c.later + c.dead + c.failed == matching.get(group, 0), group
    assert sum(c.dead for c in counts.values()) > 100
    assert sum(c.later for c in counts.values()) > 10
    assert any(c.waiting for c in counts.values())


def test_counters_that_are_not_derived_are_what_the_rows_say(filled):
    """mq_cursor's dead, later and failed count rows of mq_exception; processing those of the leases."""
    wrong = _rows(
        "SELECT c.group_id, c.topic_id FROM mq_cursor c LEFT JOIN (SELECT group_id, topic_id, count(*) FILTER (WHERE status = 'D') AS d,"
        " count(*) FILTER (WHERE status = 'L') AS l, count(*) FILTER (WHERE status = 'F') AS f FROM mq_exception GROUP BY 1, 2) x"
        " ON x.group_id = c.group_id AND x.topic_id = c.topic_id"
        " WHERE (c.dead, c.later, c.failed) IS DISTINCT FROM (coalesce(x.d, 0), coalesce(x.l, 0), coalesce(x.f, 0))"
    )
    assert wrong == []
    # the counters by tag agree with what they count
    assert (
        _rows(
            "SELECT s.topic_id, s.tag, s.hi FROM mq_stat s WHERE s.cum <> (SELECT count(*) FROM mq_message m WHERE m.topic_id = s.topic_id"
            " AND m.id <= s.hi AND (s.tag = '*' OR m.tag = s.tag))"
        )
        == []
    )


def test_it_is_as_large_as_it_says_and_the_same_again(filled):
    """The same seed makes the same names and states."""
    assert filled == Size.of(0.01)
    assert Topic.objects.count() == filled.topics
    assert ConsumerGroup.objects.count() == filled.groups
    assert _rows("SELECT count(*) FROM mq_message") == [(filled.messages,)]
    assert set(Topic.objects.values_list("state", flat=True)) == set(State.values)
    assert Publication.objects.filter(deleted=False).count() > 100
    assert Topic.objects.get(pk=dataset.ROOT + 1).name == "order.cancelled_00001"


def test_it_refuses_a_database_that_is_in_use(filled):
    with pytest.raises(RuntimeError, match="one of its own"):
        dataset.fill(scale=0.01)
