"""Ordered topics: what is handed out when, what holds back what, and what it does to counts, statuses, rewinds and redrives."""

import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.types import NewMessage, Outcome
from tests.store_world import NEEDED, bodies, counts, expire_now, new_group, new_id, pull, redrive, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


def ordered_group(*, ordering="key", stop_key=False, **fields):
    topic = new_id()
    builtin.set_ordering(topic_id=topic, ordering=ordering)
    group = new_group(topic, **fields)
    builtin.set_exhaustion(group_id=group, stop_key=stop_key)
    return topic, group


def send(topic, *names):
    """Messages like a1, a2, b1: the letter is the sharding key, - means none; one commit. Their ids."""
    messages = [NewMessage(n.encode(), sharding_key=None if n[0] == "-" else n[0]) for n in names]
    ids = [a.id for a in services.send(topic_id=topic, messages=messages)]
    services.tick()
    return ids


def outcomes(batch, **by_name):
    return [Outcome(m.id, by_name[m.body.decode()]) for m in batch.messages if m.body.decode() in by_name]


def finish(group, batch, **by_name):
    return [s.problem_code or s.status for s in services.settle(group_id=group, lease=batch.lease, outcomes=outcomes(batch, **by_name))]


def drain(group, limit=10):
    """Everything that can be had now, each batch acked, in the order of handing out."""
    seen = []
    while (batch := pull(group, limit=limit)).messages:
        seen += bodies(batch)
        settle(group, batch)
    return seen


def test_a_key_in_hand_is_left_out_and_goes_on_after_it():
    topic, group = ordered_group()
    send(topic, "a1", "b1", "a2", "b2", "c1")
    first = pull(group, limit=2)
    assert bodies(first) == ["a1", "b1"]
    second = pull(group, limit=2)
    assert bodies(second) == ["c1"]
    assert not pull(group).messages
    assert counts(group) == {"waiting": 2, "processing": 3}
    settle(group, first)
    assert bodies(pull(group)) == ["a2", "b2"]
    assert counts(group) == {"processing": 3, "succeeded": 2}


def test_a_key_comes_in_one_batch_in_order():
    topic, group = ordered_group()
    send(topic, "a1", "a2", "b1", "a3")
    assert bodies(pull(group)) == ["a1", "a2", "b1", "a3"]


def test_messages_without_a_key_are_in_no_order():
    topic, group = ordered_group()
    send(topic, "-1", "-2", "-3")
    first = pull(group, limit=1)
    assert bodies(pull(group)) == ["-2", "-3"]
    assert finish(group, first, **{"-1": "failed"}) == ["later"]
    assert bodies(pull(group)) == ["-1"]


def test_a_failing_key_holds_back_only_itself():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    ids = send(topic, "a1", "b1", "a2", "b2")
    batch = pull(group)
    assert finish(group, batch, a1="failed", b1="succeeded", a2="succeeded", b2="succeeded") == [
        "later",
        "succeeded",
        "held_back",
        "succeeded",
    ]
    assert counts(group) == {"later": 1, "waiting": 1, "succeeded": 2}
    send(topic, "a3", "b3", "c1")
    assert drain(group) == ["b3", "c1"]
    assert counts(group) == {"later": 1, "waiting": 2, "succeeded": 4}
    assert (status(ids[2], group).status, status(ids[2], group).attempts) == ("waiting", 0)
    sql("UPDATE mq_exception SET due_at = clock_timestamp() WHERE group_id = %s AND due_at IS NOT NULL", group)
    retry = pull(group)
    assert bodies(retry) == ["a1"]
    assert retry.messages[0].attempt == 2
    settle(group, retry)
    rest = pull(group)
    assert bodies(rest) == ["a2", "a3"]
    settle(group, rest)
    assert counts(group) == {"succeeded": 7}
    assert all(status(i, group).status == "succeeded" for i in ids)


