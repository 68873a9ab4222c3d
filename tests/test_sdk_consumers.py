"""The consuming face of the client: metadata from a real ZooKeeper, messages from a broker in memory, processes where it is about them."""

import json
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from prometheus_client import CollectorRegistry
from registry_world import Lines, wait_for
from sdk_broker import Broker

from mqadmin_sdk import Client, LogContext, Message, Shadowing, UnreachableError, metrics, shadow
from mqadmin_sdk.message import SHADOW_HEADER, SendResult

GROUP = "/zms/consumergroup/billing"


class Brokers:
    """Kinds of brokers for `Client(transports=…)`: a group's messages, and what is sent to topics."""

    def __init__(self, lease=60.0):
        self.groups = {}
        self.lease = lease
        self.sent = []
        self.names = []

    def __getitem__(self, name):
        return self.groups.setdefault(name, Broker(lease=self.lease))

    def consumer(self, cluster, group, context, *, consumer, lease):
        self.names.append(consumer)
        return self[group.name].connect()

    def producer(self, cluster, context):
        return Sending(self)


class Sending:
    def __init__(self, brokers):
        self.brokers = brokers

    def send(self, topic, messages, *, timeout):
        self.brokers.sent += [(topic, message) for message in messages]
        return [SendResult(message.id, topic) for message in messages]

    def flush(self, *, timeout):
        pass

    def close(self):
        pass


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    put(client, "/zms/cluster/a", "bootAddr=h1\\:1\nbrokerType=memory\nserverIps=\nmqadmin.generation=1\n")
    put(client, "/zms/cluster/b", "bootAddr=h2\\:1\nbrokerType=memory\nserverIps=\nmqadmin.generation=1\n")
    yield client
    client.stop()
    client.close()


@pytest.fixture
def brokers():
    return Brokers()


@pytest.fixture
def client(zk_chroot, raw, brokers):
    with Client(zookeeper=zk_chroot, app="order-service", session_timeout=4, ip="10.0.0.1", transports={"memory": brokers}) as found:
        yield found


def put(raw, path, text):
    raw.ensure_path(path.rsplit("/", 1)[0])
    if raw.exists(path):
        raw.set(path, text.encode())
    else:
        raw.create(path, text.encode())


def group(raw, generation=1, *, name="billing", cluster="a", suspend="false", broadcast="false", drain=""):
    put(
        raw,
        f"/zms/consumergroup/{name}",
        f"clusterName={cluster}\ntype=consumergroup\nbindingTopic=orders\nbroadcast={broadcast}\nconsumeFrom=earliest\nsuspend={suspend}\n"
        f"gatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation={generation}\nmqadmin.drainClusters={drain}\n"
        'mqadmin.subscriptions={"orders"\\:"*"}\nmqadmin.maxAttempts=3\n',
    )


def topic(raw, name, cluster="a"):
    put(
        raw,
        f"/zms/topic/{name}",
        f"clusterName={cluster}\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\n",
    )


def switch(raw, *, enable="1", until=None, generation=1):
    document = {"enable": enable, "task": "stress", "group": "billing", "topic": "orders", "leaseUntil": until, "generation": generation}
    put(raw, "/zpt/order-service/stress/billing", json.dumps(document))


def instances(raw, path=GROUP):
    return [json.loads(raw.get(f"{path}/{name}")[0]) for name in raw.get_children(path)] if raw.exists(path) else []


def reported(raw, **wanted):
    return wait_for(lambda: any(all(said.get(key) == value for key, value in wanted.items()) for said in instances(raw)), what=f"{wanted}")


def test_a_subscribed_handler_gets_the_groups_messages_and_its_instance_says_so(client, raw, brokers):
    seen = []

    @client.subscribe("billing", concurrency=2, poll=0.2)
    def handle(message: Message) -> None:
        seen.append(message.body)

    brokers["billing"].send("early")
    client.start()
    group(raw, 3)
    wait_for(lambda: seen == [b"early"])
    reported(raw, state="running", generation=3, cluster="a")
    assert brokers.names == [client.instance]
    assert handle.__name__ == "handle"


def test_as_a_call_and_after_the_start(client, raw, brokers):
    group(raw)
    client.start()
    seen = []
    client.subscribe("billing", lambda message: seen.append(message.text), poll=0.2)
    brokers["billing"].send("x")
    wait_for(lambda: seen == ["x"])
    with pytest.raises(ValueError, match="has a handler already"):
        client.subscribe("billing", print)


def test_a_coroutine_or_a_wrong_option_is_refused_at_once(client):
    async def handle(message):
        pass

    with pytest.raises(TypeError, match="plain function"):
        client.subscribe("billing", handle)
    for wrong in ({"concurrency": 0}, {"prefetch": 0}, {"lease": 0}, {"max_handling": 0}, {"poll": 31}):
        with pytest.raises(ValueError):
            client.subscribe("billing", print, **wrong)


