"""Where notifications go besides the people concerned: mail addresses of teams, and webhooks with a secret."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals.models import Channel, Event, MailOptOut, NotificationDelivery, NotificationTarget
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict

if TYPE_CHECKING:
    from accounts.models import User

#: What somebody can be told of; edits are only in the thread.
EVENTS = [event for event in Event if event != Event.EDITED]


def check_address(address: str) -> None:
    """Refuse the URL of a webhook that leads inside (`address_not_allowed`). Looks its name up: not in a transaction."""
    from core import outbound  # with an HTTP client behind it, which most processes never need

    if "://" in address:
        outbound.check_url(address, purpose=_("the webhook"), pointer="/address")


def create(
    *, actor: User, name: str, channel: str, address: str, events: list[str] | None = None, enabled: bool = True
) -> tuple[NotificationTarget, str]:
    """Add a target; of a webhook also the secret that signs, which is told here and nowhere else. Problems: `invalid`, `duplicate_name`.

    Call `check_address` before, outside of any transaction: it asks the network.
    """
    secret = secrets.token_urlsafe(32) if channel == Channel.WEBHOOK else ""
    target = NotificationTarget(name=name, channel=channel, address=address, events=events or [], enabled=enabled, secret=secret)
    _check(target)
    try:
        with transaction.atomic():
            target.save(force_insert=True)
            record(actor=actor, action="create", kind="notification target", name=name, after=_audited(target))
    except IntegrityError:
        raise _taken(name) from None
    target.refresh_from_db()
    return target, secret


def change(*, actor: User, target: NotificationTarget, **fields: Any) -> NotificationTarget:
    """Change name, address, events or whether it is on, of the version at hand. Problems: as `create`, and `state_changed`."""
    _check(NotificationTarget(**{"name": target.name, "channel": target.channel, "address": target.address, **fields}))
    with transaction.atomic():
        row = _locked(target)
        before = _audited(row)
        for name, value in fields.items():
            setattr(row, name, value)
        _check_events(row)
        if _audited(row) != before:
            row.version, row.changed_at = row.version + 1, timezone.now()
            try:
                with transaction.atomic():
                    row.save()
            except IntegrityError:
                raise _taken(row.name) from None
            _follow(row)
            record(actor=actor, action="change", kind="notification target", name=row.name, before=before, after=_audited(row))
    return row


def _follow(target: NotificationTarget) -> None:
    """What waits for a target goes where the target is now, or nowhere when it is switched off."""
    waiting = target.deliveries.filter(state=NotificationDelivery.State.WAITING)
    if target.enabled:
        waiting.update(address=target.address)
    else:
        waiting.update(state=NotificationDelivery.State.FAILED, last_error=_("The target was switched off."))


def renew_secret(*, actor: User, target: NotificationTarget) -> tuple[NotificationTarget, str]:
    """A new secret for a webhook, told here and nowhere else; the old one signs nothing any more."""
    if target.channel != Channel.WEBHOOK:
        raise conflict("no_secret", _("Only webhooks have a secret."))
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        row = _locked(target)
        row.secret, row.version, row.changed_at = secret, row.version + 1, timezone.now()
        row.save(update_fields=["secret", "version", "changed_at"])
        record(actor=actor, action="renew secret", kind="notification target", name=row.name)
    return row, secret


def delete(*, actor: User, target: NotificationTarget, reason: str = "") -> None:
    """Take a target away, and what was not sent to it yet."""
    with transaction.atomic():
        row = _locked(target)
        record(actor=actor, action="delete", kind="notification target", name=row.name, before=_audited(row), reason=reason)
        row.delete()


def wants_mail(user: User) -> bool:
    """Whether somebody is told of requests by mail."""
    return not MailOptOut.objects.filter(user=user.pk).exists()


def set_mail(*, user: User, wanted: bool) -> None:
    """Say whether oneself is told of requests by mail."""
    with transaction.atomic():
        if wanted:
            changed = MailOptOut.objects.filter(user=user.pk).delete()[0] > 0
        else:
            changed = MailOptOut.objects.get_or_create(user_id=user.pk)[1]
        if changed:
            record(actor=user, action="change", kind="user", name=user.get_username(), after={"mails about requests": wanted})


def _locked(target: NotificationTarget) -> NotificationTarget:
    row = NotificationTarget.objects.select_for_update().filter(pk=target.pk, version=target.version).first()
    if row is None:
        raise changed_meanwhile()
    return row


def _check(target: NotificationTarget) -> None:
    if not target.name.strip():
        raise _wrong("name", _("It is needed."))
    if target.channel not in Channel.values:
        raise _wrong("channel", _("Choose mail or webhook."))
    if target.channel == Channel.MAIL:
        try:
            validate_email(target.address)
        except ValidationError as error:
            raise _wrong("address", " ".join(error.messages)) from None
    elif not target.address.startswith(("https://", "http://")):
        raise _wrong("address", _("Write a URL: https://…"))
    _check_events(target)


def _check_events(target: NotificationTarget) -> None:
    unknown = [event for event in target.events if event not in EVENTS]
    if unknown:
        raise _wrong("events", _("There is no event “{name}”.").format(name=", ".join(map(str, unknown))))


def _wrong(field: str, detail: str) -> Problem:
    return Problem("invalid", detail, errors=[FieldError(f"/{field}", detail)])


def _taken(name: str) -> Problem:
    return conflict("duplicate_name", _("There is a target “{name}” already.").format(name=name), hint=_("Choose another name."))


def _audited(target: NotificationTarget) -> dict[str, Any]:
    return {name: getattr(target, name) for name in ("name", "channel", "address", "events", "enabled")}
