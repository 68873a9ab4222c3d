"""Stopped keys of ordered topics: on the group's page, and the page where a person decides."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import FormPage, ReasonForm, get, person
from core.errors import Problem
from core.scope import may
from messages import operating, services

PERMISSION = "mq_messages.decide_stopped"
SHOWN = 100
_DECISIONS = [
    ("retry", gettext_lazy("Try again, with fresh attempts")),
    ("dead_letter", gettext_lazy("To the dead letters")),
    ("skip", gettext_lazy("Skip: it is given up, as failed")),
]


def panel(request: HttpRequest, group: ConsumerGroup) -> str:
    """The keys that stand still, on the group's page; nothing when none does."""
    if group.state != State.ACTIVE or not (rows := services.stopped_keys(group_id=group.pk, limit=SHOWN)):
        return ""
    why = "" if may(request.user, PERMISSION, group) else NOT_ALLOWED
    decide = Action(_("Decide"), reverse("admin:messages_stopped", args=[group.name]), "key", "s", why=why)
    return render_to_string("messages/_stopped.html", {"rows": rows, "decide": decide, "more": len(rows) == SHOWN})


class DecideForm(ReasonForm):
    """Which of them, and what becomes of them."""

    message_ids = forms.TypedMultipleChoiceField(label=gettext_lazy("Messages"), coerce=int)
    decision = forms.ChoiceField(label=gettext_lazy("What becomes of them"), choices=_DECISIONS)
    field_order = ["message_ids", "decision", "reason"]

    def __init__(self, *args: Any, rows: list[Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["message_ids"].choices = [(row.message_id, row.message_id) for row in rows]  # type: ignore[attr-defined]


class Stopped(FormPage):
    """Decide on messages that stop their keys."""

    permission = PERMISSION
    here = "groups"
    title = gettext_lazy("Stopped keys")
    template_name = "messages/stopped.html"
    form_class = DecideForm
    submit_label = gettext_lazy("Let them go on")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet."""
        super().setup(request, *args, **kwargs)
        self.done = 0
        self._rows: list[Any] | None = None

    def group(self) -> ConsumerGroup:
        """That of the address."""
        return get(ConsumerGroup.objects.restrict(self.request.user, PERMISSION), name=self.kwargs["name"])

    def rows(self) -> list[Any]:
        """The stopped ones, read once."""
        if self._rows is None:
            self._rows = services.stopped_keys(group_id=self.group().pk, limit=SHOWN)
        return self._rows

    def check(self) -> None:
        """A page of somebody else's group is not there; without a stopped key there is nothing to decide."""
        if not self.rows():
            raise Problem("nothing_stopped", _("No key of this group stands still."), status=409)

    def form_arguments(self) -> dict[str, Any]:
        """The choices."""
        return {"rows": self.rows()}

    def context(self) -> dict[str, Any]:
        """The way back, and the rows; all are chosen at first."""
        name, rows = self.kwargs["name"], self.rows()
        back = reverse("admin:consumers_detail", args=[name])
        chosen = self.request.POST.getlist("message_ids") if self.request.method == "POST" else None
        return {
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list")), (name, back)],
            "back": back,
            "rows": rows,
            "chosen": [row.message_id for row in rows if chosen is None or str(row.message_id) in chosen],
        }

    def perform(self, form: DecideForm) -> str:
        """Decide."""
        data, group = form.cleaned_data, self.group()
        found = operating.decide_stopped(
            actor=person(self.request), group=group, ids=data["message_ids"], decision=data["decision"], reason=data["reason"][:500]
        )
        self.done = sum(not refusal for refusal in found.values())
        return reverse("admin:consumers_detail", args=[group.name])

    def success(self, form: DecideForm) -> Any:  # noqa: ARG002
        """With how many."""
        return ngettext("{n} key goes on.", "{n} keys go on.", self.done).format(n=f"{self.done:,}")
