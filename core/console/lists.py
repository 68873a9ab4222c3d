"""The list base: search, filters, views, columns, sort and pages on the server, all of it in the URL, no query per row.

    class Topics(ListPage[Topic]):
        model = Topic; permission = "topics.view_topic"; here = "topics"; title = _("Topics"); template_name = "topics/list.html"
        columns = [Column("name", _("Name"), sort=("name",), value="name"), SLOT, Column("changed", _("Changed"), value="changed_at")]
        search_fields = ("name", "owner__username"); default_sort = "name"; slot = "topics"
        filters = [Filter("status", _("Status"), options, apply)]
        bulk = "topics"        # what core.bulk can do with topics is offered for the rows selected

The template extends `console/list.html` and fills the blocks `row` (the cells of `row`), `page_actions`, `empty` and `pager_note`.
A row begins with `{% pick row %}` where rows can be selected. Cells of the columns that other rooms add stand in `row.extra` (see slots);
put them where SLOT stands with `{% include "console/_extra_cells.html" %}`.

What each list has without a line of its own: the parameters `q`, `view`, `sort`, `rows`, `page`, `col` (columns shown), those of its
filters, and `export=csv` (exports). Views that people save are such addresses under a name (saved).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from django.core.exceptions import FieldError
from django.db.models import Exists, Model, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, QueryDict
from django.urls import NoReverseMatch, reverse

from core.console import exports, saved, slots
from core.console.counting import count_all
from core.console.pages import Page, person
from core.console.slots import Column
from core.scope import Reach, reach_of

Row = TypeVar("Row", bound=Model)
#: Where the columns of other rooms go.
SLOT = Column("", "")
SIZES = (50, 100)  # two hundred rows of ten cells took a third of a second to draw


@dataclass(frozen=True)
class Filter:
    """A filter chip: what can be chosen, and what a choice means. A value that was not offered finds nothing, and says so."""

    key: str
    label: Any
    options: Callable[[HttpRequest], Iterable[tuple[str, Any]]]
    apply: Callable[[Any, str], QuerySet[Any, Any]]


@dataclass(frozen=True)
class View:
    """A view that the list brings: a tab with its count; `tone` (hot, warm) is used while the count is not zero."""

    key: str
    label: Any
    apply: Callable[[Any, HttpRequest], QuerySet[Any, Any]]
    tone: str = ""


@dataclass(frozen=True)
class BulkAction:
    """What can be done with the rows selected; the button is there for those with the permission, the rules are the services'."""

    key: str
    label: Any
    permission: str
    tone: str = ""


