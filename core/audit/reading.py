"""Reading the audit: an entry's change in one line, and field by field."""

import json
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from core.audit.models import AuditEntry

# What services record stays as it is in the database; people read it in their language.
WORDS = {
    "abandon": _("abandon"),
    "apply": _("apply"),
    "approve": _("approve"),
    "cancel": _("cancel"),
    "change": _("change"),
    "close": _("close"),
    "create": _("create"),
    "default": _("open with"),
    "delete": _("delete"),
    "edit": _("edit"),
    "end draining": _("end draining"),
    "export": _("export"),
    "gate": _("gate"),
    "move": _("move"),
    "promote": _("promote"),
    "purge": _("purge"),
    "redrive": _("redrive"),
    "reject": _("reject"),
    "reschedule": _("reschedule"),
    "resume": _("resume"),
    "retire": _("retire"),
    "roll back": _("roll back"),
    "save": _("save"),
    "send": _("send"),
    "share": _("share"),
    "submit again": _("submit again"),
    "suspend": _("suspend"),
    "try again": _("try again"),
    "switch off": _("switch off"),
    "switch on": _("switch on"),
    "cluster": _("cluster"),
    "consumer group": _("consumer group"),
    "delayed message": _("delayed message"),
    "delayed messages": _("delayed messages"),
    "message": _("message"),
    "dead letter": _("dead letter"),
    "list": _("list"),
    "shadow group": _("shadow group"),
    "publication": _("publication"),
    "topic": _("topic"),
    "view": _("view"),
    "system": _("system"),
}


def said(recorded: str) -> str:
    """A recorded word in the reader's language; one that we do not know stays as it is."""
    return str(WORDS.get(recorded, recorded))


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


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of an entry: what it was, what it is; None where nothing is recorded."""

    field: str
    before: str | None
    after: str | None

    @property
    def mark(self) -> str:
        """`changed`, `added`, `removed`, or `same` for what is recorded on both sides alike."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "same" if self.before == self.after else "changed"


def differences(entry: AuditEntry) -> list[Difference]:
    """All that is recorded of the change, objects taken apart: `limits.rate`."""
    before, after = _flat(entry.before or {}), _flat(entry.after or {})
    keys = [*before, *(key for key in after if key not in before)]
    return [Difference(key, before.get(key), after.get(key)) for key in keys]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return flat


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
