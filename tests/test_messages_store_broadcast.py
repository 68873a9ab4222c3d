"""Broadcast groups: every instance gets every message and has a status of its own; what is done to the group is done to all of them."""

import contextlib
import os
import random
import threading
import time

import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import broadcast, redrives, services
from messages.db import fetch
from messages.transactions import Acks, Send
from messages.types import DeadFilter, NewMessage, Outcome
from tests.store_world import NEEDED, Threads, bodies, counts, expire_now, hunt_deadlocks, new_id, redrive, send, sql

pytestmark = pytest.mark.usefixtures("store")
SEED = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))


@pytest.fixture(autouse=True)
def nothing_known():
    broadcast.forget_all()
    yield
    broadcast.forget_all()


@pytest.fixture
def topic():
    return new_id()


def new_broadcast(*topics, consume_from="earliest", max_attempts=3, tag_expression="*"):
    group = new_id()
    builtin.create_group(group_id=group, max_attempts=max_attempts, backoff_ms=[0])
    builtin.set_broadcast(group_id=group, instance_ttl_hours=168, consume_from=consume_from)
    for topic in topics:
        builtin.subscribe(group_id=group, topic_id=topic, tag_expression=tag_expression, consume_from=consume_from)
    return group


def pull(group, name, limit=100):
    return services.pull(group_id=group, limit=limit, visibility_ms=60_000, consumer=name, broadcast=True)


def settle(group, batch, status="succeeded", messages=None):
    outcomes = [Outcome(m.id, status, error="broken") for m in (batch.messages if messages is None else messages)]
    return services.settle(group_id=group, lease=batch.lease, outcomes=outcomes)


def take_all(group, name):
    found = []
    while (batch := pull(group, name)).messages:
        found += bodies(batch)
        settle(group, batch)
    return found


def words(message_id, group):
    return {s.instance: s.status for s in services.message_status(message_id=message_id) if s.group_id == group}


def refused(work):
    with pytest.raises(Problem) as problem:
        work()
    assert problem.value.detail
    return problem.value.code


def instance(group, name):
    return next(i for i in services.instances(group_id=group).items if i.name == name)


def give_up(group, name):
    """As the sweep does it, of a group that the store alone knows."""
    assert sql("SELECT mq_instance_give_up(%s, NULL)", instance(group, name).id)


def test_every_instance_gets_every_message_and_has_a_status_of_its_own(topic):
    group = new_broadcast(topic)
    for name in "ab":
        pull(group, name)
    ids = send(topic, "1", "2", "3")
    services.tick()
    a, b = pull(group, "a"), pull(group, "b", limit=1)
    assert (bodies(a), bodies(b)) == (["1", "2", "3"], ["1"])
    assert {s.problem_code for s in settle(group, a)} == {None}
    settle(group, b, "failed")
    assert words(ids[0], group) == {"a": "succeeded", "b": "later"}
    assert words(ids[1], group) == {"a": "succeeded", "b": "waiting"}
    assert counts(group) == {"succeeded": 3, "later": 1, "waiting": 2}
    lag = services.lag(group_ids=[group])[group]
    assert lag.messages == 2  # of the one that is furthest behind, not of all together
    assert {i.name: (i.lag.messages, i.counts.succeeded) for i in services.instances(group_id=group).items} == {"a": (0, 3), "b": (2, 0)}
    assert bodies(pull(group, "b")) == ["1", "2", "3"]  # the retry, and the rest
    assert {s.attempts for s in services.message_status(message_id=ids[0]) if s.instance == "b"} == {2}


def test_a_new_instance_begins_where_the_group_says(topic):
    early, late = new_broadcast(topic), new_broadcast(topic, consume_from="latest")
    ids = send(topic, "old")
    services.tick()
    assert bodies(pull(early, "x")) == ["old"]
    assert pull(late, "x").reason == "empty"
    assert words(ids[0], late) == {"x": "not_subscribed"}
    send(topic, "new")
    services.tick()
    assert (bodies(pull(early, "x")), bodies(pull(late, "x"))) == (["new"], ["new"])
    assert bodies(pull(early, "y")) == ["old", "new"]


def test_workers_of_one_instance_share_its_messages(topic):
    group = new_broadcast(topic)
    pull(group, "a")
    send(topic, *"123456")
    services.tick()
    assert (bodies(pull(group, "a", 3)), bodies(pull(group, "a", 3)), pull(group, "a").reason) == (list("123"), list("456"), "empty")


