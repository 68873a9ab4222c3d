"""PUT by natural key, DELETE, races for one version, what a change message does, which fields are shown, and what is refused."""

import threading

import pytest
from api_world import operations, the_schema
from conftest import Api, token_for
from django.db import connection
from django.test import Client

from accounts import applications
from accounts.models import User
from clusters import services as clusters
from clusters.models import Cluster
from consumers import services as consumers
from consumers.models import ConsumerGroup
from core.audit.models import AuditEntry
from topics import services as topics
from topics.models import Topic


def put(api, path, body, tag=None, **headers):
    return api("PUT", path, body, **({"If-Match": tag} if tag else {}), **headers)


@pytest.fixture
def active_topic(api, api2, topic_fields):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    return api2("POST", "topics/order_topic/approval", {"cluster": "builtin"}).body


# --- PUT ----------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "one", "two"),
    [
        ("clusters/kafka-b", {"kind": "kafka", "address": "10.0.0.7:9092"}, {"kind": "kafka", "address": "10.0.0.8:9092"}),
        ("applications/shop", {"description": "sells"}, {"description": "sells well"}),
    ],
)
def test_a_put_makes_changes_or_finds_it_so(api, path, one, two):
    made = put(api, path, one)
    assert (made.status_code, made.body["changed"], made.headers["ETag"]) == (201, True, '"1"')
    assert made.headers["Location"].endswith(path)
    assert put(api, path, two).status_code == 428
    entries = AuditEntry.objects.count()
    same = put(api, path, one, '"1"')
    assert (same.status_code, same.body["changed"], same.headers["ETag"], AuditEntry.objects.count()) == (200, False, '"1"', entries)
    changed = put(api, path, two, '"1"')
    assert (changed.status_code, changed.body["changed"], changed.headers["ETag"]) == (200, True, '"2"')
    assert put(api, path, one, '"1"').body["current_etag"] == '"2"'
    assert put(api, path, one, **{"If-None-Match": "*"}).status_code == 412
    assert put(api, path + "-2", one, '"1"').body["code"] == "stale"
    assert put(api, path, one, "*").body["changed"] is True


@pytest.mark.django_db
def test_a_put_does_not_change_the_kind_of_a_cluster(api):
    put(api, "clusters/kafka-b", {"kind": "kafka", "address": "10.0.0.7:9092"})
    refused = put(api, "clusters/kafka-b", {"kind": "rabbitmq", "address": "10.0.0.7:9092"}, '"1"')
    assert (refused.status_code, refused.body["code"]) == (409, "kind_is_fixed")
    assert put(api, "clusters/builtin", {"kind": "builtin", "address": ""}, '"1"').body["changed"] is False
    assert put(api, "clusters/b2", {"kind": "builtin", "address": ""}).body["code"] == "invalid_kind"


@pytest.mark.django_db
def test_a_put_of_a_topic_applies_for_it_and_edits_the_request(api, topic_fields):
    made = put(api, "topics/order.topic", topic_fields)
    assert (made.status_code, made.body["state"], made.body["changed"]) == (201, "pending", True)
    tag = made.headers["ETag"]
    assert put(api, "topics/order.topic", topic_fields, tag).body["changed"] is False
    edited = put(api, "topics/order.topic", {**topic_fields, "partitions": 8}, tag)
    assert (edited.status_code, edited.body["partitions"], edited.body["changed"]) == (200, 8, True)


@pytest.mark.django_db
def test_a_put_of_an_active_topic_asks_for_the_change(api, api2, active_topic, topic_fields):
    tag = f'"{active_topic["version"]}"'
    assert put(api, "topics/order_topic", topic_fields, tag).body["changed"] is False
    wanted = {**topic_fields, "expected_rate": 900}
    assert put(api, "topics/order_topic", wanted, tag).body["errors"][0]["pointer"] == "/change_message"
    asked = put(api, "topics/order_topic", {**wanted, "change_message": "more orders"}, tag)
    assert (asked.status_code, asked.body["state"], asked.body["changed"]) == (202, "pending", False)
    assert Topic.objects.get().expected_rate == 100
    assert api("GET", asked.headers["Location"].partition("/api/v1/")[2]).body["id"] == asked.body["request"]
    ordered = put(api, "topics/order_topic", {**topic_fields, "ordered": True}, tag)
    assert (ordered.status_code, ordered.body["code"]) == (409, "order_is_fixed")


