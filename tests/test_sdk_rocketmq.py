"""The SDK on RocketMQ: a real broker and proxy, real processes, and moves between it and the built-in store."""

import itertools
import os
import ssl
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from kazoo.client import KazooClient
from messages_world import world  # noqa: F401 - a fixture
from registry_world import Lines, wait_for
from rocketmq_server import rocketmq  # noqa: F401 - a fixture

from benchmarks.rest import serving
from clusters.models import Cluster, Kind
from clusters.services import create as create_cluster
from mqadmin_sdk import Client, Dead, Later, Outgoing, Token, UnsupportedError
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
from mqadmin_sdk.transports import Context, Settlement, consumer_transport, producer_transport
from topics import moving
from topics.models import Draining, Topic


@pytest.fixture
def tree(zk_chroot, rocketmq):  # noqa: F811
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

        def cluster(self, name, *, proxy):
            self.put(f"/zms/cluster/{name}", f"bootAddr={rocketmq.names}\nbrokerType=rocketmq\nserverIps=\nmqadmin.proxyAddr={proxy}\n")

        def topic(self, name, cluster="rocketmq-a"):
            self.put(f"/zms/topic/{name}", f"clusterName={cluster}\ntype=topic\n")

        def group(self, name, topic, cluster="rocketmq-a", *, tags="*", suspend="false", attempts=3):
            self.put(
                f"/zms/consumergroup/{name}",
                f"clusterName={cluster}\ntype=consumergroup\nbindingTopic={topic}\nbroadcast=false\nconsumeFrom=earliest\nsuspend={suspend}\n"
                f'mqadmin.maxAttempts={attempts}\nmqadmin.subscriptions={{"{topic}"\\:"{tags}"}}\n',
            )

    made = Tree()
    made.cluster("rocketmq-a", proxy=rocketmq.address)
    made.put("/zms/cluster/builtin", "bootAddr=\nbrokerType=builtin\nserverIps=\n")
    yield made
    raw.stop()
    raw.close()


@pytest.fixture
def connect(tree):
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(Client(zookeeper=tree.hosts, app="shop", session_timeout=4, **arguments))


def named(kind):
    return f"{kind}_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic(rocketmq, tree):  # noqa: F811
    name = rocketmq.topic(named("topic"))
    tree.topic(name)
    return name


@pytest.fixture
def transports(rocketmq):  # noqa: F811
    """`transports.producer()`, `transports.consumer(group, topic)`: without metadata and retries."""
    opened = []

    class Transports:
        cluster = ClusterMetadata("r", rocketmq.names, "rocketmq", proxy_addr=rocketmq.address)
        context = Context("shop", "me")

        def producer(self, **options):
            context = replace(self.context, options={"rocketmq": options})
            opened.append(producer_transport(self.cluster, context))
            return opened[-1]

        def consumer(self, group, topic, *, lease=10.0, **more):
            metadata = GroupMetadata(group, self.cluster, topic, {topic: "*"}, **more)
            opened.append(consumer_transport(metadata, self.context, consumer="me", lease=lease))
            return opened[-1]

        def send(self, topic, messages):
            """Send until the proxy knows the topic."""
            producer, until = self.producer(), time.monotonic() + 30
            while True:
                try:
                    results = producer.send(topic, messages, timeout=30)
                except Exception:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.2)
                else:
                    assert [one.state for one in results] == ["accepted"] * len(messages)
                    return

        @staticmethod
        def pull(consumer, count):
            found, until = [], time.monotonic() + 60
            while len(found) < count and time.monotonic() < until:
                found += consumer.next(settle=[], max_messages=count - len(found), wait=1).deliveries
            return found

    yield Transports()
    for one in opened:
        one.close()


def test_what_is_sent_arrives_with_all_it_has(connect, tree, topic):
    seen = []
    tree.group("bills", topic, tags="created || paid")
    client = connect()
    client.subscribe("bills", seen.append, poll=0.5)
    client.start()
    sent = client.send(topic, {"id": 1}, key="order-1", tag="created", sharding_key="customer-7", headers={"trace": "é"}, id="m-1")
    client.send_batch(
        topic, [Outgoing.of("x", tag="paid"), Outgoing.of("y", tag="refused"), Outgoing.of("z"), Outgoing.of("w", tag="new || paid")]
    )
    futures = [client.send_async(topic, str(n), tag="paid") for n in range(100)]
    assert client.flush()
    assert (sent.id, sent.cluster, sent.state) == ("m-1", "rocketmq-a", "accepted")
    assert {future.result().cluster for future in futures} == {"rocketmq-a"}
    wait_for(lambda: len(seen) == 103)
    first = next(message for message in seen if message.id == "m-1")
    assert (first.json(), first.key, first.tag, first.sharding_key, first.headers) == (
        {"id": 1},
        "order-1",
        "created",
        "customer-7",
        {"trace": "é"},
    )
    assert (first.topic, first.group, first.attempt) == (topic, "bills", 1)
    assert abs(first.sent_at.timestamp() - time.time()) < 300
    assert {message.text for message in seen} == {first.text, "x", "w", *map(str, range(100))}


