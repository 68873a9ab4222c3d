"""Every page of the console: in both languages, with data and without, for those who may see it and those who may not."""

import re

import pytest
from console_world import group, make_people, make_world, topic
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Application
from registry.discovery_models import Service
from registry.models import Drift, Publication, Release
from topics.models import Topic

pytestmark = pytest.mark.django_db

LISTS = ["topics_list", "consumers_list", "consumers_shadow", "clusters_list", "registry_publications", "registry_instances", "audit_list"]
LISTS += ["registry_releases", "registry_gates"]
LISTS += ["requests"]
LISTS += ["registry_drifts"]
LISTS += ["registry_services", "registry_producers", "registry_jobs", "registry_registrations", "registry_worker_ids"]
FORMS = ["topics_apply", "consumers_apply", "consumers_shadow_add", "consumers_shadow_stop_all", "clusters_add"]
TOPIC_TABS = ["topics_detail", "topics_groups", "topics_instances", "topics_publication", "topics_releases", "topics_audit"]
GROUP_TABS = ["consumers_detail", "consumers_instances", "consumers_publication", "consumers_releases", "consumers_audit"]


def as_person(person):
    client = Client()
    client.force_login(person)
    return client


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def every_page(world):
    """(address) of each page that can be looked at in this world."""
    names = ["order_topic", "paid%topic", "pending_topic", "rejected_topic", "retired_topic"]
    groups = ["bill_group", "pending_group", "rejected_group", "suspended_group"]
    yield page("index")
    yield from (page(name) for name in [*LISTS, *FORMS])
    yield from (page(tab, name) for tab in TOPIC_TABS for name in names)
    yield from (page(tab, name) for tab in GROUP_TABS for name in groups)
    yield from (page(verb, "pending_topic") for verb in ("topics_edit", "topics_approve", "topics_reject"))
    yield from (page(verb, "pending_group") for verb in ("consumers_edit", "consumers_approve", "consumers_reject"))
    yield from (page("topics_edit", "rejected_topic"), page("topics_resubmit", "rejected_topic"))
    yield from (page("consumers_edit", "rejected_group"), page("consumers_resubmit", "rejected_group"))
    yield from (page(verb, "order_topic") for verb in ("topics_move", "topics_retire", "topics_end_draining"))
    yield from (page(verb, "bill_group") for verb in ("consumers_suspend", "consumers_resume", "consumers_retire"))
    yield from (page("clusters_detail", name) for name in ("builtin", "kfk-a"))
    yield page("clusters_edit", "kfk-a")
    yield from (page(verb, world.shadow.pk) for verb in ("consumers_shadow_start", "consumers_shadow_stop"))
    yield from (page("registry_publication", pk) for pk in Publication.objects.values_list("pk", flat=True))
    yield from (page("registry_release", pk) for pk in Release.objects.values_list("pk", flat=True))
    yield from (page("registry_service", pk) for pk in Service.objects.values_list("pk", flat=True))
    yield from (page("registry_drift", pk) for pk in Drift.objects.values_list("pk", flat=True))
    waiting = Drift.objects.waiting().values_list("pk", flat=True)
    yield from (page(name, pk) for name in ("registry_drift_repair", "registry_drift_adopt") for pk in waiting)
    yield from (page("registry_drift_policies"), page("registry_drift_policy", "topics"), page("registry_zookeeper"))
    yield page("registry_gate_add") + "?path=/zms/topic/order_topic"
    yield page("accounts_application_changelist")
    yield page("find") + "?q=order"


