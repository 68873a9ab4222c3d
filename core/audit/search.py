"""The index behind the audit's search: trigrams, where Postgres has them; without, a search reads the entries one by one."""

from typing import Any

import structlog
from django.db import DatabaseError

log = structlog.get_logger(__name__)

EXTENSION = "CREATE EXTENSION IF NOT EXISTS pg_trgm"
#: What is searched; the index is of use only to a query with the very same expression.
TEXT = (
    "audit_auditentry.name || ' ' || audit_auditentry.actor_name || ' ' || audit_auditentry.reason || ' ' || "
    "COALESCE(audit_auditentry.before::text, '') || ' ' || COALESCE(audit_auditentry.after::text, '')"
)
INDEX = f"CREATE INDEX CONCURRENTLY audit_search ON audit_auditentry USING gin (({TEXT.replace('audit_auditentry.', '')}) gin_trgm_ops)"


def make_index(_apps: Any, schema_editor: Any) -> None:
    """Make the extension (a trusted one: its role needs CREATE on the database) and the index; without, mqadmin.W015 says how."""
    with schema_editor.connection.cursor() as cursor:
        try:
            cursor.execute(EXTENSION)
        except DatabaseError as error:
            log.warning("the audit's search has no index: no extension pg_trgm", error=str(error).strip())
            return
        cursor.execute("DROP INDEX IF EXISTS audit_search")  # one that was interrupted is there and not valid
        cursor.execute(INDEX)


def drop_index(_apps: Any, schema_editor: Any) -> None:
    """Take the index away; the extension may have other users."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("DROP INDEX IF EXISTS audit_search")
