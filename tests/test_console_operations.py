"""Operations in the console: list, page, its verbs, the event stream; and what is done to rows selected in a list."""

import threading

import pytest
from console_world import group, topic
from django.urls import reverse
from operations_world import done_names, run

from core.operations import driving, services, streams
from core.operations.models import Operation
from core.operations.services import NewItem
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def people(admin_person, second_person):
    from types import SimpleNamespace

    return SimpleNamespace(alice=admin_person, bob=second_person)


@pytest.fixture
def browser(client, second_person):
    client.force_login(second_person, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def operation(admin_person):
    items = [NewItem(f"n{i:02}", {"poison": "problem"} if i < 3 else {}) for i in range(25)]
    return services.start(actor=admin_person, kind="test.each", title="Tidy up", items=items, reason="spring")


def url(page, operation):
    return reverse(f"admin:operations_{page}", args=[operation.uid])


def text(response):
    return response.content.decode()


def test_the_list_shows_how_far_each_is(browser, operation):
    driving.take_on(operation.pk)
    page = text(browser.get(reverse("admin:operations_list")))
    assert "Tidy up" in page
    assert "Running" in page
    assert "40\u202f%" in page
    assert "alice" in page
    assert "No match" in text(browser.get(reverse("admin:operations_list"), {"status": "paused"}))
    assert "Tidy up" in text(browser.get(reverse("admin:operations_list"), {"view": "open"}))


def test_without_any_the_list_says_how_they_come(browser):
    assert "No operations yet" in text(browser.get(reverse("admin:operations_list")))


def test_the_page_shows_progress_steps_and_failures_first(browser, operation):
    run(operation)
    page = text(browser.get(url("detail", operation)))
    assert "Partly done" in page
    assert page.count("too_dusty") == 3
    assert "Retry failed" in page
    assert "n05" not in page
    assert "n05" in text(browser.get(url("detail", operation), {"state": "done"}))


def test_it_shows_the_items_page_by_page(browser, admin_person):
    operation = services.start(actor=admin_person, kind="test.each", title="Long", items=[f"n{i:03}" for i in range(120)])
    first = text(browser.get(url("detail", operation)))
    assert "n049" in first
    assert "n050" not in first
    second = text(browser.get(url("detail", operation), {"after": "49"}))
    assert "n050" in second
    assert "n100" not in second
    for odd in ("x", "-1", "9" * 30):
        assert browser.get(url("detail", operation), {"after": odd}).status_code == 200


def test_its_buttons_do_what_they_say(browser, operation):
    driving.take_on(operation.pk)
    assert browser.get(url("pause", operation)).status_code == 200
    assert browser.post(url("pause", operation), {"reason": "lunch"}).status_code == 302
    operation.refresh_from_db()
    assert operation.state == "paused"
    assert browser.post(url("resume", operation), {"reason": ""}).status_code == 302
    run(operation)
    assert browser.post(url("retry", operation), {"reason": ""}).status_code == 302
    assert browser.post(url("cancel", operation), {"reason": ""}).status_code == 302
    operation.refresh_from_db()
    assert (operation.state, operation.skipped) == ("cancelled", 3)
    refused = browser.get(url("pause", operation))
    assert refused.status_code == 409
    assert "Cancelled" in text(refused)


def test_somebody_elses_is_not_there_for_a_developer(client, operation, person_without_rights):
    from django.contrib.auth.models import Group

    person_without_rights.groups.add(Group.objects.get(name="developer"))
    person_without_rights.is_staff = True
    person_without_rights.save()
    client.force_login(person_without_rights, backend="django.contrib.auth.backends.ModelBackend")
    assert "Tidy up" not in text(client.get(reverse("admin:operations_list")))
    for page in ("detail", "part", "events", "pause", "cancel"):
        assert client.get(url(page, operation)).status_code == 404
    assert client.post(url("cancel", operation), {"reason": ""}).status_code == 404
    Operation.objects.filter(pk=operation.pk).update(started_by=person_without_rights)
    assert client.get(url("detail", operation)).status_code == 200
    assert client.get(url("pause", operation)).status_code == 200


def test_without_the_permission_nothing_is_shown(client, operation, person_without_rights):
    person_without_rights.is_staff = True
    person_without_rights.save()
    client.force_login(person_without_rights, backend="django.contrib.auth.backends.ModelBackend")
    for page in ("detail", "part", "events"):
        assert client.get(url(page, operation)).status_code == 403
    assert client.get(reverse("admin:operations_news")).status_code == 403


def test_the_stream_tells_each_change_and_ends_with_the_operation(browser, operation, monkeypatch):
    monkeypatch.setattr(streams, "LOOK", 0)
    answer = browser.get(url("events", operation))
    assert answer.headers["Content-Type"] == "text/event-stream"
    events = iter(answer.streaming_content)
    assert next(events) == b"retry: 2000\n\n"
    assert b"Queued" in next(events)
    assert streams.is_open() == 1
    driving.take_on(operation.pk)
    assert b"Running" in next(events)
    run(operation)
    assert b"Partly done" in next(events)
    assert next(events).startswith(b"event: end")
    assert list(events) == []
    assert streams.is_open() == 0


def test_over_the_cap_the_page_has_to_poll(browser, operation, settings):
    settings.MAX_EVENT_STREAMS = 0
    answer = browser.get(url("events", operation))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Queued" in text(browser.get(url("part", operation)))


def test_who_comes_too_late_for_a_place_is_told_to_poll_and_a_place_is_given_back(db, settings):
    settings.MAX_EVENT_STREAMS = 1
    held = streams._events(lambda: ("news", False), "en")
    next(held)
    assert list(streams._events(lambda: ("news", False), "en")) == ["event: full\ndata:\n\n"]
    held.close()  # as the server does when the browser has gone
    assert streams.is_open() == 0


def test_a_stream_ends_by_itself_and_when_the_process_ends(browser, operation, monkeypatch):
    monkeypatch.setattr(streams, "LASTS", 0)
    assert list(browser.get(url("events", operation)).streaming_content) == [b"retry: 2000\n\n"]
    monkeypatch.setattr(streams, "LASTS", 3600)
    closing = threading.Event()
    monkeypatch.setattr(streams, "_closing", closing)
    events = iter(browser.get(url("events", operation)).streaming_content)
    next(events), next(events)
    streams.close()
    assert list(events) == []
    assert streams.is_open() == 0
    assert browser.get(url("events", operation)).status_code == 503


def test_news_of_the_list_are_told_when_something_is_different(browser, operation, monkeypatch):
    monkeypatch.setattr(streams, "LOOK", 0)
    monkeypatch.setattr(streams, "_closing", threading.Event())
    events = iter(browser.get(reverse("admin:operations_news")).streaming_content)
    next(events)
    first = next(events)
    driving.take_on(operation.pk)
    assert next(events) != first
    streams.close()
    assert list(events) == []


# --- rows selected in a list ------------------------------------------------------------------------------------------


@pytest.fixture
def application(admin_person):
    from accounts.models import Application

    return Application.objects.create(name="order-service", owner=admin_person)


@pytest.fixture
def topics(people, application):
    return [topic(people, application, f"a{i}") for i in range(2)] + [topic(people, application, "p0", state="pending")]


def select(browser, action, names=(), **more):
    data = {"action": action, "names": names, "next": "/admin/topics/", **more}
    return browser.post(reverse("admin:bulk", args=["topics"]), data)


def test_the_preview_says_what_can_be_done_and_why_not(browser, topics):
    page = text(select(browser, "change-owner", ["a0", "a1", "p0", "nothing"]))
    assert "It can be done for these 2." in page
    assert "1 cannot, for the reason below." in page
    assert "Possible while it is Active; it is Pending." in page
    assert Topic.objects.filter(owner__username="bob").count() == 0


def test_confirmed_it_is_done_and_what_failed_is_told(browser, topics):
    answer = select(browser, "change-owner", ["a0", "a1", "p0"], confirm="1", owner="bob", reason="alice leaves")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/topics/")
    assert set(Topic.objects.filter(owner__username="bob").values_list("name", flat=True)) == {"a0", "a1"}
    page = text(browser.get("/admin/topics/"))
    assert "Change owner: done for 2." in page
    assert "p0: " in page


def test_what_was_changed_since_the_preview_is_left_alone(browser, topics):
    Topic.objects.filter(name="a0").update(version=7)
    select(browser, "change-owner", ["a0", "a1"], confirm="1", owner="bob", reason="r", seen=["a0=2", "a1=2"])
    assert set(Topic.objects.filter(owner__username="bob").values_list("name", flat=True)) == {"a1"}


def test_a_form_that_is_not_right_is_shown_again_with_the_selection(browser, topics):
    page = text(select(browser, "change-owner", ["a0"], confirm="1", owner="bob", reason=""))
    assert "This field is required." in page
    assert '<input type="hidden" name="names" value="a0">' in page


def test_all_that_match_become_an_operation(browser, people, topics, application):
    from test_core_bulk_api import many_topics

    many_topics(people.alice, application, 120)
    given = {"matching": "1", "query": "q=m0&view=all"}
    page = text(select(browser, "change-owner", **given))
    assert "It can be done for these 120." in page
    answer = select(browser, "change-owner", **given, confirm="1", owner="bob", reason="r")
    operation = Operation.objects.get()
    assert answer["Location"] == url("detail", operation)
    run(operation)
    assert Topic.objects.filter(owner__username="bob").count() == operation.done == 120
    assert "Change owner" in text(browser.get(answer["Location"]))


def test_what_matches_only_since_the_preview_is_left_alone(browser, people, topics, application):
    given = {"matching": "1", "query": "q=a&view=all"}
    page = text(select(browser, "change-owner", **given))
    assert 'name="seen" value="a0=2"' in page
    topic(people, application, "a-new")
    select(browser, "change-owner", **given, confirm="1", owner="bob", reason="r", seen=["a0=2", "a1=2"])
    assert set(Topic.objects.filter(owner__username="bob").values_list("name", flat=True)) == {"a0", "a1"}


def test_more_than_were_shown_are_shown_again_before_an_operation_begins(browser, people, topics, application):
    from test_core_bulk_api import many_topics

    many_topics(people.alice, application, 120)
    given = {"matching": "1", "query": "q=m0&view=all", "confirm": "1", "owner": "bob", "reason": "r"}
    page = text(select(browser, "change-owner", **given, shown="119"))
    assert "now these are 120" in page
    assert 'name="shown" value="120"' in page
    assert not Operation.objects.exists()
    assert select(browser, "change-owner", **given, shown="120").status_code == 302
    assert Operation.objects.get().total == 120


@pytest.mark.parametrize(("action", "more"), [
    ("approve", {"cluster": "builtin", "reason": ""}), ("reject", {"reason": "r"}), ("move", {"cluster": "builtin", "reason": "r"}),
    ("retire", {"reason": "r"}),
])  # fmt: skip
def test_every_action_has_a_page_and_can_be_confirmed(browser, topics, action, more):
    assert select(browser, action, ["a0", "p0"]).status_code == 200
    assert select(browser, action, ["a0", "p0"], confirm="1", **more).status_code == 302


@pytest.mark.parametrize("action", ["approve", "reject", "suspend", "resume", "change-owner", "retire"])
def test_groups_have_theirs(browser, people, application, topics, action):
    group(people, application, "g0", [("a0", "*")])
    answer = browser.post(reverse("admin:bulk", args=["consumer-groups"]), {"action": action, "names": ["g0"]})
    assert answer.status_code == 200
    assert "g0" in text(answer)


def test_nothing_selected_leads_back_and_says_so(browser, topics):
    answer = select(browser, "retire", [])
    assert answer.status_code == 302
    assert "Nothing is selected" in text(browser.get("/admin/topics/"))
    assert browser.get(reverse("admin:bulk", args=["topics"])).status_code == 302


def test_it_leads_nowhere_else(browser, topics):
    for address in ("//evil.example", "https://evil.example/", "/\\evil.example"):
        assert select(browser, "retire", [], next=address)["Location"] == reverse("admin:topics_list")


def test_an_action_or_a_resource_that_is_none_is_refused(browser, topics):
    assert select(browser, "explode", ["a0"]).status_code == 400
    assert browser.post(reverse("admin:bulk", args=["clouds"]), {"action": "retire"}).status_code == 404


def test_it_needs_the_permission_of_the_action(client, topics):
    from accounts.models import User

    reader = User.objects.create_user("reader", is_staff=True)
    client.force_login(reader, backend="django.contrib.auth.backends.ModelBackend")
    assert select(client, "retire", ["a0"], confirm="1", reason="r").status_code == 403
    assert Topic.objects.get(name="a0").state == "active"
    assert done_names() == []
