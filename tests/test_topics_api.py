"""Topics over REST: apply, decide, allocate, move, retire, and every refusal with its code."""

import pytest

from accounts import authentication
from clusters.models import Cluster
from registry.models import Publication
from topics.models import Topic

pytestmark = pytest.mark.django_db


def apply(api, topic_fields, name="order_topic", **changes):
    return api("POST", "topics", {"name": name, **topic_fields, **changes})


@pytest.fixture
def active(api, api2, topic_fields):
    apply(api, topic_fields)
    return api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}).body


@pytest.fixture
def watching(db):
    """A registrar that sees every instance, as far as the database knows."""
    from registry.models import RegistrarHeartbeat

    return RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")


def test_it_is_pending_until_another_person_approves(api, api2, topic_fields):
    made = apply(api, topic_fields)
    assert (made.status_code, made.body["state"], made.body["cluster"], made.body["status"]) == (201, "pending", None, None)
    own = api("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    assert (own.status_code, own.body["code"]) == (403, "four_eyes")
    approved = api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    assert (approved.status_code, approved.body["state"], approved.body["cluster"]) == (200, "active", "builtin")
    assert approved.body["status"]["state"] == "pending"
    assert approved.body["status"]["generation"] == 1


def test_the_node_holds_the_keys_of_zms_in_their_order(active):
    publication = Publication.objects.get(path="/zms/topic/order_topic")
    assert bytes(publication.data) == (
        b"clusterName=builtin\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\nmqadmin.drainClusters=\n"
    )
    assert publication.requires == ["/zms/cluster/builtin"]


def test_nobody_rejects_their_own_and_a_rejection_has_a_reason(api, api2, topic_fields):
    apply(api, topic_fields)
    assert api("POST", "topics/order_topic/rejection", {"reason": "no"}).body["code"] == "four_eyes"
    assert api2("POST", "topics/order_topic/rejection", {}).body["errors"][0]["pointer"] == "/reason"
    assert api2("POST", "topics/order_topic/rejection", {"reason": " "}).status_code == 400
    rejected = api2("POST", "topics/order_topic/rejection", {"reason": "too many partitions"})
    assert (rejected.body["state"], rejected.body["decision_reason"]) == ("rejected", "too many partitions")


def test_a_rejected_request_is_edited_and_sent_again(api, api2, topic_fields):
    apply(api, topic_fields)
    api2("POST", "topics/order_topic/rejection", {"reason": "too many partitions"})
    assert api2.now("PATCH", "topics/order_topic", {"partitions": 2}).body["code"] == "not_yours"
    assert api.now("PATCH", "topics/order_topic", {"partitions": 2}).body["partitions"] == 2
    assert api("POST", "topics/order_topic/submission").body["state"] == "pending"
    assert api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}).body["state"] == "active"


def test_an_edit_changes_only_what_is_sent(api, topic_fields):
    apply(api, topic_fields, ordered=True)
    edited = api.now("PATCH", "topics/order_topic", {"expected_rate": 7}).body
    assert (edited["expected_rate"], edited["ordered"], edited["partitions"]) == (7, True, 4)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "x" * 121, "$x", "a\n"])
def test_it_refuses_names_outside_the_allowed_signs(api, topic_fields, name):
    answer = apply(api, topic_fields, name=name)
    assert (answer.status_code, Topic.objects.count()) == (400, 0)
    assert answer.body["errors"][0]["pointer"] == "/name"
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["order.topic", "100%_sale", "a-b.c%20d", "x" * 120])
def test_names_with_dots_and_percent_signs_work_in_paths(api, topic_fields, name):
    from urllib.parse import quote

    assert apply(api, topic_fields, name=name).status_code == 201
    assert api("GET", f"topics/{quote(name)}").body["name"] == name


def test_it_refuses_reserved_names(api, topic_fields):
    assert apply(api, topic_fields, name="..").body["code"] == "reserved_name"
    assert apply(api, topic_fields, name="zookeeper").body["code"] == "reserved_name"


def test_it_refuses_duplicates(api, topic_fields):
    apply(api, topic_fields)
    again = apply(api, topic_fields)
    assert (again.status_code, again.body["code"], Topic.objects.count()) == (409, "duplicate_name", 1)


def test_it_refuses_an_unknown_cluster(api, api2, topic_fields):
    apply(api, topic_fields)
    answer = api2("POST", "topics/order_topic/approval", {"cluster": "nowhere"})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/cluster")
    assert Topic.objects.get().state == "pending"


def test_it_refuses_an_unknown_application_and_unknown_fields(api, topic_fields):
    assert apply(api, topic_fields, application="nobody").body["errors"][0]["pointer"] == "/application"
    answer = apply(api, topic_fields, colour="red")
    assert (answer.body["code"], answer.body["errors"][0]["pointer"]) == ("unknown_field", "/colour")


