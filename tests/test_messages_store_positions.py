"""Rewind and skip: the preview is what happens, counts stay exact, and undo gives back what was not handed out again."""

from datetime import UTC, datetime, timedelta

import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.models import Reset
from messages.types import DeadFilter, Outcome
from tests.store_world import bodies, counts, expire_now, new_group, new_id, pull, redrive, send, settle, sql, status
from tests.test_messages_store_retention import past  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def topic():
    return new_id()


def preview(group, topic, to):
    return services.preview_reset(group_id=group, topic_id=topic, to=to)


def move(group, topic, to):
    plan = preview(group, topic, to)
    return services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)


def undo(made):
    return services.undo_reset(reset_id=made.pk)


def refused(work):
    with pytest.raises(Problem) as problem:
        work()
    assert problem.value.detail
    return problem.value.code


def words(group, ids):
    return [status(i, group).status for i in ids]


def everything(group):
    """All that says how a group stands, but what only tells that time went by."""
    tables = {
        "mq_cursor": "topic_id, pos, processing, succeeded, later, dead, failed, skipped, filter_no, tags",
        "mq_exception": "msg_id, token, due_at, lease_until, pulled_at, first_at, last_at, attempts, redrives, status, single, error",
    }
    return {
        name: sql(f"SELECT json_agg(x ORDER BY 1) FROM (SELECT {columns} FROM {name} WHERE group_id = %s ORDER BY 1) x", group)
        for name, columns in tables.items()
    }


def mixed(topic, group):
    """One message of each status below the position, one waiting."""
    ids = send(topic, *"abcdefg")
    services.tick()
    batch = pull(group, limit=6, consumer="w1")
    told = zip(batch.messages, ("succeeded", "failed", "dead", "later", "succeeded"), strict=False)
    services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(m.id, word, 3600_000, word) for m, word in told if word != "dead"])
    services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(ids[2], "dead", error="poison")])
    return ids, batch


STATUSES = ["succeeded", "later", "dead", "later", "succeeded", "processing", "waiting"]


def test_fault_05_undo_of_a_rewind_gives_back_dead_letters_retries_leases_and_what_had_succeeded(topic):
    group = new_group(topic)
    ids, batch = mixed(topic, group)
    assert words(group, ids) == STATUSES
    before, was = counts(group), everything(group)
    plan = preview(group, topic, "earliest")
    assert (plan.kind, plan.repeated, plan.first_time, plan.skipped) == ("rewind", 6, 0, 0)
    assert (plan.succeeded, plan.later, plan.dead, plan.processing, plan.failed) == (2, 2, 1, 1, 0)
    assert counts(group) == before
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint, reason="again")
    assert words(group, ids) == ["waiting"] * 7
    assert counts(group) == {"waiting": 7}
    assert {s.problem_code for s in settle(group, batch)} == {"lease_expired"}  # nobody holds it any more
    undone = undo(made)
    assert (undone.state, undone.restored) == (Reset.State.UNDONE, 6)
    assert words(group, ids) == STATUSES
    assert counts(group) == before
    now = everything(group)
    assert now["mq_cursor"] == was["mq_cursor"]
    assert [e for e in now["mq_exception"] if e["status"] != "P"] == was["mq_exception"]
    assert status(ids[0], group).consumer == "w1"
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[5:])} == {None}  # its lease is its own again
    assert words(group, ids)[5] == "succeeded"
    assert refused(lambda: undo(made)) == "already_undone"


def test_a_rewound_group_gets_everything_again_and_its_status_is_the_new_one(topic):
    group = new_group(topic)
    ids, _batch = mixed(topic, group)
    move(group, topic, "earliest")
    batch = pull(group, consumer="w2")
    assert [m.id for m in batch.messages] == ids
    assert {m.attempt for m in batch.messages} == {1}
    assert words(group, ids) == ["processing"] * 7
    settle(group, batch, "failed", messages=batch.messages[:1])
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[1:3])} == {None}
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[1:3])} == {"already_settled"}
    assert words(group, ids) == ["later", *["succeeded"] * 2, *["processing"] * 4]
    settle(group, batch, messages=batch.messages[3:])
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[1:3])} == {"already_settled"}
    assert status(ids[5], group).consumer == "w2"
    assert counts(group) == {"succeeded": 6, "later": 1}


