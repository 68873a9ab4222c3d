"""The application's client: reads, follows, reports; the nodes are written by an independent client."""

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.protocol.connection import _CONNECTION_DROP, _SESSION_EXPIRED
from registry_world import wait_for
from zookeeper_server import zookeeper_server  # noqa: F401

from mqadmin_sdk import BrokenNodeError, Client, NotConnectedError, NotPublishedError


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    put(client, "/zms/cluster/a", "bootAddr=h1\\:9092\nbrokerType=kafka\nserverIps=\nmqadmin.generation=1\n")
    put(client, "/zms/cluster/b", "bootAddr=h2\\:9092\nbrokerType=rocketmq\nserverIps=\nmqadmin.generation=4\n")
    yield client
    client.stop()
    client.close()


@pytest.fixture
def client(zk_chroot):
    with Client(zookeeper=zk_chroot, app="order-service", session_timeout=4, ip="10.0.0.1") as found:
        yield found


def put(raw, path, text):
    raw.ensure_path(path.rsplit("/", 1)[0])
    if raw.exists(path):
        raw.set(path, text.encode())
    else:
        raw.create(path, text.encode())


def topic(raw, generation, cluster="a", gated="gatedIps=\ngatedCluster=\n"):
    put(raw, "/zms/topic/orders", f"clusterName={cluster}\ntype=topic\n{gated}statisticsLogger=disk\nmqadmin.generation={generation}\n")


def group(raw, generation, suspend="false", more='mqadmin.subscriptions={"orders"\\:"x || y"}\nmqadmin.maxAttempts=3\n'):
    put(
        raw,
        "/zms/consumergroup/billing",
        f"clusterName=a\ntype=consumergroup\nbindingTopic=orders\nbroadcast=false\nconsumeFrom=latest\nsuspend={suspend}\n"
        f"gatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation={generation}\n{more}",
    )


def shadow(raw, generation, enable="1", until=None, name="billing"):
    document = {"enable": enable, "task": "stress", "group": name, "topic": "orders", "leaseUntil": until, "generation": generation}
    put(raw, f"/zpt/order-service/stress/{name}", json.dumps(document))


def instance(raw, path="/zms/topic/orders"):
    try:
        names = raw.get_children(path)
        if not names:
            return None
        data, stat = raw.get(f"{path}/{names[0]}")
    except NoNodeError:  # there is no such path, or the instance went between the two questions
        return None
    return names[0], json.loads(data), stat


def test_a_topic_is_read_with_its_cluster(client, raw):
    topic(raw, 7)
    read = client.topic("orders")
    assert (read.generation, read.cluster.name, read.cluster.boot_addr, read.cluster.broker_type) == (7, "a", "h1:9092", "kafka")


def test_a_gated_instance_gets_the_gated_cluster_and_no_other_does(client, raw):
    topic(raw, 7, gated="gatedIps=10.0.0.11,10.0.0.1\ngatedCluster=b\n")
    assert (client.topic("orders").cluster.name, client.topic("orders").gated) == ("b", True)
    topic(raw, 8, gated="gatedIps=10.0.0.11\ngatedCluster=b\n")
    assert (client.topic("orders").cluster.name, client.topic("orders").gated) == ("a", False)


@pytest.mark.parametrize(
    ("wanted", "labels", "gated"),
    [
        ('{"zone"\\:"a"}', {"zone": "a", "rack": "2"}, True),
        ('{"zone"\\:"a","rack"\\:"1"}', {"zone": "a", "rack": "2"}, False),
        ('{"zone"\\:"a"}', {}, False),
        ("{}", {"zone": "a"}, False),
    ],
)
def test_a_label_chooses_who_has_all_of_them(zk_chroot, raw, wanted, labels, gated):
    topic(raw, 7, gated=f"gatedIps=\ngatedCluster=b\nmqadmin.gatedLabels={wanted}\n")
    with Client(zookeeper=zk_chroot, app="order-service", labels=labels) as client:
        assert (client.topic("orders").cluster.name, client.topic("orders").gated) == ("b" if gated else "a", gated)


def test_labels_that_cannot_be_read_are_a_broken_node(client, raw):
    topic(raw, 7, gated="gatedIps=\ngatedCluster=b\nmqadmin.gatedLabels=zone\n")
    with pytest.raises(BrokenNodeError, match="gatedLabels"):
        client.topic("orders")


