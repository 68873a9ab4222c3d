"""Writing the audit, in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import connection
from psycopg.types.json import Jsonb

from core.audit.models import AuditEntry
from core.redaction import redacted
from core.request_context import current

if TYPE_CHECKING:
    from accounts.models import User

_collected: ContextVar[list[AuditEntry] | None] = ContextVar("collected_audit_entries", default=None)
_batch: ContextVar[list[AuditEntry] | None] = ContextVar("batch_of_audit_entries", default=None)
_COLUMNS = (
    "actor_id", "actor_name", "credential", "application", "action", "kind", "name", "before", "after", "reason", "request_id", "address",
)  # fmt: skip


@contextmanager
def in_one_statement() -> Iterator[None]:
    """What is recorded inside is written at its end, all at once; in a transaction, since without its end nothing is written."""
    batch: list[AuditEntry] = []
    token = _batch.set(batch)
    try:
        yield
        if batch:
            with connection.cursor() as cursor, cursor.copy(f"COPY audit_auditentry ({', '.join(_COLUMNS)}) FROM STDIN") as copy:
                for entry in batch:
                    copy.write_row([_plain(getattr(entry, name)) for name in _COLUMNS])
    finally:
        _batch.reset(token)


def _plain(value: Any) -> Any:
    return Jsonb(dict(value)) if isinstance(value, Mapping) else value


@contextmanager
def collecting() -> Iterator[list[AuditEntry]]:
    """What is recorded inside, in its order: a dry run shows it, and then rolls it back."""
    entries: list[AuditEntry] = []
    token = _collected.set(entries)
    try:
        yield entries
    finally:
        _collected.reset(token)


@contextmanager
def forgotten_with_it() -> Iterator[None]:
    """With a savepoint: what was recorded inside is not shown by a dry run either, when it is undone."""
    entries = _collected.get()
    kept = len(entries or ())
    try:
        yield
    except BaseException:
        if entries is not None:
            del entries[kept:]
        raise


def record(
    *,
    actor: User | None,
    action: str,
    kind: str,
    name: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> None:
    """Append an entry; `before` and `after` carry what changed, never a secret. Actor None is the system.

    Who, with which credential, from where, and why if no reason is given, come from the request's context. A value under a name that
    only secrets have is masked all the same, should somebody forget.
    """
    context = current.get()
    if before is not None and after is not None:
        changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
        before = {key: value for key, value in before.items() if key in changed}
        after = {key: value for key, value in after.items() if key in changed}
    entry = AuditEntry(
        actor_id=actor.pk if actor else None,
        actor_name=actor.get_username() if actor else "system",
        credential=context.credential[:150],
        application=context.application,
        action=action,
        kind=kind,
        name=name[:250],
        before=redacted(before),
        after=redacted(after),
        reason=reason or context.change_message,
        request_id=context.request_id,
        address=context.address,
    )
    if (batch := _batch.get()) is not None:
        batch.append(entry)
    else:
        entry.save(force_insert=True)
    if (entries := _collected.get()) is not None:
        entries.append(entry)