def test_an_instance_that_begins_twice_at_once_begins_once(topic):
    group, threads, met, ids = new_broadcast(topic), Threads(), threading.Barrier(6), []

    def begin():
        met.wait()
        ids.append(sql("SELECT instance_id FROM mq_join(%s, 'a', 10, false)", group))

    for _n in range(6):
        threads.start(begin)
    threads.join()
    assert len(ids) == 6
    assert len(set(ids)) == 1
    assert broadcast.count_instances(group_id=group) == 1


def test_next_settles_and_pulls_for_the_instance_and_refuses_the_lease_of_another(topic):
    group = new_broadcast(topic)
    pull(group, "a"), pull(group, "b")
    ids = send(topic, "1", "2")
    services.tick()
    first = pull(group, "a", 1)
    again = {"group_id": group, "limit": 1, "visibility_ms": 1000, "broadcast": True}
    settled, batch = services.next(lease=first.lease, outcomes=[Outcome(ids[0], "succeeded")], consumer="a", **again)
    assert ([s.status for s in settled], bodies(batch)) == (["succeeded"], ["2"])
    settled, other = services.next(lease=batch.lease, outcomes=[Outcome(ids[1], "succeeded")], consumer="b", **again)
    assert ([s.problem_code for s in settled], bodies(other)) == (["lease_expired"], ["1"])
    assert words(ids[1], group) == {"a": "processing", "b": "waiting"}
    assert services.extend(group_id=group, lease=batch.lease, visibility_ms=90_000) > batch.lease_until


def test_a_lease_is_nobodys_in_another_group_and_with_a_made_up_number(topic):
    group, stranger = new_broadcast(topic), new_broadcast(topic)
    pull(stranger, "a")
    ids = send(topic, "1")
    services.tick()
    batch = pull(group, "a")
    token = batch.lease.partition("-")[0]
    for holder, lease in (
        (stranger, batch.lease),
        (group, token),
        (group, f"{token}-999999999"),
        (group, f"{token}-{'9' * 30}"),
        (group, f"{token}-"),
    ):
        told = services.settle(group_id=holder, lease=lease, outcomes=[Outcome(ids[0], "succeeded")])
        assert [s.problem_code for s in told] == ["lease_expired"], lease
        assert (
            refused(lambda holder=holder, lease=lease: services.extend(group_id=holder, lease=lease, visibility_ms=1000)) == "lease_expired"
        )
    assert words(ids[0], group) == {"a": "processing"}
    assert {s.status for s in settle(group, batch)} == {"succeeded"}


def test_suspension_attempts_and_ceiling_of_the_group_are_those_of_all_instances_to_come_too(topic):
    group = new_broadcast(topic)
    pull(group, "a")
    send(topic, "1", "2", "3")
    services.tick()
    builtin.update_group(group_id=group, max_attempts=1, backoff_ms=[5], suspended=True)
    builtin.set_ceiling(group_id=group, max_outstanding=2)
    assert (pull(group, "a").reason, pull(group, "b").reason) == ("suspended", "suspended")
    builtin.update_group(group_id=group, max_attempts=1, backoff_ms=[5], suspended=False)
    assert (bodies(pull(group, "a")), bodies(pull(group, "b"))) == (["1", "2"], ["1", "2"])  # each has the ceiling for itself
    assert pull(group, "a").reason == "outstanding"
    expire_now(instance(group, "a").id)
    batch = pull(group, "a")
    settle(group, batch, "failed")
    assert instance(group, "a").counts.dead == 1


def test_subscriptions_and_filters_change_for_all_instances_at_once(topic):
    group, other = new_broadcast(topic), new_id()
    pull(group, "a"), pull(group, "b")
    builtin.subscribe(group_id=group, topic_id=other, tag_expression="x")
    send(other, "x1", tag="x"), send(other, "y1", tag="y"), send(topic, "1")
    services.tick()
    assert sorted(take_all(group, "a")) == ["1", "x1"]
    builtin.change_filter(group_id=group, topic_id=other, tag_expression="*")
    assert sorted(take_all(group, "c")) == ["1", "x1", "y1"]
    builtin.unsubscribe(group_id=group, topic_id=other)
    assert take_all(group, "b") == ["1"]
    assert take_all(group, "d") == ["1"]
    assert {i.name: set(i.positions) for i in services.instances(group_id=group).items} == {name: {topic} for name in "abcd"}


