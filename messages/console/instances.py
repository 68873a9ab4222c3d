"""The instances of a broadcast group on its page, and giving up one that never returns."""

from datetime import timedelta
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import FormPage, ReasonForm, get, person
from core.errors import Problem
from core.scope import may
from messages import broadcast, services

ROWS = 100  # shown on the group's page; REST lists all
CHANGE = "consumers.change_consumergroup"


def panel(request: HttpRequest, group: ConsumerGroup) -> str:
    """Those that are furthest behind first; nothing for a group that shares one position."""
    if not broadcast.is_broadcast(group) or group.state != State.ACTIVE:
        return ""
    rows = services.furthest_behind(group_id=group.pk, limit=ROWS)
    allowed = may(request.user, CHANGE, group)
    now = timezone.now()
    shown = []
    for one in rows:
        online = (now - one.last_seen_at).total_seconds() < broadcast.ONLINE
        why = NOT_ALLOWED if not allowed else _("It is there now.") if online else ""
        url = f"{reverse('admin:messages_give_up', args=[group.name])}?{urlencode({'instance': one.name})}"
        shown.append(
            {
                "i": one,
                "online": online,
                "behind": timedelta(seconds=one.lag.seconds),
                "dead_url": f"{reverse('admin:messages_dead')}?{urlencode({'group': group.name, 'instance': one.name})}",
                "give_up": Action(_("Give up"), url, "close", "s", why=why),
            }
        )
    total = broadcast.count_instances(group_id=group.pk) if len(rows) == ROWS else len(rows)
    context = {"group": group, "rows": shown, "total": total, "more": total - len(rows), "most": broadcast.MAX_INSTANCES}
    return render_to_string("messages/_instances.html", context)


class GiveUp(FormPage):
    """Forget an instance's position, retries and dead letters."""

    permission = CHANGE
    here = "groups"
    title = gettext_lazy("Give up an instance")
    template_name = "messages/give_up.html"
    form_class = ReasonForm
    submit_label = gettext_lazy("Give up")
    tone = "danger solid"

    def group(self) -> ConsumerGroup:
        """The group of the address."""
        return get(ConsumerGroup.objects.restrict(self.request.user, CHANGE), name=self.kwargs["name"])

    def instance(self) -> str:
        """That of the address."""
        return self.request.GET.get("instance", "").replace("\x00", "")

    def check(self) -> None:
        """It must be there."""
        group = self.group()
        if not broadcast.is_broadcast(group):
            raise broadcast.not_broadcast()
        broadcast.find(group=group, name=self.instance())

    def context(self) -> dict[str, Any]:
        """What is lost with it."""
        group = self.group()
        try:
            store_id = broadcast.find(group=group, name=self.instance())
            counts = services.counts(group_ids=[store_id])[store_id]
        except Problem:  # it has gone since the page was drawn; the form says so
            counts = None
        back = reverse("admin:consumers_detail", args=[group.name])
        return {
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list")), (group.name, back)],
            "back": back,
            "instance": self.instance(),
            "counts": counts,
        }

    def perform(self, form: ReasonForm) -> str:
        """Give it up, then show the group."""
        group = self.group()
        broadcast.give_up(actor=person(self.request), group=group, name=self.instance(), reason=form.cleaned_data["reason"][:500])
        return reverse("admin:consumers_detail", args=[group.name])

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("{name} is given up; under this name an instance would begin anew.").format(name=self.instance())
