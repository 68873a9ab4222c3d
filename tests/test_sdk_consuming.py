"""Consuming: what is in hand, who works on it, and what is told to the broker; the broker is one in memory, the threads are real."""

import logging
import random
import threading
import time
from collections import Counter, defaultdict

import pytest
from registry_world import wait_for
from sdk_broker import CLUSTER, Broker, group, lose_leases

from mqadmin_sdk.consuming.consumer import GroupConsumer
from mqadmin_sdk.consuming.core import Core, Source
from mqadmin_sdk.consuming.feeds import Options
from mqadmin_sdk.errors import UnreachableError
from mqadmin_sdk.message import Dead, Later, Message
from mqadmin_sdk.metadata import ClusterMetadata
from mqadmin_sdk.transports import Delivery, Settled


@pytest.fixture
def consuming():
    """`consuming(broker, handler, …)` starts a consumer; all end with the test."""
    started = []

    def start(broker, handler, *, applied=True, connect=None, cluster=lambda name: CLUSTER, tell=lambda *_: None, **options):
        consumer = GroupConsumer(
            "g",
            handler,
            options=Options(**{"poll": 0.2, **options}),
            connect=connect or broker.connect,
            cluster=cluster,
            tell=tell,
        )
        started.append(consumer)
        if applied:
            consumer.apply(group())
        return consumer

    yield start
    for consumer in started:
        consumer.drain()
        consumer.join(10)


def test_every_message_is_handled_once_and_settled(consuming):
    broker, seen = Broker(), []
    broker.send(*range(500))
    consuming(broker, lambda message: seen.append(message.body), concurrency=4)
    wait_for(lambda: len(broker.done()) == 500)
    assert Counter(seen) == Counter(str(n).encode() for n in range(500))


def test_outcomes_travel_together_with_pulls(consuming):
    broker = Broker()
    broker.send(*range(2000))
    consuming(broker, lambda message: None, concurrency=4, prefetch=200)
    wait_for(lambda: len(broker.done()) == 2000)
    assert broker.calls["next"] + broker.calls["settle"] < 200


def test_what_a_handler_raises_becomes_the_outcome(consuming, caplog):
    broker = Broker()
    broker.send("fails", "later", "dead", "exits")
    told = {}

    def handle(message):
        if message.attempt > 1:
            return
        word = message.text
        if word == "fails":
            raise ValueError("no such customer")
        if word == "later":
            raise Later(7)
        if word == "dead":
            raise Dead("cannot be parsed")
        raise SystemExit(3)

    class Watching(type(broker.connect())):
        def _settle(self, settlements):
            told.update({one.delivery.message.text: (one.status, one.delay, one.error) for one in settlements if one.status != "succeeded"})
            return super()._settle(settlements)

    consuming(broker, handle, connect=lambda group, cluster: Watching(broker))
    wait_for(lambda: len(broker.done()) == 3 and len(broker.done("dead")) == 1)
    assert told == {
        "fails": ("failed", None, "ValueError: no such customer"),
        "later": ("later", 7.0, None),
        "dead": ("dead", None, "cannot be parsed"),
        "exits": ("failed", None, "SystemExit: 3"),
    }
    assert "no such customer" in caplog.text


def test_one_key_is_handled_by_one_handler_at_a_time_and_in_order(consuming):
    broker, seen, at_work, together = Broker(), defaultdict(list), set(), []
    for n in range(200):
        broker.send(n, key=f"k{n % 5}")

    def handle(message):
        if message.sharding_key in at_work:
            together.append(message.id)
        at_work.add(message.sharding_key)
        time.sleep(0.0005)
        at_work.discard(message.sharding_key)
        seen[message.sharding_key].append(int(message.body))

    consuming(broker, handle, concurrency=8)
    wait_for(lambda: len(broker.done()) == 200)
    assert not together
    assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_of_an_ordered_lane_nothing_overtakes_what_failed(consuming):
    broker, done, rng = Broker(ordered=True), defaultdict(list), random.Random(5)
    for n in range(300):
        broker.send(n, key=f"k{n % 4}")

    def handle(message):
        if rng.random() < 0.2:
            raise ValueError("try again") if rng.random() < 0.5 else Later(0)
        done[message.sharding_key].append(int(message.body))

    logging.getLogger("mqadmin_sdk").setLevel(logging.CRITICAL)
    try:
        consuming(broker, handle, concurrency=8)
        wait_for(lambda: len(broker.done()) == 300)
    finally:
        logging.getLogger("mqadmin_sdk").setLevel(logging.NOTSET)
    assert all(numbers == sorted(set(numbers)) for numbers in done.values())
    assert sum(map(len, done.values())) == 300


