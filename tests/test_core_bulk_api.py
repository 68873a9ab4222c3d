"""One verb for many things: a result for each, all or nothing, an operation above a hundred."""

import pytest
from console_world import group, topic
from operations_world import run

from accounts.models import User
from clusters.models import Cluster
from core import bulk
from core.approvals.models import Request
from core.audit.models import AuditEntry
from core.operations.models import Operation
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def people(admin_person, second_person):
    from types import SimpleNamespace

    return SimpleNamespace(alice=admin_person, bob=second_person)


@pytest.fixture
def pending(people, application):
    return [topic(people, application, f"t{i}", state="pending") for i in range(3)]


@pytest.fixture
def active(people, application):
    return [topic(people, application, f"a{i}") for i in range(3)]


def post(api, resource="topics", **body):
    return api("POST", f"bulk/{resource}", body)


def approve(api, names, **more):
    return post(api, action="approve", items=[{"name": name} for name in names], values={"cluster": "builtin"}, **more)


def many_topics(owner, application, count, state="active"):
    builtin = Cluster.objects.get(name="builtin")
    Topic.objects.bulk_create(
        Topic(name=f"m{i:05}", application=application, owner=owner, expected_rate=1, message_bytes=100, reason="many", requested_by=owner,
              state=state, cluster=builtin)
        for i in range(count)
    )  # fmt: skip


def test_it_does_all_and_says_so_for_each(api2, pending):
    answer = approve(api2, ["t0", "t1", "t2"])
    assert answer.status_code == 200, answer.body
    assert answer.body["results"] == [{"index": i, "id": f"t{i}", "status": 200, "problem": None} for i in range(3)]
    assert (answer.body["done"], answer.body["failed"]) == (3, 0)
    assert set(Topic.objects.values_list("state", flat=True)) == {"active"}
    assert AuditEntry.objects.filter(kind="topic", action="approve").count() == 3


def test_best_effort_does_what_it_can(api2, pending, active):
    answer = approve(api2, ["t0", "a0", "nothing", "t1"])
    assert answer.status_code == 207
    told = [(one["id"], one["status"], one["problem"] and one["problem"]["code"]) for one in answer.body["results"]]
    assert told == [("t0", 200, None), ("a0", 409, "wrong_state"), ("nothing", 404, "not_found"), ("t1", 200, None)]
    assert answer.body["results"][1]["problem"]["request_id"] == answer["X-Request-ID"]
    assert Topic.objects.get(name="t0").state == "active"


def test_atomic_does_all_or_nothing_and_names_the_item(api2, pending, active):
    answer = approve(api2, ["t0", "a0", "t1"], mode="atomic")
    assert answer.status_code == 409
    told = [answer.body[key] for key in ("code", "index", "id", "item_code")]
    assert told == ["item_failed", 1, "a0", "wrong_state"]
    assert answer.body["errors"][0]["pointer"] == "/items/1"
    assert set(Topic.objects.filter(name__startswith="t").values_list("state", flat=True)) == {"pending"}
    assert not AuditEntry.objects.filter(action="approve", name__startswith="t").exists()
    assert approve(api2, ["t0", "t1"], mode="atomic").status_code == 200


def test_atomic_with_something_missing_is_unprocessable(api2, pending):
    answer = approve(api2, ["t0", "nothing"], mode="atomic")
    assert (answer.status_code, answer.body["code"], answer.body["item_code"]) == (422, "item_failed", "not_found")


def test_four_eyes_hold_for_each(api, pending):
    answer = approve(api, ["t0"])
    assert (answer.status_code, answer.body["results"][0]["problem"]["code"]) == (207, "four_eyes")


def test_each_may_have_values_and_a_version_of_its_own(api2, active, people):
    items = [{"name": "a0", "if_match": '"2"'}, {"name": "a1", "if_match": '"1"'}, {"name": "a2", "owner": "alice"}]
    answer = post(api2, action="change-owner", items=items, values={"owner": "bob", "reason": "alice leaves"})
    assert [one["status"] for one in answer.body["results"]] == [200, 412, 200]
    assert answer.body["results"][1]["problem"]["code"] == "stale"
    owners = dict(Topic.objects.values_list("name", "owner__username"))
    assert owners == {"a0": "bob", "a1": "alice", "a2": "alice"}
    assert Topic.objects.get(name="a0").version == 3
    entry = AuditEntry.objects.get(action="change owner")
    assert (entry.name, entry.before, entry.after, entry.reason) == ("a0", {"owner": "alice"}, {"owner": "bob"}, "alice leaves")


