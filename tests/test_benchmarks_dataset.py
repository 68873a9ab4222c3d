"""The benchmarks' data set at a hundredth: it fills every table that it names, and the store's numbers in it are consistent.

The store may hold anything else before: what other tests sent and counted, partitions that begin this very second, a gap between them.
"""

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
        return cursor.fetchall() if cursor.description else None


def _others_were_here():
    """Topics and groups of tests that commit, with ids of their own: messages that were counted, pulled, lost and dead."""
    _rows(
        "SELECT setval('mq_id_seq', greatest(last_value, mq_id_at(clock_timestamp())) + 10000) FROM mq_id_seq;"
        "INSERT INTO mq_message (topic_id, id, body)"
        " SELECT 1::bigint << 50, last_value - i, 'x' FROM mq_id_seq, generate_series(1, 2500) i;"
        "INSERT INTO mq_stat SELECT 1::bigint << 50, '*', max(id), 1000 * b FROM (SELECT id,"
        " 1 + (row_number() OVER (ORDER BY id) - 1) / 1000 AS b"
        "  FROM mq_message WHERE topic_id = 1::bigint << 50) x WHERE b <= 2 GROUP BY b;"
        "INSERT INTO mq_stat SELECT topic_id, '', hi, cum FROM mq_stat WHERE topic_id = 1::bigint << 50;"
        "INSERT INTO mq_group (group_id, max_attempts, backoff_ms) VALUES (1::bigint << 51, 3, '{1}');"
        "INSERT INTO mq_cursor (group_id, topic_id, pos, dead) SELECT 1::bigint << 51, 1::bigint << 50, last_value, 7 FROM mq_id_seq;"
        "INSERT INTO mq_span (group_id, topic_id, lo, kind) VALUES (1::bigint << 51, 1::bigint << 50, 0, 'D')"
    )


def _partitions_begin_now():
    """All but one are gone, and that one begins with the clock's second, as just after midnight."""
    _rows(
        "DO $$ DECLARE p record; BEGIN FOR p IN SELECT * FROM mq_partitions('mq_message') UNION ALL"
        " SELECT * FROM mq_partitions('mq_history') LOOP EXECUTE format('DROP TABLE %s', p.partition); END LOOP; END $$"
    )
    ((begin,),) = _rows("SELECT greatest(last_value, mq_id_at(clock_timestamp()))::text FROM mq_id_seq")
    for parent, column in (("mq_message", "id"), ("mq_history", "hi")):
        _rows(f"SELECT mq_attach('{parent}', 'young', '{column}', '{begin}', (9007199254740991)::text)")


def _a_partition_is_missing():
    """The day before the clock's, of which nothing was needed any more, while one of long ago is still there."""
    _partitions_begin_now()
    for parent, column in (("mq_message", "id"), ("mq_history", "hi")):
        _rows(f"SELECT mq_attach('{parent}', 'old', '{column}', '1000', '2000')")


STATES = [_others_were_here, _partitions_begin_now, _a_partition_is_missing]
#: What belongs to the data set; the store's tables may hold more.
OWN = "(SELECT id FROM topics_topic)"


def _fill():
    return dataset.fill(scale=0.01, say=lambda *_args, **_kwargs: None)


@pytest.fixture
def filled():
    return _fill()


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
    _check_counters()


@pytest.mark.parametrize("before", STATES)
def test_whatever_the_store_holds_before_it_is_filled_and_the_rest_let_be(before):
    before()
    others = "SELECT * FROM {0} WHERE topic_id = 1::bigint << 50 ORDER BY 1, 2, 3"
    tables = [others.format(name) for name in ("mq_stat", "mq_cursor", "mq_span")]
    was = [_rows(sql) for sql in tables]
    filled = _fill()
    assert [_rows(sql) for sql in tables] == was
    assert _rows(f"SELECT count(*) FROM mq_message WHERE topic_id IN {OWN}") == [(filled.messages,)]
    assert _rows(f"SELECT count(*) FROM mq_message, mq_horizon WHERE topic_id IN {OWN} AND id > closed_id") == [(0,)]
    _check_counters()


def _check_counters():
    """mq_cursor's dead, later and failed count rows of mq_exception; processing those of the leases."""
    wrong = _rows(
        "SELECT c.group_id, c.topic_id FROM mq_cursor c LEFT JOIN (SELECT group_id, topic_id, count(*) FILTER (WHERE status = 'D') AS d,"
        " count(*) FILTER (WHERE status = 'L') AS l, count(*) FILTER (WHERE status = 'F') AS f FROM mq_exception GROUP BY 1, 2) x"
        " ON x.group_id = c.group_id AND x.topic_id = c.topic_id"
        f" WHERE c.topic_id IN {OWN}"
        " AND (c.dead, c.later, c.failed) IS DISTINCT FROM (coalesce(x.d, 0), coalesce(x.l, 0), coalesce(x.f, 0))"
    )
    assert wrong == []
    # the counters by tag agree with what they count
    assert (
        _rows(
            f"SELECT s.topic_id, s.tag, s.hi FROM mq_stat s WHERE s.topic_id IN {OWN}"
            " AND s.cum <> (SELECT count(*) FROM mq_message m WHERE m.topic_id = s.topic_id"
            " AND m.id <= s.hi AND (s.tag = '*' OR m.tag = s.tag))"
        )
        == []
    )


def test_it_is_as_large_as_it_says_and_the_same_again(filled):
    """The same seed makes the same names and states."""
    assert filled == Size.of(0.01)
    assert Topic.objects.count() == filled.topics
    assert ConsumerGroup.objects.count() == filled.groups
    assert _rows(f"SELECT count(*) FROM mq_message WHERE topic_id IN {OWN}") == [(filled.messages,)]
    assert set(Topic.objects.values_list("state", flat=True)) == set(State.values)
    assert Publication.objects.filter(deleted=False).count() > 100
    assert Topic.objects.get(pk=dataset.ROOT + 1).name == "order.cancelled_00001"


def test_it_refuses_a_database_that_is_in_use(filled):
    with pytest.raises(RuntimeError, match="one of its own"):
        dataset.fill(scale=0.01)
