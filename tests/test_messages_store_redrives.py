"""Redrives as operations: a result per message, frozen, paced, watched, resumable; a worker may be killed at any instant."""

import pytest
from django.db import transaction

from clusters.drivers import builtin
from core.errors import Problem
from core.operations import driving
from core.operations import services as operations
from core.operations.models import Operation, OperationItem
from messages import redrives, services
from messages.models import Redrive
from messages.types import DeadFilter
from tests.store_world import Threads, bodies, bury, counts, drive, new_group, new_id, pull, redrive, send, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def any_topic(monkeypatch):
    """The store alone knows no topics of people: all take messages."""
    monkeypatch.setattr(redrives, "open_topics", lambda _actor, ids: list(ids))


@pytest.fixture(autouse=True)
def _cancelled():
    yield
    for operation in Operation.objects.unfinished():
        operations.cancel(actor=None, operation=operation)


def results(operation):
    return [(int(i.key), i.code) for i in OperationItem.objects.filter(operation=operation)]


def hurry(operation):
    """Go on at once, whatever it waits for."""
    sql("UPDATE operations_operation SET not_before = NULL WHERE id = %s", operation.pk)
    return drive(operation)


def counters(operation):
    return operation.state, operation.done, operation.failed, operation.total


def test_redrive_of_selected_messages_delivers_them_again_with_fresh_attempts():
    topic = new_id()
    group = new_group(topic, max_attempts=2)
    ids = bury(topic, group, *"abc")
    done = redrive(group, ids[:2])
    assert counters(done) == ("succeeded", 2, 0, 2)
    assert results(done) == [(i, "") for i in ids[:2]]
    assert list(Redrive.objects.filter(operation=done).order_by("id").values_list("message_id", "new_id")) == [(i, None) for i in ids[:2]]
    assert counts(group) == {"dead": 1, "later": 2}
    batch = pull(group)
    assert [(m.id, m.attempt) for m in batch.messages] == [(i, 1) for i in ids[:2]]
    settle(group, batch, messages=batch.messages[:1])
    assert settle(group, batch, "failed", messages=batch.messages[1:])[0].status == "later"
    again = pull(group)
    assert settle(group, again, "failed", error="again")[0].status == "dead"
    assert counts(group) == {"dead": 2, "succeeded": 1}
    assert {x.id: x.redrives for x in services.dead_letters(group_id=group).items} == {ids[1]: 1, ids[2]: 0}


@pytest.mark.parametrize("to", ["group", "topic"])
def test_it_refuses_per_message_what_is_no_longer_dead(to, any_topic):
    topic = new_id()
    group = new_group(topic)
    a, b = bury(topic, group, *"ab")
    redrive(group, [a])
    settle(group, pull(group))
    done = redrive(group, [a, b, 12345], to=to)
    assert results(done) == [(12345, "not_dead"), (a, "not_dead"), (b, "")]
    assert counters(done) == ("partial", 1, 2, 3)
    assert status(a, group).status == "succeeded"


def test_it_refuses_messages_of_a_topic_that_the_group_has_left():
    topic = new_id()
    group = new_group(topic)
    (a,) = bury(topic, group, "a")
    builtin.unsubscribe(group_id=group, topic_id=topic)
    done = redrive(group, [a])
    assert results(done) == [(a, "not_subscribed")]
    assert done.state == "failed"
    assert counts(group) == {"dead": 1}


def test_a_filter_is_frozen_when_the_redrive_begins():
    topic = new_id()
    group = new_group(topic)
    early = bury(topic, group, *"ab", reason="timeout")
    bury(topic, group, "c", reason="other")
    started = services.start_redrive(group_id=group, only=DeadFilter(topic_id=topic, reason_contains="TIMEOUT"))
    bury(topic, group, "d", reason="timeout")
    assert started.params["values"]["reason_contains"] == "TIMEOUT"
    assert results(drive(started)) == [(i, "") for i in early]
    assert counts(group) == {"dead": 2, "later": 2}


def test_to_a_topic_all_its_groups_get_a_copy_and_the_original_is_closed(any_topic):
    topic, other = new_id(), new_id()
    group, beside = new_group(topic), new_group(topic, other)
    (a,) = bury(topic, group, "a", reason="no stock")
    (z,) = send(topic, "z")
    settle(group, pull(group), "dead")
    settle(beside, pull(beside))
    assert counters(redrive(group, [a], to="topic")) == ("succeeded", 1, 0, 1)
    services.tick()
    for reader in (group, beside):
        (copy,) = pull(reader).messages
        assert (copy.body, copy.headers, copy.topic_id) == (b"a", {"mq-redriven-from": str(a), "mq-redriven-group": str(group)}, topic)
    row = Redrive.objects.get(message_id=a)
    assert (row.new_topic_id, row.new_id) == (topic, copy.id)
    closed = status(a, group)
    assert (closed.status, closed.last_error) == ("failed", "no stock; redriven to a topic")
    assert counts(group) == {"failed": 1, "dead": 1, "processing": 1}
    redrive(group, [z], to="topic", topic_id=other)
    services.tick()
    assert bodies(pull(beside)) == ["z"]
    assert counts(group) == {"failed": 2, "processing": 1}


