"""Subscriptions and spans: several topics with a filter each, changed while running; succeeded is said of acked messages only."""

import pytest

from clusters.drivers import builtin
from core import tags
from core.errors import Problem
from messages import services
from messages.db import fetch
from messages.types import NewMessage, Outcome
from tests.store_world import bodies, counts, expire_now, new_group, new_id, pull, send, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


def tagged(topic, *names):
    """Messages whose body is their tag."""
    return [a.id for a in services.send(topic_id=topic, messages=[NewMessage(n.encode(), tag=n.rstrip("0123456789")) for n in names])]


def words(ids, group):
    return [status(i, group).status for i in ids]


@pytest.mark.parametrize(
    ("expression", "parsed"),
    [
        ("*", None),
        ("", None),
        (" * ", None),
        ("a", ["a"]),
        ("b||a", ["a", "b"]),
        (" a || b || a ", ["a", "b"]),
        ("订单".encode().hex(), ["e8aea2e58d95"]),
    ],
)
def test_tag_expressions(expression, parsed):
    assert tags.parse(expression) == parsed


@pytest.mark.parametrize(
    "expression",
    ["a |", "a || ", "|| a", "a | b", "a b", "a && b", "* || a", "a\x00", "x" * 121, None, 5, " || ".join(f"t{i}" for i in range(65))],
)
def test_it_refuses_an_invalid_tag_expression_and_changes_nothing(expression):
    topic = new_id()
    group = new_group(topic, tag_expression="a")
    with pytest.raises(Problem) as refused:
        builtin.change_filter(group_id=group, topic_id=topic, tag_expression=expression)
    assert refused.value.code == "invalid_tag_expression"
    assert sql("SELECT tags FROM mq_cursor WHERE group_id = %s", group) == ["a"]


def test_a_group_has_several_topics_each_with_its_filter_under_one_lease():
    one, other = new_id(), new_id()
    group = new_group(one)
    builtin.subscribe(group_id=group, topic_id=other, tag_expression="paid || sent")
    plain = tagged(one, "a1", "b1")
    mixed = tagged(other, "paid1", "open1", "sent1")
    batch = pull(group)
    assert sorted(m.id for m in batch.messages) == sorted([*plain, mixed[0], mixed[2]])
    assert {m.topic_id for m in batch.messages} == {one, other}
    assert all(s.status == "succeeded" for s in settle(group, batch))
    assert counts(group) == {"succeeded": 4}
    assert words(mixed, group) == ["succeeded", "not_subscribed", "succeeded"]
    by_topic = services.counts_by_topic(group_id=group)
    assert (by_topic[one].succeeded, by_topic[other].succeeded) == (2, 2)


def test_no_topic_of_a_group_starves_another():
    busy, quiet = new_id(), new_id()
    group = new_group(busy, quiet)
    send(busy, *(str(i) for i in range(300)))
    send(quiet, "quiet")
    pulls = 0
    while "quiet" not in bodies(pull(group, limit=10)):
        pulls += 1
        assert pulls < 25


def test_fault_06_a_group_bound_at_latest_has_not_succeeded_with_old_messages():
    topic = new_id()
    before = send(topic, "old")
    group = new_group(topic, consume_from="latest")
    after = send(topic, "new")
    assert words(before + after, group) == ["not_subscribed", "waiting"]
    batch = pull(group)
    assert bodies(batch) == ["new"]
    settle(group, batch)
    assert words(before + after, group) == ["not_subscribed", "succeeded"]
    assert counts(group) == {"succeeded": 1}


def test_a_group_bound_at_earliest_gets_everything():
    topic = new_id()
    send(topic, "old")
    assert bodies(pull(new_group(topic))) == ["old"]


def test_fault_06_a_changed_filter_neither_loses_nor_repeats_the_past():
    topic = new_id()
    group = new_group(topic, tag_expression="a")
    first = tagged(topic, "a1", "b1")
    held = pull(group)
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="b || c")
    second = tagged(topic, "a2", "b2", "c2")
    services.tick()
    batch = pull(group)
    assert bodies(batch) == ["b1", "b2", "c2"]  # b1 lay above the position, so the new filter sees it
    assert words(first + second, group) == ["processing", "processing", "not_subscribed", "processing", "processing"]
    assert settle(group, held)[0].status == "succeeded"  # under the filter it was handed out with
    settle(group, batch)
    assert words(first + second, group) == ["succeeded", "succeeded", "not_subscribed", "succeeded", "succeeded"]
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="*")
    assert words(first + second, group) == ["succeeded", "succeeded", "not_subscribed", "succeeded", "succeeded"]
    third = tagged(topic, "a3")
    assert bodies(pull(group)) == ["a3"]
    assert counts(group) == {"succeeded": 4, "processing": 1}
    assert words(third, group) == ["processing"]


def test_the_same_filter_again_changes_nothing():
    topic = new_id()
    group = new_group(topic, tag_expression="a || b")
    for _ in range(3):
        builtin.subscribe(group_id=group, topic_id=topic, tag_expression="b||a", consume_from="latest")
    assert sql("SELECT count(*) FROM mq_span WHERE group_id = %s", group) == 1


