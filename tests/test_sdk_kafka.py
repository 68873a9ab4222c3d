"""The SDK on Kafka: a real broker, real processes, and moves between it and the built-in store."""

import itertools
import os
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest
from django.utils import timezone
from kafka_server import kafka  # noqa: F401 - a fixture
from kazoo.client import KazooClient
from messages_world import world  # noqa: F401 - a fixture
from registry_world import Lines, World, published, wait_for

from benchmarks.rest import serving
from clusters.models import Cluster, Kind
from clusters.services import create as create_cluster
from mqadmin_sdk import Client, Dead, Later, Outgoing, Token, UnsupportedError
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
from mqadmin_sdk.transports import Context, Settlement, consumer_transport, producer_transport
from registry.models import Deployment, Publication, RegistrarHeartbeat
from topics import draining, moving, tasks
from topics.models import Draining, Topic


@pytest.fixture
def tree(zk_chroot, kafka):  # noqa: F811
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

        def topic(self, name, cluster="kafka-a"):
            self.put(f"/zms/topic/{name}", f"clusterName={cluster}\ntype=topic\n")

        def group(self, name, topic, cluster="kafka-a", *, tags="*", suspend="false", broadcast="false", attempts=3):
            self.put(
                f"/zms/consumergroup/{name}",
                f"clusterName={cluster}\ntype=consumergroup\nbindingTopic={topic}\nbroadcast={broadcast}\nconsumeFrom=earliest\nsuspend={suspend}\n"
                f'mqadmin.maxAttempts={attempts}\nmqadmin.subscriptions={{"{topic}"\\:"{tags}"}}\n',
            )

    made = Tree()
    made.put("/zms/cluster/kafka-a", f"bootAddr={kafka.address}\nbrokerType=kafka\nserverIps=\n")
    made.put("/zms/cluster/builtin", "bootAddr=\nbrokerType=builtin\nserverIps=\n")
    yield made
    raw.stop()
    raw.close()


@pytest.fixture
def connect(tree):
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(Client(zookeeper=tree.hosts, app="shop", session_timeout=4, **arguments))


@pytest.fixture
def topic(kafka, tree):  # noqa: F811
    name = kafka.topic(f"topic_{uuid.uuid4().hex[:8]}")
    tree.topic(name)
    return name


def test_what_is_sent_arrives_with_all_it_has_and_is_committed(connect, tree, topic, kafka):  # noqa: F811
    seen = []
    tree.group("bills", topic, tags="created || paid")
    client = connect()
    client.subscribe("bills", seen.append, poll=0.5)
    client.start()
    sent = client.send(topic, {"id": 1}, key="order-1", tag="created", sharding_key="customer-7", headers={"trace": "é"}, id="m-1")
    client.send_batch(topic, [Outgoing.of("x", tag="paid"), Outgoing.of("y", tag="refused"), Outgoing.of("z")])
    futures = [client.send_async(topic, str(n), tag="paid", sharding_key="customer-8") for n in range(100)]
    assert client.flush()
    assert (sent.id, sent.cluster, sent.state) == ("m-1", "kafka-a", "accepted")
    assert {future.result().cluster for future in futures} == {"kafka-a"}
    wait_for(lambda: len(seen) == 102)
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
    assert [message.text for message in seen if message.sharding_key == "customer-8"] == [str(n) for n in range(100)]
    wait_for(lambda: sum(kafka.lag("bills", topic).values()) == 0)
    [stored] = [one for one in kafka.messages(topic, 104) if dict(one.headers())["mqadmin-id"] == b"m-1"]
    assert (stored.key(), dict(stored.headers())) == (
        b"customer-7",
        {"trace": "é".encode(), "mqadmin-id": b"m-1", "mqadmin-key": b"order-1", "mqadmin-tag": b"created"},
    )


def test_a_delay_is_refused_in_words(connect, topic):
    client = connect()
    with pytest.raises(UnsupportedError, match="kafka-a, which delivers nothing later"):
        client.send(topic, "x", delay=1)


