"""Two people edit the same thing: the second is told what changed, loses nothing, and decides; in our forms and in Django's."""

import re
from html import unescape

import pytest
from console_world import make_world
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from topics.models import Topic

pytestmark = pytest.mark.django_db
CHANGED = "Somebody else changed this in the meantime."


def as_person(person):
    client = Client()
    client.force_login(person)
    return client


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def seen(response):
    assert response.status_code == 200
    return unescape(re.search(r'name="seen" value="([^"]+)"', response.content.decode())[1])


def test_the_second_editor_of_a_cluster_is_told_what_changed_and_loses_nothing():
    world = make_world()
    alice, url = as_person(world.people.alice), page("clusters_edit", "kfk-a")
    old = seen(alice.get(url))
    clusters.change(actor=world.people.bob, cluster=Cluster.objects.get(name="kfk-a"), address="10.0.0.9:9092", description="orders")
    refused = alice.post(url, {"address": "10.0.0.7:9092", "description": "mine", "seen": old})
    text = refused.content.decode()
    assert CHANGED in text
    assert "<del>10.0.0.1:9092</del> → <ins>10.0.0.9:9092</ins>" in text
    assert 'value="10.0.0.7:9092"' in text
    assert 'value="mine"' in text
    assert Cluster.objects.get(name="kfk-a").address == "10.0.0.9:9092"
    again = alice.post(url, {"address": "10.0.0.7:9092", "description": "mine", "seen": seen(refused)})
    assert again.status_code == 302
    assert Cluster.objects.get(name="kfk-a").address == "10.0.0.7:9092"


# page, thing, values, and a change of the row that somebody else makes
VERBS = [
    ("topics_reject", "pending_topic", {"reason": "no"}),
    ("topics_edit", "pending_topic", {"expected_rate": 5, "message_bytes": 5, "partitions": 1, "reason": "x"}),
    ("topics_move", "order_topic", {"reason": "no"}),
    ("topics_retire", "order_topic", {"reason": "no", "confirm_name": "order_topic"}),
    ("consumers_suspend", "bill_group", {"reason": "no"}),
    ("consumers_retire", "bill_group", {"reason": "no", "confirm_name": "bill_group"}),
]


@pytest.mark.parametrize(("name", "thing", "values"), VERBS)
def test_no_verb_runs_on_something_else_than_the_page_showed(name, thing, values):
    world = make_world()
    model = Topic if name.startswith("topics") else type(world.bill)
    who = world.people.alice if name == "topics_edit" else world.people.bob
    client, url = as_person(who), page(name, thing)
    old = seen(client.get(url))
    row = model.objects.get(name=thing)
    model.objects.filter(pk=row.pk).update(version=row.version + 1, owner=world.people.reader)
    fill = {"application": world.application.pk, "owner": world.people.alice.pk, "cluster": world.kafka.pk, **values, "seen": old}
    text = client.post(url, fill).content.decode()
    assert CHANGED in text
    assert f"<del>{row.owner.username}</del> → <ins>reader</ins>" in text
    now = model.objects.get(name=thing)
    assert (now.state, now.version, now.cluster_id if model is Topic else 0) == (
        row.state, row.version + 1, row.cluster_id if model is Topic else 0,
    )  # fmt: skip


def test_what_was_seen_cannot_be_made_up_nor_taken_from_another_row():
    world = make_world()
    client, url = as_person(world.people.bob), page("topics_retire", "order_topic")
    for value in ("nonsense", seen(client.get(page("topics_retire", "paid%topic")))):
        text = client.post(url, {"reason": "no", "confirm_name": "order_topic", "seen": value}).content.decode()
        assert CHANGED in text


def test_wrong_input_does_not_count_as_a_second_look():
    world = make_world()
    client, url = as_person(world.people.alice), page("clusters_edit", "kfk-a")
    old = seen(client.get(url))
    clusters.change(actor=world.people.bob, cluster=Cluster.objects.get(name="kfk-a"), address="10.0.0.9:9092", description="")
    wrong = client.post(url, {"address": "10.0.0.7:9092", "description": "x" * 600, "seen": old})
    assert seen(wrong) == old
    assert CHANGED in client.post(url, {"address": "10.0.0.7:9092", "seen": seen(wrong)}).content.decode()


def test_django_s_own_forms_refuse_to_overwrite_as_well():
    world = make_world()
    client, url = as_person(world.people.alice), page("accounts_application_change", world.application.pk)
    old = seen(client.get(url))
    Application.objects.filter(pk=world.application.pk).update(description="by bob")
    refused = client.post(url, {"owner": world.people.bob.pk, "description": "by alice", "seen": old})
    text = refused.content.decode()
    assert CHANGED in text
    assert "<ins>by bob</ins>" in text
    assert "by alice" in text
    assert Application.objects.get().description == "by bob"
    assert client.post(url, {"owner": world.people.bob.pk, "description": "by alice", "seen": seen(refused)}).status_code == 302
    assert Application.objects.get().description == "by alice"


def test_also_of_many_to_many_fields_and_of_what_we_did_not_write():
    world = make_world()
    role = Group.objects.create(name="oncall-test")
    client, url = as_person(world.people.alice), page("accounts_user_change", world.people.reader.pk)
    first = client.get(url)
    old = seen(first)
    world.people.reader.groups.add(role)
    form = {**{k: v for k, v in first.context["adminform"].form.initial.items() if v is not None and k != "password"}, "seen": old}
    form = {k: ([getattr(i, "pk", i) for i in v] if isinstance(v, list) else v) for k, v in form.items() if v is not False}
    text = client.post(url, form).content.decode()
    assert CHANGED in text
    assert "<ins>oncall-test</ins>" in text
    assert world.people.reader.groups.filter(pk=role.pk).exists()


def test_a_secret_is_not_in_what_travels_with_a_form():
    world = make_world()
    from core.console.versions import facts_of

    facts = facts_of(world.people.reader)
    assert "password" not in facts
    assert world.people.reader.password not in str(facts)