def test_labels_come_from_the_environment_and_make_sense(monkeypatch):
    monkeypatch.setenv("MQADMIN_ZOOKEEPER", "127.0.0.1:1")
    monkeypatch.setenv("MQADMIN_APP", "order-service")
    monkeypatch.setenv("MQADMIN_LABELS", "zone=a, rack=2")
    with Client.from_env() as client:
        assert client.labels == {"zone": "a", "rack": "2"}
    monkeypatch.setenv("MQADMIN_LABELS", "zone")
    with pytest.raises(ValueError, match="MQADMIN_LABELS"):
        Client.from_env()
    with pytest.raises(ValueError, match="labels"):
        Client(zookeeper="127.0.0.1:1", app="order-service", labels={"zone": ""})


def test_a_group_is_read(client, raw):
    group(raw, 3, "true")
    read = client.group("billing")
    assert (read.subscriptions, read.max_attempts, read.consume_from) == ({"orders": "x || y"}, 3, "latest")
    assert (read.suspended, read.broadcast, read.binding_topic) == (True, False, "orders")


def test_a_group_written_by_plain_zms_has_its_binding_topic(client, raw):
    group(raw, 3, more="")
    assert (client.group("billing").subscriptions, client.group("billing").max_attempts) == ({"orders": "*"}, None)


def test_what_is_not_there_or_cannot_be_read_has_an_error_of_its_own(client, raw):
    with pytest.raises(NotPublishedError, match="topic nope"):
        client.topic("nope")
    put(raw, "/zms/topic/lost", "clusterName=gone\n")
    with pytest.raises(NotPublishedError, match="cluster gone"):
        client.topic("lost")
    put(raw, "/zms/topic/empty", "")
    with pytest.raises(BrokenNodeError, match="names no cluster"):
        client.topic("empty")
    group(raw, 1, more="mqadmin.subscriptions=[\n")
    with pytest.raises(BrokenNodeError):
        client.group("billing")


def test_no_zookeeper_is_said_in_time():
    with Client(zookeeper="127.0.0.1:1", app="x") as away, pytest.raises(NotConnectedError):
        away.topic("orders", timeout=0.3)


def test_from_env_names_what_is_missing(monkeypatch):
    monkeypatch.delenv("MQADMIN_ZOOKEEPER", raising=False)
    monkeypatch.setenv("MQADMIN_APP", "x")
    with pytest.raises(ValueError, match="MQADMIN_ZOOKEEPER"):
        Client.from_env()


def test_changes_come_to_the_callback_and_are_reported_as_applied(client, raw):
    seen = []
    client.watch_topic("orders", seen.append)
    time.sleep(0.2)
    assert seen == []
    topic(raw, 1)
    wait_for(lambda: len(seen) == 1)
    name, said, stat = wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 1 and found)
    assert name.startswith("10.0.0.1||DEFAULT_PRODUCER||mqadmin-python-")
    assert (said["sdk"].split("/")[0], said["app"], said["pid"], said["state"], said["cluster"]) == (
        "mqadmin-python",
        "order-service",
        os.getpid(),
        "running",
        "a",
    )
    assert datetime.fromisoformat(said["appliedAt"]) - datetime.now(UTC) < timedelta(seconds=5)
    assert stat.ephemeralOwner
    topic(raw, 2, "b")
    wait_for(lambda: len(seen) == 2)
    assert (seen[1].cluster.boot_addr, seen[1].cluster.broker_type) == ("h2:9092", "rocketmq")
    wait_for(lambda: instance(raw)[1]["generation"] == 2)
    assert instance(raw)[1]["cluster"] == "b"
    assert instance(raw)[2].czxid == stat.czxid


def test_a_group_is_reported_as_suspended(client, raw):
    group(raw, 1)
    client.watch_group("billing", lambda _: None)
    path = "/zms/consumergroup/billing"
    wait_for(lambda: (found := instance(raw, path)) and found[1]["state"] == "running")
    assert "||DEFAULT_CONSUMER||" in instance(raw, path)[0]
    group(raw, 2, "true")
    wait_for(lambda: instance(raw, path)[1]["state"] == "suspended")


