"""Retention of single topics: below its floor everything is gone for every verb; what groups need is protected or skipped; exact counts."""

import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection

from clusters.drivers import builtin
from core.errors import Problem
from messages import retention, services, storekeeper
from messages.storekeeper import Retention
from messages.types import DeadFilter, NewMessage, Outcome
from tests import test_messages_store_broadcast as world
from tests.store_world import (
    Threads,
    bodies,
    counts,
    drive,
    expire_now,
    new_group,
    new_id,
    pull,
    redrive,
    send,
    session,
    settle,
    sql,
    status,
    until,
)
from tests.test_messages_store_retention import past

__all__ = ["past"]
pytestmark = pytest.mark.usefixtures("store")


def keep(topic, mode, *, age=0, size=0):
    builtin.set_retention(topic_id=topic, mode=mode, age_seconds=age, size_bytes=size)


def retain():
    """Of all topics; other tests' topics have rules, too."""
    services.tick()
    return services.retain(every="0 s")


def older(topic, ids, seconds=7200):
    sql("UPDATE mq_message SET sent_at = sent_at - %s * interval '1 s' WHERE topic_id = %s AND id = ANY (%s)", seconds, topic, ids)


def words(ids, group):
    return [status(i, group).status for i in ids]


def there(topic, ids):
    """Which of them are found by their id, with their life."""
    found = []
    for i in ids:
        with contextlib.suppress(Problem):
            services.trace(services.message(message_id=i))
            found.append(i)
    return found


def listed(topic, **fields):
    return sorted(m.id for m in services.search(topic_id=topic, limit=500, **fields).items)


@pytest.fixture
def topic():
    return new_id()


def test_without_a_rule_nothing_goes_and_by_done_it_goes_when_the_last_group_is_done(topic):
    quick, slow, other = new_group(topic), new_group(topic), new_group(topic, tag_expression="b")
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"", tag=t, key="k") for t in "aabba"])]
    settle(quick, pull(quick))
    older(topic, ids, 10**7)
    retain()
    assert there(topic, ids) == listed(topic) == ids
    keep(topic, "done")
    retain()
    assert there(topic, ids) == ids
    settle(slow, pull(slow, limit=2))
    settle(other, pull(other))
    retain()
    assert (there(topic, ids), listed(topic), listed(topic, key="k")) == (ids[2:], ids[2:], ids[2:])
    assert words(ids[2:], quick) == ["succeeded"] * 3
    assert services.search(topic_id=topic, message_id=ids[0]).items == []
    batch = pull(slow)
    retain()  # in hand is not waiting
    assert there(topic, ids) == ids[2:]
    assert listed(topic) == []
    settle(slow, batch)
    assert there(topic, ids) == []
    assert [counts(g) for g in (quick, slow, other)] == [{"succeeded": 5}, {"succeeded": 5}, {"succeeded": 2}]
    (new,) = send(topic, "new", tag="b")
    assert [bodies(pull(g)) for g in (quick, slow, other)] == [["new"]] * 3
    assert listed(topic) == [new]


def test_with_an_age_it_stays_that_long_and_then_until_all_groups_are_done(topic):
    keep(topic, "done", age=3600)
    group, behind = new_group(topic), new_group(topic)
    ids = send(topic, *"abc")
    young = send(topic, "d")
    settle(group, pull(group))
    settle(behind, pull(behind, limit=2))
    retain()
    assert listed(topic) == ids + young
    older(topic, ids)
    retain()
    assert listed(topic) == ids[2:] + young
    settle(behind, pull(behind))
    retain()
    assert listed(topic) == young
    keep(topic, None)  # what has gone does not come back
    older(topic, young)
    retain()
    assert listed(topic) == young


