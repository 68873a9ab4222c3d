"""The verbs of credentials: API tokens of people and keys of applications; each one transaction with its audit entry."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import authentication
from accounts.applications import require_application
from accounts.models import ApiToken, Application, ApplicationKey, User
from accounts.roles import SCOPES
from core.audit.services import record
from core.errors import FieldError, Problem, conflict


def make_token(*, actor: User, name: str, scopes: Sequence[str], expires_at: datetime) -> tuple[ApiToken, str]:
    """A token of one's own, and its secret, which is told here and nowhere else.

    Nobody makes one for somebody else: it would be a second pair of eyes for one person. What is made with a token is no wider than it,
    does not outlive it, and is revoked together with it. Problems: invalid, wider_than_own_token.
    """
    name = _named(name)
    wanted = [scope for scope in SCOPES if scope in set(scopes)]
    if not wanted or set(scopes) - set(SCOPES):
        raise _wrong("scopes", _("Choose from: {names}.").format(names=", ".join(SCOPES)))
    latest = timezone.now() + timedelta(days=settings.MAX_TOKEN_DAYS)
    if not timezone.now() < expires_at <= latest:
        raise _wrong("expires_at", _("Give a time to come, at most {n} days from now.").format(n=settings.MAX_TOKEN_DAYS))
    own = actor.token
    if own is not None and (set(wanted) - set(own.scopes) or expires_at > own.expires_at):
        raise Problem(
            "wider_than_own_token",
            _("A token makes no token that may more, or lasts longer, than it does itself."),
            status=403,
            hint=_("Its scopes are {names}; it ends {end}.").format(names=", ".join(own.scopes), end=own.expires_at.isoformat()),
        )
    with transaction.atomic():
        token, secret = ApiToken.issue(user=actor, name=name, expires_at=expires_at, scopes=wanted, made_with=own)
        after = {"scopes": wanted, "expires_at": expires_at.isoformat(), "begins_with": token.hint}
        record(actor=actor, action="create", kind="API token", name=name, after=after)
    token.refresh_from_db()
    return token, secret


def revoke_token(*, actor: User, token: ApiToken) -> None:
    """It ends within five seconds, and so do those that were made with it."""
    with transaction.atomic():
        gone = list(ApiToken.objects.filter(pk=token.pk).values_list("digest", flat=True))
        gone += ApiToken.objects.filter(made_with=token.pk).values_list("digest", flat=True)
        before = {"of": token.user.get_username(), "scopes": token.scopes, "begins_with": token.hint}
        record(actor=actor, action="revoke", kind="API token", name=token.name, before=before)
        token.delete()
    for digest in gone:
        authentication.forget(digest=digest)


def make_key(*, actor: User, application: Application, name: str = "", expires_at: datetime | None = None) -> tuple[ApplicationKey, str]:
    """A key of an application, and its secret, which is told here and nowhere else. Problems: not_your_application, invalid."""
    require_application(actor, "accounts.add_applicationkey", application)
    if expires_at is not None and expires_at <= timezone.now():
        raise _wrong("expires_at", _("Give a time to come."))
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        key = ApplicationKey.objects.create(
            application=application,
            key_id=ApplicationKey.PREFIX + secrets.token_hex(8),
            name=name.strip()[:120],
            secret=secret,
            created_by=actor,
            expires_at=expires_at,
        )
        after = {"application": application.name, "expires_at": expires_at.isoformat() if expires_at else None}
        record(actor=actor, action="create", kind="application key", name=f"{application.name}/{key.key_id}", after=after)
    key.refresh_from_db()
    return key, secret


def revoke_key(*, actor: User, key: ApplicationKey) -> ApplicationKey:
    """It ends within five seconds. Problems: not_your_application, already_revoked."""
    require_application(actor, "accounts.delete_applicationkey", key.application)
    with transaction.atomic():
        if ApplicationKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()) != 1:
            raise conflict("already_revoked", _("This key is revoked already."))
        record(actor=actor, action="revoke", kind="application key", name=f"{key.application.name}/{key.key_id}")
    authentication.forget(key_id=key.key_id)
    key.refresh_from_db()
    return key


def _named(name: str) -> str:
    name = name.strip()
    if not name or len(name) > 120 or "\x00" in name:
        raise _wrong("name", _("Give a name of at most 120 signs."))
    return name


def _wrong(field: str, detail: str) -> Problem:
    return Problem("invalid", detail, errors=[FieldError(f"/{field}", detail)])
