"""Where a higher room shows something on a lower room's page: the lower room never imports it.

A room fills slots in its `console.py`, which the console's site imports when it builds its addresses:

    slots.columns("groups", [Column("lag", _("Lag"), css="num")], cells)   # cells(rows) -> {pk: [cell, …]}, one statement for all rows
    slots.tab("topic", slots.Tab(_("Messages"), lambda topic: reverse(…), badge=lambda topic: 3))
    slots.panel("group.overview", panel)                                   # panel(request, group) -> SafeString, "" for none
    slots.action("cluster", button)                                        # button(request, cluster) -> Action of the page's head
    slots.search(find)                                                     # find(user, words) -> hits of the palette

Slots that exist: columns `topics`, `groups` (list pages) and `topic.groups` (the groups tab of a topic, rows are groups);
tabs and panels `topic`, `group` (the overview tab), panels `group.instances`; `clusters` columns,
actions `cluster`. The store's numbers in `groups`,
`topics` and `topic.groups` are filled in by `mqadmin.counts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

from core.console.actions import Action

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list: `sort` names the fields that it orders by, empty if it cannot; `value` is what CSV has of a row.

    `value` is a path of attributes such as `cluster.name`, or a function of the row; a column without one is not in the file.
    Columns that other rooms add need none: their cells are written.
    """

    key: str
    label: Any
    sort: tuple[str, ...] = ()
    css: str = ""
    title: Any = ""
    value: str | Callable[[Any], Any] = ""


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab of a thing's page that another room serves; `permission` hides it from those who may not see it."""

    label: Any
    url: Callable[[Any], str]
    badge: Callable[[Any], int | None] | None = None
    tone: str = ""
    permission: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A find of the palette."""

    icon: str
    label: str
    hint: Any
    url: str


Cells = Callable[[Sequence[Any]], Mapping[Any, Sequence[Any]]]
Panel = Callable[[HttpRequest, Any], str]
Button = Callable[[HttpRequest, Any], Action]
Search = Callable[["User", str], Iterable[Hit]]

_columns: dict[str, list[tuple[Sequence[Column], Cells]]] = defaultdict(list)
_tabs: dict[str, list[Tab]] = defaultdict(list)
_panels: dict[str, list[Panel]] = defaultdict(list)
_actions: dict[str, list[Button]] = defaultdict(list)
_searches: list[Search] = []


def columns(slot: str, cols: Sequence[Column], cells: Cells) -> None:
    """Add columns to a list; `cells` gets all rows of the page at once and answers by primary key, a cell per column."""
    _columns[slot].append((cols, cells))


def tab(slot: str, item: Tab) -> None:
    """Add a tab to the page of a thing."""
    _tabs[slot].append(item)


def panel(slot: str, draw: Panel) -> None:
    """Add a panel to the overview tab of a thing."""
    _panels[slot].append(draw)


def action(slot: str, button: Button) -> None:
    """Add a button to the head of a thing's page."""
    _actions[slot].append(button)


def search(find: Search) -> None:
    """Let the palette find things of a room; `find` sees only what the person may view, and answers with ten at most."""
    _searches.append(find)


def columns_of(slot: str) -> list[Column]:
    """All columns that were added to a list, in order."""
    return [column for cols, _cells in _columns[slot] for column in cols]


def fill(slot: str, rows: Sequence[Any]) -> None:
    """Set `extra` on each row: the cells of the added columns; None where nobody answered."""
    parts = [(cols, cells(rows)) for cols, cells in _columns[slot]] if rows else []
    for row in rows:
        row.extra = [
            (column, cell) for cols, answers in parts for column, cell in zip(cols, answers.get(row.pk) or [None] * len(cols), strict=True)
        ]


def tabs_of(slot: str, thing: Any, user: Any) -> list[dict[str, Any]]:
    """The added tabs as the template wants them."""
    return [
        {
            "label": item.label,
            "url": item.url(thing),
            "badge": item.badge(thing) if item.badge else None,
            "tone": item.tone,
            "key": item.key,
        }
        for item in _tabs[slot]
        if not item.permission or user.has_perm(item.permission)
    ]


def panels_of(slot: str, request: HttpRequest, thing: Any) -> list[str]:
    """The added panels."""
    return [drawn for draw in _panels[slot] if (drawn := draw(request, thing))]


def actions_of(slot: str, request: HttpRequest, thing: Any) -> list[Action]:
    """The added buttons."""
    return [button(request, thing) for button in _actions[slot]]


def found(user: User, words: str) -> list[Hit]:
    """What all rooms find for the palette."""
    return [hit for find in _searches for hit in find(user, words)]
