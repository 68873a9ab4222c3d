"""What travels over the wire: strict reading of JSON bodies, and how messages are written; hand-made, since it is the hot path."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from core.errors import FieldError, Problem
from core.tags import spelt
from messages.sending import MAX_DELAY, delay_out_of_range
from messages.types import Accepted, Batch, Delivery, HalfMessage, NewMessage, Outcome, Settled

T = TypeVar("T")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LEASE = re.compile(r"[0-9]{1,19}(-[0-9]{1,18})?", re.ASCII)  # of an instance with its number
_MAX_DELAY_MS = int(MAX_DELAY / timedelta(milliseconds=1))
_MAX_ID = 2**63 - 1
MESSAGE = frozenset({"body", "body_base64", "key", "tag", "sharding_key", "headers", "deliver_at", "delay_ms", "id"})
_OUTCOME = frozenset({"id", "status", "delay_ms", "error"})
_STATUSES = frozenset({"succeeded", "failed", "later", "dead"})
_KINDS: Mapping[type, str] = {str: "a string", int: "an integer", list: "an array", dict: "an object"}


def read_object(request: HttpRequest) -> dict[str, Any]:
    """The JSON object of a request, empty for no body. Problems: unsupported_media_type, malformed_json, invalid, too_large."""
    try:
        raw = request.body
    except RequestDataTooBig:
        detail = _("The request is larger than {n} bytes.").format(n=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        raise Problem("too_large", detail, status=413, hint=_("Send fewer or smaller messages at once.")) from None
    if not raw:
        if "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():  # WSGI knows no end of such a body
            raise Problem(
                "length_required", _("The length of the body is not known."), status=411, hint=_("Send Content-Length, not chunks.")
            )
        return {}
    params = request.content_params
    if request.content_type != "application/json" or (params and params.get("charset", "utf-8").lower() != "utf-8"):
        raise Problem("unsupported_media_type", _("The body must be JSON."), status=415, hint=_("Send Content-Type: application/json."))
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed_json", _("The body is not valid JSON."), hint=str(error)[:200]) from None
    if type(value) is not dict:
        raise Problem("invalid", _("The body must be a JSON object."))
    return value


def respond(document: Mapping[str, Any], *, status: int = 200) -> HttpResponse:
    """A JSON response."""
    return HttpResponse(orjson.dumps(document, option=orjson.OPT_UTC_Z), status=status, content_type="application/json")


def invalid(pointer: str, detail: str, *, code: str = "invalid", hint: str = "") -> Problem:
    """What is wrong with one field."""
    return Problem(code, detail, hint=hint, errors=[FieldError(pointer, detail)])


def only(fields: Mapping[str, Any], known: frozenset[str], at: str = "") -> None:
    """Refuse fields that do not exist: a misspelt one must not be ignored."""
    if not known >= fields.keys():
        unknown = sorted(fields.keys() - known)
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)[:400]),
            hint=_("Known are: {names}.").format(names=", ".join(sorted(known))),
            errors=[FieldError(f"{at}/{name[:120]}", _("There is no such field.")) for name in unknown[:20]],
        )


def typed(fields: Mapping[str, Any], name: str, kind: type[T], at: str = "") -> T | None:
    """A field of one JSON type; None when it is null or not there. true is no integer."""
    value = fields.get(name)
    if value is None or type(value) is kind:
        return value
    raise invalid(f"{at}/{name}", _("“{name}” must be {kind}.").format(name=name, kind=_KINDS[kind]))


def integer(fields: Mapping[str, Any], name: str, *, default: int, low: int, high: int) -> int:
    """A bounded integer."""
    value = typed(fields, name, int)
    if value is None:
        return default
    if not low <= value <= high:
        raise invalid(f"/{name}", _("“{name}” must be {low} to {high}.").format(name=name, low=low, high=high))
    return value


def text(fields: Mapping[str, Any], name: str, default: str, longest: int) -> str:
    """A string of bounded length."""
    value = typed(fields, name, str)
    if value is None:
        return default
    if len(value) > longest:
        raise invalid(f"/{name}", _("“{name}” may have {n} characters.").format(name=name, n=longest))
    return value


def moment(value: str, pointer: str) -> datetime:
    """A time of RFC 3339, with its offset from UTC."""
    if _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError:
            pass  # the 30th of February
    raise invalid(pointer, _("Give a time like 2026-11-21T14:00:00Z, with its offset from UTC."), code="invalid_time")


def new_messages(fields: dict[str, Any]) -> tuple[list[NewMessage], bool]:
    """The messages of a send, and whether it is a batch; a single one is the object itself."""
    if "messages" not in fields:
        return [new_message(fields, "")], False
    only(fields, frozenset({"messages"}))
    items = typed(fields, "messages", list)
    if items is None:
        raise invalid("/messages", _("“{name}” must be {kind}.").format(name="messages", kind="an array"))
    found: list[NewMessage] = []
    for i, item in enumerate(items):
        if type(item) is not dict:
            raise invalid(f"/messages/{i}", _("A message must be an object."))
        found.append(new_message(item, f"/messages/{i}"))
    return found, True


def new_message(fields: dict[str, Any], at: str, known: frozenset[str] = MESSAGE) -> NewMessage:
    """One message to send; what its values may be is the store's business, here are the types."""
    only(fields, known, at)
    headers = typed(fields, "headers", dict, at)
    due = delivery_time(fields, at) if "deliver_at" in fields or "delay_ms" in fields else None
    return NewMessage(
        body=body_of(fields, at),
        key=typed(fields, "key", str, at),
        tag=spelt(typed(fields, "tag", str, at) or ""),
        sharding_key=typed(fields, "sharding_key", str, at),
        headers=headers or {},
        deliver_at=due,
        producer_id=typed(fields, "id", str, at),
    )


