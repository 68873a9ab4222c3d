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


@pytest.mark.django_db
def test_a_web_process_of_before_migration_0034_claims_producers_ids_until_it_is_restarted() -> None:
    old = "SELECT claim, prior_ids, prior_due FROM mq_claim_ids(%s::bigint, %s::text[])"
    with connection.cursor() as cursor:
        cursor.execute(old, (7, ["b", None, "a"]))
        claim, prior, _due = cursor.fetchone()
        assert prior is None
        cursor.execute("INSERT INTO mq_claim (claim, ids) VALUES (%s, ARRAY[11, 12, 14])", (claim,))
        cursor.execute(old, (7, ["new", "a", None, "b"]))
        assert cursor.fetchone()[1] == [None, 14, None, 11]
        cursor.execute("SELECT prior_ids FROM mq_claim_ids(7, ARRAY['a', 'newer'], ARRAY[1, 2])")
        assert cursor.fetchone()[0] == [14, None]
