"""Consumer groups and shadow groups over REST: apply, decide, suspend, retire, switch, and every refusal with its code."""

import json

import pytest

from clusters.drivers import builtin
from consumers.models import ConsumerGroup
from registry.models import Publication

pytestmark = pytest.mark.django_db


@pytest.fixture
def topic(api, api2, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    return api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}).body


def apply(api, name="order_bill_group", subscriptions=None, **changes):
    rows = [{"topic": "order_topic", "tags": "created || paid"}] if subscriptions is None else subscriptions
    return api(
        "POST", "consumer-groups", {"name": name, "application": "order-service", "subscriptions": rows, "reason": "bills", **changes}
    )


@pytest.fixture
def active(api, api2, topic):
    apply(api, max_attempts=3)
    return api2("POST", "consumer-groups/order_bill_group/approval", {}).body


@pytest.fixture
def watching(db):
    from registry.models import RegistrarHeartbeat

    return RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")


def node(path):
    return bytes(Publication.objects.get(path=path).data)


def test_a_group_is_approved_by_another_person_and_published(api, api2, topic):
    assert apply(api, max_attempts=3).body["state"] == "pending"
    assert api("POST", "consumer-groups/order_bill_group/approval", {}).body["code"] == "four_eyes"
    assert api2("POST", "consumer-groups/order_bill_group/approval", {}).body["state"] == "active"
    assert node("/zms/consumergroup/order_bill_group") == (
        b"clusterName=builtin\ntype=consumergroup\nbindingTopic=order_topic\nbroadcast=false\nconsumeFrom=earliest\nsuspend=false\n"
        b"gatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\nmqadmin.drainClusters=\n"
        b'mqadmin.subscriptions={"order_topic"\\:"created || paid"}\nmqadmin.maxAttempts=3\n'
    )


def test_a_rejected_group_is_edited_and_sent_again(api, api2, topic):
    apply(api)
    assert api2("POST", "consumer-groups/order_bill_group/rejection", {"reason": "which tags?"}).body["state"] == "rejected"
    edited = api.now("PATCH", "consumer-groups/order_bill_group", {"subscriptions": [{"topic": "order_topic", "tags": "paid"}]}).body
    assert edited["subscriptions"] == [{"topic": "order_topic", "tags": "paid"}]
    assert api("POST", "consumer-groups/order_bill_group/submission").body["state"] == "pending"


def test_it_refuses_a_group_on_a_topic_that_is_not_approved(api, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    answer = apply(api)
    assert (answer.status_code, answer.body["code"], ConsumerGroup.objects.count()) == (409, "topic_not_active", 0)
    assert apply(api, subscriptions=[{"topic": "none"}]).body["code"] == "unknown_topic"


@pytest.mark.parametrize("tags", ["a ||", "|| a", "a | b", "(a", "a b", "x" * 300, r"~(a)\1", "~a{0,99}{0,99}", "~(?=a)", "~"])
def test_it_refuses_invalid_tag_expressions(api, topic, tags):
    answer = apply(api, subscriptions=[{"topic": "order_topic", "tags": tags}])
    assert (answer.status_code, answer.body["code"], ConsumerGroup.objects.count()) == (400, "invalid_tag_expression", 0)
    assert answer.body["hint"]


def test_it_refuses_no_topics_the_same_topic_twice_and_duplicate_names(api, topic):
    assert apply(api, subscriptions=[]).body["errors"][0]["pointer"] == "/subscriptions"
    assert apply(api, subscriptions=[{"topic": "order_topic"}, {"topic": "order_topic"}]).body["code"] == "duplicate_subscription"
    apply(api)
    assert apply(api).body["code"] == "duplicate_name"
    assert apply(api, name="g2", backoff_ms=5000, backoff_max_ms=10).body["errors"][0]["pointer"] == "/backoff_max_ms"


def test_suspend_and_resume_are_published_and_suspending_needs_a_reason(api, active):
    assert api("POST", "consumer-groups/order_bill_group/suspension", {}).status_code == 400
    assert api("POST", "consumer-groups/order_bill_group/suspension", {"reason": "wrong bills"}).body["suspended"] is True
    assert b"suspend=true\n" in node("/zms/consumergroup/order_bill_group")
    again = api("POST", "consumer-groups/order_bill_group/suspension", {"reason": "again"}).body
    assert again["status"]["generation"] == 2
    assert api("POST", "consumer-groups/order_bill_group/resumption", {}).body["suspended"] is False
    assert b"suspend=false\n" in node("/zms/consumergroup/order_bill_group")


def test_a_group_follows_its_topic_to_another_cluster(api, active):
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "room"})
    assert b"clusterName=kafka-b\n" in node("/zms/consumergroup/order_bill_group")


def test_a_topic_stays_in_the_built_in_store_while_a_group_takes_it_by_a_regular_expression(api, api2, topic):
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    apply(api, subscriptions=[{"topic": "order_topic", "tags": "~^paid"}])
    move = {"cluster": "kafka-b", "reason": "room", "accept_warnings": True}
    for _ in range(2):  # while the group waits for its approval, and after it
        refused = api("POST", "topics/order_topic/moves", move)
        assert (refused.status_code, refused.body["code"]) == (409, "built_in_store_needed"), refused.body
        assert refused.body["groups"] == ["order_bill_group"]
        api2("POST", "consumer-groups/order_bill_group/approval", {})
    assert api("GET", "topics/order_topic").body["cluster"] == "builtin"
    asked = {"kind": "group.change", "target": "order_bill_group", "reason": "a list"}
    rows = [{"topic": "order_topic", "tags": "paid"}]
    number = api("POST", "requests", {**asked, "payload": {"subscriptions": rows}}).body["id"]
    assert api2("POST", f"requests/{number}/approval", {"accept_warnings": True}).status_code == 200
    assert api("POST", "topics/order_topic/moves", move).body["cluster"] == "kafka-b"


