"""ZooKeeper paused, killed, wiped, while the database is edited: nothing blocks, nothing is lost."""

import json
import signal
import time

import pytest
from django.db import connection
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from registry_world import World, committed, published, put_cluster, put_topic, wait_for, why  # noqa: F401
from zookeeper_server import zookeeper_server  # noqa: F401

from registry import services
from registry.models import Drift, Instance, Publication, RegistrarHeartbeat

NODE = "10.1.1.1||DEFAULT_PRODUCER||zms-1.0||2026-11-21T08:00:00.000||r1"


@pytest.fixture
def world(committed, zookeeper_server):  # noqa: F811
    """A deployment on a ZooKeeper of its own, with a chroot."""
    client = KazooClient(hosts=zookeeper_server.hosts)
    client.start(timeout=15)
    client.ensure_path("/deep/chroot")
    client.stop()
    client.close()
    found = World(f"{zookeeper_server.hosts}/deep/chroot")
    yield found
    zookeeper_server.resume()  # a registrar could not end its session with a paused one
    found.close()


def locks_held_for_long():
    """Transactions of registrars that stay open: there must be none while ZooKeeper is waited for."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND xact_start < now() - interval '500 milliseconds'"
        )
        return cursor.fetchone()[0]


def test_edits_go_on_while_zookeeper_is_paused_and_are_published_afterwards(world, zookeeper_server):  # noqa: F811
    rows = [put_cluster(), put_topic()]
    world.registrar()
    published(*rows)
    raw = world.raw()
    zookeeper_server.pause()
    put_cluster(address="first")  # the registrar hangs in this write
    time.sleep(1)
    slowest = 0.0
    for number in range(50):
        started = time.monotonic()
        put_cluster(address=f"edit-{number}")
        services.republish(paths=["/zms/topic/orders"], change=why())
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 1.0
    assert locks_held_for_long() == 0
    wait_for(lambda: "not reachable" in Publication.objects.get(path="/zms/cluster/kafka-a").last_error, what="the reason on the row")
    assert Publication.objects.get(path="/zms/cluster/kafka-a").state == "failing"
    wait_for(lambda: not services.instances_known(), what="the snapshot of instances to be called stale")
    zookeeper_server.resume()
    published(*rows)
    assert b"bootAddr=edit-49\n" in wait_for(lambda: _read(raw, "/zms/cluster/kafka-a"))
    assert Publication.objects.get(path="/zms/cluster/kafka-a").last_error == ""
    assert Publication.objects.get(path="/zms/cluster/kafka-a").last_foreign_edit == ""


def test_a_registrar_started_without_zookeeper_publishes_when_it_comes(world, zookeeper_server):  # noqa: F811
    zookeeper_server.kill()
    cluster = put_cluster()
    registrar = world.registrar(ready=False)
    wait_for(lambda: "not reachable" in Publication.objects.get(pk=cluster.pk).last_error)
    wait_for(lambda: RegistrarHeartbeat.objects.filter(zookeeper__in=["lost", "suspended"]).exists(), what="its first heartbeat")
    zookeeper_server.start()
    published(cluster)
    assert registrar.process.poll() is None


def test_everything_comes_back_after_a_wipe_and_the_cluster_before_its_topic(world, zookeeper_server):  # noqa: F811
    rows = [put_cluster(), put_topic()]
    world.registrar()
    for _ in range(3):
        services.republish(paths=[row.path for row in rows], change=why())
        published(*rows)
    client = world.raw()
    client.create(f"/zms/topic/orders/{NODE}", b"", ephemeral=True)
    wait_for(lambda: Instance.objects.online().count() == 1)
    client.stop()
    zookeeper_server.wipe()
    zookeeper_server.start()
    raw = world.raw(zookeeper_server.hosts)
    wait_for(lambda: raw.exists("/deep/chroot/zms/topic/orders"), 30, "the topic's node")
    topic, stat = raw.get("/deep/chroot/zms/topic/orders")
    assert b"mqadmin.generation=4\n" in topic
    assert raw.get("/deep/chroot/zms/cluster/kafka-a")[1].czxid < stat.czxid
    published(*rows)
    # The instance of the former tree is gone, although its transaction numbers were larger than any of the new tree.
    wait_for(lambda: not Instance.objects.online().exists(), what="the old instance to be offline")
    raw.create(f"/deep/chroot/zms/topic/orders/{NODE}", b"", ephemeral=True)
    wait_for(lambda: Instance.objects.online().count() == 1, what="the new instance")


def test_an_expired_session_ends_in_a_live_watch_again(world, zookeeper_server):  # noqa: F811
    world.registrar()
    session = RegistrarHeartbeat.objects.get().session
    zookeeper_server.pause()
    wait_for(lambda: not RegistrarHeartbeat.objects.filter(zookeeper="connected").exists(), 20)
    time.sleep(4)
    zookeeper_server.resume()
    wait_for(lambda: RegistrarHeartbeat.objects.watching().exclude(session=session).exists(), 20, "a new session with its watches")
    published(put_cluster(), put_topic())
    raw = world.raw()
    raw.create(f"/zms/topic/orders/{NODE}", json.dumps({"sdk": "x/1", "app": "a", "generation": 1}).encode(), ephemeral=True)
    assert wait_for(lambda: Instance.objects.online().first()).applied_generation == 1


def test_a_node_that_breaks_the_connection_steps_back_and_the_others_go_on(world, zookeeper_server):  # noqa: F811
    zookeeper_server.kill()
    zookeeper_server.start("-Djute.maxbuffer=100000")
    poison = put_cluster("poison", address="a" * 150_000)
    rows = [put_cluster(f"kafka-{number}") for number in range(20)]
    world.registrar()
    published(*rows)
    assert "jute.maxbuffer" in Publication.objects.get(pk=poison.pk).last_error
    published(put_cluster("poison", address="small"))


def test_a_change_made_here_and_one_made_there_at_the_same_time(world):
    cluster = put_cluster()
    registrar = world.registrar()
    published(cluster)
    raw = world.raw()
    registrar.signal(signal.SIGSTOP)
    put_cluster(address="ours")
    raw.set(cluster.path, b"bootAddr=theirs\nmqadmin.generation=1\n")
    registrar.signal(signal.SIGCONT)
    published(cluster)
    assert raw.get(cluster.path)[0] == b"bootAddr=ours\nbrokerType=kafka\nserverIps=\nmqadmin.generation=2\n"
    row = wait_for(lambda: Publication.objects.filter(pk=cluster.pk, last_foreign_edit="changed").first(), what="the edit to be recorded")
    assert bytes(Drift.objects.get(path=row.path).data) == b"bootAddr=theirs\nmqadmin.generation=1\n"


def test_a_registrar_that_is_left_behind_drops_its_older_change(world):
    cluster = put_cluster()
    first = world.registrar()
    published(cluster)
    first.signal(signal.SIGSTOP)
    world.registrar()
    for number in range(5):
        put_cluster(address=f"a{number}")
    published(cluster)
    first.signal(signal.SIGCONT)
    raw = world.raw()
    time.sleep(1.5)
    assert raw.get(cluster.path)[0] == bytes(Publication.objects.get(pk=cluster.pk).data)
    assert Publication.objects.get(pk=cluster.pk).last_foreign_edit == ""


def _read(raw, path):
    try:
        return raw.get(path)[0]
    except KazooException:
        return None
