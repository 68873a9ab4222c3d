"""Consuming from the built-in store over a live Granian: order, crashes, frozen processes, moves of positions."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from datetime import datetime

import pytest
from kazoo.client import KazooClient
from messages_world import world  # noqa: F401 - a fixture
from registry_world import Lines, wait_for

from benchmarks.rest import serving
from mqadmin_sdk import AppKey, Client, Later, Token
from topics import services as topics


@pytest.mark.django_db
def test_an_answer_names_the_ordered_topics(api):
    """The mark prepares the database for this module."""
    assert api("POST", "consumer-groups/any/next", {"wait_ms": 30_001}).body["code"] == "invalid"


@pytest.fixture(scope="module")
def web(world, django_db_blocker):  # noqa: F811
    """A web process, a storekeeper that ticks, and what the worker does each second."""
    from messages import services
    from messages.storekeeper import Storekeeper

    def expire():
        from django.db import connection

        while not ended.wait(0.2):
            services.expire()
        connection.close()

    from django.conf import settings

    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MQADMIN_ENCRYPTION_KEYS", ",".join(settings.ENCRYPTION_KEYS))  # to open the keys that the tests make
        keeper, ended = Storekeeper(), threading.Event()
        threads = [threading.Thread(target=keeper.run), threading.Thread(target=expire)]
        for thread in threads:
            thread.start()
        try:
            with serving(threads=24) as port:
                yield f"http://127.0.0.1:{port}"
        finally:
            keeper.stop()
            ended.set()
            for thread in threads:
                thread.join()


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    client.ensure_path("/zms/cluster")
    client.create("/zms/cluster/builtin", b"bootAddr=\nbrokerType=builtin\nserverIps=\nmqadmin.generation=1\n")
    yield client
    client.stop()
    client.close()


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


def publish(raw, group, generation=1, suspend="false", broadcast="false"):
    text = (
        f"clusterName=builtin\ntype=consumergroup\nbindingTopic=t\nbroadcast={broadcast}\nconsumeFrom=earliest\nsuspend={suspend}\ngatedIps=\n"
        f'gatedCluster=\nstatisticsLogger=disk\nmqadmin.generation={generation}\nmqadmin.drainClusters=\nmqadmin.subscriptions={{"t"\\:"*"}}\n'
    )
    raw.ensure_path("/zms/consumergroup")
    path = f"/zms/consumergroup/{group}"
    if raw.exists(path):
        raw.set(path, text.encode())
    else:
        raw.create(path, text.encode())


@pytest.fixture
def connect(world, web, raw, zk_chroot):  # noqa: F811
    made = []

    def client(**arguments):
        arguments = {"credential": Token(world.secret), "url": web, **arguments}
        made.append(Client(zookeeper=zk_chroot, app="shop", session_timeout=4, **arguments))
        return made[-1]

    yield client
    for one in made:
        one.close()


def send(world, topic, *bodies, **fields):  # noqa: F811
    answer = world.api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": str(body), **fields} for body in bodies]})
    assert answer.status_code == 201, answer.body


def counts(world, group):  # noqa: F811
    from messages import services

    return services.counts(group_ids=[group.pk])[group.pk]


def ordered_topic(world, scope):  # noqa: F811
    from accounts.models import Application

    made = topics.apply(
        actor=world.admin,
        name=f"sdk_ordered_{scope}",
        application=Application.objects.get(name="shop"),
        owner=world.admin,
        expected_rate=1,
        message_bytes=100,
        partitions=1,
        ordered=True,
        order_scope=scope,
        reason="tests",
    )
    return topics.approve(actor=world.approver, topic=made, cluster=world.builtin)


@pytest.mark.parametrize("scope", ["key", "topic"])
def test_on_an_ordered_topic_nothing_overtakes_what_failed(world, raw, connect, scope, caplog):  # noqa: F811
    topic = ordered_topic(world, scope)
    group = world.group(topic, max_attempts=50)
    publish(raw, group.name)
    rng, done, lock = random.Random(3), defaultdict(list), threading.Lock()

    def handle(message):
        with lock:
            if rng.random() < 0.1:
                raise Later(0) if rng.random() < 0.5 else ValueError("again")
            done[message.sharding_key if scope == "key" else ""].append(int(message.body))

    caplog.set_level("CRITICAL", logger="mqadmin_sdk")
    for n in range(0, 120, 4):
        for key in ("a", "b", "c", "d"):
            send(world, topic, n + ord(key) - 97, sharding_key=key)
    for _ in range(2):
        client = connect()
        client.subscribe(group.name, handle, concurrency=4, poll=0.5)
        client.start()
    wait_for(lambda: sum(map(len, done.values())) >= 120)
    assert {key: numbers == sorted(set(numbers)) for key, numbers in done.items()} == dict.fromkeys(done, True)
    assert sum(map(len, done.values())) == 120


PROGRAM = """
import logging, os, time
from mqadmin_sdk import Client, Token
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
client = Client(zookeeper={hosts!r}, app="shop", session_timeout=4, url={url!r}, credential=Token({secret!r}))
@client.subscribe({group!r}, concurrency=2, lease=2.0, poll=0.5)
def handle(message):
    time.sleep(0.02)
    os.write(1, f"ended {{message.text}}\\n".encode())