@pytest.mark.django_db
def test_a_put_of_a_group_goes_the_same_way(api, api2, active_topic):
    body = {"application": "order-service", "subscriptions": [{"topic": "order_topic"}], "reason": "bills"}
    made = put(api, "consumer-groups/bill_group", body)
    assert (made.status_code, made.body["state"]) == (201, "pending")
    again = put(api, "consumer-groups/bill_group", body, made.headers["ETag"])
    assert (again.status_code, again.body.get("changed")) == (200, False), again.body
    tag = api2("POST", "consumer-groups/bill_group/approval", {}).headers["ETag"]
    assert put(api, "consumer-groups/bill_group", body, tag).body["changed"] is False
    asked = put(api, "consumer-groups/bill_group", {**body, "max_attempts": 3, "change_message": "why wait"}, tag)
    assert (asked.status_code, asked.body["state"]) == (202, "pending")


# --- DELETE -------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_is_in_use_is_not_deleted(api, active_topic):
    from registry.models import Publication

    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    api("POST", "topics/order_topic/moves", {"cluster": "kafka-b", "reason": "room"})
    for path in ("applications/order-service", "clusters/kafka-b"):
        refused = api.now("DELETE", path)
        assert (refused.status_code, refused.body["code"]) == (409, "in_use")
        assert {"kind": "topic", "name": "order_topic"} in refused.body["used_by"]
    assert api.now("DELETE", "clusters/builtin").body["code"] == "builtin_cluster"
    api("POST", "topics/order_topic/moves", {"cluster": "builtin", "reason": "back"})
    assert api.now("DELETE", "clusters/kafka-b").body["code"] == "still_drained"
    api("POST", "topics/order_topic/drained-clusters", {"cluster": "kafka-b", "reason": "nothing was sent there"})
    assert api.now("DELETE", "clusters/kafka-b?change_message=gone").status_code == 204
    assert (api("GET", "clusters/kafka-b").status_code, Publication.objects.get(path="/zms/cluster/kafka-b").deleted) == (404, True)
    assert AuditEntry.objects.filter(action="delete", name="kafka-b", reason="gone").exists()
    api("POST", "applications", {"name": "spare"})
    assert api.now("DELETE", "applications/spare").status_code == 204


# --- races --------------------------------------------------------------------------------------------------------------

RACES = {
    "applications/shop": (applications, "change", {"description": "{n}"}),
    "clusters/kafka-b": (clusters, "change", {"description": "{n}"}),
    "topics/order_topic": (topics, "edit", {"reason": "{n}"}),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", RACES)
def test_of_two_changes_of_one_version_one_wins(path, admin_person, monkeypatch):
    (room, verb, body), secret = RACES[path], token_for(admin_person)
    api, real, barrier, answers = Api(Client(), secret), getattr(room, verb), threading.Barrier(2, timeout=60), []
    api("POST", "applications", {"name": "shop"})
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    api("POST", "topics", {"name": "order_topic", "application": "shop", "expected_rate": 1, "message_bytes": 5, "reason": "orders"})
    tag = api("GET", path).headers["ETag"]

    def both_at_once(**kwargs):
        barrier.wait()  # both have shown the right version by now
        return real(**kwargs)

    def change(number):
        try:
            mine = {key: value.format(n=number) for key, value in body.items()}
            answers.append(Api(Client(), secret)("PATCH", path, mine, **{"If-Match": tag}))
        finally:
            connection.close()

    monkeypatch.setattr(room, verb, both_at_once)
    threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    (lost,) = [answer for answer in answers if answer.status_code == 412]
    assert (lost.body["code"], lost.body["current_etag"]) == ("stale", api("GET", path).headers["ETag"])


# --- reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_reader_who_has_it_is_told_so(api):
    tag = api("GET", "clusters/builtin").headers["ETag"]
    answer = api("GET", "clusters/builtin", **{"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    assert api("GET", "clusters/builtin", **{"If-None-Match": f'"77", W/{tag}'}).status_code == 304
    assert api("GET", "clusters/builtin", **{"If-None-Match": '"77"'}).status_code == 200
    assert not api("GET", "clusters").has_header("ETag")


@pytest.mark.django_db
def test_what_changes_without_a_new_version_is_always_shown(api, active_topic):
    tag = api("GET", "topics/order_topic").headers["ETag"]
    assert api("GET", "topics/order_topic", **{"If-None-Match": tag}).status_code == 200
    assert api("GET", "topics/order_topic?fields=name,state", **{"If-None-Match": tag}).status_code == 304


@pytest.mark.django_db
def test_fields_are_chosen_in_lists_and_details(api, active_topic):
    assert api("GET", "topics/order_topic?fields=name,state").body == {"name": "order_topic", "state": "active"}
    assert api("GET", "topics?fields=name").body["results"] == [{"name": "order_topic"}]
    assert api("GET", "me?fields=username").body == {"username": "alice"}
    for path in ("topics", "topics/order_topic", "clusters", "me", "delayed-messages", "publications"):
        refused = api("GET", f"{path}?fields=name,colour")
        assert (refused.status_code, refused.body["code"]) == (400, "unknown_field"), path


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query",
    [
        "topics?limit=-1", "topics?limit=abc", "topics?limit=0", "topics?limit=501", "topics?count=maybe", "topics?state=",
        "topics?state=active&state=pending", "topics?state=odd", "consumer-groups?suspended=yes", "publications?waiting=maybe",
        "delayed-messages?limit=-1",
    ],
)  # fmt: skip
def test_parameters_that_are_not_right_are_refused(api, query):
    answer = api("GET", query)
    assert (answer.status_code, answer.body["code"] in {"invalid_parameter", "invalid"}) == (400, True), answer.body


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "topics?colour=red"), ("GET", "clusters/builtin?colour=red"), ("POST", "topics?colour=red"), ("GET", "me?x=1")],
)
def test_parameters_that_do_not_exist_are_refused(api, method, path):
    assert api(method, path, {} if method == "POST" else None).body["code"] == "unknown_parameter"


