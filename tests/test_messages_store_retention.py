"""Retention: a partition goes when nobody has needed it for a while; what one group needs stays; counts stay exact; nobody is blocked."""

import time

import psycopg
import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.storekeeper import Retention
from messages.types import DeadFilter, Outcome
from tests.store_world import Threads, bodies, counts, expire_now, new_group, new_id, pull, redrive, send, session, settle, sql

pytestmark = pytest.mark.usefixtures("store")


def retain(keeper):
    """A round of the storekeeper, to the end of its look through all partitions. False: it may go on at once."""
    chore = Retention()
    while not chore(keeper):
        if chore.looked_to == 0:
            return False
    return True


class Past:
    """Partitions of years ago, and messages in them, as if they had been sent and closed then."""

    def __init__(self, keeper):
        self.keeper = keeper
        self.names = []

    def partition(self, year):
        low, high = (sql("SELECT mq_id_at(%s)", f"{y}-01-01 00:00+00") for y in (year, year + 1))
        for parent, column in (("mq_message", "id"), ("mq_history", "hi")):
            sql("SELECT mq_attach(%s, %s, %s, %s, %s)", parent, f"past{year}", column, str(low), str(high))
            self.names.append(f"{parent}_past{year}")
        return low

    def send(self, topic, low, n, tag=""):
        sql(
            "INSERT INTO mq_message (topic_id, id, tag, body) SELECT %s, %s + i, %s, 'old' FROM generate_series(0, %s) i",
            *(topic, low, tag, n - 1),
        )

    def drop_all(self):
        """Run the chore until it has nothing to do, as if a week had passed in between."""
        for _round in range(20):
            sql("UPDATE mq_done SET done_since = done_since - interval '8 days'")
            if retain(self.keeper):
                sql("UPDATE mq_done SET done_since = done_since - interval '8 days'")
                if retain(self.keeper):
                    return self.left()
        raise AssertionError("it never ends")

    def left(self):
        return [name for name in self.names if sql("SELECT to_regclass(%s)::text", name)]


@pytest.fixture
def past():
    with session() as keeper:
        made = Past(keeper)
        yield made
        for name in made.left():
            sql(f"ALTER TABLE {name.rpartition('_')[0]} DETACH PARTITION {name}")
            sql(f"DROP TABLE {name}")
        sql("DELETE FROM mq_done")


def cut(step=10):
    while sql("SELECT mq_cut(1000, %s)", step):
        pass


def take_all(group, status="succeeded"):
    while True:
        batch = pull(group, limit=1000)
        if not batch.messages:
            return
        settle(group, batch, status)


def test_a_partition_goes_when_all_groups_are_done_and_counts_stay_exact(past):
    topic = new_id()
    low = past.partition(2021)
    groups = [new_group(topic), new_group(topic, tag_expression="a")]
    past.send(topic, low + 100, 57, "a")
    past.send(topic, low + 1000, 23, "b")
    late = past.partition(2022)
    past.send(topic, late + 5, 31, "b")
    past.send(topic, late + 500, 12, "a")
    cut()
    for group in groups:
        take_all(group)
    sql("UPDATE mq_cursor SET pos = %s WHERE group_id = ANY (%s)", late + 100, groups)  # as if they stood in the middle of the later one
    before = [counts(group) for group in groups]
    assert [c["waiting"] for c in before] == [12, 12]
    assert past.drop_all() == ["mq_message_past2022", "mq_history_past2022"]
    assert [counts(group) for group in groups] == before
    assert sql("SELECT count(*) FROM mq_message WHERE topic_id = %s", topic) == 43
    newcomer = new_group(topic)
    assert counts(newcomer) == {"waiting": 43}
    tagged = new_group(topic, tag_expression="a")
    assert counts(tagged) == {"waiting": 12}
    take_all(newcomer)
    assert counts(newcomer) == {"succeeded": 43}
    with pytest.raises(Problem) as gone:
        services.message(message_id=low + 100)
    assert gone.value.code == "not_found"
    send(topic, "new")
    services.tick()
    assert bodies(pull(newcomer)) == ["new"]


@pytest.mark.parametrize("status", ["waiting", "processing", "later", "dead"])
def test_what_one_group_still_needs_is_kept_and_said(past, status):
    topic = new_id()
    low = past.partition(2021)
    slow, quick = new_group(topic), new_group(topic)
    past.send(topic, low, 3)
    take_all(quick)
    batch = pull(slow) if status != "waiting" else None
    if status in {"later", "dead"}:
        outcomes = [Outcome(m.id, status if m is batch.messages[1] else "succeeded", 3600_000) for m in batch.messages]
        services.settle(
            group_id=slow, lease=batch.lease, outcomes=[o if o.status == "later" else Outcome(o.id, o.status) for o in outcomes]
        )
    assert past.drop_all() == past.names
    kept = past.keeper.execute(
        "SELECT partition, group_id, topic_id, status::text, messages FROM mq_kept() WHERE group_id IS NOT NULL"
    ).fetchall()
    n = 1 if status in {"later", "dead"} else 3
    assert kept == [("mq_message_past2021", slow, topic, {"waiting": "W", "processing": "P", "later": "L", "dead": "D"}[status], n)]
    if status == "dead":  # a dead letter is needed until it is redriven
        redrive(slow, only=DeadFilter())
        assert past.drop_all() == past.names
    builtin.retire_group(group_id=slow)
    if status == "processing":  # what is in a worker's hands may still be settled
        assert past.drop_all() == past.names
        assert {s.status for s in settle(slow, batch)} == {"succeeded"}
    assert past.drop_all() == []