def test_what_follows_a_failure_is_taken_back_even_if_it_is_settled_later():
    topic, group = ordered_group()
    ids = send(topic, "a1", "a2", "a3", "b1")
    batch = pull(group)
    assert finish(group, batch, a1="failed") == ["later"]
    assert counts(group) == {"later": 1, "waiting": 2, "processing": 1}
    assert finish(group, batch, a2="succeeded", b1="succeeded") == ["held_back", "succeeded"]
    assert finish(group, batch, a3="failed") == ["held_back"]  # the lease has ended meanwhile
    again = pull(group)
    assert bodies(again) == ["a1"]
    settle(group, again)
    both = pull(group)
    assert [m.id for m in both.messages] == ids[1:3]
    assert finish(group, both, a2="failed", a3="succeeded") == ["later", "held_back"]  # as retries, too
    assert finish(group, both, a3="succeeded") == ["held_back"]
    assert drain(group) == ["a2", "a3"]
    assert counts(group) == {"succeeded": 4}


def test_exhausted_goes_to_the_dead_letters_and_its_key_goes_on():
    topic, group = ordered_group(max_attempts=1)
    ids = send(topic, "a1", "a2")
    assert finish(group, pull(group, limit=1), a1="failed") == ["dead"]
    assert drain(group) == ["a2"]
    assert counts(group) == {"dead": 1, "succeeded": 1}
    assert status(ids[0], group).status == "dead"


@pytest.mark.parametrize(
    ("decision", "then", "end"),
    [
        ("retry", ["a1", "a2"], {"succeeded": 3}),
        ("dead_letter", ["a2"], {"succeeded": 2, "dead": 1}),
        ("skip", ["a2"], {"succeeded": 2, "failed": 1}),
    ],
)
def test_exhausted_stops_its_key_until_a_person_decides(decision, then, end):
    topic, group = ordered_group(max_attempts=1, stop_key=True)
    ids = send(topic, "a1", "a2", "b1")
    batch = pull(group)
    assert finish(group, batch, a1="failed", b1="succeeded") == ["later", "succeeded"]
    assert status(ids[0], group).next_retry_at is None
    assert not pull(group).messages
    assert counts(group) == {"later": 1, "waiting": 1, "succeeded": 1}
    stopped = services.stopped_keys(group_id=group)
    assert [(s.message_id, s.sharding_key, s.attempts, s.held_back) for s in stopped] == [(ids[0], "a", 1, 1)]
    assert services.decide_stopped(group_id=group, ids=[ids[0], ids[1]], decision=decision, reason="tests") == {
        ids[0]: "",
        ids[1]: "not_stopped",
    }
    assert services.stopped_keys(group_id=group) == []
    assert drain(group) == then
    assert counts(group) == end


def test_a_message_without_a_key_never_stops_anything():
    topic, group = ordered_group(max_attempts=1, stop_key=True)
    send(topic, "-1")
    assert finish(group, pull(group), **{"-1": "failed"}) == ["dead"]


def test_an_expired_lease_hands_its_keys_out_again_in_order_and_singly():
    topic, group = ordered_group(max_attempts=2)
    send(topic, "a1", "a2", "b1", "a3")
    pull(group)
    expire_now(group)
    assert counts(group) == {"later": 2, "waiting": 2}
    for expected in ("a1", "b1"):
        assert bodies(pull(group)) == [expected]  # alone, and one of each key
    assert not pull(group).messages
    expire_now(group)  # counted now
    assert counts(group) == {"later": 2, "waiting": 2}
    one, other = pull(group), pull(group)
    assert bodies(one) + bodies(other) == ["a1", "b1"]
    settle(group, other)
    expire_now(group)  # buried
    assert counts(group) == {"dead": 1, "later": 1, "waiting": 1, "succeeded": 1}
    assert drain(group) == ["a2", "a3"]


