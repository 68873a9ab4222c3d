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
    assert {"search_messages", "retrieve_message", "cancel_delayed_message", "start_redrive", "list_redrives"} <= operations


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


def test_the_life_of_a_message_is_told(world, api, topic, group):  # noqa: F811
    a, b = send(api, topic, *"ab")
    kill(api, group, {a})
    good(api("POST", f"consumer-groups/{group.name}/redrives", {"ids": [a]}), 202)
    events = good(api("GET", f"messages/{a}/trace"))["results"]
    assert {e["event"] for e in events} == {"sent", "pulled", "failed", "redriven", "retry"}
    redriven = next(e for e in events if e["event"] == "redriven")
    assert (redriven["group"], redriven["by"], redriven["message"]) == (group.name, "wang", None)
    assert next(e for e in events if e["event"] == "pulled")["consumer"] == "w1"
    assert [e["event"] for e in good(api("GET", f"messages/{b}/trace"))["results"]] == ["sent", "pulled", "succeeded"]
    (late,) = send(api, topic, "x", delay_ms=3_600_000)
    good(api.now("PATCH", f"delayed-messages/{late}", {"delay_ms": 7_200_000}))
    moved = good(api("GET", f"messages/{late}/trace"))["results"]
    assert [(e["event"], e["by"]) for e in moved] == [("sent", None), ("delayed", None), ("rescheduled", "wang"), ("due", None)]
    refused(api("GET", "messages/12345/trace"), 404, "not_found")
    assert good(world.api_viewer("GET", f"messages/{a}/trace"))["results"]


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


def test_all_that_match_are_counted_moved_and_cancelled(world, api, topic):  # noqa: F811
    from core.audit.models import AuditEntry
    from core.operations import driving
    from core.operations.models import Operation

    def finish(answer):
        job = good(answer, 202)
        assert answer.headers["Location"].endswith(f"/api/v1/operations/{job['id']}")
        while driving.take_on(Operation.objects.get(uid=job["id"]).pk):
            pass
        return good(api("GET", f"operations/{job['id']}"))

    kept, *ids = send(api, topic, *"abc", delay_ms=3_600_000)
    hours = good(api("GET", f"delayed-messages/hours?topic={topic.name}&hours=3"))["results"]
    assert (len(hours), sum(hour["messages"] for hour in hours)) == (3, 3)
    api.now("PATCH", f"delayed-messages/{kept}", {"delay_ms": 90_000_000})
    soon = {"topic": topic.name, "due_to": (datetime.now(UTC) + timedelta(hours=2)).isoformat()}
    path = "delayed-messages/reschedules"
    moved = finish(api("POST", path, {"all": True, "filter": soon, "delay_ms": 7_200_000_000, "reason": "later"}))
    assert (moved["kind"], moved["state"], moved["progress"]["done"]) == ("messages.reschedule_delayed", "succeeded", 2)
    listed = good(api("GET", f"delayed-messages?topic={topic.name}"))["results"]
    assert [m["id"] for m in listed] == [kept, *ids]
    gone = finish(api("POST", "delayed-messages/cancellations", {"all": True, "filter": {"topic": topic.name}}))
    assert (gone["kind"], gone["progress"]["done"]) == ("messages.cancel_delayed", 3)
    assert good(api("GET", f"delayed-messages?topic={topic.name}"))["results"] == []
    audit = AuditEntry.objects.filter(kind="delayed messages", name=topic.name).order_by("id")
    assert [(entry.action, entry.reason) for entry in audit] == [("reschedule", "later"), ("cancel", "")]
    for wrong, code in (
        ({}, "invalid"),
        ({"all": False}, "invalid"),
        ({"all": True, "filter": {"price": 1}}, "unknown_field"),
        ({"all": True, "filter": {"due_to": "soon"}}, "invalid_time"),
    ):
        refused(api("POST", "delayed-messages/cancellations", wrong), 400, code)
    refused(api("POST", path, {"all": True}), 400, "invalid")
    refused(api("POST", path, {"all": True, "deliver_at": "2001-01-01T00:00:00Z"}), 400, "delay_out_of_range")
    refused(api("POST", path, {"all": True, "filter": {"topic": "no_such"}, "delay_ms": 0}), 404, "not_found")
    refused(api("GET", "delayed-messages/hours?hours=169"), 400, "invalid")
    refused(world.api_viewer("POST", "delayed-messages/cancellations", {"all": True}), 403, "forbidden")


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


