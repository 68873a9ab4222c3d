"""Every write endpoint there is, found in the schema: versions, idempotency keys, dry runs. A new resource is covered at once."""

import pytest
from api_world import address, body_for, operations, rows_of_all_tables, takes, the_schema
from django.db import transaction

from core.api.idempotency import without

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(api, api2, topic_fields):
    """One of each thing, and what stands for it in addresses and bodies."""
    api("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092"})
    api("POST", "applications", {"name": "spare"})
    for name in ("order_topic", "waiting_topic"):
        assert api("POST", "topics", {"name": name, **topic_fields}).status_code == 201
    api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    group = {"application": "order-service", "subscriptions": [{"topic": "order_topic"}], "reason": "bills"}
    for name in ("bill_group", "waiting_group"):
        assert api("POST", "consumer-groups", {"name": name, **group}).status_code == 201
    api2("POST", "consumer-groups/bill_group/approval", {})
    shadow = {"application": "order-service", "task": "stress", "group": "bill_group", "topic": "order_topic"}
    assert api("POST", "shadow-tasks", shadow).status_code == 201
    assert api("POST", "topics/order_topic/messages", {"body": "later", "delay_ms": 3_600_000}).status_code == 201
    examples = {
        "clusters": "kafka-b", "applications": "spare", "topics": "waiting_topic", "consumer-groups": "waiting_group",
        "topics/{name}/moves": "order_topic",
    }  # fmt: skip
    values = {
        **{key: topic_fields[key] for key in ("application", "expected_rate", "message_bytes")},
        "cluster": "kafka-b", "kind": "kafka", "address": "10.0.0.8:9092", "owner": "bob", "topic": "order_topic", "group": "bill_group",
        "subscriptions": [{"topic": "order_topic"}], "delay_ms": 60_000, "all": True, "minutes": 5, "task": "stress-2",
    }  # fmt: skip
    return examples, values


def writes(api, world, schema):
    """(name, method, address, body, operation) of every write, with things that are there."""
    examples, values = world
    active = {"moves", "retirement", "suspension", "resumption"}
    for path, method, op in operations(schema):
        # What is done to active things is tried on an active one, the rest on one that waits.
        of = {**examples, "topics": "order_topic", "consumer-groups": "bill_group"} if path.rpartition("/")[2] in active else examples
        body = body_for(schema, op, values)
        yield f"{method} {path}", method, address(api, path, of), body, op


def test_every_change_needs_the_version_that_it_was_made_from(api, world):
    schema, tried = the_schema(), set()
    for at, method, where, body, op in writes(api, world, schema):
        if "If-Match" not in takes(schema, op) or method == "post":
            continue
        now = api("GET", where)
        if now.status_code != 200:
            continue
        tag = now.headers["ETag"]
        before = rows_of_all_tables()
        missing = api(method.upper(), where, body)
        assert (missing.status_code, missing.body["code"], missing.body["current_etag"]) == (428, "precondition_required", tag), at
        stale = api(method.upper(), where, body, **{"If-Match": '"999999", W/' + tag})
        assert (stale.status_code, stale.body["code"], stale.headers["ETag"]) == (412, "stale", tag), at
        assert stale.body["current_etag"] == tag, at
        assert api(method.upper(), where, body, **{"If-Match": tag.strip('"')}).body["code"] == "invalid_etag", at
        assert rows_of_all_tables() == before, at
        tried.add(where.split("/", maxsplit=1)[0])
    assert tried >= {"topics", "consumer-groups", "clusters", "applications", "delayed-messages"}


def test_what_is_done_to_a_thing_heeds_a_version_if_one_is_named(api, world):
    schema, tried = the_schema(), set()
    for at, method, where, body, op in writes(api, world, schema):
        if method == "post" and "If-Match" in takes(schema, op) and api("GET", where.rpartition("/")[0]).status_code == 200:
            stale = api("POST", where, body, **{"If-Match": '"999999"'})
            assert (stale.status_code, stale.body["code"]) == (412, "stale"), at
            tried.add(where.rpartition("/")[2])
    assert tried >= {"approval", "rejection", "moves", "retirement", "suspension", "start"}


def test_a_dry_run_of_anything_leaves_the_database_as_it_is(api, world):
    schema, done = the_schema(), set()
    api("GET", "me")  # the token was used: that is written now and then
    for at, method, where, body, _op in writes(api, world, schema):
        seen = api("GET", where)
        condition = {"If-Match": seen.headers["ETag"]} if "ETag" in seen.headers and method != "post" else {}
        before = rows_of_all_tables()
        answer = api(method.upper(), f"{where}?dry_run=true", body, **condition)
        assert rows_of_all_tables() == before, at
        assert answer.status_code < 500 or answer.body["code"] == "instances_unknown", (at, answer.body)  # no registrar is here
        if answer.status_code == 200:
            assert set(answer.body) == {"dry_run", "status", "result", "changes", "warnings"}, at
            done.add(at.removeprefix("/api/v1/"))
    for resource in ("topics", "consumer-groups", "clusters", "applications"):
        assert f"post /api/v1/{resource}" in done, (resource, done)
        assert f"put /api/v1/{resource}/{{name}}" in done
        assert f"patch /api/v1/{resource}/{{name}}" in done
    assert "delete /api/v1/applications/{name}" in done
    assert "delete /api/v1/clusters/{name}" in done


def test_every_post_is_done_once_under_one_key(api, api2, world):
    schema, done = the_schema(), set()
    api2("GET", "me")
    for at, method, where, body, _op in writes(api2, world, schema):
        if method != "post":
            continue
        with transaction.atomic():
            key = {"Idempotency-Key": f"key of {where}".replace(" ", "-")}
            one = api2("POST", where, body, **key)
            after = rows_of_all_tables()
            if one.status_code < 400:
                two = api2("POST", where, body, **key)
                kept = without(one.body, {"secret"})
                assert (two.status_code, two.body, two.headers["Idempotency-Replayed"]) == (one.status_code, kept, "true"), at
                other = api2("POST", where, {**(body or {}), "change_message": "another body"}, **key)
                assert (other.status_code, other.body["code"]) == (422, "idempotency_key_reused"), at
                assert rows_of_all_tables() == after, at
                done.add(at)
            else:
                assert api2("POST", where, body, **key).status_code == one.status_code, (at, one.body)
                assert not api2("POST", where, body, **key).has_header("Idempotency-Replayed"), at
            transaction.set_rollback(True)
    for action in ("topics", "topics/{name}/approval", "topics/{name}/moves", "consumer-groups/{name}/suspension", "shadow-tasks"):
        assert f"post /api/v1/{action}" in done, (action, done)


def test_every_view_of_the_control_plane_follows_the_conventions():
    from drf_spectacular.generators import EndpointEnumerator

    from core.api.conventions import View

    for path, _regex, method, callback in EndpointEnumerator().get_api_endpoints():
        if path.startswith("/api/v1/") and callback.cls.__module__ != "messages.api.documents":
            assert issubclass(callback.cls, View), f"{method} {path}: derive {callback.cls.__name__} from core.api.conventions.View"
