"""The SDK's producer against the product: web processes, the store, ZooKeeper; signed with an application's key."""

import asyncio
import json
import os
import signal
import threading
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from kazoo.client import KazooClient
from messages_world import world  # noqa: F401 - a fixture
from registry_world import wait_for

from accounts import credentials
from accounts.models import Application
from benchmarks.rest import serving
from clusters.models import Cluster
from messages.db import fetch
from mqadmin_sdk import AppKey, Busy, Client, ControlPlane, InvalidError, NotReadyError, Outgoing, SendResult, UndecidedError
from topics import moving


@pytest.fixture(scope="module")
def served(world):  # noqa: F811
    """A web process and the shop's key."""
    key, secret = credentials.make_key(actor=world.admin, application=Application.objects.get(name="shop"))
    # What this process has sealed, the web process has to open, wherever the settings have their keys from.
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("MQADMIN_ENCRYPTION_KEYS", ",".join(settings.ENCRYPTION_KEYS))
        port = stack.enter_context(serving(threads=16, connections=8))
        found = SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", credential=AppKey(key.key_id, secret))
        with closing(ControlPlane(found.url, credential=found.credential)) as control:
            control.get("me", timeout=90)  # everything is loaded by the first request
        yield found


@pytest.fixture
def tree(zk_chroot):
    """Writes nodes as a registrar does: `tree(topic)`."""
    raw = KazooClient(zk_chroot)
    raw.start(timeout=15)

    def put(path, text):
        raw.ensure_path(path.rsplit("/", 1)[0])
        if raw.exists(path):
            raw.set(path, text.encode())
        else:
            raw.create(path, text.encode())

    def publish(topic, cluster="builtin", kind="builtin", generation=1):
        put(f"/zms/cluster/{cluster}", f"bootAddr=\nbrokerType={kind}\nserverIps=\nmqadmin.generation=1\n")
        put(
            f"/zms/topic/{topic.name}",
            f"clusterName={cluster}\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation={generation}\n",
        )

    publish.hosts = zk_chroot
    yield publish
    raw.stop()
    raw.close()


@pytest.fixture
def connect(served, tree):
    """`connect()` makes a client; all are closed in the end."""
    with ExitStack() as stack:

        def made(**arguments):
            defaults = {"zookeeper": tree.hosts, "app": "shop", "url": served.url, "credential": served.credential, "ip": "10.0.0.1"}
            return stack.enter_context(Client(**{**defaults, **arguments}))

        yield made


@pytest.fixture
def topic(world, tree):  # noqa: F811
    made = world.topic()
    tree(made)
    return made


def stored(topic):
    """What stands in the log, in its order."""
    sql = "SELECT id, body, key, tag, skey, headers FROM mq_message WHERE topic_id = %s::bigint ORDER BY id"
    return [SimpleNamespace(id=str(r[0]), body=bytes(r[1]), key=r[2], tag=r[3], skey=r[4], headers=r[5]) for r in fetch(sql, (topic.pk,))]


def test_every_way_to_send_ends_in_the_store(connect, topic):
    client = connect(check=True)
    sent = client.send(topic.name, {"id": 1, "name": "é"}, key="order-1", tag="created", sharding_key="s1", headers={"trace": "t1"})
    assert (sent.state, sent.cluster, sent.duplicate) == ("accepted", "builtin", False)
    batch = client.send_batch(topic.name, [b"\xff\x00", "text", Outgoing.of("tagged", tag="paid")])
    future = client.send_async(topic.name, "async")
    client.send_oneway(topic.name, "one way")
    assert client.flush(timeout=30)
    rows = stored(topic)
    first = rows[0]
    assert (first.id, json.loads(first.body), first.key, first.tag, first.skey) == (
        sent.id,
        {"id": 1, "name": "é"},
        "order-1",
        "created",
        "s1",
    )
    assert json.loads(first.headers) == {"trace": "t1"}
    assert [row.id for row in rows[1:4]] == [one.id for one in batch]
    assert [row.body for row in rows[1:4]] == [b"\xff\x00", b"text", b"tagged"]
    assert {row.body for row in rows[4:]} == {b"async", b"one way"}
    assert future.result(0).id in {row.id for row in rows[4:]}


