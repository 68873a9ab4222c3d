"""Registrars as processes on a real ZooKeeper: what they write, read back by an independent client."""

import json
import os
import signal

import psycopg
from django.db import connection, transaction
from kazoo.security import make_acl
from registry_world import committed, published, put_cluster, put_group, put_topic, wait_for, why, world  # noqa: F401

from registry import services
from registry.models import Drift, Publication, RegistrarHeartbeat
from registry.publishing import Publisher, Round
from tests.store_world import Threads


def test_a_notification_comes_with_the_commit_and_none_without(committed):  # noqa: F811
    wanted = {"host", "port", "user", "password", "dbname"}
    parameters = {key: value for key, value in connection.get_connection_params().items() if key in wanted}
    with psycopg.connect(**parameters, autocommit=True) as listener:
        listener.execute("LISTEN mqadmin_registry")
        with transaction.atomic():
            put_cluster("kept")
            assert not list(listener.notifies(timeout=0.2))
        assert [notice.payload for notice in listener.notifies(timeout=2, stop_after=1)] == ["/zms/cluster/kept"]
        with transaction.atomic():
            put_cluster("lost")
            transaction.set_rollback(True)
        assert not list(listener.notifies(timeout=0.2))
    assert not Publication.objects.filter(path="/zms/cluster/lost").exists()


def test_nodes_stand_byte_for_byte_and_each_is_created_with_its_data_in_one_operation(world):  # noqa: F811
    with transaction.atomic():
        rows = [put_group(), put_topic(), put_cluster(address="10.0.0.1:9092,10.0.0.2:9092")]
    world.registrar()
    published(*rows)
    raw = world.raw()
    data, stat = raw.get("/zms/cluster/kafka-a")
    assert data == b"bootAddr=10.0.0.1\\:9092,10.0.0.2\\:9092\nbrokerType=kafka\nserverIps=\nmqadmin.generation=1\n"
    assert (stat.version, stat.ephemeralOwner) == (0, 0)
    data, stat = raw.get("/zms/topic/orders")
    assert (
        data == b"clusterName=kafka-a\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\n"
        b"mqadmin.generation=1\nmqadmin.drainClusters=\n"
    )
    assert stat.version == 0
    data, stat = raw.get("/zms/consumergroup/billing")
    assert data == (
        b"clusterName=kafka-a\ntype=consumergroup\nbindingTopic=orders\nbroadcast=false\nconsumeFrom=earliest\nsuspend=false\n"
        b"gatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\nmqadmin.drainClusters=\n"
        b'mqadmin.subscriptions={"orders"\\:"created || paid"}\nmqadmin.maxAttempts=16\n'
    )
    assert stat.version == 0


def test_a_dependant_is_never_there_before_its_cluster(world):  # noqa: F811
    topic = put_topic()
    world.registrar()
    raw = world.raw()
    wait_for(lambda: RegistrarHeartbeat.objects.watching().exists(), what="a registrar")
    assert services.retry(paths=[topic.path]) == 1
    assert not wait_for(lambda: raw.exists("/zms/cluster") and [raw.exists(topic.path)], what="the roots")[0]
    cluster = put_cluster()
    published(cluster, topic)
    assert raw.get(cluster.path)[1].czxid < raw.get(topic.path)[1].czxid


def test_a_changed_address_reaches_the_cluster_before_its_dependants(world):  # noqa: F811
    rows = [put_cluster(), put_topic(), put_group()]
    world.registrar()
    published(*rows)
    raw = world.raw()
    with transaction.atomic():
        put_cluster(address="10.9.9.9:9092")
        assert services.republish(paths=[rows[1].path, rows[2].path], change=why()) == 2
    published(*rows)
    zxids = [raw.get(row.path)[1].mzxid for row in rows]
    assert zxids[0] < min(zxids[1:])
    assert b"mqadmin.generation=2\n" in raw.get("/zms/topic/orders")[0]


def test_retiring_goes_the_other_way_round(world):  # noqa: F811
    rows = [put_cluster(), put_topic()]
    world.registrar()
    published(*rows)
    deleted = []
    raw = world.raw()
    for row in rows:
        raw.exists(row.path, watch=lambda event: deleted.append((event.type, event.path)))
    services.retract(path=rows[0].path, change=why())
    assert not deleted
    assert services.blockers(Publication.objects.get(pk=rows[0].pk)) == ["/zms/topic/orders"]
    services.retract(path=rows[1].path, change=why())
    published(*rows)
    wait_for(lambda: len(deleted) == 2)
    assert deleted == [("DELETED", "/zms/topic/orders"), ("DELETED", "/zms/cluster/kafka-a")]
    with transaction.atomic():
        rows = [put_cluster(), put_topic()]
    published(*rows)
    assert b"mqadmin.generation=3\n" in raw.get("/zms/topic/orders")[0]


