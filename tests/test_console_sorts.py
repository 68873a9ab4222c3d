"""Every column of every list that can be sorted sorts, both ways."""

import pytest
from console_world import make_world
from django.test import Client

from benchmarks import lists

pytestmark = pytest.mark.django_db


def test_every_list_sorts_by_each_of_its_columns():
    world = make_world()
    client = Client()
    client.force_login(world.people.alice)
    sorts = [
        path
        for address in lists.console(lists.Examples.of_database(), world.people.alice)
        for what, path in address.variants
        if what.startswith("sort=")
    ]
    assert len(sorts) > 40
    assert {path: status for path in sorts if (status := client.get(path).status_code) != 200} == {}
