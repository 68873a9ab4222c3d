"""A session that holds a snapshot keeps every old row version: what a pull looks at must not grow with them."""

import time

import psycopg
import pytest

from messages import services
from messages.types import NewMessage, Outcome
from tests.store_world import counts, new_group, new_id, pull, session, settle, sql

pytestmark = pytest.mark.usefixtures("store")

ROUNDS = 1200  # pulls and settlements while the snapshot is held: some 2400 versions of the cursor


class Worker:
    """Has one message in hand at a time."""

    def __init__(self, group, fails):
        self.group, self.fails, self.lease, self.outcomes = group, fails, None, []

    def next(self):
        _, batch = services.next(
            group_id=self.group, lease=self.lease, outcomes=self.outcomes, limit=1, visibility_ms=600_000, consumer="w"
        )
        (message,) = batch.messages
        again = self.fails and message.attempt == 1
        self.lease = batch.lease
        self.outcomes = [Outcome(message.id, "failed", delay_ms=0, error="x") if again else Outcome(message.id, "succeeded")]

    def looks_at(self):
        """How many pages and entries of indexes a pull looks at; the message that it takes is given back with the transaction."""
        if self.fails:  # so that one is due
            failed = [Outcome(o.id, "failed", delay_ms=0, error="x") for o in self.outcomes]
            services.settle(group_id=self.group, lease=self.lease, outcomes=failed)
            self.lease, self.outcomes = None, []
        entries = (
            "SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)::bigint FROM pg_index i"
            " WHERE i.indrelid::regclass::text LIKE 'mq\\_%'"
        )
        pulled = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM mq_pull(%s::bigint, 1, interval '1 min', 'w', true)"
        seen = []
        with session(autocommit=False) as other:
            for _ in range(4):  # the first one fills the caches of a new session; one that comes in the tenth second looks at all retries
                (before,) = other.execute(entries).fetchone()
                (plan,) = other.execute(pulled, (self.group,)).fetchone()
                (after,) = other.execute(entries).fetchone()
                seen.append(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] + after - before)
                other.rollback()
                time.sleep(0.5)
        return min(seen)


@pytest.mark.parametrize("fails", [False, True], ids=["all-succeed", "each-fails-once"])
def test_a_held_snapshot_does_not_make_pulls_look_at_more(fails):
    topic = new_id()
    group = new_group(topic, max_attempts=5)
    for _ in range(4):
        services.send(topic_id=topic, messages=[NewMessage(b"x") for _ in range(ROUNDS // 2)])
    worker = Worker(group, fails)
    for _ in range(40):
        worker.next()
    before = worker.looks_at()
    with session(autocommit=False) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT count(*) FROM mq_group")
        for _ in range(ROUNDS):
            worker.next()
        sql("VACUUM (ANALYZE) mq_exception, mq_cursor, mq_group, mq_lease")  # as autovacuum may: few rows are visible, many are there
        held = worker.looks_at()
        reader.rollback()
    assert held < before + 60
    if worker.outcomes:
        services.settle(group_id=group, lease=worker.lease, outcomes=worker.outcomes)
    while (batch := pull(group)).messages:  # and nothing was lost on the way
        settle(group, batch)
    assert counts(group) == {"succeeded": 2 * ROUNDS}


def test_a_retry_from_before_the_clock_was_set_back_is_found():
    """Where the search for retries begins is only a hint: the clock decides whether it holds."""
    topic = new_id()
    group = new_group(topic)
    (accepted,) = services.send(topic_id=topic, messages=[NewMessage(b"x")])
    batch = pull(group)
    services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(accepted.id, "failed", delay_ms=0, error="x")])
    sql("UPDATE mq_cursor SET due_from = clock_timestamp() + interval '1 hour' WHERE group_id = %s", group)
    assert [m.id for m in pull(group).messages] == [accepted.id]


def test_each_ten_seconds_all_retries_are_looked_at():
    begins = "SELECT mq_due_from(%s::timestamptz, %s::timestamptz) = 'epoch'"
    assert sql(begins, "2026-01-01T00:00:00Z", "2026-01-01T00:01:10Z") is True
    assert sql(begins, "2026-01-01T00:00:00Z", "2026-01-01T00:01:11Z") is False


def test_a_group_has_one_visible_cursor_of_each_topic():
    topics = [new_id() for _ in range(3)]
    group = new_group(*topics)
    for topic in topics:
        services.send(topic_id=topic, messages=[NewMessage(b"x") for _ in range(50)])
    worker = Worker(group, fails=False)
    for _ in range(149):
        worker.next()
    assert sql("SELECT count(*) FROM mq_cursor WHERE group_id = %s", group) == 3
    assert sql("SELECT sum(rev) FROM mq_cursor WHERE group_id = %s", group) > 3
    assert sql("SELECT count(*) FROM mq_cursors(%s)", group) == 3