def test_a_filter_says_which(api2, active, pending):
    answer = post(api2, action="change-owner", select={"state": "active"}, values={"owner": "bob", "reason": "r"})
    assert [one["id"] for one in answer.body["results"]] == ["a0", "a1", "a2"]
    assert answer.status_code == 200
    nothing = post(api2, action="change-owner", select={"name_contains": "zzz"}, values={"owner": "bob", "reason": "r"})
    assert (nothing.status_code, nothing.body["results"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"action": "approve"}, 400, "invalid"),
        ({"action": "approve", "items": [{"name": "a"}], "select": {}}, 400, "invalid"),
        ({"action": "explode", "items": [{"name": "a"}]}, 400, "unknown_action"),
        ({"action": "approve", "items": [{"name": "a"}], "values": {}}, 400, "invalid"),
        ({"action": "approve", "items": [{"name": "a"}], "values": {"cluster": "builtin", "x": 1}}, 400, "unknown_field"),
        ({"action": "approve", "items": [{"name": "a"}], "values": {"cluster": "no"}}, 400, "invalid"),
        ({"action": "approve", "items": [{"name": "a"}], "values": {"cluster": 3}}, 400, "invalid"),
        ({"action": "approve", "items": [{"name": "a"}, {"name": "a"}], "values": {"cluster": "builtin"}}, 400, "duplicate_item"),
        ({"action": "approve", "items": [{"nom": "a"}], "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "items": [{"name": "a", "if_match": 1}], "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "items": [3], "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "items": [], "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "select": {"colour": "red"}, "values": {"cluster": "builtin"}}, 400, "unknown_field"),
        ({"action": "approve", "select": {"state": "red"}, "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "select": {"owner": "a\x00"}, "values": {"cluster": "builtin"}}, 400, "invalid"),
        ({"action": "approve", "select": {"owner": ["a"]}, "values": {}}, 400, "invalid"),
        ({"action": "approve", "mode": "hope", "items": [{"name": "a"}]}, 400, "invalid"),
    ],
)
def test_what_makes_no_sense_is_refused(api2, body, status, code):
    answer = post(api2, **body)
    assert (answer.status_code, answer.body["code"]) == (status, code), answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_name_that_no_database_can_hold_is_not_found(api2):
    answer = approve(api2, ["a\x00b"])
    assert (answer.status_code, answer.body["results"][0]["status"]) == (207, 404)


def test_an_unknown_resource_is_not_found(api2):
    assert post(api2, "clouds", action="approve", items=[{"name": "a"}]).status_code == 404


def test_it_needs_the_permission_of_the_action(api_without_rights, api_anonymous, pending):
    assert approve(api_without_rights, ["t0"]).status_code == 403
    assert approve(api_anonymous, ["t0"]).status_code == 401
    assert set(Topic.objects.values_list("state", flat=True)) == {"pending"}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(api2, active):
    before = list(Topic.objects.values())
    audited = AuditEntry.objects.count()
    body = {"action": "change-owner", "items": [{"name": "a0"}, {"name": "no"}], "values": {"owner": "bob", "reason": "r"}}
    answer = api2("POST", "bulk/topics?dry_run=true", body)
    assert answer.status_code == 200, answer.body
    assert answer.body["status"] == 207
    assert [one["status"] for one in answer.body["result"]["results"]] == [200, 404]
    assert [(change["name"], change["after"]) for change in answer.body["changes"]] == [("a0", {"owner": "bob"})]
    assert list(Topic.objects.values()) == before
    assert AuditEntry.objects.count() == audited


def test_a_repeated_key_gets_the_first_answer(api2, active):
    body = {"action": "change-owner", "items": [{"name": "a0"}], "values": {"owner": "bob", "reason": "r"}}
    headers = {"Idempotency-Key": "k1"}
    first = api2("POST", "bulk/topics", body, **headers)
    second = api2("POST", "bulk/topics", body, **headers)
    assert first.status_code == second.status_code == 200
    assert first.body == second.body
    assert AuditEntry.objects.filter(action="change owner").count() == 1


def test_more_than_a_hundred_become_an_operation(api2, application, people):
    many_topics(people.alice, application, 130)
    Topic.objects.filter(name="m00007").update(state="pending")
    body = {"action": "change-owner", "select": {}, "values": {"owner": "bob", "reason": "alice leaves"}, "change_message": "spring"}
    answer = post(api2, **body)
    assert answer.status_code == 202, answer.body
    assert answer.headers["Location"].endswith(f"/api/v1/operations/{answer.body['id']}")
    assert (answer.body["state"], answer.body["kind"], answer.body["progress"]["total"]) == ("queued", "topics.change-owner", 130)
    many_topics_later = Topic.objects.exclude(owner=people.bob).count()
    assert many_topics_later == 130
    operation = run(Operation.objects.get(uid=answer.body["id"]))
    assert (operation.state, operation.done, operation.failed) == ("partial", 129, 1)
    assert list(operation.items.filter(state="failed").values_list("key", "code")) == [("m00007", "wrong_state")]
    assert Topic.objects.filter(owner=people.bob).count() == 129
    assert AuditEntry.objects.filter(action="change owner", request_id=f"operation:{operation.uid}", actor_name="bob").count() == 129


