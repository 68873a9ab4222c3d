"""The data plane over REST: send, pull, ack, next, and every refusal with its code."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages_world import statements, world  # noqa: F401 - fixtures

PATHS = ["topics/{t}/messages", "consumer-groups/{g}/pull", "consumer-groups/{g}/acks", "consumer-groups/{g}/next"]
PATHS.append("consumer-groups/{g}/leases/1/extension")
FIELDS = [
    *("messages", "body", "body_base64", "key", "tag", "sharding_key", "headers", "deliver_at", "delay_ms", "id"),
    *("max", "visibility_ms", "consumer", "lease", "acks", "status", "error"),
]


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def api(world):  # noqa: F811
    return world.api


@pytest.fixture(scope="module")
def topic(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        return world.topic()


@pytest.fixture(scope="module")
def fuzzed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        topic = world.topic()
        return topic.name, world.group(topic).name


@pytest.fixture
def pair(world):  # noqa: F811
    """A new topic and a group on it."""
    topic = world.topic()
    return topic.name, world.group(topic).name


def send(api, topic, *bodies, **fields):
    response = api("POST", f"topics/{topic}/messages", {"messages": [{"body": body, **fields} for body in bodies]})
    assert response.status_code == 201, response.body
    return [m["id"] for m in response.body["messages"]]


def pull(api, group, **fields):
    response = api("POST", f"consumer-groups/{group}/pull", fields)
    assert response.status_code == 200, response.body
    return response.body


def refused(response, status, code):
    assert response.headers["Content-Type"] == "application/problem+json", response.content
    assert (response.status_code, response.body["code"]) == (status, code), response.body
    assert response.body["status"] == status
    assert response.body["detail"]
    return response.body


@pytest.mark.django_db
def test_the_data_plane_stands_in_the_schema():
    """Its views are no DRF views; also, the mark is what makes pytest-django prepare the database for this module."""
    from drf_spectacular.generators import SchemaGenerator

    paths = SchemaGenerator().get_schema(public=True)["paths"]
    for path in ("topics/{name}/messages", "consumer-groups/{name}/pull", "consumer-groups/{name}/acks", "consumer-groups/{name}/next"):
        operation = paths[f"/api/v1/{path}"]["post"]
        assert {"400", "401", "403", "404", "409", "413"} <= set(operation["responses"])
        assert operation["security"] == [{"token": []}]


# --- send ---------------------------------------------------------------------------------------------------------------


def test_a_message_comes_back_as_it_was_sent(api, pair):
    topic, group = pair
    sent = api(
        "POST",
        f"topics/{topic}/messages",
        {"body": "订单 1 ✓", "key": "order-1", "tag": "created", "sharding_key": "7", "headers": {"x-tenant": "cn"}},
    )
    assert sent.status_code == 201
    (accepted,) = sent.body["messages"]
    assert accepted == {"id": accepted["id"], "state": "accepted", "duplicate": False, "deliver_at": None}
    found = pull(api, group, consumer="worker-1")
    (message,) = found["messages"]
    assert message["id"] == accepted["id"]
    assert [message[k] for k in ("topic", "key", "tag", "sharding_key", "headers", "body", "attempt", "origin_id")] == [
        topic, "order-1", "created", "7", {"x-tenant": "cn"}, "订单 1 ✓", 1, None,
    ]  # fmt: skip
    age = datetime.now(UTC) - datetime.fromisoformat(message["sent_at"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert datetime.fromisoformat(found["lease_until"]) > datetime.now(UTC) + timedelta(seconds=50)


def test_bytes_travel_as_base64(api, pair):
    topic, group = pair
    raw = bytes(range(256))
    assert api("POST", f"topics/{topic}/messages", {"body_base64": base64.b64encode(raw).decode()}).status_code == 201
    (message,) = pull(api, group)["messages"]
    assert "body" not in message
    assert base64.b64decode(message["body_base64"]) == raw


def test_a_batch_keeps_its_order(api, pair):
    topic, group = pair
    ids = send(api, topic, *[f"m{i}" for i in range(100)])
    assert ids == sorted(set(ids))
    found = pull(api, group, max=1000)
    assert [(m["id"], m["body"]) for m in found["messages"]] == [(i, f"m{n}") for n, i in enumerate(ids)]


def test_a_producers_own_id_makes_a_retry_return_the_first_result(api, pair):
    topic, group = pair
    first = api("POST", f"topics/{topic}/messages", {"body": "a", "id": "p-1"}).body["messages"][0]
    again = api("POST", f"topics/{topic}/messages", {"body": "a", "id": "p-1"}).body["messages"][0]
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert len(pull(api, group)["messages"]) == 1


def test_a_delayed_message_says_when_it_is_due(api, topic):
    due = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    accepted = api("POST", f"topics/{topic.name}/messages", {"body": "x", "deliver_at": due.isoformat()}).body["messages"][0]
    assert (accepted["state"], datetime.fromisoformat(accepted["deliver_at"])) == ("delayed", due)
    accepted = api("POST", f"topics/{topic.name}/messages", {"body": "x", "delay_ms": 60_000}).body["messages"][0]
    assert accepted["state"] == "delayed"
    assert api("POST", f"topics/{topic.name}/messages", {"body": "x", "delay_ms": 0}).body["messages"][0]["state"] == "accepted"


BAD_MESSAGES = [
    ({}, 400, "invalid", "/body"),
    ({"body": "a", "body_base64": "YQ=="}, 400, "invalid", "/body"),
    ({"body": 5}, 400, "invalid", "/body"),
    ({"body": {"a": 1}}, 400, "invalid", "/body"),
    ({"body_base64": "=a"}, 400, "invalid", "/body_base64"),
    ({"body_base64": "YQ"}, 400, "invalid", "/body_base64"),
    ({"body": "a", "key": 5}, 400, "invalid", "/key"),
    ({"body": "a", "key": ""}, 400, "invalid_text", "/key"),
    ({"body": "a", "key": "k" * 256}, 400, "invalid_text", "/key"),
    ({"body": "a", "key": "a\x00b"}, 400, "invalid_text", "/key"),
    ({"body": "a", "id": ["x"]}, 400, "invalid", "/id"),
    ({"body": "a", "tag": "two words"}, 400, "invalid_tag", "/tag"),
    ({"body": "a", "headers": ["x"]}, 400, "invalid", "/headers"),
    ({"body": "a", "headers": {"x": 1}}, 400, "invalid_headers", "/headers"),
    ({"body": "a", "headers": {"x": "y" * 40_000}}, 400, "invalid_headers", "/headers"),
    ({"body": "a", "delay_ms": True}, 400, "invalid", "/delay_ms"),
    ({"body": "a", "delay_ms": 1.5}, 400, "invalid", "/delay_ms"),
    ({"body": "a", "delay_ms": -1}, 400, "delay_out_of_range", "/delay_ms"),
    ({"body": "a", "delay_ms": 11 * 365 * 86_400_000}, 400, "delay_out_of_range", "/delay_ms"),
    ({"body": "a", "delay_ms": 10**18}, 400, "delay_out_of_range", "/delay_ms"),
    ({"body": "a", "deliver_at": "2020-01-01T00:00:00Z"}, 400, "delay_out_of_range", "/deliver_at"),
    ({"body": "a", "deliver_at": "2999-01-01T00:00:00Z"}, 400, "delay_out_of_range", "/deliver_at"),
    ({"body": "a", "deliver_at": "2026-11-21T14:00:00"}, 400, "invalid_time", "/deliver_at"),
    ({"body": "a", "deliver_at": "2027-02-30T14:00:00Z"}, 400, "invalid_time", "/deliver_at"),
    ({"body": "a", "deliver_at": "0001-01-01T00:00:00+14:00"}, 400, "delay_out_of_range", "/deliver_at"),
    ({"body": "a", "deliver_at": "tomorrow"}, 400, "invalid_time", "/deliver_at"),
    ({"body": "a", "deliver_at": "2026-11-21T14:00:00Z", "delay_ms": 1}, 400, "invalid", "/delay_ms"),
    ({"body": "a", "colour": "red"}, 400, "unknown_field", "/colour"),
    ({"body": "a" * (1024 * 1024 + 1)}, 413, "body_too_large", "/body"),
]


@pytest.mark.parametrize(("message", "status", "code", "pointer"), BAD_MESSAGES, ids=lambda v: str(v)[:40])
def test_it_refuses_a_bad_message_and_says_where(api, topic, message, status, code, pointer):  # noqa: PLR0917
    single = refused(api("POST", f"topics/{topic.name}/messages", message), status, code)
    assert [e["pointer"] for e in single["errors"]] == [pointer]
    batch = refused(api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": "good"}, message]}), status, code)
    assert [e["pointer"] for e in batch["errors"]] == [f"/messages/1{pointer}"]


def test_a_refused_batch_stores_nothing(api, pair):
    topic, group = pair
    refused(api("POST", f"topics/{topic}/messages", {"messages": [{"body": "good"}, {"body": "x", "tag": "|"}]}), 400, "invalid_tag")
    assert pull(api, group)["messages"] == []


def test_a_body_of_exactly_the_limit_is_taken(api, topic):
    assert api("POST", f"topics/{topic.name}/messages", {"body": "é" * (512 * 1024)}).status_code == 201


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"messages": []}, "empty_batch"),
        ({"messages": {}}, "invalid"),
        ({"messages": None}, "invalid"),
        ({"messages": ["a"]}, "invalid"),
        ({"messages": [{"body": "a"}], "body": "b"}, "unknown_field"),
    ],
)
def test_it_refuses_a_bad_batch(api, topic, body, code):
    refused(api("POST", f"topics/{topic.name}/messages", body), 400, code)


def test_it_refuses_more_than_a_thousand_messages(api, topic):
    problem = refused(api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": "a"}] * 1001}), 413, "batch_too_large")
    assert "1000" in problem["hint"].replace(",", "")


def test_it_refuses_more_than_it_reads_into_memory(api, topic, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert refused(api("POST", f"topics/{topic.name}/messages", {"body": "a" * 1000}), 413, "too_large")["hint"]


@pytest.mark.parametrize(
    "raw",
    [b" ", b"{", b"[1,", b'{"body": NaN}', b'{"body": "a"} trailing', b"\xff\xfe", b"[" * 100_000, b'{"body": "\\ud800"}'],
)
def test_it_refuses_malformed_json(world, topic, raw):  # noqa: F811
    response = Client().post(
        f"/api/v1/topics/{topic.name}/messages", raw, content_type="application/json", headers={"Authorization": f"Token {world.secret}"}
    )
    assert (response.status_code, response.json()["code"]) == (400, "malformed_json")


def test_it_says_that_it_wants_to_know_the_length(world, topic):  # noqa: F811
    headers = {"Authorization": f"Token {world.secret}", "Transfer-Encoding": "chunked"}
    response = Client().generic("POST", f"/api/v1/topics/{topic.name}/messages", headers=headers)
    assert (response.status_code, response.json()["code"]) == (411, "length_required")


def test_it_wants_an_object_and_json(world, api, topic):  # noqa: F811
    refused(api("POST", f"topics/{topic.name}/messages", [1]), 400, "invalid")
    form = Client().post(f"/api/v1/topics/{topic.name}/messages", {"body": "a"}, headers={"Authorization": f"Token {world.secret}"})
    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")


def test_it_refuses_topics_that_take_no_messages_here(world, api):  # noqa: F811
    from clusters.services import create

    refused(api("POST", "topics/no_such_topic/messages", {"body": "a"}), 404, "not_found")
    pending = world.topic(approve=False)
    refused(api("POST", f"topics/{pending.name}/messages", {"body": "a"}), 409, "topic_not_active")
    kafka = create(actor=world.admin, name="kfk-data", kind="kafka", address="10.0.0.1:9092")
    elsewhere = world.topic(kafka)
    problem = refused(api("POST", f"topics/{elsewhere.name}/messages", {"body": "a"}), 409, "not_on_builtin_store")
    assert problem["cluster"] == "kfk-data"
    assert "kfk-data" in problem["detail"]
    kafka.topics.all().delete()
    kafka.delete()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["succeeded", "1", "2026-11-21T14:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5) | JSON, path=st.sampled_from(PATHS))
def test_no_json_is_answered_with_an_internal_error(api, fuzzed, fields, path):
    try:
        body = json.dumps(fields)
        body.encode()
    except UnicodeEncodeError:
        body = "{}"
    response = api("POST", path.format(t=fuzzed[0], g=fuzzed[1]), body)
    assert response.status_code < 500, response.body
    if response.status_code >= 400:
        assert {"code", "detail", "request_id"} <= response.body.keys()


# --- credentials --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_it_refuses_who_may_not(world, topic, path):  # noqa: F811
    path = path.format(t=topic.name, g="any")
    refused(world.api_anonymous("POST", path, {}), 401, "not_authenticated")
    refused(world.api_anonymous("POST", path, {}, Authorization="Token mq_wrong"), 401, "wrong_credentials")
    assert "mq_messages." in refused(world.api_nobody("POST", path, {}), 403, "forbidden")["detail"]
    refused(world.api_viewer("POST", path, {}), 403, "forbidden")
    get = world.api("GET", path)
    refused(get, 405, "method_not_allowed")
    assert get.headers["Allow"] == "POST"


def test_it_refuses_an_expired_token(world, topic):  # noqa: F811
    from accounts.models import ApiToken

    _token, secret = ApiToken.issue(user=world.admin, name="old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    problem = refused(
        world.api_anonymous("POST", f"topics/{topic.name}/messages", {"body": "a"}, Authorization=f"Token {secret}"),
        401,
        "wrong_credentials",
    )
    assert "expired" in problem["detail"]


# --- pull, ack, next ------------------------------------------------------------------------------------------------------


def test_two_workers_share_and_a_second_group_gets_all(world, api):  # noqa: F811
    topic = world.topic()
    first, second = world.group(topic), world.group(topic)
    ids = send(api, topic.name, *"abcdef")
    one = pull(api, first.name, max=3, consumer="w1")
    two = pull(api, first.name, max=3, consumer="w2")
    assert [m["id"] for m in one["messages"]] + [m["id"] for m in two["messages"]] == ids
    assert one["lease"] != two["lease"]
    assert [m["id"] for m in pull(api, second.name)["messages"]] == ids
    nothing = {"lease": None, "lease_until": None, "messages": [], "ordered": {}, "reason": "empty", "moved_at": None, "sticky": False}
    assert pull(api, first.name) == nothing


def test_a_group_gets_only_its_tags(world, api):  # noqa: F811
    topic = world.topic()
    group = world.group(topic, tags="paid || refunded")
    send(api, topic.name, "a", tag="created")
    wanted = send(api, topic.name, "b", tag="paid")
    assert [m["id"] for m in pull(api, group.name)["messages"]] == wanted


def test_every_outcome_is_answered(api, pair):
    topic, group = pair
    a, b, c, d = send(api, topic, *"abcd")
    lease = pull(api, group)["lease"]
    acks = [
        {"lease": lease, "id": a, "status": "succeeded"},
        {"lease": lease, "id": b, "status": "failed", "delay_ms": 60_000, "error": "no stock"},
        {"lease": lease, "id": c, "status": "dead", "error": "poison"},
        {"lease": lease, "id": 42, "status": "succeeded"},
        {"lease": "999999999", "id": d, "status": "succeeded"},
        {"lease": lease, "id": d, "status": "later", "delay_ms": 60_000},
    ]
    answer = api("POST", f"consumer-groups/{group}/acks", {"acks": acks})
    assert answer.status_code == 200
    results = answer.body["acks"]
    assert [r["index"] for r in results] == list(range(6))
    assert [r["id"] for r in results] == [a, b, c, 42, d, d]
    assert [r["status"] for r in results] == ["succeeded", "later", "dead", None, None, "later"]
    assert [r["problem"]["code"] for r in results if "problem" in r] == ["not_in_lease", "lease_expired"]
    assert datetime.fromisoformat(results[1]["next_retry_at"]) > datetime.now(UTC) + timedelta(seconds=50)
    again = api("POST", f"consumer-groups/{group}/acks", {"acks": acks[:1]}).body["acks"][0]
    assert again["status"] is None
    assert again["problem"]["code"] in {"already_settled", "lease_expired"}


def test_next_settles_and_pulls_in_one_go(api, pair):
    topic, group = pair
    ids = send(api, topic, *"abcd")
    first = api("POST", f"consumer-groups/{group}/next", {"max": 2})
    assert first.status_code == 200
    assert first.body["acks"] == []
    assert [m["id"] for m in first.body["messages"]] == ids[:2]
    acks = [{"id": ids[0], "status": "succeeded"}, {"id": ids[1], "status": "failed", "error": "x"}]
    second = api("POST", f"consumer-groups/{group}/next", {"max": 10, "lease": first.body["lease"], "acks": acks}).body
    assert [(r["id"], r["status"]) for r in second["acks"]] == [(ids[0], "succeeded"), (ids[1], "later")]
    assert {(m["id"], m["attempt"]) for m in second["messages"]} == {(ids[1], 2), (ids[2], 1), (ids[3], 1)}
    third = api(
        "POST",
        f"consumer-groups/{group}/next",
        {"lease": second["lease"], "acks": [{"id": m["id"], "status": "succeeded"} for m in second["messages"]]},
    ).body
    assert [r["status"] for r in third["acks"]] == ["succeeded"] * 3
    assert (third["lease"], third["reason"]) == (None, "empty")


def test_an_expired_lease_is_told_and_its_messages_come_again(api, pair):
    from messages import services

    topic, group = pair
    (a,) = send(api, topic, "a")
    lease = pull(api, group, visibility_ms=1)["lease"]
    assert services.expire() >= 1
    late = api("POST", f"consumer-groups/{group}/next", {"lease": lease, "acks": [{"id": a, "status": "succeeded"}]}).body
    assert late["acks"][0]["problem"]["code"] == "lease_expired"
    assert [(m["id"], m["attempt"]) for m in late["messages"]] == [(a, 2)]


def test_a_lease_is_extended_by_who_holds_it(api, pair):
    topic, group = pair
    (a,) = send(api, topic, "a")
    found = pull(api, group, visibility_ms=1000)
    path = f"consumer-groups/{group}/leases/{found['lease']}/extension"
    answer = api("POST", path, {"visibility_ms": 600_000})
    assert answer.status_code == 200
    assert answer.body["lease"] == found["lease"]
    assert datetime.fromisoformat(answer.body["lease_until"]) > datetime.now(UTC) + timedelta(minutes=9)
    assert api("POST", path).body == answer.body  # a minute from now would be less
    api("POST", f"consumer-groups/{group}/acks", {"acks": [{"lease": found["lease"], "id": a, "status": "succeeded"}]})
    assert refused(api("POST", path, {}), 409, "lease_expired")["hint"]


def test_it_refuses_to_extend_what_is_not_held(world, api, pair):  # noqa: F811
    topic, group = pair
    send(api, topic, "a")
    lease = pull(api, group)["lease"]
    other = world.group(world.topic()).name
    refused(api("POST", f"consumer-groups/{other}/leases/{lease}/extension", {}), 409, "lease_expired")
    refused(api("POST", f"consumer-groups/{group}/leases/9999999999999999999/extension", {}), 409, "lease_expired")
    refused(api("POST", f"consumer-groups/no_such_group/leases/{lease}/extension", {}), 404, "not_found")
    refused(api("POST", f"consumer-groups/{group}/leases/mine/extension", {}), 404, "not_found")
    for fields, code in (
        ({"visibility_ms": 0}, "invalid"),
        ({"visibility_ms": 12 * 3600_000 + 1}, "invalid"),
        ({"until": 1}, "unknown_field"),
    ):
        refused(api("POST", f"consumer-groups/{group}/leases/{lease}/extension", fields), 400, code)
    longest = refused(
        api("POST", f"consumer-groups/{group}/leases/{lease}/extension", {"visibility_ms": 12 * 3600_000}), 409, "lease_too_long"
    )
    assert datetime.fromisoformat(longest["lease_until"]) < datetime.now(UTC) + timedelta(minutes=2)


@pytest.mark.parametrize(
    ("path", "fields", "status", "code"),
    [
        ("pull", {"max": 0}, 400, "invalid"),
        ("pull", {"max": 1001}, 400, "invalid"),
        ("pull", {"max": "5"}, 400, "invalid"),
        ("pull", {"max": True}, 400, "invalid"),
        ("pull", {"wait_ms": 30_001}, 400, "invalid"),
        ("pull", {"wait_ms": -1}, 400, "invalid"),
        ("pull", {"visibility_ms": 0}, 400, "invalid"),
        ("pull", {"visibility_ms": 10**12}, 400, "invalid"),
        ("pull", {"consumer": "c" * 256}, 400, "invalid"),
        ("pull", {"lease": "1"}, 400, "unknown_field"),
        ("next", {"lease": "mine"}, 400, "malformed_lease"),
        ("next", {"lease": 17}, 400, "invalid"),
        ("next", {"acks": [{"id": 1, "status": "succeeded"}]}, 400, "malformed_lease"),
        ("next", {"lease": "1", "acks": "all"}, 400, "invalid"),
        ("acks", {}, 400, "invalid"),
        ("acks", {"acks": []}, 400, "invalid"),
        ("acks", {"acks": [5]}, 400, "invalid"),
        ("acks", {"acks": [{"id": 1, "status": "succeeded"}]}, 400, "malformed_lease"),
        ("acks", {"acks": [{"lease": "٣", "id": 1, "status": "succeeded"}]}, 400, "malformed_lease"),
        ("acks", {"acks": [{"lease": "1", "id": 1, "status": "done"}]}, 400, "invalid_outcome"),
        ("acks", {"acks": [{"lease": "1", "id": 1, "status": "failed", "delay_ms": -1}]}, 400, "invalid_outcome"),
        ("acks", {"acks": [{"lease": "1", "id": "1", "status": "failed"}]}, 400, "invalid"),
        ("acks", {"acks": [{"lease": "1", "id": 2**63, "status": "failed"}]}, 400, "invalid"),
        ("acks", {"acks": [{"lease": "1", "id": 1, "status": "failed", "why": "x"}]}, 400, "unknown_field"),
        ("acks", {"acks": [{"lease": "1", "id": 1, "status": "succeeded"}] * 1001}, 413, "batch_too_large"),
    ],
    ids=lambda v: str(v)[:50],
)
def test_it_refuses_a_bad_pull_or_ack(api, pair, path, fields, status, code):  # noqa: PLR0917
    refused(api("POST", f"consumer-groups/{pair[1]}/{path}", fields), status, code)


def test_a_delay_out_of_range_changes_nothing(api, pair):
    topic, group = pair
    (a,) = send(api, topic, "a")
    lease = pull(api, group)["lease"]
    acks = [{"lease": lease, "id": a, "status": "failed", "delay_ms": 10**18}]
    assert (
        refused(api("POST", f"consumer-groups/{group}/acks", {"acks": acks}), 400, "invalid_outcome")["errors"][0]["pointer"]
        == "/acks/0/delay_ms"
    )
    assert (
        api("POST", f"consumer-groups/{group}/acks", {"acks": [{"lease": lease, "id": a, "status": "succeeded"}]}).body["acks"][0]["status"]
        == "succeeded"
    )


def test_it_refuses_groups_that_may_not_pull(world, api):  # noqa: F811
    refused(api("POST", "consumer-groups/no_such_group/pull", {}), 404, "not_found")
    pending = world.group(world.topic(), approve=False)
    for path in ("pull", "next"):
        refused(api("POST", f"consumer-groups/{pending.name}/{path}", {}), 409, "group_not_active")


def test_a_suspended_group_is_told_so_at_once(world, api, pair):  # noqa: F811
    from consumers import services
    from consumers.models import ConsumerGroup

    topic, group = pair
    send(api, topic, "a")
    services.suspend(actor=world.admin, group=ConsumerGroup.objects.get(name=group), reason="maintenance")
    found = pull(api, group, wait_ms=5000)
    assert (found["lease"], found["reason"]) == (None, "suspended")
    services.resume(actor=world.admin, group=ConsumerGroup.objects.get(name=group))
    assert len(pull(api, group)["messages"]) == 1


def test_a_pull_without_a_body_takes_the_defaults(world, pair):  # noqa: F811
    response = Client().generic("POST", f"/api/v1/consumer-groups/{pair[1]}/pull", headers={"Authorization": f"Token {world.secret}"})
    assert (response.status_code, response.json()["reason"]) == (200, "empty")


def test_names_with_dots_and_percent_signs_are_found(world, api):  # noqa: F811
    from topics.models import Topic

    made = world.topic()
    Topic.objects.filter(pk=made.pk).update(name="a.b%2Fc")
    assert api("POST", "topics/a.b%252Fc/messages", {"body": "x"}).status_code == 201
    refused(api("POST", "topics/a%00b/messages", {"body": "x"}), 404, "not_found")


def test_the_hot_path_asks_the_database_for_no_more_than_it_must(api, pair, statements):  # noqa: F811
    topic, group = pair
    send(api, topic, "warm")
    pull(api, group)
    assert statements(lambda: send(api, topic, "x")) == 2  # the topic, the send
    assert statements(lambda: api("POST", f"consumer-groups/{group}/next", {})) <= 3  # the pull; behind the horizon: a tick, the pull


def test_a_group_that_is_retired_gets_nothing_more(world, api, pair):  # noqa: F811
    from clusters.drivers import builtin
    from consumers.models import ConsumerGroup
    from core.approvals.models import State
    from messages.api import lookup

    topic, group = pair
    pull(api, group)
    send(api, topic, "a")
    found = ConsumerGroup.objects.get(name=group)
    ConsumerGroup.objects.filter(pk=found.pk).update(state=State.RETIRED)
    builtin.retire_group(group_id=found.pk)
    assert pull(api, group)["reason"] == "retired"  # its name is known for a moment; the store knows better
    lookup._groups.clear()
    refused(api("POST", f"consumer-groups/{group}/pull", {}), 409, "group_not_active")


def test_answers_are_json_that_any_client_reads(api, pair):
    topic, group = pair
    send(api, topic, '{"a": "\\u0000 \U0001f600"}')
    response = api("POST", f"consumer-groups/{group}/pull", {})
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.content)["messages"][0]["body"] == '{"a": "\\u0000 \U0001f600"}'
