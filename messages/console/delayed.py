"""Delayed messages: what is due when, moved to another time or cancelled."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.actions import NOT_ALLOWED
from core.console.pages import FormPage, OptionalReasonForm, Page, ReasonForm, TypedNameForm, person
from core.errors import Problem, conflict, not_found
from messages import delayed_many, operating, reading, scope, services
from messages.api.wire import invalid
from messages.types import DelayedFilter, StoredMessage

ROWS = 50
HOURS = 48  # of the chart
SPANS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


class Delayed(Page):
    """Next due first."""

    permission = "mq_messages.view_message"
    here = "delayed"
    title = gettext_lazy("Delayed")
    template_name = "messages/delayed.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The page that the address describes; parameters that make no sense fall back to their default."""
        name = request.GET.get("topic", "").replace("\x00", "").strip()
        topic_id = scope.topic_id(request.user, name)
        seen = scope.topic_ids(request.user)
        due = request.GET.get("due", "")
        until = timezone.now() + SPANS[due] if due in SPANS else None
        only = DelayedFilter(topic_id=topic_id, due_to=until)
        page = None
        if not name or topic_id is not None:
            try:
                page = services.delayed_messages(only=only, topic_ids=seen, limit=ROWS, cursor=request.GET.get("cursor") or None)
            except Problem as problem:
                if problem.code != "invalid_cursor":
                    raise
                page = services.delayed_messages(only=only, topic_ids=seen, limit=ROWS)
        items = page.items if page else []
        bodies = scope.topic_ids(request.user, scope.BODY)
        lines = reading.delayed_previews([m.id for m in items if bodies is None or m.topic_id in bodies]) if items else {}
        chart = hours([topic_id] if topic_id is not None else seen) if page and page.items else None
        ranges = (("", _("All")), ("1h", _("Next hour")), ("24h", _("Next day")), ("7d", _("Next 7 days")))
        return self.show(
            {
                "rows": [{"m": m, "preview": lines.get(m.id, "")} for m in items],
                "topic": name,
                "due": due if due in SPANS else "",
                "chart": chart,
                "topics": list(scope.topics(request.user).order_by("name").values_list("name", flat=True)[:500]),
                "unknown_topic": bool(name) and topic_id is None,
                "ranges": [{"key": key, "label": label, "on": key == (due if due in SPANS else "")} for key, label in ranges],
                "narrowed": bool(name) or due in SPANS,
                "next": page.next if page else None,
                "first_page": "cursor" not in request.GET,
                "why_not": "" if request.user.has_perm("mq_messages.change_delayed") else NOT_ALLOWED,
            }
        )


def hours(topic_ids: Sequence[int] | None) -> dict[str, Any]:
    """The next two days hour by hour, as bars of a drawing that is HOURS wide and 100 high."""
    found = services.per_hour(start=timezone.now(), hours=HOURS, topic_ids=topic_ids)
    most = max(number for _hour, number in found)
    bars = []
    for n, (hour, number) in enumerate(found):
        if number:
            height = max(3, round(100 * number / most))
            bars.append({"x": n, "y": 100 - height, "height": height, "hour": hour, "number": number})
    total = sum(number for _hour, number in found)
    return {"bars": bars, "most": most, "width": HOURS, "first": found[0][0], "last": found[-1][0], "sum": total}


class DelayedAction(FormPage):
    """A page that does one thing with one delayed message."""

    permission = "mq_messages.change_delayed"
    here = "delayed"
    template_name = "messages/delayed_action.html"

    def message(self) -> StoredMessage:
        """The message of the address. Problems: not_found, not_delayed."""
        found = scope.message(self.request.user, self.kwargs["message_id"], self.permission)
        if found.state != "delayed":
            hint = _("It has been delivered to its topic.")
            raise conflict("not_delayed", _("Message {id} is no longer delayed.").format(id=found.id), hint=hint)
        return found

    def check(self) -> None:
        """Refuse before anything is filled in."""
        self.message()

    def context(self) -> dict[str, Any]:
        """The message beside the form."""
        back = reverse("admin:messages_delayed")
        return {"crumbs": [(_("Delayed"), back)], "back": back, "m": self.message()}


