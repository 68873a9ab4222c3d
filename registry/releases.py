"""Releases: each generation of what is published, with who made it, why, and which others came of the same change."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import connection

from core.audit.reading import Difference
from core.request_context import current
from registry import rendering
from registry.models import Release
from registry.statements import sql

if TYPE_CHECKING:
    from accounts.models import User

#: Kept: everything of so many days, and of each path its last releases however old they are. docs/releases.md says so.
KEEP_DAYS = 90
KEEP_LAST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Why something is published: made once by a verb, and handed to all that it publishes. Author None is the system.

    The message is a person's reason. What mqadmin says itself where nobody gave one stands there in English, as in the audit.
    """

    author: User | None
    message: str
    kind: str = Release.Kind.NORMAL
    id: uuid.UUID = field(default_factory=uuid.uuid4)


def record(*, change: Change, paths: Sequence[str]) -> None:
    """Write a release for each of these publications at the generation that it has now, in one statement.

    In the transaction that advanced them, each exactly once. Who writes publications with statements of their own calls it; the verbs of
    `registry.services` do so by themselves.
    """
    values = {
        "paths": list(paths),
        "kind": str(change.kind),
        "author": change.author.pk if change.author else None,
        "author_name": change.author.get_username() if change.author else "system",
        "message": change.message or current.get().change_message,
        "change": change.id,
    }
    with connection.cursor() as cursor:
        cursor.execute(sql("record_releases"), values)


def forget(*, limit: int) -> int:
    """Delete some of those that are older than `KEEP_DAYS` and not among the last `KEEP_LAST` of their path; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(sql("forget_releases"), {"days": KEEP_DAYS, "last": KEEP_LAST, "limit": limit})
        return int(cursor.rowcount)


def before(release: Release) -> Release | None:
    """The release of the same path before this one; None: it is the first, or the one before is not kept any more."""
    return Release.objects.filter(publication=release.publication_id, generation__lt=release.generation).order_by("-generation").first()


def differences(old: Release | None, new: Release) -> list[Difference] | None:
    """What a release changed, key by key; the generation, which always differs, is left out. None: what was before is not known."""
    if old is None and new.generation > 1:
        return None
    was, now = values_of(old), values_of(new)
    keys = [*now, *(key for key in was if key not in now)]
    return [Difference(key, was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]


def values_of(release: Release | None) -> dict[str, str]:
    """The keys and values of a release; nothing of a path that was retired."""
    return {} if release is None or release.deleted else rendering.values_in(release.format, bytes(release.data))