def test_dead_letters_are_each_instances_own_and_are_redriven_to_it_alone(topic):
    group = new_broadcast(topic)
    pull(group, "a"), pull(group, "b")
    ids = send(topic, "1", "2")
    services.tick()
    settle(group, pull(group, "a"), "dead")
    settle(group, pull(group, "b"))
    a, b = instance(group, "a").id, instance(group, "b").id
    assert services.dead_letters(group_id=b).items == []
    assert [d.id for d in services.dead_letters(group_id=a).items] == ids[::-1]
    assert services.totals(group_ids=[group])["dead"] == 2
    assert services.most_dead(group_ids=[group], limit=3) == {group: 2}
    assert redrive(a, ids=ids).done == 2
    assert (bodies(pull(group, "a")), pull(group, "b").reason) == (["1", "2"], "empty")
    assert words(ids[0], group) == {"a": "processing", "b": "succeeded"}


def test_a_dead_letter_edited_for_its_instance_reaches_no_other_and_counts_with_its_topic(topic):
    group = new_broadcast(topic)
    pull(group, "a"), pull(group, "b")
    ids = send(topic, "wrong")
    services.tick()
    settle(group, pull(group, "a"), "dead")
    settle(group, pull(group, "b"))
    done = services.redrive_edited(group_id=instance(group, "a").id, message_id=ids[0], edit=services.Edit(body=b"right"))
    services.tick()
    assert pull(group, "b").reason == "empty"
    batch = pull(group, "a")
    assert [(m.body, m.topic) for m in batch.messages] == [(b"right", str(topic))]
    settle(group, batch)
    assert words(done.new_id, group) == {"a": "succeeded"}
    assert services.counts_by_topic(group_id=group)[topic].succeeded == 2
    builtin.unsubscribe(group_id=group, topic_id=topic)
    assert sql("SELECT count(*) FROM mq_cursor WHERE group_id = %s AND active", instance(group, "a").id) == 0


def move(group, topic, to):
    plan = services.preview_reset(group_id=group, topic_id=topic, to=to)
    return plan, services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)


def test_a_rewind_moves_all_instances_together_and_undo_takes_it_back_where_something_is_left(topic):
    group = new_broadcast(topic)
    ids = send(topic, *"1234")
    services.tick()
    assert (take_all(group, "a"), bodies(pull(group, "b", 1))) == (list("1234"), ["1"])
    plan, made = move(group, topic, "earliest")
    assert (plan.kind, plan.repeated, plan.succeeded, plan.processing) == ("rewind", 5, 4, 1)
    assert services.undoable(group_id=group) == {made.pk}
    assert words(ids[0], group) == {"a": "waiting", "b": "waiting"}
    assert counts(group) == {"waiting": 8}
    assert take_all(group, "b") == list("1234")
    undone = services.undo_reset(reset_id=made.pk)
    assert undone.restored == 4  # b has been handed out all of it again
    assert words(ids[0], group) == {"a": "succeeded", "b": "succeeded"}
    assert counts(group) == {"succeeded": 8}
    assert services.undoable(group_id=group) == set()
    assert refused(lambda: services.undo_reset(reset_id=made.pk)) == "already_undone"


def test_a_move_goes_by_its_preview_or_not_at_all(topic):
    group = new_broadcast(topic)
    assert refused(lambda: services.preview_reset(group_id=group, topic_id=topic, to="latest")) == "no_instances"
    send(topic, *"1234")
    services.tick()
    pull(group, "a", 2), pull(group, "b")
    plan = services.preview_reset(group_id=group, topic_id=topic, to="latest")
    assert (plan.kind, plan.skipped) == ("skip", 2)
    pull(group, "a", 1)
    stale = {"group_id": group, "topic_id": topic, "position": plan.position, "fingerprint": plan.fingerprint}
    assert refused(lambda: services.reset(**stale)) == "stale_preview"
    assert counts(group) == {"processing": 7, "waiting": 1}
    _plan, made = move(group, topic, "latest")
    assert (made.skipped, counts(group)) == (1, {"processing": 7, "skipped": 1})
    pull(group, "c")  # came after: it stands where it began
    assert services.undo_reset(reset_id=made.pk).restored == 1
    assert refused(lambda: services.preview_reset(group_id=group, topic_id=new_id(), to="latest")) == "not_subscribed"


