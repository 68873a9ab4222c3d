"""Reading the audit: an entry's change in one line."""

import json
from typing import Any

from core.audit.models import AuditEntry


def changes(entry: AuditEntry) -> str:
    """`address: a → b, kind: kafka`; empty when nothing but the fact is recorded."""
    before, after = entry.before or {}, entry.after or {}
    parts = []
    for key in [*before, *(key for key in after if key not in before)]:
        if key == "reason":
            continue  # has its own column
        if key in before and key in after:
            parts.append(f"{key}: {_short(before[key])} → {_short(after[key])}")
        else:
            parts.append(f"{key}: {_short(after.get(key, before.get(key)))}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