def test_suspended_it_gives_back_what_was_not_begun_and_pulls_no_more(consuming):
    broker, go, begun = Broker(), threading.Event(), []

    def handle(message):
        begun.append(message.id)
        go.wait(20)

    consumer = consuming(broker, handle, concurrency=2, prefetch=50)
    consumer.core.window = 50
    broker.send(*range(40))
    wait_for(lambda: len(begun) == 2 and consumer.core.held > 2)
    broker.suspended = True
    consumer.apply(group(suspended=True, generation=2))
    assert consumer.state == ("suspended", None)
    wait_for(lambda: len(broker.hands) == 2, what="the others to be given back")
    go.set()
    wait_for(lambda: len(broker.done()) == 2)
    assert len(begun) == 2
    broker.suspended = False
    consumer.apply(group(generation=3))
    wait_for(lambda: len(broker.done()) == 40)


def test_another_cluster_is_connected_first_and_the_old_one_is_left_when_nothing_comes_any_more(consuming, monkeypatch):
    monkeypatch.setattr("mqadmin_sdk.consuming.consumer._IDLE", 1.0)
    old, new, go, begun, order = Broker(), Broker(), threading.Event(), [], []

    def handle(message):
        begun.append(message.body)
        if message.body == b"old":
            go.wait(20)

    def connect(group, cluster):
        order.append((cluster.name, [transport.closed for transport in old.transports]))
        return (old if cluster.name == "one" else new).connect()

    consumer = consuming(old, handle, connect=connect, concurrency=2)
    old.send("old")
    wait_for(lambda: begun == [b"old"])
    consumer.apply(group(cluster=ClusterMetadata("two", "h:2", "memory"), generation=2))
    new.send("new")
    wait_for(new.done)
    assert order == [("one", []), ("two", [False])]
    old.send("late")  # by a producer that has not heard of it yet
    wait_for(lambda: b"late" in begun)
    assert not old.transports[0].closed
    go.set()
    wait_for(lambda: len(old.done()) == 2 and old.transports[0].closed)
    assert not new.transports[0].closed


def test_what_cannot_be_connected_changes_nothing(consuming):
    broker, seen = Broker(), []

    def connect(group, cluster):
        if cluster.name == "two":
            raise OSError("no route")
        return broker.connect()

    consumer = consuming(broker, seen.append, connect=connect)
    with pytest.raises(OSError, match="no route"):
        consumer.apply(group(cluster=ClusterMetadata("two", "h:2", "memory")))
    broker.send("still")
    wait_for(broker.done)


def test_a_cluster_that_is_away_when_the_group_moves_is_connected_later_and_reported_then(consuming):
    old, new, mended, away = Broker(), Broker(), [], [True]

    def connect(group, cluster):
        if cluster.name == "two" and away:
            raise UnreachableError("nobody answers")
        return (old if cluster.name == "one" else new).connect()

    consumer = consuming(old, lambda message: None, connect=connect)
    consumer.mended = mended.append
    moved = group(cluster=ClusterMetadata("two", "h:2", "memory"), generation=2)
    with pytest.raises(UnreachableError):
        consumer.apply(moved)
    assert consumer.state == ("failed", "UnreachableError: nobody answers")
    old.send("meanwhile")
    wait_for(old.done)
    away.clear()
    new.send("there")
    wait_for(new.done)
    wait_for(lambda: mended == [moved])
    assert consumer.state == ("running", None)