def test_to_a_topic_large_bodies_are_taken_a_few_at_a_time(any_topic):
    topic = new_id()
    group = new_group(topic)
    ids = send(topic, *("x" * 1000 for _ in range(5)))
    settle(group, pull(group), "dead")
    call = "SELECT array_agg(message_id) FROM mq_redrive_to(%s, 'g', %s, NULL, %s, NULL, NULL, %s)"
    assert sql(call, group, ids, [topic], 1500) == ids[:2]
    assert sql(call, group, ids[2:], [topic], 0) is None
    assert counts(group) == {"dead": 3, "failed": 2, "waiting": 2}


def test_a_topic_that_takes_no_messages_is_refused_before_and_meanwhile(monkeypatch):
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, *"ab")
    with pytest.raises(Problem) as refused:
        redrive(group, ids, to="topic", topic_id=topic)
    assert (refused.value.code, refused.value.status) == ("topic_not_active", 409)
    done = redrive(group, ids, to="topic")  # each message's own: that is seen when its turn comes
    assert results(done) == [(i, "topic_not_active") for i in ids]
    monkeypatch.setattr(redrives, "open_topics", lambda _actor, wanted: list(wanted))
    operations.retry_failed(actor=None, operation=done)
    assert counters(drive(done)) == ("succeeded", 2, 0, 2)


@pytest.mark.parametrize("to", ["group", "topic"])
def test_a_killed_chunk_changes_nothing_and_is_done_again(to, any_topic, monkeypatch):
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *(str(i) for i in range(25)))
    started = services.start_redrive(group_id=group, only=DeadFilter(), plan=services.Plan(to=to))
    driving.take_on(started.pk)  # the empty canary
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012
        driving.take_on(started.pk)
        raise RuntimeError  # the worker is killed before its commit
    assert counts(group) == {"dead": 25}
    assert not Redrive.objects.filter(operation=started).exists()
    assert counters(drive(started)) == ("succeeded", 25, 0, 25)
    services.tick()
    assert counts(group) == ({"later": 25} if to == "group" else {"failed": 25, "waiting": 25})


def test_concurrent_workers_redrive_each_message_once(monkeypatch):
    from dataclasses import replace

    from core.operations import kinds

    monkeypatch.setitem(kinds.discover(), redrives.KIND, replace(kinds.get(redrives.KIND), chunk=7))
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *(str(i) for i in range(200)))
    started = services.start_redrive(group_id=group, only=DeadFilter())

    def worker():
        for _ in range(60):
            driving.take_on(started.pk)

    def consumer():
        for _ in range(30):
            settle(group, pull(group, limit=10))

    threads = Threads()
    for work in (worker, worker, worker, consumer):
        threads.start(work)
    threads.join()
    assert counters(drive(started)) == ("succeeded", 200, 0, 200)
    while (batch := pull(group)).messages:
        settle(group, batch)
    assert counts(group) == {"succeeded": 200}


def test_at_a_rate_no_more_are_taken_than_its_time_allows():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *(str(i) for i in range(12)))
    started = redrive(group, only=DeadFilter(), rate=0.5)  # one in two seconds
    assert (started.state, started.done) == ("running", 1)
    assert started.not_before > started.heartbeat_at
    ago = "UPDATE operations_operation SET not_before = clock_timestamp() - %s * interval '1 second' WHERE id = %s"
    sql(ago, 0, started.pk)
    assert drive(started).done == 2
    sql(ago, 3600, started.pk)  # nobody came for an hour: it catches up on two seconds, no more
    assert 3 <= drive(started).done <= 4
    assert counts(group) == {"dead": 12 - started.done, "later": started.done}


def test_the_others_follow_only_when_the_canary_has_succeeded():
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, *"abcde")
    started = redrive(group, only=DeadFilter(), canary=2)
    assert (started.state, started.done, started.error_code) == ("running", 2, "waiting")
    batch = pull(group)
    assert [m.id for m in batch.messages] == ids[:2]  # the oldest
    settle(group, batch, messages=batch.messages[:1])
    settle(group, batch, "failed", messages=batch.messages[1:])
    assert (hurry(started).done, started.error_code) == (2, "waiting")  # one is still to be retried
    settle(group, pull(group))
    assert counters(hurry(started)) == ("succeeded", 5, 0, 5)
    assert started.error == ""
    assert [(s.name, s.total, s.done) for s in started.steps.all()] == [("canary", 2, 2), ("rest", 3, 3)]


