"""The SDK on RabbitMQ: a real server, real processes, and moves between it and the built-in store."""

import itertools
import os
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from kazoo.client import KazooClient
from messages_world import world  # noqa: F401 - a fixture
from rabbitmq_server import named, rabbit  # noqa: F401 - a fixture
from registry_world import Lines, wait_for

from benchmarks.rest import serving
from clusters.models import Cluster, Kind
from clusters.services import create as create_cluster
from mqadmin_sdk import Client, Dead, Later, Outgoing, Token, TransportError, UnsupportedError
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
from mqadmin_sdk.transports import Context, Settlement, consumer_transport, producer_transport
from topics import moving
from topics.models import Draining, Topic


@pytest.fixture
def tree(zk_chroot, rabbit):  # noqa: F811
    """Writes nodes as a registrar does: `tree.topic(name, cluster)`, `tree.group(name, topic, cluster)`."""
    raw = KazooClient(zk_chroot)
    raw.start(timeout=15)

    class Tree:
        hosts = zk_chroot
        generation = 0

        def put(self, path, text):
            self.generation += 1
            text += f"statisticsLogger=disk\ngatedIps=\ngatedCluster=\nmqadmin.drainClusters=\nmqadmin.generation={self.generation}\n"
            raw.ensure_path(path.rsplit("/", 1)[0])
            if raw.exists(path):
                raw.set(path, text.encode())
            else:
                raw.create(path, text.encode())

        def topic(self, name, cluster="rabbit-a"):
            self.put(f"/zms/topic/{name}", f"clusterName={cluster}\ntype=topic\n")

        def group(self, name, topic, cluster="rabbit-a", *, tags="*", suspend="false", broadcast="false", attempts=3):
            self.put(
                f"/zms/consumergroup/{name}",
                f"clusterName={cluster}\ntype=consumergroup\nbindingTopic={topic}\nbroadcast={broadcast}\nconsumeFrom=earliest\nsuspend={suspend}\n"
                f'mqadmin.maxAttempts={attempts}\nmqadmin.subscriptions={{"{topic}"\\:"{tags}"}}\n',
            )
            return name

    made = Tree()
    made.put("/zms/cluster/rabbit-a", f"bootAddr={rabbit.address}\nbrokerType=rabbitmq\nserverIps=\n")
    made.put("/zms/cluster/builtin", "bootAddr=\nbrokerType=builtin\nserverIps=\n")
    yield made
    raw.stop()
    raw.close()


@pytest.fixture
def connect(tree):
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(Client(zookeeper=tree.hosts, app="shop", session_timeout=4, **arguments))


@pytest.fixture
def topic(tree):
    name = named("topic")
    tree.topic(name)
    return name


@pytest.fixture
def cluster(rabbit):  # noqa: F811
    return ClusterMetadata("r", rabbit.address, "rabbitmq")


@pytest.fixture
def transports(cluster):
    """Transports of a topic: `transports.producer()`, `transports.consumer(group, topics)`."""
    with ExitStack() as stack:

        class Transports:
            def made(self, transport):
                stack.callback(transport.close)
                return transport

            def producer(self, **options):
                return self.made(producer_transport(cluster, Context("shop", "me", options={"rabbitmq": options})))

            def consumer(self, group, *topics, **options):
                metadata = GroupMetadata(group, cluster, topics[0], dict.fromkeys(topics, "*"))
                return self.made(consumer_transport(metadata, Context("shop", "me", options={"rabbitmq": options}), consumer="me"))

        yield Transports()


