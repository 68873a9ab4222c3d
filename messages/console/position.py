"""Where a group stands on each of its topics: rewind or skip with a preview, and undo."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext

from consumers.console import frame
from consumers.console_verbs import load
from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED
from core.console.pages import ConsoleForm, FormPage, OptionalReasonForm, Page, TypedNameForm, attach, get, person
from core.errors import Problem
from messages import broadcast, operating, services
from messages.models import Reset
from messages.names import topic_name, topic_names
from messages.positions import Target, time_of
from messages.types import ResetPlan
from topics.models import Topic

ROWS = 50
VIEW, ADD, UNDO = "mq_messages.view_reset", "mq_messages.add_reset", "mq_messages.change_reset"


class TargetForm(ConsoleForm):
    """To which point of which topic; it only asks, so it is sent by GET."""

    topic = forms.ChoiceField(label=gettext_lazy("Topic"))
    to = forms.ChoiceField(
        label=gettext_lazy("To"),
        choices=[
            ("earliest", gettext_lazy("Earliest: everything that is kept")),
            ("time", gettext_lazy("What was sent at a time or later")),
            ("id", gettext_lazy("A message: it comes next")),
            ("latest", gettext_lazy("Latest: skip all that waits")),
        ],
    )
    at = forms.DateTimeField(
        label=gettext_lazy("Time"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
        input_formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"],
    )
    id = forms.IntegerField(label=gettext_lazy("Message id"), required=False, min_value=1, max_value=2**63 - 1)

    def __init__(self, *args: Any, topics: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["topic"].choices = [(name, name) for name in topics]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """The time or the id that the choice needs."""
        data: dict[str, Any] = super().clean() or {}
        for choice, field in (("time", "at"), ("id", "id")):
            if data.get("to") == choice and data.get(field) is None and field not in self.errors:
                self.add_error(field, _("It is needed."))
        return data

    @property
    def target(self) -> Target:
        """As the store takes it."""
        to, at, number = (self.cleaned_data[name] for name in ("to", "at", "id"))
        wanted: datetime | int | str = {"time": at, "id": number}.get(to, to)
        return wanted


class ConfirmForm(TypedNameForm):
    """What the preview has shown, confirmed by the group's name."""

    position = forms.IntegerField(widget=forms.HiddenInput)
    fingerprint = forms.CharField(max_length=64, widget=forms.HiddenInput)
    field_order = ["reason", "confirm_name", "position", "fingerprint"]


class Position(Page):
    """Topics with where the group stands, the form that asks, its preview with the form that does it, and what was done before."""

    permission = VIEW
    here = "groups"
    template_name = "messages/position.html"

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """The page; with `?topic=…&to=…` also the preview."""
        return self._draw(load(name, request.user), None)

    def post(self, request: HttpRequest, name: str) -> HttpResponse:
        """Do what the preview has shown; the address still says what was asked for, so that a stale preview is drawn anew."""
        if not request.user.has_perm(ADD):
            raise PermissionDenied
        group = get(ConsumerGroup.objects.restrict(request.user, ADD), name=name)
        form = ConfirmForm(request.POST, expected=group.name)
        topic = get(Topic.objects.filter(subscriptions__group=group), name=request.GET.get("topic", ""))
        if form.is_valid():
            data = form.cleaned_data
            try:
                made = operating.reset(
                    actor=person(request),
                    group=group,
                    topic=topic,
                    position=data["position"],
                    fingerprint=data["fingerprint"],
                    reason=data["reason"][:500],
                )
            except Problem as problem:
                attach(form, problem)
            else:
                flash.success(request, _done(group, topic, made))
                return HttpResponseRedirect(reverse("admin:messages_position", args=[group.name]))
        return self._draw(load(name, request.user), form)

    def _draw(self, group: ConsumerGroup, confirm: ConfirmForm | None) -> HttpResponse:
        request = self.request
        stands, counts = services.positions(group_id=group.pk), services.counts_by_topic(group_id=group.pk)
        lags = {pk: timedelta(seconds=age) for pk, age in services.lag_by_topic(group_id=group.pk).items()}
        topic_names(stands)
        rows = [
            {"topic": topic_name(pk), "position": at, "time": time_of(at), "counts": counts[pk], "behind": lags.get(pk)}
            for pk, at in sorted(stands.items(), key=lambda row: topic_name(row[0]))
        ]
        why = "" if request.user.has_perm(ADD) else NOT_ALLOWED
        if not why and group.state != State.ACTIVE:
            why = _("The group is not active: nobody would get them.")
        names = [str(row["topic"]) for row in rows]
        asked = "to" in request.GET
        form = TargetForm(request.GET if asked else None, initial={"topic": names[0] if names else ""}, topics=names)
        plan, problem = (None, None) if not asked or why else self._preview(group, form)
        problem = getattr(confirm, "problem", None) or problem
        if plan is not None and (confirm is None or getattr(confirm, "problem", None) is not None):
            data = {"position": plan.position, "fingerprint": plan.fingerprint}
            if confirm is not None:
                data |= {"reason": confirm.data.get("reason", "")}
            confirm = ConfirmForm(initial=data, expected=group.name)
        made = list(Reset.objects.filter(group_id=group.pk).select_related("actor", "undone_by")[:ROWS])
        topic_names(row.topic_id for row in made)
        undoable = services.undoable(group_id=group.pk)
        may_undo = request.user.has_perm(UNDO) and group.state == State.ACTIVE
        return self.show(
            {
                **frame(request, group, "position"),
                "rows": rows,
                "instances": broadcast.count_instances(group_id=group.pk) if broadcast.is_broadcast(group) else None,
                "form": form,
                "plan": plan,
                "confirm": confirm if plan is not None else None,
                "problem": problem,
                "age": None,
                "why_not": why,
                "landing": time_of(plan.position + 1) if plan is not None else None,
                "moves": [{"made": row, "topic": topic_name(row.topic_id), "undo": may_undo and row.pk in undoable} for row in made],
            }
        )

    @staticmethod
    def _preview(group: ConsumerGroup, form: TargetForm) -> tuple[ResetPlan | None, Problem | None]:
        if not form.is_valid():
            return None, None
        topic = Topic.objects.get(name=form.cleaned_data["topic"])
        try:
            return services.preview_reset(group_id=group.pk, topic_id=topic.pk, to=form.target), None
        except Problem as problem:
            return None, problem