def test_it_refuses_malformed_json(api):
    answer = api.client.post("/api/v1/topics", data="{", content_type="application/json", headers=api.headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


def test_the_builtin_store_takes_an_ordered_topic(api, api2, topic_fields):
    apply(api, topic_fields, ordered=True, order_scope="topic")
    answer = api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    assert (answer.status_code, answer.body["ordered"], answer.body["order_scope"]) == (200, True, "topic")


def test_a_second_decision_is_refused(api2, active):
    answer = api2("POST", "topics/order_topic/rejection", {"reason": "late"})
    assert (answer.status_code, answer.body["code"], answer.body["state"]) == (409, "wrong_state", "active")


def test_two_decisions_at_once_have_one_winner(api, admin_person, second_person, topic_fields):
    from clusters.models import Cluster
    from core.errors import Problem
    from topics import services

    apply(api, topic_fields)
    mine, yours = Topic.objects.get(), Topic.objects.get()
    services.approve(actor=second_person, topic=mine, cluster=Cluster.objects.get(name="builtin"))
    with pytest.raises(Problem) as refused:
        services.reject(actor=second_person, topic=yours, reason="no")
    assert refused.value.code == "state_changed"


def test_a_move_publishes_the_new_cluster_and_needs_a_reason(api, active):
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    assert api("POST", "topics/order_topic/moves", {"cluster": "kafka-b"}).status_code == 400
    moved = api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "more room"}).body
    assert (moved["cluster"], moved["status"]["generation"]) == ("kafka-b", 2)
    assert b"clusterName=kafka-b\n" in bytes(Publication.objects.get(path="/zms/topic/order_topic").data)
    assert api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "x"}).body["code"] == "same_cluster"


def test_a_move_says_what_the_cluster_is_too_small_for_and_does_not_know(api, api2, topic_fields, client, admin_person):
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092", "max_topics": 1, "max_rate": 150})
    apply(api, topic_fields, ttl_seconds=60)
    api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    apply(api, topic_fields, name="other_topic")
    api2("POST", "topics/other_topic/approval", {"cluster": "kafka-b"})
    refused = api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "room"})
    assert (refused.status_code, refused.body["code"]) == (409, "confirmation_needed")
    topics, rate, lost = refused.body["warnings"]
    assert "2 of at most 1" in topics
    assert "200 of at most 150" in rate
    assert "time to live" in lost
    many = {"action": "move", "items": [{"name": "order_topic"}], "values": {"cluster": "kafka-b", "reason": "room"}}
    assert api("POST", "bulk/topics", {**many, "mode": "best_effort"}).body["results"][0]["problem"]["code"] == "confirmation_needed"
    client.force_login(admin_person)
    page = "/admin/topics/order_topic/move/"
    cluster = Cluster.objects.get(name="kafka-b").pk
    told = client.post(page, {"cluster": cluster, "reason": "room"})
    assert "2 of at most 1" in told.content.decode()
    assert Topic.objects.get(name="order_topic").cluster.name == "builtin"
    client.post(page, {"cluster": cluster, "reason": "room", "accept_warnings": "on"})
    assert Topic.objects.get(name="order_topic").cluster.name == "kafka-b"
    back = api("POST", "topics/order_topic/moves", {"cluster": "builtin", "reason": "back"})
    assert back.status_code == 200, back.body  # nothing is lost there


def test_a_changed_address_sets_the_dependent_nodes_again(api, active):
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "more room"})
    before = Publication.objects.get(path="/zms/topic/order_topic").generation
    api.now("PATCH", "clusters/kafka-b", {"description": "only words"})
    assert Publication.objects.get(path="/zms/topic/order_topic").generation == before
    api.now("PATCH", "clusters/kafka-b", {"address": "10.0.0.8:9092,10.0.0.9:9092"})
    assert Publication.objects.get(path="/zms/topic/order_topic").generation == before + 1


def test_retiring_is_refused_while_nobody_knows_who_is_online(api, active):
    answer = api("POST", "topics/order_topic/retirement", {"reason": "old"})
    assert (answer.status_code, answer.body["code"]) == (503, "instances_unknown")


def test_retiring_is_refused_while_instances_are_online_and_lists_them(api, active, watching):
    from registry.models import Instance

    Instance.objects.create(
        path="/zms/topic/order_topic",
        node="10.0.0.1||x",
        znode="/zms/topic/order_topic/10.0.0.1||x",
        ip="10.0.0.1",
        role="producer",
        app="shop",
        czxid=1,
        mzxid=1,
    )
    answer = api("POST", "topics/order_topic/retirement", {"reason": "old"})
    assert (answer.status_code, answer.body["code"]) == (409, "in_use")
    assert answer.body["instances"][0]["application"] == "shop"


