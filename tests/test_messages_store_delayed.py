"""Delayed messages: never early, found by the producer's id all the time, cancel and reschedule against the promoter."""

import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.types import DelayedFilter, NewMessage
from tests.store_world import Threads, bodies, new_group, new_id, pull, send, session, settle, sql, status, until

pytestmark = pytest.mark.usefixtures("store")


def soon(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def delay(topic, body, seconds, **fields):
    (accepted,) = services.send(topic_id=topic, messages=[NewMessage(body.encode(), deliver_at=soon(seconds), **fields)])
    assert accepted.state == "delayed"
    return accepted.id


def test_fault_15_a_delayed_message_keeps_its_identity_before_and_after_promotion():
    topic = new_id()
    group = new_group(topic)
    message = delay(topic, "x", 1.5, key="k", tag="t", headers={"h": "1"}, sharding_key="s")
    before = services.message(message_id=message)
    assert (before.id, before.state, before.body, before.topic_id) == (message, "delayed", b"x", topic)
    assert services.message_status(message_id=message) == []
    assert pull(group).messages == []
    services.promote()
    assert pull(group).messages == []
    time.sleep(1.55)
    assert services.promote() >= 1
    (delivered,) = (batch := pull(group)).messages
    assert (delivered.origin_id, delivered.key, delivered.tag, delivered.headers, delivered.sharding_key) == (
        message,
        "k",
        "t",
        {"h": "1"},
        "s",
    )
    after = services.message(message_id=message)
    assert (after.id, after.origin_id, after.state) == (delivered.id, message, "accepted")
    settle(group, batch)
    assert status(message, group).status == "succeeded"
    assert status(delivered.id, group).status == "succeeded"


def test_delayed_messages_are_never_early_and_all_arrive():
    topic = new_id()
    group = new_group(topic)
    due = {delay(topic, str(i), 0.05 + (i % 10) / 10): None for i in range(60)}
    due = {i: services.message(message_id=i).deliver_at for i in due}
    arrived = {}
    end = time.monotonic() + 5
    while len(arrived) < 60 and time.monotonic() < end:
        services.promote()
        for m in pull(group).messages:
            arrived[m.origin_id] = datetime.now(UTC)
        time.sleep(0.02)
    assert arrived.keys() == due.keys()
    assert all(arrived[i] >= due[i] for i in due)


def test_they_are_listed_by_time_and_topic_in_pages():
    topic, other = new_id(), new_id()
    ids = [delay(topic, str(i), 3600 + i) for i in range(5)]
    delay(other, "other", 3600)
    page = services.delayed_messages(only=DelayedFilter(topic_id=topic), limit=2)
    assert [m.id for m in page.items] == ids[:2]
    assert page.items[0].body == b""
    assert page.items[0].body_bytes == 1
    second = services.delayed_messages(only=DelayedFilter(topic_id=topic), limit=2, cursor=page.next)
    third = services.delayed_messages(only=DelayedFilter(topic_id=topic), limit=2, cursor=second.next)
    assert [m.id for m in second.items + third.items] == ids[2:]
    assert third.next is None
    at = services.message(message_id=ids[2]).deliver_at
    assert [m.id for m in services.delayed_messages(only=DelayedFilter(topic_id=topic, due_from=at, due_to=at)).items] == [ids[2]]
    for cursor in ("x", "2026-01-01_1", "2026-01-01T00:00:00+00:00_x"):
        with pytest.raises(Problem) as refused:
            services.delayed_messages(cursor=cursor)
        assert refused.value.code == "invalid_cursor"


def test_a_cancelled_message_never_arrives():
    topic = new_id()
    group = new_group(topic)
    message = delay(topic, "x", 0.1)
    assert services.cancel_delayed(message_id=message) == topic
    time.sleep(0.15)
    services.promote()
    assert pull(group).messages == []
    for verb in (lambda: services.message(message_id=message), lambda: services.cancel_delayed(message_id=message)):
        with pytest.raises(Problem) as refused:
            verb()
        assert refused.value.code == "not_found"


def test_a_rescheduled_message_arrives_at_its_new_time_even_years_away_and_back():
    topic = new_id()
    group = new_group(topic)
    message = delay(topic, "x", 3600)
    far = soon(3 * 365 * 86400)
    services.reschedule_delayed(message_id=message, deliver_at=far)
    assert services.message(message_id=message).deliver_at == far
    assert services.reschedule_delayed(message_id=message, deliver_at=soon(0)) == far
    time.sleep(0.02)
    services.promote()
    assert bodies(pull(group)) == ["x"]
    with pytest.raises(Problem) as refused:
        services.reschedule_delayed(message_id=message, deliver_at=soon(10))
    assert refused.value.code == "not_delayed"
    with pytest.raises(Problem) as refused:
        services.cancel_delayed(message_id=message)
    assert refused.value.code == "not_delayed"


@pytest.mark.parametrize("deliver_at", [soon(-3600), soon(11 * 365 * 86400), datetime(2030, 1, 1)])
def test_it_refuses_to_reschedule_out_of_range(deliver_at):
    message = delay(new_id(), "x", 3600)
    with pytest.raises(Problem) as refused:
        services.reschedule_delayed(message_id=message, deliver_at=deliver_at)
    assert refused.value.code == "delay_out_of_range"


@pytest.mark.parametrize("message_id", [0, -1, 2**63, 2**70, 12345])
def test_it_does_not_know_other_ids(message_id):
    for verb in (services.message, services.message_status, services.cancel_delayed):
        with pytest.raises(Problem) as refused:
            verb(message_id=message_id)
        assert refused.value.code == "not_found"


def test_cancel_and_reschedule_race_the_promoter_and_each_message_has_one_fate():
    topic = new_id()
    group = new_group(topic)
    # Every second one is an hour ahead: however slow the machine, there is something to move.
    ids = [delay(topic, str(i), random.Random(i).uniform(0, 1.2) if i % 2 else 3600) for i in range(150)]
    cancelled, moved, lock_free_errors = set(), set(), []
    end = time.monotonic() + 1.6

    def promoter():
        while time.monotonic() < end:
            services.promote()

    def canceller(seed):
        for message in random.Random(seed).sample(ids, 60):
            try:
                services.cancel_delayed(message_id=message)
                assert message not in cancelled
                cancelled.add(message)
            except Problem as problem:
                lock_free_errors.append(problem.code)
            time.sleep(0.01)

    def mover(seed):
        for message in random.Random(seed).sample(ids, 60):
            try:
                services.reschedule_delayed(message_id=message, deliver_at=soon(random.Random(seed + message).uniform(0, 0.5)))
                moved.add(message)
            except Problem as problem:
                lock_free_errors.append(problem.code)
            time.sleep(0.01)

    threads = Threads()
    for work in (promoter, promoter, lambda: canceller(1), lambda: canceller(2), lambda: mover(3), lambda: mover(4)):
        threads.start(work)
    threads.join()
    for message in ids:
        with suppress(Problem):
            services.reschedule_delayed(message_id=message, deliver_at=soon(0))
    time.sleep(0.5)
    services.promote()
    arrived = [m.origin_id for m in pull(group, limit=1000).messages]
    assert len(arrived) == len(set(arrived))
    assert set(arrived) | cancelled == set(ids)
    assert not set(arrived) & cancelled
    assert set(lock_free_errors) <= {"not_found", "not_delayed"}
    assert cancelled
    assert moved


def test_the_promoter_goes_on_in_bounded_steps(monkeypatch):
    monkeypatch.setattr("messages.delayed.PROMOTE", 10)
    topic = new_id()
    group = new_group(topic)
    services.send(topic_id=topic, messages=[NewMessage(str(i).encode(), deliver_at=soon(0)) for i in range(35)])
    time.sleep(0.02)
    assert services.promote() >= 35
    assert bodies(pull(group)) == [str(i) for i in range(35)]


def test_retrying_a_delayed_send_after_its_promotion_returns_the_first_id():
    topic = new_id()
    group = new_group(topic)
    m = NewMessage(b"x", producer_id="p", deliver_at=soon(0))
    (first,) = services.send(topic_id=topic, messages=[m])
    time.sleep(0.02)
    services.promote()
    (again,) = services.send(topic_id=topic, messages=[m])
    assert (again.id, again.state, again.duplicate) == (first.id, "delayed", True)
    services.promote()
    assert len(pull(group).messages) == 1


def test_a_delayed_message_does_not_overtake_or_block_others():
    topic = new_id()
    group = new_group(topic)
    delay(topic, "delayed", 3600)
    send(topic, "now")
    assert bodies(pull(group)) == ["now"]
    assert sql("SELECT delayed FROM mq_backlog(%s)", topic) == 1


def test_retiring_a_topic_cancels_its_delayed_messages_also_one_that_is_being_rescheduled():
    topic, other = new_id(), new_id()
    group = new_group(topic)
    ids = [delay(topic, "x", 3600) for _ in range(5)]
    kept = delay(other, "y", 3600)
    with session(autocommit=False) as moving:
        moving.execute("SELECT mq_delayed_reschedule(%s, now() + interval '90 days')", (ids[0],))
        cancelled, threads = [], Threads()
        threads.start(lambda: cancelled.append(builtin.retire_topic(topic_id=topic)))
        waits = "wait_event_type = 'Lock' AND query LIKE '%%mq_topic_retire%%' AND datname = current_database()"
        until(lambda: sql(f"SELECT count(*) FROM pg_stat_activity WHERE {waits}"))
        moving.commit()
        threads.join()
    assert cancelled == [5]
    assert sql("SELECT count(*) FROM mq_delayed WHERE topic_id = %s", topic) == 0
    assert pull(group).reason == "not_subscribed"
    assert builtin.retire_topic(topic_id=topic) == 0
    assert services.message(message_id=kept).state == "delayed"
    unheard = new_id()  # nobody has ever subscribed
    delay(unheard, "z", 3600)
    assert builtin.retire_topic(topic_id=unheard) == 1