def _done(group: ConsumerGroup, topic: Topic, made: Reset) -> str:
    if made.kind == Reset.Kind.SKIP:
        said = ngettext("{group} skips {n} message of {topic}.", "{group} skips {n} messages of {topic}.", made.skipped)
        return said.format(group=group.name, n=f"{made.skipped:,}", topic=topic.name)
    again = made.repeated + made.first_time
    said = ngettext("{group} gets {n} message of {topic} again.", "{group} gets {n} messages of {topic} again.", again)
    return said.format(group=group.name, n=f"{again:,}", topic=topic.name)


class Undo(FormPage):
    """Take a rewind or a skip back."""

    permission = UNDO
    here = "groups"
    title = gettext_lazy("Undo")
    template_name = "messages/position_undo.html"
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Undo")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is undone yet."""
        super().setup(request, *args, **kwargs)
        self.undone: Reset | None = None

    def found(self) -> tuple[ConsumerGroup, Reset]:
        """The group and the move of the address."""
        group = get(ConsumerGroup.objects.restrict(self.request.user, UNDO), name=self.kwargs["name"])
        number = min(self.kwargs["reset"], 2**63 - 1)
        return group, get(Reset.objects.filter(group_id=group.pk).select_related("actor"), pk=number)

    def context(self) -> dict[str, Any]:
        """What was done, and the way back."""
        group, made = self.found()
        back = reverse("admin:messages_position", args=[group.name])
        crumbs = [
            (_("Consumer groups"), reverse("admin:consumers_list")),
            (group.name, reverse("admin:consumers_detail", args=[group.name])),
        ]
        kind = made.get_kind_display()
        return {
            "crumbs": [*crumbs, (pgettext("of a group", "Position"), back)],
            "back": back,
            "made": made,
            "topic": topic_name(made.topic_id),
            "kind": kind,
        }

    def check(self) -> None:
        """A page of somebody else's group is not there."""
        self.found()

    def perform(self, form: OptionalReasonForm) -> str:
        """Undo."""
        group, made = self.found()
        self.undone = operating.undo_reset(actor=person(self.request), group=group, made=made, reason=form.cleaned_data["reason"][:500])
        return reverse("admin:messages_position", args=[group.name])

    def success(self, form: OptionalReasonForm) -> Any:  # noqa: ARG002
        """With how many."""
        n = self.undone.restored or 0 if self.undone else 0
        said = ngettext("Taken back: {n} message is as it was before.", "Taken back: {n} messages are as they were before.", n)
        return said.format(n=f"{n:,}")