def test_it_goes_no_sooner_than_a_week_after_everybody_is_done(past):
    topic = new_id()
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 3)
    take_all(group)
    assert retain(past.keeper) is True
    assert past.left() == past.names
    sql("UPDATE mq_done SET done_since = clock_timestamp() - interval '6 days 23 hours'")
    assert retain(past.keeper) is True
    assert past.left() == past.names
    late = new_group(topic)  # begins at the earliest: needs it again
    sql("UPDATE mq_done SET done_since = clock_timestamp() - interval '30 days'")
    assert retain(past.keeper) is True
    assert past.left() == past.names
    assert len(pull(late).messages) == 3
    expire_now(late)
    builtin.retire_group(group_id=late)
    assert retain(past.keeper) is True  # the week begins anew
    assert past.left() == past.names
    assert past.drop_all() == []


def test_a_topic_without_groups_keeps_nothing_for_ever_and_a_quiet_group_holds_up_nobody(past):
    topic, quiet_topic = new_id(), new_id()
    low = past.partition(2021)
    quiet = new_group(quiet_topic)
    past.send(topic, low + 10, 5)
    past.send(quiet_topic, low + 3, 1)
    take_all(quiet)  # its cursor stands in the old partition, and nothing waits for it
    assert sql("SELECT pos FROM mq_cursor WHERE group_id = %s", quiet) == low + 3
    assert past.drop_all() == []
    assert counts(quiet) == {"succeeded": 1}


def test_what_an_unsubscribed_group_has_skipped_stays_counted(past):
    topic = new_id()
    low = past.partition(2021)
    gone, back = new_group(topic), new_group(topic)
    past.send(topic, low, 45)
    cut()
    for group in (gone, back):
        settle(group, pull(group, limit=5))
        builtin.unsubscribe(group_id=group, topic_id=topic)
    before = counts(gone)
    assert before == {"succeeded": 5, "skipped": 40}
    assert past.drop_all() == []
    assert counts(gone) == before
    send(topic, "new")
    services.tick()
    assert counts(gone) == before
    builtin.subscribe(group_id=back, topic_id=topic, consume_from="latest")
    assert counts(back) == {"succeeded": 5, "skipped": 40}


def test_a_reader_delays_the_drop_and_the_drop_delays_nobody(past):
    topic = new_id()
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 3)
    take_all(group)
    retain(past.keeper)
    sql("UPDATE mq_done SET done_since = done_since - interval '8 days'")
    with session(autocommit=False) as dump:
        dump.execute("SELECT count(*) FROM mq_message")
        threads, sent = Threads(), []

        def sender():
            while past.left() and len(sent) < 1000 and time.monotonic() < end:
                started = time.monotonic()
                send(topic, "x")
                sent.append(time.monotonic() - started)

        end = time.monotonic() + 1.5
        threads.start(sender)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            retain(past.keeper)
        threads.join()
        assert len(sent) > 20
        assert dump.execute("SELECT count(*) FROM mq_message WHERE topic_id = %s", (topic,)).fetchone()[0] >= 3
        dump.rollback()
    assert past.drop_all() == []
    take_all(group)
    assert counts(group) == {"succeeded": 3 + len(sent)}


def lose(past, year):
    """Drop a partition by hand, whatever is still needed."""
    sql(f"ALTER TABLE mq_message DETACH PARTITION mq_message_past{year}")
    sql(f"DROP TABLE mq_message_past{year}")


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_retries_whose_message_is_gone_are_given_up_and_the_next_ones_come(past, limit):
    topic = new_id()
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 4)
    (kept,) = send(topic, "kept")
    services.tick()
    batch = pull(group)
    outcomes = [Outcome(m.id, "later", 0, "not now") for m in batch.messages]
    services.settle(group_id=group, lease=batch.lease, outcomes=outcomes[:-1])
    services.settle(group_id=group, lease=batch.lease, outcomes=outcomes[-1:])
    sql("UPDATE mq_exception SET single = true WHERE group_id = %s AND msg_id = %s", group, low)  # as after an expired lease
    (fresh,) = send(topic, "fresh")
    services.tick()
    lose(past, 2021)
    got = []
    for _pull in range(4):
        batch = pull(group, limit=limit)
        got += [m.id for m in batch.messages]
        settle(group, batch)
    assert sorted(got) == [kept, fresh]  # the pull that gives some up goes on with fresh ones
    assert pull(group).reason == "empty"
    assert counts(group) == {"succeeded": 2, "failed": 4}
    assert (
        sql("SELECT count(*) FROM mq_exception WHERE group_id = %s AND status = 'F' AND error = 'not now; the message is gone'", group) == 4
    )


def test_an_expired_lease_of_messages_that_are_gone_gives_back_what_is_left(past):
    topic = new_id()
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 4)
    ids = send(topic, *"abc")
    services.tick()
    batch = pull(group)
    settle(group, batch, messages=[batch.messages[1], batch.messages[5]])  # one that will be gone, and b
    lose(past, 2021)
    expire_now(group)
    assert counts(group) == {"succeeded": 2, "failed": 3, "later": 2}
    got = []
    for _pull in range(2):
        again = pull(group)
        got += [m.id for m in again.messages]
        settle(group, again)
    assert got == [ids[0], ids[2]]
    assert counts(group) == {"succeeded": 4, "failed": 3}
