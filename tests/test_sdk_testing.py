"""The broker for unit tests, as an application's own tests use it: sending and consuming without a network, time that only a test moves."""

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from mqadmin_sdk import Busy, Dead, Later, NotPublishedError, metrics, shadow
from mqadmin_sdk.testing import Broker


@pytest.fixture
def broker():
    made = Broker()
    made.topic("orders")
    return made


@pytest.fixture
def client(broker):
    with broker.client("shop") as made:
        yield made


def numbers(messages):
    return [int(one.body) for one in messages]


def test_what_is_handled_what_is_dead_and_why(broker, client):
    broker.group("billing", "orders", max_attempts=2)

    @client.subscribe("billing")
    def handle(message):
        if message.tag == "poison":
            raise ValueError("cannot be parsed")
        if message.tag == "unwanted":
            raise Dead("nobody wants it")

    client.start()
    for i, tag in enumerate(["", "poison", "unwanted", ""]):
        client.send("orders", str(i), tag=tag)
    broker.wait("billing")
    assert numbers(broker.handled("billing")) == [0, 3]
    dead = {int(one.message.body): (one.message.attempt, one.error) for one in broker.dead("billing")}
    assert dead[1][0] == 2
    assert "cannot be parsed" in dead[1][1]
    assert dead[2] == (1, "nobody wants it")
    assert broker.waiting("billing") == 0


def test_time_passes_when_the_test_says_so(broker, client):
    broker.group("billing", "orders", backoff=timedelta(seconds=10))
    tries = []

    @client.subscribe("billing")
    def handle(message):
        tries.append((message.text, message.attempt))
        if tries == [("now", 1)]:
            raise Later(30)
        if message.text == "fails" and message.attempt == 1:
            raise ValueError

    client.start()
    client.send("orders", "now")
    assert client.send("orders", "delayed", delay=60).state == "delayed"
    broker.wait("billing")
    assert tries == [("now", 1)]
    broker.advance(30)
    broker.wait("billing")
    assert tries[1:] == [("now", 1)]  # later is no attempt
    broker.advance(30)
    broker.wait("billing")
    assert tries[2:] == [("delayed", 1)]
    client.send("orders", "fails")
    broker.wait("billing")
    broker.advance(10)
    broker.wait("billing")
    assert tries[3:] == [("fails", 1), ("fails", 2)]


def test_of_one_sharding_key_the_order_is_kept_even_by_what_fails(broker, client):
    broker.topic("orders", ordered=True)
    broker.group("billing", "orders")
    seen = []

    @client.subscribe("billing", concurrency=4)
    def handle(message):
        seen.append((message.sharding_key, int(message.body)))
        if message.attempt == 1 and int(message.body) % 5 == 0:
            raise ValueError

    for i in range(40):
        client.send("orders", str(i), sharding_key=f"k{i % 3}")
    client.start()
    broker.wait("billing")
    done = broker.handled("billing")
    for key in ("k0", "k1", "k2"):
        assert numbers(one for one in done if one.sharding_key == key) == [i for i in range(40) if f"k{i % 3}" == key]
    assert len(seen) > 40


def test_filters_and_groups_that_come_later(broker):
    broker.group("paid", subscriptions={"orders": "paid || refunded"})
    broker.group("pattern", subscriptions={"orders": "~p.*"})
    for tag in ("created", "paid", "paid || urgent", "refunded"):
        broker.put("orders", "x", tag=tag)
    broker.group("late", "orders")
    assert [broker.waiting(group) for group in ("paid", "pattern", "late")] == [3, 2, 0]


def test_a_suspended_group_gets_nothing_until_it_is_resumed(broker, client):
    broker.group("billing", "orders", suspended=True)
    client.subscribe("billing", lambda _message: None)
    client.start()
    broker.put("orders", "1")
    assert broker.waiting("billing") == 1
    assert broker.handled("billing") == []
    broker.suspend("billing", False)
    broker.wait("billing")
    assert numbers(broker.handled("billing")) == [1]


def test_every_instance_of_a_broadcast_group_gets_every_message(broker):
    broker.group("caches", "orders", broadcast=True)
    seen = []
    with broker.client("a") as first, broker.client("b") as second:
        for client, name in ((first, "1"), (second, "2")):
            client.subscribe("caches", lambda message, name=name: seen.append((name, message.text)), instance=name)
            client.start()
        with broker.changed:
            assert broker.changed.wait_for(lambda: len(broker._groups["caches"].queues) == 2, 10)
        broker.put("orders", "x")
        broker.wait("caches")
    assert sorted(seen) == [("1", "x"), ("2", "x")]


def test_operators_move_a_topic_and_the_client_follows(broker, client):
    assert client.send("orders", "1").cluster == "memory"
    broker.topic("orders", cluster="kafka-b")
    assert client.send("orders", "2").cluster == "kafka-b"
    assert numbers(broker.sent("orders")) == [1, 2]


def test_a_transaction_and_its_check_back(broker, client):
    with client.transaction("orders") as tx:
        tx.send("1")
        assert broker.sent("orders") == []
    assert numbers(broker.sent("orders")) == [1]
    left = client.transaction("orders")
    left.__enter__()
    left.send("2", id="order-2")
    assert client.check_back("orders", lambda half: "commit" if half.producer_id == "order-2" else "unknown") == 1
    assert numbers(broker.sent("orders")) == [1, 2]


def test_faults_and_what_is_not_published(broker, client):
    broker.fail(Busy("full", retry_after=7200.0))
    with pytest.raises(Busy):
        client.send("orders", "1", timeout=3600)
    assert client.send("orders", "1", id="a").duplicate is False
    assert client.send("orders", "1", id="a").duplicate is True
    with pytest.raises(NotPublishedError):
        client.send("no_such_topic", "1")
    assert len(broker.sent("orders")) == 1


def test_a_stress_test_stays_apart(broker, client):
    broker.topic("shadow_orders")
    broker.group("billing", "orders")
    broker.group("shadow_billing", "shadow_orders")
    client.subscribe("billing", lambda _message: None, shadow=lambda _message: None)
    client.start()
    broker.shadow("stress-1", "billing", "orders", app="shop")
    with shadow("stress-1"):
        client.send("orders", "1")
    client.send("orders", "2")
    broker.wait("billing")
    broker.wait("shadow_billing")
    assert (numbers(broker.handled("billing")), numbers(broker.handled("shadow_billing"))) == ([2], [1])
    assert client.consumers.shadowing.leaks.total == 0
    broker.shadow("stress-1", "billing", "orders", running=False, app="shop")
    assert not any(one.task for one in client.consumers.all())


def test_prometheus_reads_what_the_client_counts(broker, client):
    registry = CollectorRegistry()
    metrics.export(client, registry)
    broker.group("billing", "orders")
    client.subscribe("billing", lambda _message: None)
    client.start()
    client.send_batch("orders", ["1", "2"])
    broker.wait("billing")
    assert registry.get_sample_value("mqadmin_producer_sent_total", {"topic": "orders", "outcome": "sent"}) == 2
    assert registry.get_sample_value("mqadmin_producer_buffered") == 0
    assert registry.get_sample_value("mqadmin_consumer_received_total", {"group": "billing", "task": ""}) == 2
