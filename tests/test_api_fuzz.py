"""The schema against the API: what it allows and what it forbids, as every role; bounded here, for hours by `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from django.db import connection

SCRIPT = Path(__file__).with_name("fuzzing.py")


@pytest.fixture
def own_database(db):
    """An empty database beside the test's own, migrated or not: what is written here stays out of all other tests."""
    settings = connection.settings_dict
    name = f"{settings['NAME']}_fuzz"
    server = {"host": settings["HOST"], "port": settings["PORT"], "user": settings["USER"], "password": settings["PASSWORD"]}
    with psycopg.connect(dbname="postgres", autocommit=True, **server) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{settings["TEST"].get("TEMPLATE") or "template1"}"')
        secret = f":{settings['PASSWORD']}" if settings["PASSWORD"] else ""
        yield f"postgres://{settings['USER']}{secret}@{settings['HOST']}:{settings['PORT']}/{name}"
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _fuzz(url, *arguments):
    environment = os.environ | {"DATABASE_URL": url}
    return subprocess.run([sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.timeout(660)
def test_no_answer_is_beyond_the_schema(own_database):
    """No 5xx, no undocumented status or body, no HTML. The seed is fixed: the same requests each time."""
    ended = _fuzz(own_database, "--bounded", "1", "--seed", "1")
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-4000:]
    assert "0 failures" in ended.stdout
    assert "never asked" not in ended.stdout, ended.stdout[-2000:]


@pytest.mark.timeout(660)
def test_it_finds_a_status_that_the_schema_does_not_know(own_database):
    """The negative control: with 401 taken out of the schema, everything that anonymous asks is a failure."""
    ended = _fuzz(own_database, "--control", "--seed", "1")
    assert ended.returncode == 1, ended.stdout[-4000:] + ended.stderr[-4000:]
    assert "Undocumented status code · 401" in ended.stdout
