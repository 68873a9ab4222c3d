"""Adopting what exists: a tree that ZMS has written, and a manifest; a plan before, a result for each item, nothing written that is so."""

from datetime import timedelta

import pytest
import yaml
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.db.models.functions import Now
from django.test import Client as HttpClient
from django.urls import reverse
from kazoo.client import KazooClient
from operations_world import run
from supervised import wait_for

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from consumers.models import ConsumerGroup
from core.audit.models import AuditEntry
from core.operations.models import Operation, OperationItem
from mqadmin_sdk.zk import Client
from registry.models import Publication, Release
from registry.observing import Observer
from registry.publishing import Publisher
from topics.models import Topic

pytestmark = pytest.mark.django_db

ZMS = {
    "/zms/cluster/zms-a": b"#by ZMS\nbootAddr=10.0.0.1\\:9092,10.0.0.2\\:9092\nbrokerType=kafka\nserverIps=10.0.0.1\nregion=north\n",
    "/zms/cluster/strange": b"bootAddr=10.0.0.3\\:1\nbrokerType=pulsar\n",
    "/zms/topic/pay_orders": b"clusterName=zms-a\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=kafka\nteam=blue\\u00e9\n",
    "/zms/topic/ship_parcels": b"clusterName=zms-a\ntype=topic\nmqadmin.generation=41\n",
    "/zms/topic/lost": b"clusterName=nowhere\ntype=topic\n",
    "/zms/topic/on_strange": b"clusterName=strange\ntype=topic\n",
    "/zms/topic/null_cluster": b"clusterName=null\ntype=topic\n",
    "/zms/topic/gated_wrongly": b"clusterName=zms-a\ntype=topic\ngatedIps=10.0.0.9\ngatedCluster=\n",
    "/zms/topic/not properties": b"clusterName=zms-a\ntype=topic\n",
    "/zms/topic/broken": b"clusterName=\\u12\n",
    "/zms/topic/taken": b"clusterName=zms-a\ntype=topic\n",
    "/zms/consumergroup/pay_bills": (
        b"clusterName=zms-a\ntype=consumergroup\nbindingTopic=pay_orders\nbroadcast=false\nconsumeFrom=latest\nsuspend=true\n"
    ),
    "/zms/consumergroup/pay_lost": b"clusterName=zms-a\ntype=consumergroup\nbindingTopic=lost\n",
}  # fmt: skip
REFUSED = {
    "strange": "invalid_kind", "lost": "unknown_cluster", "on_strange": "unknown_cluster", "null_cluster": "null_value",
    "gated_wrongly": "gated_without_cluster", "not properties": "invalid_name", "broken": "broken_node", "taken": "other_owner",
    "pay_lost": "unknown_topic",
}  # fmt: skip


@pytest.fixture
def people():
    return make_people()


@pytest.fixture
def applications(people):
    return [Application.objects.create(name=name, owner=people.bob) for name in ("payment", "shipping", "other")]


@pytest.fixture
def api(people, applications):
    return Api(HttpClient(), token_for(people.alice))


@pytest.fixture
def zms(zk_chroot, settings):
    """A tree as ZMS leaves it, and a client that is not ours."""
    settings.ZOOKEEPER_HOSTS = zk_chroot
    raw = KazooClient(hosts=zk_chroot)
    raw.start(timeout=15)
    for path, data in ZMS.items():
        raw.create(path, data, makepath=True)
    raw.create("/zms/topic/pay_orders/10.1.1.1||DEFAULT_PRODUCER||zms-1.0||r1", b"", ephemeral=True)
    yield raw
    raw.stop()
    raw.close()


BODY = {"source": "tree", "application": "shipping", "applications": {"pay_": "payment"}, "reason": "we come from ZMS"}


def ended(answer):
    assert answer.status_code == 202, answer.body
    return run(Operation.objects.get(uid=answer.body["operation"]["id"]))


def failures():
    return {key.split("/", 1)[1]: code for key, code in OperationItem.objects.filter(state="failed").values_list("key", "code")}


