"""Edits by others on a real ZooKeeper: written down, repaired or held for a person, and what a person decides."""

import uuid

import pytest
from django.db import connection
from django.db.models.functions import Now
from registry_world import committed, published, put_cluster, put_topic, wait_for, world  # noqa: F401

from accounts.models import User
from core.errors import Problem
from registry import drift, publishing, repairs
from registry.due import read_due
from registry.models import Drift, DriftPolicy, Publication
from registry.observing import Observer
from registry.publishing import Publisher

EVIL = b"bootAddr=evil\\:1\nbrokerType=kafka\nserverIps=\nmqadmin.generation=1\n"


@pytest.fixture
def person(committed):  # noqa: F811
    """Somebody who decides, committed."""
    made = User.objects.create_superuser(f"decider-{uuid.uuid4().hex[:8]}", password="correct horse battery")
    yield made
    Drift.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE audit_auditentry")
    made.delete()


@pytest.fixture
def zookeeper(world):  # noqa: F811
    """One client of ours in this process, for a publisher and an observer that are driven by hand."""
    from mqadmin_sdk.zk import Client

    client = Client(world.hosts, timeout=10)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


def observer_on(zookeeper):
    observer = Observer(zookeeper)
    observer.start()
    wait_for(lambda: observer.step(0.05) or observer.state == "live", what="a live watch")
    return observer


def alert(name="clusters"):
    DriftPolicy.objects.filter(name=name).update(policy="alert")


def look(observer, publisher):
    """What a registrar's two threads do, once each, after everything was compared."""
    observer.compare_all()
    observer.step(0.0)
    publisher.publish_due()