def test_by_the_limits_alone_what_waits_is_skipped_and_what_a_group_was_handed_stays_its_own(topic):
    group, untouched, tagged = new_group(topic, max_attempts=9), new_group(topic), new_group(topic, tag_expression="b")
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"x", tag="b" if i % 2 else "a") for i in range(8)])]
    batch = pull(group, limit=5)
    outcomes = [Outcome(i, w) for i, w in zip(ids, ("succeeded", "later", "dead", "dead"), strict=False)]
    outcomes[1] = Outcome(ids[1], "later", 0)
    services.settle(group_id=group, lease=batch.lease, outcomes=outcomes)
    older(topic, ids)
    young = send(topic, "young", tag="b")
    services.tick()
    keep(topic, "limit", age=3600)
    assert retain() >= 3
    assert counts(group) == {"succeeded": 1, "later": 1, "dead": 2, "processing": 1, "skipped": 3, "waiting": 1}
    assert (counts(untouched), counts(tagged)) == ({"skipped": 8, "waiting": 1}, {"skipped": 4, "waiting": 1})
    assert there(topic, ids + young) == ids[1:5] + young
    assert listed(topic) == young
    assert (words(ids[1:5], group), words(ids[1:2], tagged)) == (["later", "dead", "dead", "processing"], ["skipped"])
    assert [m.id for m in services.dead_letters(group_id=group).items] == [ids[3], ids[2]]
    again = pull(group)
    assert [m.id for m in again.messages] == [ids[1], young[0]]
    assert {s.problem_code for s in settle(group, again)} == {None}
    assert settle(group, batch, messages=batch.messages[4:])[0].status == "succeeded"
    redrive(group, [ids[2]])
    back = pull(group)
    assert bodies(back) == ["x"]
    settle(group, back)
    drive(services.start_purge(group_id=group, only=DeadFilter(), reason="done with"))
    assert there(topic, ids + young) == young
    assert counts(group) == {"succeeded": 5, "failed": 1, "skipped": 3}
    assert [bodies(pull(g)) for g in (untouched, tagged)] == [["young"]] * 2


def test_a_group_that_stands_still_is_passed_again_and_again_with_one_span_and_exact_counts(topic):
    keep(topic, "limit", age=3600)
    group, suspended = new_group(topic, tag_expression="a || b"), new_group(topic)
    builtin.update_group(group_id=suspended, max_attempts=3, backoff_ms=[0], suspended=True)
    for step in range(4):
        older(topic, [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"", tag=t) for t in "abc"])])
        retain()
        assert (counts(group), counts(suspended)) == ({"skipped": 2 * step + 2}, {"skipped": 3 * step + 3})
    assert sql("SELECT count(*) FROM mq_span WHERE group_id = %s", group) == 2
    (young,) = send(topic, "young", tag="a")
    assert [m.id for m in pull(group).messages] == [young]


def test_a_topic_is_kept_to_about_its_size_and_says_so(topic):
    group = new_group(topic)
    for _batch in range(4):
        services.send(topic_id=topic, messages=[NewMessage(os.urandom(5000)) for _message in range(100)])
    services.tick()
    kept = services.retention(topic_id=topic)
    assert kept.messages == 400
    assert 400 * 5000 < kept.bytes < 400 * 5400
    keep(topic, "limit", size=1_000_000)
    retain()
    kept = services.retention(topic_id=topic)
    assert 170 < kept.messages < 200
    assert 800_000 < kept.bytes <= 1_000_000
    assert counts(group) == {"waiting": kept.messages, "skipped": 400 - kept.messages}
    assert len(listed(topic)) == kept.messages
    retain()
    assert services.retention(topic_id=topic).messages == kept.messages
    keep(topic, "done", size=1000)  # the group needs them
    retain()
    assert services.retention(topic_id=topic).messages == kept.messages
    settle(group, pull(group, limit=1000))
    retain()
    assert services.retention(topic_id=topic).messages <= 1