# --- change messages ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_change_message_is_the_reason_where_there_is_none(api):
    api("POST", "applications", {"name": "shop", "change_message": "we sell now"})
    assert AuditEntry.objects.get(kind="application", action="create").reason == "we sell now"
    api.now("PATCH", "applications/shop", {"description": "x"})
    assert AuditEntry.objects.get(kind="application", action="change").reason == ""
    for wrong in ("x" * 2001, 5, "a\x00b"):
        refused = api("POST", "applications", {"name": "shop2", "change_message": wrong})
        assert (refused.status_code, refused.body["errors"][0]["pointer"]) == (400, "/change_message")


# --- dry run ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_dry_run_says_what_would_be_done(api):
    found = api("POST", "clusters?dry_run=true", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092", "change_message": "room"})
    assert (found.status_code, found.body["dry_run"], found.body["status"]) == (200, True, 201)
    assert found.body["result"]["name"] == "kafka-b"
    (change,) = found.body["changes"]
    assert (change["action"], change["kind"], change["name"], change["after"]["address"]) == (
        "create",
        "cluster",
        "kafka-b",
        "10.0.0.7:9092",
    )
    assert [w["code"] for w in found.body["warnings"]] == ["address_not_probed"]
    assert not Cluster.objects.filter(name="kafka-b").exists()


@pytest.mark.django_db
def test_a_dry_run_refuses_what_would_be_refused(api):
    assert api("POST", "clusters?dry_run=true", {"name": "builtin", "kind": "kafka", "address": "h:1"}).body["code"] == "duplicate_name"
    assert api("POST", "clusters?dry_run=yes", {"name": "b", "kind": "kafka", "address": "h:1"}).body["code"] == "invalid_parameter"
    assert api("PATCH", "clusters/builtin?dry_run=true", {"description": "x"}).status_code == 428
    assert not AuditEntry.objects.filter(kind="cluster").exists()


# --- limits and errors --------------------------------------------------------------------------------------------------


def problem(response, status, code):
    assert (response.status_code, response.headers["Content-Type"], response.json()["code"]) == (status, "application/problem+json", code)
    return response


@pytest.mark.django_db
def test_everything_under_api_is_a_problem_document(api, settings):
    send = api.client.post
    problem(api("GET", "nothing/here"), 404, "not_found")
    problem(api.client.get("/api"), 404, "not_found")
    assert problem(api("DELETE", "topics"), 405, "method_not_allowed").headers["Allow"] == "GET, POST, HEAD, OPTIONS"
    problem(api("GET", "topics", Accept="text/html"), 406, "not_acceptable")
    json_type, body = "application/json", '{"name": "shop"}'
    problem(send("/api/v1/applications", body, content_type="text/plain", headers=api.headers), 415, "unsupported_media_type")
    problem(
        send("/api/v1/applications", body, content_type=f"{json_type}; charset=latin-1", headers=api.headers), 415, "unsupported_media_type"
    )
    problem(
        send("/api/v1/topics/t/messages", "{}", content_type=f"{json_type}; charset=latin-1", headers=api.headers),
        415,
        "unsupported_media_type",
    )
    problem(send("/api/v1/applications", b'{"name": "\xff"}', content_type=json_type, headers=api.headers), 400, "malformed_json")
    problem(api("POST", "topics/order_topic/submission", {"x": 1}), 400, "unknown_field")
    settings.MAX_REQUEST_BYTES = 10
    problem(api("POST", "applications", {"name": "a-long-name"}), 413, "too_large")
    chunked = {**api.headers, "Transfer-Encoding": "chunked", "Content-Length": ""}
    problem(send("/api/v1/applications", body, content_type=json_type, headers=chunked), 411, "length_required")


@pytest.mark.django_db
def test_a_reference_that_goes_at_the_same_moment_is_no_fault_of_ours():
    from django.db import IntegrityError

    from core.api.problems import to_problem

    found = to_problem(IntegrityError('insert or update on table "x" violates foreign key constraint "y"'))
    assert (found.status, found.code) == (409, "reference_gone")


@pytest.mark.django_db
def test_a_fault_of_ours_is_told_without_a_traceback(api, monkeypatch):
    from accounts.api import MeView

    def broken(*_args):
        raise ZeroDivisionError("the secret is 42")

    monkeypatch.setattr(MeView, "get", broken)
    assert b"the secret" not in problem(api("GET", "me"), 500, "internal").content


@pytest.mark.django_db
def test_a_browser_without_its_csrf_token_is_told_so(admin_person):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(admin_person)
    problem(browser.post("/api/v1/applications", {"name": "shop"}, content_type="application/json"), 403, "csrf_failed")


@pytest.mark.django_db
def test_which_methods_there_are_is_said_without_a_look_inside(api, api_anonymous):
    answer = api("OPTIONS", "clusters/builtin")
    assert (answer.status_code, answer.headers["Allow"]) == (204, "GET, PUT, PATCH, DELETE, HEAD, OPTIONS")
    assert api_anonymous("OPTIONS", "clusters/builtin").status_code == 401


NAMES = ["a.b", "100%", "100%25", "a%2Fb", "-.-"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", NAMES)
def test_names_with_dots_and_percent_signs_work_in_every_path(api, name):
    from urllib.parse import quote

    put(api, f"clusters/{quote(name)}", {"kind": "kafka", "address": "10.0.0.7:9092"})
    made = put(api, f"applications/{quote(name)}", {})
    assert api("GET", made.headers["Location"].partition("/api/v1/")[2]).body["name"] == name
    fields = {"application": name, "expected_rate": 1, "message_bytes": 1, "reason": "r"}
    put(api, f"topics/{quote(name)}", fields)
    topic = Topic.objects.get(name=name)
    approver = User.objects.create_superuser("approver")
    topics.approve(actor=approver, topic=topic, cluster=Cluster.objects.get(name="builtin"))
    put(api, f"consumer-groups/{quote(name)}", {"application": name, "subscriptions": [{"topic": name}], "reason": "r"})
    consumers.approve(actor=approver, group=ConsumerGroup.objects.get(name=name))
    for resource in ("clusters", "applications", "topics", "consumer-groups"):
        assert api("GET", f"{resource}/{quote(name)}").body["name"] == name
    tried = 0
    for path, method, _op in operations(the_schema(), writes=False):
        if method == "get" and path.startswith(("/api/v1/topics/", "/api/v1/consumer-groups/{name}", "/api/v1/clusters/")):
            where = path.removeprefix("/api/v1/").replace("{name}", quote(name, safe=""))
            if "{" not in where:
                answer = api("GET", where + ("?topic=" + quote(name, safe="") + "&to=earliest" if where.endswith("/preview") else ""))
                assert answer.status_code == 200, (where, answer.body)
                tried += 1
    assert tried >= 5
    assert api("GET", "topics/a%2Fb").status_code == 404  # a slash is none of a name's signs, however it is written