def body_of(fields: Mapping[str, Any], at: str = "") -> bytes:
    """The body of a message. Problem: invalid."""
    body = typed(fields, "body", str, at)
    encoded = typed(fields, "body_base64", str, at)
    if (body is None) == (encoded is None):
        raise invalid(f"{at}/body", _("Give either “body”, a string, or “body_base64”."))
    if body is not None:
        return body.encode()
    try:
        return base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{at}/body_base64", _("This is not base64.")) from None


def delivery_time(fields: Mapping[str, Any], at: str = "") -> datetime | None:
    """When a message is due: `deliver_at`, or `delay_ms` from now; None for at once. The store refuses what lies too far away."""
    deliver_at = typed(fields, "deliver_at", str, at)
    delay_ms = typed(fields, "delay_ms", int, at)
    if deliver_at is not None and delay_ms is not None:
        raise invalid(f"{at}/delay_ms", _("Give either “deliver_at” or “delay_ms”."))
    if deliver_at is not None:
        return moment(deliver_at, f"{at}/deliver_at")
    if not delay_ms:
        return None
    if not 0 < delay_ms <= _MAX_DELAY_MS:
        raise delay_out_of_range(f"{at}/delay_ms")
    return datetime.now(UTC) + timedelta(milliseconds=delay_ms)


def lease_of(fields: Mapping[str, Any], at: str = "") -> str | None:
    """The lease of an earlier pull; a made-up one is refused, an old one is the store's business. Problem: malformed_lease."""
    lease = typed(fields, "lease", str, at)
    if lease is not None and not _LEASE.fullmatch(lease):
        raise no_lease(f"{at}/lease")
    return lease


def no_lease(pointer: str) -> Problem:
    """A lease is missing, or this is none."""
    hint = _("Give the lease of the pull that handed out the message, unchanged.")
    return invalid(pointer, _("This is not a lease."), code="malformed_lease", hint=hint)


def outcome(fields: Any, index: int, known: frozenset[str] = _OUTCOME, at: str = "/acks") -> Outcome:
    """What became of one message."""
    if type(fields) is not dict:
        raise invalid(f"{at}/{index}", _("An ack must be an object."))
    if not known >= fields.keys():
        only(fields, known, f"{at}/{index}")
    message_id, status = fields.get("id"), fields.get("status")
    if type(message_id) is not int or not 0 < message_id <= _MAX_ID:
        raise invalid(f"{at}/{index}/id", _("“id” must be the id of a message."))
    if type(status) is not str or status not in _STATUSES:
        raise invalid(f"{at}/{index}/status", _("The status is succeeded, failed, later or dead."), code="invalid_outcome")
    if "delay_ms" in fields or "error" in fields:
        at = f"{at}/{index}"
        return Outcome(message_id, status, typed(fields, "delay_ms", int, at), typed(fields, "error", str, at))  # type: ignore[arg-type]
    return Outcome(message_id, status)  # type: ignore[arg-type]


def acks_of(fields: Mapping[str, Any]) -> list[Any]:
    """The list of acks, of bounded length."""
    acks = typed(fields, "acks", list) or []
    if len(acks) > 1000:
        hint = _("Send at most {n} acks at once.").format(n=1000)
        raise Problem("batch_too_large", _("{n} acks are too many.").format(n=len(acks)), status=413, hint=hint)
    return acks


def body_fields(body: bytes) -> dict[str, str]:
    """`body` if it is text, else `body_base64`."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def delivery(m: Delivery) -> dict[str, Any]:
    """A message in a worker's hands."""
    document: dict[str, Any] = {
        "id": m.id,
        "topic": m.topic,
        "key": m.key,
        "tag": m.tag,
        "sharding_key": m.sharding_key,
        "headers": m.headers,
        "attempt": m.attempt,
        "sent_at": m.sent_at,
        "origin_id": m.origin_id,
    }
    try:
        document["body"] = m.body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(m.body).decode()
    return document


def batch(found: Batch) -> dict[str, Any]:
    """The result of a pull."""
    return {
        "lease": found.lease,
        "lease_until": found.lease_until,
        "messages": [delivery(message) for message in found.messages],
        "ordered": found.ordered,
        "reason": found.reason,
    }


def settled(results: Sequence[Settled | None]) -> list[dict[str, Any]]:
    """One result per ack, in their order: the message's status now, or a problem and nothing changed."""
    return [
        {"index": i, "id": r.id, "status": r.status, "next_retry_at": r.next_retry_at}
        if r.problem_code is None
        else {"index": i, "id": r.id, "status": None, "problem": {"code": r.problem_code, "detail": str(r.detail)}}
        for i, r in enumerate(results)
        if r is not None
    ]


def accepted(a: Accepted) -> dict[str, Any]:
    """A message that is stored."""
    return {"id": a.id, "state": a.state, "duplicate": a.duplicate, "deliver_at": a.deliver_at}


def half(m: HalfMessage) -> dict[str, Any]:
    """A half message."""
    return {name: getattr(m, name) for name in HalfMessage.__slots__ if name != "topic_id"}
