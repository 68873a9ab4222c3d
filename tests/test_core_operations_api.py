"""Operations over REST: what they show, who sees them, and their verbs."""

import uuid

import pytest
from conftest import Api, token_for
from django.contrib.auth.models import Permission
from operations_world import run

from accounts.models import User
from core.operations import driving, services
from core.operations.models import Operation
from core.operations.services import NewItem

pytestmark = pytest.mark.django_db


@pytest.fixture
def operation(admin_person):
    items = [NewItem(f"n{i}", {"poison": "problem"} if i < 3 else {}) for i in range(15)]
    return services.start(actor=admin_person, kind="test.each", title="Tidy up", items=items, params={"a": 1}, reason="spring")


def developer(name="dora"):
    from django.contrib.auth.models import Group

    person = User.objects.create_user(name, password="correct horse battery")
    person.groups.add(Group.objects.get(name="developer"))
    return person


def test_it_tells_how_far_it_is(api, operation):
    driving.take_on(operation.pk)
    body = api("GET", f"operations/{operation.uid}").body
    assert body["progress"].keys() == {"done", "failed", "skipped", "total", "rate", "eta"}
    assert [body["progress"][key] for key in ("done", "failed", "skipped", "total")] == [7, 3, 0, 15]
    assert body["steps"] == [{"name": "items", "state": "running", "done": 7, "failed": 3, "skipped": 0, "total": 15}]
    assert (body["id"], body["kind"], body["title"], body["state"], body["started_by"], body["reason"], body["params"]) == (
        str(operation.uid), "test.each", "Tidy up", "running", "alice", "spring", {"a": 1},
    )  # fmt: skip
    assert body["error"] is None
    assert body["kind_known"] is True


def test_it_lists_them_newest_first_and_filters(api, operation, second_person):
    other = run(services.start(actor=second_person, kind="test.many", title="Other", items=["a"]))
    rows = api("GET", "operations").body["results"]
    assert [row["id"] for row in rows] == [str(other.uid), str(operation.uid)]
    for query, found in [
        ("state=succeeded", [other]), ("state=queued", [operation]), ("state=unknown", []), ("state=running", []),
        ("kind=test.each", [operation]), ("started_by=bob", [other]),
    ]:  # fmt: skip
        answer = api("GET", f"operations?{query}")
        assert [row["id"] for row in answer.body["results"]] == [str(one.uid) for one in found], query
    assert api("GET", "operations?state=odd").status_code == 400
    page = api("GET", "operations?limit=1").body
    assert page["next"]
    assert api("GET", page["next"].split("/api/v1/")[1]).body["results"][0]["id"] == str(operation.uid)


def test_it_pages_through_what_failed(api, operation):
    run(operation)
    first = api("GET", f"operations/{operation.uid}/failures?limit=2&count=true").body
    assert first["count"] == 3
    assert [(row["index"], row["id"], row["code"], row["detail"]) for row in first["results"]] == [
        (0, "n0", "too_dusty", "Too dusty. Wipe it first."), (1, "n1", "too_dusty", "Too dusty. Wipe it first."),
    ]  # fmt: skip
    second = api("GET", first["next"].split("/api/v1/")[1]).body
    assert [row["id"] for row in second["results"]] == ["n2"]
    assert second["next"] is None


def test_its_verbs(api, operation):
    path = f"operations/{operation.uid}"
    assert api("POST", f"{path}/pause", {"reason": "lunch"}).body["state"] == "paused"
    assert api("POST", f"{path}/resume", {}).body["state"] == "queued"
    run(operation)
    assert api("POST", f"{path}/retries", {}).body["state"] == "queued"
    cancelled = api("POST", f"{path}/cancellation", {}).body
    assert (cancelled["state"], cancelled["progress"]["skipped"]) == ("cancelled", 3)
    refused = api("POST", f"{path}/pause", {})
    assert (refused.status_code, refused.body["code"], refused.body["state"]) == (409, "wrong_state", "cancelled")


def test_one_that_is_not_there(api):
    for path in (f"operations/{uuid.uuid4()}", "operations/7", f"operations/{uuid.uuid4()}/failures"):
        answer = api("GET", path)
        assert (answer.status_code, answer.body["code"]) == (404, "not_found")


def test_a_developer_sees_and_controls_what_they_started_and_nothing_else(operation, client):
    dora = developer()
    api = Api(client, token_for(dora))
    Operation.objects.filter(pk=operation.pk).update(kind="test.each")
    assert api("GET", "operations").body["results"] == []
    for method, path in [("GET", ""), ("GET", "/failures"), ("POST", "/pause"), ("POST", "/cancellation")]:
        assert api(method, f"operations/{operation.uid}{path}", {} if method == "POST" else None).status_code == 404
    Operation.objects.filter(pk=operation.pk).update(started_by=dora)
    assert [row["id"] for row in api("GET", "operations").body["results"]] == [str(operation.uid)]
    assert api("POST", f"operations/{operation.uid}/pause", {}).status_code == 200


def test_who_may_only_look_cannot_control(operation, client, person_without_rights):
    person_without_rights.user_permissions.add(Permission.objects.get(codename="view_operation"))
    api = Api(client, token_for(person_without_rights))
    assert api("GET", f"operations/{operation.uid}").status_code == 200
    assert api("POST", f"operations/{operation.uid}/pause", {}).status_code == 403


def test_without_a_permission_nothing_is_seen(api_without_rights, api_anonymous, operation):
    for path in ("operations", f"operations/{operation.uid}", f"operations/{operation.uid}/failures"):
        assert api_without_rights("GET", path).status_code == 403
        assert api_anonymous("GET", path).status_code == 401


def test_a_list_costs_the_same_for_two_and_for_twenty(api, admin_person):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    api("GET", "operations")  # the token is read once
    counts = []
    for number in (2, 18):
        for _ in range(number):
            services.start(actor=admin_person, kind="test.each", title="Tidy", items=["a"])
        with CaptureQueriesContext(connection) as asked:
            api("GET", "operations")
        counts.append(len(asked))
    assert counts[0] == counts[1]