def test_no_rewind_goes_below_the_floor_and_what_it_brings_back_is_protected(topic):
    group = new_group(topic)
    ids = send(topic, *"abcdefgh")
    settle(group, pull(group))
    older(topic, ids[:3])
    services.tick()
    keep(topic, "done", age=3600)
    retain()
    for target in (ids[0], ids[2]):
        with pytest.raises(Problem) as refused:
            services.preview_reset(group_id=group, topic_id=topic, to=target)
        assert (refused.value.code, refused.value.extra["earliest_id"]) == ("beyond_retention", ids[2] + 1)
        assert refused.value.hint
    sent = sql("SELECT sent_at FROM mq_message WHERE topic_id = %s AND id = %s", topic, ids[1])
    with pytest.raises(Problem) as refused:
        services.preview_reset(group_id=group, topic_id=topic, to=sent)
    assert refused.value.code == "beyond_retention"
    plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
    assert (plan.position, plan.repeated) == (ids[2], 5)
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    older(topic, ids)
    retain()
    assert listed(topic) == ids[3:]
    settle(group, pull(group, limit=2))
    retain()
    assert listed(topic) == ids[5:]
    services.undo_reset(reset_id=made.pk)
    retain()
    assert listed(topic) == []
    assert counts(group) == {"succeeded": 8}
    with pytest.raises(Problem) as stale:
        services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    assert stale.value.code == "beyond_retention"


@pytest.mark.parametrize("goes_on", [False, True])
def test_of_a_skip_that_is_taken_back_what_has_gone_stays_skipped(topic, goes_on):
    group = new_group(topic)
    ids = send(topic, *"abcdef")
    services.tick()
    settle(group, pull(group, limit=1))
    plan = services.preview_reset(group_id=group, topic_id=topic, to=ids[4])
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    if goes_on:
        settle(group, pull(group))
    older(topic, ids[:2])
    keep(topic, "limit", age=3600)
    retain()
    assert services.undo_reset(reset_id=made.pk).restored == 2
    assert words(ids[2:], group) == (["later"] * 2 + ["succeeded"] * 2 if goes_on else ["waiting"] * 4)
    settle(group, pull(group))
    assert counts(group) == {"succeeded": 5, "skipped": 1}
    assert words(ids[2:], group) == ["succeeded"] * 4


def test_a_skip_that_has_gone_whole_is_not_taken_back(topic):
    group = new_group(topic)
    ids = send(topic, *"abcd")
    services.tick()
    plan = services.preview_reset(group_id=group, topic_id=topic, to=ids[2])
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    older(topic, ids[:3])
    keep(topic, "limit", age=3600)
    retain()
    with pytest.raises(Problem) as refused:
        services.undo_reset(reset_id=made.pk)
    assert refused.value.code == "nothing_left_to_undo"
    assert counts(group) == {"skipped": 3, "waiting": 1}


def test_who_comes_later_begins_behind_the_floor_and_a_new_filter_brings_nothing_back(topic):
    some, gone = new_group(topic, tag_expression="a"), new_group(topic, tag_expression="a")
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"", tag=t) for t in "abab"])]
    settle(some, pull(some, limit=1))
    builtin.unsubscribe(group_id=gone, topic_id=topic)
    assert counts(gone) == {"skipped": 2}
    settle(some, pull(some))
    young = send(topic, "young", tag="b")
    older(topic, ids)
    keep(topic, "done", age=3600)
    retain()
    builtin.change_filter(group_id=some, topic_id=topic, tag_expression="*")
    late = new_group(topic)
    builtin.subscribe(group_id=gone, topic_id=topic, consume_from="earliest")
    assert (counts(some), counts(late)) == ({"succeeded": 2, "waiting": 1}, {"waiting": 1})
    assert counts(gone) == {"skipped": 2, "waiting": 1}
    assert [[m.id for m in pull(g).messages] for g in (some, late, gone)] == [young] * 3


