"""Errors as RFC 9457 problem documents, the same for DRF views, plain views and Django's own refusals."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from core.errors import FieldError, Problem
from core.request_context import current
from core.retrying import is_deadlock

log = structlog.get_logger(__name__)
CONTENT_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    410: "Gone",
    411: "Length required",
    412: "Precondition failed",
    413: "Too large",
    415: "Unsupported media type",
    422: "Unprocessable",
    428: "Precondition required",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available now",
}


def document(
    *, status: int, code: str, detail: Any, hint: Any = "", errors: Sequence[FieldError] = (), extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The problem document as a dictionary."""
    request_id = current.get().request_id

    def text(value: Any) -> str:
        """What callers sent is quoted; half a surrogate pair cannot be, and would make the answer an internal error."""
        return str(value).encode("utf-8", "replace").decode()

    body: dict[str, Any] = {
        "type": f"urn:mqadmin:problem:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "code": code,
        "detail": text(detail),
        "instance": f"urn:mqadmin:request:{request_id}",
        "request_id": request_id,
    }
    if hint:
        body["hint"] = text(hint)
    if errors:
        body["errors"] = [{"pointer": text(error.pointer), "detail": text(error.detail)} for error in errors]
    return {**body, **{key: value for key, value in (extra or {}).items() if key not in body}}


def problem_response(*, status: int, code: str, detail: Any, headers: Mapping[str, str] | None = None, **more: Any) -> HttpResponse:
    """The problem document as a response of a plain Django view."""
    return JsonResponse(
        document(status=status, code=code, detail=detail, **more),
        status=status,
        content_type=CONTENT_TYPE,
        headers=dict(headers or {}),
        json_dumps_params={"separators": (",", ":"), "ensure_ascii": False},
    )


def _is_limit(exception: Exception) -> bool:
    """Whether the database answers, and what it was asked is too much for it (class 54): trying again would change nothing."""
    return (getattr(exception.__cause__, "sqlstate", None) or "").startswith("54")


def to_problem(exception: Exception) -> Problem:
    """What went wrong, as a problem; the unforeseen is logged with its traceback and told without one."""
    match exception:
        case Problem():
            return exception
        case exceptions.ValidationError():
            errors = _field_errors(exception.detail)
            summary = _("Some fields are not right.") if len(errors) != 1 else errors[0].detail
            return Problem("invalid", summary, errors=errors)
        case exceptions.ParseError():
            return Problem("malformed_json", _("The body is not valid JSON."), hint=str(exception.detail))
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            code = "wrong_credentials" if isinstance(exception, exceptions.AuthenticationFailed) else "not_authenticated"
            return Problem(
                code, exception.detail, status=401, hint=_("Send “Authorization: Token …”."), headers={"WWW-Authenticate": "Token"}
            )
        case exceptions.Throttled():
            wait = str(int(getattr(exception, "wait", None) or 1))
            return Problem("too_many_requests", exception.detail, status=429, headers={"Retry-After": wait})
        case exceptions.PermissionDenied() if str(exception.detail).startswith("CSRF Failed"):
            return Problem(
                "csrf_failed",
                _("A request of a browser's session needs the CSRF token of that session."),
                status=403,
                hint=_("Send it as X-CSRFToken; programs send “Authorization: Token …” instead of cookies."),
            )
        case exceptions.APIException():
            return Problem(_CODES.get(exception.status_code, "error"), exception.detail, status=exception.status_code)
        case Http404():
            return Problem("not_found", _("There is nothing here."), status=404)
        case PermissionDenied():
            return Problem("forbidden", _("You may not do this."), status=403)
        case RequestDataTooBig():
            return Problem("too_large", _("The body is larger than this server takes."), status=413)
        case SuspiciousOperation():
            return Problem("bad_request", _("The request is not acceptable."), status=400)
        case IntegrityError() if "foreign key" in str(exception):
            log.warning("reference_gone", error=str(exception).strip())
            return Problem(
                "reference_gone",
                _("Something that this names was removed at the same moment."),
                status=409,
                hint=_("Nothing was changed; read again what there is."),
            )
        case OperationalError() if is_deadlock(exception):
            log.error("deadlock", error=str(exception).strip())
            return Problem(
                "try_again",
                _("Others are changing the same things just now."),
                status=503,
                hint=_("Nothing was changed; try again in a moment."),
                headers={"Retry-After": "1"},
            )
        case OperationalError() | InterfaceError() if not _is_limit(exception):
            log.error("database_unavailable", error=str(exception).strip())
            return Problem(
                "database_unavailable",
                _("The database does not answer."),
                status=503,
                # If it went away during the commit, the change may be there.
                hint=_("Try again in a moment; look first whether it was done, or send it with an Idempotency-Key."),
                headers={"Retry-After": "2"},
            )
        case _:
            log.error("unhandled", exc_info=exception)
            return Problem("internal", _("This is a fault of mqadmin; it is in the log under the request id."), status=500)


_CODES = {403: "forbidden", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 415: "unsupported_media_type"}


def _field_errors(detail: Any, pointer: str = "") -> list[FieldError]:
    if isinstance(detail, Mapping):
        return [
            error
            for key, value in detail.items()
            for error in _field_errors(value, pointer if key == "non_field_errors" else f"{pointer}/{key}")
        ]
    if isinstance(detail, list):
        return [
            error
            for i, value in enumerate(detail)
            for error in _field_errors(value, f"{pointer}/{i}" if isinstance(value, Mapping) else pointer)
        ]
    return [FieldError(pointer or "/", str(detail))]


def response_for_exception(exception: Exception) -> HttpResponse:
    """The response of a plain view that raised."""
    problem = to_problem(exception)
    return problem_response(
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        hint=problem.hint,
        errors=problem.errors,
        extra=problem.extra,
        headers=problem.headers,
    )


def exception_handler(exception: Exception, _context: Mapping[str, Any]) -> Response:
    """DRF's hook."""
    set_rollback()
    problem = to_problem(exception)
    body = document(
        status=problem.status, code=problem.code, detail=problem.detail, hint=problem.hint, errors=problem.errors, extra=problem.extra
    )
    return Response(body, status=problem.status, headers=problem.headers, content_type=CONTENT_TYPE)