def test_a_delayed_message_comes_when_it_is_due(connect, tree, rocketmq):  # noqa: F811
    topic, seen = rocketmq.topic(named("topic"), "DELAY"), []
    tree.topic(topic)
    tree.group("patient", topic)
    client = connect()
    client.subscribe("patient", lambda message: seen.append((message.text, datetime.now(UTC))), poll=0.5)
    client.start()
    later = client.send(topic, "later", delay=3)
    assert later.state == "delayed"
    assert client.send(topic, "now").state == "accepted"
    wait_for(lambda: len(seen) == 2)
    assert [text for text, _ in seen] == ["now", "later"]
    assert (seen[1][1] - later.deliver_at).total_seconds() > -1.1  # RocketMQ counts whole seconds


def test_what_a_topic_or_rocketmq_does_not_take_is_refused_in_words(connect, topic):
    client = connect()
    with pytest.raises(
        UnsupportedError, match=f"topic {topic} of the RocketMQ cluster rocketmq-a takes messages of type NORMAL only: .*DELAY"
    ):
        client.send(topic, "x", delay=1)
    with pytest.raises(UnsupportedError, match="no message without a body"):
        client.send(topic, "")
    with pytest.raises(UnsupportedError, match="knows no half messages"), client.transaction(topic) as transaction:
        transaction.send("x")


