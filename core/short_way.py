"""The short way of the data plane: its requests show a token or a key, so most of the middleware would do nothing for them.

Sessions, messages, CSRF, lockouts and the search for static files cost more than a send. A view of the data plane marks itself with
`takes_short_way`; a POST to it with a credential then goes from here to the view, and is answered as on the long way: the same
headers, languages and problem documents (a test compares the two). Everything else goes on to the rest of the middleware.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar

from csp.middleware import CSPMiddleware
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware
from django.urls import Resolver404, ResolverMatch, resolve
from django.utils import translation

from core.api.problems import response_for_exception

GetResponse = Callable[[HttpRequest], Any]
ViewT = TypeVar("ViewT", bound=Callable[..., HttpResponse])


def takes_short_way(view: ViewT) -> ViewT:
    """Mark a view that looks at no session, cookie or user of the request, and at nothing that a middleware leaves there."""
    vars(view)["takes_short_way"] = True
    return view


@lru_cache(maxsize=4096)
def _match(path: str) -> ResolverMatch | None:
    try:
        found = resolve(path)
    except Resolver404:
        return None
    return found if getattr(found.func, "takes_short_way", False) else None


class ShortWay:
    """Middleware; what comes after it in the list is the long way."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.headers = _constant_headers()
        self.only_https, self.language = settings.SECURE_SSL_REDIRECT, settings.LANGUAGE_CODE

    def __call__(self, request: HttpRequest) -> Any:
        """The view's answer, or the long way's."""
        found = self._view(request)
        if found is None:
            return self.get_response(request)
        request.resolver_match = found
        asked = "HTTP_ACCEPT_LANGUAGE" in request.META or "HTTP_COOKIE" in request.META
        language = translation.get_language_from_request(request) if asked else self.language
        with translation.override(language):
            try:
                response = found.func(request, **found.kwargs)
            except Exception as error:  # noqa: BLE001 - what it is, the problem says
                response = response_for_exception(error)
        headers = response.headers
        for name, value in self.headers.items():
            headers[name] = value
        headers["Content-Language"] = language
        headers["Content-Length"] = str(len(response.content))
        return response

    def _view(self, request: HttpRequest) -> ResolverMatch | None:
        """The view of a request that can go the short way: what has to be refused or redirected is left to the long one."""
        if request.method != "POST" or "HTTP_AUTHORIZATION" not in request.META or not request.path_info.startswith("/api/"):
            return None
        if self.only_https and not request.is_secure():
            return None
        found = _match(request.path_info)
        if found is not None:
            try:
                request.get_host()
            except DisallowedHost:
                return None
        return found


def _constant_headers() -> dict[str, str]:
    """What the middleware that is left out gives to every answer, asked for once."""
    environ = {"REQUEST_METHOD": "POST", "wsgi.url_scheme": "https" if settings.SECURE_SSL_REDIRECT else "http", "wsgi.input": BytesIO()}
    request, response = WSGIRequest(environ), HttpResponse()
    for middleware in (SecurityMiddleware, CSPMiddleware, XFrameOptionsMiddleware):
        middleware(lambda _request: response)(request)
    return {name: value for name, value in response.items() if name != "Content-Type"} | {"Vary": "Accept-Language"}