def test_an_instance_that_was_given_up_holds_nothing_and_begins_anew_under_its_name(topic):
    group = new_broadcast(topic)
    ids = send(topic, *(str(n) for n in range(30)))
    services.tick()
    batch = pull(group, "a")
    settle(group, batch, "dead", messages=batch.messages[:10])
    settle(group, batch, "failed", messages=batch.messages[10:20])
    gone = instance(group, "a").id
    give_up(group, "a")
    assert services.instances(group_id=group).items == []
    assert (counts(group), words(ids[0], group)) == ({}, {})
    assert {s.status for s in settle(group, batch, messages=batch.messages[20:21])} == {"succeeded"}  # until its rows go
    steps = 0
    while sql("SELECT mq_forget_instances(7)"):
        steps += 1
        assert steps < 50
    assert steps >= 4  # bounded: a lease, then exceptions seven at a time
    for table in ("mq_group", "mq_cursor", "mq_span", "mq_lease", "mq_exception", "mq_instance"):
        column = "instance_id" if table == "mq_instance" else "group_id"
        assert sql(f"SELECT count(*) FROM {table} WHERE {column} = %s", gone) == 0, table
    assert {s.problem_code for s in settle(group, batch)} == {"lease_expired"}
    assert len(bodies(pull(group, "a"))) == 30  # the process still knew the old one
    assert instance(group, "a").id != gone


def test_a_group_has_so_many_instances_and_no_more(topic, monkeypatch):
    monkeypatch.setattr(broadcast, "MAX_INSTANCES", 2)
    group = new_broadcast(topic)
    pull(group, "a"), pull(group, "b")
    assert refused(lambda: pull(group, "c")) == "too_many_instances"
    pull(group, "a")
    give_up(group, "b")
    assert pull(group, "c").reason == "empty"


def test_what_cannot_be_an_instance_is_refused(topic):
    group, shared = new_broadcast(topic), new_id()
    bad = {"": "instance_required", " ": "instance_required", "x" * 256: "invalid", "a\nb": "invalid", "a\x00": "invalid", " a": "invalid"}
    builtin.create_group(group_id=shared, max_attempts=1, backoff_ms=[0])
    for name, code in bad.items():
        assert refused(lambda name=name: pull(group, name)) == code
    assert refused(lambda: pull(shared, "a")) == "not_broadcast"
    assert refused(lambda: pull(new_id(), "a")) == "not_found"
    assert services.instances(group_id=group).items == []
    builtin.retire_group(group_id=group)
    assert refused(lambda: pull(group, "a")) == "group_retired"


def test_retiring_the_group_or_its_topic_takes_all_instances_with_it(topic):
    group, other = new_broadcast(topic), new_broadcast(topic)
    send(topic, "1")
    services.tick()
    pull(group, "a"), pull(group, "b"), pull(other, "c")
    builtin.retire_group(group_id=group)
    assert services.instances(group_id=group).items == []
    assert fetch(f"SELECT n.* FROM {NEEDED} WHERE n.status = 'W' AND n.topic_id = %s", (topic,)) == []
    builtin.retire_topic(topic_id=topic)
    assert pull(other, "c").reason == "not_subscribed"
    assert pull(other, "new").reason == "not_subscribed"


def test_a_long_absent_instance_holds_up_no_producer(topic):
    group = new_broadcast(topic)
    pull(group, "a"), pull(group, "b")
    send(topic, "1", "2", "3")
    services.tick()
    take_all(group, "b")
    backlog = "SELECT mq_topic_backlog(%s)"
    assert sql(backlog, topic) == 3
    sql("UPDATE mq_instance SET seen_at = seen_at - interval '11 minutes' WHERE group_id = %s AND name = 'a'", group)
    assert sql(backlog, topic) == 0
    broadcast.forget_all()
    assert take_all(group, "a") == ["1", "2", "3"]
    assert builtin.backlog_of(group_id=group, topic_id=topic).empty