def test_a_group_that_is_gone_from_zookeeper_is_consumed_on(consuming):
    broker = Broker()
    consuming(broker, lambda message: None).apply(None)
    broker.send("still")
    wait_for(broker.done)


def test_a_cluster_that_is_drained_is_consumed_too(consuming):
    one, two = Broker(), Broker()
    consumer = consuming(one, lambda message: None, connect=lambda group, cluster: (one if cluster.name == "one" else two).connect())
    consumer.apply(group(cluster=ClusterMetadata("two", "h:2", "memory"), drain_clusters=("one",)))
    one.send("left behind")
    two.send("new")
    wait_for(lambda: one.done() and two.done())
    assert [transport.closed for transport in one.transports] == [False]


def test_a_cluster_that_is_no_longer_named_for_draining_is_let_go_and_what_is_in_hand_is_finished(consuming):
    one, two, go, begun = Broker(), Broker(), threading.Event(), []

    def handle(message):
        begun.append(message.text)
        if message.text == "left behind":
            go.wait(20)

    brokers = {"one": one, "two": two}
    here = ClusterMetadata("two", "h:2", "memory")
    consumer = consuming(one, handle, applied=False, connect=lambda group, cluster: brokers[cluster.name].connect())
    one.send("left behind")
    consumer.apply(group(cluster=here, drain_clusters=("one",)))
    wait_for(lambda: begun == ["left behind"])
    consumer.apply(group(cluster=here, generation=2))
    one.send("nobody comes for it")
    go.set()
    wait_for(lambda: one.transports[0].closed)
    assert (one.done(), len(one.waiting)) == (["1"], 1)
    two.send("new")
    wait_for(two.done)


def test_a_cluster_to_be_drained_that_is_away_holds_up_nothing_and_is_told_and_connected_later(consuming):
    one, two, away = Broker(), Broker(), [True]

    def connect(group, cluster):
        if cluster.name == "one" and away:
            raise UnreachableError("nobody answers")
        return (one if cluster.name == "one" else two).connect()

    consumer = consuming(two, lambda message: None, applied=False, connect=connect)
    one.send("left behind")
    two.send("new")
    consumer.apply(group(cluster=ClusterMetadata("two", "h:2", "memory"), drain_clusters=("one",)))
    wait_for(two.done)
    assert consumer.state == ("running", "cluster one is not drained: UnreachableError: nobody answers")
    away.clear()
    wait_for(one.done)
    assert consumer.state == ("running", None)
    one.fail["next"] = UnreachableError("gone again")
    wait_for(lambda: consumer.state == ("running", "cluster one is not drained: UnreachableError: gone again"))


def test_a_cluster_that_is_drained_and_cannot_be_looked_up_for_a_moment_is_drained_on(consuming):
    one, two, away = Broker(), Broker(), []

    def look_up(name):
        if away:
            raise UnreachableError("no ZooKeeper")
        return CLUSTER

    def connect(group, cluster):
        return (one if cluster.name == "one" else two).connect()

    consumer = consuming(one, lambda message: None, applied=False, connect=connect, cluster=look_up)
    moved = {"cluster": ClusterMetadata("two", "h:2", "memory"), "drain_clusters": ("one",)}
    consumer.apply(group(**moved))
    away.append(True)
    consumer.apply(group(generation=2, **moved))
    one.send("left behind")
    wait_for(one.done)
    assert [transport.closed for transport in one.transports] == [False]
    away.clear()
    wait_for(lambda: consumer.state == ("running", None))


def test_a_slow_handler_keeps_its_lease(consuming):
    broker = Broker(lease=1.0)
    broker.send("slow")
    consuming(broker, lambda message: wait_for(lambda: broker.calls["extend"] >= 3), lease=1.0)
    wait_for(broker.done)
    assert broker.attempts == {"1": 1}