def test_a_redriven_dead_letter_is_delivered_after_what_is_in_hand():
    topic, group = ordered_group(max_attempts=1)
    ids = send(topic, "a1", "a2", "a3")
    finish(group, pull(group, limit=1), a1="failed")
    second = pull(group, limit=1)
    assert bodies(second) == ["a2"]
    redrive(group, ids=[ids[0]])
    assert counts(group) == {"waiting": 2, "processing": 1}
    assert not pull(group).messages
    settle(group, second)
    assert drain(group) == ["a1", "a3"]
    assert counts(group) == {"succeeded": 3}


def test_two_redriven_at_once_come_one_after_the_other():
    topic, group = ordered_group(max_attempts=1)
    ids = send(topic, "a1", "a2", "b1")
    finish(group, pull(group), a1="failed", a2="failed", b1="succeeded")
    redrive(group, ids=ids[:2])
    assert drain(group, limit=1) == ["a1", "a2"]


def test_a_topic_ordered_as_a_whole_has_one_lane():
    topic, group = ordered_group(ordering="topic", backoff_ms=(3_600_000,))
    send(topic, "a1", "-2", "b3")
    batch = pull(group, limit=2)
    assert bodies(batch) == ["a1", "-2"]
    assert not pull(group).messages
    assert counts(group) == {"processing": 2, "waiting": 1}
    assert finish(group, batch, **{"a1": "failed", "-2": "succeeded"}) == ["later", "held_back"]
    assert not pull(group).messages
    sql("UPDATE mq_exception SET due_at = clock_timestamp() WHERE group_id = %s AND due_at IS NOT NULL", group)
    assert drain(group) == ["a1", "-2", "b3"]


def test_equal_keys_of_two_topics_have_nothing_to_do_with_each_other():
    topic, group = ordered_group()
    other = new_id()
    builtin.set_ordering(topic_id=other, ordering="key")
    builtin.subscribe(group_id=group, topic_id=other)
    plain = new_id()
    builtin.subscribe(group_id=group, topic_id=plain)
    for t in (topic, other, plain):
        send(t, "a1")
    held = [pull(group, limit=1) for _ in range(3)]
    assert len({m.topic_id for b in held for m in b.messages}) == 3
    for t in (topic, other, plain):
        send(t, "a2")
    assert [m.topic_id for m in pull(group).messages] == [plain]


def test_a_filter_leaves_out_what_it_does_not_match():
    topic = new_id()
    builtin.set_ordering(topic_id=topic, ordering="key")
    group = new_group(topic, tag_expression="x")
    messages = [NewMessage(f"{k}{i}".encode(), sharding_key=k, tag="xy"[i % 2]) for i in range(4) for k in "ab"]
    services.send(topic_id=topic, messages=messages)
    services.tick()
    batch = pull(group, limit=1)
    assert bodies(batch) == ["a0"]
    assert bodies(pull(group)) == ["b0", "b2"]
    settle(group, batch)
    assert drain(group) == ["a2"]


def test_held_back_messages_have_a_ceiling_and_nothing_is_lost_beyond_it():
    topic, group = ordered_group(max_attempts=1, stop_key=True)
    (bad,) = send(topic, "a0")
    finish(group, pull(group), a0="failed")
    services.send(topic_id=topic, messages=[NewMessage(b"a", sharding_key="a")] * 1000)
    send(topic, "b1")
    assert drain(group) == ["b1"]
    sql("UPDATE mq_cursor SET held = held + 9000 WHERE group_id = %s", group)  # as if so many more were held back
    services.send(topic_id=topic, messages=[NewMessage(b"a", sharding_key="a")] * 3)
    send(topic, "b2")
    assert not pull(group).messages
    assert [*sql("SELECT array(SELECT mq_ready(ARRAY[%s]))", group)] == []
    sql("UPDATE mq_cursor SET held = held - 9000 WHERE group_id = %s", group)
    assert drain(group) == ["b2"]
    assert counts(group)["waiting"] == 1003
    services.decide_stopped(group_id=group, ids=[bad], decision="skip", reason="tests")
    assert len(drain(group, limit=500)) == 1003


