"""How the delivery to a group's webhook goes, on the group's page."""

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED, Action
from core.scope import may
from messages import pushing


def panel(request: HttpRequest, group: ConsumerGroup) -> str:
    """Address, state, last success and last error, share of failures; nothing for a group that pulls."""
    if not group.push_url or group.state != State.ACTIVE:
        return ""
    why = "" if may(request.user, "consumers.change_consumergroup", group) else NOT_ALLOWED
    renew = Action(_("New secret"), reverse("admin:consumers_push_secret", args=[group.name]), "key", "s", why=why)
    found = pushing.state(group)
    rate = found.failure_rate
    context = {
        "group": group,
        "p": found,
        "renew": renew,
        "percent": None if rate is None else rate * 100,
        "tried": found.recent_ok + found.recent_failed,
    }
    return render_to_string("messages/_push.html", context)