def failures(api, job):
    return {i["id"]: i["code"] for i in good(api("GET", f"operations/{job['id']}/failures"))["results"]}


def test_one_selected_and_all_matching_are_redriven_with_a_result_each(world, api, topic, group):  # noqa: F811
    from core.audit.models import AuditEntry

    ids = send(api, topic, *"abcdef")
    kill(api, group, set(ids[:5]))
    path = f"consumer-groups/{group.name}/redrives"

    one = api("POST", path, {"ids": [ids[0]], "reason": "stock is back"})
    job = good(one, 202)
    assert one.headers["Location"].endswith(f"/api/v1/operations/{job['id']}")
    assert (job["kind"], job["state"], job["reason"], job["started_by"]) == ("messages.redrive", "succeeded", "stock is back", "wang")
    assert (job["progress"]["total"], job["progress"]["done"], job["progress"]["failed"]) == (1, 1, 0)

    selected = good(api("POST", path, {"ids": [ids[1], ids[5], 42]}), 202)
    assert (selected["state"], failures(api, selected)) == ("partial", {str(ids[5]): "not_dead", "42": "not_dead"})

    none = good(api("POST", path, {"all": True, "filter": {"reason_contains": "timeout"}}), 202)
    assert (none["state"], none["progress"]["total"]) == ("succeeded", 0)
    matching = good(api("POST", path, {"all": True, "filter": {"reason_contains": "stock", "topic": topic.name}}), 202)
    assert matching["params"]["values"] == {"group": group.name, "to": "group", "reason_contains": "stock", "topic": topic.name}
    assert good(api("GET", f"consumer-groups/{group.name}/dead-letters"))["results"] == []

    again = api("POST", f"consumer-groups/{group.name}/pull", {"max": 100}).body
    assert sorted(m["id"] for m in again["messages"]) == ids[:5]
    listed = good(api("GET", f"{path}?limit=4"))
    assert [r["message"] for r in listed["results"]] == ids[4:0:-1]
    assert [r["message"] for r in good(api("GET", listed["next"].split("/api/v1/")[1]))["results"]] == ids[:1]
    (first,) = good(api("GET", f"{path}?message={ids[0]}"))["results"]
    assert {k: first[k] for k in ("to", "topic", "new_message", "operation", "by")} == {
        "to": "group", "topic": None, "new_message": None, "operation": job["id"], "by": "wang",
    }  # fmt: skip
    assert AuditEntry.objects.filter(kind="consumer group", action="redrive", name=group.name).count() == 4


def test_they_go_to_their_topic_or_to_another_one(world, api, topic, group):  # noqa: F811
    from core.operations import driving
    from core.operations.models import Operation
    from messages import services

    other = world.topic()
    beside = world.group(topic, other)
    ids = send(api, topic, *"ab", key="k")
    kill(api, group, set(ids))
    path = f"consumer-groups/{group.name}/redrives"
    jobs = [
        good(api("POST", path, {"ids": ids[:1], "to": "topic"}), 202),
        good(api("POST", path, {"ids": ids[1:], "to": "topic", "topic": other.name}), 202),
    ]
    for job in jobs:
        while driving.take_on(Operation.objects.get(uid=job["id"]).pk):
            pass
        assert good(api("GET", f"operations/{job['id']}"))["state"] == "succeeded"
    rows = good(api("GET", path))["results"]
    assert [(r["message"], r["to"], r["topic"]) for r in rows] == [(ids[1], "topic", other.name), (ids[0], "topic", topic.name)]
    services.tick()
    got = api("POST", f"consumer-groups/{beside.name}/pull", {"max": 10}).body["messages"]
    copies = {m["id"]: m for m in got if m["headers"]}
    assert sorted(copies) == sorted(r["new_message"] for r in rows)
    copy = copies[rows[0]["new_message"]]
    assert (copy["topic"], copy["body"], copy["key"]) == (other.name, "b", "k")
    assert copy["headers"] == {"mq-redriven-from": str(ids[1]), "mq-redriven-group": group.name}
    counted = good(api("GET", f"consumer-groups/{group.name}/status"))["counts"]
    assert (counted["dead"], counted["failed"]) == (0, 2)