def test_what_others_may_have_by_now_is_not_begun_and_a_late_outcome_is_thrown_away_loudly(consuming, caplog):
    broker, go, begun = Broker(lease=1.0), threading.Event(), []

    def handle(message):
        begun.append(message.id)
        if len(begun) == 1:
            go.wait(20)

    consumer = consuming(broker, handle, lease=1.0)
    consumer.core.window = 10
    broker.send(*range(5))
    wait_for(lambda: begun and consumer.core.held == 5)
    lose_leases(broker)
    wait_for(lambda: consumer.core.counts["lost"] == 5, what="the loss to be noticed")
    go.set()
    wait_for(lambda: len(broker.done()) == 5)
    assert Counter(begun) == {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}
    assert consumer.core.counts["thrown_away"] == 1
    assert "is thrown away: the lease had ended" in caplog.text


def test_a_handler_that_does_not_return_is_given_up_and_counts_as_an_attempt(consuming, caplog):
    broker, go = Broker(), threading.Event()

    def handle(message):
        if message.attempt == 1:
            go.wait(20)

    consumer = consuming(broker, handle, concurrency=2, max_handling=0.2)
    broker.send("hangs")
    wait_for(broker.done, what="the second attempt to succeed while the first one hangs")
    assert broker.attempts == {"1": 2}
    go.set()
    wait_for(lambda: "it had taken too long and the message was given up" in caplog.text)
    assert (consumer.core.counts["given_up"], consumer.core.counts["succeeded"]) == (1, 1)


def test_outcomes_whose_answer_was_lost_are_told_again(consuming, caplog):
    broker = Broker()

    class Forgetful(type(broker.connect())):
        forgets = 3

        def next(self, *, settle, max_messages, wait):
            if settle and self.forgets:
                self.forgets -= 1
                self._settle(settle)
                raise UnreachableError("the answer was lost")
            return super().next(settle=settle, max_messages=max_messages, wait=wait)

    consuming(broker, lambda message: None, connect=lambda group, cluster: Forgetful(broker))
    broker.send(*range(50))
    wait_for(lambda: len(broker.done()) == 50)
    assert "was handled, but that was not taken" not in caplog.text
    assert set(broker.attempts.values()) == {1}


def test_a_broker_that_is_away_is_asked_again_and_people_are_told(consuming):
    broker, told = Broker(), []
    broker.fail["next"] = UnreachableError("nobody answers")
    consumer = consuming(broker, lambda message: None, tell=lambda state, counts, error: told.append((state, error)))
    wait_for(lambda: ("failed", "UnreachableError: nobody answers") in told)
    broker.fail.clear()
    broker.send("back")
    wait_for(broker.done)
    wait_for(lambda: told[-1] == ("running", None))
    assert consumer.state == ("running", None)


def test_drained_it_finishes_what_was_begun_and_gives_the_rest_back(consuming):
    broker, go, begun = Broker(), threading.Event(), []

    def handle(message):
        begun.append(message.id)
        go.wait(20)

    consumer = consuming(broker, handle, concurrency=2)
    consumer.core.window = 20
    broker.send(*range(20))
    wait_for(lambda: len(begun) == 2 and consumer.core.held > 2)
    consumer.drain()
    assert consumer.state[0] == "draining"
    threading.Timer(0.1, go.set).start()
    assert consumer.join(20)
    assert (len(begun), sorted(broker.done()), len(broker.waiting), broker.hands) == (2, sorted(begun), 18, {})
    assert all(transport.closed for transport in broker.transports)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mqadmin-") and "-g" in thread.name]


def test_a_handler_that_outlives_the_drain_is_named_and_its_message_is_left_to_its_lease(consuming, caplog):
    broker, go, begun = Broker(), threading.Event(), []

    def handle(message):
        begun.append(message.id)
        go.wait(20)

    consumer = consuming(broker, handle)
    broker.send("hangs")
    wait_for(lambda: begun)
    consumer.drain()
    assert not consumer.join(0.2)
    assert "1 handlers did not end within 0.2 s and are left: t/1" in caplog.text
    go.set()
    assert list(broker.hands) == ["1"]


