"""The command palette: things by name, a message by its id, an instance by its address, each only for those who may see it."""

import re

import pytest
from console_world import make_world
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

pytestmark = pytest.mark.django_db


def found(person, words):
    client = Client()
    client.force_login(person)
    response = client.get(reverse("admin:find"), {"q": words})
    assert response.status_code == 200
    html = response.content.decode()
    return re.findall(r'<li class="sect">([^<]+)</li>', html), re.findall(r'<a href="([^"]+)"', html)


def test_finds_stand_under_what_they_are():
    world = make_world()
    sections, links = found(world.people.alice, "order")
    assert sections == ["Topics", "Applications", "Instances"]
    assert links[0] == reverse("admin:topics_detail", args=["order_topic"])
    assert found(world.people.alice, "kfk")[0] == ["Clusters"]
    assert found(world.people.alice, "bill")[0] == ["Consumer groups"]


def test_an_instance_is_found_by_its_address_and_node():
    world = make_world()
    sections, links = found(world.people.alice, "10.0.0.2")
    assert sections == ["Instances"]
    assert reverse("admin:registry_instances") + "?q=n2" in links


def test_what_is_not_there_is_said():
    world = make_world()
    assert found(world.people.alice, "zzzzz") == (["Nothing is called so, of what you may see"], [])
    assert found(world.people.alice, "   ") == ([], [])
    for odd in ("%", "_", "\\", "'", "9" * 30, "#", "#12", "-5", "123456"):
        found(world.people.alice, odd)


def test_a_person_finds_nothing_that_they_may_not_see():
    world = make_world()
    for words in ("order", "bill", "kfk", "10.0.0", "order-service", "pending"):
        assert found(world.people.nobody, words)[1] == [], words


def test_it_asks_as_much_for_any_words():
    world = make_world()
    client = Client()
    client.force_login(world.people.alice)
    for words in ("order", "1234567890123", "#3", "zz"):
        with CaptureQueriesContext(connection) as seen:
            client.get(reverse("admin:find"), {"q": words})
        assert len(seen) <= 16, words