def check_policy(url, response):
    """The strict policy is there, and the page needs no exception from it."""
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    html = response.content.decode()
    assert "<style" not in html, url
    assert " style=" not in html, url
    assert not re.search(r"<[^>]+\son[a-z]+=", html), url
    for tag in html.split("<script")[1:]:
        assert 'src="' in tag.split(">")[0] or 'type="application/json"' in tag.split(">")[0], url


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_shows_with_data(language):
    world = make_world()
    client = as_person(world.people.alice)
    for url in every_page(world):
        response = client.get(url, headers={"Accept-Language": language})
        assert response.status_code == 200, url
        assert f'<html lang="{language}"'.encode() in response.content or url.startswith(page("find")), url
        check_policy(url, response)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_says_what_to_do_when_there_is_nothing(language):
    client = as_person(make_people().alice)
    for name in ["index", *LISTS, *FORMS]:
        query = "?q=nobody-did-this" if name == "audit_list" else ""  # that alice has signed in stands in it
        response = client.get(page(name) + query, headers={"Accept-Language": language})
        assert response.status_code == 200, name
        if name not in {"clusters_list", "registry_publications", "registry_releases", *FORMS}:  # the built-in store is always there
            assert b'class="empty"' in response.content, name


def test_without_a_login_there_is_only_the_login():
    world = make_world()
    for url in every_page(world):
        response = Client().get(url)
        assert (response.status_code, response.headers["Location"].split("?")[0]) == (302, page("login")), url


def test_a_person_without_permissions_sees_nothing():
    world = make_world()
    client = as_person(world.people.nobody)
    for url in every_page(world):
        if url in {page("index"), page("find") + "?q=order"}:
            continue
        response = client.get(url)
        assert response.status_code == 403, url
        assert b"order_topic" not in response.content or "order_topic" in url, url
    assert b"order_topic" not in client.get(page("find") + "?q=order").content
    overview = client.get(page("index")).content
    assert b"order_topic" not in overview
    assert b"bill_group" not in overview


def test_a_reader_sees_all_and_can_press_nothing():
    world = make_world()
    client = as_person(world.people.reader)
    topic_page = client.get(page("topics_detail", "pending_topic"))
    assert topic_page.status_code == 200
    assert page("topics_approve", "pending_topic").encode() not in topic_page.content
    assert b"You do not have the permission for this." in topic_page.content
    listed = client.get(page("topics_list")).content
    assert f'href="{page("topics_apply")}"'.encode() not in listed
    for verb in ("topics_approve", "topics_reject", "topics_edit"):
        assert client.post(page(verb, "pending_topic"), {"reason": "x"}).status_code == 403
    for verb in ("topics_move", "topics_retire", "topics_end_draining"):
        assert client.post(page(verb, "order_topic"), {"reason": "x"}).status_code == 403
    for verb in ("consumers_suspend", "consumers_retire"):
        assert client.post(page(verb, "bill_group"), {"reason": "x"}).status_code == 403
    assert client.post(page("consumers_shadow_stop_all"), {"reason": "x"}).status_code == 403
    assert client.post(page("registry_publication", Publication.objects.first().pk)).status_code == 403
    assert client.post(page("clusters_add"), {"name": "x"}).status_code == 403


def test_each_action_asks_for_its_own_permission():
    world = make_world()
    world.people.reader.user_permissions.add(Permission.objects.get(codename="approve_topic"))
    client = as_person(world.people.reader)
    assert page("topics_approve", "pending_topic").encode() in client.get(page("topics_detail", "pending_topic")).content
    assert client.get(page("topics_approve", "pending_topic")).status_code == 200
    assert client.get(page("topics_retire", "order_topic")).status_code == 403
    assert client.get(page("consumers_approve", "pending_group")).status_code == 403


COUNTED = ["index", *[name for name in LISTS if name != "consumers_shadow"]]


def queries_with(size):
    """How many queries each list needs for so many rows."""
    people = make_people()
    application = Application.objects.create(name="app", owner=people.alice)
    for number in range(size):
        topic(people, application, f"t{number}")
        group(people, application, f"g{number}", [(f"t{number}", "*")])
        topic(people, application, f"p{number}", state="pending")
    client = as_person(people.alice)
    client.get(page("index"))  # content types are cached from here on
    counts = {}
    for name in COUNTED:
        with CaptureQueriesContext(connection) as seen:
            assert client.get(page(name)).status_code == 200
        counts[name] = len(seen)
    return counts