def test_a_delay_and_a_time(connect, topic):
    client = connect()
    due = datetime.now(UTC) + timedelta(hours=2)
    by_delay = client.send(topic.name, "x", delay=timedelta(hours=1))
    by_time = client.send(topic.name, "x", deliver_at=due)
    assert (by_delay.state, by_time.state) == ("delayed", "delayed")
    assert abs((by_time.deliver_at - due).total_seconds()) < 0.001
    assert abs((by_delay.deliver_at - datetime.now(UTC)).total_seconds() - 3600) < 60
    for wrong in ({"delay": -1}, {"delay": 1, "deliver_at": due}, {"deliver_at": datetime(2026, 1, 1)}):
        with pytest.raises(ValueError):
            client.send(topic.name, "x", **wrong)


def test_the_same_id_is_stored_once_and_a_refusal_says_why(connect, topic):
    client = connect()
    first, again = (client.send(topic.name, "x", id="order-1") for _ in range(2))
    assert (again.id, again.duplicate) == (first.id, True)
    with pytest.raises(InvalidError) as caught:
        client.send(topic.name, "x", tag="no blanks")
    assert caught.value.code == "invalid_tag"
    assert len(stored(topic)) == 1


def test_what_asyncio_sends_shares_requests(connect, topic, world):  # noqa: F811
    client = connect()

    async def all_at_once():
        return await asyncio.gather(*(asyncio.wrap_future(client.send_async(topic.name, str(i))) for i in range(300)))

    results = asyncio.run(all_at_once())
    assert [row.body for row in sorted(stored(topic), key=lambda row: int(row.body))] == [str(i).encode() for i in range(300)]
    assert len({one.id for one in results}) == 300


def test_a_transaction_delivers_when_its_block_ends_and_nothing_when_it_raises(connect, topic):
    client = connect()
    with client.transaction(topic.name) as tx:
        half = tx.send({"id": 1}, key="order-1")
        assert half.state == "half"
        assert stored(topic) == []
    assert [row.key for row in stored(topic)] == ["order-1"]
    with pytest.raises(ZeroDivisionError), client.transaction(topic.name) as tx:  # noqa: PT012
        tx.send({"id": 2}, key="order-2")
        1 / 0  # noqa: B018
    assert len(stored(topic)) == 1


def test_a_half_message_that_its_process_left_open_is_decided_by_another_one(connect, topic, world):  # noqa: F811
    client = connect()
    first = client.transaction(topic.name, check_after=1)
    first.__enter__()
    left = [first.send(str(i), id=f"order-{i}") for i in range(3)]
    answers = {"order-0": "commit", "order-1": "rollback", "order-2": "unknown"}
    other = connect()
    seen = {}

    def judge(half):
        seen[half.producer_id] = half.half.id
        return answers[half.producer_id]

    wait_for(lambda: (other.check_back(topic.name, judge), len(seen) == 3)[1])
    assert [seen[f"order-{i}"] for i in range(3)] == [half.id for half in left]
    assert [row.body for row in stored(topic)] == [b"0"]
    with pytest.raises(UndecidedError):  # the second one has been rolled back meanwhile
        first.__exit__(None, None, None)


def test_what_is_no_name_and_what_is_no_header_is_refused_in_words(connect, topic):
    client = connect()
    for name in ("", "a/b", "..", f"{topic.name}/x"):
        with pytest.raises(ValueError, match="is not the name of a topic"):
            client.send(name, "x")
    with pytest.raises(ValueError, match="'a/b' is not the name of a group"):
        client.group("a/b")
    with pytest.raises(TypeError, match=r"headers are text with text, not \{.attempt.: 1\}"):
        client.send(topic.name, "x", headers={"attempt": 1})


