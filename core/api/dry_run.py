"""Dry run: the same code in a transaction that is rolled back; the answer says what would be done."""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

from django.db import connection, transaction
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from core.api.idempotency import without
from core.audit.services import collecting


@dataclass(frozen=True, slots=True)
class Warn:
    """What may go wrong although nothing forbids it; `code` is stable, `detail` for people."""

    code: str
    detail: str
    pointer: str = ""


def rehearse(work: Callable[[], Response], *, warnings: Iterable[Warn], secret_fields: Collection[str]) -> Response:
    """Do the work, look at what it did, undo it. Problems are those of the work."""
    with transaction.atomic(), collecting() as entries:
        response = work()
        document = None if response.data is None else json.loads(JSONRenderer().render(response.data))
        # What a commit would check is checked now; then all of it goes.
        connection.check_constraints()
        transaction.set_rollback(True)
    if response.status_code >= 400:
        return response
    changes = [{"action": e.action, "kind": e.kind, "name": e.name, "before": e.before, "after": e.after} for e in entries]
    return Response(
        {
            "dry_run": True,
            "status": response.status_code,
            "result": without(document, secret_fields),
            "changes": changes,
            "warnings": [asdict(warning) for warning in warnings],
        }
    )
