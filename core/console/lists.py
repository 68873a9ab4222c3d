"""The list base: search, filters, saved views, sort and pages on the server, all of it in the URL, no query per row.

    class Topics(ListPage[Topic]):
        model = Topic; permission = "topics.view_topic"; here = "topics"; title = _("Topics"); template_name = "topics/list.html"
        columns = [Column("name", _("Name"), sort=("name",)), SLOT, Column("changed", _("Changed"), sort=("changed_at", "id"), css="num")]
        search_fields = ("name", "owner__username"); default_sort = "name"; slot = "topics"
        filters = [Filter("status", _("Status"), options, apply)]

The template extends `console/list.html` and fills the blocks `row` (the cells of `row`), `page_actions`, `empty` and `pager_note`.
Cells of the columns that other rooms add stand in `row.extra` (see slots); put them where SLOT stands with
`{% include "console/_extra_cells.html" %}`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse

from core.console import slots
from core.console.counting import count_all
from core.console.pages import Page
from core.console.slots import Column

Row = TypeVar("Row", bound=Model)
#: Where the columns of other rooms go.
SLOT = Column("", "")
SIZES = (50, 100, 200)


@dataclass(frozen=True)
class Filter:
    """A filter chip: what can be chosen, and what a choice means. A value that was not offered finds nothing, and says so."""

    key: str
    label: Any
    options: Callable[[HttpRequest], Iterable[tuple[str, Any]]]
    apply: Callable[[Any, str], QuerySet[Any, Any]]


@dataclass(frozen=True)
class View:
    """A saved view: a tab with its count; `tone` (hot, warm) is used while the count is not zero."""

    key: str
    label: Any
    apply: Callable[[Any, HttpRequest], QuerySet[Any, Any]]
    tone: str = ""


class ListPage(Page, Generic[Row]):
    """A list; see the module."""

    model: type[Row]
    columns: ClassVar[Sequence[Column]] = ()
    search_fields: ClassVar[Sequence[str]] = ()
    filters: ClassVar[Sequence[Filter]] = ()
    views: ClassVar[Sequence[View]] = ()
    default_sort: ClassVar[str] = ""
    slot: ClassVar[str] = ""
    counted: ClassVar[bool] = True  # False for tables that grow without bound: the pager then only knows whether there is a next page

    def queryset(self) -> QuerySet[Row, Row]:
        """All rows of the list, before search and filters."""
        return self.model._default_manager.all()  # noqa: SLF001 - Django's public API

    def annotated(self, queryset: QuerySet[Row, Row]) -> QuerySet[Row, Row]:
        """Joins and annotations that only the rows of the page need; they are not counted."""
        return queryset

    def decorate(self, rows: list[Row]) -> None:
        """Set what the rows need beyond their columns, in one statement for all."""

    def context(self) -> dict[str, Any]:
        """What the template needs besides the list."""
        return {}

    def get(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
        """The page that the address describes; parameters that make no sense fall back to their default."""
        asked = {key: str(value).replace("\x00", "").strip() for key, value in request.GET.items()}
        words = asked.get("q", "")[:200]
        everything = self.queryset()
        view = next((view for view in self.views if view.key == asked.get("view")), self.views[0] if self.views else None)
        rows = view.apply(everything, request) if view else everything
        chips = []
        for item in self.filters:
            value = asked.get(item.key, "")
            options = list(item.options(request))
            if value:
                rows = item.apply(rows, value)
            chosen = next((label for key, label in options if key == value), value)
            chips.append({"filter": item, "value": value, "chosen": chosen, "options": options})
        rows = self._searched(rows, words)
        size = int(asked["rows"]) if asked.get("rows") in {str(s) for s in SIZES} else SIZES[0]
        columns, order, sort = self._ordered(asked.get("sort", ""))
        counts = count_all({"": rows, **{f"view:{v.key}": v.apply(everything, request) for v in self.views}}) if self.counted else {}
        total = counts.get("") if self.counted else None
        number = (
            max(1, int(asked["page"]))
            if asked.get("page", "").isascii() and asked.get("page", "").isdigit() and len(asked["page"]) < 9
            else 1
        )
        if total is not None:
            number = min(number, max(1, -(-total // size)))
        first = (number - 1) * size
        shown = list(self.annotated(rows.order_by(*order))[first : first + size + 1])
        more, shown = len(shown) > size, shown[:size]
        if self.slot:
            slots.fill(self.slot, shown)
        self.decorate(shown)
        narrowed = bool(words or any(chip["value"] for chip in chips))
        return self.show(
            {
                "rows": shown,
                "columns": columns,
                "sort": sort,
                "q": words,
                "chips": chips,
                "narrowed": narrowed,
                "saved_views": [{"view": v, "count": counts[f"view:{v.key}"], "on": v is view} for v in self.views] if self.counted else [],
                "view": view,
                "total": total,
                "first": first + 1 if shown else 0,
                "last": first + len(shown),
                "page": number,
                "more": more,
                "size": size,
                "sizes": SIZES,
                "any_rows": bool(shown) or (narrowed and everything.exists()),
                **self.context(),
            }
        )

    def _searched(self, rows: QuerySet[Row, Row], words: str) -> QuerySet[Row, Row]:
        for word in words.split()[:8]:
            anywhere = Q()
            for field in self.search_fields:
                anywhere |= Q(**{f"{field}__icontains": word})
            rows = rows.filter(anywhere)
        return rows

    def _ordered(self, asked: str) -> tuple[list[dict[str, Any]], list[str], str]:
        """Columns with their sort links, the order, and the sort that is in effect."""
        columns = [column for item in self.columns for column in (slots.columns_of(self.slot) if item is SLOT else [item])]
        by = {column.key: column.sort for column in columns if column.sort}
        sort = asked if asked.removeprefix("-") in by else self.default_sort
        down = sort.startswith("-")
        key = sort.removeprefix("-")
        fields = by.get(key, ("pk",))
        order = [(f[1:] if f.startswith("-") else f"-{f}") if down else f for f in fields]
        drawn = []
        for column in columns:
            state = ("descending" if down else "ascending") if column.key == key else ""
            drawn.append({"column": column, "state": state, "next": f"-{column.key}" if state == "ascending" else column.key})
        return drawn, [*order, "pk"], sort
