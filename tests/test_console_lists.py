"""What every list has: columns, saved views, CSV; tried on topics, with the others walked through."""

import csv
import io

import pytest
from console_world import make_people, make_world, topic
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Application, User
from core.audit.models import AuditEntry
from core.console import exports, saved
from core.console.models import DefaultView, SavedView
from core.errors import Problem

pytestmark = pytest.mark.django_db

LISTS = ["topics_list", "consumers_list", "consumers_shadow", "clusters_list", "registry_publications", "registry_instances", "audit_list"]
LISTS += ["registry_releases", "registry_gates"]
LISTS += ["registry_drifts"]
LISTS += ["registry_services", "registry_producers", "registry_jobs", "registry_registrations", "registry_worker_ids"]


def as_person(person):
    client = Client()
    client.force_login(person)
    return client


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def rows_of(response):
    assert response.status_code == 200, response.content[:300]
    text = b"".join(response.streaming_content).decode("utf-8")
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def do(client, what, **values):
    return client.post(page("list_views", "topics_list"), {"do": what, **values})


def test_a_file_has_all_that_match_in_the_order_and_columns_of_the_list():
    client = as_person(make_world().people.alice)
    head, *rows = rows_of(client.get(page("topics_list") + "?export=csv&sort=-name"))
    assert head[:3] == ["Name", "Status", "Cluster"]
    assert [row[0] for row in rows] == ["rejected_topic", "pending_topic", "paid%topic", "order_topic"]
    assert rows[-1][1:3] == ["Active", "builtin"]
    head, *rows = rows_of(client.get(page("topics_list") + "?export=csv&status=pending&col=owner"))
    assert (head, rows) == (["Name", "Owner"], [["pending_topic", "alice"]])


def test_a_file_speaks_the_language_of_the_page():
    client = as_person(make_world().people.alice)
    head, *_rows = rows_of(client.get(page("topics_list") + "?export=csv", headers={"Accept-Language": "zh-hans"}))
    assert head[0] == "名称"