def test_it_is_suspended_resumed_and_moved_as_the_metadata_say(client, raw, brokers, monkeypatch):
    monkeypatch.setattr("mqadmin_sdk.consuming.consumer._IDLE", 0.5)  # seconds, until a cluster that was left is left alone
    group(raw, 1)
    seen = []
    client.subscribe("billing", lambda message: seen.append(message.text), poll=0.2)
    client.start()
    brokers["billing"].send("one")
    wait_for(lambda: seen == ["one"])
    group(raw, 2, suspend="true")
    reported(raw, state="suspended", generation=2)
    brokers["billing"].suspended = True
    brokers["billing"].send("two")
    brokers["billing"].suspended = False
    group(raw, 3)
    reported(raw, state="running", generation=3)
    wait_for(lambda: seen == ["one", "two"])
    group(raw, 4, cluster="b")
    reported(raw, state="running", generation=4, cluster="b")
    wait_for(lambda: [transport.closed for transport in brokers["billing"].transports] == [True, False])


def test_a_cluster_that_has_no_client_is_reported_and_the_old_one_goes_on(client, raw, brokers):
    group(raw, 1)
    seen = []
    client.subscribe("billing", lambda message: seen.append(message.text), poll=0.2)
    client.start()
    reported(raw, generation=1)
    wait_for(lambda: brokers["billing"].calls["next"])
    put(raw, "/zms/cluster/c", "bootAddr=h\\:1\nbrokerType=carrier_pigeon\nserverIps=\nmqadmin.generation=1\n")
    group(raw, 2, cluster="c")
    wait_for(lambda: any("carrier_pigeon" in (said["error"] or "") for said in instances(raw)))
    brokers["billing"].send("still")
    wait_for(lambda: seen == ["still"])
    [said] = instances(raw)
    assert (said["state"], said["generation"]) == ("failed", 1)
    group(raw, 3)
    reported(raw, state="running", generation=3, error=None)


def test_a_pull_that_fails_is_reported_and_taken_back(client, raw, brokers):
    brokers["billing"].fail["next"] = UnreachableError("nobody answers")
    group(raw, 1)
    client.subscribe("billing", print, poll=0.2)
    client.start()
    reported(raw, state="failed", error="UnreachableError: nobody answers")
    brokers["billing"].fail.clear()
    reported(raw, state="running", error=None)


def test_counts_stand_in_the_instance(client, raw, brokers):
    group(raw, 1)
    client.subscribe("billing", lambda message: None, poll=0.2)
    brokers["billing"].send(*range(7))
    client.start()
    wait_for(lambda: len(brokers["billing"].done()) == 7)
    group(raw, 2, suspend="true")
    wait_for(lambda: any((said.get("counts") or {}).get("succeeded") == 7 for said in instances(raw)))