def test_an_edit_is_written_down_once_with_what_is_known_of_it(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    world.registrar()
    published(cluster)
    raw = world.raw()
    stat = raw.set(cluster.path, EVIL)
    row = wait_for(lambda: Drift.objects.filter(path=cluster.path, outcome="repaired").first(), what="the repair to be recorded")
    assert (row.edit, bytes(row.data), bytes(row.wanted), row.wanted_generation) == ("changed", EVIL, bytes(cluster.data), 1)
    assert (row.mzxid, int(row.node_mtime.timestamp() * 1000), row.node_version) == (stat.mzxid, stat.mtime, stat.version)
    assert row.who == ""  # ZooKeeper does not tell
    changed = [(d.key, d.wanted, d.found) for d in row.differences if d.kind != "same"]
    assert changed == [("bootAddr", "10.0.0.1:9092", "evil:1")]
    assert Drift.objects.count() == 1
    raw.delete(cluster.path)
    wait_for(lambda: Drift.objects.filter(edit="deleted", outcome="repaired").exists(), what="the deletion")
    assert raw.get(cluster.path)[0] == bytes(cluster.data)


def test_a_node_that_mqadmin_does_not_know_is_written_down_and_left(world, zookeeper):  # noqa: F811
    raw = world.raw()
    for root in ("/zms/cluster", "/zms/topic", "/zms/consumergroup", "/zpt", "/zpt-instances"):
        raw.ensure_path(root)
    raw.create("/zms/topic/theirs", b"clusterName=x\n")
    raw.create("/zpt/app/task/theirs", b'{"enable":"1"}', makepath=True)
    observer = observer_on(zookeeper)
    found = {row.path: row for row in Drift.objects.all()}
    assert {path: (row.edit, row.outcome) for path, row in found.items()} == {
        "/zms/topic/theirs": ("unknown", "left"),
        "/zpt/app/task/theirs": ("unknown", "left"),
    }
    raw.create("/zms/topic/passing", b"", ephemeral=True)
    row = wait_for(lambda: observer.step(0.05) or Drift.objects.filter(path="/zms/topic/passing").first(), what="the watch to tell")
    assert row.who == f"0x{raw.client_id[0]:x}"
    raw.delete("/zms/topic/passing")
    wait_for(lambda: observer.step(0.05) or Drift.objects.filter(path=row.path, outcome="undone").exists(), what="its end")
    raw.delete("/zpt/app/task/theirs")
    wait_for(lambda: observer.step(0.05) or Drift.objects.filter(path="/zpt/app/task/theirs", outcome="undone").exists(), what="its end")
    assert raw.get("/zms/topic/theirs")[0] == b"clusterName=x\n"
    observer.compare_all()
    observer.step(0.0)
    assert Drift.objects.filter(path="/zms/topic/theirs").count() == 1


def test_an_unknown_node_for_which_a_publication_comes_is_told_as_found(world, zookeeper):  # noqa: F811
    raw = world.raw()
    raw.create("/zms/cluster/kafka-a", b"bootAddr=old\n", makepath=True)
    observer_on(zookeeper)
    assert Drift.objects.get().outcome == "left"
    put_cluster()
    Publisher(zookeeper, name="here").publish_due()
    assert [(row.edit, row.outcome) for row in Drift.objects.all()] == [("found", "repaired")]


def test_under_alert_nothing_is_written_until_a_person_repairs(world, zookeeper, person):  # noqa: F811
    alert()
    cluster = put_cluster()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    observer, raw = observer_on(zookeeper), world.raw()
    raw.set(cluster.path, EVIL)
    look(observer, publisher)
    row = Publication.objects.get(pk=cluster.pk)
    assert (row.state, row.last_foreign_edit) == ("held", "changed")
    waiting = Drift.objects.get()
    assert waiting.outcome == "waiting"
    # A change of ours waits with it, however often somebody looks.
    put_cluster(address="ours")
    for _ in range(2):
        look(observer, publisher)
    assert raw.get(cluster.path)[0] == EVIL
    row = Publication.objects.get(pk=cluster.pk)
    assert (row.state, row.published_generation, row.generation, Drift.objects.count()) == ("held", 1, 2, 1)
    drift.repair(actor=person, drift=waiting, reason="was a mistake")
    publisher.publish_due()
    assert b"bootAddr=ours\n" in raw.get(cluster.path)[0]
    waiting.refresh_from_db()
    assert (waiting.outcome, waiting.decided_by, waiting.reason) == ("repaired", person, "was a mistake")
    assert Publication.objects.get(pk=cluster.pk).state == "published"
    with pytest.raises(Problem) as refused:
        drift.repair(actor=person, drift=waiting, reason="again")
    assert refused.value.code == "drift_settled"


def test_a_decision_holds_for_the_edit_that_was_seen_and_no_other(world, zookeeper, person):  # noqa: F811
    alert()
    cluster = put_cluster()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    observer, raw = observer_on(zookeeper), world.raw()
    raw.set(cluster.path, EVIL)
    look(observer, publisher)
    drift.repair(actor=person, drift=Drift.objects.get(), reason="was a mistake")
    raw.set(cluster.path, b"bootAddr=other\n")  # before a registrar comes
    publisher.publish_due()
    assert raw.get(cluster.path)[0] == b"bootAddr=other\n"
    assert [(row.outcome, bytes(row.data)) for row in Drift.objects.order_by("id")] == [
        ("superseded", EVIL),
        ("waiting", b"bootAddr=other\n"),
    ]
    assert Publication.objects.get(pk=cluster.pk).is_held


def test_a_change_that_meets_an_edit_nobody_has_seen_is_held_too(world, zookeeper):  # noqa: F811
    alert()
    cluster = put_cluster()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    raw = world.raw()
    raw.set(cluster.path, EVIL)
    put_cluster(address="ours")  # no observer has told of the edit: the conditional write finds it
    publisher.publish_due()
    assert raw.get(cluster.path)[0] == EVIL
    row = Publication.objects.get(pk=cluster.pk)
    assert (row.state, row.published_generation) == ("held", 1)


def test_a_deletion_waits_as_well_and_is_written_again_when_a_person_says_so(world, zookeeper, person):  # noqa: F811
    alert()
    cluster = put_cluster()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    observer, raw = observer_on(zookeeper), world.raw()
    raw.delete(cluster.path)
    look(observer, publisher)
    assert raw.exists(cluster.path) is None
    waiting = Drift.objects.get()
    assert (waiting.edit, waiting.outcome) == ("deleted", "waiting")
    drift.repair(actor=person, drift=waiting, reason="we need it")
    publisher.publish_due()
    assert raw.get(cluster.path)[0] == bytes(cluster.data)


def test_what_others_put_right_themselves_waits_no_longer(world, zookeeper):  # noqa: F811
    alert()
    cluster = put_cluster()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    observer, raw = observer_on(zookeeper), world.raw()
    raw.set(cluster.path, EVIL)
    look(observer, publisher)
    raw.set(cluster.path, bytes(cluster.data))
    look(observer, publisher)
    assert Publication.objects.get(pk=cluster.pk).state == "published"
    assert Drift.objects.get().outcome == "undone"


def test_the_end_of_waiting_repairs_what_waits_in_that_tree_only(world, zookeeper, person):  # noqa: F811
    alert()
    alert("topics")
    cluster, topic = put_cluster(), put_topic()
    publisher = Publisher(zookeeper, name="here")
    publisher.publish_due()
    observer, raw = observer_on(zookeeper), world.raw()
    raw.set(cluster.path, EVIL)
    raw.set(topic.path, b"clusterName=evil\n")
    look(observer, publisher)
    publisher.publish_due()  # the topic comes after its cluster
    assert drift.waiting() == {"clusters": 1, "topics": 1, "consumer-groups": 0, "shadow-groups": 0}
    policy = DriftPolicy.objects.get(name="clusters")
    drift.set_policy(actor=person, policy=policy, to="repair", reason="we trust ours")
    publisher.publish_due()
    assert raw.get(cluster.path)[0] == bytes(cluster.data)
    assert raw.get(topic.path)[0] == b"clusterName=evil\n"
    assert Drift.objects.get(path=cluster.path).outcome == "repaired"
    assert drift.waiting()["topics"] == 1


def test_the_history_is_bounded(world):  # noqa: F811
    for number in range(repairs.KEEP_OF_PATH + 5):
        Drift.objects.create(path="/zms/topic/x", edit="changed", incident=str(number), outcome="repaired", settled_at="2026-01-01T00:00Z")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE registry_drift SET settled_at = now() - interval '1 hour'")
        cursor.execute("UPDATE registry_drift SET settled_at = now() - interval '91 days' WHERE incident IN ('53', '54')")
    Drift.objects.create(path="/zms/topic/x", edit="changed", incident="w", outcome="waiting")
    repairs.forget_old()
    left = list(Drift.objects.order_by("id").values_list("incident", flat=True))
    assert len(left) == repairs.KEEP_OF_PATH
    assert (left[-1], "53" in left, "54" in left) == ("w", False, False)


def test_a_row_in_doubt_that_changes_while_it_is_looked_at_is_left_to_the_next_look(world, zookeeper, monkeypatch):  # noqa: F811
    cluster = put_cluster()
    publisher, raw = Publisher(zookeeper, name="here"), world.raw()
    publisher.publish_due()
    before = raw.get(cluster.path)[0]
    Publication.objects.filter(pk=cluster.pk).update(drifted_at=Now())

    def then_changed(*arguments, **more):
        rows = read_due(*arguments, **more)
        monkeypatch.setattr(publishing, "read_due", read_due)
        put_cluster(address="ours")
        return rows

    monkeypatch.setattr(publishing, "read_due", then_changed)
    publisher.publish_due()  # whether the order across paths allows what it wants now was not asked
    assert raw.get(cluster.path)[0] == before
    publisher.publish_due()
    assert b"ours" in raw.get(cluster.path)[0]