def test_a_callback_that_raises_is_reported_and_the_next_change_is_given_again(client, raw):
    def fail_at_two(now):
        if now.generation == 2:
            raise RuntimeError("no route to broker")

    topic(raw, 1)
    client.watch_topic("orders", fail_at_two)
    wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 1)
    topic(raw, 2)
    wait_for(lambda: instance(raw)[1]["state"] == "failed")
    assert (instance(raw)[1]["generation"], instance(raw)[1]["error"]) == (1, "RuntimeError: no route to broker")
    topic(raw, 3)
    wait_for(lambda: instance(raw)[1]["generation"] == 3)
    assert (instance(raw)[1]["state"], instance(raw)[1]["error"]) == ("running", None)


def test_applied_is_said_only_when_the_callback_has_returned(client, raw):
    release = threading.Event()
    topic(raw, 5)
    client.watch_topic("orders", lambda _: release.wait(10))
    assert wait_for(lambda: instance(raw))[1]["generation"] == 0
    time.sleep(0.2)
    assert (instance(raw)[1]["generation"], instance(raw)[1]["state"]) == (0, "starting")
    release.set()
    wait_for(lambda: instance(raw)[1]["generation"] == 5)


def test_of_many_changes_during_a_slow_callback_the_last_one_counts(client, raw):
    seen, release = [], threading.Event()

    def slow(now):
        seen.append(now.generation)
        release.wait(10)

    topic(raw, 1)
    client.watch_topic("orders", slow)
    wait_for(lambda: seen)
    for generation in range(2, 30):
        topic(raw, generation)
    time.sleep(0.5)
    release.set()
    wait_for(lambda: seen[-1] == 29)
    assert len(seen) <= 3
    wait_for(lambda: instance(raw)[1]["generation"] == 29)


@pytest.mark.parametrize("blow", [_CONNECTION_DROP, _SESSION_EXPIRED], ids=["connection lost", "session expired"])
def test_changes_during_a_lost_connection_are_not_missed_and_the_instance_is_back_soon(client, raw, blow):
    seen = []
    topic(raw, 1)
    client.watch_topic("orders", lambda now: seen.append(now.generation))
    before = wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 1 and found)[2]
    zookeeper = client._follower.connection.get()
    zookeeper._queue.append((blow, None))
    zookeeper._connection._write_sock.send(b"\0")
    topic(raw, 2)
    wait_for(lambda: seen[-1] == 2)
    wait_for(lambda: zookeeper.connected)
    reconnected = time.monotonic()
    stat = wait_for(lambda: (found := instance(raw)) and found[2].ephemeralOwner == zookeeper.session and found[2])
    assert time.monotonic() - reconnected < 8  # at once, not with the next report
    assert (stat.czxid == before.czxid) == (blow is _CONNECTION_DROP)
    assert len(raw.get_children("/zms/topic/orders")) == 1
    wait_for(lambda: instance(raw)[1]["generation"] == 2)


def test_an_sdk_that_starts_without_zookeeper_begins_when_it_comes(zookeeper_server):  # noqa: F811
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=15)
    put(raw, "/zms/cluster/a", "bootAddr=h\nbrokerType=kafka\n")
    topic(raw, 1)
    zookeeper_server.kill()
    seen = []
    with Client(zookeeper=zookeeper_server.hosts, app="x", session_timeout=4) as early:
        early.watch_topic("orders", seen.append)
        time.sleep(0.5)
        zookeeper_server.start()
        wait_for(lambda: seen)
    raw.stop()
    raw.close()


def test_a_topic_that_goes_and_comes_is_followed(client, raw):
    seen = []
    topic(raw, 1)
    client.watch_topic("orders", lambda now: seen.append(now and now.generation))
    wait_for(lambda: seen == [1])
    raw.delete("/zms/topic/orders", recursive=True)
    wait_for(lambda: seen == [1, None])
    topic(raw, 3)
    wait_for(lambda: seen == [1, None, 3])
    wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 3)


def test_a_topic_whose_cluster_is_not_there_yet_is_given_when_it_is(client, raw):
    seen = []
    topic(raw, 1, "late")
    client.watch_topic("orders", seen.append)
    time.sleep(0.7)
    assert seen == []
    put(raw, "/zms/cluster/late", "bootAddr=x\nbrokerType=kafka\n")
    wait_for(lambda: seen and seen[0].cluster.boot_addr == "x")