def test_nothing_is_written_for_messages_of_a_key_that_is_only_in_hand():
    topic, group = ordered_group()
    send(topic, "a1")
    first = pull(group)
    send(topic, *(f"a{i}" for i in range(2, 10)))
    assert not pull(group).messages
    assert sql("SELECT count(*) FROM mq_exception WHERE group_id = %s", group) == 0
    assert [*sql("SELECT array(SELECT mq_ready(ARRAY[%s]))", group)] == []
    settle(group, first)
    assert [*sql("SELECT array(SELECT mq_ready(ARRAY[%s]))", group)] == [group]
    assert drain(group) == [f"a{i}" for i in range(2, 10)]


def test_a_rewind_and_its_undo_know_what_is_held_back():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    ids = send(topic, "a1", "b1", "a2", "c1")
    batch = pull(group)
    finish(group, batch, a1="failed", b1="succeeded")
    assert counts(group) == {"later": 1, "succeeded": 1, "waiting": 1, "processing": 1}
    plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
    assert (plan.repeated, plan.first_time) == (3, 1)
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    assert counts(group) == {"waiting": 4}
    again = pull(group, limit=2)
    assert bodies(again) == ["a1", "b1"]
    services.undo_reset(reset_id=made.pk)
    assert counts(group) == {"processing": 3, "waiting": 1}
    assert status(ids[2], group).status == "waiting"
    settle(group, again)
    finish(group, batch, c1="succeeded")
    assert drain(group) == ["a2"]
    assert counts(group) == {"succeeded": 4}


def test_a_skip_that_is_taken_back_late_keeps_the_order():
    topic, group = ordered_group()
    send(topic, "a1", "a2", "-3")
    plan = services.preview_reset(group_id=group, topic_id=topic, to="latest")
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    send(topic, "b4")
    assert drain(group) == ["b4"]
    services.undo_reset(reset_id=made.pk)
    assert counts(group) == {"later": 2, "waiting": 1, "succeeded": 1}
    assert sorted(drain(group, limit=1)) == ["-3", "a1", "a2"]
    assert counts(group) == {"succeeded": 4}


def test_unsubscribing_gives_up_what_is_held_back():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    send(topic, "a1", "a2", "a3", "b1")
    finish(group, pull(group, limit=2), a1="failed")
    assert counts(group) == {"later": 1, "waiting": 3}
    builtin.unsubscribe(group_id=group, topic_id=topic)
    assert counts(group) == {"failed": 2, "skipped": 2}


def test_a_lease_that_ended_says_what_became_of_its_messages():
    topic, group = ordered_group()
    ids = send(topic, "a1", "a2")
    batch = pull(group)
    expire_now(group)
    results = services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(i, "succeeded") for i in ids])
    assert [r.problem_code for r in results] == ["lease_expired", "held_back"]


def test_lag_and_what_keeps_a_partition_count_what_is_held_back():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    send(topic, "a1", "a2")
    finish(group, pull(group), a1="failed")
    assert services.lag(group_ids=[group])[group].messages == 1
    assert builtin.backlog_of(group_id=group, topic_id=topic).waiting == 1
    assert builtin.backlog(topic_id=topic).waiting == 1
    needed = sql(f"SELECT string_agg(n.status::text, '' ORDER BY n.status) FROM {NEEDED} WHERE n.group_id = %s", group)
    assert needed == "LW"


def test_the_life_of_a_message_tells_no_failure_that_there_was_not():
    topic, group = ordered_group()
    ids = send(topic, "a1", "a2", "b1")
    first = pull(group, limit=1)
    second = pull(group)
    assert bodies(second) == ["b1"]
    settle(group, first)
    settle(group, second)
    assert drain(group) == ["a2"]
    events = [e for (e,) in _trace(topic, ids[1], group)]
    assert events == ["pulled", "succeeded"]


