"""How migrations bring the store's SQL into the database.

sql/tables.sql is frozen with the first migration: later ones alter tables with statements of their own. Every other file holds the
functions and triggers of one subject, in their current state, and may be loaded again at any time. A migration that changes functions
ends with load("…") of those files; one whose signature changes is dropped by the migration first (tests/test_messages_schema.py).
"""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
LOOSE = "SET LOCAL check_function_bodies = off"  # an early migration loads functions that name what a later one makes
PATIENCE = "SET LOCAL lock_timeout = '10s'"  # behind a long reader a migration fails, instead of making every pull wait behind it
SUBJECTS = sorted(path.stem for path in SQL.glob("*.sql") if path.stem != "tables")


def load(*subjects: str) -> migrations.RunSQL:
    """Replace the functions and triggers of these files by their current state (all subjects, if none is named)."""
    texts = [(SQL / f"{subject}.sql").read_text() for subject in subjects or SUBJECTS]
    return migrations.RunSQL("\n".join([f"{LOOSE}; {PATIENCE};", *texts, "SET LOCAL check_function_bodies = on;"]), migrations.RunSQL.noop)


def make_tables() -> migrations.RunSQL:
    """The tables, types and sequences as the first migration makes them."""
    return migrations.RunSQL((SQL / "tables.sql").read_text())
