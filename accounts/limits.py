"""How many requests a credential may make in a while, and how many an address without one; counted in this process alone.

Counting together would cost every request a round trip; so with n web processes up to n times as many pass, which is what the limit
is for: one runaway script must not take the place of the others.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from time import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from core.errors import Problem
from core.request_context import address_of

_DATA_PLANE = re.compile(
    r"/api/v1/(topics/[^/]+/(messages|half-messages(/open)?)|half-messages/[0-9]+/(commit|rollback)"
    r"|consumer-groups/[^/]+/(pull|acks|next)|transactions|clients/[^/]+/heartbeat)"
)
_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_limiter = FixedWindowRateLimiter(MemoryStorage())


@lru_cache(maxsize=16)
def parsed(rate: str) -> RateLimitItem | None:
    """`200/s`, `1000/m`, or words as the library takes them; None when it is empty: no limit. ValueError if it makes no sense."""
    rate = rate.strip()
    if not rate:
        return None
    number, slash, unit = rate.partition("/")
    return parse(f"{number}/{_UNITS.get(unit.strip(), unit.strip())}" if slash else rate)


def take(request: HttpRequest, credential: str) -> None:
    """Count a request of a credential. Problem: too_many_requests."""
    data = request.method == "POST" and _DATA_PLANE.fullmatch(request.path) is not None
    _count(settings.DATA_RATE_LIMIT if data else settings.RATE_LIMIT, "data" if data else "control", credential)


def take_failure(request: HttpRequest) -> None:
    """Count a wrong credential, or none, against its address. Problem: too_many_requests."""
    _count(settings.ANONYMOUS_RATE_LIMIT, "anonymous", address_of(request) or "")


def reset() -> None:
    """Forget all counts, for tests."""
    _limiter.storage.reset()


def _count(rate: str, plane: str, who: str) -> None:
    limit = parsed(rate)
    if limit is None or _limiter.hit(limit, plane, who):
        return
    wait = max(1, round(_limiter.get_window_stats(limit, plane, who).reset_time - time() + 0.5))
    raise Problem(
        "too_many_requests",
        _("Too many requests: {limit}.").format(limit=limit),
        status=429,
        hint=_("Try again in {n} s.").format(n=wait),
        headers={"Retry-After": str(wait)},
    )


def anonymous(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: requests to the API without any credential are counted by their address."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if (
            request.path.startswith("/api/")
            and "HTTP_AUTHORIZATION" not in request.META
            and settings.SESSION_COOKIE_NAME not in request.COOKIES
        ):
            try:
                take_failure(request)
            except Problem as problem:
                from core.api.problems import response_for_exception  # REST's views look for us while they are loaded

                return response_for_exception(problem)
        return get_response(request)

    return middleware
