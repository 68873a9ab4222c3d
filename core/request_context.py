"""Who asks, for the audit and for problem documents, without handing the request through every call."""

from contextvars import ContextVar
from dataclasses import dataclass

from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The request that is being served; empty in workers, except for what they do in somebody's name.

    `credential` is how the person proved who they are: `session`, `token:mq_abc…` or `key:APPLICATION/KEY`; `application` is the
    application whose key it was; `change_message` is why, in the caller's words, and stands in every audit entry of the request.
    """

    request_id: str = ""
    address: str = ""
    credential: str = ""
    application: str = ""
    change_message: str = ""


current: ContextVar[RequestContext] = ContextVar("request_context", default=RequestContext())  # noqa: B039 - frozen


def address_of(request: HttpRequest) -> str | None:
    """Where a request comes from: behind proxies of ours not theirs, or one client's mistakes would be everybody's."""
    return current.get().address or request.META.get("REMOTE_ADDR") or None
