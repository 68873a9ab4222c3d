"""All delayed messages that match a filter, cancelled or moved; and how many are due in each hour."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from core.errors import Problem
from core.operations import driving
from core.operations import services as operations
from messages import services
from messages.types import DelayedFilter, NewMessage
from tests.store_world import Threads, bodies, drive, new_group, new_id, pull, sql, until

pytestmark = pytest.mark.usefixtures("store")


def soon(**span):
    return datetime.now(UTC) + timedelta(**span)


def delay(topic, *bodies, due=None, **fields):
    due = due or soon(hours=1)
    return [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b.encode(), deliver_at=due, **fields) for b in bodies])]


def waiting(topic):
    return [m.id for m in services.delayed_messages(only=DelayedFilter(topic_id=topic), limit=500).items]


def codes(operation):
    return [i.code for i in operation.items.all()]


def test_all_that_match_are_cancelled_and_later_ones_stay():
    topic, other = new_id(), new_id()
    a, b = delay(topic, "a", "b", key="k")
    kept = [*delay(topic, "c", key="other"), *delay(topic, "d", key="k", due=soon(days=3))]
    beside = delay(other, "e", key="k")
    started = services.start_cancelling(only=DelayedFilter(topic_id=topic, key="k", due_to=soon(days=1)), reason="wrong price")
    late = delay(topic, "f", key="k")
    services.cancel_delayed(message_id=a)
    done = drive(started)
    assert (done.state, done.done, done.failed, codes(done)) == ("partial", 1, 1, ["not_delayed", ""])
    assert done.reason == "wrong price"
    assert sorted(waiting(topic)) == sorted(kept + late)
    assert waiting(other) == beside
    with pytest.raises(Problem):
        services.message(message_id=b)


def test_what_was_sent_after_the_page_was_drawn_is_not_meant():
    topic = new_id()
    delay(topic, "a")
    drawn = sql("SELECT clock_timestamp()")
    late = delay(topic, "b")
    only = DelayedFilter(topic_id=topic, sent_to=drawn)
    assert services.count_delayed(only=only, topic_ids=None) == 1
    assert services.count_delayed(only=only, topic_ids=[]) == 0
    drive(services.start_cancelling(only=only))
    assert waiting(topic) == late


def test_all_that_match_are_moved_or_delivered_now_and_keep_their_ids():
    topic = new_id()
    group = new_group(topic)
    ids = delay(topic, *"abc", tag="t", headers={"h": "1"}, sharding_key="s")
    due = soon(days=2).replace(microsecond=0)
    moved = drive(services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=due))
    assert (moved.state, moved.done) == ("succeeded", 3)
    assert {m.deliver_at for m in services.delayed_messages(only=DelayedFilter(topic_id=topic)).items} == {due}
    now = drive(services.start_rescheduling(only=DelayedFilter(topic_id=topic, tag="t"), deliver_at=None))
    assert now.done == 3
    until(lambda: services.promote() or not waiting(topic), 30)
    services.tick()
    batch = pull(group)
    assert sorted(bodies(batch)) == ["a", "b", "c"]
    assert sorted(m.origin_id for m in batch.messages) == ids
    assert {(m.tag, m.sharding_key, m.headers["h"]) for m in batch.messages} == {("t", "s", "1")}
    late = drive(services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=None))
    assert late.total == 0


def test_a_delivered_one_says_so_as_its_result():
    topic = new_id()
    delay(topic, "a")
    started = services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=soon(hours=2))
    drive(services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=None))
    until(lambda: services.promote() or not waiting(topic), 30)
    done = drive(started)
    assert (done.state, codes(done)) == ("failed", ["not_delayed"])
    assert "delivered or cancelled" in done.items.get().detail


def test_a_killed_chunk_changes_nothing():
    topic = new_id()
    ids = delay(topic, *"abc")
    started = services.start_cancelling(only=DelayedFilter(topic_id=topic))
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012
        driving.take_on(started.pk)
        raise RuntimeError  # the worker is killed before its commit
    assert sorted(waiting(topic)) == ids
    assert drive(started).done == 3
    assert waiting(topic) == []


def test_a_paused_one_moves_nothing_until_it_is_resumed():
    topic = new_id()
    delay(topic, *"ab")
    started = services.start_cancelling(only=DelayedFilter(topic_id=topic))
    operations.pause(actor=None, operation=started)
    assert (drive(started).state, len(waiting(topic))) == ("paused", 2)
    operations.resume(actor=None, operation=started)
    assert drive(started).state == "succeeded"


def test_operations_on_the_same_messages_the_promoter_and_single_verbs_never_deadlock():
    topic = new_id()
    ids = delay(topic, *(str(n) for n in range(120)), due=soon(seconds=0.2))
    jobs = [
        services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=soon(seconds=1)),
        services.start_rescheduling(only=DelayedFilter(topic_id=topic), deliver_at=None),
        services.start_cancelling(only=DelayedFilter(topic_id=topic)),
    ]

    def single():
        for message_id in ids:
            try:
                services.reschedule_delayed(message_id=message_id, deliver_at=soon(seconds=0.5))
            except Problem as problem:
                assert problem.code in {"not_delayed", "not_found"}  # noqa: PT017

    threads = Threads()
    for job in jobs:
        threads.start(drive, job)
    threads.start(single)
    threads.start(services.promote)
    threads.join(60)
    for job in jobs:
        assert drive(job).settled == 120
        assert job.stumbles == 0
    delivered = sql("SELECT count(*) FROM mq_message WHERE topic_id = %s", topic)
    assert jobs[2].done + delivered + len(waiting(topic)) == 120  # each of them exactly once


@pytest.mark.parametrize("due", [soon(days=-1), soon(days=4000), datetime(2030, 1, 1)], ids=["past", "far", "naive"])
def test_a_time_that_cannot_be_is_refused(due):
    with pytest.raises(Problem) as refused:
        services.start_rescheduling(only=DelayedFilter(topic_id=new_id()), deliver_at=due)
    assert refused.value.code == "delay_out_of_range"


def test_they_are_counted_hour_by_hour():
    topic, other = new_id(), new_id()
    first = soon(hours=5).replace(minute=0, second=0, microsecond=0)
    delay(topic, *"abc", due=first)
    delay(topic, "d", due=first + timedelta(minutes=59, seconds=59))
    delay(topic, "e", due=first + timedelta(hours=2))
    delay(other, "x", due=first)
    found = services.per_hour(start=first + timedelta(minutes=30), hours=3, topic_ids=[topic])
    assert found == [(first, 4), (first + timedelta(hours=1), 0), (first + timedelta(hours=2), 1)]
    assert services.per_hour(start=first, hours=1, topic_ids=[topic, other]) == [(first, 5)]
    assert services.per_hour(start=first, hours=1, topic_ids=None)[0][1] >= 5