def test_a_topic_that_is_not_there_and_a_broker_that_is_away_are_told(connect, tree, kafka):  # noqa: F811
    tree.group("lost", "nowhere_1")
    client = connect()
    client.subscribe("lost", print, poll=0.5)
    client.start()
    wait_for(lambda: "has no topic nowhere_1" in (next(client.consumers.all()).consumer.state[1] or ""))
    kafka.topic("nowhere_1")
    wait_for(lambda: next(client.consumers.all()).consumer.state == ("running", None))
    there = ClusterMetadata("gone", "127.0.0.1:9", "kafka")
    with pytest.raises(ConnectionError, match="gone"):  # so that nobody takes the change for applied
        consumer_transport(GroupMetadata("g", there, "t", {"t": "*"}), Context("shop", "me"), consumer="me")


def test_what_fails_waits_without_blocking_and_ends_as_a_dead_letter_that_says_why(connect, tree, topic, kafka):  # noqa: F811
    tries, done = [], []
    tree.group("careful", topic, attempts=2)

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
    client.subscribe("careful", handle, poll=0.5)
    client.start()
    # All of one partition: what fails stands before the others.
    client.send_batch(topic, [Outgoing.of(one, sharding_key="k", key="order-1") for one in ("poison", "hopeless", "early")])
    client.send_batch(topic, [Outgoing.of(str(n), sharding_key="k") for n in range(50)])
    wait_for(lambda: len(done) == 51 and ("poison", 2) in tries)
    assert tries.index(("0", 1)) < tries.index(("poison", 2))
    assert [attempt for text, attempt in tries if text == "early"] == [1, 1, 1]
    wait_for(lambda: sum(kafka.lag("careful", topic).values()) == 0)
    letters = {one.value(): {name: value.decode() for name, value in one.headers()} for one in kafka.messages("careful.dead", 2)}
    assert {
        body: (one["mqadmin-dead-reason"], one["mqadmin-dead-error"], one["mqadmin-dead-attempts"]) for body, one in letters.items()
    } == {b"poison": ("attempts", "ValueError: no such customer", "2"), b"hopeless": ("given_up", "wrong format", "1")}
    assert {(one["mqadmin-dead-group"], one["mqadmin-dead-topic"], one["mqadmin-key"]) for one in letters.values()} == {
        ("careful", topic, "order-1")
    }


def test_a_suspended_group_stops_and_goes_on_where_it_was(connect, tree, topic):
    seen = []
    tree.group("pausing", topic)
    client = connect()
    client.subscribe("pausing", seen.append, poll=0.5)
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
    wait_for(lambda: sorted(message.text for message in seen) == ["one", "three", "two"])


def test_every_instance_of_a_broadcast_group_receives_everything_and_goes_on_where_it_was(connect, tree, topic):
    tree.group("news", topic, broadcast="true")
    seen = {"one": [], "two": []}

    def instance(name):
        client = connect()  # the second is this host's second instance, also after a restart
        client.subscribe("news", lambda message: seen[name].append(message.text), poll=0.5, lease=6.0)
        client.start()
        return client

    first, second = instance("one"), instance("two")
    first.send_batch(topic, ["a", "b"])
    wait_for(lambda: sorted(seen["one"]) == sorted(seen["two"]) == ["a", "b"])
    second.close()
    first.send(topic, "c")
    wait_for(lambda: "c" in seen["one"])
    instance("two")
    wait_for(lambda: "c" in seen["two"])
    assert seen["two"].count("c") == 1
    assert sorted(seen["two"]) == sorted({*seen["two"]})  # what it had before did not come again


def test_tls_and_a_password_are_the_applications_settings(tree, connect, topic, kafka):  # noqa: F811
    tree.put("/zms/cluster/secure", f"bootAddr=127.0.0.1:{kafka.secure_port}\nbrokerType=kafka\nserverIps=\n")
    tree.topic(topic, "secure")
    tree.group("guarded", topic, "secure")
    seen = []
    client = connect(options={"kafka": kafka.secure()})
    client.subscribe("guarded", seen.append, poll=0.5)
    client.start()
    client.send(topic, "in confidence")
    wait_for(lambda: [message.text for message in seen] == ["in confidence"])

    context = Context("shop", "me", options={"kafka": kafka.secure("guessed")})
    group = GroupMetadata("g", ClusterMetadata("secure", f"127.0.0.1:{kafka.secure_port}", "kafka"), topic, {topic: "*"})
    with pytest.raises(ConnectionError, match="uthentication") as refused:
        consumer_transport(group, context, consumer="me")
    assert "guessed" not in str(refused.value)


