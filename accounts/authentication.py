"""Who is asking: a token of a machine, or the session of a browser."""

import time
from dataclasses import replace

from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts.models import ApiToken, User
from core.request_context import current

# A token's row is read again after so many seconds at the latest: revoking takes effect within them in every process.
CACHE_SECONDS = 5.0
_seen: dict[str, tuple[float, ApiToken]] = {}


def user_of_token(header: str) -> User | None:
    """The person behind an Authorization header; None if it is not of our kind; AuthenticationFailed if it is wrong or expired."""
    scheme, _blank, secret = header.partition(" ")
    if scheme.lower() != "token" or not secret:
        return None
    digest = ApiToken.digest_of(secret.strip())
    now = time.monotonic()
    cached = _seen.get(digest)
    if cached is None or cached[0] < now:
        token = ApiToken.objects.select_related("user").filter(digest=digest).first()
        if token is None:
            _seen.pop(digest, None)
            raise exceptions.AuthenticationFailed(_("This token is unknown."))
        if len(_seen) > 1000:
            _seen.clear()
        _seen[digest] = (now + CACHE_SECONDS, token)
        # Once a minute is exact enough for “last used”, and keeps reads from becoming writes.
        if token.last_used_at is None or (timezone.now() - token.last_used_at).total_seconds() > 60:
            ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now())
    else:
        token = cached[1]
    if token.expires_at <= timezone.now():
        raise exceptions.AuthenticationFailed(_("This token has expired."))
    user: User = token.user
    if not user.is_active:
        raise exceptions.AuthenticationFailed(_("The account of this token is not active."))
    current.set(replace(current.get(), credential=f"token:{token.hint}"))
    return user


def authenticate(request: HttpRequest) -> User:
    """The person behind a request to a plain view, by token; NotAuthenticated if there is none."""
    user = user_of_token(request.META.get("HTTP_AUTHORIZATION", ""))
    if user is None:
        raise exceptions.NotAuthenticated
    return user


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Token …`."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        """DRF's hook."""
        user = user_of_token(request.META.get("HTTP_AUTHORIZATION", ""))
        return (user, None) if user else None

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        """What a 401 asks for."""
        return "Token"


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's session, with CSRF check; a class of our own so that OpenAPI can name it."""
