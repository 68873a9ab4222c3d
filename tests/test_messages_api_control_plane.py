"""Messages, delayed messages, dead letters and redrives over REST, and every refusal with its code."""

from datetime import UTC, datetime, timedelta

import pytest
from messages_world import statements, world  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def api(world):  # noqa: F811
    return world.api


@pytest.fixture
def topic(world):  # noqa: F811
    return world.topic()


@pytest.fixture
def group(world, topic):  # noqa: F811
    return world.group(topic)


def send(api, topic, *bodies, **fields):
    response = api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": body, **fields} for body in bodies]})
    assert response.status_code == 201, response.body
    return [m["id"] for m in response.body["messages"]]


def kill(api, group, ids, error="no stock"):
    """Pull everything and reject these for good; the others succeed."""
    found = api("POST", f"consumer-groups/{group.name}/pull", {"max": 1000, "consumer": "w1"}).body
    acks = [
        {"lease": found["lease"], "id": m["id"], **({"status": "dead", "error": error} if m["id"] in ids else {"status": "succeeded"})}
        for m in found["messages"]
    ]
    answer = api("POST", f"consumer-groups/{group.name}/acks", {"acks": acks}).body["acks"]
    assert all("problem" not in r for r in answer), answer


def good(response, status=200):
    assert response.status_code == status, response.body
    return response.body


def refused(response, status, code):
    assert (response.status_code, response.body["code"]) == (status, code), response.body
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.body


@pytest.mark.django_db
def test_the_schema_holds_what_is_answered():
    """The schema is checked by its own rules; the mark prepares the database for this module."""
    from drf_spectacular.generators import SchemaGenerator
    from drf_spectacular.validation import validate_schema

    schema = SchemaGenerator().get_schema(public=True)
    validate_schema(schema)
    operations = {
        operation["operationId"] for path in schema["paths"].values() for operation in path.values() if "operationId" in operation
    }
    assert {"search_messages", "retrieve_message", "cancel_delayed_message", "start_redrive", "list_redrive_items"} <= operations


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_shows_its_status_in_every_group(world, api, topic, group):  # noqa: F811
    other = world.group(topic)
    ok, bad = send(api, topic, "a", '{"b": 1}', key="k1")
    found = api("POST", f"consumer-groups/{group.name}/pull", {"consumer": "w1"}).body
    acks = [
        {"lease": found["lease"], "id": ok, "status": "succeeded"},
        {"lease": found["lease"], "id": bad, "status": "failed", "delay_ms": 60_000, "error": "no stock"},
    ]
    api("POST", f"consumer-groups/{group.name}/acks", {"acks": acks})
    message = good(api("GET", f"messages/{bad}"))
    assert (message["id"], message["topic"], message["key"], message["body"], message["body_bytes"]) == (
        bad,
        topic.name,
        "k1",
        '{"b": 1}',
        8,
    )
    by_group = {g["group"]: g for g in message["groups"]}
    assert set(by_group) == {group.name, other.name}
    failed = by_group[group.name]
    assert (failed["status"], failed["attempts"], failed["last_error"], failed["consumer"]) == ("later", 1, "no stock", "w1")
    assert datetime.fromisoformat(failed["next_retry_at"]) > datetime.now(UTC)
    assert (by_group[other.name]["status"], by_group[other.name]["attempts"]) == ("waiting", 0)
    done = {g["group"]: g for g in good(api("GET", f"messages/{ok}"))["groups"]}[group.name]
    assert (done["status"], done["consumer"]) == ("succeeded", "w1")
    assert done["settled_at"]


def test_bytes_are_shown_as_base64(api, topic):
    (message,) = api("POST", f"topics/{topic.name}/messages", {"body_base64": "/wA="}).body["messages"]
    found = good(api("GET", f"messages/{message['id']}"))
    assert (found["body_base64"], "body" in found) == ("/wA=", False)


@pytest.mark.parametrize("message_id", ["1", "0", "9223372036854775807", "9223372036854775808", "9999999999999999999"])
def test_it_refuses_ids_that_are_not_there(api, message_id):
    refused(api("GET", f"messages/{message_id}"), 404, "not_found")
    refused(api.now("DELETE", f"delayed-messages/{message_id}"), 404, "not_found")
    refused(api.now("PATCH", f"delayed-messages/{message_id}", {"delay_ms": 5}), 404, "not_found")