@dataclass(frozen=True)
class Asked(Generic[Row]):
    """What an address asks of a list: the rows that match, not yet cut into pages, and how they are shown."""

    words: str
    view: View | None
    everything: QuerySet[Row, Row]
    rows: QuerySet[Row, Row]
    chips: list[dict[str, Any]]
    columns: list[dict[str, Any]]
    order: list[str]
    sort: str
    size: int

    @property
    def narrowed(self) -> bool:
        """Whether anything but the view leaves rows out."""
        return bool(self.words or any(chip["value"] for chip in self.chips))


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
    bulk: ClassVar[str] = ""  # the resource of core.bulk, whose verbs are offered for rows selected
    bulk_actions: ClassVar[Sequence[BulkAction]] = ()

    def queryset(self) -> QuerySet[Row, Row]:
        """All rows of the list, before search and filters."""
        return self.model._default_manager.all()  # noqa: SLF001 - Django's public API

    def restricted(self) -> QuerySet[Row, Row]:
        """Of them what the person may see."""
        rows: Any = self.queryset()
        return rows.restrict(self.request.user, self.permission) if self.permission and hasattr(rows, "restrict") else rows  # type: ignore[no-any-return]

    def annotated(self, queryset: QuerySet[Row, Row]) -> QuerySet[Row, Row]:
        """Joins and annotations that only the rows of the page need; they are not counted."""
        return queryset

    def decorate(self, rows: list[Row]) -> None:
        """Set what the rows need beyond their columns, in one statement for all."""

    def context(self) -> dict[str, Any]:
        """What the template needs besides the list."""
        return {}

    @classmethod
    def parameters(cls) -> list[str]:
        """The parameters of the address that describe the list; all others are ignored."""
        return ["q", "view", *[item.key for item in cls.filters], "sort", "rows", "col"]

    def read(self, request: HttpRequest, query: QueryDict) -> Asked[Row]:
        """What the parameters mean; those that make no sense fall back to their default. Bulk actions on a filter use it as well."""
        asked = {key: str(value).replace("\x00", "").strip() for key, value in query.items()}
        words = asked.get("q", "")[:200]
        everything = self.restricted()
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
        columns, order, sort = self._ordered(asked.get("sort", ""), set(query.getlist("col")))
        return Asked(
            words=words,
            view=view,
            everything=everything,
            rows=self._searched(rows, words),
            chips=chips,
            columns=columns,
            order=order,
            sort=sort,
            size=int(asked["rows"]) if asked.get("rows") in {str(s) for s in SIZES} else SIZES[0],
        )

    def get(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponseBase:
        """The page that the address describes, the same as a file, or the person's own default view of it."""
        page = request.resolver_match.url_name if request.resolver_match else ""
        views = saved.views_of(person(request), page or "")
        default = next((view for view in views if view.is_default), None)
        if default and not request.GET:
            return HttpResponseRedirect(default.address)
        asked = self.read(request, request.GET)
        if request.GET.get("export") == "csv":
            return exports.response(self, asked)
        counts = self.counts(asked) if self.counted else {}
        total = counts.get("") if self.counted else None
        size, number = asked.size, _page(request.GET.get("page", ""))
        if total is not None:
            number = min(number, max(1, -(-total // size)))
        first = (number - 1) * size
        shown, more = self.cut(asked, first)
        self.fill(shown)
        actions = [item for item in self.offered() if request.user.has_perm(item.permission)]
        query = saved.canonical(self.parameters(), request.GET)
        here = next((item for item in views if str(item.pk) == request.GET.get("sv")), None)
        return self.show(
            {
                "rows": shown,
                "columns": asked.columns,
                "hidden_columns": _hidden(asked.columns, offset=bool(actions)),
                "sort": asked.sort,
                "q": asked.words,
                "chips": asked.chips,
                "narrowed": asked.narrowed,
                "saved_views": [{"view": v, "count": counts[f"view:{v.key}"], "on": v is asked.view and not here} for v in self.views]
                if self.counted
                else [],
                "view": asked.view,
                "own_views": views,
                "own_view": here,
                "own_view_differs": here is not None and here.query != query,
                "list_page": page,
                "list_query": query,
                "may_share": request.user.has_perm("console.share_savedview"),
                "total": total,
                "first": first + 1 if shown else 0,
                "last": first + len(shown),
                "page": number,
                "more": more,
                "size": size,
                "sizes": SIZES,
                "any_rows": bool(shown) or asked.everything.exists(),
                "whole_view": next((v for v in self.views if v.key == "all" and v is not asked.view), None),
                "bulk_actions": actions if shown else [],
                "bulk_url": bulk_url(self.bulk) if actions else "",
                **self.context(),
            }
        )

    def counts(self, asked: Asked[Row]) -> dict[str, int]:
        """How many rows the page has in all (under the empty name), and each view (`view:KEY`)."""
        request, own = self.request, bool(self.permission) and reach_of(self.request.user, self.permission) is Reach.OWN
        everything = self.queryset() if own else asked.everything
        parts = {f"view:{view.key}": view.apply(everything, request) for view in self.views}
        if asked.view is None or asked.narrowed:
            parts[""] = asked.rows
        counts = count_all(parts, within=asked.everything if own else None)
        return counts if "" in counts or asked.view is None else {**counts, "": counts[f"view:{asked.view.key}"]}

    def cut(self, asked: Asked[Row], first: int) -> tuple[list[Row], bool]:
        """The rows of the page, and whether there are more; tables that grow without bound cut by key, not by counting."""
        until = first + asked.size + 1
        found = self.annotated(asked.rows).order_by(*asked.order)[first:until]
        if first:
            try:  # far on: the rows first, then what is annotated, or it would be computed for all that are skipped
                here = asked.rows.order_by(*asked.order).values("pk")[first:until]
                found = self.annotated(self.queryset().filter(pk__in=here)).order_by(*asked.order)
            except FieldError:  # the order is by something annotated
                pass
        rows = list(found)
        return rows[: asked.size], len(rows) > asked.size

    def offered(self) -> Sequence[BulkAction]:
        """What can be done with rows selected: as the list says, else every verb of its resource."""
        if self.bulk_actions or not self.bulk:
            return self.bulk_actions
        from core.bulk import verbs_of  # above the console's base: it has pages of its own

        return [BulkAction(verb.action, verb.label, verb.permission, verb.tone) for verb in verbs_of(self.bulk)]

    def fill(self, rows: list[Row]) -> None:
        """What rows have beyond their columns: the cells of other rooms and what `decorate` sets; a fixed number of statements."""
        if self.slot:
            slots.fill(self.slot, rows)
        self.decorate(rows)

    def _searched(self, rows: QuerySet[Row, Row], words: str) -> QuerySet[Row, Row]:
        for word in words.split()[:8]:
            rows = rows.filter(self.contains(word))
        return rows

    def contains(self, word: str) -> Q:
        """Whether one of the fields has the word; what lies behind a foreign key is searched by itself, not for each row that names it."""
        found = Q()
        for field in self.search_fields:
            name, _by, rest = field.partition("__")
            if rest:
                behind: Any = self.model._meta.get_field(name).related_model  # noqa: SLF001 - Django's public API
                found |= Q(**{f"{name}__in": behind._default_manager.filter(**{f"{rest}__icontains": word})})  # noqa: SLF001
            else:
                found |= Q(**{f"{field}__icontains": word})
        return found

    def _ordered(self, asked: str, wanted: set[str]) -> tuple[list[dict[str, Any]], list[str], str]:
        """Columns with their sort links, the order, and the sort that is in effect. The first column is always shown."""
        columns = [column for item in self.columns for column in (slots.columns_of(self.slot) if item is SLOT else [item])]
        by = {column.key: column.sort for column in columns if column.sort}
        sort = asked if asked.removeprefix("-") in by else self.default_sort
        down = sort.startswith("-")
        key = sort.removeprefix("-")
        fields = by.get(key, ("pk",))
        order = [(f[1:] if f.startswith("-") else f"-{f}") if down else f for f in fields]
        wanted &= {column.key for column in columns}
        drawn = []
        for number, column in enumerate(columns):
            state = ("descending" if down else "ascending") if column.key == key else ""
            on = not wanted or column.key in wanted or number == 0
            drawn.append({"column": column, "state": state, "next": f"-{column.key}" if state == "ascending" else column.key, "on": on})
        return drawn, [*order, "pk"], sort


def names_in(rows: QuerySet[Any, Any], field: str, name: str) -> list[tuple[str, str]]:
    """What a filter by a related thing offers: the names that occur, 200 at most; asked once for each thing, not for each row."""
    behind: Any = rows.model._meta.get_field(field).related_model  # noqa: SLF001 - Django's public API
    found = behind._default_manager.filter(Exists(rows.filter(**{field: OuterRef("pk")})))  # noqa: SLF001 - Django's public API
    return [(text, text) for text in found.order_by(name).values_list(name, flat=True)[:200]]


def bulk_url(resource: str) -> str:
    """Where a list's selection is posted to; empty while nothing answers there."""
    try:
        return reverse("admin:bulk", args=[resource])
    except NoReverseMatch:
        return ""


def _page(asked: str) -> int:
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 1


def _hidden(columns: list[dict[str, Any]], *, offset: bool) -> str:
    """Classes that hide the columns not wanted, by their place; rows are written by templates that know nothing of it."""
    return " ".join(f"no-{number + offset}" for number, item in enumerate(columns, 1) if not item["on"])
