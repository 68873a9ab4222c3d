"""How topics are followed, many of them too: what it costs in requests, watches and threads, and that nothing is missed."""

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError, NotEmptyError
from kazoo.protocol.connection import _CONNECTION_DROP
from kazoo.security import make_acl
from registry_world import wait_for
from test_sdk_client import put
from zookeeper_proxy import RoundTrips
from zookeeper_server import Ensemble, ZooKeeperServer

from mqadmin_sdk import Client, following
from mqadmin_sdk.zk import Client as ZooKeeper

SOAK = "MQADMIN_SOAK" in os.environ
TOPIC = "clusterName={cluster}\ntype=topic\ngatedIps=\ngatedCluster=\nmqadmin.generation={generation}\n"


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    put(client, "/zms/cluster/a", "bootAddr=h1:9092\nbrokerType=kafka\nmqadmin.generation=1\n")
    yield client
    client.stop()
    client.close()


@pytest.fixture
def client(zk_chroot):
    with Client(zookeeper=zk_chroot, app="shop", session_timeout=6, ip="10.0.0.1") as found:
        yield found


def topic(raw, name, generation=1, cluster="a"):
    put(raw, f"/zms/topic/{name}", TOPIC.format(generation=generation, cluster=cluster))


def topics(raw, count):
    raw.ensure_path("/zms/topic")
    names = [f"t{number}" for number in range(count)]
    for result in [raw.create_async(f"/zms/topic/{name}", TOPIC.format(generation=1, cluster="a").encode()) for name in names]:
        result.get(timeout=30)
    return names


def report(raw, name):
    """What the one instance of a topic says; None: there is not one."""
    try:
        (instance,) = raw.get_children(f"/zms/topic/{name}")
        return json.loads(raw.get(f"/zms/topic/{name}/{instance}")[0])
    except (NoNodeError, ValueError):
        return None


def spied(client, monkeypatch):
    """What this client asks from now on, by kind of request, and the paths of the events that it is told."""
    zookeeper, asked, told = client._follower.connection.get(), Counter(), []
    call, dispatch = zookeeper._call, zookeeper.dispatch
    monkeypatch.setattr(zookeeper, "_call", lambda request, result: (asked.update([type(request).__name__]), call(request, result))[1])
    monkeypatch.setattr(zookeeper, "dispatch", lambda event: (told.append(event.path), dispatch(event)))
    return asked, told


def drop(client):
    zookeeper = client._follower.connection.get()
    zookeeper._queue.append((_CONNECTION_DROP, None))
    zookeeper._connection._write_sock.send(b"\0")


def test_a_first_topic_costs_two_round_trips_followed_or_read(zk_chroot, raw):
    topic(raw, "orders")
    between = RoundTrips(zk_chroot)
    seen = []
    with Client(zookeeper=between.hosts, app="shop") as client:
        client._follower.connection.get()._live.wait(30)
        before = between.count
        client.watch_topic("orders", lambda _: seen.append(between.count - before))
        wait_for(lambda: seen)
        assert seen == [2]
        wait_for(lambda: (said := report(raw, "orders")) and said["generation"] == 1)
        wait_for(lambda: client._follower._inbox.empty() and between.count >= before + 3)  # the report
        topic(raw, "invoices")
        before = between.count
        assert client.topic("invoices").generation == 1
        assert between.count - before == 2
        assert client.topic("orders").generation == 1
        assert between.count - before == 2  # it is followed: from memory
        before = between.count
        client.watch_topic("invoices", lambda _: seen.append(between.count - before))
        wait_for(lambda: len(seen) == 2)
        assert seen[1] == 1  # its cluster is known
    between.close()


def test_many_topics_are_followed_with_two_threads_and_read_again_in_two_requests(client, raw, monkeypatch):
    names, seen = topics(raw, 300), Counter()
    threads = threading.active_count()
    for name in names:
        client.watch_topic(name, lambda now: seen.update([now.generation]))
    wait_for(lambda: seen[1] == 300)
    wait_for(lambda: all((said := report(raw, name)) and said["generation"] == 1 for name in names))
    kazoo = 3  # its connection, its callbacks and its completions
    assert threading.active_count() - threads <= 2 + kazoo
    asked, _told = spied(client, monkeypatch)
    drop(client)

    wait_for(lambda: asked["MultiRead"])
    assert asked == {"SetWatches": 1, "MultiRead": 1}  # the nodes, and the cluster that all of them name
    topic(raw, names[7], 2)
    wait_for(lambda: (said := report(raw, names[7])) and said["generation"] == 2)
    assert seen == {1: 300, 2: 1}