client.run()
"""


def test_a_process_that_is_killed_or_frozen_loses_nothing_and_doubles_nothing_silently(world, web, raw, zk_chroot):  # noqa: F811
    topic = world.topic()
    group = world.group(topic, max_attempts=20)
    publish(raw, group.name)
    source = PROGRAM.format(hosts=zk_chroot, url=web, secret=world.secret, group=group.name)
    processes = [Lines([sys.executable, "-u", "-c", source], dict(os.environ)) for _ in range(3)]
    try:
        send(world, topic, *range(200))
        for process in processes:
            process.expect("ended")
        processes[0].process.kill()
        processes[1].signal(signal.SIGSTOP)
        time.sleep(3)  # beyond its lease
        processes[1].signal(signal.SIGCONT)
        send(world, topic, *range(200, 300))
        wait_for(lambda: counts(world, group).succeeded == 300)
    finally:
        for process in processes:
            process.end()
    ended = Counter(line.split()[-1] for process in processes for line in process.seen if line.startswith("ended"))
    assert set(ended) == {str(n) for n in range(300)}
    told = sum(1 for process in processes for line in process.seen if "thrown away" in line or "that was not taken" in line)
    # Of the killed process nobody can tell: at most what it had begun or not yet settled comes again.
    twice = sum(ended.values()) - 300
    of_killed = sum(1 for line in processes[0].seen if line.startswith("ended"))
    assert twice <= told + of_killed
    assert [process.process.returncode for process in processes[1:]] == [0, 0]


def test_instances_of_a_broadcast_group_get_every_message(world, raw, connect):  # noqa: F811
    topic = world.topic()
    group = world.group(topic, mode="broadcast")
    publish(raw, group.name, broadcast="true")
    seen = defaultdict(list)
    for name in ("one", "two"):
        client = connect()
        client.subscribe(group.name, lambda message, name=name: seen[name].append(int(message.body)), instance=name, poll=0.5)
        client.start()
    wait_for(lambda: len(world.api("GET", f"consumer-groups/{group.name}/instances").body["results"]) == 2)
    send(world, topic, *range(20))
    wait_for(lambda: [len(seen["one"]), len(seen["two"])] == [20, 20])
    assert seen["one"] == seen["two"] == list(range(20))


def test_in_a_sticky_group_a_key_stays_with_its_process_until_that_says_goodbye(world, raw, connect):  # noqa: F811
    topic = world.topic()
    group = world.group(topic, balance="sticky")
    publish(raw, group.name)
    own, others, address = defaultdict(list), defaultdict(list), f"consumer-groups/{group.name}"

    def workers():
        return {row["name"]: row["slots"] for row in world.api("GET", f"{address}/workers").body["results"]}

    def work_as_other():
        batch = world.api("POST", f"{address}/pull", {"consumer": "other", "max": 100}).body
        for message in batch["messages"]:
            others[message["sharding_key"]].append(message["body"])
            world.api("POST", f"{address}/acks", {"acks": [{"lease": batch["lease"], "id": message["id"], "status": "succeeded"}]})

    client = connect()
    client.subscribe(group.name, lambda message: own[message.sharding_key].append(message.text), concurrency=4, poll=0.5)
    client.start()
    wait_for(lambda: list(workers()) == [client.instance])
    work_as_other()
    assert workers() == {client.instance: 128, "other": 128}
    keys = [f"k{number}" for number in range(40)]
    for turn in ("first", "second"):
        for key in keys:
            send(world, topic, turn, sharding_key=key)
    wait_for(lambda: work_as_other() or counts(world, group).succeeded == 80)
    assert own.keys() | others.keys() == set(keys)
    assert not own.keys() & others.keys()
    assert set(map(tuple, [*own.values(), *others.values()])) == {("first", "second")}
    client.close()
    assert workers() == {"other": 256}  # at once: without a goodbye it takes a minute


def test_a_rewind_repeats_and_what_was_in_hand_is_not_taken_twice(world, raw, connect, caplog):  # noqa: F811
    topic = world.topic()
    group = world.group(topic)
    publish(raw, group.name)
    seen, go = [], threading.Event()

    def handle(message):
        seen.append(int(message.body))
        if len(seen) == 5:
            go.wait(30)

    client, moves = connect(), []
    client.subscribe(group.name, handle, poll=0.5, moved=moves.append)
    client.start()
    send(world, topic, *range(20))
    wait_for(lambda: len(seen) == 5)
    path = f"consumer-groups/{group.name}/resets"
    seen_by = world.api("GET", f"{path}/preview?topic={topic.name}&to=earliest").body
    moved = world.api(
        "POST",
        path,
        {"topic": topic.name, "position": seen_by["position"], "fingerprint": seen_by["fingerprint"], "reason": "bills were wrong"},
    )
    assert moved.status_code in {200, 201}, moved.body
    go.set()
    wait_for(lambda: counts(world, group).succeeded == 20)
    assert set(seen[5:]) == set(range(20))
    [moved_at] = wait_for(lambda: moves)
    assert moved_at == datetime.fromisoformat(moved.body["created_at"])
    assert "its position was moved" in caplog.text


def test_with_an_applications_key_and_a_handler_that_fails_to_the_end(world, raw, connect):  # noqa: F811
    topic = world.topic()
    group = world.group(topic, max_attempts=2)
    publish(raw, group.name)
    made = world.api("POST", "applications/shop/keys", {"name": "test"}).body
    client = connect(credential=AppKey(made["key_id"], made["secret"]))
    tries = []

    def handle(message):
        tries.append(message.attempt)
        raise ValueError("no such customer")

    client.subscribe(group.name, handle, poll=0.5)
    client.start()
    send(world, topic, "poison")
    wait_for(lambda: counts(world, group).dead == 1)
    [letter] = world.api("GET", f"consumer-groups/{group.name}/dead-letters").body["results"]
    assert (tries, letter["reason"]) == ([1, 2], "ValueError: no such customer")