def test_tls_a_password_and_a_kind_of_queue_are_the_applications_settings(tree, connect, topic, rabbit):  # noqa: F811
    tree.put("/zms/cluster/secure", f"bootAddr=127.0.0.1:{rabbit.secure_port}\nbrokerType=rabbitmq\nserverIps=\n")
    tree.topic(topic, "secure")
    group, seen = tree.group(named("guarded"), topic, "secure"), []
    with connect(options={"rabbitmq": rabbit.secure() | {"queue_arguments": {"x-single-active-consumer": True}}}) as client:
        client.subscribe(group, seen.append, poll=0.5)
        client.start()
        client.send(topic, "in confidence")
        wait_for(lambda: [message.text for message in seen] == ["in confidence"])
    metadata = GroupMetadata(group, ClusterMetadata("secure", f"127.0.0.1:{rabbit.secure_port}", "rabbitmq"), topic, {topic: "*"})
    with pytest.raises(TransportError, match="inequivalent arg 'x-single-active-consumer'"):
        consumer_transport(metadata, Context("shop", "me", options={"rabbitmq": rabbit.secure()}), consumer="me")
    with pytest.raises(ConnectionError, match="ACCESS_REFUSED") as refused:
        consumer_transport(metadata, Context("shop", "me", options={"rabbitmq": rabbit.secure("guessed")}), consumer="me")
    assert "guessed" not in str(refused.value)
    with pytest.raises(UnsupportedError, match="settings for RabbitMQ are not right"):
        consumer_transport(metadata, Context("shop", "me", options={"rabbitmq": {"heart_beat": 5}}), consumer="me")


def pull(transport, count, settle=()):
    found, until = [], time.monotonic() + 40
    while len(found) < count and time.monotonic() < until:
        found += transport.next(settle=settle, max_messages=count - len(found), wait=1).deliveries
        settle = ()
    return found


