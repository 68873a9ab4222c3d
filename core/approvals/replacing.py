"""PUT of a thing that is active: what differs becomes a request, since another person decides on changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from core.approvals import workflow
from core.errors import FieldError, Problem, changed_meanwhile
from core.request_context import current

if TYPE_CHECKING:
    from accounts.models import User
    from core.approvals.models import Request


class AskedSerializer(serializers.Serializer[Any]):
    """A change that waits for another person's decision; `Location` is its address."""

    request = serializers.IntegerField(help_text="The number of the request.")
    state = serializers.CharField()
    changed = serializers.BooleanField(help_text="false: nothing is different until it is approved.")


def ask_for_change(*, actor: User, kind: str, thing: Any, now: Mapping[str, Any], wanted: Mapping[str, Any]) -> Request | None:
    """Ask for what differs between now and what is wanted, for the reason that the change message gives; None: nothing does.

    Problems: reason_required, state_changed (it is not the version at hand any more), and those of the request. Within a transaction.
    """
    payload = {key: value for key, value in wanted.items() if now[key] != value}
    if not payload:
        return None
    reason = current.get().change_message
    if not reason.strip():
        detail = _("It is active: a change of it is decided by another person. Say why you want it.")
        errors = [FieldError("/change_message", detail)]
        raise Problem("reason_required", detail, hint=_("Send it as “change_message”."), errors=errors)
    request = workflow.submit(actor=actor, kind=kind, target=thing.name, payload=payload, reason=reason)
    if request.base_version != thing.version:
        raise changed_meanwhile()
    return request