def test_all_instances_of_a_broadcast_group_are_waited_for_or_passed(topic):
    group = world.new_broadcast(topic)
    for name in ("one", "two"):
        world.pull(group, name)
    ids = send(topic, *"abc")
    services.tick()
    world.settle(group, world.pull(group, "one"))
    keep(topic, "done")
    retain()
    assert listed(topic) == ids
    world.settle(group, world.pull(group, "two", limit=1))
    retain()
    assert listed(topic) == ids[1:]
    plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
    assert plan.repeated == 2
    with pytest.raises(Problem):
        services.preview_reset(group_id=group, topic_id=topic, to=ids[0])
    older(topic, ids)
    keep(topic, "limit", age=3600)
    retain()
    assert world.pull(group, "three").reason == "empty"
    assert counts(group) == {"succeeded": 4, "skipped": 2}
    assert listed(topic) == []


def test_a_rewind_that_is_under_way_is_waited_for_and_not_undermined(topic):
    group = new_group(topic)
    ids = send(topic, *"abcd")
    services.tick()
    settle(group, pull(group))
    keep(topic, "done")
    plan = services.preview_reset(group_id=group, topic_id=topic, to=ids[2])
    threads = Threads()
    with session(autocommit=False) as rewind:
        rewind.execute("SELECT mq_reset(%s, %s, %s, %s)", (group, topic, plan.position, plan.fingerprint))
        threads.start(retain)
        until(lambda: sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"), 30)
        rewind.commit()
    threads.join()
    assert counts(group) == {"succeeded": 2, "waiting": 2}
    assert listed(topic) == ids[2:]
    assert [m.id for m in pull(group).messages] == ids[2:]


def test_nobody_is_let_below_where_the_floor_goes_and_it_arrives_when_the_last_position_has(topic):
    first, second = new_group(topic), new_group(topic)
    ids = send(topic, *"abcd")
    services.tick()
    settle(first, pull(first, limit=1))
    older(topic, ids[:3])
    keep(topic, "limit", age=3600)
    assert sql("SELECT mq_retention_look(%s)", topic) is True
    assert listed(topic) == ids  # as long as somebody may still be handed them
    assert (counts(first), counts(new_group(topic))) == ({"succeeded": 1, "waiting": 3}, {"waiting": 1})
    with pytest.raises(Problem):
        services.preview_reset(group_id=first, topic_id=topic, to=ids[0])
    assert sql("SELECT mq_retention_pass(%s, %s)", first, topic) == 2
    sql("SELECT mq_retention_arrive(%s)", topic)
    assert listed(topic) == ids
    settle(second, pull(second, limit=3))
    sql("SELECT mq_retention_arrive(%s)", topic)
    assert listed(topic) == ids[3:]
    assert (counts(first), counts(second)) == ({"succeeded": 1, "skipped": 2, "waiting": 1}, {"succeeded": 3, "waiting": 1})


def test_a_lease_below_the_floor_may_expire_and_its_messages_are_handed_out_again(topic):
    keep(topic, "done")
    group = new_group(topic)
    ids = send(topic, *"ab")
    batch = pull(group)
    retain()
    assert listed(topic) == []
    expire_now(group)
    assert there(topic, ids) == ids
    got = [m.id for _pull in ids for m in pull(group).messages]
    assert got == ids
    assert {s.problem_code for s in settle(group, batch)} == {"lease_expired"}
    assert counts(group) == {"processing": 2}


def test_a_topic_that_fails_holds_up_no_other(topic, monkeypatch):
    other = new_id()
    group, second = new_group(topic), new_group(other)
    settle(group, (send(topic, "a"), pull(group))[1])
    settle(second, (send(other, "b"), pull(second))[1])
    keep(topic, "done")
    keep(other, "done")
    fetch = retention.fetch

    def failing(statement, params=()):
        if "mq_retention_look" in statement and params == (topic,):
            return fetch("SELECT 1/0")
        return fetch(statement, params)

    monkeypatch.setattr(retention, "fetch", failing)
    retain()
    assert (len(listed(topic)), len(listed(other))) == (1, 0)


def test_the_rule_of_a_topic_is_one_of_three():
    with pytest.raises(psycopg.errors.CheckViolation), session() as other:
        other.execute("SELECT mq_retention_put(1, 'X', 0, 0)")


def drop_what_can_go(keeper):
    """Run the storekeeper's chore to its end: what is left of the partitions of years ago."""
    chore = Retention()
    while not chore(keeper):
        pass
    return sql("SELECT coalesce(array_agg(c.relname::text ORDER BY 1), '{}') FROM pg_class c WHERE c.relname ~ '^mq_message_past[0-9]+$'")


def of(name):
    return next(p for p in services.partitions() if p.name == name)


def test_a_partition_goes_at_once_when_all_topics_in_it_have_let_it_go(past, topic):
    low, other = past.partition(2021), new_id()
    group, second = new_group(topic), new_group(other)
    past.send(topic, low, 5)
    past.send(other, low + 9, 5)
    keep(topic, "done")
    keep(other, "limit", size=1)
    retain()
    assert drop_what_can_go(past.keeper) == ["mq_message_past2021"]  # one group waits still, for the other topic it was skipped
    assert counts(second) == {"skipped": 5}
    kept = of("mq_message_past2021")
    assert [(n.group_id, n.status, n.messages) for n in kept.groups] == [(group, "waiting", 5)]
    assert (kept.state, kept.groups_total, kept.topics, kept.others, kept.can_go_at) == ("behind", 1, [], 0, None)
    settle(group, pull(group))
    retain()
    assert of("mq_message_past2021").can_go_at is not None
    assert drop_what_can_go(past.keeper) == []
    assert counts(group) == {"succeeded": 5}


@pytest.mark.parametrize("status", ["processing", "later", "dead"])
def test_what_a_group_was_handed_keeps_its_partition_below_the_floor(past, topic, status):
    low = past.partition(2021)
    group = new_group(topic)
    past.send(topic, low, 3)
    batch = pull(group)
    if status != "processing":
        delay = 3600_000 if status == "later" else None
        services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(m.id, status, delay) for m in batch.messages])
    keep(topic, "limit", size=1)
    retain()
    assert sql("SELECT mq_floor(%s)", topic) >= low + 2
    assert drop_what_can_go(past.keeper) == ["mq_message_past2021"]
    assert [(n.group_id, n.status, n.messages) for n in of("mq_message_past2021").groups] == [(group, status, 3)]
    assert there(topic, [low, low + 1, low + 2]) == [low, low + 1, low + 2]
    builtin.retire_group(group_id=group)
    if status == "processing":
        settle(group, batch)
    elif status == "dead":
        drive(services.start_purge(group_id=group, only=DeadFilter(), reason="done with"))
    assert drop_what_can_go(past.keeper) == []


