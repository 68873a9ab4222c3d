"""System checks of what the store's proof rests on: no prepared transactions, no cached ids. Run by `check --database default`."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError, connections


@register(Tags.database)
def store_settings(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """mq.E001: a prepared transaction would slip past the horizon; mq.E002: cached ids would be older than the horizon."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        if connection.vendor != "postgresql":
            continue
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('max_prepared_transactions')::int")
                prepared = cursor.fetchone()[0]
                cursor.execute(
                    "SELECT cache_size FROM pg_sequences WHERE schemaname = ANY (current_schemas(false)) AND sequencename = 'mq_id_seq'"
                )
                row = cursor.fetchone()
        except DatabaseError as error:
            found.append(Error(f"The settings of database “{alias}” cannot be read: {error}", id="mq.E003"))
            continue
        if prepared:
            found.append(
                Error(
                    f"max_prepared_transactions is {prepared}; it must be 0.",
                    hint="Its locks change their owner at a restart, and its messages would be lost. Set it to 0 and restart Postgres.",
                    id="mq.E001",
                )
            )
        if row is not None and row[0] != 1:
            found.append(
                Error(f"The sequence mq_id_seq has CACHE {row[0]}; it must be 1.", hint="ALTER SEQUENCE mq_id_seq CACHE 1;", id="mq.E002")
            )
    return found
