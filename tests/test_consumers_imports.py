"""Adopting what exists: a tree that ZMS has written, and a manifest; a plan before, a result for each item, nothing written that is so."""

import base64
import json
from datetime import timedelta

import pytest
import yaml
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client as HttpClient
from django.test.utils import CaptureQueriesContext
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


def test_a_plan_that_has_changed_since_it_was_shown_is_shown_again_even_with_the_same_counts(client, people, applications):
    client.force_login(people.alice)
    page, text = reverse("admin:consumers_import"), "clusters: [{{name: kafka-m, kind: kafka, address: '{address}:9092'}}]"
    fields = {"source": "manifest", "manifest": text.format(address="10.0.0.1"), "reason": "as agreed"}
    shown = client.post(page, fields).context["shown"]
    other = {**fields, "manifest": text.format(address="10.6.6.6"), "confirm": "1", "shown": shown}
    assert (client.post(page, other).status_code, Operation.objects.count()) == (200, 0)
    assert client.post(page, {**fields, "confirm": "1", "shown": shown}).status_code == 302


LIMITED = """
clusters:
  - {name: kafka-m, kind: kafka, address: "10.0.0.1:9092", max_topics: 1}
topics:
  - {name: l_first, application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 200}
  - {name: l_second, application: payment, cluster: kafka-m, expected_rate: 10, message_bytes: 200}
consumer_groups:
  - {name: l_bills, application: payment, subscriptions: [{topic: l_second}]}
"""


def test_what_a_cluster_does_not_take_is_refused_in_the_plan_and_when_it_is_done_until_warnings_are_accepted(api):
    answer = send(api, LIMITED)
    refused = {one["name"]: one["code"] for one in answer.body["plan"]["items"] if one["action"] == "refused"}
    assert refused == {"l_second": "confirmation_needed", "l_bills": "unknown_topic"}
    ended(answer)
    assert failures() == refused
    again = send(api, LIMITED, accept_warnings=True)
    told = {one["name"]: one for one in again.body["plan"]["items"]}
    assert (told["l_second"]["action"], "2 of at most 1" in told["l_second"]["warnings"][0]) == ("create", True)
    assert ended(again).state == "succeeded"
    kinds = dict(Release.objects.values_list("publication__path", "kind"))
    assert (kinds["/zms/topic/l_first"], kinds["/zms/topic/l_second"]) == ("normal", "emergency")


def test_a_topic_that_would_lose_something_by_its_move_or_take_too_much_is_not_changed_unless_warnings_are_accepted(api):
    rows = [
        {"name": name, "application": "payment", "cluster": "builtin", "expected_rate": 1, "message_bytes": 1, "ttl_seconds": 60}
        for name in ("d_moves", "d_grows", "d_both")
    ]
    ended(send(api, {"clusters": [{"name": "kafka-m", "kind": "kafka", "address": "h:1", "max_rate": 10}], "topics": rows}))
    ended(send(api, {"topics": [{"name": "d_grows", "cluster": "kafka-m"}]}, accept_warnings=True))
    changes = {
        "topics": [
            {"name": "d_moves", "cluster": "kafka-m"},
            {"name": "d_grows", "expected_rate": 11},
            {"name": "d_both", "cluster": "kafka-m", "expected_rate": 5},
        ]
    }
    answer = send(api, changes)
    assert {one["code"] for one in answer.body["plan"]["items"]} == {"confirmation_needed"}
    assert (ended(answer).state, set(failures().values())) == ("failed", {"confirmation_needed"})
    assert ended(send(api, changes, accept_warnings=True)).state == "succeeded"
    assert dict(Topic.objects.filter(name__startswith="d_").values_list("name", "expected_rate")) == {
        "d_moves": 1, "d_grows": 11, "d_both": 5,
    }  # fmt: skip
    assert set(Topic.objects.filter(name__startswith="d_").values_list("cluster__name", flat=True)) == {"kafka-m"}


