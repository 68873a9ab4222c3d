"""Who is asking: a token of a machine, the key of an application, or the session of a browser."""

import time
from dataclasses import replace
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts import limits, signing
from accounts.models import ApiToken, ApplicationKey, User
from accounts.principals import KeyPrincipal
from core.request_context import current

# A row is read again after so many seconds at the latest: revoking takes effect within them in every process.
CACHE_SECONDS = 5.0
#: “Last used” is exact to so many seconds, which keeps reads from becoming writes.
TOUCH_SECONDS = 60
_tokens: dict[str, tuple[float, ApiToken]] = {}
_keys: dict[str, tuple[float, KeyPrincipal, str]] = {}


def principal_of(request: HttpRequest) -> User | KeyPrincipal | None:
    """Who stands behind the Authorization header; None if it is not of our kind.

    Raises AuthenticationFailed or a Problem with 401 if it is wrong, expired or sent before, and `too_many_requests`.
    """
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if not header:
        return None
    try:
        found: User | KeyPrincipal | None = _person_of(header) or _application_of(request, header)
    except Exception:
        limits.take_failure(request)
        raise
    if found is not None:
        limits.take(request, current.get().credential)
    return found


def still_holds(asking: User | KeyPrincipal) -> bool:
    """Whether the credential of a request that has waited for long is still good; asks the database."""
    if isinstance(asking, KeyPrincipal):
        key = ApplicationKey.objects.defer("secret").filter(pk=asking.key.pk).first()
        return key is not None and key.is_valid
    token = asking.token and ApiToken.objects.filter(pk=asking.token.pk, user__is_active=True).first()
    return bool(token and not token.is_expired)


def forget(*, digest: str = "", key_id: str = "") -> None:
    """Let a revoked credential end at once in this process; the others follow within seconds."""
    _tokens.pop(digest, None)
    _keys.pop(key_id, None)


def forget_all() -> None:
    """Know no credentials; for tests, which count statements and roll back."""
    _tokens.clear()
    _keys.clear()


def _person_of(header: str) -> User | None:
    scheme, _blank, secret = header.partition(" ")
    if scheme.lower() != "token" or not secret:
        return None
    digest = ApiToken.digest_of(secret.strip())
    now = time.monotonic()
    cached = _tokens.get(digest)
    if cached is None or cached[0] < now:
        token = ApiToken.objects.select_related("user").filter(digest=digest).first()
        if token is None:
            _tokens.pop(digest, None)
            raise exceptions.AuthenticationFailed(_("This token is unknown."))
        if len(_tokens) > 1000:
            _tokens.clear()
        token.user.token = token
        _tokens[digest] = (now + CACHE_SECONDS, token)
        _touch(token)
    else:
        token = cached[1]
    if token.is_expired:
        raise exceptions.AuthenticationFailed(_("This token has expired."))
    user: User = token.user
    if not user.is_active:
        raise exceptions.AuthenticationFailed(_("The account of this token is not active."))
    current.set(replace(current.get(), credential=f"token:{token.hint}"))
    return user


def _application_of(request: HttpRequest, header: str) -> KeyPrincipal | None:
    signed = signing.parse(header)
    if signed is None:
        return None
    now = time.monotonic()
    cached = _keys.get(signed.key)
    if cached is None or cached[0] < now:
        key = ApplicationKey.objects.select_related("application").filter(key_id=signed.key).first()
        if key is None:
            raise signing.refused("wrong_credentials", _("The key is unknown or the signature is wrong."))
        if len(_keys) > 1000:
            _keys.clear()
        cached = (now + CACHE_SECONDS, KeyPrincipal(key), key.secret.reveal())
        _keys[signed.key] = cached
        fresh = True
    else:
        fresh = False
    _until, principal, secret = cached
    signing.check(request, signed, secret)
    if not principal.key.is_valid:
        raise signing.refused("wrong_credentials", _("This key is revoked or has expired."))
    if request.method not in signing.SAFE:
        signing.use_nonce(principal.key.pk, signed.nonce)
    if fresh:
        _touch(principal.key)
    current.set(replace(current.get(), credential=principal.get_username(), application=principal.application.name))
    return principal


def _touch(row: ApiToken | ApplicationKey) -> None:
    if row.last_used_at is None or (timezone.now() - row.last_used_at).total_seconds() > TOUCH_SECONDS:
        type(row).objects.filter(pk=row.pk).update(last_used_at=timezone.now())


def authenticate(request: HttpRequest) -> Any:
    """Who stands behind a request to a plain view, by token or key; NotAuthenticated if nobody does."""
    found = principal_of(request)
    if found is None:
        raise exceptions.NotAuthenticated
    return found


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Token …` of a person, or `Authorization: App …` of an application."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """DRF's hook."""
        found = principal_of(request._request)  # noqa: SLF001 - DRF's name for Django's request
        return (found, None) if found else None

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        """What a 401 asks for."""
        return "Token, App"


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's session, with CSRF check; a class of our own so that OpenAPI can name it."""

    def authenticate(self, request: Request) -> Any:
        """DRF's, within the limit of the person."""
        found = super().authenticate(request)
        if found is not None:
            current.set(replace(current.get(), credential="session"))
            limits.take(request._request, f"session:{found[0].pk}")  # noqa: SLF001
        return found