def test_a_rewind_into_the_middle_of_leases_leaves_what_is_before_it_alone(topic):
    group = new_group(topic)
    ids = send(topic, *(str(i) for i in range(12)))
    services.tick()
    done, open_ = pull(group, limit=6, consumer="w1"), pull(group, limit=6)
    settle(group, done)
    settle(group, open_, messages=open_.messages[:1])
    settle(group, open_, "dead", messages=open_.messages[4:5])
    move(group, topic, ids[8])
    assert words(group, ids) == ["succeeded"] * 7 + ["processing"] + ["waiting"] * 4
    assert counts(group) == {"succeeded": 7, "processing": 1, "waiting": 4}
    assert [s.problem_code for s in settle(group, open_, messages=open_.messages[1:3])] == [None, "not_in_lease"]
    move(group, topic, ids[2])
    assert words(group, ids) == ["succeeded"] * 2 + ["waiting"] * 10
    again = pull(group, limit=1, consumer="w2")
    settle(group, again)
    assert words(group, ids) == ["succeeded"] * 3 + ["waiting"] * 9
    assert [status(i, group).consumer for i in ids[:3]] == ["w1", "w1", "w2"]  # who had the first ones is still known
    assert counts(group) == {"succeeded": 3, "waiting": 9}


def test_undo_keeps_what_was_repeated_meanwhile_as_the_repetition_left_it(topic):
    group = new_group(topic)
    ids, _batch = mixed(topic, group)
    made = move(group, topic, "earliest")
    batch = pull(group, limit=3)
    settle(group, batch, "dead", messages=batch.messages[:1])
    settle(group, batch, messages=batch.messages[1:2])
    undone = undo(made)
    assert undone.restored == 3
    assert words(group, ids) == ["dead", "succeeded", "processing", "later", "succeeded", "processing", "waiting"]
    assert counts(group) == {"dead": 1, "succeeded": 2, "processing": 2, "later": 1, "waiting": 1}
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[2:])} == {None}
    assert bodies(pull(group)) == ["g"]


def test_when_all_was_repeated_there_is_nothing_left_to_undo(topic):
    group = new_group(topic)
    send(topic, *"abc")
    settle(group, pull(group))
    made = move(group, topic, "earliest")
    assert services.undoable(group_id=group) == {made.pk}
    settle(group, pull(group))
    assert services.undoable(group_id=group) == set()
    assert refused(lambda: undo(made)) == "nothing_left_to_undo"
    assert counts(group) == {"succeeded": 3}


@pytest.mark.parametrize("change", ["filter", "unsubscribed", "moved", "elsewhere"])
def test_only_the_newest_move_is_undone_and_only_while_nothing_else_was_changed(topic, change):
    other = new_id()
    group = new_group(topic, other)
    ids = send(topic, *"abc")
    settle(group, pull(group))
    made = move(group, topic, "earliest")
    if change == "filter":
        builtin.change_filter(group_id=group, topic_id=topic, tag_expression="x")
    elif change == "unsubscribed":
        builtin.unsubscribe(group_id=group, topic_id=topic)
        builtin.subscribe(group_id=group, topic_id=topic)
    elif change == "moved":
        move(group, topic, ids[1])
    else:
        send(other, "x")
        move(group, other, "latest")
    before = counts(group)
    if change == "elsewhere":
        undo(made)
        assert counts(group) == {"succeeded": 3, "skipped": 1}
    else:
        assert refused(lambda: undo(made)) == "reset_superseded"
        assert counts(group) == before
    assert refused(lambda: services.undo_reset(reset_id=2**40)) == "not_found"


def test_a_stale_preview_does_nothing_whatever_has_changed(topic):
    group = new_group(topic, max_attempts=2)
    send(topic, *"abcd")
    batch = pull(group, limit=2)

    def settled():
        settle(group, batch, "dead", messages=batch.messages[:1])

    def redriven():
        redrive(group, only=DeadFilter())

    changes = [
        lambda: pull(group, limit=1),
        settled,
        redriven,
        lambda: expire_now(group),
        lambda: move(group, topic, "latest"),
        lambda: builtin.change_filter(group_id=group, topic_id=topic, tag_expression="z"),
    ]
    for change in changes:
        plan = preview(group, topic, "earliest")
        change()
        before = everything(group)
        code = refused(
            lambda plan=plan: services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
        )
        assert code == "stale_preview"
        assert everything(group) == before
    for fingerprint in ("", "x", "\x00"):
        assert refused(lambda f=fingerprint: services.reset(group_id=group, topic_id=topic, position=0, fingerprint=f)) in {
            "stale_preview", "beyond_retention",
        }  # fmt: skip