def test_a_group_that_drops_a_topic_with_waiting_messages_is_not_changed_unless_warnings_are_accepted(api):
    row = {"application": "payment", "cluster": "builtin", "expected_rate": 1, "message_bytes": 1}
    groups = [{"name": "w_bills", "application": "payment", "subscriptions": [{"topic": "w_old"}, {"topic": "w_new"}]}]
    ended(send(api, {"topics": [{"name": "w_old", **row}, {"name": "w_new", **row}], "consumer_groups": groups}))
    assert api("POST", "topics/w_old/messages", {"body": "still to be paid"}).status_code == 201
    changes = {"consumer_groups": [{"name": "w_bills", "subscriptions": [{"topic": "w_new"}]}]}
    answer = send(api, changes)
    [told] = answer.body["plan"]["items"]
    assert (told["code"], "1 message that waits" in told["detail"]) == ("confirmation_needed", True)
    assert ended(answer).state == "failed"
    assert ended(send(api, changes, accept_warnings=True)).state == "succeeded"
    assert list(ConsumerGroup.objects.get(name="w_bills").subscriptions.values_list("topic__name", flat=True)) == ["w_new"]


def test_what_cannot_be_is_refused_in_the_plan_already(api, zms):
    zms.create("/zms/cluster/zms-b", b"bootAddr=10.0.0.9\\:9092\nbrokerType=kafka\n")
    zms.create("/zms/consumergroup/pay_far", b"clusterName=zms-b\ntype=consumergroup\nbindingTopic=pay_orders\n")
    zms.create("/zms/topic/half", b"clusterName=zms-a\\ud800\ntype=topic\n")
    ended(send(api, MANIFEST))
    told = api("POST", "imports?dry_run=true", BODY).body["result"]["plan"]["items"]
    refused = {one["name"]: one["code"] for one in told if one["action"] == "refused"}
    assert (refused["pay_far"], refused["half"]) == ("cluster_differs", "invalid")
    changes = {
        "clusters": [{"name": "kafka-m", "max_topics": -1}, {"name": "half\ud800", "\ud800": 1}, {"name": "null", "description": "\x00"}],
        "topics": [{"name": "m_orders", "expected_rate": -1}, {"name": "m_new", "application": "payment", "owner": ""}],
        "consumer_groups": [{"name": "m_bills", "subscriptions": []}, {"name": "m_bill2", "push_url": "nowhere"}],
    }
    assert send(api, changes).body["plan"]["refused"] == 7


def lines_of(*nodes):
    return "\n".join(json.dumps({"path": path, "data": data.decode(), "generation": 3}, ensure_ascii=False) for path, data in nodes)


def test_an_exported_tree_is_imported_into_another_deployment_with_the_keys_of_others(api, people, applications):
    text = "\n".join([
        lines_of(
            ("/zms/consumergroup/e_bills", b"clusterName=kafka-e\ntype=consumergroup\nbindingTopic=e_orders\nsuspend=true\n"),
            ("/zms/cluster/kafka-e", ZMS["/zms/cluster/zms-a"]),
            ("/zms/topic/e_orders", "clusterName=kafka-e\ntype=topic\nmqadmin.generation=7\nteam=blue\u2028\n".encode()),
            ("/zpt/payment/stress-1/e_bills", b"switch=on\n"),
            ("/elsewhere/x", b""),
        ),
        "no json", '{"path": "/zms/topic/e_two"}', '["/zms/topic/e_three"]', "",
        json.dumps({"path": "/zms/topic/e_base64", "base64": base64.b64encode(b"clusterName=kafka-e\ntype=topic\n").decode()}),
    ])  # fmt: skip
    body = {"source": "export", "export": text, "application": "payment", "reason": "a new data centre"}
    answer = api("POST", "imports", body)
    assert [one["code"] for one in answer.body["plan"]["items"] if one["kind"] == "lines"] == ["broken_line"] * 4
    done = ended(answer)
    assert (done.state, done.done, done.failed) == ("partial", 4, 4)
    row = Publication.objects.get(path="/zms/topic/e_orders")
    assert (row.state, row.generation, row.foreign_keys) == ("pending", 1, [["team", "blue\u2028".encode().decode("latin-1")]])
    assert Publication.objects.get(path="/zms/cluster/kafka-e").foreign_keys == [["region", "north"]]
    made = ConsumerGroup.objects.get(name="e_bills")
    assert (made.suspended, made.suspend_reason, made.reason) == (True, "a new data centre", "a new data centre")
    assert (Topic.objects.get(name="e_orders").expected_rate, Topic.objects.get(name="e_orders").owner) == (0, people.bob)
    again = api("POST", "imports", body).body["plan"]
    assert (again["create"], again["differs"], again["same"], again["refused"]) == (0, 0, 4, 4)
    assert api("POST", "imports", {**body, "export": " "}).body["code"] == "invalid_export"
    assert api("POST", "imports", {**body, "manifest": {}}).body["code"] == "invalid"