def test_a_canary_that_fails_stops_the_others_until_a_person_decides():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *"abc")
    started = redrive(group, only=DeadFilter(), canary=1)
    settle(group, pull(group), "dead", error="still broken")
    assert (hurry(started).state, started.error_code, started.done) == ("paused", "canary_failed", 1)
    assert counts(group) == {"dead": 3}
    operations.resume(actor=None, operation=started)
    assert counters(drive(started)) == ("succeeded", 3, 0, 3)


def test_a_canary_in_a_topic_is_judged_by_its_groups(any_topic):
    topic, other = new_id(), new_id()
    group, one, two = new_group(topic), new_group(other), new_group(other)
    bury(topic, group, *"ab")
    started = redrive(group, only=DeadFilter(), canary=1, to="topic", topic_id=other)
    services.tick()
    settle(one, pull(one))
    assert (hurry(started).done, started.error_code) == (1, "waiting")  # the other group has not
    settle(two, pull(two))
    assert counters(hurry(started)) == ("succeeded", 2, 0, 2)


def test_it_pauses_at_a_share_of_failures_and_counts_anew_when_resumed(monkeypatch):
    monkeypatch.setattr(redrives, "ENOUGH", 4)
    topic = new_id()
    group = new_group(topic, backoff_ms=(60_000,))
    bury(topic, group, *(str(i) for i in range(12)))
    started = redrive(group, only=DeadFilter(), rate=8.0, stop_at=0.5)  # four in a chunk
    assert started.done == 4
    batch = pull(group)
    settle(group, batch, messages=batch.messages[:2])
    settle(group, batch, "failed", messages=batch.messages[2:])  # to be tried again, but they have failed
    assert (hurry(started).state, started.error_code, started.done) == ("paused", "failure_share_reached", 4)
    operations.resume(actor=None, operation=started)
    assert (drive(started).state, started.done) == ("running", 8)
    settle(group, pull(group))
    hurry(started)
    assert counters(hurry(started)) == ("succeeded", 12, 0, 12)


def test_one_that_is_cancelled_leaves_the_rest_dead():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *"abc")
    started = redrive(group, only=DeadFilter(), rate=0.5)
    operations.cancel(actor=None, operation=started)
    assert (drive(started).state, started.done, started.skipped) == ("cancelled", 1, 2)
    assert counts(group) == {"dead": 2, "later": 1}


def test_a_redrive_of_nothing_finishes():
    assert counters(redrive(new_group(new_id()), only=DeadFilter())) == ("succeeded", 0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"ids": [1], "only": DeadFilter()},
        {"ids": []},
        {"ids": [0]},
        {"ids": [2**63]},
        {"ids": list(range(1, 1002))},
        *({"ids": [1], "plan": services.Plan(**plan)} for plan in ({"rate": 0}, {"rate": 1e9}, {"canary": -1}, {"canary": 1001})),
        *({"ids": [1], "plan": services.Plan(**plan)} for plan in ({"stop_at": 0}, {"stop_at": 1.5}, {"topic_id": 1})),
    ],
    ids=lambda v: str(v)[:60],
)
def test_it_refuses_a_redrive_that_makes_no_sense(bad):
    group = new_group(new_id())
    before = Operation.objects.count()
    with pytest.raises(Problem) as refused:
        services.start_redrive(group_id=group, **bad)
    assert refused.value.code == "invalid_redrive"
    assert Operation.objects.count() == before


def test_it_refuses_an_unknown_group():
    with pytest.raises(Problem) as refused:
        services.start_redrive(group_id=new_id(), only=DeadFilter())
    assert refused.value.code == "not_found"


def test_a_retired_group_gets_nothing_but_its_dead_letters_may_go_to_a_topic(any_topic):
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, "a")
    builtin.retire_group(group_id=group)
    for what in ({"ids": ids}, {"only": DeadFilter()}):
        with pytest.raises(Problem) as refused:
            services.start_redrive(group_id=group, **what)
        assert (refused.value.code, refused.value.status) == ("group_retired", 409)
    assert counts(group) == {"dead": 1}
    assert counters(redrive(group, ids, to="topic")) == ("succeeded", 1, 0, 1)


def test_what_tells_of_messages_that_are_gone_is_forgotten():
    gone, kept = (Redrive.objects.create(group_id=new_id(), message_id=pk) for pk in (1, 2**52))
    assert sql("SELECT mq_forget_redriven()") >= 1
    assert list(Redrive.objects.filter(pk__in=[gone.pk, kept.pk]).values_list("message_id", flat=True)) == [2**52]
    kept.delete()