def test_check_says_everything_that_is_wrong(served, tree):
    right = {"zookeeper": tree.hosts, "app": "shop", "url": served.url, "credential": served.credential}
    Client(**right, check=True).close()
    with pytest.raises(NotReadyError) as caught:
        Client(**{**right, "credential": AppKey(served.credential.key, "wrong")}, check=True)
    assert len(caught.value.problems) == 1
    assert "wrong_credentials" in str(caught.value)
    client = Client(zookeeper="127.0.0.1:1", app="shop", url="http://127.0.0.1:1")
    with pytest.raises(NotReadyError) as caught:
        client.check(timeout=2)
    client.close()
    assert len(caught.value.problems) == 2


def test_a_full_backlog_reaches_the_caller_as_back_pressure(connect, topic, world):  # noqa: F811
    world.group(topic)
    topic.max_backlog = 3
    topic.save(update_fields=["max_backlog"])
    client = connect()
    with pytest.raises(Busy) as caught:  # noqa: PT012
        for i in range(100):
            client.send(topic.name, str(i), timeout=5)
    assert (caught.value.code, caught.value.retry_after) == ("backlog_full", 1.0)


class Elsewhere:
    """Another kind of broker, as the application might plug one in."""

    def __init__(self):
        self.bodies = []

    def producer(self, cluster, context):
        return self

    def send(self, topic, messages, *, timeout):
        self.bodies += [message.body for message in messages]
        return [SendResult("1", topic, "elsewhere") for _ in messages]

    def flush(self, *, timeout):
        pass

    def close(self):
        pass


def test_a_topic_moves_away_under_its_senders_and_nothing_is_lost_or_raised(connect, topic, tree, world):  # noqa: F811
    elsewhere = Elsewhere()
    client = connect(transports={"elsewhere": elsewhere})
    client.send(topic.name, "first")
    other = Cluster.objects.create(name=f"kafka-{os.getpid()}", kind="kafka", address="h:1")
    stop, sent = threading.Event(), []

    def sender(number):
        while not stop.is_set():
            body = f"{number}-{len(sent)}".encode()
            client.send(topic.name, body)
            sent.append(body)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(sent) > 20)
    moving.move(actor=world.admin, topic=topic, cluster=other, reason="tests", accept_warnings=True)
    so_far = len(sent)  # from now on the store refuses; ZooKeeper says nothing yet
    wait_for(lambda: len(stored(topic)) >= so_far)
    tree(topic, "elsewhere", "elsewhere", 2)
    wait_for(lambda: len(elsewhere.bodies) > 20)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert sorted([row.body for row in stored(topic)] + elsewhere.bodies) == sorted([b"first", *sent])


def test_a_web_process_that_is_killed_costs_no_message(connect, topic, served):
    with serving(threads=8, connections=4) as port:
        client = connect(url=[f"http://127.0.0.1:{port}", served.url], balance="round_robin")
        futures = [client.send_async(topic.name, str(i)) for i in range(20)]
        killed = threading.Event()

        def feed():
            for i in range(20, 400):
                futures.append(client.send_async(topic.name, str(i)))
                if i == 200:
                    killed.wait(10)

        feeding = threading.Thread(target=feed)
        feeding.start()
        wait_for(lambda: len(futures) > 100)
        for pid in children_of_port(port):
            os.kill(pid, 9)
        killed.set()
        feeding.join(30)
        assert all(future.result(30) for future in futures)
    assert sorted(int(row.body) for row in stored(topic)) == list(range(400))


def children_of_port(port):
    """The processes of the web server at this port, its workers included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if f"\0--port\0{port}\0".encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def test_a_client_from_before_a_fork_sends_in_the_child(connect, topic):
    client = connect()
    client.send(topic.name, "parent")
    client.send_async(topic.name, "parent again").result(30)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            client.send(topic.name, "child")
            client.send_async(topic.name, "child again").result(30)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    client.send(topic.name, "parent at last")
    assert [row.body for row in stored(topic)] == [b"parent", b"parent again", b"child", b"child again", b"parent at last"]
