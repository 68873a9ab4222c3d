"""The timeline of a message: what happened when in each group, from what the store keeps anyway."""

from datetime import UTC, datetime, timedelta

import pytest

from messages import editing, redrives, services
from messages.types import DeadFilter, NewMessage
from tests.store_world import expire_now, new_group, new_id, pull, redrive, send, settle, sql, until

pytestmark = pytest.mark.usefixtures("store")


def told(message_id, group=None):
    events = services.trace(services.message(message_id=message_id))
    return [(e.event, e.attempt) for e in events if e.group_id == group] if group else [e.event for e in events]


def one(message_id, word):
    (found,) = [e for e in services.trace(services.message(message_id=message_id)) if e.event == word]
    return found


def test_one_that_goes_straight_through():
    topic = new_id()
    group, idle = new_group(topic), new_group(topic)
    a, b = send(topic, *"ab")
    assert told(a) == ["sent"]
    batch = pull(group, consumer="w1")
    assert told(a, group) == [("pulled", 1)]
    settle(group, batch)
    assert told(b) == ["sent", "pulled", "succeeded"]
    done = one(b, "succeeded")
    assert (done.group, done.consumer, done.attempt) == (str(group), "w1", 1)
    assert told(b, idle) == []


def test_in_a_batch_each_has_its_own_end():
    topic = new_id()
    group = new_group(topic, tag_expression="x")
    send(topic, "other", tag="y")
    good, bad, slow = send(topic, *"abc", tag="x")
    send(topic, "other", tag="y")
    batch = pull(group)
    assert [m.id for m in batch.messages] == [good, bad, slow]
    settle(group, batch, messages=batch.messages[:1])
    assert told(good, group) == [("pulled", 1)]  # when, is known once the lease has ended
    settle(group, batch, "dead", messages=batch.messages[1:2], error="no stock")
    expire_now(group)
    assert told(good, group) == [("pulled", 1), ("succeeded", 1)]
    assert told(bad, group) == [("pulled", 1), ("failed", 1), ("dead", 1)]
    assert one(bad, "dead").detail == "no stock"
    assert [word for word, _attempt in told(slow, group)] == ["pulled", "failed", "retry"]
    assert one(slow, "failed").detail == "lease expired"


def test_one_that_fails_is_retried_dies_is_redriven_and_succeeds():
    topic = new_id()
    group = new_group(topic, max_attempts=3)
    (a,) = send(topic, "a")
    for n in range(3):
        settle(group, pull(group, consumer=f"w{n}"), "failed", error=f"error {n}")
    assert told(a, group) == [("pulled", 1), ("failed", 1), ("pulled", 3), ("failed", 3), ("dead", 3)]
    assert (one(a, "dead").detail, one(a, "dead").attempt) == ("error 2", 3)
    done = redrive(group, only=DeadFilter())
    back = one(a, "redriven")
    assert (back.group, back.operation, back.message, back.by) == (str(group), str(done.uid), None, None)
    settle(group, pull(group, consumer="w9"))
    assert told(a, group) == [("pulled", 1), ("failed", 1), ("redriven", None), ("pulled", 1), ("succeeded", 1)]
    assert one(a, "succeeded").consumer == "w9"


def test_a_retry_that_is_due_and_one_in_a_workers_hands():
    topic = new_id()
    group = new_group(topic, backoff_ms=(3_600_000,))
    (a,) = send(topic, "a")
    settle(group, pull(group), "failed", error="x")
    (last,) = services.trace(services.message(message_id=a))[-1:]
    assert (last.event, last.attempt) == ("retry", 2)
    assert last.at > datetime.now(UTC) + timedelta(minutes=50)
    sql("UPDATE mq_exception SET due_at = clock_timestamp() WHERE group_id = %s", group)
    pull(group, consumer="w2")
    assert told(a, group) == [("pulled", 1), ("failed", 1), ("pulled", 2)]


def test_a_delayed_one_before_and_after_its_delivery():
    topic = new_id()
    group = new_group(topic)
    due = datetime.now(UTC) + timedelta(hours=1)
    (accepted,) = services.send(topic_id=topic, messages=[NewMessage(b"x", deliver_at=due)])
    assert told(accepted.id) == ["sent", "delayed", "due"]
    assert one(accepted.id, "due").at == due
    services.reschedule_delayed(message_id=accepted.id, deliver_at=datetime.now(UTC))
    until(lambda: services.promote() or services.message(message_id=accepted.id).state == "accepted", 30)
    services.tick()
    settle(group, pull(group))
    assert told(accepted.id) == ["sent", "delayed", "promoted", "pulled", "succeeded"]


def test_original_and_copy_name_each_other(monkeypatch):
    for module in (redrives, editing):
        monkeypatch.setattr(module, "open_topics", lambda _actor, ids: list(ids))
    topic = new_id()
    group = new_group(topic)
    a, b = send(topic, *"ab")
    settle(group, pull(group), "dead", error="broken")
    redrive(group, [a], to="topic")
    edited = services.redrive_edited(group_id=group, message_id=b, edit=services.Edit(body=b"c"))
    for original in (a, b):
        copy = one(original, "redriven").message
        assert one(copy, "redriven_from").message == original
        assert set(told(original, group)[-2:]) == {("given_up", 1), ("redriven", None)}
    assert one(edited.new_id, "sent").topic == str(topic)


def test_a_half_message_is_prepared_and_committed():
    topic = new_id()
    group = new_group(topic)
    made = services.prepare_half(topic_id=topic, message=NewMessage(b"x"))
    assert told(made.id) == ["prepared"]
    services.decide_half(message_id=made.id, decision="commit", by="shop")
    services.tick()
    settle(group, pull(group))
    assert told(made.id) == ["prepared", "committed", "pulled", "succeeded"]
    assert one(made.id, "committed").by == "shop"