def test_a_topic_keeps_its_partition_to_its_own_age_and_the_others_wait_behind_it(past, topic):
    early, late, other = past.partition(2021), past.partition(2022), new_id()
    group = new_group(topic, other)
    past.send(topic, early, 2)
    past.send(other, late, 2)
    sql("UPDATE mq_message SET sent_at = clock_timestamp() - interval '10 days' WHERE topic_id = %s", topic)
    settle(group, pull(group))
    keep(topic, "done", age=20 * 86400)
    keep(other, "done")
    retain()
    assert drop_what_can_go(past.keeper) == ["mq_message_past2021", "mq_message_past2022"]
    first, second = of("mq_message_past2021"), of("mq_message_past2022")
    assert [(t.topic, t.until) for t in first.topics] == [(str(topic), first.can_go_at)]
    assert (first.after, second.after, second.topics_total, second.can_go_at) == (None, "mq_message_past2021", 0, first.can_go_at)
    assert services.preview_reset(group_id=group, topic_id=topic, to="earliest").repeated == 2
    keep(topic, "done", age=9 * 86400)
    retain()
    assert drop_what_can_go(past.keeper) == []


def test_topics_without_a_rule_keep_a_week_beside_one_that_keeps_nothing(past, topic):
    low, other = past.partition(2021), new_id()
    past.send(topic, low, 1)
    past.send(other, low + 1, 1)
    keep(topic, "done")
    retain()
    assert drop_what_can_go(past.keeper) == ["mq_message_past2021"]
    kept = of("mq_message_past2021")
    assert (kept.topics_total, kept.others, kept.others_until) == (0, 1, kept.can_go_at)
    sql("UPDATE mq_done SET done_since = done_since - interval '8 days'")
    assert drop_what_can_go(past.keeper) == []