def pull(transport, count, settle=()):
    found, until = [], time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        found += transport.next(settle=settle, max_messages=count - len(found), wait=1).deliveries
        settle = ()
    return found


def test_offsets_pass_nothing_unsettled_and_a_partition_that_others_get_takes_its_messages_along(kafka):  # noqa: F811
    cluster = ClusterMetadata("k", kafka.address, "kafka")
    topic = kafka.topic(f"topic_{uuid.uuid4().hex[:8]}", partitions=2)
    group = GroupMetadata(f"moving_{topic}", cluster, topic, {topic: "*"})
    context = Context("shop", "me", options={"kafka": {"heartbeat.interval.ms": 300}})  # how soon a member hears of others
    producer = producer_transport(cluster, context)
    keys = {}  # one for each partition
    for n in range(20):
        [one] = [producer.send(topic, [Outgoing(b"probe", sharding_key=str(n))], timeout=30)]
        assert one[0].state == "accepted"
    for one in kafka.messages(topic, 20):
        keys[one.partition()] = one.key().decode()
    producer.send(topic, [Outgoing(str(n).encode(), sharding_key=keys[n % 2]) for n in range(20)], timeout=30)
    producer.close()
    first = consumer_transport(group, context, consumer="one", lease=6)
    hand = pull(first, 40)
    assert len(hand) == 40
    held = [next(one for one in hand if one.handle.partition.number == number) for number in (0, 1)]  # the first of each partition
    settled = first.settle([Settlement(one, "succeeded") for one in hand if one not in held])
    assert [one.problem for one in settled] == [None] * 38
    time.sleep(0.6)
    assert sum(kafka.lag(group.name, topic).values()) == 40  # nothing is behind what is in hand

    second = consumer_transport(group, context, consumer="two", lease=6)
    taken = pull(second, 20)  # one of the partitions, from its beginning
    assert len({one.handle.partition.number for one in taken}) == 1
    gone = next(one for one in held if one.handle.partition.number == taken[0].handle.partition.number)
    kept = next(one for one in held if one is not gone)
    assert gone.message.id in {one.message.id for one in taken}
    assert first.extend([gone, kept], seconds=6) == [False, True]
    results = first.settle([Settlement(one, "succeeded") for one in (gone, kept)])
    assert [one.problem for one in results] == ["lease_expired", None]
    wait_for(lambda: kafka.lag(group.name, topic)[kept.handle.partition.number] == 0)
    assert kafka.lag(group.name, topic)[gone.handle.partition.number] == len(taken)
    second.settle([Settlement(one, "succeeded") for one in taken])
    first.close()
    second.close()  # commits
    assert sum(kafka.lag(group.name, topic).values()) == 0


def test_a_group_that_begins_with_the_latest_misses_nothing_while_it_is_away(kafka):  # noqa: F811
    cluster, context = ClusterMetadata("k", kafka.address, "kafka"), Context("shop", "me")
    topic = kafka.topic(f"topic_{uuid.uuid4().hex[:8]}")
    group = GroupMetadata(f"latest_{topic}", cluster, topic, {topic: "*"}, consume_from="latest")
    producer = producer_transport(cluster, context)
    producer.send(topic, [Outgoing(b"old")], timeout=30)
    first = consumer_transport(group, context, consumer="me", lease=6)
    wait_for(lambda: sum(kafka.lag(group.name, topic).values()) == 0)  # where it begins is committed, with nothing received
    first.close()
    producer.send(topic, [Outgoing(b"new")], timeout=30)
    producer.close()
    second = consumer_transport(group, context, consumer="me", lease=6)
    assert [one.message.body for one in pull(second, 1)] == [b"new"]
    second.close()


