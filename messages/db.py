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


@contextmanager
def brief_cursor() -> Iterator[psycopg.Cursor[Any]]:
    """The same for a single statement that leaves nothing behind in its session: no transaction, no session lock.

    Outside of transactions it borrows a connection of the web process' pool for the statement; Django's own way of opening and
    closing one costs as much again as the statement.
    """
    pool = connection.pool if connection.connection is None else None  # type: ignore[attr-defined]
    if not pool:
        with hot_cursor() as cursor:
            yield cursor
        return
    with connection.wrap_database_errors:
        pool.open()
        raw = pool.getconn()
        try:
            if not raw.autocommit:
                raw.autocommit = True
            with psycopg.Cursor(raw) as cursor:
                yield cursor
        finally:
            pool.putconn(raw)


def fetch(sql: str, params: Any = ()) -> list[Any]:
    """All rows of one statement."""
    with hot_cursor() as cursor:
        return cursor.execute(sql, params, binary=True).fetchall()
