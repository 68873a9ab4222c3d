"""One message as a person sees it: body, status in every group, what happened when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from consumers.models import ConsumerGroup
from core.console.actions import NOT_ALLOWED, Action
from messages import reading, scope
from messages.tracing import TraceEvent
from messages.types import GroupStatus, StoredMessage


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the timeline; `url` leads to the other message of a redrive."""

    status: str
    text: str
    sub: str
    at: datetime
    url: str = ""


#: Groups, and lines of the timeline, beside a list: a topic may have hundreds of groups. The message's own page shows all.
BESIDE = 50
_URGENCY = reading.BY_URGENCY[:6]


def message_context(request: HttpRequest, message: StoredMessage, *, most: int | None = None) -> dict[str, Any]:
    """What `messages/_body.html` and `messages/_groups.html` need; the body as `?body=pretty|raw|hex` asks, at `most` so many groups."""
    statuses = scope.message_status(request.user, message.id)
    events = scope.trace(request.user, message)
    shown_statuses = statuses if most is None or len(statuses) <= most else sorted(statuses, key=_urgency)[:most]
    shown_events = events if most is None else events[-most:]
    limits = dict(ConsumerGroup.objects.filter(pk__in=[s.group_id for s in shown_statuses]).values_list("pk", "max_attempts"))
    readable = scope.may_read_body(request.user, message.topic_id)
    text = reading.as_text(message.body[: reading.SHOWN]) if len(message.body) <= reading.SHOWN else _cut(message.body)
    formatted = reading.pretty(text) if text is not None and len(message.body) <= reading.SHOWN else None
    offered = [mode for mode, there in (("pretty", formatted is not None), ("raw", text is not None), ("hex", True)) if there]
    asked = request.GET.get("body", "")
    shown = asked if asked in offered else offered[0]
    labels = {"pretty": _("Pretty"), "raw": _("Raw"), "hex": _("Hex")}
    return {
        "m": message,
        "statuses": [{"status": s, "of": limits.get(s.group_id)} for s in shown_statuses],
        "groups_total": len(statuses),
        "groups_cut": len(statuses) - len(shown_statuses),
        "body": {"pretty": formatted, "raw": text, "hex": reading.hex_dump(message.body) if shown == "hex" else ""}[shown]
        if readable
        else "",
        "body_modes": [{"key": mode, "label": labels[mode], "on": mode == shown} for mode in offered],
        "body_kind": "JSON" if formatted is not None else _("text") if text is not None else _("bytes"),
        "body_readable": readable,
        "body_cut": len(message.body) > (reading.HEX if shown == "hex" else reading.SHOWN),
        "worst": worst(statuses, message),
        "events": lines(shown_events),
        "events_cut": len(events) - len(shown_events),
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
    return next((status for status in _URGENCY if status in found), "unknown")


def _urgency(status: GroupStatus) -> tuple[int, str]:
    return (_URGENCY.index(status.status) if status.status in _URGENCY else len(_URGENCY), status.group)


_MARKS = {
    "sent": "succeeded", "prepared": "half", "committed": "succeeded", "delayed": "delayed",
    "rescheduled": "delayed", "promoted": "succeeded", "due": "waiting", "pulled": "processing",
    "lease_expired": "later", "retry": "later", "given_up": "failed", "redriven": "later", "redriven_from": "waiting",
}  # fmt: skip


def lines(events: Sequence[TraceEvent]) -> list[Line]:
    """The timeline in words."""
    return [
        Line(
            _MARKS.get(event.event, event.event),
            _said(event),
            event.detail or "",
            event.at,
            reverse("admin:messages_detail", args=[event.message]) if event.message else "",
        )
        for event in events
    ]


_WORDS = {
    "sent": gettext_lazy("Accepted by the built-in store"),
    "prepared": gettext_lazy("Prepared: it goes on when its producer commits it"),
    "committed": gettext_lazy("Committed by {by}"),
    "delayed": gettext_lazy("Delayed: kept back until it is due"),
    "rescheduled": gettext_lazy("Moved to another time by {by}"),
    "promoted": gettext_lazy("Due: went to its topic"),
    "due": gettext_lazy("Due: goes to its topic"),
    "pulled": gettext_lazy("{group}: handed to {consumer}, try {attempt}"),
    "failed": gettext_lazy("{group}: try {attempt} failed"),
    "lease_expired": gettext_lazy("{group}: {consumer} was not heard of again"),
    "retry": gettext_lazy("{group}: next try, {attempt}"),
    "dead": gettext_lazy("{group}: dead after {attempt} failed tries"),
    "given_up": gettext_lazy("{group}: given up"),
    "redriven": gettext_lazy("{group}: redriven by {by}"),
    "redriven_from": gettext_lazy("Came from {message}, a dead letter of {group}, by {by}"),
    "succeeded": gettext_lazy("{group}: succeeded with {consumer}, try {attempt}"),
}


def _said(event: TraceEvent) -> str:
    onward = event.event == "redriven" and event.message
    text = _("{group}: redriven by {by} as {message}") if onward else str(_WORDS[event.event])
    return text.format(
        group=f"{event.group} / {event.instance}" if event.instance else event.group,
        consumer=event.consumer or "—",
        attempt=event.attempt,
        by=event.by or "system",
        message=event.message,
    )


def send_action(request: HttpRequest, label: Any, url: str, icon: str = "send", *, tone: str = "primary") -> Action:
    """A button to the form that sends."""
    return Action(label, url, icon, tone, why="" if request.user.has_perm("mq_messages.send_message") else NOT_ALLOWED)