def test_named_ones_become_an_operation_too_with_values_of_their_own(api2, application, people):
    many_topics(people.alice, application, 101)
    items = [{"name": f"m{i:05}"} for i in range(101)]
    items[3]["owner"] = "alice"
    items[4]["if_match"] = '"9"'
    answer = post(api2, action="change-owner", items=items, values={"owner": "bob", "reason": "r"})
    operation = run(Operation.objects.get(uid=answer.body["id"]))
    assert (operation.done, operation.failed) == (100, 1)
    assert list(operation.items.filter(state="failed").values_list("key", "code")) == [("m00004", "stale")]
    assert Topic.objects.get(name="m00003").owner == people.alice


def test_a_verb_without_a_short_way_is_done_one_by_one(api2, application, people):
    many_topics(people.alice, application, 101)
    Cluster.objects.create(name="other", kind="kafka", address="10.0.0.1:9092")
    answer = post(api2, action="move", select={}, values={"cluster": "other", "reason": "r"})
    operation = run(Operation.objects.get(uid=answer.body["id"]))
    assert (operation.state, operation.done) == ("succeeded", 101)
    assert Topic.objects.filter(cluster__name="other").count() == 101


def test_all_or_nothing_is_refused_above_a_hundred(api2, application, people):
    many_topics(people.alice, application, 101)
    answer = post(api2, action="change-owner", mode="atomic", select={}, values={"owner": "bob", "reason": "r"})
    assert (answer.status_code, answer.body["code"]) == (422, "atomic_too_large")
    assert not Operation.objects.exists()


def test_wrong_values_are_told_before_an_operation_begins(api2, application, people):
    many_topics(people.alice, application, 101)
    answer = post(api2, action="change-owner", select={}, values={"owner": "nobody", "reason": "r"})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/values/owner")
    assert not Operation.objects.exists()


def test_groups_are_suspended_resumed_handed_over_and_retired(api2, people, application, active):
    for i in range(2):
        group(people, application, f"g{i}", [("a0", "*")])
    items = [{"name": "g0"}, {"name": "g1"}]
    for action, values in [("suspend", {"reason": "r"}), ("resume", {}), ("change-owner", {"owner": "alice", "reason": "r"})]:
        answer = post(api2, "consumer-groups", action=action, items=items, values=values)
        assert answer.status_code == 200, answer.body
    assert {entry.kind for entry in AuditEntry.objects.filter(action="change owner")} == {"consumer group"}
    answer = post(api2, "consumer-groups", action="retire", items=items, values={"reason": "r"})
    assert {one["problem"]["code"] for one in answer.body["results"]} == {"instances_unknown"}


def test_every_verb_has_a_kind_and_a_form():
    from django.utils.module_loading import import_string

    from core.operations import kinds

    for resource in ("topics", "consumer-groups"):
        import_string(bulk.resource_of(resource).lists)
        for verb in bulk.verbs_of(resource):
            assert kinds.get(verb.kind).permission == verb.permission
            form = import_string(verb.form)()
            assert set(form.fields) <= set(verb.serializer().fields), verb.kind


def test_an_owner_who_is_not_active_is_refused(api2, active, person_without_rights):
    User.objects.filter(pk=person_without_rights.pk).update(is_active=False)
    answer = post(api2, action="change-owner", items=[{"name": "a0"}], values={"owner": "carol", "reason": "r"})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/values/owner")


def test_a_dry_run_shows_no_change_of_an_item_that_fails(api2, pending, monkeypatch):
    from core.errors import Problem
    from topics import services

    real = services.approve

    def refused_late(**kwargs):
        done = real(**kwargs)
        if done.name == "t1":
            raise Problem("late", "Refused after its entry was written.", status=409)
        return done

    monkeypatch.setattr(services, "approve", refused_late)
    body = {"action": "approve", "items": [{"name": "t0"}, {"name": "t1"}], "values": {"cluster": "builtin"}}
    answer = api2("POST", "bulk/topics?dry_run=true", body)
    assert (answer.body["status"], [change["name"] for change in answer.body["changes"]]) == (207, ["t0"])


def test_it_does_not_wait_and_says_who_does(api2, pending):
    body = {"action": "approve", "items": [{"name": "t0"}], "values": {"cluster": "builtin"}}
    for address in ("bulk/topics", f"requests/{Request.objects.get(target='t0').pk}/approval"):
        answer = api2("POST", f"{address}?wait=applied&timeout=5s", body)
        assert (answer.status_code, answer.body["code"], "/applied" in answer.body["hint"]) == (400, "unknown_parameter", True)
    assert set(Topic.objects.values_list("state", flat=True)) == {"pending"}