def test_new_messages_make_no_preview_stale(topic):
    group = new_group(topic)
    send(topic, *"ab")
    settle(group, pull(group, limit=1))
    back, ahead = preview(group, topic, "earliest"), preview(group, topic, "latest")
    send(topic, "c")
    services.tick()
    assert ahead.skipped == 1
    services.reset(group_id=group, topic_id=topic, position=ahead.position, fingerprint=ahead.fingerprint)
    assert counts(group) == {"succeeded": 1, "skipped": 1, "waiting": 1}
    assert back.repeated == 1


def test_a_skip_is_counted_and_undone_exactly_while_nothing_was_handed_out_since(topic):
    group = new_group(topic)
    ids, batch = mixed(topic, group)
    ids += send(topic, "h")
    was = everything(group)
    made = move(group, topic, "latest")
    assert (made.kind, made.skipped, made.repeated) == ("skip", 2, 0)
    assert words(group, ids) == [*STATUSES[:6], "skipped", "skipped"]
    assert counts(group) == {"succeeded": 2, "later": 2, "dead": 1, "processing": 1, "skipped": 2}
    assert pull(group).reason == "empty"
    settle(group, batch, messages=batch.messages[5:])  # what is in hand is left alone
    undo(made)
    assert everything(group)["mq_exception"] == was["mq_exception"]
    assert words(group, ids) == [*STATUSES[:5], "succeeded", "waiting", "waiting"]
    assert counts(group) == {"succeeded": 3, "later": 2, "dead": 1, "waiting": 2}
    assert bodies(pull(group)) == ["g", "h"]


def test_a_skip_is_undone_even_when_the_group_has_gone_on(topic, monkeypatch):
    group = new_group(topic, tag_expression="t")
    ids = send(topic, *"abc", tag="t")
    (other,) = send(topic, "x", tag="u")
    services.tick()
    made = move(group, topic, "latest")
    ids += send(topic, "d", tag="t")
    services.tick()
    batch = pull(group)
    assert bodies(batch) == ["d"]
    monkeypatch.setattr("messages.positions.UNDO_MOST", 2)
    assert refused(lambda: undo(made)) == "too_much_to_undo"
    assert counts(group) == {"skipped": 3, "processing": 1}
    monkeypatch.setattr("messages.positions.UNDO_MOST", 3)
    undo(made)
    assert words(group, ids) == ["later"] * 3 + ["processing"]
    assert status(other, group).status == "not_subscribed"
    assert counts(group) == {"later": 3, "processing": 1}
    again = pull(group)
    assert [(m.id, m.attempt) for m in again.messages] == [(i, 1) for i in ids[:3]]
    settle(group, again), settle(group, batch)
    assert counts(group) == {"succeeded": 4}
    assert words(group, ids) == ["succeeded"] * 4


def test_skipped_and_unsubscribed_stretches_are_delivered_for_the_first_time(topic):
    ids = send(topic, *"ab")
    services.tick()
    group = new_group(topic, consume_from="latest")
    ids += send(topic, *"cd")
    services.tick()
    settle(group, pull(group, limit=1))
    skipped = move(group, topic, "latest")
    assert words(group, ids) == ["not_subscribed", "not_subscribed", "succeeded", "skipped"]
    plan = preview(group, topic, ids[0])
    assert (plan.repeated, plan.first_time, plan.succeeded, plan.skipped_before) == (1, 3, 1, 1)
    made = move(group, topic, ids[0])
    assert counts(group) == {"waiting": 4}
    undo(made)
    assert words(group, ids) == ["not_subscribed", "not_subscribed", "succeeded", "skipped"]
    assert counts(group) == {"succeeded": 1, "skipped": 1}
    assert refused(lambda: undo(skipped)) == "reset_superseded"
    move(group, topic, ids[0])
    assert bodies(pull(group)) == list("abcd")


def test_fault_06_what_a_rewound_group_no_longer_wants_is_not_succeeded(topic):
    group = new_group(topic)
    ids = send(topic, "a", tag="a") + send(topic, "b", tag="b")
    services.tick()
    settle(group, pull(group))
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="b")
    plan = preview(group, topic, "earliest")
    assert (plan.repeated, plan.first_time, plan.succeeded) == (1, 0, 2)
    made = move(group, topic, "earliest")
    assert words(group, ids) == ["not_subscribed", "waiting"]
    assert counts(group) == {"waiting": 1}
    undo(made)
    assert words(group, ids) == ["succeeded"] * 2
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="a")  # behind a rewind: old successes stay forgotten
    move(group, topic, "earliest")
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="*")
    assert words(group, ids) == ["waiting"] * 2


