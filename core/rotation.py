"""Sealing stored credentials anew with the first key: in chunks, by compare-and-set, so that it may be killed and run again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection, models
from psycopg import sql

from core.encryption import CannotDecryptError, EncryptedTextField, encrypted_fields, is_newest, seal, unseal


@dataclass(slots=True)
class Counts:
    """What happened to the values of one column."""

    label: str
    rotated: int = 0
    newest: int = 0
    changed: int = 0
    unreadable: int = 0


def rotate(*, chunk: int = 200) -> Iterator[Counts]:
    """Seal every value of every encrypted column with the first key; yields the counts of a column when it is done."""
    for model, field in encrypted_fields():
        yield _rotate_column(model, field, chunk)


def _rotate_column(model: type[models.Model], field: EncryptedTextField, chunk: int) -> Counts:
    counts = Counts(f"{model._meta.label}.{field.name}")  # noqa: SLF001 - Django's public API
    columns = {"table": model._meta.db_table, "pk": model._meta.pk.column, "column": field.column}  # noqa: SLF001
    names = {key: sql.Identifier(str(name)) for key, name in columns.items()}
    last: Any = None
    while True:
        after = sql.SQL("") if last is None else sql.SQL("AND {pk} > %(last)s").format(**names)
        # Keyset pages by primary key; empty texts are no secrets.
        select = sql.SQL("SELECT {pk}, {column} FROM {table} WHERE {column} <> '' {after} ORDER BY {pk} LIMIT %(chunk)s")
        with connection.cursor() as cursor:
            cursor.execute(select.format(after=after, **names), {"last": last, "chunk": chunk})
            rows = cursor.fetchall()
        for key, token in rows:
            _rotate_value(names, key, token, counts)
        if len(rows) < chunk:
            return counts
        last = rows[-1][0]


def _rotate_value(names: dict[str, sql.Identifier], key: Any, token: str, counts: Counts) -> None:
    if is_newest(token):
        counts.newest += 1
        return
    try:
        fresh = seal(unseal(token))
    except CannotDecryptError:
        counts.unreadable += 1
        return
    # Compare-and-set: who has changed the value meanwhile has sealed it with the first key already.
    update = sql.SQL("UPDATE {table} SET {column} = %(fresh)s WHERE {pk} = %(key)s AND {column} = %(token)s")
    with connection.cursor() as cursor:
        cursor.execute(update.format(**names), {"fresh": fresh, "key": key, "token": token})
        if cursor.rowcount == 1:
            counts.rotated += 1
        else:
            counts.changed += 1
