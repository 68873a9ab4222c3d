"""Requests in the console: asking, editing, deciding, policies and targets, by the forms that people see."""

import pytest
from django.test import Client

from core.approvals import workflow
from core.approvals.models import NotificationTarget, Policy, Request
from tests.approvals_world import active, active_group, apply, change, make_people
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db):
    return make_people()


@pytest.fixture
def as_alice(world):
    client = Client()
    client.force_login(world.alice)
    return client


@pytest.fixture
def as_bob(world):
    client = Client()
    client.force_login(world.bob)
    return client


def form_of(client, url):
    """The fields of a page's form as a browser would send them back."""
    page = client.get(url)
    assert page.status_code == 200, page.content.decode()[:500]
    form = page.context["form"]
    rows = getattr(form, "rows", None)
    fields = {field.html_name: field.value() for field in form}
    if rows is not None:
        fields |= {field.html_name: field.value() for part in (rows.management_form, *rows.forms) for field in part}
    fields = {name: getattr(value, "pk", value) for name, value in fields.items() if value is not None and value is not False}
    return {**fields, "seen": page.context.get("seen", "")}


def problem_of(page):
    return page.context["problem"].code if page.context and page.context.get("problem") else None


def test_a_change_is_asked_for_previewed_edited_and_approved(world, as_alice, as_bob):
    active(world)
    url = "/admin/topics/order_topic/ask-change/"
    fields = form_of(as_alice, url) | {"expected_rate": 900, "reason": "more orders"}
    preview = as_alice.post(url, fields | {"preview": "1"})
    assert (preview.context["preview"], Request.objects.filter(kind="topic.change").exists()) == ({"policy": None}, False)
    made = as_alice.post(url, fields)
    request = Request.objects.get(kind="topic.change")
    assert (made.status_code, made["Location"], request.payload) == (302, f"/admin/requests/{request.pk}/", {"expected_rate": 900})
    edit = f"{url}?request={request.pk}"
    assert as_bob.get(edit).status_code == 404
    assert as_alice.post(edit, form_of(as_alice, edit) | {"expected_rate": 100, "partitions": 8}).status_code == 302
    request.refresh_from_db()
    assert request.payload == {"partitions": 8}
    page = as_bob.get(f"/admin/requests/{request.pk}/").content.decode()
    assert "Partitions" in page
    assert "<del" in page
    approve = f"/admin/requests/{request.pk}/approve/"
    assert as_bob.post(approve, form_of(as_bob, approve)).status_code == 302
    assert Topic.objects.get().partitions == 8


def test_an_edit_between_looking_and_approving_is_not_approved_unseen(world, as_bob):
    active(world)
    request = change(world, {"expected_rate": 900})
    url = f"/admin/requests/{request.pk}/approve/"
    fields = form_of(as_bob, url)
    workflow.edit(actor=world.alice, request=request, payload={"expected_rate": 90_000})
    page = as_bob.post(url, fields)
    assert (page.status_code, problem_of(page), Topic.objects.get().expected_rate) == (200, "state_changed", 100)


def test_a_group_is_asked_for_another_filter(world, as_alice):
    active(world)
    active_group(world)
    url = "/admin/groups/bills/ask-change/"
    fields = form_of(as_alice, url) | {"subscriptions-0-tags": "paid", "reason": "only paid ones"}
    made = as_alice.post(url, fields)
    assert made.status_code == 302, made.context["form"].errors
    assert Request.objects.get(kind="group.change").payload == {"subscriptions": [{"topic": "order_topic", "tags": "paid"}]}


def test_what_goes_over_a_limit_asks_for_a_box(world, as_bob):
    from clusters import services as clusters

    clusters.change(actor=world.bob, cluster=clusters.ensure_builtin(), address="", description="", max_topics=0)
    apply(world)
    request = Request.objects.get()
    url = f"/admin/requests/{request.pk}/approve/"
    fields = {"cluster": clusters.ensure_builtin().pk, "reason": "", "version": "1"} | {"seen": form_of(as_bob, url)["seen"]}
    page = as_bob.post(url, fields)
    assert (problem_of(page), "accept_warnings" in page.content.decode()) == ("confirmation_needed", True)
    assert as_bob.post(url, fields | {"accept_warnings": "on"}).status_code == 302
    assert Topic.objects.get().state == "active"


def test_declined_sent_again_commented_and_withdrawn(world, as_alice, as_bob):
    active(world)
    request = change(world, {"expected_rate": 900})
    base = f"/admin/requests/{request.pk}"
    assert as_bob.post(f"{base}/decline/", form_of(as_bob, f"{base}/decline/") | {"reason": "why?"}).status_code == 302
    assert as_alice.post(f"{base}/", {"text": "because"}).status_code == 302
    assert as_alice.post(f"{base}/resubmit/", form_of(as_alice, f"{base}/resubmit/")).status_code == 302
    assert as_alice.post(f"{base}/withdraw/", form_of(as_alice, f"{base}/withdraw/")).status_code == 302
    request.refresh_from_db()
    assert (request.state, request.comments.filter(text="because").count()) == ("withdrawn", 1)