def test_fault_14_a_time_never_skips_a_message_that_was_sent_at_or_after_it(topic):
    group = new_group(topic)
    ids = []
    for body in "abcde":
        ids += send(topic, body)
    services.tick()
    settle(group, pull(group))
    sent = [services.message(message_id=i).sent_at for i in ids]
    for i, at in zip(ids, sent, strict=True):
        assert preview(group, topic, at).position == i - 1
    assert preview(group, topic, sent[-1] + timedelta(microseconds=1)).repeated == 0


def test_fault_14_times_are_found_although_nobody_has_ticked_for_minutes(topic):
    """Ids stand still without a tick while the clock goes on; an id made from the time would lie behind all of them."""
    group = new_group(topic)
    ids = send(topic, *(str(i) for i in range(300)))
    services.tick()
    sql("UPDATE mq_message SET sent_at = sent_at + (id - %s) * interval '1 s' WHERE topic_id = %s", ids[0], topic)
    base = sql("SELECT min(sent_at) FROM mq_message WHERE topic_id = %s AND id = %s", topic, ids[0])
    settle(group, pull(group, limit=1000))
    times = [services.message(message_id=i).sent_at for i in ids]
    for number in (1, 120, 299):
        if times[number] > datetime.now(UTC):
            continue
        assert preview(group, topic, times[number]).position == ids[number] - 1
    assert sql("SELECT mq_position_at(%s, %s)", topic, times[250]) == ids[250] - 1
    assert sql("SELECT mq_position_at(%s, %s)", topic, base + timedelta(days=1)) is None


def test_beyond_what_is_kept_there_is_a_problem_and_the_way_out(topic):
    group, stranger = new_group(topic), new_id()
    (message,) = send(topic, "x")
    services.tick()
    settle(group, pull(group))
    before = everything(group)
    oldest = sql("SELECT mq_oldest()")
    for to in (datetime(2020, 1, 2, tzinfo=UTC), oldest - 5, 1):
        with pytest.raises(Problem) as problem:
            preview(group, topic, to)
        assert (problem.value.code, problem.value.status, bool(problem.value.hint)) == ("beyond_retention", 409, True)
        assert problem.value.extra["earliest_id"] == oldest
    assert refused(lambda: services.reset(group_id=group, topic_id=topic, position=5, fingerprint="x")) == "beyond_retention"
    for to in (datetime.now(UTC) + timedelta(hours=1), message + 2**40, 2**63, 2**70, 0, -4):
        assert refused(lambda to=to: preview(group, topic, to)) == "position_ahead"
    assert refused(lambda: services.reset(group_id=group, topic_id=topic, position=2**70, fingerprint="x")) == "position_ahead"
    assert refused(lambda: preview(group, topic, send(new_id(), "elsewhere")[0])) in {"not_found", "position_ahead"}
    assert refused(lambda: preview(group, new_id(), "earliest")) == "not_subscribed"
    assert refused(lambda: preview(stranger, topic, "earliest")) == "not_found"
    assert refused(lambda: move(group, topic, "latest")) == "nothing_changes"
    assert everything(group) == before
    builtin.retire_group(group_id=group)
    assert refused(lambda: preview(group, topic, "earliest")) == "group_retired"


def test_a_rewind_keeps_what_is_to_be_repeated_from_being_dropped(past):  # noqa: F811
    topic = new_id()
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 3)
    settle(group, pull(group))
    made = move(group, topic, "earliest")
    assert made.repeated == 3
    assert past.drop_all() == past.names
    undo(made)
    assert past.drop_all() == []
    assert counts(group) == {"succeeded": 3}
    assert refused(lambda: preview(group, topic, low)) == "beyond_retention"
    assert preview(group, topic, "earliest").repeated == 0


def test_counts_stay_exact_over_a_cut(topic):
    group = new_group(topic)
    ids = send(topic, *(str(i) for i in range(50)), tag="t")
    services.tick()
    settle(group, pull(group, limit=40))
    while sql("SELECT mq_cut(100000, 7)"):
        pass
    made = move(group, topic, ids[13])
    assert counts(group) == {"succeeded": 13, "waiting": 37}
    undo(made)
    assert counts(group) == {"succeeded": 40, "waiting": 10}
