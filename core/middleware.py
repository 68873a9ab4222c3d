"""What every request carries: its id and where it comes from, headers for browsers, and problem documents under /api/."""

import ipaddress
import logging
from collections.abc import Callable
from functools import lru_cache
from uuid import uuid4

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django_structlog.middlewares import RequestMiddleware

from core.api.problems import problem_response, response_for_exception
from core.request_context import RequestContext, current

PERMISSIONS_POLICY = ", ".join(f"{feature}=()" for feature in ("camera", "microphone", "geolocation", "payment", "usb", "serial", "midi"))
GetResponse = Callable[[HttpRequest], HttpResponse]
_access_log = logging.getLogger("django_structlog.middlewares.request")


class RequestLog(RequestMiddleware):
    """django-structlog's: the request's id for every line of the log, and lines of its own where somebody wants them.

    It would collect what belongs into such a line for the level to drop it: a tenth of what a single send may cost.
    """

    def prepare(self, request: HttpRequest) -> None:
        """The request's id; the line that it has begun, if it is wanted."""
        if _access_log.isEnabledFor(logging.INFO):
            super().prepare(request)
            return
        structlog.contextvars.bind_contextvars(request_id=request.META.get("HTTP_X_REQUEST_ID") or str(uuid4()))
        if correlation_id := request.META.get("HTTP_X_CORRELATION_ID"):
            structlog.contextvars.bind_contextvars(correlation_id=correlation_id)

    def handle_response(self, request: HttpRequest, response: HttpResponse) -> None:
        """The line that it has ended: of what went well only if it is wanted."""
        if response.status_code >= 300 or response.streaming or _access_log.isEnabledFor(logging.INFO):
            super().handle_response(request, response)
        else:
            structlog.contextvars.clear_contextvars()


def request_context(get_response: GetResponse) -> GetResponse:
    """Keep request id and address for the audit, and answer with `X-Request-ID`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))[:64]
        # A browser's session; who shows a token or a key instead is named by what reads it (accounts.authentication).
        by_session = settings.SESSION_COOKIE_NAME in request.COOKIES and "HTTP_AUTHORIZATION" not in request.META
        context = RequestContext(request_id=request_id, address=client_address(request), credential="session" if by_session else "")
        token = current.set(context)
        try:
            response = get_response(request)
        finally:
            current.reset(token)
        response["X-Request-ID"] = request_id
        return response

    return middleware


def client_address(request: HttpRequest) -> str:
    """Who asks: the peer, or what trusted proxies say of theirs, from the nearest on: the last one that is not a proxy of ours.

    Without MQADMIN_TRUSTED_PROXIES nobody is believed: the header X-Forwarded-For is anybody's to write.
    """
    peer = str(request.META.get("REMOTE_ADDR", ""))
    if not settings.TRUSTED_PROXIES:
        return peer
    networks = _networks(tuple(settings.TRUSTED_PROXIES))
    for hop in [peer, *reversed(request.META.get("HTTP_X_FORWARDED_FOR", "").split(","))]:
        try:
            address = ipaddress.ip_address(hop.strip())
        except ValueError:
            break
        peer = str(address)
        if not any(address in network for network in networks if network.version == address.version):
            break
    return peer


@lru_cache(maxsize=4)
def _networks(entries: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(entry.strip()) for entry in entries]


def headers(get_response: GetResponse) -> GetResponse:
    """Say what browsers need not allow these pages, and to nobody else's pages to embed them."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        response.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        return response

    return middleware


class Problems:
    """Under /api/ nothing but problem documents: also for what Django itself refuses, and for what we did not foresee."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Turn Django's own HTML error pages into problem documents."""
        response = self.get_response(request)
        if _of_api(request) and response.status_code >= 400 and response.headers.get("Content-Type", "").startswith("text/html"):
            codes = {400: "bad_request", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
            return problem_response(
                status=response.status_code, code=codes.get(response.status_code, "error"), detail=response.reason_phrase
            )
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Answer exceptions of plain Django views; DRF's are answered by its exception handler."""
        return response_for_exception(exception) if _of_api(request) else None


def _of_api(request: HttpRequest) -> bool:
    return request.path == "/api" or request.path.startswith("/api/")


problems = Problems
