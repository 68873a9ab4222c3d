"""How requests read for people: what is asked for in one line, and each value of a difference."""

from typing import Any

from django.utils.translation import gettext as _

from core.approvals import kinds
from core.approvals.models import Request


def text(value: Any, unit: str = "") -> str:
    """A value of a payload for people."""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list):
        return ", ".join(_row(row) for row in value) or _("none")
    if isinstance(value, int):
        return f"{value:,} {unit}".strip()
    return str(value)


def _row(row: Any) -> str:
    if isinstance(row, dict) and "topic" in row:
        tags = str(row.get("tags", "*"))
        return str(row["topic"]) if tags == "*" else f"{row['topic']} [{tags}]"
    return str(row)


def differences(request: Request) -> list[dict[str, Any]]:
    """Label, old and new of each field, as text; lists also as what is dropped and added."""
    rows = []
    for row in kinds.of(request).diff(request):
        old, new = row["old"], row["new"]
        shown = {"field": row["field"], "label": row["label"], "new": text(new, row["unit"])}
        shown["old"] = None if request.base_version is None else text(old, row["unit"])
        if isinstance(old, list) and isinstance(new, list):
            shown["dropped"] = [_row(one) for one in old if one not in new]
            shown["added"] = [_row(one) for one in new if one not in old]
        rows.append(shown)
    return rows


def summary(request: Request) -> str:
    """What is asked for in one line."""
    rows = differences(request)
    parts = [f"{row['label']}: {row['old']} → {row['new']}" if row["old"] is not None else f"{row['label']}: {row['new']}" for row in rows]
    shown = [part for part, row in zip(parts, rows, strict=True) if request.base_version is not None or row["field"] not in _PLAIN]
    return " · ".join(shown)


_PLAIN = {"application", "owner", "ordered", "consume_from"}  # have columns of their own, or are seldom what matters
