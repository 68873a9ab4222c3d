"""What a rollback does to groups and shadow groups: all that their nodes say is what the release said."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from accounts.models import User
from consumers import services, shadow
from consumers.models import ConsumerGroup, ShadowTask
from consumers.requests import dropped_warnings, values_of
from core.approvals import services as approvals
from core.approvals import workflow
from core.approvals.models import State
from core.audit.services import record
from core.errors import not_found
from registry.releases import Change
from registry.rollbacks import Room, gone

GROUP, SHADOW = "consumers.approve_consumergroup", "consumers.switch_shadowtask"


def restore(*, actor: User, path: str, values: Mapping[str, str], change: Change, accept_warnings: bool) -> None:
    """Subscriptions with their filters, where it begins, attempts, suspension; what no node says stays as it is.

    Problems: cannot_be_restored for what is fixed; those of subscriptions, such as topic_not_active; confirmation_needed for messages of
    a topic that would be dropped.
    """
    name = path.rpartition("/")[2]
    group = ConsumerGroup.objects.restrict(actor, GROUP).select_related("application", "owner").filter(name=name).first()
    if group is None:
        raise not_found(_("consumer group"), name)
    approvals.require_state(thing=group, allowed=(State.ACTIVE,), what="rollback")
    tags = _json(values.get("mqadmin.subscriptions", ""))
    attempts = values.get("mqadmin.maxAttempts", "")
    if not tags or not attempts.isascii() or not attempts.isdigit():
        raise gone(_("This release does not say what the group is subscribed to."))
    if values.get("broadcast") != ("true" if group.mode == ConsumerGroup.Mode.BROADCAST else "false"):
        raise gone(_("Whether a group shares its messages or is a broadcast one is fixed."))
    suspended = values.get("suspend") == "true"
    columns: dict[str, Any] = {"consume_from": values.get("consumeFrom", ""), "max_attempts": int(attempts)}
    if suspended != group.suspended:
        columns |= {"suspended": suspended, "suspend_reason": change.message[:500] if suspended else ""}
    before = _audited(group)
    now = [(row.topic.name, row.tags) for row in group.subscriptions.select_related("topic")]
    wanted = services.check_subscriptions(list(tags.items())) if list(tags.items()) != now else None
    if wanted is not None and not accept_warnings:
        workflow.confirm(dropped_warnings(group, [topic for topic, _tags in now if topic not in tags]))
    for key, value in columns.items():
        setattr(group, key, value)
    services.check_fields(group)
    services.alter(group=group, values=columns, wanted=wanted, change=change)
    group = ConsumerGroup.objects.select_related("application", "owner").get(pk=group.pk)
    record(actor=actor, action="change", kind="consumer group", name=name, before=before, after=_audited(group), reason=change.message)


def restore_shadow(*, actor: User, path: str, values: Mapping[str, str], change: Change, accept_warnings: bool) -> None:  # noqa: ARG001
    """Off again, if it was off. Problem: cannot_be_restored for one that was on: its lease cannot be had again."""
    application, task, group = path.split("/")[2:5]
    found = ShadowTask.objects.restrict(actor, SHADOW).select_related("application", "group", "topic")
    row = found.filter(application__name=application, task=task, group__name=group).first()
    if row is None:
        raise not_found(_("shadow group"), f"{application}/{task}/{group}")
    if values.get("enable") == "1":
        raise gone(_("The shadow group was on then, with a lease of that time."), _("Switch it on, which gives it a lease of its own."))
    shadow.stop(actor=actor, shadow=row, reason=change.message, change=change)


def _audited(group: ConsumerGroup) -> dict[str, Any]:
    return {**values_of(group), "suspended": group.suspended}


def _json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else {}


ROOM, SHADOW_ROOM = Room(GROUP, restore), Room(SHADOW, restore_shadow)