def test_closing_a_subscription_or_the_client_takes_the_instances_away_at_once(zk_chroot, raw):
    topic(raw, 1)
    group(raw, 1)
    client = Client(zookeeper=zk_chroot, app="x")
    one = client.watch_topic("orders", lambda _: None)
    client.watch_group("billing", lambda _: None)
    wait_for(lambda: instance(raw) and instance(raw, "/zms/consumergroup/billing"))
    one.close()
    wait_for(lambda: not instance(raw))
    client.close()
    assert not instance(raw, "/zms/consumergroup/billing")
    with pytest.raises(RuntimeError):
        client.topic("orders")


def test_a_forked_child_is_an_instance_of_its_own(zk_chroot, raw):
    topic(raw, 1)
    with Client(zookeeper=zk_chroot, app="x", session_timeout=4) as client:
        client.watch_topic("orders", lambda _: None)
        mine = wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 1 and found[0])
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        try:
            both = wait_for(lambda: len(names := raw.get_children("/zms/topic/orders")) == 2 and names)
            other = next(name for name in both if name != mine)
            said = wait_for(lambda: (data := json.loads(raw.get(f"/zms/topic/orders/{other}")[0]))["generation"] == 1 and data)
            assert said["pid"] == child
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        wait_for(lambda: raw.get_children("/zms/topic/orders") == [mine], 15)
        topic(raw, 2)
        wait_for(lambda: instance(raw)[1]["generation"] == 2)


def later(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def running(raw, name="billing"):
    try:
        return raw.get_children(f"/zpt-instances/order-service/stress/{name}")
    except NoNodeError:
        return []


def test_shadow_groups_start_and_stop_by_the_flag(client, raw):
    seen = []
    shadow(raw, 1, until=later(60))
    client.watch_shadow(lambda now: seen.append((now.task, now.group, now.running, now.reason)), groups=["billing"])
    wait_for(lambda: seen == [("stress", "billing", True, "")])
    assert wait_for(lambda: running(raw)) == [f"10.0.0.1@-@{os.getpid()}"]
    shadow(raw, 2, "0")
    wait_for(lambda: seen[1:] == [("stress", "billing", False, "off")])
    wait_for(lambda: not running(raw))
    shadow(raw, 3, until=later(60))
    wait_for(lambda: len(seen) == 3)
    raw.delete("/zpt/order-service/stress/billing")
    wait_for(lambda: seen[3:] == [("stress", "billing", False, "deleted")])


def test_what_a_shadow_consumer_does_stands_in_its_node(client, raw):
    shadow(raw, 1, until=later(60))
    followed = client.watch_shadow(lambda _now: None, groups=["billing"])
    path = f"/zpt-instances/order-service/stress/billing/10.0.0.1@-@{os.getpid()}"

    def said(*names):
        report = json.loads(raw.get(path)[0])
        return tuple(report.get(name) for name in names)

    wait_for(lambda: running(raw) and said("state", "generation") == ("running", 1))
    followed.tell("stress", "billing", state="failed", error="no route to broker", counts={"succeeded": 3})
    wait_for(lambda: said("state", "error", "counts", "generation") == ("failed", "no route to broker", {"succeeded": 3}, 1))
    shadow(raw, 2, until=later(120))  # a longer lease says nothing new of the consumer
    wait_for(lambda: said("generation", "state", "error") == (2, "failed", "no route to broker"))
    followed.tell("stress", "billing", state="running")
    wait_for(lambda: said("state", "error") == ("running", None))
    followed.tell("stress", "other", state="failed", error="nobody's")  # nothing runs there
    with pytest.raises(ValueError, match="state is one of"):
        followed.tell("stress", "billing", state="asleep")
    shadow(raw, 3, "0")
    wait_for(lambda: not running(raw))
    followed.tell("stress", "billing", state="failed", error="too late")
    shadow(raw, 4, until=later(60))
    wait_for(lambda: running(raw) and said("state", "error", "generation") == ("running", None, 4))


def test_a_shadow_watch_that_is_closed_while_its_callback_runs_leaves_no_instance(client, raw):
    started, release = threading.Event(), threading.Event()
    shadow(raw, 1, until=later(60))
    followed = client.watch_shadow(lambda _now: started.set() or release.wait(10), groups=["billing"])
    assert started.wait(10)
    followed.close()
    wait_for(lambda: followed not in client._follower._shadow)
    release.set()
    wait_for(lambda: client._follower._inbox.empty() and client._follower._work.empty())
    time.sleep(0.5)
    assert not running(raw)


@pytest.mark.parametrize("enable", ["0", "", "true", 1, None])
def test_anything_but_the_text_1_means_off(client, raw, enable):
    seen = []
    shadow(raw, 1, enable, later(60))
    client.watch_shadow(seen.append, groups=["billing", "other"])
    shadow(raw, 1, "1", later(60), "other")
    wait_for(lambda: seen)
    assert [state.group for state in seen] == ["other"]


def test_groups_that_the_application_does_not_serve_are_ignored(client, raw):
    seen = []
    shadow(raw, 1, name="foreign", until=later(60))
    shadow(raw, 1, until=later(60))
    client.watch_shadow(lambda now: seen.append(now.group))
    time.sleep(0.3)
    assert seen == []
    group(raw, 1)
    client.watch_group("billing", lambda _: None)
    wait_for(lambda: seen == ["billing"])


def test_a_lease_ends_by_itself_also_with_zookeeper_gone(zookeeper_server):  # noqa: F811
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=15)
    shadow(raw, 1, until=later(2.5))
    seen = []
    with Client(zookeeper=zookeeper_server.hosts, app="order-service", session_timeout=4) as client:
        client.watch_shadow(lambda now: seen.append((now.running, now.reason, time.monotonic())), groups=["billing"])
        wait_for(lambda: len(seen) == 1)
        zookeeper_server.pause()
        wait_for(lambda: len(seen) == 2, 10)
        zookeeper_server.resume()
        assert [entry[:2] for entry in seen] == [(True, ""), (False, "lease")]
        assert seen[1][2] - seen[0][2] < 3.5
        wait_for(lambda: not running(raw))
    raw.stop()
    raw.close()