def test_live_nodes_are_set_and_never_deleted_and_created_again(world):  # noqa: F811
    rows = [put_cluster(), put_topic()]
    world.registrar()
    published(*rows)
    raw = world.raw()
    born = raw.get("/zms/topic/orders")[1].czxid
    put_cluster("kafka-b")
    published(put_topic(cluster="kafka-b"))
    stat = raw.get("/zms/topic/orders")[1]
    assert (stat.czxid, stat.version) == (born, 1)


def test_a_foreign_edit_is_repaired_and_can_be_seen(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    raw = world.raw()
    ours, stat = raw.get(cluster.path)
    raw.set(cluster.path, b"bootAddr=evil\\:1\nmqadmin.generation=1\n", version=stat.version)
    wait_for(lambda: raw.get(cluster.path)[0] == ours, what="the repair")
    row = wait_for(lambda: Publication.objects.filter(pk=cluster.pk, last_foreign_edit="changed", drifted_at=None).first())
    assert bytes(Drift.objects.get(path=row.path).data) == b"bootAddr=evil\\:1\nmqadmin.generation=1\n"
    assert raw.get(cluster.path)[1].version == 2


def test_an_edit_that_cannot_be_stored_is_repaired_and_holds_nobody_up(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    world.raw().set(cluster.path, b"bootAddr=evil\nmqadmin.generation=1\nteam=\\u0000\n")
    other = put_cluster("kafka-b")
    published(other)
    wait_for(lambda: Publication.objects.filter(pk=cluster.pk, last_foreign_edit="changed", drifted_at=None).exists())
    assert world.raw().get(cluster.path)[0] == bytes(cluster.data)


def test_a_node_deleted_by_others_comes_back(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    raw = world.raw()
    raw.delete(cluster.path)
    wait_for(lambda: raw.exists(cluster.path), what="the repair")
    wait_for(lambda: Publication.objects.filter(pk=cluster.pk, last_foreign_edit="deleted", drifted_at=None).exists())


def test_keys_of_unknown_origin_survive_later_changes_and_a_wipe(world):  # noqa: F811
    raw = world.raw()
    raw.create("/zms/cluster/kafka-a", b"# by hand\nteam = blue\\u00e9\nbootAddr=old\\:1\nbrokerType=kafka\n", makepath=True)
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    wanted = b"bootAddr=10.0.0.1\\:9092\nbrokerType=kafka\nserverIps=\nmqadmin.generation=2\nteam=blue\\u00e9\n"
    assert raw.get(cluster.path)[0] == wanted
    row = Publication.objects.get(pk=cluster.pk)
    drift = Drift.objects.get(path=row.path)
    assert (row.last_foreign_edit, drift.edit, drift.outcome, b"by hand" in bytes(drift.data)) == ("found", "found", "kept", True)
    raw.set(cluster.path, wanted + b"colour=red\n")
    wait_for(lambda: b"generation=3" in raw.get(cluster.path)[0], what="the key to be kept")
    published(put_cluster(address="10.0.0.9:1"))
    assert raw.get(cluster.path)[0].endswith(b"mqadmin.generation=4\nteam=blue\\u00e9\ncolour=red\n")
    raw.delete(cluster.path)
    wait_for(lambda: raw.exists(cluster.path), what="the repair")
    assert raw.get(cluster.path)[0].endswith(b"mqadmin.generation=4\nteam=blue\\u00e9\ncolour=red\n")


def test_a_generation_ahead_of_the_database_is_passed_so_that_readers_never_see_it_fall(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    raw = world.raw()
    raw.set(cluster.path, raw.get(cluster.path)[0].replace(b"generation=1", b"generation=40"))
    wait_for(lambda: b"mqadmin.generation=41\n" in raw.get(cluster.path)[0], what="a generation past it")


def test_who_repairs_against_us_is_left_after_five_times_a_minute(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    raw = world.raw()
    ours = raw.get(cluster.path)[0]
    for _ in range(5):
        raw.set(cluster.path, b"bootAddr=other\n")
        wait_for(lambda: raw.get(cluster.path)[0] == ours, what="a repair within the budget")
    raw.set(cluster.path, b"bootAddr=other\n")
    row = wait_for(lambda: Publication.objects.filter(pk=cluster.pk).exclude(last_error="").first(), what="the alert")
    assert "another control plane" in row.last_error
    assert raw.get(cluster.path)[0] == b"bootAddr=other\n"


def test_one_bad_item_does_not_hold_up_the_rest(world):  # noqa: F811
    raw = world.raw()
    closed = "/zms/closed"
    raw.ensure_path("/zms")
    raw.create(closed, b"", acl=[make_acl("world", "anyone", read=True)])
    with transaction.atomic():
        bad = services.publish_properties(path=f"{closed}/x", zms={"a": "1"}, own={}, change=why())
        rows = [put_cluster(f"kafka-{number}") for number in range(250)]
        bad2 = services.publish_properties(path=f"{closed}/y", zms={"a": "1"}, own={}, change=why())
    world.registrar()
    published(*rows)
    for row in (bad, bad2):
        failed = wait_for(lambda row=row: Publication.objects.filter(pk=row.pk).exclude(last_error="").first())
        assert "ZOOKEEPER_AUTH" in failed.last_error
        assert failed.state == "failing"


def test_a_batch_over_the_size_of_one_request_is_split(world):  # noqa: F811
    with transaction.atomic():
        rows = [put_cluster(f"big-{number}", address="a" * 200_000) for number in range(8)]
    world.registrar()
    published(*rows)
    assert len(world.raw().get("/zms/cluster/big-7")[0]) > 200_000


def test_another_deployments_tree_is_refused_until_it_is_taken_over(world):  # noqa: F811
    cluster = put_cluster()
    raw = world.raw()
    raw.create("/mqadmin/owner", json.dumps({"deployment": "somebody-else"}).encode(), makepath=True)
    refused = world.registrar(ready=False)
    refused.expect("somebody-else")
    beat = wait_for(lambda: RegistrarHeartbeat.objects.filter(zookeeper="refused").first())
    assert "--take-over" in beat.error
    assert "--take-over" in wait_for(lambda: Publication.objects.get(pk=cluster.pk).last_error)
    assert not raw.exists(cluster.path)
    assert refused.end() == 0
    world.registrar("--take-over")
    published(cluster)


def test_sigterm_ends_it_cleanly_and_removes_its_heartbeat(world):  # noqa: F811
    registrar = world.registrar()
    assert RegistrarHeartbeat.objects.get().pid == registrar.process.pid
    assert registrar.end() == 0
    assert not RegistrarHeartbeat.objects.exists()


def test_the_sweep_needs_no_notification(world):  # noqa: F811
    world.registrar()
    # As if it were lost: the row is there, nobody was told.
    data = b"bootAddr=h\nmqadmin.generation=1\n"
    Publication.objects.create(path="/zms/cluster/quiet", root="/zms/cluster", format="properties", data=data, generation=1)
    published("/zms/cluster/quiet", seconds=5)
    assert world.raw().get("/zms/cluster/quiet")[0] == data


def test_the_database_may_drop_its_connections(world):  # noqa: F811
    registrar = world.registrar()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] >= 2
    published(put_cluster())
    registrar.expect("database_away")
    assert registrar.process.poll() is None


def test_three_registrars_killed_at_random_never_let_a_generation_fall_and_lose_nothing(world):  # noqa: F811
    import random
    import threading

    seed = int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)
    print("seed", seed)
    names = [f"k{number}" for number in range(20)]
    with transaction.atomic():
        rows = [put_cluster(name, address="0") for name in names]
    registrars = [world.registrar() for _ in range(3)]
    published(*rows)
    fell, last, stop = [], dict.fromkeys(names, 0), threading.Event()
    watcher = world.raw()

    def follow(name):
        def seen(data, stat, _event=None):
            if data is None:
                return not stop.is_set()
            generation = int(data.split(b"mqadmin.generation=")[1].split(b"\n")[0])
            if generation < last[name]:
                fell.append((name, last[name], generation))
            last[name] = generation
            return None

        watcher.DataWatch(f"/zms/cluster/{name}", seen)

    for name in names:
        follow(name)
    for number in range(300):
        put_cluster(dice.choice(names), address=f"{number}")
        if number % 60 == 30:
            victim = dice.randrange(3)
            registrars[victim].signal(signal.SIGKILL)
            registrars[victim].process.wait()
            registrars[victim] = world.registrar(ready=False)
    published(*rows, seconds=30)
    stop.set()
    assert not fell, seed
    independent = world.raw()
    for row in Publication.objects.all():
        assert independent.get(row.path)[0] == bytes(row.data), seed
        wait_for(
            lambda row=row: last[row.path.rsplit("/", 1)[1]] == row.generation, what=f"the watcher to see the last generation, seed {seed}"
        )


def test_recording_locks_rows_in_the_order_in_which_a_clusters_change_does(committed):  # noqa: F811
    later, earlier = put_cluster("kafka-b"), put_cluster("kafka-a")
    recording = Round(done=[(later, 0, True), (earlier, 0, True)])
    threads = Threads()
    with transaction.atomic():
        Publication.objects.select_for_update().get(pk=earlier.pk)
        threads.start(Publisher(None, name="x")._record, recording.taken())
        wait_for(waiting_for_a_lock)
        assert Publication.objects.select_for_update(nowait=True).get(pk=later.pk)
    threads.join()
    assert all(row.is_published for row in Publication.objects.all())


def test_saying_that_zookeeper_is_away_waits_for_nobody(committed):  # noqa: F811
    changed, _other = put_cluster("kafka-a"), put_cluster("kafka-b")
    threads = Threads()
    with transaction.atomic():
        Publication.objects.select_for_update().get(pk=changed.pk)
        threads.start(Publisher.mark_away)
        threads.join(5)
    assert [row.last_error != "" for row in Publication.objects.order_by("path")] == [False, True]


def waiting_for_a_lock():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity a USING (pid) WHERE a.datname = current_database() AND NOT granted"
        )
        return cursor.fetchone()[0]