def test_what_is_sent_arrives_with_all_it_has_and_is_acknowledged(connect, tree, topic, rabbit):  # noqa: F811
    seen = []
    group = tree.group(named("bills"), topic, tags="created || paid")
    copy = rabbit.group(named("copy"), topic)
    client = connect()
    client.subscribe(group, seen.append, poll=0.5)
    client.start()
    wait_for(lambda: next(client.consumers.all()).consumer.state == ("running", None))
    sent = client.send(topic, {"id": 1}, key="order-1", tag="created", sharding_key="customer-7", headers={"trace": "é"}, id="m-1")
    assert (sent.id, sent.cluster, sent.state) == ("m-1", "rabbit-a", "accepted")
    wait_for(lambda: seen)
    client.send_batch(topic, [Outgoing.of("x", tag="paid"), Outgoing.of("y", tag="refused"), Outgoing.of("z")])
    futures = [client.send_async(topic, str(n), tag="paid", sharding_key="customer-8") for n in range(100)]
    client.send_oneway(topic, "way", tag="paid")
    assert client.flush()
    assert {future.result().cluster for future in futures} == {"rabbit-a"}
    wait_for(lambda: len(seen) == 103)
    first = next(message for message in seen if message.id == "m-1")
    assert (first.json(), first.key, first.tag, first.sharding_key, first.headers) == (
        {"id": 1},
        "order-1",
        "created",
        "customer-7",
        {"trace": "é"},
    )
    assert (first.topic, first.group, first.attempt) == (topic, group, 1)
    assert abs(first.sent_at.timestamp() - time.time()) < 300
    assert [message.text for message in seen if message.sharding_key == "customer-8"] == [str(n) for n in range(100)]
    client.close()
    assert rabbit.waiting(group) == 0  # nothing is given back: all was acknowledged
    properties, body = next(one for one in rabbit.take(copy, 105) if one[0].headers["mqadmin-id"] == "m-1")
    sent_at = properties.headers.pop("mqadmin-sent-at")
    properties.headers.pop("x-delivery-count")
    assert (body, properties.delivery_mode, int(sent_at) // 1000) == (b'{"id":1}', 2, first.sent_at.timestamp() // 1)
    assert properties.headers == {
        "trace": "é",
        "mqadmin-id": "m-1",
        "mqadmin-key": "order-1",
        "mqadmin-tag": "created",
        "mqadmin-sharding-key": "customer-7",
    }


def test_a_delay_is_refused_in_words(connect, topic):
    client = connect()
    with pytest.raises(UnsupportedError, match="rabbit-a, which delivers nothing later"):
        client.send(topic, "x", delay=1)


def test_what_nobody_would_get_is_refused_and_waits_for_the_first_group_if_there_is_time(connect, tree, topic, rabbit):  # noqa: F811
    client = connect()
    with pytest.raises(TransportError, match=f"{topic} has no queue of any group on the RabbitMQ cluster rabbit-a: nobody would"):
        client.send(topic, "lost?", timeout=2)
    with connect(options={"rabbitmq": {"mandatory": False}}) as careless:
        assert careless.send(topic, "dropped").state == "accepted"
    futures = [client.send_async(topic, str(n), sharding_key="k") for n in range(20)]
    time.sleep(0.3)
    assert not any(future.done() for future in futures)
    copy = rabbit.group(named("copy"), topic)
    assert client.flush()
    assert [body for _, body in rabbit.take(copy, 20)] == [str(n).encode() for n in range(20)]


def test_what_cannot_be_sent_spoils_nothing_else(transports, rabbit):  # noqa: F811
    topic, taken = named("topic"), named("taken")
    copy = rabbit.group(named("copy"), topic)
    connection = rabbit.connect()
    connection.channel().exchange_declare(taken, "topic", durable=True)
    connection.close()
    producer = transports.producer()
    found = producer.send(topic, [Outgoing(b"1"), Outgoing(b"2", headers={"n" * 300: "too long"}), Outgoing(b"3")], timeout=30)
    assert [getattr(one, "state", "refused") for one in found] == ["accepted", "refused", "accepted"]
    assert found[1].permanent
    assert [body for _, body in rabbit.take(copy, 2)] == [b"1", b"3"]
    [refused] = producer.send(taken, [Outgoing(b"x")], timeout=30)
    assert refused.permanent
    assert f"inequivalent arg 'type' for exchange '{taken}'" in str(refused)
    [large] = producer.send(topic, [Outgoing(bytes(129 * 1024 * 1024))], timeout=60)
    assert large.permanent
    assert producer.send(topic, [Outgoing(b"4")], timeout=30)[0].state == "accepted"


def test_a_queue_that_is_not_as_it_should_be_and_a_cluster_that_is_away_are_told(connect, tree, topic, rabbit):  # noqa: F811
    group = tree.group(named("odd"), topic)
    connection = rabbit.connect()
    connection.channel().queue_declare(group, durable=True)  # a classic one
    client, seen = connect(), []
    client.subscribe(group, seen.append, poll=0.5)
    client.start()
    consumer = next(client.consumers.all()).consumer
    wait_for(lambda: f"for queue '{group}' in vhost" in (consumer.state[1] or ""))
    connection.channel().queue_delete(group)
    wait_for(lambda: consumer.state == ("running", None))
    connection.channel().queue_delete(group)  # also while it is consumed
    wait_for(lambda: f"the queue {group} was deleted" in (consumer.state[1] or "") or consumer.state == ("running", None))
    client.send(topic, "found")
    wait_for(lambda: [message.text for message in seen] == ["found"])
    connection.close()
    gone = GroupMetadata("g", ClusterMetadata("gone", "127.0.0.1:9", "rabbitmq"), "t", {"t": "*"})
    with pytest.raises(ConnectionError, match=r"gone.*refused"):
        consumer_transport(gone, Context("shop", "me"), consumer="me")


def test_what_fails_waits_without_blocking_and_ends_as_a_dead_letter_that_says_why(connect, tree, topic, rabbit):  # noqa: F811
    tries, done = [], []
    group = tree.group(named("careful"), topic, attempts=2)

    def handle(message):
        tries.append((message.text, message.attempt))
        if message.text == "poison":
            raise ValueError("no such customer")
        if message.text == "hopeless":
            raise Dead("wrong format")
        if message.text == "early" and len([text for text, _ in tries if text == "early"]) < 3:
            raise Later(0.1)
        done.append(message.text)

    client = connect()
    client.subscribe(group, handle, poll=0.5)
    client.start()
    client.send_batch(topic, [Outgoing.of(one, sharding_key="k", key="order-1") for one in ("poison", "hopeless", "early")])
    client.send_batch(topic, [Outgoing.of(str(n), sharding_key="k") for n in range(50)])
    wait_for(lambda: len(done) == 51 and ("poison", 2) in tries)
    assert tries.index(("0", 1)) < tries.index(("poison", 2))
    assert [attempt for text, attempt in tries if text == "early"] == [1, 1, 1]
    letters = {body: properties.headers for properties, body in rabbit.take(f"{group}.dead", 2)}
    client.close()
    assert rabbit.waiting(group) == 0
    assert {
        body: (one["mqadmin-dead-reason"], one["mqadmin-dead-error"], one["mqadmin-dead-attempts"]) for body, one in letters.items()
    } == {b"poison": ("attempts", "ValueError: no such customer", "2"), b"hopeless": ("given_up", "wrong format", "1")}
    assert {(one["mqadmin-dead-group"], one["mqadmin-dead-topic"], one["mqadmin-key"]) for one in letters.values()} == {
        (group, topic, "order-1")
    }


def test_a_long_wait_and_its_attempts_outlive_the_process(transports, rabbit):  # noqa: F811
    topic, group = named("topic"), named("patient")
    first = transports.consumer(group, topic)
    producer = transports.producer()
    producer.send(topic, [Outgoing(b"x", "m-1", "k", "paid", "s", {"own": "1"})], timeout=30)
    [before] = pull(first, 1)
    assert [one.status for one in first.settle([Settlement(before, "failed", 4.5)])] == ["failed"]
    first.close()
    assert [rabbit.waiting(queue) for queue in (group, f"{group}.wait.4s")] == [0, 1]
    [after] = pull(transports.consumer(group, topic), 1)
    message = after.message
    assert (message.id, message.topic, message.key, message.tag, message.sharding_key, message.headers, message.attempt) == (
        "m-1", topic, "k", "paid", "s", {"own": "1"}, 2,
    )  # fmt: skip
    assert message.sent_at == before.message.sent_at


def test_a_suspended_group_stops_and_goes_on_where_it_was(connect, tree, topic):
    seen = []
    group = tree.group(named("pausing"), topic)
    client = connect()
    client.subscribe(group, seen.append, poll=0.5)
    client.start()
    client.send(topic, "one")
    wait_for(lambda: len(seen) == 1)
    tree.group(group, topic, suspend="true")
    consumer = next(client.consumers.all()).consumer
    wait_for(lambda: consumer.state[0] == "suspended")
    client.send_batch(topic, ["two", "three"])
    time.sleep(1)
    assert len(seen) == 1
    tree.group(group, topic)
    wait_for(lambda: sorted(message.text for message in seen) == ["one", "three", "two"])


def test_every_instance_of_a_broadcast_group_receives_everything_and_goes_on_where_it_was(connect, tree, topic):
    group = tree.group(named("news"), topic, broadcast="true")
    seen = {"one": [], "two": []}

    def instance(name):
        client = connect()  # the second is this host's second instance, also after a restart
        client.subscribe(group, lambda message: seen[name].append(message.text), poll=0.5)
        client.start()
        wait_for(lambda: next(client.consumers.all()).consumer.state == ("running", None))
        return client

    first, second = instance("one"), instance("two")
    first.send(topic, "a")
    wait_for(lambda: seen["one"] == seen["two"] == ["a"])
    second.close()
    first.send(topic, "b")
    wait_for(lambda: seen["one"] == ["a", "b"])
    instance("two")
    wait_for(lambda: seen["two"] == ["a", "b"])


def test_others_get_what_is_in_hand_when_a_connection_ends_and_nothing_that_was_settled(transports, rabbit):  # noqa: F811
    topic, group = named("topic"), named("group")
    first = transports.consumer(group, topic)
    transports.producer().send(topic, [Outgoing(str(n).encode()) for n in range(20)], timeout=30)
    hand = pull(first, 20)
    held = [hand[0], hand[7]]
    settled = first.settle([Settlement(one, "succeeded") for one in hand if one not in held])
    assert [one.problem for one in settled] == [None] * 18
    assert first.settle([Settlement(hand[3], "succeeded")])[0].problem == "already_settled"
    assert first.extend(held, seconds=6) == [True, True]
    first.close()
    assert first.extend(held, seconds=6) == [False, False]
    assert first.settle([Settlement(held[0], "succeeded")])[0].problem == "lease_expired"
    again = pull(transports.consumer(group, topic), 2)
    assert [one.message.id for one in again] == [one.message.id for one in held]
    assert {one.message.headers["mqadmin-redelivered"] for one in again} == {"true"}
    assert rabbit.waiting(group) == 0


def test_order_is_kept_while_a_quick_consumer_takes_more_and_more_at_once(transports, rabbit):  # noqa: F811
    topic, group = named("topic"), named("group")
    consumer, producer, found, settle = transports.consumer(group, topic), transports.producer(), [], []
    for start in range(0, 2000, 500):
        producer.send(topic, [Outgoing(str(n).encode(), sharding_key="k") for n in range(start, start + 500)], timeout=30)
    until = time.monotonic() + 60
    while len(found) < 2000 and time.monotonic() < until:
        deliveries = consumer.next(settle=settle, max_messages=500, wait=1).deliveries
        settle = [Settlement(one, "succeeded") for one in deliveries]
        found += [int(one.message.body) for one in deliveries]
    assert found == list(range(2000))
    assert consumer._session.window > 20
    consumer.settle(settle)
    consumer.close()
    assert rabbit.waiting(group) == 0


def test_what_others_send_is_received_whatever_it_looks_like(transports, rabbit):  # noqa: F811
    topic, group = named("topic"), named("group")
    consumer = transports.consumer(group, topic)
    headers = {"mqadmin-wait": "soon", "mqadmin-sent-at": "today", "mqadmin-attempt": "-1", "n": 7, "bytes": b"\xff", "list": [1]}
    rabbit.publish(topic, b"1", headers=headers, timestamp=2**63, message_id="theirs")
    rabbit.publish(topic, b"2", timestamp=1_700_000_000)
    first, second = [one.message for one in pull(consumer, 2)]
    assert (first.id, first.topic, first.attempt, first.sent_at) == ("theirs", topic, 1, None)
    assert first.headers == {"n": "7", "bytes": "\ufffd", "list": "[1]"}
    assert (second.body, second.sent_at.timestamp(), second.headers) == (b"2", 1_700_000_000, {})


def test_a_topic_that_a_group_gives_up_is_not_delivered_to_it_any_more(transports, rabbit):  # noqa: F811
    kept, given_up, group = named("kept"), named("given_up"), named("group")
    copy = rabbit.group(named("copy"), given_up)
    before = transports.consumer(group, kept, given_up)
    producer = transports.producer()
    producer.send(given_up, [Outgoing(b"1")], timeout=30)
    hand = pull(before, 1)
    before.settle([Settlement(one, "succeeded") for one in hand])
    before.close()
    after = transports.consumer(group, kept)
    producer.send(given_up, [Outgoing(b"2")], timeout=30)
    producer.send(kept, [Outgoing(b"3")], timeout=30)
    assert [one.message.body for one in [*hand, *pull(after, 1)]] == [b"1", b"3"]
    assert [body for _, body in rabbit.take(copy, 2)] == [b"1", b"2"]


PROGRAM = """
import os, time
from mqadmin_sdk import Client
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4)
@client.subscribe({group!r}, concurrency=2, poll=0.5)
def handle(message):
    time.sleep(0.01)
    os.write(1, f"ended {{message.headers.get('mqadmin-redelivered')}} {{message.text}}\\n".encode())
client.run()
"""


def test_a_consumer_that_is_killed_loses_nothing_and_what_comes_twice_says_so(connect, tree, topic, rabbit):  # noqa: F811
    group = tree.group(named("killed"), topic)
    processes = [Lines([sys.executable, "-u", "-c", PROGRAM.format(hosts=tree.hosts, group=group)], dict(os.environ)) for _ in range(2)]
    try:
        client = connect()
        numbers = itertools.count()

        def both():
            client.send_batch(topic, [str(next(numbers)) for _ in range(20)])
            return all(process.seen for process in processes)

        wait_for(both)
        client.send_batch(topic, [str(next(numbers)) for _ in range(100)])
        processes[0].process.kill()
        client.send_batch(topic, [str(next(numbers)) for _ in range(100)])
        wanted = {str(n) for n in range(next(numbers))}
        wait_for(lambda: {line.split()[-1] for process in processes for line in process.seen if line.startswith("ended")} == wanted)
    finally:
        codes = [process.end() for process in processes]
    assert codes[1] == 0
    assert rabbit.waiting(group) == 0
    dead, living = ([line.split() for line in process.seen if line.startswith("ended")] for process in processes)
    twice = {text for _, _, text in dead} & {text for _, _, text in living}
    assert {flag for _, flag, text in living if text in twice} <= {"True", "true"}
    assert "true" in {flag for _, flag, _ in living}
    assert set(Counter(text for _, _, text in living).values()) == {1}


FORKING = """
import os
from mqadmin_sdk import Client
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4)
client.send({topic!r}, "before")
child = os.fork()
client.send({topic!r}, "after")
client.close()
if child:
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


def test_parent_and_child_send_after_a_fork_and_both_end(tree, topic, rabbit):  # noqa: F811
    copy = rabbit.group(named("copy"), topic)
    process = Lines([sys.executable, "-u", "-c", FORKING.format(hosts=tree.hosts, topic=topic)], dict(os.environ))
    try:
        process.expect("ended 0")
    finally:
        process.end()
    assert sorted(body for _, body in rabbit.take(copy, 3)) == [b"after", b"after", b"before"]


@pytest.fixture(scope="module")
def web(world, django_db_blocker):  # noqa: F811
    """A web process, a storekeeper that ticks, and what the worker does each second."""
    from django.db import connection

    from messages import services
    from messages.storekeeper import Storekeeper

    def expire():
        while not ended.wait(0.5):
            services.expire()
        connection.close()

    with django_db_blocker.unblock():
        keeper, ended = Storekeeper(), threading.Event()
        threads = [threading.Thread(target=keeper.run), threading.Thread(target=expire)]
        for thread in threads:
            thread.start()
        try:
            with serving(threads=16) as port:
                yield f"http://127.0.0.1:{port}"
        finally:
            keeper.stop()
            ended.set()
            for thread in threads:
                thread.join()


def test_a_running_producer_and_consumer_move_to_rabbitmq_and_back_while_it_is_killed_without_a_lost_message(  # noqa: PLR0917
    world, web, tree, connect, rabbit, django_db_blocker  # noqa: F811
):  # fmt: skip
    with django_db_blocker.unblock():
        Cluster.objects.filter(name="rabbit-a").delete()  # of a run that was killed
        cluster = create_cluster(actor=world.admin, name="rabbit-a", kind=Kind.RABBITMQ, address=rabbit.address)
        topic = world.topic()
        group = world.group(topic)
    tree.topic(topic.name, "builtin")
    tree.group(group.name, topic.name, "builtin")
    sent, errors, seen, ended = [], [], [], threading.Event()
    producing, consuming = (connect(url=web, credential=Token(world.secret)) for _ in range(2))
    consuming.subscribe(group.name, lambda message: seen.append(int(message.body)), poll=0.5, lease=6.0)
    consuming.start()

    def send():
        while not ended.wait(0.003):
            try:
                sent.append(producing.send(topic.name, str(len(sent)), timeout=60).cluster)
            except Exception as error:
                errors.append(error)
                return

    def move(to):
        here = sent.count(to.name)
        # The consumers first: what is sent until the producers have moved is on the cluster that they have left.
        tree.group(group.name, topic.name, to.name)
        consumer = next(consuming.consumers.all()).consumer
        wait_for(lambda: consumer._group.cluster.name == to.name)
        before = len(sent)
        wait_for(lambda: len(sent) >= before + 30 or errors)
        with django_db_blocker.unblock():
            topic.refresh_from_db()
            moving.move(actor=world.admin, topic=topic, cluster=to, reason="tests", accept_warnings=True)
        tree.topic(topic.name, to.name)
        wait_for(lambda: sent.count(to.name) >= here + 100 or errors)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        wait_for(lambda: len(seen) >= 50 or errors)
        move(cluster)
        rabbit.kill()
        before = len(sent)
        rabbit.start()
        wait_for(lambda: len(sent) >= before + 50 or errors)
        with django_db_blocker.unblock():
            move(world.builtin)
    finally:
        ended.set()
        thread.join()
        with django_db_blocker.unblock():  # the world takes the topic away, not the cluster
            Draining.objects.all().delete()
            Topic.objects.filter(pk=topic.pk).update(cluster=world.builtin)
            cluster.delete()
    assert errors == []
    wait_for(lambda: set(seen) == set(range(len(sent))))  # some may have come twice: their answers were lost with the server
    assert [*dict.fromkeys(a + b for a, b in itertools.pairwise(sent) if a != b)] == ["builtinrabbit-a", "rabbit-abuiltin"]