def test_a_list_needs_as_many_queries_for_many_rows_as_for_few():
    point = transaction.savepoint()
    few = queries_with(2)
    transaction.savepoint_rollback(point)
    many = queries_with(7)
    assert few == many
    assert max(many.values()) <= 32


ODD_QUERIES = [
    "?q=%00", "?q=order&sort=-changed&page=7", "?page=0", "?page=-1", "?page=99999999999999999999", "?page=x", "?rows=7", "?sort=nope",
    "?view=nope", "?owner=%00", "?status=nope", "?cluster=%27", "?q=" + "a" * 5000,
]  # fmt: skip


def test_a_list_takes_any_address():
    client = as_person(make_world().people.alice)
    for name in LISTS:
        for query in ODD_QUERIES if name in {"topics_list", "audit_list"} else ODD_QUERIES[:2]:
            assert client.get(page(name) + query).status_code == 200, name + query


def test_an_unknown_name_is_a_page_that_says_so():
    client = as_person(make_people().alice)
    unknown = [page("topics_detail", "nope"), page("consumers_detail", "no%00pe"), "/admin/topics/%00/", page("clusters_edit", "x")]
    for url in [*unknown, page("registry_publication", 10**15)]:
        response = client.get(url)
        assert response.status_code == 404, url
        assert b'class="empty"' in response.content


def test_search_filters_views_and_sort_work_on_the_server():
    client = as_person(make_world().people.alice)

    def names(query):
        return [row.name for row in client.get(page("topics_list") + query).context["rows"]]

    assert names("") == ["order_topic", "paid%topic", "pending_topic", "rejected_topic"]
    assert names("?sort=-name") == ["rejected_topic", "pending_topic", "paid%topic", "order_topic"]
    assert names("?q=paid%25") == ["paid%topic"]
    assert names("?q=order_+topic") == ["order_topic"]
    assert names("?status=pending") == ["pending_topic"]
    assert names("?cluster=kfk-a") == ["paid%topic"]
    assert names("?view=retired") == ["retired_topic"]
    nothing = client.get(page("topics_list") + "?q=nope")
    assert b"Clear filters" in nothing.content


def test_pages_follow_each_other_without_a_gap():
    people = make_people()
    application = Application.objects.create(name="app", owner=people.alice)
    Topic.objects.bulk_create(
        Topic(
            name=f"t{number:03}", application=application, owner=people.alice, requested_by=people.alice, expected_rate=1, message_bytes=1
        )
        for number in range(120)
    )
    client = as_person(people.alice)
    seen = []
    for number in (1, 2, 3):
        context = client.get(page("topics_list") + f"?page={number}").context
        seen += [row.name for row in context["rows"]]
        assert context["more"] == (number < 3)
    assert seen == [f"t{number:03}" for number in range(120)]


def test_an_entry_of_the_audit_cannot_be_changed_here():
    client = as_person(make_world().people.alice)
    assert client.post(page("audit_list"), {"action": "delete_selected"}).status_code == 405


def test_the_palette_finds_names_only_for_those_who_may_see_them():
    world = make_world()
    found = as_person(world.people.reader).get(page("find") + "?q=bill").content
    assert page("consumers_detail", "bill_group").encode() in found
    assert b"bill_group" not in as_person(world.people.nobody).get(page("find") + "?q=bill").content
    assert as_person(world.people.reader).get(page("find") + "?q=%00").content.strip() == b""


def test_the_language_is_switched_and_remembered():
    client = as_person(make_people().alice)
    assert "Topics" in client.get(page("topics_list")).content.decode()
    assert client.post("/i18n/setlang/", {"language": "zh-hans", "next": page("topics_list")}).status_code == 302
    assert '<html lang="zh-hans"' in client.get(page("topics_list")).content.decode()