def test_attempts_are_counted_on_where_the_partition_goes(kafka):  # noqa: F811
    cluster, context = ClusterMetadata("k", kafka.address, "kafka"), Context("shop", "me")
    topic = kafka.topic(f"topic_{uuid.uuid4().hex[:8]}", partitions=1)
    group = GroupMetadata(f"counting_{topic}", cluster, topic, {topic: "*"}, max_attempts=3)
    producer = producer_transport(cluster, context)
    producer.send(topic, [Outgoing(body) for body in (b"fails", b"good", b"waits")], timeout=30)
    producer.close()
    first = consumer_transport(group, context, consumer="one", lease=6)
    fails, good, _waits = pull(first, 3)
    first.settle([Settlement(fails, "failed", delay=0.0), Settlement(good, "succeeded")])
    [again] = pull(first, 1)
    assert again.message.attempt == 2
    first.settle([Settlement(again, "failed", delay=60.0)])
    first.close()  # in order: what it had in hand and did not begin was no attempt
    second = consumer_transport(group, context, consumer="two", lease=6)
    came = pull(second, 3)
    assert [(one.message.body, one.message.attempt) for one in came] == [(b"fails", 3), (b"good", 1), (b"waits", 1)]
    second.settle([Settlement(one, "failed" if one.message.body == b"fails" else "succeeded") for one in came])
    wait_for(lambda: sum(kafka.lag(group.name, topic).values()) == 0)
    second.close()
    [letter] = kafka.messages(f"{group.name}.dead", 1)
    assert dict(letter.headers())["mqadmin-dead-attempts"] == b"3"


KILLING = """
import os, time
from mqadmin_sdk import Client
kafka = {{"heartbeat.interval.ms": 300, "session.timeout.ms": 3000}}
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4, options={{"kafka": kafka}})
@client.subscribe("poisoned", poll=0.5)
def handle(message):
    os.write(1, f"got {{message.text}} {{message.attempt}}\\n".encode())
    if message.text == "poison":
        time.sleep(1)
        os.kill(os.getpid(), 9)
client.run()
"""


def test_a_message_that_kills_its_process_ends_as_a_dead_letter(connect, tree, topic, kafka):  # noqa: F811
    tree.group("poisoned", topic, attempts=2)
    connect().send_batch(topic, [Outgoing.of(text, sharding_key="one partition") for text in ("poison", "good")])
    got = []
    for _ in range(3):
        process = Lines([sys.executable, "-u", "-c", KILLING.format(hosts=tree.hosts)], dict(os.environ))
        try:
            wait_for(lambda process=process: process.process.poll() is not None or "got good 1" in process.seen)
        finally:
            process.end()
        got += process.seen
    assert got == ["got poison 1", "got poison 2", "got good 1"]
    [letter] = kafka.messages("poisoned.dead", 1)
    assert dict(letter.headers())["mqadmin-dead-error"] == b"The process that had it ended without a word."


PROGRAM = """
import os, time
from mqadmin_sdk import Client
kafka = {{"heartbeat.interval.ms": 300, "session.timeout.ms": 3000}}
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4, options={{"kafka": kafka}})
@client.subscribe("killed", concurrency=2, poll=0.5)
def handle(message):
    time.sleep(0.01)
    os.write(1, f"ended {{message.text}}\\n".encode())
client.run()
"""


def test_a_consumer_that_is_killed_loses_nothing(connect, tree, topic, kafka):  # noqa: F811
    tree.group("killed", topic)
    processes = [Lines([sys.executable, "-u", "-c", PROGRAM.format(hosts=tree.hosts)], dict(os.environ)) for _ in range(2)]
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
        wait_for(lambda: sum(kafka.lag("killed", topic).values()) == 0, seconds=60)
    finally:
        codes = [process.end() for process in processes]
    ended = Counter(line.split()[-1] for process in processes for line in process.seen if line.startswith("ended"))
    assert set(ended) == {str(n) for n in range(next(numbers))}
    assert codes[1] == 0


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


def test_parent_and_child_send_after_a_fork_and_both_end(tree, topic, kafka):  # noqa: F811
    process = Lines([sys.executable, "-u", "-c", FORKING.format(hosts=tree.hosts, topic=topic)], dict(os.environ))
    try:
        process.expect("ended 0")
    finally:
        process.end()
    assert sorted(one.value() for one in kafka.messages(topic, 3)) == [b"after", b"after", b"before"]


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


def test_a_running_producer_and_consumer_move_to_kafka_and_back_without_a_lost_message(  # noqa: PLR0917
    world, web, tree, connect, kafka, django_db_blocker  # noqa: F811
):  # fmt: skip
    with django_db_blocker.unblock():
        Cluster.objects.filter(name="kafka-a").delete()  # of a run that was killed
        cluster = create_cluster(actor=world.admin, name="kafka-a", kind=Kind.KAFKA, address=kafka.address)
        topic = world.topic()
        group = world.group(topic)
    kafka.topic(topic.name)
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
    assert sorted(set(sent)) == ["builtin", "kafka-a"]
    assert [*dict.fromkeys(a + b for a, b in itertools.pairwise(sent) if a != b)] == ["builtinkafka-a", "kafka-abuiltin"]