def test_what_is_held_back_is_left_to_the_workers(api, topic, group):
    ids = send(api, topic, *"abc")
    kill(api, group, set(ids))
    job = good(api("POST", f"consumer-groups/{group.name}/redrives", {"all": True, "rate": 1.5, "canary": 1, "stop_at": 0.2}), 202)
    assert (job["state"], [(s["name"], s["total"]) for s in job["steps"]]) == ("queued", [("canary", 1), ("rest", 2)])
    assert {k: job["params"][k] for k in ("to", "rate", "canary", "stop_at")} == {"to": "group", "rate": 1.5, "canary": 1, "stop_at": 0.2}
    assert good(api("POST", f"operations/{job['id']}/cancellation", {}))["state"] == "cancelled"


def test_who_may_not_send_to_a_topic_redrives_to_none(world, api, topic, group):  # noqa: F811
    (a,) = send(api, topic, "a")
    kill(api, group, {a})
    closed = world.topic(approve=False)
    path = f"consumer-groups/{group.name}/redrives"
    refused(api("POST", path, {"ids": [a], "to": "topic", "topic": closed.name}), 409, "topic_not_active")
    refused(api("POST", path, {"ids": [a], "to": "topic", "topic": "no_such"}), 404, "not_found")
    refused(api("POST", path, {"ids": [a], "topic": topic.name}), 400, "invalid_redrive")


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
        ({"all": True, "speed": 5}, 400, "unknown_field"),
        ({"all": True, "rate": 0}, 400, "invalid_redrive"),
        ({"all": True, "rate": "fast"}, 400, "invalid"),
        ({"all": True, "canary": -1}, 400, "invalid_redrive"),
        ({"all": True, "stop_at": 2}, 400, "invalid_redrive"),
        ({"all": True, "to": "moon"}, 400, "invalid"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_it_refuses_a_bad_redrive(api, group, fields, status, code):
    refused(api("POST", f"consumer-groups/{group.name}/redrives", fields), status, code)
    assert good(api("GET", f"consumer-groups/{group.name}/redrives"))["results"] == []


def test_causes_purge_and_export(world, api, topic, group):  # noqa: F811
    from core.audit.models import AuditEntry

    ids = send(api, topic, *"abc", key="k")
    kill(api, group, set(ids))
    base = f"consumer-groups/{group.name}"
    causes = good(api("GET", f"{base}/dead-letters/causes"))
    assert [(c["cause"], c["messages"]) for c in causes["results"]] == [("no stock", 3)]
    assert (causes["causes"], causes["looked_at"], causes["complete"], causes["in_hour"]) == (1, 3, True, 3)
    assert len(good(api("GET", f"{base}/dead-letters?cause=no%20stock&limit=2"))["results"]) == 2
    assert good(api("GET", f"{base}/dead-letters?cause=no"))["results"] == []

    fields = {"ids": ids[:2], "reason": "test orders"}
    refused(api("POST", f"{base}/purges", {**fields, "confirm": "other"}), 400, "not_confirmed")
    refused(api("POST", f"{base}/purges", {"ids": ids[:2], "confirm": group.name}), 400, "invalid")
    refused(api("POST", f"{base}/purges", {"confirm": group.name, "reason": "x"}), 400, "invalid_redrive")
    assert good(api("GET", f"{base}/status"))["counts"]["dead"] == 3
    job = good(api("POST", f"{base}/purges", {**fields, "confirm": group.name}), 202)
    assert (job["kind"], job["state"], job["progress"]["done"]) == ("messages.purge", "succeeded", 2)
    counted = good(api("GET", f"{base}/status"))["counts"]
    assert (counted["dead"], counted["failed"], counted["succeeded"]) == (1, 2, 0)
    last = good(api("POST", f"{base}/purges", {"all": True, "filter": {"cause": "no stock"}, "reason": "r", "confirm": group.name}), 202)
    assert last["progress"]["total"] == 1
    entry = AuditEntry.objects.get(kind="consumer group", action="purge", name=group.name, reason="test orders")
    assert entry.after["messages"] == 2


def test_a_dead_letter_goes_on_edited(api, topic, group):
    from messages import services

    a, b = send(api, topic, *"ab", key="k")
    kill(api, group, {a, b})
    path = f"consumer-groups/{group.name}/dead-letters"
    answer = api("POST", f"{path}/{a}/redrive", {"body": "", "headers": {"x": "1"}, "reason": "typo"})
    made = good(answer, 201)
    assert (made["message"], made["to"], made["topic"], made["by"]) == (a, "group", topic.name, "wang")
    assert answer.headers["Location"].endswith(f"/api/v1/messages/{made['new_message']}")
    services.tick()
    (got,) = api("POST", f"consumer-groups/{group.name}/pull", {"max": 10}).body["messages"]
    assert (got["id"], got["topic"], got["body"], got["key"], got["headers"]["x"]) == (made["new_message"], topic.name, "", "k", "1")
    shown = good(api("GET", f"messages/{got['id']}"))
    assert (shown["topic"], [g["group"] for g in shown["groups"]]) == (topic.name, [group.name])
    refused(api("POST", f"{path}/{a}/redrive", {"body": "x"}), 409, "not_dead")
    refused(api("POST", f"{path}/12345/redrive", {"body": "x"}), 404, "not_found")
    refused(api("POST", f"{path}/{b}/redrive", {"body": "x", "body_base64": "eA=="}), 400, "invalid")
    refused(api("POST", f"{path}/{b}/redrive", {"tag": "a b"}), 400, "invalid_tag")
    refused(api("POST", f"{path}/{b}/redrive", {"topic": topic.name}), 400, "invalid_redrive")
    sent = good(api("POST", f"{path}/{b}/redrive", {"body_base64": "/w==", "to": "topic", "key": None}), 201)
    assert (sent["to"], good(api("GET", f"messages/{sent['new_message']}"))["key"]) == ("topic", None)


@pytest.mark.parametrize(("person", "sees"), [("api", True), ("api_viewer", False)])
def test_an_export_has_the_bodies_for_those_who_may_read_them(world, topic, group, person, sees):  # noqa: F811
    import json

    from core.audit.models import AuditEntry

    ids = send(world.api, topic, *"ab")
    kill(world.api, group, set(ids))
    path = f"/api/v1/consumer-groups/{group.name}/dead-letters/export"
    client = getattr(world, person)
    headers = {**client.headers, "Accept": "text/csv"}
    answer = client.client.get(path, headers=headers)
    lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    assert [(line["id"], line.get("body")) for line in lines] == [(i, b if sees else None) for i, b in zip(ids[::-1], "ba", strict=True)]
    table = b"".join(client.client.get(f"{path}?as=csv&topic={topic.name}", headers=headers).streaming_content).decode()
    assert ("body_base64" in table.splitlines()[0]) is sees
    refused(client("GET", f"{path.removeprefix('/api/v1/')}?as=xml"), 400, "invalid")
    assert AuditEntry.objects.filter(kind="consumer group", action="export", name=group.name).count() == 2


# --- permissions ------------------------------------------------------------------------------------------------------

READS = [
    "messages",
    "messages/1",
    "delayed-messages",
    "delayed-messages/1",
    "messages/1/trace",
    "delayed-messages/hours",
    "{g}/dead-letters",
    "{g}/dead-letters/causes",
    "{g}/redrives",
    "{g}/status",
]
WRITES = [("PATCH", "delayed-messages/1"), ("DELETE", "delayed-messages/1"), ("POST", "{g}/redrives"), ("POST", "{g}/purges")]


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