def test_instances_of_a_broadcast_group_have_names_that_stay(zk_chroot, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("MQADMIN_INSTANCE", "pod")
    group(raw, broadcast="true")
    taken = []
    for _round in range(2):
        clients = []
        for _one in range(2):
            brokers = Brokers()
            client = Client(zookeeper=zk_chroot, app="order-service", transports={"memory": brokers})
            client.subscribe("billing", print, poll=0.2)
            client.start()
            wait_for(lambda brokers=brokers: brokers.names)
            taken += brokers.names
            clients.append(client)
        for client in clients:
            client.close()
    assert taken == ["pod", "pod-2"] * 2


def test_what_is_handled_stands_in_the_log(client, raw, brokers):
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append((record.getMessage(), record.mq_group, record.mq_message, record.mq_attempt))

    keep = Keep()
    keep.addFilter(LogContext())
    logger = logging.getLogger("an.application")
    logger.addHandler(keep)
    group(raw)
    client.subscribe("billing", lambda message: logger.warning("at work"), poll=0.2)
    brokers["billing"].send("x")
    client.start()
    wait_for(lambda: records)
    logger.warning("elsewhere")
    logger.removeHandler(keep)
    assert records == [("at work", "g", "1", 1), ("elsewhere", "", "", "")]


def test_metrics_are_read_from_what_is_counted(client, raw, brokers):
    registry = CollectorRegistry()
    metrics.export(client, registry)
    group(raw)

    def handle(message):
        if message.text == "bad" and message.attempt == 1:
            raise ValueError("bad")

    client.subscribe("billing", handle, poll=0.2)
    brokers["billing"].send("good", "bad")
    client.start()
    wait_for(lambda: len(brokers["billing"].done()) == 2)

    def value(name, **labels):
        return registry.get_sample_value(f"mqadmin_{name}", labels)

    of = {"group": "billing", "task": ""}
    assert value("consumer_received_total", **of) == 3
    assert [value("consumer_handled_total", outcome=one, **of) for one in ("succeeded", "failed", "dead")] == [2, 1, 0]
    assert (value("consumer_up", **of), value("shadow_leaks_total", side="live")) == (1, 0)


# --- stress tests -------------------------------------------------------------------------------------------------------


def test_a_shadow_consumer_starts_and_stops_and_what_it_sends_stays_apart(client, raw, brokers):
    live, shadowed = [], []

    def in_shadow(message):
        shadowed.append(message.text)
        client.send("bills", "a bill")

    for name in ("orders", "shadow_orders", "bills", "shadow_bills"):
        topic(raw, name)
    group(raw)
    group(raw, name="shadow_billing")
    client.subscribe("billing", lambda message: live.append(message.text), shadow=in_shadow, poll=0.2)
    client.start()
    brokers["billing"].send("live")
    brokers["shadow_billing"].send("of the test", headers={SHADOW_HEADER: "stress"})
    wait_for(lambda: live == ["live"])
    assert not shadowed
    switch(raw)
    wait_for(lambda: shadowed == ["of the test"])
    wait_for(lambda: instances(raw, "/zpt-instances/order-service/stress/billing"))
    wait_for(lambda: brokers.sent)
    [(to, sent)] = brokers.sent
    assert (to, sent.headers[SHADOW_HEADER]) == ("shadow_bills", "stress")
    client.send("bills", "a real bill")
    assert (brokers.sent[-1][0], dict(brokers.sent[-1][1].headers)) == ("bills", {})
    switch(raw, enable="0", generation=2)
    wait_for(lambda: all(transport.closed for transport in brokers["shadow_billing"].transports))
    wait_for(lambda: not instances(raw, "/zpt-instances/order-service/stress/billing"))
    assert (client.consumers.shadowing.leaks.total, live) == (0, ["live"])


def test_a_shadow_consumer_ends_with_its_lease(client, raw, brokers):
    group(raw)
    group(raw, name="shadow_billing")
    client.subscribe("billing", print, shadow=print, poll=0.2)
    client.start()
    until = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    switch(raw, until=until)
    wait_for(lambda: brokers["shadow_billing"].transports)
    wait_for(lambda: all(transport.closed for transport in brokers["shadow_billing"].transports))


def test_a_shadow_group_that_is_not_there_is_reported_and_waited_for(client, raw, brokers):
    group(raw)
    client.subscribe("billing", print, shadow=lambda message: None, poll=0.2)
    client.start()
    switch(raw)
    wait_for(
        lambda: any("shadow_billing" in (said["error"] or "") for said in instances(raw, "/zpt-instances/order-service/stress/billing"))
    )
    group(raw, name="shadow_billing")
    brokers["shadow_billing"].send("x", headers={SHADOW_HEADER: "stress"})
    wait_for(brokers["shadow_billing"].done)

    def said():
        [one] = instances(raw, "/zpt-instances/order-service/stress/billing")
        return one["state"], one["error"], one["generation"], one.get("counts", {}).get("leaked")

    wait_for(lambda: said() == ("running", None, 1, 0))  # it runs after all


def test_a_leak_is_counted_and_nobody_handles_it(client, raw, brokers):
    handled = []
    group(raw)
    group(raw, name="shadow_billing")
    client.subscribe("billing", lambda message: handled.append("live"), shadow=lambda message: handled.append("shadow"), poll=0.2)
    client.start()
    switch(raw)
    brokers["billing"].send("of a test", headers={SHADOW_HEADER: "stress"})
    brokers["shadow_billing"].send("live")
    wait_for(lambda: brokers["billing"].done("dead") and brokers["shadow_billing"].done("dead"))
    assert handled == []
    assert client.consumers.shadowing.leaks.counts == {"live": 1, "shadow": 1, "passed_by": 0}


def test_with_shadow_tags_live_consumers_pass_shadow_messages_by(zk_chroot, raw, brokers):
    shadowing = Shadowing(apart="tag")
    topic(raw, "bills")
    group(raw)
    handled = []
    with Client(zookeeper=zk_chroot, app="order-service", transports={"memory": brokers}, shadowing=shadowing) as client:
        client.subscribe("billing", lambda message: handled.append(message.text), poll=0.2)
        client.start()
        brokers["billing"].send("of a test", headers={SHADOW_HEADER: "stress"})
        brokers["billing"].send("live")
        wait_for(lambda: len(brokers["billing"].done()) == 2)
        with shadow("stress"):
            client.send("bills", "x", tag="created || paid")
            client.send("bills", "y")
        client.send("bills", "z", tag="created")
    assert handled == ["live"]
    assert [(to, message.tag) for to, message in brokers.sent] == [
        ("bills", "shadow_created || shadow_paid"),
        ("bills", "shadow_"),
        ("bills", "created"),
    ]
    assert shadowing.leaks.counts == {"live": 0, "shadow": 0, "passed_by": 1}


# --- processes ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
import logging; logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from test_sdk_consumers import Brokers
from mqadmin_sdk import Client
brokers = Brokers()
client = Client(zookeeper={hosts!r}, app="order-service", session_timeout=4, transports={{"memory": brokers}})
def handle(message):
    print("begun", message.text, flush=True)
    time.sleep(float(message.text))
    print("ended", message.text, flush=True)
client.subscribe("billing", handle, poll=0.2)
{rest}
"""


def program(hosts, rest):
    source = PROGRAM.format(tests=str(Path(__file__).parent), hosts=hosts, rest=rest)
    return Lines([sys.executable, "-u", "-c", source], dict(os.environ))


def test_run_ends_at_sigterm_when_what_was_begun_is_done(zk_chroot, raw):
    group(raw)
    process = program(
        zk_chroot,
        'brokers["billing"].send("1.0", "0.0")\n'
        'clean = client.run()\nprint("clean", clean, brokers["billing"].done(), len(brokers["billing"].waiting), flush=True)\n',
    )
    process.expect("begun 1.0")
    process.signal(signal.SIGTERM)
    process.expect("ended 1.0")
    assert process.expect("clean").startswith("clean True ['1'] 1")
    assert process.process.wait(20) == 0
    assert instances(raw) == []
    process.end()


def test_a_program_that_just_ends_finishes_what_was_begun_and_says_goodbye(zk_chroot, raw):
    group(raw)
    process = program(
        zk_chroot,
        'client.start()\nbrokers["billing"].send("0.5")\n'
        "while not any(one.consumer.core.running for one in client.consumers.all()): time.sleep(0.01)\n",
    )
    process.expect("ended 0.5")
    assert process.process.wait(20) == 0
    assert instances(raw) == []
    process.end()


def test_a_client_made_before_a_fork_consumes_in_the_child_that_asks_for_it(zk_chroot, raw):
    group(raw)
    process = program(
        zk_chroot,
        "if os.fork() == 0:\n"
        '    brokers["billing"].send("0.0")\n'
        "    threading.Timer(1.5, lambda: os.kill(os.getpid(), 15)).start()\n"
        '    client.run(); print("child", brokers["billing"].done(), flush=True); os._exit(0)\n'
        'os.wait(); print("parent", brokers["billing"].transports, flush=True)\n',
    )
    process.expect("ended 0.0")
    process.expect("child ['1']")
    process.expect("parent []")
    assert process.process.wait(20) == 0
    process.end()


def test_a_child_of_a_consuming_process_does_not_consume(zk_chroot, raw):
    group(raw)
    process = program(
        zk_chroot,
        'client.start(); brokers["billing"].send("0.0")\nwhile not brokers["billing"].done(): time.sleep(0.01)\n'
        "if os.fork() == 0:\n"
        '    time.sleep(0.5); brokers["billing"].send("0.1"); time.sleep(1); print("child", len(brokers["billing"].waiting), flush=True)\n'
        "    client.close(); os._exit(0)\n"
        'os.wait(); brokers["billing"].send("0.2")\nwhile len(brokers["billing"].done()) < 2: time.sleep(0.01)\n'
        'print("parent goes on", flush=True)\n',
    )
    process.expect("child 1")
    process.expect("ended 0.2")
    process.expect("parent goes on")
    assert process.process.wait(20) == 0
    process.end()


def test_a_thousand_changes_leave_no_thread_and_no_descriptor_in_a_client_that_sends_and_consumes(client, raw, brokers):
    group(raw, 1)
    topic(raw, "made")
    seen = []
    client.subscribe("billing", lambda message: seen.append(message.text), poll=0.1)
    client.start()
    path = "/zms/topic/made"

    def round_of(first, changes):
        for number in range(first, first + changes, 2):
            where = "ab"[number // 2 % 2]
            group(raw, number, cluster=where, suspend="true" if number % 3 == 0 else "false")
            put(raw, path, raw.get(path)[0].decode().replace("clusterName=a" if where == "b" else "clusterName=b", f"clusterName={where}"))
        group(raw, first + changes, cluster="a")
        reported(raw, generation=first + changes, cluster="a", state="running")
        brokers["billing"].send(f"after {first}")
        wait_for(lambda: f"after {first}" in seen)
        assert client.send("made", "x").topic == "made"
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = round_of(2, 100)  # everything that is made once is there then, transports of both clusters too
    after = round_of(103, 1000)
    # A leak would be hundreds; the test's own process may open one or two at any time.
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 5