def test_fault_06_unsubscribing_skips_what_waits_and_gives_up_retries():
    topic = new_id()
    group = new_group(topic, backoff_ms=(60_000,))
    done, retry, leased, waiting = send(topic, "done", "retry", "leased", "waiting")
    batch = pull(group, limit=3)
    services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(done, "succeeded"), Outcome(retry, "failed", error="e")])
    builtin.unsubscribe(group_id=group, topic_id=topic)
    (away,) = send(topic, "away")
    assert words([done, retry, leased, waiting, away], group) == ["succeeded", "failed", "processing", "skipped", "not_subscribed"]
    assert counts(group) == {"succeeded": 1, "failed": 1, "processing": 1, "skipped": 1}
    assert pull(group).reason == "not_subscribed"
    assert services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(leased, "failed")])[0].status == "failed"
    assert counts(group) == {"succeeded": 1, "failed": 2, "skipped": 1}
    builtin.subscribe(group_id=group, topic_id=topic, consume_from="latest")
    (back,) = send(topic, "back")
    assert bodies(pull(group)) == ["back"]
    assert words([done, retry, leased, waiting, away, back], group) == [
        "succeeded",
        "failed",
        "failed",
        "skipped",
        "not_subscribed",
        "processing",
    ]
    assert counts(group) == {"succeeded": 1, "failed": 2, "skipped": 1, "processing": 1}


def test_coming_back_at_earliest_goes_on_where_the_group_stood():
    topic = new_id()
    group = new_group(topic)
    ids = send(topic, *"abc")
    settle(group, pull(group, limit=1))
    builtin.unsubscribe(group_id=group, topic_id=topic)
    ids += send(topic, "d")
    builtin.subscribe(group_id=group, topic_id=topic, consume_from="earliest")
    services.tick()
    assert bodies(pull(group)) == ["b", "c", "d"]
    assert words(ids, group) == ["succeeded", "processing", "processing", "processing"]
    assert counts(group) == {"succeeded": 1, "processing": 3}


def test_a_lease_that_expires_after_unsubscribing_is_given_up():
    topic = new_id()
    group = new_group(topic)
    ids = send(topic, *"ab")
    pull(group)
    builtin.unsubscribe(group_id=group, topic_id=topic)
    expire_now(group)
    assert words(ids, group) == ["failed", "failed"]
    assert counts(group) == {"failed": 2}


def test_a_retired_group_hands_out_nothing_and_keeps_its_history():
    topic = new_id()
    group = new_group(topic)
    ids = send(topic, *"ab")
    settle(group, pull(group, limit=1))
    builtin.retire_group(group_id=group)
    assert pull(group).reason == "retired"
    assert words(ids, group) == ["succeeded", "skipped"]


def test_the_backlog_of_a_topic_says_what_would_be_lost():
    topic = new_id()
    assert builtin.backlog(topic_id=topic).empty
    near, far = new_group(topic), new_group(topic, backoff_ms=(60_000,))
    send(topic, *"abc")
    settle(near, pull(near))
    settle(far, pull(far, limit=1), "failed")
    pull(far, limit=1)
    backlog = builtin.backlog(topic_id=topic)
    assert (backlog.waiting, backlog.processing, backlog.later, backlog.delayed) == (1, 1, 1, 0)
    assert not backlog.empty
    builtin.retire_topic(topic_id=topic)
    assert counts(near) == {"succeeded": 3}
    assert pull(far).reason == "not_subscribed"


def test_a_rare_tag_is_found_behind_many_others_by_bounded_scans():
    topic = new_id()
    group = new_group(topic, tag_expression="rare")
    for _ in range(13):
        services.send(topic_id=topic, messages=[NewMessage(b"x", tag="common")] * 1000)
    tagged(topic, "rare")
    batch = pull(group)  # 13,000 messages in scans of 5,000: the position is kept between them
    assert bodies(batch) == ["rare"]
    assert counts(group) == {"processing": 1}
    settle(group, batch)
    assert counts(group) == {"succeeded": 1}


def test_lag_is_in_messages_and_in_seconds_of_the_oldest():
    topic = new_id()
    group, idle = new_group(topic), new_group(new_id())
    send(topic, *"abc")
    pull(group, limit=1)
    lag = services.lag(group_ids=[group, idle])
    assert lag[group].messages == 2
    assert 0 <= lag[group].seconds < 5
    assert (lag[idle].messages, lag[idle].seconds) == (0, 0.0)


def test_counts_of_many_groups_are_one_statement(monkeypatch):
    topic = new_id()
    groups = [new_group(topic) for _ in range(20)]
    send(topic, *"abc")
    asked = []
    monkeypatch.setattr("messages.querysets.fetch", lambda statement, params=(): asked.append(statement) or fetch(statement, params))
    found = services.counts(group_ids=groups)
    assert [found[g].waiting for g in groups] == [3] * 20
    assert len(asked) == 1
    assert services.counts(group_ids=[]) == {}


def test_counts_stay_exact_across_cuts_of_the_counters():
    topic = new_id()
    group, filtered = new_group(topic), new_group(topic, tag_expression="a")
    total = 0
    for round_ in range(6):
        batch = [NewMessage(b"x", tag="ab"[(i + round_) % 3 == 0]) for i in range(700)]
        services.send(topic_id=topic, messages=batch)
        total += 700
        services.tick()
        while sql("SELECT mq_cut(1000000, 300)"):
            pass
        settle(group, pull(group, limit=123))
        settle(filtered, pull(filtered, limit=77))
        a_in_all = sql("SELECT count(*) FROM mq_message WHERE topic_id = %s AND tag = 'a'", topic)
        assert counts(group) == {"succeeded": 123 * (round_ + 1), "waiting": total - 123 * (round_ + 1)}
        assert counts(filtered) == {"succeeded": 77 * (round_ + 1), "waiting": a_in_all - 77 * (round_ + 1)}
    assert sql("SELECT count(*) FROM mq_stat WHERE topic_id = %s AND tag = '*'", topic) >= 10


def test_a_message_of_a_topic_without_groups_has_no_status():
    (message,) = send(new_id(), "x")
    assert services.message_status(message_id=message) == []