def test_a_server_that_is_away_is_told(transports):
    transports.cluster = ClusterMetadata("gone", "127.0.0.1:9", "rocketmq", proxy_addr="127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"the RocketMQ cluster gone cannot be reached \(127.0.0.1:9"):
        transports.consumer("g", "t")
    with pytest.raises(ConnectionError, match="gone"):
        transports.producer().send("t", [Outgoing(b"x")], timeout=5)


def test_a_cluster_without_a_proxy_and_a_topic_that_is_missing_are_told(connect, tree, rocketmq):  # noqa: F811
    tree.cluster("rocketmq-b", proxy="")
    tree.group("lost", "nowhere_1", "rocketmq-b")
    client = connect()
    client.subscribe("lost", print, poll=0.5)
    client.start()
    consumer = next(client.consumers.all()).consumer
    wait_for(lambda: consumer.state[0] == "failed" and "cluster rocketmq-b is RocketMQ and names no proxy" in consumer.state[1])
    tree.cluster("rocketmq-b", proxy=f"127.0.0.1:9;{rocketmq.address}")  # one of two is there
    tree.group("lost", "nowhere_1", "rocketmq-b")
    wait_for(lambda: "has no topic nowhere_1" in (consumer.state[1] or ""))
    tree.topic("nowhere_1", "rocketmq-b")
    with pytest.raises(Exception, match="the RocketMQ cluster rocketmq-b has no topic nowhere_1"):
        client.send("nowhere_1", "x", timeout=1)
    rocketmq.topic("nowhere_1")
    wait_for(lambda: consumer.state == ("running", None))


def test_what_fails_comes_again_and_ends_among_the_dead_letters(connect, tree, topic, rocketmq, transports):  # noqa: F811
    tries, done = [], []
    group = named("careful")
    tree.group(group, topic, attempts=2)

    def handle(message):
        tries.append((message.text, message.attempt))
        if message.text == "poison":
            raise ValueError("no such customer")
        if message.text == "hopeless":
            raise Dead("wrong format")
        if message.text == "early" and message.attempt < 2:
            raise Later(0.1)
        done.append(message.text)

    client = connect()
    client.subscribe(group, handle, poll=0.5)
    client.start()
    client.send_batch(topic, [Outgoing.of(one, id=f"id-{one}", key="order-1") for one in ("poison", "hopeless", "early")])
    client.send_batch(topic, [str(n) for n in range(20)])
    wait_for(lambda: len(done) == 21 and ("poison", 2) in tries)
    assert sorted(done) == sorted(["early", *map(str, range(20))])
    assert [one for one in tries if one[0] == "hopeless"] == [("hopeless", 1)]
    dead = rocketmq.topic(f"%DLQ%{group}", queues=1)  # by itself nobody may read it
    letters = transports.pull(transports.consumer(named("undertaker"), dead), 2)
    assert {(one.message.id, one.message.text, one.message.key) for one in letters} == {
        ("id-poison", "poison", "order-1"),
        ("id-hopeless", "hopeless", "order-1"),
    }


def test_a_suspended_group_stops_and_goes_on_where_it_was(connect, tree, topic):
    seen = []
    tree.group("pausing", topic)
    client = connect()
    client.subscribe("pausing", seen.append, poll=0.5, lease=10)
    client.start()
    client.send(topic, "one")
    wait_for(lambda: len(seen) == 1)
    tree.group("pausing", topic, suspend="true")
    consumer = next(client.consumers.all()).consumer
    wait_for(lambda: consumer.state[0] == "suspended")
    client.send_batch(topic, ["two", "three"])
    time.sleep(1)
    assert len(seen) == 1
    tree.group("pausing", topic)
    wait_for(lambda: sorted({message.text for message in seen}) == ["one", "three", "two"])


def test_messages_of_a_key_come_in_order_on_a_fifo_topic_and_wait_for_the_one_that_failed(connect, tree, rocketmq):  # noqa: F811
    topic, group = rocketmq.topic(named("topic"), "FIFO"), named("ordered")
    rocketmq.ordered_group(group)
    tree.topic(topic)
    tree.group(group, topic)
    seen = []

    def handle(message):
        if message.text == "5" and message.attempt == 1:
            raise Later(1)
        seen.append((message.sharding_key, message.text))

    client = connect()
    futures = [client.send_async(topic, str(n), sharding_key=key) for n in range(10) for key in ("a", "b", "c")]
    futures.append(client.send_async(topic, "free"))
    assert client.flush()
    assert [one.result().state for one in futures] == ["accepted"] * 31
    client.subscribe(group, handle, concurrency=4, poll=0.5, lease=10)
    client.start()
    wait_for(lambda: len(set(seen)) == 31, seconds=90)
    for key in ("a", "b", "c"):
        # RocketMQ repeats all that stands behind the failed one in its queue, also what other keys have been handled.
        assert list(dict.fromkeys(text for one, text in seen if one == key)) == [str(n) for n in range(10)]


def test_a_lease_is_extended_and_without_that_others_get_the_message(transports, rocketmq):  # noqa: F811
    topic = rocketmq.topic(named("topic"))
    transports.send(topic, [Outgoing(b"kept"), Outgoing(b"left")])
    first = transports.consumer("leases", topic)
    hand = {one.message.body: one for one in transports.pull(first, 2)}
    ends = hand[b"kept"].expires
    assert first.extend([hand[b"kept"]], seconds=60) == [True]
    assert first.extend([hand[b"left"]], seconds=0.5) == [True]
    assert hand[b"kept"].expires > ends + 30
    [again] = transports.pull(transports.consumer("leases", topic), 1)
    assert (again.message.body, again.message.attempt) == (b"left", 2)
    assert first.extend([hand[b"left"]], seconds=60) == [False]
    results = first.settle([Settlement(hand[one], "succeeded") for one in (b"kept", b"left")])
    assert [one.problem for one in results] == [None, "lease_expired"]
    assert [one.problem for one in first.settle([Settlement(hand[b"kept"], "succeeded")])] == ["already_settled"]


def test_each_instance_of_a_broadcast_group_gets_all(transports, rocketmq):  # noqa: F811
    topic = rocketmq.topic(named("topic"))
    transports.send(topic, [Outgoing(b"x")])
    group = GroupMetadata("broadcast", transports.cluster, topic, {topic: "*"}, broadcast=True)
    both = [consumer_transport(group, transports.context, consumer=one, lease=10) for one in ("10.0.0.1@1", "10.0.0.2@1")]
    for one in both:
        [delivery] = transports.pull(one, 1)
        assert (delivery.message.body, delivery.message.group) == (b"x", "broadcast")
        one.close()


def test_it_speaks_tls_and_refuses_settings_that_it_does_not_know(transports, rocketmq):  # noqa: F811
    topic = rocketmq.topic(named("topic"))
    transports.send(topic, [Outgoing(b"x" * 3_000_000)])  # more than fits into one window of HTTP/2
    context = ssl.create_default_context()
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        transports.producer(tls=context).send(topic, [Outgoing(b"y")], timeout=10)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the proxy has made its certificate itself
    [sent] = transports.producer(tls=context).send(topic, [Outgoing(b"y" * 3_000_000)], timeout=30)
    assert sent.state == "accepted"
    found = transports.pull(transports.consumer(named("reader"), topic), 2)
    assert {(one.message.body[:1], len(one.message.body)) for one in found} == {(b"x", 3_000_000), (b"y", 3_000_000)}
    with pytest.raises(UnsupportedError, match="no such settings: ssl"):
        transports.producer(ssl=True)


PROGRAM = """
import os, time
from mqadmin_sdk import Client
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4)
@client.subscribe({group!r}, concurrency=2, poll=0.5, lease=10)
def handle(message):
    time.sleep(0.01)
    os.write(1, f"ended {{message.text}}\\n".encode())
client.run()
"""


def test_a_consumer_and_a_server_that_are_killed_cost_no_message(connect, tree, topic, rocketmq):  # noqa: F811
    group, sent, errors, ended = named("killed"), [], [], threading.Event()
    tree.group(group, topic, attempts=16)
    processes = [Lines([sys.executable, "-u", "-c", PROGRAM.format(hosts=tree.hosts, group=group)], dict(os.environ)) for _ in range(2)]
    client = connect()

    def send():
        while not ended.wait(0.01):
            try:
                client.send(topic, str(len(sent)), timeout=400)
                sent.append(None)
            except Exception as error:
                errors.append(error)
                return

    def handled():
        return {line.split()[-1] for process in processes for line in process.seen if line.startswith("ended")}

    thread = threading.Thread(target=send)
    thread.start()
    try:
        wait_for(lambda: all(process.seen for process in processes) or errors)
        processes[0].process.kill()
        rocketmq.kill(names=False)
        rocketmq.start()
        back = len(sent)
        wait_for(lambda: len(sent) >= back + 50 or errors, seconds=400)
        ended.set()
        thread.join()
        assert errors == []
        wait_for(lambda: handled() == {str(n) for n in range(len(sent))}, seconds=120)
    finally:
        ended.set()
        thread.join()
        codes = [process.end() for process in processes]
    assert codes[1] == 0


FORKING = """
import os, threading
from mqadmin_sdk import Client
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4)
client.send({topic!r}, "before")
client.subscribe("forking", print, poll=5)
client.start()
busy = threading.Thread(target=lambda: [client.send({topic!r}, "meanwhile") for _ in range(20)])
busy.start()
child = os.fork()
client.send({topic!r}, "after")
if child:
    busy.join()
client.close()
if child:
    print("forked", os.waitpid(child, 0)[1], flush=True)
"""


def test_parent_and_child_send_after_a_fork_and_both_end(tree, topic, transports):
    tree.group("forking", "nowhere_2")
    process = Lines([sys.executable, "-u", "-c", FORKING.format(hosts=tree.hosts, topic=topic)], dict(os.environ))
    try:
        process.expect("forked 0")
    finally:
        process.end()
    found = Counter(one.message.text for one in transports.pull(transports.consumer(named("reader"), topic), 23))
    assert found == {"before": 1, "after": 2, "meanwhile": 20}


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


def test_a_running_producer_and_consumer_move_to_rocketmq_and_back_without_a_lost_message(  # noqa: PLR0917
    world, web, tree, connect, rocketmq, django_db_blocker  # noqa: F811
):  # fmt: skip
    with django_db_blocker.unblock():
        Cluster.objects.filter(name="rocketmq-a").delete()  # of a run that was killed
        cluster = create_cluster(
            actor=world.admin, name="rocketmq-a", kind=Kind.ROCKETMQ, address=rocketmq.names, proxy_address=rocketmq.address
        )
        topic = world.topic()
        group = world.group(topic)
    rocketmq.topic(topic.name)
    tree.topic(topic.name, "builtin")
    tree.group(group.name, topic.name, "builtin")
    sent, errors, seen, ended = [], [], [], threading.Event()
    producing, consuming = (connect(url=web, credential=Token(world.secret)) for _ in range(2))
    consuming.subscribe(group.name, lambda message: seen.append(int(message.body)), poll=0.5, lease=6.0)
    consuming.start()

    def send():
        while not ended.wait(0.003):
            try:
                sent.append(producing.send(topic.name, str(len(sent))).cluster)
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
    wait_for(lambda: set(seen) == set(range(len(sent))))  # some may have come twice: a slow machine loses answers and leases
    assert sorted(set(sent)) == ["builtin", "rocketmq-a"]
    assert [*dict.fromkeys(a + b for a, b in itertools.pairwise(sent) if a != b)] == ["builtinrocketmq-a", "rocketmq-abuiltin"]