def test_a_stale_change_is_shown_as_such_and_rebased_with_one_click(world, as_alice, as_bob):
    topic = active(world)
    request = change(world, {"expected_rate": 900})
    Topic.objects.filter(pk=topic.pk).update(version=9, expected_rate=150)
    assert as_bob.get(f"/admin/requests/{request.pk}/").context["stale"]
    url = f"/admin/requests/{request.pk}/rebase/"
    assert as_alice.post(url, form_of(as_alice, url)).status_code == 302
    request.refresh_from_db()
    assert (request.base_version, request.before) == (9, {"expected_rate": 150})


def test_lists_show_what_waits_for_whom(world, as_alice, as_bob):
    active(world)
    change(world, {"expected_rate": 900})
    shown = lambda client, view: [row.kind for row in client.get(f"/admin/requests/?view={view}").context["rows"]]  # noqa: E731
    assert (shown(as_bob, "todo"), shown(as_alice, "todo"), shown(as_alice, "mine")) == (
        ["topic.change"], [], ["topic.create", "topic.change"],
    )  # fmt: skip
    assert as_bob.get("/admin/requests/x%00/").status_code == 404
    assert as_bob.get("/admin/requests/99999999999999999999/").status_code == 404


def test_a_policy_is_tested_then_added_changed_and_deleted(world, as_bob):
    active(world)
    change(world, {"expected_rate": 900})
    url = "/admin/policies/add/"
    fields = form_of(as_bob, url) | {"name": "small", "kinds": ["topic.create", "topic.change"], "max_rate": 500}
    tested = as_bob.post(url, fields | {"test": "1"}).context["rehearsal"]
    assert (tested["approved"], tested["of"], Policy.objects.count()) == (1, 2, 0)
    assert as_bob.post(url, fields).status_code == 302
    rule = Policy.objects.get()
    edit = f"/admin/policies/{rule.pk}/"
    stale = form_of(as_bob, edit)
    assert as_bob.post(edit, form_of(as_bob, edit) | {"max_rate": 50}).status_code == 302
    assert problem_of(as_bob.post(edit, stale | {"max_rate": 70})) == "state_changed"
    assert as_bob.get("/admin/policies/").status_code == 200
    assert as_bob.post(f"{edit}delete/", {"reason": "no more"}).status_code == 302
    assert not Policy.objects.exists()


def test_targets_are_added_with_a_secret_that_is_shown_once(world, as_bob, settings):
    settings.OUTBOUND_ALLOW, settings.OUTBOUND_HTTP = ["127.0.0.0/8"], True
    url = "/admin/notifications/add/"
    page = as_bob.post(url, {"name": "chat", "channel": "webhook", "address": "http://127.0.0.1:9/x", "enabled": "on"}, follow=True)
    target = NotificationTarget.objects.get()
    assert target.secret.reveal() in page.content.decode()
    edit = f"/admin/notifications/{target.pk}/"
    assert target.secret.reveal() not in as_bob.get(edit).content.decode()
    assert as_bob.post(edit, form_of(as_bob, edit) | {"name": "team chat"}).status_code == 302
    assert as_bob.post(f"{edit}secret/", {}).status_code == 302
    settings.OUTBOUND_ALLOW = []
    refused = as_bob.post(url, {"name": "in", "channel": "webhook", "address": "http://127.0.0.1:9/x"})
    assert problem_of(refused) == "address_not_allowed"
    assert as_bob.post(f"{edit}delete/", {"reason": "moved"}).status_code == 302
    assert as_bob.get("/admin/notifications/").status_code == 200


def test_pages_need_their_permissions(world):
    from accounts.models import User

    client = Client()
    client.force_login(User.objects.create_user("nobody", password="x", is_staff=True))
    active(world)
    for path in (
        "requests/",
        "requests/1/",
        "policies/",
        "policies/add/",
        "notifications/",
        "notifications/add/",
        "topics/order_topic/ask-change/",
    ):
        assert client.get(f"/admin/{path}").status_code == 403, path


def test_who_loses_to_others_at_the_same_moment_keeps_the_form(world, as_bob, monkeypatch):
    from django.db import OperationalError
    from psycopg import errors

    def victim(**_kwargs):
        raise OperationalError("deadlock detected") from errors.DeadlockDetected()

    active(world)
    request = change(world, {"expected_rate": 900})
    monkeypatch.setattr(workflow, "decline", victim)
    page = as_bob.post(f"/admin/requests/{request.pk}/decline/", {"reason": "what I have typed"})
    assert page.status_code == 200
    assert "what I have typed" in page.content.decode()
    assert "Others are changing the same things just now." in page.content.decode()