def many(count, prefix):
    row = {"application": "payment", "cluster": "kafka-m", "expected_rate": 1, "message_bytes": 1}
    topics = [{"name": f"{prefix}_t{n}", "ordered": n % 2 == 0, "ttl_seconds": n % 3, **row} for n in range(count)]
    groups = [
        {"name": f"{prefix}_g{n}", "application": "payment", "owner": "bob", "max_outstanding": n % 2,
         "subscriptions": [{"topic": f"{prefix}_t{n}", "tags": "paid"}]}
        for n in range(count)
    ]  # fmt: skip
    return {
        "clusters": [{"name": "kafka-m", "kind": "kafka", "address": "h:1", "max_rate": 100_000}],
        "topics": topics,
        "consumer_groups": groups,
    }


def test_the_number_of_statements_does_not_grow_with_the_items(api):
    ended(send(api, many(1, "warm")))
    ended(send(api, {"clusters": [{"name": "kafka-n", "kind": "kafka", "address": "h:1"}]}))
    numbers = []
    for count in (5, 60):
        made = many(count, f"n{count}")
        moved = {"topics": [{**row, "cluster": "kafka-n"} for row in made["topics"]]}
        for document in (made, made, moved):
            with CaptureQueriesContext(connection) as queries:
                assert ended(send(api, document)).state == "succeeded"
            numbers.append(len(queries))
    # How far an operation has come is written down once a second: one or two may be more, 55 items would be 55.
    assert all(abs(few - many_) < 10 for few, many_ in zip(numbers[:3], numbers[3:], strict=True)), numbers
    assert set(Topic.objects.filter(name__startswith="n60_").values_list("cluster__name", flat=True)) == {"kafka-n"}


def test_a_file_is_imported_by_a_command(people, applications, tmp_path, capsys):
    file = tmp_path / "tree.jsonl"
    file.write_text(lines_of(("/zms/cluster/kafka-f", ZMS["/zms/cluster/zms-a"]), ("/zms/topic/f_x", b"clusterName=kafka-f\n")))
    given = ["import_file", str(file), "--source", "export", "--as", "alice", "--reason", "as agreed"]
    with pytest.raises(CommandError, match="no active person"):
        call_command(*[*given[:5], "nobody-at-all", *given[6:]])
    call_command(*given, "--prefix", "f_=payment", "--dry-run")
    assert "create: topics/f_x\ncreate 2, differs 0, same 0, refused 0" in capsys.readouterr().out
    with pytest.raises(CommandError, match="1 items are not imported"):
        call_command(*given)
    call_command(*given, "--prefix", "f_=payment")
    assert "Everything is imported." in capsys.readouterr().out
    assert Topic.objects.get(name="f_x").application.name == "payment"


def test_the_proxies_of_a_cluster_are_imported_and_stay_where_a_node_of_zms_says_nothing_about_them(api):
    plain = b"bootAddr=10.0.0.1\\:9876\nbrokerType=rocketmq\nserverIps=\n"

    def imported(node):
        export = lines_of(("/zms/cluster/rmq-e", node))
        ended(api("POST", "imports", {"source": "export", "export": export, "application": "payment", "reason": "a new data centre"}))
        return Cluster.objects.get(name="rmq-e").proxy_address

    assert imported(plain + b"mqadmin.proxyAddr=10.0.0.1\\:8081\n") == "10.0.0.1:8081"
    assert imported(plain) == "10.0.0.1:8081"
    ended(send(api, {"clusters": [{"name": "rmq-e", "proxy_address": "10.0.0.2:8081"}]}))
    assert Cluster.objects.get(name="rmq-e").proxy_address == "10.0.0.2:8081"
