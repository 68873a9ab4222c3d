"""Many counts in one statement, for badges and saved views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet


def count_all(parts: Mapping[str, QuerySet[Any, Any]], within: QuerySet[Any, Any] | None = None) -> dict[str, int]:
    """The number of rows of each queryset, in a single round trip; of those in `within`, if it is given.

    Then the querysets are of the same model, and not restricted themselves: whose rows they are is found out once for all of them.
    """
    selects: list[str] = []
    params: list[Any] = []
    result = dict.fromkeys(parts, 0)
    asked = []
    for name, queryset in parts.items():
        try:
            sql, values = queryset.order_by().values("pk").query.sql_with_params()
        except EmptyResultSet:
            continue
        asked.append(name)
        selects.append(f"(SELECT count(*) FROM ({sql}) AS counted)")  # noqa: S608 - text of Django's own compiler, values apart
        params.extend(values)
    begin = ""
    if within is not None:
        meta = within.model._meta  # noqa: SLF001 - Django's public API
        table, key = connection.ops.quote_name(meta.db_table), connection.ops.quote_name(meta.pk.column)
        try:
            sql, values = within.order_by().values("pk").query.sql_with_params()
        except EmptyResultSet:
            return result
        # A common table expression of the table's own name stands for the table in everything that follows.
        begin = f"WITH {table} AS MATERIALIZED (SELECT * FROM {table} WHERE {key} IN ({sql})) "  # noqa: S608 - as above
        params = [*values, *params]
    if selects:
        with connection.cursor() as cursor:
            cursor.execute(begin + "SELECT " + ", ".join(selects), params)
            row = cursor.fetchone()
        assert row is not None  # a SELECT without FROM has one row
        result.update(zip(asked, row, strict=True))
    return result