def test_a_search_finds_by_key_tag_id_and_time(api, topic):
    ids = send(api, topic, "a", "b", key="order-1", tag="created")
    (other,) = send(api, topic, "c", key="order-2", tag="paid")

    def found(**query):
        return [
            m["id"]
            for m in good(api("GET", "messages?" + "&".join(f"{k}={v}" for k, v in {"topic": topic.name, **query}.items())))["results"]
        ]

    assert found() == [other, *reversed(ids)]
    assert found(key="order-1") == list(reversed(ids))
    assert found(tag="paid") == [other]
    assert found(id=ids[0]) == [ids[0]]
    assert found(key="order-3") == []
    now = datetime.now(UTC)
    assert found(**{"from": (now + timedelta(minutes=1)).isoformat().replace("+", "%2B")}) == []
    assert found(to=(now - timedelta(minutes=1)).isoformat()) == []  # a + that became a blank
    assert len(found(**{"from": (now - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")})) == 3


def test_a_search_goes_on_where_it_ended(api, topic):
    ids = send(api, topic, *"abcde")
    page = good(api("GET", f"messages?topic={topic.name}&limit=2"))
    assert [m["id"] for m in page["results"]] == [ids[4], ids[3]]
    assert datetime.fromisoformat(page["searched_to"]) <= datetime.now(UTC)
    seen = [m["id"] for m in page["results"]]
    while page["next"]:
        page = good(api("GET", page["next"].split("/api/v1/")[1]))
        seen += [m["id"] for m in page["results"]]
    assert seen == list(reversed(ids))
    assert page["searched_to"] is None


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "invalid"),
        ("topic=no_such", 404, "not_found"),
        ("topic={t}&limit=0", 400, "invalid"),
        ("topic={t}&limit=501", 400, "invalid"),
        ("topic={t}&limit=many", 400, "invalid"),
        ("topic={t}&cursor=zzz", 400, "invalid_cursor"),
        ("topic={t}&id=abc", 400, "invalid"),
        ("topic={t}&from=yesterday", 400, "invalid_time"),
        ("topic={t}&key=%00", 400, "invalid"),
    ],
)
def test_it_refuses_a_bad_search(api, topic, query, status, code):
    refused(api("GET", "messages?" + query.format(t=topic.name)), status, code)


def test_the_number_of_statements_does_not_grow_with_the_page(api, topic, group, statements):  # noqa: F811
    paths = [f"messages?topic={topic.name}", f"delayed-messages?topic={topic.name}", f"consumer-groups/{group.name}/dead-letters"]
    send(api, topic, "later", delay_ms=3_600_000)
    kill(api, group, set(send(api, topic, "a")))
    for path in paths:
        good(api("GET", path))
    one = [statements(lambda: good(api("GET", path))) for path in paths]  # noqa: B023
    send(api, topic, *["later"] * 20, delay_ms=3_600_000)
    kill(api, group, set(send(api, topic, *["x"] * 40)))
    assert [len(good(api("GET", path))["results"]) for path in paths] == [41, 21, 41]
    assert [statements(lambda: good(api("GET", path))) for path in paths] == one  # noqa: B023
    assert max(one) <= 3


# --- delayed ----------------------------------------------------------------------------------------------------------


def test_delayed_messages_are_listed_rescheduled_and_cancelled(world, api, topic, group):  # noqa: F811
    from core.audit.models import AuditEntry
    from messages import services

    late, soon = (send(api, topic, "x", delay_ms=ms)[0] for ms in (7_200_000, 3_600_000))
    listed = good(api("GET", f"delayed-messages?topic={topic.name}"))
    assert [m["id"] for m in listed["results"]] == [soon, late]
    assert good(api("GET", f"delayed-messages?topic={topic.name}&limit=1"))["next"]
    cut = (datetime.now(UTC) + timedelta(minutes=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [m["id"] for m in good(api("GET", f"delayed-messages?topic={topic.name}&to={cut}"))["results"]] == [soon]
    assert good(api("GET", f"delayed-messages/{soon}"))["state"] == "delayed"
    assert good(api("GET", f"messages/{soon}"))["groups"] == []

    moved = good(api.now("PATCH", f"delayed-messages/{late}", {"delay_ms": 60_000, "reason": "sooner"}))
    assert datetime.fromisoformat(moved["deliver_at"]) < datetime.now(UTC) + timedelta(seconds=61)
    assert api.now("DELETE", f"delayed-messages/{soon}").status_code == 204
    assert [m["id"] for m in good(api("GET", f"delayed-messages?topic={topic.name}"))["results"]] == [late]
    refused(api("GET", f"messages/{soon}"), 404, "not_found")
    audit = AuditEntry.objects.filter(kind="delayed message").order_by("id").values_list("action", "name", "reason", "actor_name")
    assert list(audit)[-2:] == [("reschedule", str(late), "sooner", "wang"), ("cancel", str(soon), "", "wang")]

    good(api.now("PATCH", f"delayed-messages/{late}", {"delay_ms": 0}))
    services.promote()
    (delivered,) = api("POST", f"consumer-groups/{group.name}/pull", {}).body["messages"]
    assert delivered["origin_id"] == late
    refused(api.now("DELETE", f"delayed-messages/{late}"), 409, "not_delayed")
    refused(api.now("PATCH", f"delayed-messages/{late}", {"delay_ms": 5000}), 409, "not_delayed")
    assert str(delivered["id"]) in refused(api("GET", f"delayed-messages/{late}"), 404, "not_delayed")["hint"]
    assert good(api("GET", f"messages/{late}"))["id"] == delivered["id"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid"),
        ({"delay_ms": -1}, "delay_out_of_range"),
        ({"deliver_at": "2020-01-01T00:00:00Z"}, "delay_out_of_range"),
        ({"deliver_at": "2999-01-01T00:00:00Z"}, "delay_out_of_range"),
        ({"deliver_at": "soon"}, "invalid_time"),
        ({"deliver_at": 5}, "invalid"),
        ({"delay_ms": 5, "deliver_at": "2027-01-01T00:00:00Z"}, "invalid"),
        ({"delay": 5}, "unknown_field"),
        ([], "invalid"),
    ],
)
def test_it_refuses_a_bad_reschedule(api, topic, fields, code):
    (late,) = send(api, topic, "x", delay_ms=3_600_000)
    before = good(api("GET", f"delayed-messages/{late}"))
    refused(api.now("PATCH", f"delayed-messages/{late}", fields), 400, code)
    assert good(api("GET", f"delayed-messages/{late}")) == before


# --- dead letters -----------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_with_their_reason(api, topic, group):
    a, b, c = send(api, topic, *"abc", key="k")
    kill(api, group, {a, b})
    page = good(api("GET", f"consumer-groups/{group.name}/dead-letters"))
    assert [(d["id"], d["reason"], d["attempts"], d["consumer"]) for d in page["results"]] == [
        (b, "no stock", 1, "w1"),
        (a, "no stock", 1, "w1"),
    ]
    assert good(api("GET", f"consumer-groups/{group.name}/dead-letters?reason_contains=STOCK&limit=1"))["next"]
    assert good(api("GET", f"consumer-groups/{group.name}/dead-letters?reason_contains=timeout"))["results"] == []
    assert good(api("GET", f"consumer-groups/{group.name}/dead-letters?before=2020-01-01T00:00:00Z"))["results"] == []
    status = good(api("GET", f"consumer-groups/{group.name}/status"))
    assert (status["counts"]["dead"], status["counts"]["succeeded"], status["lag"]["messages"]) == (2, 1, 0)
    assert status["topics"] == [{"topic": topic.name, "counts": status["counts"]}]
    assert c not in [d["id"] for d in page["results"]]


def test_one_selected_and_all_matching_are_redriven_with_a_result_each(world, api, topic, group):  # noqa: F811
    from core.audit.models import AuditEntry

    ids = send(api, topic, *"abcdef")
    kill(api, group, set(ids[:5]))
    path = f"consumer-groups/{group.name}/redrives"

    one = api("POST", path, {"ids": [ids[0]], "reason": "stock is back"})
    job = good(one, 202)
    assert one.headers["Location"].endswith(f"/api/v1/{path}/{job['id']}")
    assert (job["state"], job["total"], job["redriven"], job["refused"], job["started_by"]) == ("finished", 1, 1, 0, "wang")
    assert [(i["id"], i["state"]) for i in job["items"]] == [(ids[0], "redriven")]

    selected = good(api("POST", path, {"ids": [ids[1], ids[5], 42]}), 202)
    assert {i["id"]: (i["state"], i["reason"]) for i in selected["items"]} == {
        ids[1]: ("redriven", ""),
        ids[5]: ("refused", "not_dead"),
        42: ("refused", "not_dead"),
    }
    assert (selected["redriven"], selected["refused"]) == (1, 2)

    none = good(api("POST", path, {"all": True, "filter": {"reason_contains": "timeout"}}), 202)
    assert (none["total"], none["items"]) == (0, [])
    matching = good(api("POST", path, {"all": True, "filter": {"reason_contains": "stock", "topic": topic.name}}), 202)
    assert [(i["id"], i["state"]) for i in matching["items"]] == [(i, "redriven") for i in ids[2:5]]
    assert good(api("GET", f"consumer-groups/{group.name}/dead-letters"))["results"] == []

    again = api("POST", f"consumer-groups/{group.name}/pull", {"max": 100}).body
    assert sorted(m["id"] for m in again["messages"]) == ids[:5]
    listed = good(api("GET", path))
    assert [j["id"] for j in listed["results"]] == [matching["id"], none["id"], selected["id"], job["id"]]
    assert good(api("GET", f"{path}/{job['id']}"))["reason"] == "stock is back"
    items = good(api("GET", f"{path}/{selected['id']}/items?limit=2"))
    assert [i["id"] for i in items["results"]] == [42, ids[1]]
    assert [i["id"] for i in good(api("GET", items["next"].split("/api/v1/")[1]))["results"]] == [ids[5]]
    assert AuditEntry.objects.filter(kind="consumer group", action="redrive", name=group.name).count() == 4


def test_more_than_a_thousand_go_on_in_the_worker(api, topic, group):
    from messages import services

    ids = send(api, topic, *["x"] * 1000) + send(api, topic, *["x"] * 5)
    kill(api, group, set(ids[:1000]))
    kill(api, group, set(ids[1000:]))
    job = good(api("POST", f"consumer-groups/{group.name}/redrives", {"all": True}), 202)
    assert (job["state"], job["total"], job["redriven"]) == ("running", 1005, 1000)
    services.run_redrives()
    job = good(api("GET", f"consumer-groups/{group.name}/redrives/{job['id']}"))
    assert (job["state"], job["redriven"]) == ("finished", 1005)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({}, 400, "invalid_redrive"),
        ({"ids": []}, 400, "invalid_redrive"),
        ({"ids": [1], "all": True}, 400, "invalid_redrive"),
        ({"ids": list(range(1, 1002))}, 400, "invalid_redrive"),
        ({"ids": ["1"]}, 400, "invalid"),
        ({"ids": [0]}, 400, "invalid"),
        ({"ids": [2**63]}, 400, "invalid"),
        ({"ids": 5}, 400, "invalid"),
        ({"filter": {"reason_contains": "x"}}, 400, "invalid"),
        ({"all": True, "filter": {"why": "x"}}, 400, "unknown_field"),
        ({"all": True, "filter": {"before": "x"}}, 400, "invalid_time"),
        ({"all": True, "filter": {"topic": "no_such"}}, 404, "not_found"),
        ({"all": True, "filter": {"key": 5}}, 400, "invalid"),
        ({"all": True, "rate": 5}, 400, "unknown_field"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_it_refuses_a_bad_redrive(api, group, fields, status, code):
    refused(api("POST", f"consumer-groups/{group.name}/redrives", fields), status, code)
    assert good(api("GET", f"consumer-groups/{group.name}/redrives"))["results"] == []


def test_a_redrive_belongs_to_its_group(world, api, topic, group):  # noqa: F811
    (a,) = send(api, topic, "a")
    kill(api, group, {a})
    job = good(api("POST", f"consumer-groups/{group.name}/redrives", {"all": True}), 202)
    other = world.group(topic)
    refused(api("GET", f"consumer-groups/{other.name}/redrives/{job['id']}"), 404, "not_found")
    refused(api("GET", f"consumer-groups/{other.name}/redrives/{job['id']}/items"), 404, "not_found")
    refused(api("GET", f"consumer-groups/{group.name}/redrives/9999999999999999999"), 404, "not_found")


# --- permissions ------------------------------------------------------------------------------------------------------

READS = [
    "messages",
    "messages/1",
    "delayed-messages",
    "delayed-messages/1",
    "{g}/dead-letters",
    "{g}/redrives",
    "{g}/redrives/1",
    "{g}/status",
]
WRITES = [("PATCH", "delayed-messages/1"), ("DELETE", "delayed-messages/1"), ("POST", "{g}/redrives")]


@pytest.mark.parametrize("path", READS)
def test_reading_needs_a_permission(world, group, path):  # noqa: F811
    path = path.format(g=f"consumer-groups/{group.name}")
    refused(world.api_anonymous("GET", path), 401, "not_authenticated")
    refused(world.api_nobody("GET", path), 403, "forbidden")
    assert world.api_viewer("GET", path).status_code != 403


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_writing_needs_more_than_reading(world, group, method, path):  # noqa: F811
    path = path.format(g=f"consumer-groups/{group.name}")
    refused(world.api_anonymous(method, path, {}), 401, "not_authenticated")
    refused(world.api_viewer(method, path, {}), 403, "forbidden")


def test_it_refuses_groups_that_are_not_there(api):
    for method, path in [("GET", "dead-letters"), ("GET", "status"), ("GET", "redrives"), ("POST", "redrives")]:
        refused(api(method, f"consumer-groups/no_such/{path}", {"all": True} if method == "POST" else None), 404, "not_found")
