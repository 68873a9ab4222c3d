"""What mqctl prints: tables and documents for people, JSON for programs; notes and errors go to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


#: A column: its head, and the field of a row (with dots into what it holds) or a function of the row.
Column = tuple[str, "str | Callable[[Mapping[str, Any]], Any]"]
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_STYLES = {
    **dict.fromkeys(("active", "succeeded", "running", "published", "reached", "ok", "applied", "online", "same"), "green"),
    **dict.fromkeys(("dead", "failed", "refused", "error", "rejected", "missing", "outdated"), "red"),
    **dict.fromkeys(("pending", "later", "paused", "partial", "waiting", "warning", "suspended", "differs", "processing"), "yellow"),
    **dict.fromkeys(("retired", "cancelled", "superseded", "offline", "skipped", "unknown", "-"), "dim"),
    "create": "cyan",
}


def clean(text: str) -> str:
    """Make what others wrote harmless to a terminal: control characters are shown as escapes, line feeds and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


def shown(value: Any) -> str:
    """Return a value as a table has it: unknown is -, times are local."""
    if value is None or value in ("", [], {}):
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, str):
        if _TIME.fullmatch(value):
            return local(value)
        return clean(value)
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return clean(", ".join(value))
    if isinstance(value, (list, dict, tuple)):
        return clean(json.dumps(value, ensure_ascii=False))
    return str(value)


def local(text: str) -> str:
    """Return a time of RFC 3339 in the zone of this machine."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def pick(row: Mapping[str, Any], path: str) -> Any:
    """Return a field of a document; `status.applied.online` looks into what it holds. None where there is none."""
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class Output:
    """Standard output and standard error of one call; `form` is table or json."""

    def __init__(self, form: str = "table") -> None:
        self.form = form

    @cached_property
    def console(self) -> Console:
        """Standard output for people; into a pipe nothing is coloured, wrapped or cut."""
        from rich.console import Console

        return Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())

    @cached_property
    def errors(self) -> Console:
        """Standard error."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    @property
    def json(self) -> bool:
        """Whether a program reads it."""
        return self.form == "json"

    def document(self, document: Any) -> None:
        """Print JSON, indented."""
        self._write(json.dumps(document, ensure_ascii=False, indent=2))

    def line(self, document: Any) -> None:
        """Print JSON in a line of its own, at once: for streams."""
        self._write(json.dumps(document, ensure_ascii=False, separators=(",", ":")))

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, nothing: str = "There is nothing.") -> None:
        """Print a list: as it came in JSON, or a table of these columns."""
        if self.json:
            self.document(list(rows))
            return
        if not rows:
            self.note(nothing)
            return
        cells = [[shown(pick(row, of) if isinstance(of, str) else of(row)) for _head, of in columns] for row in rows]
        heads = [head for head, _of in columns]
        if self.console.is_terminal:
            from rich.table import Table

            table = Table(box=None, header_style="bold", pad_edge=False)
            for head in heads:
                table.add_column(head, overflow="fold")
            for row in cells:
                table.add_row(*(_text(cell, style=_STYLES.get(cell, "")) for cell in row))
            self.console.print(table)
            return
        cells = [[" ".join(cell.split()) for cell in row] for row in cells]  # a row is a line
        widths = [max(_text(row[i]).cell_len for row in [heads, *cells]) for i in range(len(heads))]
        for row in [heads, *cells]:
            padded = (cell + " " * (width - _text(cell).cell_len) for cell, width in zip(row, widths, strict=True))
            self._write("  ".join(padded).rstrip())

    def fields(self, document: Mapping[str, Any], columns: Sequence[Column]) -> None:
        """Print one thing: as it came in JSON, or these fields below each other."""
        if self.json:
            self.document(document)
            return
        width = max(len(head) for head, _of in columns)
        for head, of in columns:
            cell = shown(pick(document, of) if isinstance(of, str) else of(document))
            line = _text(f"{head:{width}}  ", style="bold")
            self.console.print(line.append(_text(cell, style=_STYLES.get(cell, "not bold"))))

    def say(self, text: str, style: str = "") -> None:
        """Print text of ours."""
        self.console.print(_text(clean(text), style=style))

    def note(self, text: str, style: str = "dim") -> None:
        """Tell the person something that is no result."""
        self.errors.print(_text(clean(text), style=style))

    def _write(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text  # what prints JSON does without

    return Text(text, style=style)