class RescheduleForm(OptionalReasonForm):
    """A time, or a delay from now."""

    deliver_at = forms.DateTimeField(
        label=gettext_lazy("Deliver at"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
        input_formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"],
    )
    delay = forms.IntegerField(
        label=gettext_lazy("Or in so many seconds"),
        required=False,
        min_value=0,
        max_value=3650 * 86_400,
        help_text=gettext_lazy("From now; 0 delivers it at once."),
    )
    field_order = ["deliver_at", "delay", "reason"]


class Reschedule(DelayedAction):
    """Another time."""

    title = gettext_lazy("Deliver at another time")
    form_class = RescheduleForm
    submit_label = gettext_lazy("Reschedule")

    def initial(self) -> dict[str, Any]:
        """When it is due now."""
        return {"deliver_at": self.message().deliver_at}

    def perform(self, form: RescheduleForm) -> str:
        """A delay wins over the time, which the form has filled in by itself."""
        data = form.cleaned_data
        if data["delay"] is None and data["deliver_at"] is None:
            raise invalid("/deliver_at", _("Give a time or a delay."))
        deliver_at = data["deliver_at"] if data["delay"] is None else datetime.now(UTC) + timedelta(seconds=data["delay"])
        operating.reschedule_delayed(
            actor=person(self.request), message_id=self.kwargs["message_id"], deliver_at=deliver_at, reason=data["reason"]
        )
        return reverse("admin:messages_delayed")

    def success(self, form: RescheduleForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("Message {id} is due at another time now.").format(id=self.kwargs["message_id"])


class ManyForm(OptionalReasonForm):
    """For all that matched when the page was drawn."""

    frozen = forms.DateTimeField(widget=forms.HiddenInput, required=False)


class RescheduleManyForm(ManyForm):
    """With the time, the same for all."""

    deliver_at = RescheduleForm.base_fields["deliver_at"]
    delay = RescheduleForm.base_fields["delay"]
    field_order = ["deliver_at", "delay", "reason"]


class CancelManyForm(TypedNameForm):
    """With the name typed."""

    frozen = forms.DateTimeField(widget=forms.HiddenInput, required=False)


class DelayedMany(FormPage):
    """A page that does one thing with all delayed messages that match the filter of the address."""

    permission = "mq_messages.change_delayed"
    here = "delayed"
    template_name = "messages/delayed_many.html"

    def only(self, until: datetime | None = None) -> DelayedFilter:
        """The filter of the address. Problem: not_found (the topic)."""
        name = self.request.GET.get("topic", "").replace("\x00", "").strip()
        topic_id = scope.topic_id(self.request.user, name, self.permission)
        if name and topic_id is None:
            raise not_found(_("topic"), name)
        due = self.request.GET.get("due", "")
        return DelayedFilter(topic_id=topic_id, due_to=timezone.now() + SPANS[due] if due in SPANS else None, sent_to=until)

    def initial(self) -> dict[str, Any]:
        """What is sent from now on was not seen by the person who decides."""
        return {"frozen": timezone.now().isoformat()}

    def context(self) -> dict[str, Any]:
        """How many these are, beside the form."""
        only = self.only()
        number = services.count_delayed(only=only, topic_ids=scope.topic_ids(self.request.user, self.permission))
        back = f"{reverse('admin:messages_delayed')}?{self.request.GET.urlencode()}"
        return {
            "crumbs": [(_("Delayed"), back)],
            "back": back,
            "number": number,
            "number_more": number >= delayed_many.COUNTED,
            "topic": self.request.GET.get("topic", ""),
            "until": only.due_to,
        }

    def frozen(self, form: Any) -> DelayedFilter:
        """What matched when the page was drawn."""
        return self.only(form.cleaned_data["frozen"] or timezone.now())

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("It is being done; each message gets a result of its own.")


class RescheduleMany(DelayedMany):
    """Another time for all of them, or now."""

    title = gettext_lazy("Deliver all that match at another time")
    form_class = RescheduleManyForm
    submit_label = gettext_lazy("Reschedule")

    def perform(self, form: RescheduleManyForm) -> str:
        """A delay wins over the time."""
        data = form.cleaned_data
        if data["delay"] is None and data["deliver_at"] is None:
            raise invalid("/deliver_at", _("Give a time or a delay."))
        deliver_at = data["deliver_at"] if data["delay"] is None else datetime.now(UTC) + timedelta(seconds=data["delay"])
        job = operating.reschedule_all_delayed(
            actor=person(self.request),
            only=self.frozen(form),
            deliver_at=None if data["delay"] == 0 else deliver_at,
            reason=data["reason"],
        )
        return reverse("admin:operations_detail", args=[job.uid])


class CancelMany(DelayedMany):
    """They are gone afterwards."""

    title = gettext_lazy("Cancel all that match")
    form_class = CancelManyForm
    submit_label = gettext_lazy("Cancel the messages")
    tone = "danger solid"

    def form_arguments(self) -> dict[str, Any]:
        """The name of the topic is typed, or the word for all of them."""
        return {"expected": self.request.GET.get("topic", "").strip() or "all topics"}

    def context(self) -> dict[str, Any]:
        """With what is to be typed."""
        return {**super().context(), "confirm_name": self.form_arguments()["expected"]}

    def perform(self, form: CancelManyForm) -> str:
        """Cancel."""
        job = operating.cancel_all_delayed(actor=person(self.request), only=self.frozen(form), reason=form.cleaned_data["reason"])
        return reverse("admin:operations_detail", args=[job.uid])


class Cancel(DelayedAction):
    """It is gone afterwards."""

    title = gettext_lazy("Cancel a delayed message")
    form_class = ReasonForm
    submit_label = gettext_lazy("Cancel the message")
    tone = "danger solid"

    def perform(self, form: ReasonForm) -> str:
        """Cancel."""
        operating.cancel_delayed(actor=person(self.request), message_id=self.kwargs["message_id"], reason=form.cleaned_data["reason"])
        return reverse("admin:messages_delayed")

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("Message {id} is cancelled; no group will get it.").format(id=self.kwargs["message_id"])