def test_partitions_ahead_and_of_delayed_messages_are_told_with_their_topics(topic):
    at = datetime.now(UTC) + timedelta(days=40)
    send(topic, "later", deliver_at=at)
    found = services.partitions()
    states = [p.state for p in found if p.kind == "log"]
    assert states == sorted(states, key=["behind", "current", "ahead"].index)
    assert states.count("current") == 1
    assert states.count("ahead") >= 13
    (month,) = [p for p in found if p.kind == "delayed" and p.begins_at <= at < p.ends_at]
    assert str(topic) in [t.topic for t in month.topics]
    assert month.bytes > 0


def test_the_look_through_partitions_goes_on_where_its_round_ended(past, topic, monkeypatch):
    for year in (2021, 2022, 2023):
        past.send(topic, past.partition(year), 1)
    monkeypatch.setattr(storekeeper, "ROUND", -1)
    chore = Retention()
    looked = []
    while not chore(past.keeper):
        looked.append(sql("SELECT count(*) FROM mq_done WHERE hi <= mq_id_at('2025-01-01')"))
    assert looked[:3] == [1, 2, 3]


RUN = """
import os, sys, django
django.setup()
from messages import services
from messages.types import NewMessage
topic, group, work = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
n = 0
while not os.path.exists(sys.argv[4]):
    if work == "send":
        services.send(topic_id=topic, messages=[NewMessage(str(n).encode())])
        n += 1
    else:
        batch = services.pull(group_id=group, limit=50, visibility_ms=60_000, consumer="w")
        if batch.messages:
            from messages.types import Outcome
            services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(m.id, "succeeded") for m in batch.messages])
            n += len(batch.messages)
print(n, flush=True)
"""


def test_floors_move_and_partitions_go_while_processes_send_and_consume_and_an_old_snapshot_is_held(past, topic, tmp_path):
    """Neither waits for the other; nothing that the group had not taken is lost."""
    old = [past.partition(year) for year in (2021, 2022, 2023)]
    for low in old:
        past.send(topic, low, 20)
    group = new_group(topic)
    keep(topic, "done")
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings"}
    end = tmp_path / "end"
    with session(autocommit=False) as snapshot, contextlib.ExitStack() as processes:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT count(*) FROM mq_topic")
        command = [sys.executable, "-c", RUN, str(topic), str(group)]
        started = {
            work: processes.enter_context(subprocess.Popen([*command, work, str(end)], env=env, stdout=subprocess.PIPE, text=True))
            for work in ("send", "take")
        }
        for process in started.values():
            processes.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
        until(lambda: (retain(), drop_what_can_go(past.keeper))[1] == [], 30)
        sent = sql("SELECT max(id) FROM mq_message WHERE topic_id = %s", topic) or 0
        until(lambda: (sql("SELECT max(id) FROM mq_message WHERE topic_id = %s", topic) or 0) > sent, 30)
        until(lambda: retain() is not None and sql("SELECT mq_floor(%s)", topic) > sent, 30)
        end.touch()
        n = {work: int(process.stdout.readline()) for work, process in started.items()}
        assert snapshot.execute("SELECT count(*) FROM mq_topic").fetchone()
    services.tick()
    while (batch := pull(group)).messages:
        settle(group, batch)
        n["take"] += len(batch.messages)
    assert n["take"] == n["send"] + 60
    assert counts(group) == {"succeeded": n["take"]}
    retain()
    assert listed(topic) == []
