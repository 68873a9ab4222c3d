"""One message as a person sees it: body, status in every group, what happened when."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from consumers.models import ConsumerGroup
from core.console.actions import NOT_ALLOWED, Action
from core.console.templatetags.console import word
from messages import reading, scope
from messages.types import GroupStatus, StoredMessage


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the timeline."""

    status: str
    text: str
    sub: str
    at: datetime


def message_context(request: HttpRequest, message: StoredMessage) -> dict[str, Any]:
    """What `messages/_message.html` needs; the body as `?body=pretty|raw|hex` asks."""
    statuses = scope.message_status(request.user, message.id)
    limits = dict(ConsumerGroup.objects.filter(pk__in=[s.group_id for s in statuses]).values_list("pk", "max_attempts"))
    readable = scope.may_read_body(request.user, message.topic_id)
    text = reading.as_text(message.body[: reading.SHOWN]) if len(message.body) <= reading.SHOWN else _cut(message.body)
    formatted = reading.pretty(text) if text is not None and len(message.body) <= reading.SHOWN else None
    offered = [mode for mode, there in (("pretty", formatted is not None), ("raw", text is not None), ("hex", True)) if there]
    asked = request.GET.get("body", "")
    shown = asked if asked in offered else offered[0]
    labels = {"pretty": _("Pretty"), "raw": _("Raw"), "hex": _("Hex")}
    return {
        "m": message,
        "statuses": [{"status": s, "of": limits.get(s.group_id)} for s in statuses],
        "body": {"pretty": formatted, "raw": text, "hex": reading.hex_dump(message.body) if shown == "hex" else ""}[shown]
        if readable
        else "",
        "body_modes": [{"key": mode, "label": labels[mode], "on": mode == shown} for mode in offered],
        "body_kind": "JSON" if formatted is not None else _("text") if text is not None else _("bytes"),
        "body_readable": readable,
        "body_cut": len(message.body) > (reading.HEX if shown == "hex" else reading.SHOWN),
        "worst": worst(statuses, message),
        "events": events(message, statuses),
        "again": send_action(request, _("Send again, edited"), f"{reverse('admin:messages_send')}?like={message.id}", "edit", tone="s"),
    }


def _cut(body: bytes) -> str | None:
    """The beginning of a long body; its last character may be cut in the middle."""
    return next((text for cut in range(4) if (text := reading.as_text(body[: reading.SHOWN - cut])) is not None), None)


def worst(statuses: list[GroupStatus], message: StoredMessage) -> str:
    """The status that needs a person first."""
    found = {s.status for s in statuses}
    if message.state != "accepted":
        return message.state
    return next((status for status in ("dead", "failed", "later", "processing", "waiting", "succeeded") if status in found), "unknown")


def events(message: StoredMessage, statuses: list[GroupStatus]) -> list[Event]:
    """What the store knows of when, oldest first; only the last try of each group is kept."""
    if message.state == "half":
        return [Event("half", _("Prepared: its producer has not committed it yet"), "", message.sent_at)]
    found = [Event("delayed" if message.state == "delayed" else "succeeded", _("Accepted by the built-in store"), "", message.sent_at)]
    if message.deliver_at:
        found.append(Event("waiting", _("Due: goes to its topic"), "", message.deliver_at))
    for s in statuses:
        if s.pulled_at:
            found.append(
                Event("processing", _("{group}: handed to {consumer}").format(group=s.group, consumer=s.consumer or "—"), "", s.pulled_at)
            )
        if s.settled_at:
            found.append(Event(s.status, f"{s.group}: {word(s.status)}", s.last_error or "", s.settled_at))
        if s.next_retry_at:
            found.append(Event("later", _("{group}: next try").format(group=s.group), s.last_error or "", s.next_retry_at))
    return sorted(found, key=lambda event: event.at)


def send_action(request: HttpRequest, label: Any, url: str, icon: str = "send", *, tone: str = "primary") -> Action:
    """A button to the form that sends."""
    return Action(label, url, icon, tone, why="" if request.user.has_perm("mq_messages.send_message") else NOT_ALLOWED)