def test_no_pair_of_verbs_deadlocks_with_what_is_done_to_all_instances(monkeypatch):
    """Two broadcast groups and one that shares, on the same two topics; a transaction settles for instances and groups together."""
    topics, rng, ran = [new_id(), new_id()], random.Random(SEED), {}
    groups = [new_broadcast(*topics), new_broadcast(*reversed(topics))]
    shared = new_id()
    builtin.create_group(group_id=shared, max_attempts=3, backoff_ms=[0])
    for topic in topics:
        builtin.subscribe(group_id=shared, topic_id=topic)
    monkeypatch.setattr(redrives, "open_topics", lambda _actor, ids: list(ids))
    monkeypatch.setattr(broadcast, "SEEN_EVERY", 0.01)

    def work():
        group, name = rng.choice(groups), rng.choice("abc")
        batch = pull(group, name, 20)
        words = ["succeeded", "failed", "dead"]
        outcomes = [Outcome(m.id, rng.choice(words), 0) for m in batch.messages[::-1]]
        again = {"limit": 5, "visibility_ms": rng.choice([1, 5000]), "consumer": name, "broadcast": True}
        services.next(group_id=group, lease=batch.lease, outcomes=outcomes, **again)

    def transact():
        batches = [(g, pull(g, rng.choice("abc"), 3)) for g in groups]
        batches.append((shared, services.pull(group_id=shared, limit=3, visibility_ms=5000, consumer="w")))
        acks = [Acks(g, b.lease, [Outcome(m.id, "succeeded") for m in b.messages]) for g, b in batches if b.lease]
        epoch = services.open_epoch(application_id=2, producer="p")
        sends = [Send(t, [NewMessage(b"x")] * 3) for t in topics]
        with contextlib.suppress(Problem):
            services.commit_transaction(application_id=2, producer="p", epoch=epoch, transaction_id=str(new_id()), sends=sends, acks=acks)

    def begin_and_end():
        group, name = rng.choice(groups), rng.choice("abcdef")
        pull(group, name)
        found = [i for i in services.instances(group_id=group).items if i.name == name]
        if found and rng.random() < 0.5:
            sql("SELECT mq_instance_give_up(%s, NULL)", found[0].id)
            broadcast.forget(group_id=group, name=name)
        sql("SELECT mq_forget_instances(3)")

    def move_all():
        with contextlib.suppress(Problem):
            move(rng.choice(groups), rng.choice(topics), rng.choice(["earliest", "latest"]))

    def resubscribe():
        rng.choice([builtin.unsubscribe, builtin.subscribe])(group_id=rng.choice([*groups, shared]), topic_id=rng.choice(topics))

    def change():
        group = rng.choice(groups)
        builtin.update_group(group_id=group, max_attempts=rng.randint(1, 4), backoff_ms=[0], suspended=False)
        builtin.set_ceiling(group_id=group, max_outstanding=rng.choice([0, 50]))

    def retry():
        for one in services.instances(group_id=rng.choice(groups), limit=3).items:
            with contextlib.suppress(Problem):
                redrive(one.id, only=DeadFilter(), to=rng.choice(["group", "topic"]))

    def retire():
        builtin.retire_topic(topic_id=rng.choice(topics))

    def look():
        services.counts(group_ids=groups)
        services.furthest_behind(group_id=rng.choice(groups), limit=5)

    verbs = [work, transact, begin_and_end, move_all, resubscribe, change, retry, retire, look, services.expire]
    hunt_deadlocks(verbs, ran, seconds=0.05, seed=SEED)
    assert set(ran) == {verb.__name__ for verb in verbs}
    for one in (i for group in groups for i in services.instances(group_id=group).items):  # the counters still tell what the rows say
        rows = dict(fetch("SELECT status::text, count(*) FROM mq_exception WHERE group_id = %s GROUP BY 1", (one.id,)))
        leased = sql("SELECT coalesce(sum(left_n), 0) FROM mq_lease WHERE group_id = %s", one.id)
        found = one.counts
        wanted = (rows.get("L", 0), rows.get("D", 0), rows.get("F", 0), rows.get("P", 0) + leased)
        assert (found.later, found.dead, found.failed, found.processing) == wanted, f"seed {SEED}"


def test_each_instance_keeps_the_order_of_a_topic_for_itself(topic):
    builtin.set_ordering(topic_id=topic, ordering="key")
    group = new_broadcast(topic)
    services.send(topic_id=topic, messages=[NewMessage(name.encode(), sharding_key="k") for name in ("1", "2")])
    services.tick()
    first, other = pull(group, "a", limit=1), pull(group, "b")
    assert (bodies(first), bodies(other)) == (["1"], ["1", "2"])
    assert not pull(group, "a").messages
    settle(group, first)
    assert take_all(group, "a") == ["2"]
