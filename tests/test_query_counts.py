"""How many statements each list costs: as many with a hundred rows as with ten, and as many as query_counts.json says.

A list that is added is found by its address (benchmarks/lists.py) and asks for its line here. After a wanted change:

    QUERY_COUNTS=write make test ARGS="tests/test_query_counts.py"
"""

import json
import os
from functools import partial
from pathlib import Path

import psycopg
import pytest
from conftest import token_for
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from accounts import authentication
from accounts.models import ApiToken, Application, User
from accounts.rolesync import group_of, sync_roles
from benchmarks import dataset, lists
from messages import names

BASELINE = Path(__file__).with_name("query_counts.json")
COMMAND = 'QUERY_COUNTS=write make test ARGS="tests/test_query_counts.py"'
#: Variants that are counted; sorts and filters of the same list are the same statements in another order.
COUNTED = {"operator": {"as it comes", "limit=500", "a word", "a group", "a topic"}, "developer": {"as it comes"}}
#: No list stands there, or Django itself answers.
NO_EXAMPLE = ("admin/^(?P<app_label>", "admin/bulk/")
pytestmark = pytest.mark.timeout(900)  # it asks for hundreds of pages
FEW, MANY = 0.001, 0.01
#: What ten rows may lack entirely and a hundred have: a further kind of row costs a fixed number of statements.
CONDITIONAL = 5


class Statements:
    """Counts what goes to Postgres, past Django's wrapper as well: the store's hot paths go around it. Savepoints do not count."""

    def __init__(self, monkeypatch):
        self.made = []
        execute = psycopg.Cursor.execute

        def counting(cursor, query, *args, **kwargs):
            self.made.append(str(query))
            return execute(cursor, query, *args, **kwargs)

        monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    def of(self, work):
        names.forget()  # what is kept per process for a while is not to help: it would depend on what was asked before, and on the clock
        authentication.forget_all()
        ContentType.objects.clear_cache()
        self.made.clear()
        status = work().status_code
        return [sql for sql in self.made if "SAVEPOINT" not in sql], status


def _people():
    sync_roles()
    found = {}
    for role in ("operator", "developer"):
        person = User.objects.create_user(f"counting.{role}", is_staff=True)
        person.groups.set([group_of(role)])
        found[role] = User.objects.get(pk=person.pk)
    busiest = "SELECT application_id FROM consumers_consumergroup WHERE state = 'active' GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
    with connection.cursor() as cursor:
        cursor.execute(busiest)
        Application.objects.filter(pk=cursor.fetchone()[0]).update(owner=found["developer"])
    return found


def _measured(statements, scale, roles):
    """{role and list and variant: statements} on a data set of this size, which is rolled back; and addresses without an example."""
    counts, missing = {}, set()
    with transaction.atomic():
        dataset.fill(scale=scale, say=lambda *_args, **_kwargs: None)
        for role, person in _people().items():
            if role not in roles:
                continue
            examples = lists.Examples.of_database()
            client = Client()
            client.force_login(person)
            authorization = {"Authorization": f"Token {token_for(person)}"}
            ApiToken.objects.filter(user=person).update(last_used_at=timezone.now())  # written down every few minutes only
            for address in (*lists.console(examples, person), *lists.api(examples)):
                headers = authorization if address.kind == "api" else {}
                for what, path in address.variants:
                    if what in COUNTED[role]:
                        made, status = statements.of(partial(client.get, path, headers=headers))
                        if status == 200:
                            counts[f"{role}: {address.name}, {what}"] = made
            missing |= {route for route in examples.missing if not route.startswith(NO_EXAMPLE)}
        transaction.set_rollback(True)
    return counts, missing


@pytest.fixture
def measured(db, monkeypatch):
    statements = Statements(monkeypatch)
    few, _missing = _measured(statements, FEW, {"operator"})
    many, missing = _measured(statements, MANY, {"operator", "developer"})
    return few, many, missing


def test_every_list_costs_the_same_statements_with_many_rows_and_as_many_as_is_written_down(measured):
    few, many, missing = measured
    assert not missing, f"no example for the parameters of these addresses (benchmarks/lists.py, Examples and _MEANS): {sorted(missing)}"
    growing = {
        name: (len(few[name]), len(many[name])) for name in few.keys() & many.keys() if len(many[name]) > len(few[name]) + CONDITIONAL
    }
    for name in growing:
        print(f"\n{name}: more statements with many rows than with few:", *(sql[:300] for sql in many[name]), sep="\n  ")
    assert not growing, "a statement per row (few rows, many rows)"
    found = {name: len(made) for name, made in sorted(many.items())}
    if os.environ.get("QUERY_COUNTS") == "write":
        BASELINE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    written = json.loads(BASELINE.read_text())
    changed = {name: (written.get(name), found.get(name)) for name in written.keys() | found.keys() if written.get(name) != found.get(name)}
    for name in changed:
        print(f"\n{name}:", *(sql[:300] for sql in many.get(name, [])), sep="\n  ")
    assert not changed, f"statements of lists changed (written, found). If that is wanted, write them down anew: {COMMAND}"