CONSUMER = """
import logging, sys
from mqadmin_sdk import Client, Token

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
client = Client(zookeeper={hosts!r}, app="shop", url={url!r}, credential=Token({secret!r}), session_timeout=4)
client.subscribe({group!r}, lambda message: print("got", message.text, flush=True), poll=0.5, lease=6.0)
client.run()
"""


@pytest.fixture
def deployment(world, zk_chroot, django_db_blocker):  # noqa: F811
    """A registrar that publishes what the world's rows say; `consumer(web, group)` starts a process that consumes."""
    found = World(zk_chroot)

    def consumer(web, group):
        script = CONSUMER.format(hosts=zk_chroot, url=web, secret=world.secret, group=group.name)
        process = Lines([sys.executable, "-u", "-c", script], dict(os.environ))
        found.processes.append(process)
        return process

    found.consumer = consumer
    with django_db_blocker.unblock():
        found.registrar()
        try:
            yield found
        finally:
            found.close()
            RegistrarHeartbeat.objects.all().delete()
            Deployment.objects.all().delete()
            unwritten = {"published_generation": 0, "published_digest": "", "node_version": None, "published_at": None}
            Publication.objects.update(**unwritten)


def received(process):
    return {line.partition(" ")[2] for line in list(process.seen) if line.startswith("got ")}


def test_a_consumer_that_starts_after_a_move_receives_what_was_left_behind_in_both_directions(world, web, deployment, kafka):  # noqa: F811
    cluster = create_cluster(actor=world.admin, name="kafka-b", kind=Kind.KAFKA, address=kafka.address)
    topic = world.topic(cluster)
    group = world.group(topic)
    kafka.topic(topic.name)
    group_node, sent = f"/zms/consumergroup/{group.name}", []
    producer = Client(zookeeper=deployment.hosts, app="shop", session_timeout=4, url=web, credential=Token(world.secret))

    def move(to):
        topic.refresh_from_db()
        moving.move(actor=world.admin, topic=topic, cluster=to, reason="tests", accept_warnings=True)
        published(topic.zookeeper_path, group_node)

    def send(to):
        """Ten messages there, after those that go where the topic was before: the producer hears of the move a little later."""
        there = sent.count(to)
        while sent.count(to) < there + 10:
            sent.append(producer.send(topic.name, str(len(sent))).cluster)

    try:
        published(group_node)
        send("kafka-b")
        move(world.builtin)
        send("builtin")
        first = deployment.consumer(web, group)
        wait_for(lambda: received(first) >= {str(n) for n in range(len(sent))}, what="all of both clusters")
        assert tasks.end_draining() == 0, "nobody can be asked whether a Kafka cluster is drained"
        draining.end(actor=world.admin, topic=topic, cluster=cluster, reason="its lag is 0")
        first.expect(f"Group {group.name}: cluster kafka-b is drained")
        wait_for(lambda: sum(kafka.lag(group.name, topic.name).values()) == 0)
        first.end()

        before = len(sent)
        send("builtin")
        move(cluster)
        Draining.objects.update(left_at=timezone.now() - timedelta(minutes=1))
        assert tasks.end_draining() == 0, "the store still has messages for the group"
        send("kafka-b")
        second = deployment.consumer(web, group)
        wait_for(lambda: received(second) >= {str(n) for n in range(before, len(sent))}, what="what came since")
        wait_for(tasks.end_draining, what="the proof")
        second.expect(f"Group {group.name}: cluster builtin is drained")
        assert b"mqadmin.drainClusters=\n" in bytes(Publication.objects.get(path=group_node).data)
        before = len(sent)
        send("kafka-b")
        wait_for(lambda: received(second) >= {str(n) for n in range(before, len(sent))}, what="what came after that")
    finally:
        producer.close()
        Draining.objects.all().delete()
        Topic.objects.filter(pk=topic.pk).update(cluster=world.builtin)
        cluster.delete()
