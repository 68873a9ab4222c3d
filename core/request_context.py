"""Who asks, for the audit and for problem documents, without handing the request through every call."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Id and address of the request that is being served; empty in workers."""

    request_id: str = ""
    address: str = ""
    credential: str = ""


current: ContextVar[RequestContext] = ContextVar("request_context", default=RequestContext())  # noqa: B039 - frozen