def test_retiring_takes_the_node_away(api, active, watching):
    assert api("POST", "topics/order_topic/retirement", {"reason": "old"}).body["state"] == "retired"
    assert Publication.objects.get(path="/zms/topic/order_topic").deleted


def test_reading_and_writing_need_permissions(api_without_rights, api_anonymous, topic_fields):
    for method, path, body in [
        ("GET", "topics", None),
        ("POST", "topics", {"name": "x", **topic_fields}),
        ("GET", "clusters", None),
        ("GET", "me", None),
    ]:
        refused = api_anonymous(method, path, body)
        assert (refused.status_code, refused.body["code"]) == (401, "not_authenticated")
        if path != "me":
            assert api_without_rights(method, path, body).body["code"] == "forbidden"
    assert api_without_rights("GET", "me").body["username"] == "carol"


def test_wrong_and_expired_tokens_are_refused(api, admin_person):
    from datetime import timedelta

    from django.utils import timezone

    from accounts.models import ApiToken

    api.headers = {"Authorization": "Token mq_wrong"}
    assert (api("GET", "topics").status_code, api("GET", "topics").body["code"]) == (401, "wrong_credentials")
    _row, secret = ApiToken.issue(user=admin_person, name="old", expires_at=timezone.now() - timedelta(seconds=1))
    api.headers = {"Authorization": f"Token {secret}"}
    assert (api("GET", "topics").status_code, api("GET", "topics").body["code"]) == (401, "wrong_credentials")


def test_every_write_is_in_the_audit_with_its_request_id(api, active):
    from core.audit.models import AuditEntry

    entries = list(AuditEntry.objects.filter(kind="topic", name="order_topic").values_list("action", "actor_name"))
    assert entries == [("approve", "bob"), ("apply", "alice")]
    assert all(AuditEntry.objects.filter(kind="topic").values_list("request_id", flat=True))


def test_the_audit_cannot_be_changed(api, active):
    from django.db import DatabaseError, transaction

    from core.audit.models import AuditEntry

    for attempt in (AuditEntry.objects.all().delete, lambda: AuditEntry.objects.update(actor_name="mallory")):
        with pytest.raises(DatabaseError), transaction.atomic():
            attempt()


def test_the_list_costs_the_same_statements_for_any_number_of_rows(api, topic_fields, django_assert_max_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def cost():
        authentication.forget_all()  # it forgets by itself, by the clock
        with CaptureQueriesContext(connection) as captured:
            page = api("GET", "topics?limit=500&count=true")
        return len(captured), page.body["count"]

    apply(api, topic_fields, name="t0")
    api("GET", "topics")
    few = cost()
    for i in range(1, 30):
        apply(api, topic_fields, name=f"t{i}")
    many = cost()
    assert (few[0], few[1], many[1]) == (many[0], 1, 30)


def test_pages_follow_the_cursor_to_the_end(api, topic_fields):
    names = [f"t{i:02}" for i in range(7)]
    for name in names:
        apply(api, topic_fields, name=name)
    seen, path = [], "topics?limit=3"
    while path:
        page = api("GET", path).body
        seen += [row["name"] for row in page["results"]]
        path = page["next"] and page["next"].split("/api/v1/")[1]
    assert seen == names


def test_what_does_not_exist_is_a_problem_document(api):
    for method, path, status in [
        ("GET", "topics/none", 404),
        ("GET", "nothing-here", 404),
        ("DELETE", "topics", 405),
        ("PUT", "instances/1", 405),
    ]:
        answer = api(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), path


def test_a_decision_on_an_older_version_is_refused(api, api2, topic_fields):
    seen = apply(api, topic_fields).headers["ETag"]
    api.now("PATCH", "topics/order_topic", {"partitions": 4096})
    refused = api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}, **{"If-Match": seen})
    assert (refused.status_code, refused.body["code"], Topic.objects.get().state) == (412, "stale", "pending")
    now = api2("GET", "topics/order_topic").headers["ETag"]
    assert refused.headers["ETag"] == refused.body["current_etag"] == now
    assert api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}, **{"If-Match": now}).body["state"] == "active"


def test_lists_filter_by_the_names_of_the_document_and_refuse_others(api, active):
    assert len(api("GET", "topics?application=order-service&cluster=builtin&state=active").body["results"]) == 1
    assert api("GET", "topics?application=other").body["results"] == []
    refused = api("GET", "topics?colour=red")
    assert (refused.status_code, refused.body["code"]) == (400, "unknown_parameter")
