"""A list as CSV: all rows that match, in the list's order and columns, streamed from a cursor in the server."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone, translation
from django.utils.html import strip_tags
from django.utils.translation import gettext as _

from core.audit.services import record
from core.console.pages import person
from core.console.slots import Column
from core.errors import Problem

if TYPE_CHECKING:
    from core.console.lists import Asked, ListPage

#: Rows in a file at most; who wants more narrows the filter or reads the API.
MOST = 100_000
#: Rows that are filled at once: the statements for what other rooms add are asked once for so many.
BATCH = 500
#: What spreadsheets take for a formula when a cell begins with it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class _Echo:
    """A file that returns what is written: csv makes lines, the response streams them."""

    def write(self, line: str) -> str:
        return line


def response(page: ListPage[Any], asked: Asked[Any]) -> HttpResponseBase:
    """The file, named after the list and the time; recorded in the audit before the first byte leaves. Above MOST rows: a Problem."""
    found = asked.rows.order_by()[: MOST + 1].count()
    if found > MOST:
        raise Problem(
            "too_many_rows",
            _("More than {n} rows match.").format(n=f"{MOST:,}"),
            status=422,
            hint=_("Narrow the filter, or read them page by page through the API."),
        )
    name = page.here or "list"
    query = page.request.GET.copy()
    query.pop("export", None)
    record(actor=person(page.request), action="export", kind="list", name=name, after={"rows": found, "filter": query.urlencode()})
    return StreamingHttpResponse(
        _lines(page, asked, translation.get_language() or "en"),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}-{timezone.now():%Y%m%d-%H%M%S}.csv"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _lines(page: ListPage[Any], asked: Asked[Any], language: str) -> Iterator[bytes]:
    writer = csv.writer(_Echo())
    columns = [item["column"] for item in asked.columns if item["on"]]
    rows = page.annotated(asked.rows).order_by(*asked.order).iterator(chunk_size=BATCH)
    with translation.override(language):  # the request's language has ended when the lines are read
        shown = [column for column in columns if column.value or _added(page, column)]
        yield "\ufeff".encode()  # lets spreadsheets see that it is UTF-8
        yield _line(writer, [str(column.label) for column in shown])
        while batch := list(islice(rows, BATCH)):
            page.fill(batch)
            for row in batch:
                yield _line(writer, [_text(_value(row, column)) for column in shown])


def _line(writer: Any, cells: list[str]) -> bytes:
    return writer.writerow(cells).encode()  # type: ignore[no-any-return]


def _added(page: ListPage[Any], column: Column) -> bool:
    """Whether another room answers for the column; then its cells stand in `row.extra`."""
    return bool(page.slot) and column not in page.columns


def _value(row: Any, column: Column) -> Any:
    if callable(column.value):
        return column.value(row)
    if column.value:
        try:
            found = attrgetter(column.value)(row)
        except (AttributeError, ObjectDoesNotExist):  # nothing at the end of the path: a topic without a cluster
            return None
        return found() if callable(found) else found
    return next((cell for added, cell in row.extra if added is column), None)


def _text(value: Any) -> str:
    """A cell: numbers as they are, moments in ISO 8601 with their offset, text so that no spreadsheet runs it as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return timezone.localtime(value).isoformat(timespec="seconds")
    text = strip_tags(str(value)).replace("\x00", "").strip(" ")
    if text == "—":
        return ""
    return f"'{text}" if text.startswith(FORMULA) else text