def _trace(topic, message_id, group):
    from messages.db import fetch

    return fetch("SELECT event FROM mq_trace(%s::bigint, %s::bigint) WHERE group_id = %s::bigint ORDER BY at", (topic, message_id, group))


def test_a_decision_needs_a_reason_and_a_known_word():
    _topic, group = ordered_group()
    with pytest.raises(Problem, match="retry, dead_letter or skip"):
        services.decide_stopped(group_id=group, ids=[1], decision="forget", reason="tests")


def test_a_message_that_kills_its_worker_stops_its_key_at_the_limit():
    topic, group = ordered_group(max_attempts=2, stop_key=True)
    ids = send(topic, "a1", "a2", "b1")
    for _crash in range(2):
        assert bodies(pull(group, limit=1)) == ["a1"]
        expire_now(group)
    assert drain(group, limit=1) == ["b1"]
    assert [s.message_id for s in services.stopped_keys(group_id=group)] == [ids[0]]
    assert counts(group) == {"later": 1, "waiting": 1, "succeeded": 1}


def test_a_rare_tag_is_looked_for_in_steps_on_an_ordered_topic_too():
    topic = new_id()
    builtin.set_ordering(topic_id=topic, ordering="key")
    group = new_group(topic, tag_expression="x")
    services.send(topic_id=topic, messages=[NewMessage(b"", sharding_key="a", tag="y")] * 600)
    services.tick()
    assert not pull(group).messages
    assert sql("SELECT pos FROM mq_cursor WHERE group_id = %s", group) > 0  # it remembers how far it got
    services.send(topic_id=topic, messages=[NewMessage(b"found", sharding_key="a", tag="x")])
    services.tick()
    assert drain(group) == ["found"]


def test_a_topic_that_gets_its_order_late_has_it_for_its_groups():
    topic = new_id()
    group = new_group(topic)
    builtin.set_ordering(topic_id=topic, ordering="key")  # as when it is moved here from a broker
    send(topic, "a1", "a2")
    assert bodies(pull(group, limit=1)) == ["a1"]
    assert not pull(group).messages


def test_a_decision_frees_only_keys_that_stand_still():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    ids = send(topic, "a1", "a2")
    finish(group, pull(group), a1="failed")
    assert services.decide_stopped(group_id=group, ids=ids, decision="skip", reason="tests") == dict.fromkeys(ids, "not_stopped")
    assert counts(group) == {"later": 1, "waiting": 1}


def test_what_has_expired_holds_back_nothing_and_what_is_held_back_expires():
    topic, group = ordered_group(backoff_ms=(3_600_000,))
    old = send(topic, "a1", "a2", "b1")
    finish(group, pull(group), a1="failed", b1="succeeded")
    builtin.set_limits(topic_id=topic, ttl_seconds=3600, max_length=0)
    (new,) = send(topic, "a3")
    assert not pull(group).messages
    sql("UPDATE mq_limit SET expired_id = %s WHERE topic_id = %s", old[-1], topic)
    sql("UPDATE mq_exception SET due_at = clock_timestamp() WHERE group_id = %s AND due_at IS NOT NULL", group)
    assert [m.id for m in pull(group).messages] == [new]
    assert counts(group) == {"dead": 2, "succeeded": 1, "processing": 1}


def test_what_expired_without_being_taken_is_redriven_in_its_keys_turn():
    topic, group = ordered_group()
    old = send(topic, "a1")
    builtin.set_limits(topic_id=topic, ttl_seconds=3600, max_length=0)
    sql("UPDATE mq_limit SET expired_id = %s WHERE topic_id = %s", old[-1], topic)
    send(topic, "a2", "a3")
    first = pull(group, limit=1)
    assert bodies(first) == ["a2"]
    redrive(group, ids=old)
    assert not pull(group).messages
    settle(group, first)
    assert drain(group) == ["a1", "a3"]
