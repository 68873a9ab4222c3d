"""What can go wrong between an application and mqadmin or a broker, as errors that say whether trying again helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MqadminError(Exception):
    """The base. `permanent`: trying again changes nothing. `retry_after`: seconds to wait before it, None where nobody said."""

    permanent = True
    retry_after: float | None = None


class UnsupportedError(MqadminError):
    """The kind of broker cannot do this, or its client is not installed."""


class TransportError(MqadminError):
    """A broker refused messages, or did not answer. `unknown`: they may have been stored all the same."""

    def __init__(self, detail: str, *, permanent: bool = False, unknown: bool = False, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.permanent, self.unknown, self.retry_after = permanent, unknown, retry_after


class Busy(TransportError):  # noqa: N818 - what a caller handles, not a fault
    """Back-pressure: the topic, the broker or this process's own buffer takes no more now. Nothing was stored; send less, or later."""

    def __init__(self, detail: str, *, retry_after: float | None = None, code: str = "busy", hint: str = "") -> None:
        super().__init__(detail, retry_after=retry_after)
        self.code, self.hint = code, hint


class UnreachableError(TransportError, ConnectionError):
    """No address of mqadmin or the broker answered in time."""


class ProblemError(MqadminError):
    """mqadmin refused a request, with a problem document (RFC 9457): branch on `code`, show `detail` and `hint`.

    `errors` point at fields; `document` is the whole of it. A code never changes its meaning: docs/api.md of mqadmin lists them.
    """

    def __init__(self, *, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status, self.document, self.retry_after = status, document, retry_after
        self.code = str(document.get("code") or "error")
        self.detail = str(document.get("detail") or document.get("title") or f"status {status}")
        self.hint = str(document.get("hint") or "")
        self.request_id = str(document.get("request_id") or "")
        errors = document.get("errors")
        self.errors: Sequence[Mapping[str, str]] = errors if isinstance(errors, list) else []
        self.permanent = status < 500 and status not in {408, 425, 429}
        super().__init__(f"{self.detail} {self.hint}".strip() + f" [{self.status} {self.code}]")


class InvalidError(ProblemError):
    """400, 413, 415, 422: the request itself is not right."""


class NotAuthenticatedError(ProblemError):
    """401: no credential, or a wrong one, or a clock that is too far off."""


class ForbiddenError(ProblemError):
    """403: the credential may not do this."""


class NotFoundError(ProblemError):
    """404, 410: nothing is there, or nothing for this credential."""


class ConflictError(ProblemError):
    """409, 412, 428: the state of things does not allow it, or somebody was faster."""


class UnavailableError(ProblemError):
    """5xx: mqadmin or what it stands on does not work now."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    **dict.fromkeys((400, 411, 413, 415, 422), InvalidError),
    401: NotAuthenticatedError,
    403: ForbiddenError,
    **dict.fromkeys((404, 410), NotFoundError),
    **dict.fromkeys((409, 412, 428), ConflictError),
}


def of_problem(status: int, document: Mapping[str, Any], retry_after: float | None) -> MqadminError:
    """Return the error for a refusal: Busy for 429, else the ProblemError of the status."""
    if status == 429:
        detail, hint = str(document.get("detail") or "Too many requests."), str(document.get("hint") or "")
        return Busy(detail, retry_after=retry_after, code=str(document.get("code") or "too_many_requests"), hint=hint)
    kind = UnavailableError if status >= 500 else _BY_STATUS.get(status, ProblemError)
    return kind(status=status, document=document, retry_after=retry_after)
