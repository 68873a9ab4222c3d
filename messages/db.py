"""The hot path to Postgres: server-side parameters and binary results on Django's own connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection


@contextmanager
def hot_cursor() -> Iterator[psycopg.Cursor[Any]]:
    """A psycopg cursor beside Django's wrapper: bodies travel as binary parameters, never interpolated into SQL.

    It takes part in the surrounding transaction, if there is one, and database errors are Django's.
    """
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: psycopg.Connection[Any] = connection.connection
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        yield cursor


def fetch(sql: str, params: Any = ()) -> list[Any]:
    """All rows of one statement."""
    with hot_cursor() as cursor:
        return cursor.execute(sql, params, binary=True).fetchall()
