"""Signatures of application keys: HMAC-SHA256 over a canonical text of the request; docs/security.md has the recipe and a test vector.

Authorization: App key=mqk_…, timestamp=1763740800, nonce=0f8fad5bd9cb469fa165, signature=<64 hex digits>
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from time import time

from django.core.exceptions import RequestDataTooBig
from django.db import connection
from django.http import HttpRequest
from django.utils.translation import gettext as _

from core.errors import Problem

SCHEME = "app"
VERSION = "MQADMIN-HMAC-SHA256"
WINDOW = 300  # seconds that a clock may be off, either way
SAFE = frozenset({"GET", "HEAD"})  # repeating them does nothing: no nonce is kept
_PART = re.compile(r"\s*(key|timestamp|nonce|signature)=([A-Za-z0-9_-]{1,128})\s*", re.ASCII)
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signed:
    """What the header says."""

    key: str
    timestamp: str
    nonce: str
    signature: str


def refused(code: str, detail: str, hint: str = "") -> Problem:
    """A 401 that says what a correct request looks like."""
    hint = hint or _("Send “Authorization: App key=…, timestamp=…, nonce=…, signature=…”.")
    return Problem(code, detail, status=401, hint=hint, headers={"WWW-Authenticate": "App"})


def canonical(*, method: str, path: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """The text that is signed; `path` with its query, percent-encoded as it is sent."""
    lines = (VERSION, method.upper(), path, timestamp, nonce, hashlib.sha256(body).hexdigest())
    return "\n".join(lines).encode()


def sign(secret: str, *, method: str, path: str, timestamp: str, nonce: str, body: bytes) -> str:
    """The signature in hex."""
    text = canonical(method=method, path=path, timestamp=timestamp, nonce=nonce, body=body)
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def parse(header: str) -> Signed | None:
    """The parts of an Authorization header of ours; None if it is another scheme. Problem: wrong_credentials."""
    scheme, _blank, rest = header.partition(" ")
    if scheme.lower() != SCHEME:
        return None
    found = [_PART.fullmatch(part) for part in rest[:1000].split(",")]
    parts = {match[1]: match[2] for match in found if match}
    if len(found) != 4 or len(parts) != 4 or not _NONCE.fullmatch(parts["nonce"]) or not parts["timestamp"].isdigit():
        raise refused("wrong_credentials", _("The Authorization header is not right."), _("A nonce has 16 to 64 letters, digits, - or _."))
    return Signed(**parts)


def check(request: HttpRequest, signed: Signed, secret: str) -> None:
    """Raise unless the key has signed exactly this request, a short while ago. Problems: stale_timestamp, wrong_credentials, too_large."""
    now = int(time())
    if len(signed.timestamp) > 12 or abs(now - int(signed.timestamp)) > WINDOW:
        hint = _("It must be within {n} seconds of the server's clock, which says {now}.").format(n=WINDOW, now=now)
        raise refused("stale_timestamp", _("The timestamp of the signature is too far off."), hint)
    try:
        body = request.body
    except RequestDataTooBig:
        raise Problem("too_large", _("The body is larger than this server takes."), status=413) from None
    expected = sign(
        secret, method=str(request.method), path=request.get_full_path(), timestamp=signed.timestamp, nonce=signed.nonce, body=body
    )
    if not hmac.compare_digest(expected, signed.signature.lower()):
        raise refused("wrong_credentials", _("The key is unknown or the signature is wrong."))


def use_nonce(key: int, nonce: str) -> None:
    """Keep the nonce, one insert; refused if the key has used it already. Problem: replayed."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO accounts_keynonce (key, nonce) VALUES (%s, %s) ON CONFLICT DO NOTHING", [key, nonce])
        if cursor.rowcount != 1:
            raise refused("replayed", _("This request was sent before."), _("Sign every request with a new nonce."))