@pytest.mark.parametrize("name", LISTS)
def test_every_list_can_be_had_as_a_file(name):
    client = as_person(make_world().people.alice)
    response = client.get(page(name) + "?export=csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in response.headers["Content-Disposition"]
    head, *rows = rows_of(response)
    assert len(head) > 3
    assert rows
    assert all(len(row) == len(head) for row in rows)


def test_no_cell_is_a_formula():
    people = make_people()
    application = Application.objects.create(name="=HYPERLINK(1)", owner=people.alice)
    topic(people, application, "-topic")
    _head, row = rows_of(as_person(people.alice).get(page("topics_list") + "?export=csv"))
    assert row[0] == "'-topic"
    assert "'=HYPERLINK(1)" in row


def test_an_export_is_recorded_with_its_filter_and_size():
    client = as_person(make_world().people.alice)
    rows_of(client.get(page("topics_list") + "?export=csv&q=order_topic"))
    entry = AuditEntry.objects.get(action="export")
    assert (entry.actor_name, entry.kind, entry.name, entry.after) == ("alice", "list", "topics", {"rows": 1, "filter": "q=order_topic"})


def test_a_file_is_refused_to_those_who_may_not_see_the_list():
    people = make_world().people
    assert as_person(people.nobody).get(page("topics_list") + "?export=csv").status_code == 403
    assert not AuditEntry.objects.filter(action="export").exists()


def test_a_file_that_would_be_too_long_is_refused_with_a_hint(monkeypatch):
    monkeypatch.setattr(exports, "MOST", 2)
    response = as_person(make_world().people.alice).get(page("topics_list") + "?export=csv")
    assert response.status_code == 422
    assert b"More than 2 rows match." in response.content


def test_a_file_needs_as_many_queries_for_many_rows_as_for_few():
    people = make_people()
    application = Application.objects.create(name="app", owner=people.alice)
    client = as_person(people.alice)
    counts = []
    for begin, end in ((0, 2), (2, 9)):
        for number in range(begin, end):
            topic(people, application, f"t{number}")
        with CaptureQueriesContext(connection) as seen:
            assert len(rows_of(client.get(page("topics_list") + "?export=csv"))) == end + 1
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_only_the_columns_asked_for_are_shown():
    people = make_world().people
    # Who can do something with many topics has boxes to tick them before the first column.
    for person, boxes, hidden in ((people.alice, True, ["no-3", "no-4", "no-5"]), (people.nobody, False, ["no-2", "no-3", "no-4"])):
        if person == people.nobody:
            person.user_permissions.set(Permission.objects.filter(codename="view_topic"))
        client = as_person(person)
        response = client.get(page("topics_list") + "?col=owner&col=nope")
        content = response.context
        assert [item["column"].key for item in content["columns"] if item["on"]] == ["name", "owner"]
        assert (b"data-pick-all" in response.content) is boxes
        assert content["hidden_columns"].split()[:3] == hidden
        assert client.get(page("topics_list") + "?col=nope").context["hidden_columns"] == ""


def test_a_view_is_saved_opened_changed_and_deleted():
    client = as_person(make_world().people.alice)
    made = do(client, "save", name=" my  pending ", query="status=pending&sort=-name&page=3&nope=1&csrf=x")
    view = SavedView.objects.get()
    assert (view.name, view.query) == ("my pending", "status=pending&sort=-name")
    assert made.headers["Location"] == view.address
    opened = client.get(view.address)
    assert [row.name for row in opened.context["rows"]] == ["pending_topic"]
    assert opened.context["own_view"] == view
    assert not opened.context["own_view_differs"]
    assert client.get(view.address + "&col=name").context["own_view_differs"]
    do(client, "update", pk=view.pk, query="status=rejected")
    assert SavedView.objects.get().query == "status=rejected"
    do(client, "forget", pk=view.pk)
    assert not SavedView.objects.exists()
    recorded = AuditEntry.objects.filter(kind="view").order_by("id").values_list("action", flat=True)
    assert list(recorded) == ["save", "save", "delete"]


def test_a_list_opens_with_the_default_view_of_the_person():
    world = make_world()
    client = as_person(world.people.alice)
    do(client, "save", name="pending", query="status=pending", default="1")
    view = SavedView.objects.get()
    assert client.get(page("topics_list")).headers["Location"] == view.address
    assert client.get(page("topics_list") + "?view=all").status_code == 200
    assert as_person(world.people.bob).get(page("topics_list")).status_code == 200
    do(client, "no-default", pk=view.pk)
    assert client.get(page("topics_list")).status_code == 200
    assert not DefaultView.objects.exists()


def test_a_view_is_one_s_own_until_it_is_shared():
    world = make_world()
    alice, bob, reader = (as_person(person) for person in (world.people.alice, world.people.bob, world.people.reader))
    do(alice, "save", name="pending", query="status=pending")
    view = SavedView.objects.get()
    assert bob.get(page("topics_list")).context["own_views"] == []
    do(bob, "forget", pk=view.pk)
    do(reader, "share", pk=view.pk)
    do(alice, "share", pk=view.pk)
    assert reader.get(page("topics_list")).context["own_views"] == [view]
    do(reader, "update", pk=view.pk, query="")
    do(reader, "forget", pk=view.pk)
    assert SavedView.objects.get().query == "status=pending"
    do(reader, "default", pk=view.pk)
    assert reader.get(page("topics_list")).status_code == 302
    do(alice, "unshare", pk=view.pk)
    assert reader.get(page("topics_list")).status_code == 200


def test_sharing_needs_its_permission():
    world = make_world()
    client = as_person(world.people.reader)
    do(client, "save", name="mine", query="", shared="1")
    assert not SavedView.objects.exists()
    world.people.reader.user_permissions.add(Permission.objects.get(codename="share_savedview"))
    do(client, "save", name="mine", query="", shared="1")
    assert SavedView.objects.get().shared


def test_a_view_belongs_to_a_list_that_the_person_may_see():
    world = make_world()
    assert as_person(world.people.nobody).post(page("list_views", "topics_list"), {"do": "save", "name": "x"}).status_code == 403
    alice = as_person(world.people.alice)
    for name in ("nope", "topics_apply", "index", "find"):
        assert alice.post(page("list_views", name), {"do": "save", "name": "x"}).status_code == 404, name
    assert alice.get(page("list_views", "topics_list")).status_code == 405
    assert not SavedView.objects.exists()


@pytest.mark.parametrize(
    "values", [{"name": ""}, {"name": "x" * 61}, {"name": "x", "do": "nope"}, {"do": "update", "pk": "9"}, {"do": "forget"}]
)
def test_what_makes_no_sense_is_refused_above_the_list(values):
    client = as_person(make_people().alice)
    response = client.post(page("list_views", "topics_list"), {"do": "save", **values}, follow=True)
    assert response.status_code == 200
    assert b'class="error"' in response.content
    assert not SavedView.objects.exists()


def test_a_person_has_so_many_views_of_a_list_and_no_more(monkeypatch):
    monkeypatch.setattr(saved, "MOST", 2)
    alice = make_people().alice
    for name in ("a", "b", "a"):
        saved.save(actor=alice, page="topics_list", name=name, query="")
    with pytest.raises(Problem, match="already"):
        saved.save(actor=alice, page="topics_list", name="c", query="")
    assert SavedView.objects.filter(owner=User.objects.get(username="alice")).count() == 2