def test_a_state_that_changes_is_told_at_once(consuming):
    broker, told = Broker(), []
    consumer = consuming(broker, lambda message: None, tell=lambda state, counts, error: told.append((state, counts)))
    wait_for(lambda: told and told[-1][0] == "running")
    broker.send(*range(10))
    wait_for(lambda: len(broker.done()) == 10)
    consumer.apply(group(suspended=True))
    wait_for(lambda: told[-1][0] == "suspended")
    assert told[-1][1]["succeeded"] == 10


def test_the_window_follows_what_handlers_can_do():
    core, source, now = Core(concurrency=4, prefetch=500, max_handling=60), Source(lease=60), 0.0

    def work(seconds):
        nonlocal now
        messages, _wait = core.ask(source, now)
        core.accept(source, [delivery(n) for n in range(messages)], messages, now)
        while (item := core.take(now)) is not None:
            now += seconds
            core.finish(item, "succeeded", None, None, now)
        core.collect(source, now, everything=True)

    for _ in range(8):
        work(0.0001)
    assert core.window == 500
    for _ in range(8):
        work(1.0)
    assert core.window == 8  # two for each handler


def test_random_runs_lose_nothing_and_keep_lanes_apart():
    for seed in range(60):
        _random_run(random.Random(seed))


def _random_run(rng):
    core, now, made = Core(concurrency=4, prefetch=40, max_handling=30), 0.0, []
    sources = [Source(lease=10), Source(lease=10)]
    running, told = [], []
    for _step in range(300):
        now += rng.random()
        verb = rng.choice(["pull", "take", "take", "finish", "finish", "collect", "extend", "give back", "overdue"])
        source = rng.choice(sources)
        if verb == "pull" and (asked := core.ask(source, now).messages):
            lease = f"{len(made)}"
            ordered = rng.random() < 0.5
            came = [delivery(len(made) + n, lease, now + 10, rng.choice([None, "a", "b"]), ordered) for n in range(rng.randint(0, asked))]
            made += came
            core.accept(source, came, asked, now)
        elif verb == "take" and len(running) < 4 and (item := core.take(now)) is not None:
            assert item.delivery.expires > now
            assert item.lane is None or all(other.lane != item.lane for other in running)
            running.append(item)
        elif verb == "finish" and running:
            item = running.pop(rng.randrange(len(running)))
            core.finish(item, rng.choice(["succeeded", "succeeded", "failed", "later", "dead"]), None, None, now)
        elif verb == "collect":
            sent = core.collect(source, now, everything=rng.random() < 0.5)
            if rng.random() < 0.2:
                core.unsent(source, sent, now)
            else:
                told += sent
                refused = {id(one) for one in sent if rng.random() < 0.05}
                core.settled(
                    source, sent, [Settled(one, None, "lease_expired") if id(one) in refused else Settled(one, one.status) for one in sent]
                )
        elif verb == "extend":
            due = core.to_extend(source, now)
            held = [rng.random() < 0.8 for _ in due]
            for one, kept in zip(due, held, strict=True):
                one.expires = now + 10 if kept else one.expires
            core.extended(source, due, held)
        elif verb == "give back":
            core.give_back(source, now)
        elif verb == "overdue":
            core.overdue(now)
        assert core.held == sum(len(source.open) for source in sources)
    for item in running:
        core.finish(item, "succeeded", None, None, now)
    while (item := core.take(now)) is not None:
        core.finish(item, "succeeded", None, None, now)
    for source in sources:
        told += core.collect(source, now, everything=True)
    assert core.held == 0
    assert not core.running
    assert not core._lanes
    counted = Counter(id(one.delivery) for one in told)
    assert set(counted.values()) <= {1}, "an outcome was told twice"
    lost = core.counts["lost"] + core.counts["expired"] + core.counts["held_back"]
    assert len(counted) + lost == len(made)


def delivery(number, lease="L", expires=60.0, lane=None, ordered=False):
    return Delivery(Message(str(number), "t", "g", b""), lease, expires, number, lane, ordered and lane is not None)