def test_what_other_instances_do_is_not_told(client, raw, monkeypatch, zk_chroot):
    seen = []
    topic(raw, "orders")
    client.watch_topic("orders", seen.append)
    wait_for(lambda: (said := report(raw, "orders")) and said["generation"] == 1)
    _asked, told = spied(client, monkeypatch)
    with Client(zookeeper=zk_chroot, app="other", ip="10.0.0.2") as other:
        others = []
        other.watch_topic("orders", others.append)
        wait_for(lambda: others)
        wait_for(lambda: len(raw.get_children("/zms/topic/orders")) == 2)
    wait_for(lambda: len(raw.get_children("/zms/topic/orders")) == 1)
    topic(raw, "orders", 2)
    wait_for(lambda: len(seen) == 2)
    assert told == ["/zms/topic/orders"]


def test_two_who_follow_one_topic_share_its_watch_and_end_alone(client, raw, monkeypatch):
    first, second = [], []
    topic(raw, "orders")
    one = client.watch_topic("orders", first.append)
    client.watch_topic("orders", second.append)
    wait_for(lambda: first and second)
    wait_for(lambda: len(raw.get_children("/zms/topic/orders")) == 2)
    _asked, told = spied(client, monkeypatch)
    topic(raw, "orders", 2)
    wait_for(lambda: len(first) == len(second) == 2)
    assert told == ["/zms/topic/orders"]
    one.close()
    wait_for(lambda: len(raw.get_children("/zms/topic/orders")) == 1)
    topic(raw, "orders", 3)
    wait_for(lambda: len(second) == 3)
    assert len(first) == 2


def test_nothing_is_left_of_changes_or_of_what_was_followed(tmp_path):
    """A thousand changes, then the end of all following: no thread, no descriptor, no watch on the server more than before."""
    server = ZooKeeperServer(tmp_path / "zookeeper", **{"4lw.commands.whitelist": "*"}).start()
    raw = KazooClient(server.hosts)
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h:1\nbrokerType=kafka\n")
    names, last = topics(raw, 50), {}

    def used():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    try:
        with Client(zookeeper=server.hosts, app="shop", cache_dir=tmp_path / "cache") as client:
            zookeeper = client._follower.connection.get()

            def watches():
                return int(zookeeper.command(b"mntr").partition("zk_watch_count\t")[2].split("\n")[0])

            followed = [client.watch_topic(name, lambda now: last.__setitem__(now.name, now.generation)) for name in names]
            wait_for(lambda: len(last) == 50)
            wait_for(lambda: watches() == 50)
            before = used()
            for generation in range(2, 22):
                for result in [
                    raw.set_async(f"/zms/topic/{name}", TOPIC.format(generation=generation, cluster="a").encode()) for name in names
                ]:
                    result.get(timeout=30)
            wait_for(lambda: set(last.values()) == {21})
            wait_for(lambda: all((said := report(raw, name)) and said["generation"] == 21 for name in names))
            wait_for(lambda: used() == before)  # the file is written now and then
            for subscription in followed:
                subscription.close()
            wait_for(lambda: watches() == 0)
            wait_for(lambda: not zookeeper._node_watches and not zookeeper._data_watchers)
            assert not client._follower._known.nodes
    finally:
        raw.stop()
        raw.close()
        server.kill()


def test_one_that_cannot_be_understood_or_read_holds_up_no_other(client, raw):
    seen = []
    topic(raw, "lost", cluster="gone")
    put(raw, "/zms/topic/broken", "")
    raw.create("/zms/topic/secret", b"", acl=[make_acl("digest", "x:x", all=True)])
    for name in ("lost", "broken", "secret", "orders"):
        client.watch_topic(name, lambda now: seen.append((now.name, now.generation)))
    for generation in range(1, 4):
        topic(raw, "orders", generation)
        wait_for(lambda generation=generation: ("orders", generation) in seen)
    put(raw, "/zms/cluster/gone", "bootAddr=h:1\nbrokerType=kafka\n")
    topic(raw, "broken", 5)
    wait_for(lambda: {("lost", 1), ("broken", 5)} <= set(seen))
    raw.delete("/zms/topic/secret")  # else nobody could clear it away