def test_a_tree_of_zms_is_taken_over_without_a_byte_being_written(api, people, applications, zms):
    topic(people, applications[2], "taken")
    rehearsed = api("POST", "imports?dry_run=true", BODY).body["result"]["plan"]
    assert {one["name"]: one["code"] for one in rehearsed["items"] if one["action"] == "refused"} == REFUSED
    assert (rehearsed["create"], Cluster.objects.filter(name="zms-a").exists()) == (4, False)
    told = next(one for one in rehearsed["items"] if one["name"] == "pay_orders")
    assert told["warnings"] == ["statisticsLogger: “kafka” becomes “disk” with the first change."]
    done = ended(api("POST", "imports", BODY))
    assert (done.state, done.done, done.failed, failures()) == ("partial", 4, len(REFUSED), REFUSED)
    # what it became
    orders, parcels = Topic.objects.get(name="pay_orders"), Topic.objects.get(name="ship_parcels")
    assert (orders.state, orders.cluster.name, orders.application.name, orders.owner) == ("active", "zms-a", "payment", people.bob)
    assert parcels.application.name == "shipping"
    bills = ConsumerGroup.objects.get(name="pay_bills")
    assert (bills.state, bills.suspended, bills.consume_from) == ("active", True, "latest")
    assert list(bills.subscriptions.values_list("topic__name", "tags")) == [("pay_orders", "*")]
    assert AuditEntry.objects.filter(action="import").count() == 3
    rows = {row.path: row for row in Publication.objects.filter(path__in=ZMS)}
    assert {path: (row.state, row.generation) for path, row in rows.items() if "taken" not in path} == {
        "/zms/cluster/zms-a": ("published", 0), "/zms/topic/pay_orders": ("published", 0), "/zms/topic/ship_parcels": ("published", 41),
        "/zms/consumergroup/pay_bills": ("published", 0),
    }  # fmt: skip
    assert rows["/zms/topic/pay_orders"].foreign_keys == [["team", "blueé"]]
    assert Release.objects.filter(publication=rows["/zms/topic/pay_orders"]).count() == 1
    # nothing was written, and nothing is taken for drift; the first real change writes with generations going on
    Publication.objects.filter(path="/zms/topic/taken").delete()
    ours = Client(zms.hosts[0][0] + f":{zms.hosts[0][1]}{zms.chroot}")
    ours.start(timeout=15)
    observer, publisher = Observer(ours), Publisher(ours, name="test")
    try:
        observer.start()
        wait_for(lambda: observer.step(0.1) or observer.state == "live", 30, "a full comparison")
        publisher.publish_due()
        assert all(zms.get(path)[0] == data and zms.get(path)[1].version == 0 for path, data in ZMS.items())
        clusters.change(actor=people.alice, cluster=Cluster.objects.get(name="zms-a"), address="10.0.0.9:9092", description="")
        # Within a test's transaction the database's now() stands still: nothing would ever be due.
        Publication.objects.dirty().update(next_attempt_at=Now() - timedelta(days=1))
        while publisher.publish_due().published:
            pass
    finally:
        observer.stop()
        ours.stop()
        ours.close()
    assert zms.get("/zms/cluster/zms-a")[0].endswith(b"mqadmin.generation=1\nregion=north\n")
    node, stat = zms.get("/zms/topic/pay_orders")
    assert (b"team=blue\\u00e9\n" in node, b"mqadmin.generation=1\n" in node, stat.version) == (True, True, 1)
    assert b"mqadmin.generation=42\n" in zms.get("/zms/topic/ship_parcels")[0]


def test_a_second_import_of_the_same_tree_finds_all_the_same(api, zms):
    ended(api("POST", "imports", BODY))
    again = api("POST", "imports?dry_run=true", BODY).body["result"]["plan"]
    assert (again["create"], again["differs"], again["same"]) == (0, 0, 5)
    zms.set("/zms/topic/pay_orders", b"clusterName=elsewhere\ntype=topic\n")
    drifted = api("POST", "imports?dry_run=true", BODY).body["result"]["plan"]["items"]
    assert {one["name"]: one["code"] for one in drifted}["pay_orders"] == "drifted"


def test_without_zookeeper_it_says_so(api, settings):
    settings.ZOOKEEPER_HOSTS = "127.0.0.1:1"
    from registry import trees

    trees.TIMEOUT, before = 0.5, trees.TIMEOUT
    try:
        answer = api("POST", "imports", BODY)
    finally:
        trees.TIMEOUT = before
    assert (answer.status_code, answer.body["code"]) == (503, "zookeeper_away")


MANIFEST = """
clusters:
  - {name: kafka-m, kind: kafka, address: "10.0.0.1:9092", max_topics: 50}
topics:
  - {name: m_orders, application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 200, ordered: true}
  - {name: m_odd, application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 200, colour: red}
  - {name: "m bad", application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 200}
  - {name: m_text, application: payment, cluster: kafka-m, expected_rate: "10", message_bytes: 200}
  - {name: m_zero, application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 0}
  - {name: m_nobody, application: nobody, cluster: kafka-m, expected_rate: 10, message_bytes: 200}
  - {name: m_orders, application: payment, cluster: kafka-m, expected_rate: 11, message_bytes: 200}
consumer_groups:
  - {name: m_bills, application: payment, subscriptions: [{topic: m_orders, tags: paid || sent}], max_attempts: 3}
  - {name: m_wrong, application: payment, subscriptions: [{topic: m_odd}]}
"""
WRONG = {
    "m_odd": "unknown_field", "m bad": "invalid_name", "m_text": "invalid", "m_zero": "invalid", "m_nobody": "invalid",
    "m_orders": "duplicate_item", "m_wrong": "unknown_topic",
}  # fmt: skip


def send(api, manifest, **more):
    return api("POST", "imports", {"source": "manifest", "manifest": manifest, "reason": "as agreed", **more})


