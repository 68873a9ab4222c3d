"""Where applications are asked about their half messages: set, changed and taken away by people, each with its audit entry."""

import secrets

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.applications import require_application
from accounts.models import Application, User
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile
from messages.models import CheckBack

KIND = "check-back"


def check_address(url: str) -> None:
    """Refuse an address that leads inside (`address_not_allowed`). Looks its name up: not in a transaction."""
    from core import outbound  # with an HTTP client behind it, which most processes never need

    outbound.check_url(url, purpose=_("the check-back"), pointer="/url")


def put(*, actor: User, application: Application, url: str, seen: CheckBack | None) -> tuple[CheckBack, str, bool]:
    """Set where an application is asked, or change the version that was `seen`.

    Returns it, the secret that signs when it is new (told here and nowhere else), and whether anything is different.
    Call `check_address` before, outside of any transaction. Problems: invalid, not_your_application, state_changed.
    """
    if not url.startswith(("https://", "http://")) or len(url) > 500:
        detail = _("Write a URL: https://…")
        raise Problem("invalid", detail, errors=[FieldError("/url", detail)])
    if seen is None:
        require_application(actor, "mq_messages.add_checkback", application)
        secret = secrets.token_urlsafe(32)
        try:
            with transaction.atomic():
                made = CheckBack.objects.create(application=application, url=url, secret=secret)
                record(actor=actor, action="create", kind=KIND, name=application.name, after=made.audited())
        except IntegrityError:
            raise changed_meanwhile() from None
        made.refresh_from_db()
        return made, secret, True
    if seen.url == url:
        return seen, "", False
    with transaction.atomic():
        row = _locked(seen)
        before = row.audited()
        row.url, row.version, row.changed_at = url, row.version + 1, timezone.now()
        row.quiet_until, row.last_error = None, ""  # those were of the address before
        row.save(update_fields=["url", "version", "changed_at", "quiet_until", "last_error"])
        record(actor=actor, action="change", kind=KIND, name=application.name, before=before, after=row.audited())
    return row, "", True


def renew_secret(*, actor: User, callback: CheckBack) -> tuple[CheckBack, str]:
    """A new secret, told here and nowhere else; the old one signs nothing any more. Problem: state_changed."""
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        row = _locked(callback)
        row.secret, row.version, row.changed_at = secret, row.version + 1, timezone.now()
        row.save(update_fields=["secret", "version", "changed_at"])
        record(actor=actor, action="renew secret", kind=KIND, name=row.application.name)
    return row, secret


def delete(*, actor: User, callback: CheckBack, reason: str = "") -> None:
    """Ask the application nowhere any more; it can still ask for its open half messages itself. Problem: state_changed."""
    with transaction.atomic():
        row = _locked(callback)
        record(actor=actor, action="delete", kind=KIND, name=row.application.name, before=row.audited(), reason=reason)
        row.delete()


def _locked(callback: CheckBack) -> CheckBack:
    rows = CheckBack.objects.select_for_update(of=("self",)).select_related("application")
    row = rows.filter(pk=callback.pk, version=callback.version).first()
    if row is None:
        raise changed_meanwhile()
    return row