def test_a_change_tells_the_instances_of_a_group_once(api, api2, active, monkeypatch):
    called, call = [], builtin._call
    monkeypatch.setattr(builtin, "_call", lambda sql, *params: called.append(sql) or call(sql, *params))
    asked = {"kind": "group.change", "target": "order_bill_group", "payload": {"max_outstanding": 7}, "reason": "fewer"}
    number = api("POST", "requests", asked).body["id"]
    assert api2("POST", f"requests/{number}/approval", {}).status_code == 200
    assert sum("mq_instances_follow" in sql for sql in called) == 1
    follows = next(i for i, sql in enumerate(called) if "mq_instances_follow" in sql)
    assert any("mq_group_ceiling" in sql for sql in called[:follows])  # they are told of it


def test_a_topic_with_bound_groups_is_not_retired(api, active, watching):
    answer = api("POST", "topics/order_topic/retirement", {"reason": "old"})
    assert (answer.body["code"], answer.body["groups"]) == ("in_use", ["order_bill_group"])
    api("POST", "consumer-groups/order_bill_group/retirement", {"reason": "old"})
    assert api("POST", "topics/order_topic/retirement", {"reason": "old"}).body["state"] == "retired"


def test_a_shadow_group_is_switched_on_with_a_lease_and_off(api, active):
    shadow = api(
        "POST", "shadow-tasks", {"application": "order-service", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic"}
    ).body
    path = "/zpt/order-service/stress-1/order_bill_group"
    assert json.loads(node(path)) == {
        "enable": "0", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic", "leaseUntil": None, "generation": 1,
    }  # fmt: skip
    assert api("POST", f"shadow-tasks/{shadow['id']}/start", {"minutes": 0, "reason": "x"}).status_code == 400
    started = api("POST", f"shadow-tasks/{shadow['id']}/start", {"minutes": 5, "reason": "stress"}).body
    written = json.loads(node(path))
    assert (started["enabled"], written["enable"], written["generation"]) == (True, "1", 2)
    assert written["leaseUntil"].endswith("Z")
    stopped = api("POST", f"shadow-tasks/{shadow['id']}/stop", {"reason": "done"}).body
    assert (stopped["enabled"], json.loads(node(path))["enable"]) == (False, "0")


def test_a_shadow_group_ends_by_itself(api, active):
    from datetime import timedelta

    from django.utils import timezone

    from consumers import shadow
    from consumers.models import ShadowTask

    made = api(
        "POST", "shadow-tasks", {"application": "order-service", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic"}
    ).body
    api("POST", f"shadow-tasks/{made['id']}/start", {"minutes": 5, "reason": "stress"})
    assert shadow.end_expired() == 0
    ShadowTask.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert shadow.end_expired() == 1
    assert json.loads(node("/zpt/order-service/stress-1/order_bill_group"))["enable"] == "0"


def test_a_shadow_group_belongs_to_the_groups_application_and_topics(api, active, admin_person):
    from accounts.models import Application

    Application.objects.create(name="other", owner=admin_person)
    body = {"application": "other", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic"}
    assert api("POST", "shadow-tasks", body).body["code"] == "wrong_application"


def test_a_retired_group_takes_its_shadow_groups_nodes_along(api, active, watching):
    from registry.services import blockers, publication_for

    shadow = {"application": "order-service", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic"}
    assert api("POST", "shadow-tasks", shadow).status_code == 201
    assert api("POST", "consumer-groups/order_bill_group/retirement", {"reason": "old"}).status_code == 200
    assert publication_for("/zpt/order-service/stress-1/order_bill_group").deleted
    group = publication_for("/zms/consumergroup/order_bill_group")
    assert blockers(group) == ["/zpt/order-service/stress-1/order_bill_group"]


def test_a_group_with_a_running_shadow_is_not_retired(api, active, watching):
    made = api(
        "POST", "shadow-tasks", {"application": "order-service", "task": "stress-1", "group": "order_bill_group", "topic": "order_topic"}
    ).body
    api("POST", f"shadow-tasks/{made['id']}/start", {"minutes": 5, "reason": "stress"})
    answer = api("POST", "consumer-groups/order_bill_group/retirement", {"reason": "old"})
    assert (answer.body["code"], answer.body["shadow_tasks"]) == ("in_use", ["order-service/stress-1/order_bill_group"])


def test_the_list_costs_the_same_statements_for_any_number_of_rows(api, topic):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def cost():
        with CaptureQueriesContext(connection) as captured:
            page = api("GET", "consumer-groups?limit=500")
        return len(captured), len(page.body["results"])

    apply(api, name="g0")
    cost()
    few = cost()
    for i in range(1, 25):
        apply(api, name=f"g{i}")
    many = cost()
    assert (few[0], few[1], many[1]) == (many[0], 1, 25)


def test_reading_and_switching_need_permissions(api_without_rights):
    for method, path in [
        ("GET", "consumer-groups"),
        ("GET", "shadow-tasks"),
        ("POST", "shadow-tasks/1/start"),
        ("POST", "consumer-groups/x/suspension"),
    ]:
        assert api_without_rights(method, path, {} if method == "POST" else None).body["code"] == "forbidden"