def test_a_node_that_comes_between_the_watch_and_the_reading_is_watched_all_the_same(zk_chroot, raw, monkeypatch):
    zookeeper = ZooKeeper(zk_chroot)
    zookeeper.start(timeout=15)
    told, read = [], zookeeper.multi_read
    raw.ensure_path("/zms/topic")

    def late(paths, **options):
        monkeypatch.setattr(zookeeper, "multi_read", read)
        zookeeper.sync("/")  # the watch is refused by now
        raw.create("/zms/topic/orders", b"1")
        return read(paths, **options)

    monkeypatch.setattr(zookeeper, "multi_read", late)
    assert [node.data for node in zookeeper.watch_nodes(["/zms/topic/orders"], told.append)[0]] == [b"1"]
    assert told == []
    raw.set("/zms/topic/orders", b"2")
    wait_for(lambda: told == ["/zms/topic/orders"])
    assert zookeeper.watch_nodes(["/zms/topic/none"], told.append) == ([None], [])
    raw.create("/zms/topic/none", b"")
    wait_for(lambda: told[1:] == ["/zms/topic/none"])
    zookeeper.stop()
    zookeeper.close()


def test_states_are_told_at_once_and_counts_now_and_then(client, raw, monkeypatch):
    monkeypatch.setattr(following, "_COUNTS_AFTER", 0.2)
    topic(raw, "orders")
    followed = client.watch_topic("orders", lambda _: None)
    wait_for(lambda: (said := report(raw, "orders")) and said["state"] == "running")
    asked, _told = spied(client, monkeypatch)
    for handled in range(200):
        followed.tell(counts={"handled": handled})
    wait_for(lambda: report(raw, "orders").get("counts") == {"handled": 199})
    assert asked["SetData"] <= 2
    followed.tell(state="draining")
    wait_for(lambda: report(raw, "orders")["state"] == "draining")
    assert report(raw, "orders")["counts"] == {"handled": 199}
    with pytest.raises(ValueError, match="state is one of running"):
        followed.tell(state="asleep")
    topic(raw, "orders", 2)
    wait_for(lambda: (said := report(raw, "orders"))["generation"] == 2 and said["state"] == "running")


def test_what_is_followed_is_known_while_zookeeper_is_away(tmp_path):
    server = ZooKeeperServer(tmp_path / "zookeeper").start()
    raw = KazooClient(server.hosts)
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h:1\nbrokerType=kafka\n")
    topic(raw, "orders", 4)
    raw.stop()
    raw.close()
    try:
        with Client(zookeeper=server.hosts, app="shop") as client:
            seen = []
            followed = client.watch_topic("orders", seen.append)
            wait_for(lambda: seen)
            assert (client.topic("orders").generation, client.topic("orders").stale) == (4, False)
            server.kill()
            wait_for(lambda: client.topic("orders").stale)
            assert client.topic("orders").generation == followed.state.generation == 4
    finally:
        server.kill()


@pytest.mark.parametrize("servers", [1, 3] if SOAK else [1])
def test_torture_by_changes_and_lost_connections_leaves_the_last_state_known(tmp_path, servers):
    """Topics come, change and go while watches are being set and connections break; one missed watch, and its topic stays behind."""
    ensemble = ZooKeeperServer(tmp_path / "zookeeper") if servers == 1 else Ensemble(tmp_path)
    ensemble.start()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, raw, seen = random.Random(seed), KazooClient(ensemble.hosts), {}
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h:1\nbrokerType=kafka\n")
    put(raw, "/zms/cluster/b", "bootAddr=h:2\nbrokerType=kafka\n")
    raw.ensure_path("/zms/topic")
    names, wanted = [f"t{number}" for number in range(40)], {}
    try:
        with Client(zookeeper=ensemble.hosts, app="shop", session_timeout=20) as client:
            for name in names:
                seen[name] = None
                client.watch_topic(name, lambda now, name=name: seen.__setitem__(name, now and (now.generation, now.cluster.name)))
            until, generation = time.monotonic() + (60 if SOAK else 4), 0
            while time.monotonic() < until:
                generation += 1
                name, cluster = chance.choice(names), chance.choice("ab")
                if name not in wanted or chance.random() < 0.6:
                    topic(raw, name, generation, cluster)
                    wanted[name] = (generation, cluster)
                else:
                    with contextlib.suppress(NotEmptyError):  # the instance has come in between
                        for child in raw.get_children(f"/zms/topic/{name}"):
                            with contextlib.suppress(NoNodeError):
                                raw.delete(f"/zms/topic/{name}/{child}")
                        raw.delete(f"/zms/topic/{name}")
                        del wanted[name]
                if chance.random() < 0.01:
                    drop(client)
            wait_for(lambda: seen == {name: wanted.get(name) for name in names}, what=f"the last state of all, seed {seed},")
            wait_for(lambda: all((said := report(raw, name)) and said["generation"] == state[0] for name, state in wanted.items()))
    finally:
        raw.stop()
        raw.close()
        ensemble.kill()
