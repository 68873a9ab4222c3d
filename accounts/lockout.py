"""Throttling of the login: after some wrong passwords a name is refused from that address for a while, with the waiting time said."""

from datetime import datetime, timedelta
from typing import Any

from axes.models import AccessAttempt
from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import NON_FIELD_ERRORS
from django.db import transaction
from django.forms.utils import ErrorDict
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import User
from core.audit.services import record
from core.request_context import address_of


def cooloff(request: Any = None) -> timedelta:  # noqa: ARG001 - axes hands it over
    """How long a name is refused from an address."""
    return timedelta(minutes=settings.LOGIN_LOCKOUT_MINUTES)


def locked() -> Any:
    """Attempts that are refused now, newest first."""
    since = timezone.now() - cooloff()
    return AccessAttempt.objects.filter(failures_since_start__gte=settings.AXES_FAILURE_LIMIT, attempt_time__gt=since).order_by(
        "-attempt_time"
    )


def until(attempt: AccessAttempt) -> datetime:
    """When it ends by itself."""
    ends: datetime = attempt.attempt_time + cooloff()
    return ends


def refused(request: HttpRequest, response: Any = None, credentials: dict[str, Any] | None = None) -> HttpResponse:  # noqa: ARG001 - axes' hook
    """The login page with the waiting time; an answer of 429."""
    name = str((credentials or {}).get("username", ""))
    attempt = locked().filter(username=name, ip_address=address_of(request)).first()
    left = max(timedelta(seconds=1), until(attempt) - timezone.now()) if attempt else cooloff()
    minutes = -(-int(left.total_seconds()) // 60)
    said = ngettext(
        "Too many wrong passwords. Try again in {n} minute, or ask an administrator to unlock you.",
        "Too many wrong passwords. Try again in {n} minutes, or ask an administrator to unlock you.",
        minutes,
    ).format(n=minutes)
    form = AdminAuthenticationForm(request, initial={"username": name})
    form._errors = ErrorDict({NON_FIELD_ERRORS: form.error_class([said])})  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
    form.cleaned_data = {}
    context = {**admin.site.each_context(request), "title": _("Log in"), "form": form, "app_path": request.get_full_path(), "username": ""}
    return TemplateResponse(
        request, "admin/login.html", context, status=429, headers={"Retry-After": str(int(left.total_seconds()))}
    ).render()


def unlock(*, actor: User, attempt: AccessAttempt) -> None:
    """Let a person try again at once."""
    with transaction.atomic():
        record(actor=actor, action="unlock", kind="login", name=str(attempt.username or ""), after={"address": attempt.ip_address})
        attempt.delete()


def heard_failure(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_kwargs: Any) -> None:  # noqa: ARG001
    """A wrong password of a person that exists; other names are not kept: people type their password into the wrong field."""
    name = str(credentials.get("username") or "")
    if name and User.objects.filter(username=name).exists():
        record(actor=None, action="wrong password", kind="login", name=name)


def heard_lockout(sender: Any, username: str = "", ip_address: str = "", **_kwargs: Any) -> None:  # noqa: ARG001
    """A name is refused from an address from now on."""
    known = User.objects.filter(username=username or "").exists()
    record(
        actor=None, action="lock out", kind="login", name=(username or "") if known else _("unknown name"), after={"address": ip_address}
    )


def heard_login(sender: Any, user: Any, request: HttpRequest | None = None, **_kwargs: Any) -> None:  # noqa: ARG001
    """Somebody has signed in."""
    record(actor=user, action="sign in", kind="login", name=user.get_username())


class UnlockForm(forms.Form):
    """Nothing to fill in."""
