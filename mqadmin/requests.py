"""Requests: what waits for a decision, topics and groups in one list, oldest first."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import Action
from core.console.approving import why_not
from core.console.pages import Page, person
from topics.models import Topic

SHOWN = 500


class Requests(Page):
    """What waits; decided on the pages of topics and groups."""

    here = "requests"
    title = gettext_lazy("Requests")
    template_name = "mqadmin/requests.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Pending requests, or with ?view=rejected what waits for the person who applied."""
        user = person(request)
        may = {"topic": user.has_perm("topics.view_topic"), "group": user.has_perm("consumers.view_consumergroup")}
        if not any(may.values()):
            raise PermissionDenied
        state = State.REJECTED if request.GET.get("view") == "rejected" else State.PENDING
        rows: list[dict[str, Any]] = []
        counts = dict.fromkeys((State.PENDING, State.REJECTED), 0)
        if may["topic"]:
            for topic in (
                Topic.objects.filter(state__in=counts)
                .select_related("application", "requested_by", "owner")
                .order_by("requested_at")[:SHOWN]
            ):
                counts[State(topic.state)] += 1
                if topic.state == state:
                    rows.append(
                        _row(
                            user,
                            topic,
                            "topics",
                            "topic",
                            _("{rate} /s at {size} B").format(rate=f"{topic.expected_rate:,}", size=f"{topic.message_bytes:,}"),
                        )
                    )
        if may["group"]:
            groups = ConsumerGroup.objects.filter(state__in=counts).select_related("application", "requested_by", "owner")
            for group in groups.prefetch_related("subscriptions__topic").order_by("requested_at")[:SHOWN]:
                counts[State(group.state)] += 1
                if group.state == state:
                    rows.append(
                        _row(
                            user,
                            group,
                            "consumers",
                            "consumergroup",
                            ", ".join(f"{s.topic.name} [{s.tags}]" for s in group.subscriptions.all()),
                        )
                    )
        rows.sort(key=lambda row: row["thing"].requested_at)
        return self.show(
            {
                "rows": rows,
                "state": state.value,
                "pending": counts[State.PENDING],
                "rejected": counts[State.REJECTED],
                "may_apply": user.has_perm("topics.add_topic"),
            }
        )


def _row(user: Any, thing: Any, room: str, model: str, wants: str) -> dict[str, Any]:
    app = "topics" if model == "topic" else "consumers"
    if thing.state == State.PENDING:
        why = why_not(user, f"{app}.approve_{model}", thing, [State.PENDING], four_eyes=True)
        actions = [
            Action(_("Reject"), reverse(f"admin:{room}_reject", args=[thing.name]), "", "s", why=why),
            Action(_("Approve"), reverse(f"admin:{room}_approve", args=[thing.name]), "", "s", why=why),
        ]
    else:
        why = why_not(user, f"{app}.add_{model}", thing, [State.REJECTED], own=True)
        actions = [Action(_("Edit"), reverse(f"admin:{room}_edit", args=[thing.name]), "", "s", why=why)]
    return {
        "thing": thing,
        "icon": "topic" if model == "topic" else "group",
        "kind": _("Topic") if model == "topic" else _("Consumer group"),
        "url": reverse(f"admin:{room}_detail", args=[thing.name]),
        "wants": wants,
        "actions": actions,
    }


urlpatterns = [path("requests/", Requests.as_view(), name="requests")]
