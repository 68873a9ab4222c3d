"""Idempotency-Key: a POST that is sent again gets the first answer, which was written in the transaction of the effect itself.

A crash before the commit leaves neither the effect nor the key, one after it leaves both; so a key is never stuck in flight.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import Problem
from core.models import IdempotencyKey
from core.request_context import current

KEPT = timedelta(hours=24)
HEADERS = ("Location", "ETag")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def key_of(request: Request) -> str | None:
    """The key of a request. Problem: invalid_idempotency_key."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(
            "invalid_idempotency_key",
            _("An Idempotency-Key has 1 to 255 visible ASCII characters."),
            hint=_("Make a new random one for every thing that you want done, such as a UUID."),
        )
    return key


def once(request: Request, key: str, work: Callable[[], Response], *, secret_fields: Collection[str]) -> Response | HttpResponse:
    """Do the work unless it was done under this key before; answer as then.

    Problems: idempotency_in_flight (409), idempotency_key_reused (422), and those of the work: of an error nothing is kept.
    """
    credential = f"{getattr(request.user, 'pk', None)}:{current.get().credential or 'session'}"[:200]
    address = f"{request.method} {request.get_full_path()}"
    digest = hashlib.sha256(address.encode() + b"\n" + request._request.body).hexdigest()  # noqa: SLF001 - DRF's name for Django's
    with transaction.atomic():
        _lock(credential, key)
        kept = IdempotencyKey.objects.filter(credential=credential, key=key).first()
        if kept is not None and kept.created_at <= timezone.now() - KEPT:
            kept.delete()
            kept = None
        if kept is not None:
            return _again(kept, digest)
        response = work()
        if response.status_code >= 400:
            transaction.set_rollback(True)
            return response
        keep(credential=credential, key=key, address=address, digest=digest, response=response, secret_fields=secret_fields)
    return response


def keep(*, credential: str, key: str, address: str, digest: str, response: Response, secret_fields: Collection[str]) -> None:
    """Write the answer down, its secrets as null; within the transaction of the effect."""
    document = None if response.data is None else without(json.loads(JSONRenderer().render(response.data)), secret_fields)
    IdempotencyKey.objects.create(
        credential=credential,
        key=key,
        request=address[:500],
        digest=digest,
        status=response.status_code,
        headers={name: response[name] for name in HEADERS if response.has_header(name)},
        response="" if document is None else json.dumps(document, ensure_ascii=False, separators=(",", ":")),
    )


def without(document: Any, names: Collection[str]) -> Any:
    """The document with these fields null, however deep they are."""
    if isinstance(document, dict):
        return {key: None if key in names else without(value, names) for key, value in document.items()}
    return [without(value, names) for value in document] if isinstance(document, list) else document


def clean(*, limit: int = 5000) -> int:
    """Throw away keys that are older than 24 hours, at most so many; returns how many."""
    old = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - KEPT).order_by("created_at").values("pk")[:limit]
    return IdempotencyKey.objects.filter(pk__in=old).delete()[0]


def _lock(credential: str, key: str) -> None:
    """Nobody waits for the other: they might wait for a long time, and hold a connection meanwhile."""
    number = int.from_bytes(hashlib.sha256(f"{credential}\n{key}".encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        row = cursor.fetchone()
    if row is None or not row[0]:
        raise Problem(
            "idempotency_in_flight",
            _("A request with this Idempotency-Key is being carried out just now."),
            status=409,
            hint=_("Send it again in a moment: you will get its answer."),
            headers={"Retry-After": "1"},
        )


def _again(kept: IdempotencyKey, digest: str) -> HttpResponse:
    if kept.digest != digest:
        raise Problem(
            "idempotency_key_reused",
            _("This Idempotency-Key was used for another request: {request}").format(request=kept.request),
            status=422,
            hint=_("Take a new key for every thing that you want done."),
        )
    content_type = "application/json" if kept.response else None
    answer = HttpResponse(kept.response, status=kept.status, content_type=content_type, headers=kept.headers)
    answer["Idempotency-Replayed"] = "true"
    if not kept.response:
        del answer["Content-Type"]
    return answer
