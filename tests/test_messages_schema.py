"""The store's SQL files say what the database has: each function once, in its current state, whatever migrations came before."""

import re
from collections import Counter
from pathlib import Path

import pytest
from django.db import connection

SQL = Path(__file__).resolve().parent.parent / "messages" / "sql"
MADE = re.compile(r"^CREATE OR REPLACE FUNCTION (mq_\w+)", re.MULTILINE)
BODIES = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'mq\\_%%'"


@pytest.mark.django_db
def test_database_has_the_functions_of_the_files_and_no_others() -> None:
    """A migration that forgot to load a file, or left an old signature beside the new one, shows here."""
    texts = {path.stem: path.read_text() for path in SQL.glob("*.sql")}
    with connection.cursor() as cursor:
        cursor.execute(BODIES)
        rows = cursor.fetchall()
    assert Counter(name for name, _ in rows) == Counter(name for text in texts.values() for name in MADE.findall(text))
    everything = "\n".join(texts.values())
    assert [name for name, body in rows if body not in everything] == []


def test_files_can_be_loaded_again_and_tables_only_once() -> None:
    """Functions and triggers are replaced; what makes or alters tables belongs to a migration."""
    for path in SQL.glob("*.sql"):
        statements = re.findall(r"^(?:CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)\b.*", path.read_text(), re.MULTILINE)
        once = [line for line in statements if not re.match("CREATE OR REPLACE (FUNCTION|TRIGGER) ", line)]
        assert bool(once) == (path.stem == "tables"), path.stem
