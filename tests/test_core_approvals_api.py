"""Requests over REST: changes, retirements, threads, decisions, and every refusal with its code."""

import pytest
from django.test import Client

from core.approvals import workflow
from core.approvals.models import Comment, Request
from registry.models import Publication, RegistrarHeartbeat
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def topic(api, api2, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    return Topic.objects.get(name="order_topic")


@pytest.fixture
def watching(db):
    return RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")


def ask(api, payload=None, kind="topic.change", target="order_topic", reason="more orders", **more):
    return api("POST", "requests", {"kind": kind, "target": target, "payload": payload or {}, "reason": reason, **more})


def test_a_new_topic_is_a_request_with_one_thread(api, api2, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    request = Request.objects.get()
    assert (request.kind, request.target, request.state, request.payload["partitions"]) == ("topic.create", "order_topic", "pending", 4)
    api2("POST", f"requests/{request.pk}/comments", {"text": "which orders?"})
    api2("POST", "topics/order_topic/rejection", {"reason": "too vague"})
    assert api("GET", f"requests/{request.pk}").body["state"] == "declined"
    edited = api("PATCH", f"requests/{request.pk}", {"payload": {"partitions": 2}}, **{"If-Match": "*"})
    assert (edited.status_code, edited.body["state"], edited.body["payload"]["partitions"]) == (200, "pending", 2)
    done = api2("POST", f"requests/{request.pk}/approval", {"values": {"cluster": "builtin"}})
    assert (done.status_code, done.body["state"], done.body["outcome"]) == (200, "approved", {"cluster": "builtin"})
    assert [line["event"] for line in done.body["comments"]] == ["submitted", "commented", "declined", "edited", "submitted", "approved"]
    shown = api("GET", "topics/order_topic").body
    assert (shown["state"], shown["partitions"], shown["decided_by"], shown["cluster"]) == ("active", 2, "bob", "builtin")


def test_a_change_is_shown_as_a_diff_and_applied_when_it_is_approved(api, api2, topic):
    made = ask(api, {"expected_rate": 900, "partitions": 4})
    assert (made.status_code, made.body["state"], made.body["payload"]) == (201, "pending", {"expected_rate": 900})
    assert made.body["diff"] == [{"field": "expected_rate", "old": 100, "new": 900}]
    assert made.headers["Location"].endswith(f"/requests/{made.body['id']}")
    assert Topic.objects.get().expected_rate == 100
    own = api("POST", f"requests/{made.body['id']}/approval", {})
    assert (own.status_code, own.body["code"]) == (403, "four_eyes")
    done = api2("POST", f"requests/{made.body['id']}/approval", {"reason": "fine"})
    assert (done.body["state"], done.body["decided_by"], Topic.objects.get().expected_rate) == ("approved", "bob", 900)


def test_what_changed_since_is_refused_until_the_requester_rebases(api, api2, topic):
    number = ask(api, {"expected_rate": 900}).body["id"]
    other = ask(api2, {"partitions": 9})
    assert (other.status_code, other.body["code"], other.body["request"]) == (409, "duplicate_request", number)
    api2("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    assert api2("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "room"}).status_code == 200
    assert api("GET", f"requests/{number}").body["stale"] is True
    refused = api2("POST", f"requests/{number}/approval", {})
    assert (refused.status_code, refused.body["code"], Topic.objects.get().expected_rate) == (409, "target_changed", 100)
    rebased = api("PATCH", f"requests/{number}", {}, **{"If-Match": "*"})
    assert (rebased.status_code, rebased.body["stale"]) == (200, False)
    assert api2("POST", f"requests/{number}/approval", {}).body["state"] == "approved"


def test_the_fields_of_an_edit_are_merged_and_null_takes_one_back(api, topic):
    number = ask(api, {"expected_rate": 900}).body["id"]
    edited = api("PATCH", f"requests/{number}", {"payload": {"partitions": 8, "expected_rate": None}}, **{"If-Match": '"1"'})
    assert (edited.body["payload"], edited.headers["ETag"]) == ({"partitions": 8}, '"2"')
    late = api("PATCH", f"requests/{number}", {"payload": {"partitions": 9}}, **{"If-Match": '"1"'})
    assert (late.status_code, late.body["code"]) == (412, "stale")
    nothing = api("PATCH", f"requests/{number}", {"payload": {"partitions": None}}, **{"If-Match": "*"})
    assert (nothing.status_code, nothing.body["code"]) == (409, "nothing_changes")


def test_nobody_decides_on_what_they_have_not_seen(api, api2, topic):
    number = ask(api, {"expected_rate": 900}).body["id"]
    api("PATCH", f"requests/{number}", {"payload": {"expected_rate": 90_000}}, **{"If-Match": "*"})
    late = api2("POST", f"requests/{number}/approval", {}, **{"If-Match": '"1"'})
    assert (late.status_code, late.body["code"], Topic.objects.get().expected_rate) == (412, "stale", 100)


def test_only_the_requester_edits_and_withdraws(api, api2, topic):
    number = ask(api, {"expected_rate": 900}).body["id"]
    assert api2("PATCH", f"requests/{number}", {"reason": "x"}, **{"If-Match": "*"}).body["code"] == "not_yours"
    assert api2("POST", f"requests/{number}/withdrawal", {}).body["code"] == "not_yours"
    gone = api("POST", f"requests/{number}/withdrawal", {"reason": "a mistake"})
    assert (gone.status_code, gone.body["state"]) == (200, "withdrawn")
    assert api2("POST", f"requests/{number}/approval", {}).body["code"] == "wrong_state"


def test_a_withdrawn_application_gives_its_name_back(api, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    assert api("POST", f"requests/{Request.objects.get().pk}/withdrawal", {}).status_code == 200
    assert api("GET", "topics/order_topic").status_code == 404
    assert api("POST", "topics", {"name": "order_topic", **topic_fields}).status_code == 201


def test_a_decline_has_a_reason_and_an_edit_sends_it_again(api, api2, topic):
    number = ask(api, {"expected_rate": 900}).body["id"]
    assert api2("POST", f"requests/{number}/rejection", {"reason": " "}).status_code == 400
    assert api2("POST", f"requests/{number}/rejection", {"reason": "too much"}).body["decision_reason"] == "too much"
    assert api("PATCH", f"requests/{number}", {"payload": {"expected_rate": 300}}, **{"If-Match": "*"}).body["state"] == "pending"
    assert api2("POST", f"requests/{number}/rejection", {"reason": "still"}).body["state"] == "declined"
    assert api("POST", f"requests/{number}/submission").body["state"] == "pending"


def test_a_retirement_is_checked_when_it_is_approved(api, api2, topic, watching):
    api(
        "POST",
        "consumer-groups",
        {"name": "bills", "application": "order-service", "subscriptions": [{"topic": "order_topic"}], "reason": "b"},
    )
    api2("POST", "consumer-groups/bills/approval", {})
    number = ask(api, kind="topic.retire").body["id"]
    refused = api2("POST", f"requests/{number}/approval", {})
    assert (refused.status_code, refused.body["code"], refused.body["groups"]) == (409, "in_use", ["bills"])
    assert api("GET", f"requests/{number}").body["state"] == "pending"
    group = ask(api, kind="group.retire", target="bills").body["id"]
    assert api2("POST", f"requests/{group}/approval", {}).body["state"] == "approved"
    assert api2("POST", f"requests/{number}/approval", {}).body["state"] == "approved"
    assert Publication.objects.get(path="/zms/topic/order_topic").deleted


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"kind": "topic.paint"}, "unknown_kind", "/kind"),
        ({"kind": "topic.create"}, "invalid", "/kind"),
        ({"target": "nowhere"}, "unknown_topic", None),
        ({"payload": {"colour": "red"}}, "unknown_field", "/payload/colour"),
        ({"payload": {"expected_rate": "12"}}, "invalid", "/payload/expected_rate"),
        ({"payload": {"expected_rate": True}}, "invalid", "/payload/expected_rate"),
        ({"payload": {"expected_rate": 10**12}}, "invalid", "/payload/expected_rate"),
        ({"payload": {"owner": "nobody\x00"}}, "invalid", "/payload/owner"),
        ({"payload": {"application": "none"}}, "invalid", "/payload/application"),
        ({"payload": {"expected_rate": 100}}, "nothing_changes", None),
        ({"reason": ""}, "invalid", "/reason"),
        ({"payload": []}, "invalid", "/payload"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(api, topic, body, code, pointer):
    answer = api(
        "POST", "requests", {"kind": "topic.change", "target": "order_topic", "payload": {"expected_rate": 5}, "reason": "r", **body}
    )
    assert (400 <= answer.status_code < 500, answer.body["code"]) == (True, code)
    assert pointer is None or answer.body["errors"][0]["pointer"] == pointer
    assert Request.objects.filter(kind="topic.change").count() == 0


def test_lists_filter_and_refuse_what_they_do_not_know(api, api2, topic):
    ask(api, {"expected_rate": 900})
    assert [row["kind"] for row in api("GET", "requests").body["results"]] == ["topic.change", "topic.create"]
    assert [row["kind"] for row in api("GET", "requests?state=pending").body["results"]] == ["topic.change"]
    assert api("GET", "requests?requested_by=bob").body["results"] == []
    assert len(api("GET", "requests?target=order_topic&application=order-service&kind=topic.create").body["results"]) == 1
    assert api("GET", "requests?colour=red").status_code == 400


def test_a_dry_run_names_the_policy_and_leaves_nothing(api, api2, topic):
    api2("POST", "policies", {"name": "small", "kinds": ["topic.change"], "max_rate": 500})
    before = Comment.objects.count()
    answer = api(
        "POST", "requests?dry_run=true", {"kind": "topic.change", "target": "order_topic", "payload": {"expected_rate": 200}, "reason": "r"}
    )
    assert (answer.status_code, answer.body["result"]["state"], answer.body["result"]["policy"]) == (200, "approved", "small")
    assert (Comment.objects.count(), Topic.objects.get().expected_rate) == (before, 100)


def test_the_list_costs_the_same_statements_for_any_number_of_rows(api, topic_fields):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def cost():
        with CaptureQueriesContext(connection) as captured:
            assert api("GET", "requests?limit=100").status_code == 200
        return len(captured)

    api("POST", "topics", {"name": "t0", **topic_fields})
    cost()
    few = cost()
    for i in range(1, 9):
        api("POST", "topics", {"name": f"t{i}", **topic_fields})
    cost()  # who asks is looked up again after some seconds
    assert cost() == few


def test_reading_needs_a_permission(api_without_rights, api_anonymous, api, topic):
    assert api_anonymous("GET", "requests").status_code == 401
    for path in ("requests", "policies", "notification-targets", "notifications"):
        assert api_without_rights("GET", path).body["code"] == "forbidden"


def test_what_was_declined_and_is_sent_again_as_it_was_can_be_approved_by_the_topics_own_address(api, api2, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    api2("POST", "topics/order_topic/rejection", {"reason": "too vague"})
    again = api("PATCH", f"requests/{Request.objects.get().pk}", {}, **{"If-Match": "*"})
    assert (again.status_code, again.body["state"]) == (200, "pending")
    assert (Request.objects.get().version, Topic.objects.get().version) == (3, 3)  # the two are one for whoever decides
    done = api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    assert (done.status_code, done.body.get("state")) == (200, "active")


def test_a_withdrawn_request_among_many_is_refused_and_the_others_are_approved(api, api2, topic_fields):
    for name in ("t1", "t2"):
        api("POST", "topics", {"name": name, **topic_fields})
    gone, other = Request.objects.order_by("pk").values_list("pk", flat=True)
    api("POST", f"requests/{gone}/withdrawal", {})
    answer = api2("POST", "bulk/requests", {"action": "approve", "items": [{"name": str(gone)}, {"name": str(other)}]})
    assert answer.status_code == 207, answer.body
    assert [one["problem"] and one["problem"]["code"] for one in answer.body["results"]] == ["wrong_state", None]
    assert Topic.objects.get(name="t2").state == "active"


def test_a_request_of_a_kind_that_only_another_version_knows_hides_no_other(api, api2, topic, admin_person):
    ask(api, {"expected_rate": 900})
    strange = Request.objects.get(kind="topic.change")
    Request.objects.filter(pk=strange.pk).update(kind="topic.of_tomorrow", requested_at="2020-01-01T00:00:00Z")
    listed = api2("GET", "requests")
    assert (listed.status_code, len(listed.body["results"])) == (200, 2)
    shown = api2("GET", f"requests/{strange.pk}").body
    assert (shown["diff"], shown["stale"]) == ([{"field": "expected_rate", "old": 100, "new": 900}], False)
    refused = api2("POST", f"requests/{strange.pk}/approval", {})
    assert (refused.status_code, refused.body["code"]) == (400, "unknown_kind")
    many = api2("POST", "bulk/requests", {"action": "decline", "items": [{"name": str(strange.pk)}], "values": {"reason": "no"}})
    assert many.body["results"][0]["problem"]["code"] == "unknown_kind"
    assert workflow.remind() == 1
    client = Client()
    client.force_login(admin_person)
    assert [client.get(f"/admin/requests/{path}").status_code for path in ("", f"{strange.pk}/")] == [200, 200]
