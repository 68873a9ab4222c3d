"""The webhook of a group: its address, checked, and the secret that signs what it gets."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from consumers.models import ConsumerGroup, PushSecret
from core.approvals import services as approvals
from core.approvals.models import State
from core.audit.services import record
from core.errors import conflict

#: So long the secret before a renewal signs as well, so that nothing is refused while the receiver changes over.
BOTH_SIGN = timedelta(hours=24)


def check_form(url: str) -> None:
    """Refuse what is no address of a webhook at all; asks nothing of the network. Problem: address_not_allowed."""
    _check(url, resolve=False)


def look_up(payload: Mapping[str, Any]) -> None:
    """Look up the name of a webhook that somebody asks for; not in a transaction. Problems: address_not_allowed, address_not_found."""
    if isinstance(url := payload.get("push_url"), str):
        _check(url, resolve=True)


def _check(url: str, *, resolve: bool) -> None:
    if url:
        from core import outbound  # with an HTTP client behind it, which most processes never need

        outbound.check_url(url, purpose=_("a webhook"), pointer="/push_url", resolve=resolve)


def ensure_secret(group: ConsumerGroup) -> None:
    """A group with a webhook has a secret; nobody knows it until it is renewed."""
    if group.push_url:
        PushSecret.objects.get_or_create(group=group, defaults={"secret": secrets.token_urlsafe(32)})


def renew_secret(*, actor: User, group: ConsumerGroup) -> str:
    """A new secret, told here and nowhere else. The one before signs too for a day. Problems: `wrong_state`, `no_webhook`."""
    approvals.require_state(thing=group, allowed=(State.ACTIVE,), what="a new secret")
    if not group.push_url:
        raise conflict("no_webhook", _("This group has no webhook."), hint=_("Ask for a change that gives it one."))
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        ensure_secret(group)
        row = PushSecret.objects.select_for_update().get(group=group)
        row.previous, row.secret, row.renewed_at = row.secret, secret, timezone.now()
        row.save()
        record(actor=actor, action="renew secret", kind="consumer group", name=group.name)
    return secret


def signing_secrets(group_id: int) -> list[str]:
    """The secrets in force, the newest first."""
    row = PushSecret.objects.filter(group=group_id).first()
    if row is None:
        return []
    found = [row.secret.reveal()]
    if row.previous and timezone.now() - row.renewed_at < BOTH_SIGN:
        found.append(row.previous.reveal())
    return found