def test_a_manifest_is_applied_item_by_item_and_the_second_time_all_is_the_same(api, people):
    done = ended(send(api, MANIFEST))
    assert (done.done, failures()) == (3, WRONG)
    made = Topic.objects.get(name="m_orders")
    assert (made.state, made.cluster.name, made.expected_rate, made.ordered, made.owner) == ("active", "kafka-m", 10, True, people.bob)
    assert ConsumerGroup.objects.get(name="m_bills").max_attempts == 3
    assert b"kafka-m" in bytes(Publication.objects.get(path="/zms/consumergroup/m_bills").data)
    manifest = api("GET", "manifest").body
    plan = send(api, manifest).body["plan"]
    assert (plan["create"], plan["differs"], plan["refused"], plan["same"]) == (0, 0, 0, 4)
    text = api("GET", "manifest?as=yaml").content.decode()
    assert yaml.safe_load(text) == manifest
    assert send(api, text).body["plan"]["same"] == 4


def test_what_differs_is_changed_and_what_is_left_out_stays(api):
    ended(send(api, MANIFEST))
    ended(send(api, {"clusters": [{"name": "kafka-n", "kind": "kafka", "address": "h:1"}]}))
    changes = {
        "clusters": [{"name": "kafka-m", "address": "10.0.0.7:9092"}],
        "topics": [{"name": "m_orders", "cluster": "kafka-n", "expected_rate": 77}],
        "consumer_groups": [{"name": "m_bills", "subscriptions": [{"topic": "m_orders", "tags": "paid"}], "suspended": True}],
    }
    answer = send(api, changes)
    told = {one["name"]: one["changes"] for one in answer.body["plan"]["items"]}
    assert told["m_orders"] == {"cluster": {"before": "kafka-m", "after": "kafka-n"}, "expected_rate": {"before": 10, "after": 77}}
    assert ended(answer).state == "succeeded"
    made = Topic.objects.get(name="m_orders")
    assert (made.cluster.name, made.expected_rate, made.message_bytes, made.ordered) == ("kafka-n", 77, 200, True)
    bills = ConsumerGroup.objects.get(name="m_bills")
    assert (bills.suspended, bills.max_attempts, bills.subscriptions.get().tags) == (True, 3, "paid")
    kafka = Cluster.objects.get(name="kafka-m")
    assert (kafka.address, kafka.max_topics) == ("10.0.0.7:9092", 50)
    assert send(api, changes).body["plan"]["same"] == 3


@pytest.mark.parametrize(
    "manifest",
    ["{", "- a", "", "topics: 3", {"topic": []}, {}, "a: &x [1]\nb: *x", {"topics": [3]}],
)
def test_a_manifest_that_is_none_is_refused_as_a_whole(api, manifest):
    answer = send(api, manifest)
    if manifest == {"topics": [3]}:
        assert answer.body["plan"]["refused"] == 1
    else:
        assert (answer.status_code, answer.body["code"]) == (400, "invalid_manifest")


def test_a_name_that_is_there_with_another_owner_or_not_active_is_refused(api, people, applications):
    topic(people, applications[2], "taken")
    topic(people, applications[0], "waits", state="pending")
    rows = [
        {"name": name, "application": "payment", "cluster": "builtin", "expected_rate": 1, "message_bytes": 1}
        for name in ("taken", "waits")
    ]
    assert ended(send(api, {"topics": rows})).state == "failed"
    assert failures() == {"taken": "other_owner", "waits": "wrong_state"}
    assert Topic.objects.get(name="taken").application.name == "other"


def test_who_may_not_import_cannot_and_the_manifest_has_only_what_one_may_see(people, applications):
    other = Api(HttpClient(), token_for(people.reader))
    assert send(other, MANIFEST).status_code == 403
    group(people, applications[0], "g", [(topic(people, applications[0], "t").name, "*")])
    seen = other("GET", "manifest").body
    assert ([one["name"] for one in seen["topics"]], [one["name"] for one in seen["consumer_groups"]]) == (["t"], ["g"])
    assert Api(HttpClient(), token_for(people.nobody))("GET", "manifest").status_code == 403


def test_the_page_shows_the_plan_and_then_the_operation(client, people, applications):
    client.force_login(people.alice)
    page = reverse("admin:consumers_import")
    assert client.get(page).status_code == 200
    fields = {"source": "manifest", "manifest": MANIFEST, "applications": "m_=payment", "reason": "as agreed"}
    assert "not prefix=application" in client.post(page, {**fields, "applications": "payment"}).content.decode()
    assert "Paste the manifest" in client.post(page, {**fields, "manifest": " "}).content.decode()
    assert "neither YAML nor JSON" in client.post(page, {**fields, "manifest": "{"}).content.decode()
    shown = client.post(page, fields)
    text = shown.content.decode()
    assert "Import 3 items" in text
    assert "topics/m_odd" in text
    assert "Unknown fields: colour" in text
    assert Operation.objects.count() == 0
    started = client.post(page, {**fields, "confirm": "1", "shown": shown.context["shown"]})
    operation = Operation.objects.get()
    assert started.headers["Location"] == reverse("admin:operations_detail", args=[operation.uid])
    assert run(operation).done == 3
    client.force_login(people.reader)
    assert client.get(page).status_code == 403