def test_a_lease_that_is_over_when_it_is_seen_starts_nothing(client, raw):
    seen = []
    topic(raw, 1)
    client.watch_topic("orders", lambda _: None)
    wait_for(lambda: instance(raw))  # it knows the server's clock now
    shadow(raw, 1, until=later(-1))
    shadow(raw, 1, until=later(60), name="other")
    client.watch_shadow(lambda now: seen.append((now.group, now.running)), groups=["billing", "other"])
    wait_for(lambda: seen)
    assert seen == [("other", True)]


def test_a_lease_counted_from_when_it_was_seen_ends_earlier_when_the_servers_clock_is_known():
    from mqadmin_sdk.metadata import parse_shadow
    from mqadmin_sdk.reports import Report
    from mqadmin_sdk.subscriptions import ShadowRun, ShadowSubscription

    until = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
    written, now = until.timestamp() * 1000 - 60_000, 1000.0
    state = parse_shadow("a", "t", "g", json.dumps({"enable": "1", "leaseUntil": until.isoformat()}).encode())
    run = ShadowRun(state, Report("/x", app="a"), mtime=int(written), ends=now + 60, running=True)
    followed = ShadowSubscription(app="a", ip="10.0.0.1", callback=lambda _: None, groups=["g"])
    followed.runs["t", "g"] = run
    followed.retime(written + 45_000, now)  # 45 of the 60 seconds have passed by the server's clock
    assert run.ends == now + 15
    followed.retime(written, now)
    assert run.ends == now + 15
    assert followed.expire(now + 16) == [run]


def test_an_instance_whose_topic_came_back_before_it_was_looked_at_is_made_anew(client, raw):
    topic(raw, 1)
    followed = client.watch_topic("orders", lambda _: None)
    name, _said, _stat = wait_for(lambda: (found := instance(raw)) and found[1]["generation"] == 1 and found)
    followed.report.lost()  # as after a report that found no topic to stand under
    raw.delete(f"/zms/topic/orders/{name}")
    client._follower._inbox.put(("changed", followed.path))
    assert wait_for(lambda: instance(raw))[0] == name
