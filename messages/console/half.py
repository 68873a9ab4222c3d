"""Half messages: what producers left open, decided by a person where need be; and where applications are asked."""

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from accounts.models import Application
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import ConsoleForm, FormPage, OptionalReasonForm, Page, ReasonForm, get, person
from core.errors import Problem, conflict
from messages import callbacks, operating, reading, scope
from messages import half as store
from messages.half import Decision
from messages.models import CheckBack
from messages.types import HalfMessage

ROWS = 100
STATES: dict[str, Any] = {
    "": gettext_lazy("Not decided"),
    "undecided": pgettext_lazy("half message", "Undecided"),
    "open": pgettext_lazy("half message", "Open"),
    "committed": gettext_lazy("Committed"),
    "rolled_back": gettext_lazy("Rolled back"),
}


class HalfMessages(Page):
    """Newest first."""

    permission = "mq_messages.view_message"
    here = "half"
    title = gettext_lazy("Half messages")
    template_name = "messages/half.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The page that the address describes; parameters that make no sense fall back to their default."""
        name = request.GET.get("topic", "").replace("\x00", "").strip()
        topic_id, seen = scope.topic_id(request.user, name), scope.topic_ids(request.user)
        state: Any = request.GET.get("state", "")
        state = state if state in STATES else ""
        page = None
        if not name or topic_id is not None:
            asked: dict[str, Any] = {"topic_id": topic_id, "topic_ids": seen, "state": state or None, "limit": ROWS}
            try:
                page = store.half_messages(**asked, cursor=request.GET.get("cursor") or None)
            except Problem as problem:
                if problem.code != "invalid_cursor":
                    raise
                page = store.half_messages(**asked)
        items = page.items if page else []
        bodies = scope.topic_ids(request.user, scope.BODY)
        lines = reading.half_previews([m.id for m in items if bodies is None or m.topic_id in bodies]) if items else {}
        return self.show(
            {
                "rows": [{"m": m, "preview": lines.get(m.id, "")} for m in items],
                "topic": name,
                "topics": list(scope.topics(request.user).order_by("name").values_list("name", flat=True)[:500]),
                "unknown_topic": bool(name) and topic_id is None,
                "tabs": [{"key": key, "label": label, "on": key == state} for key, label in STATES.items()],
                "decided": state in {"committed", "rolled_back"},
                "narrowed": bool(name) or bool(state),
                "undecided": store.undecided(topic_ids=seen),
                "next": page.next if page else None,
                "first_page": "cursor" not in request.GET,
                "why_not": "" if request.user.has_perm("mq_messages.decide_half") else NOT_ALLOWED,
            }
        )


class Decide(FormPage):
    """A person decides in the place of the producer."""

    permission = "mq_messages.decide_half"
    here = "half"
    template_name = "messages/half_action.html"
    form_class = ReasonForm
    decision: Decision = "commit"
    title = gettext_lazy("Commit a half message")
    submit_label = gettext_lazy("Commit the message")

    def half(self) -> HalfMessage:
        """The half message of the address. Problems: not_found, already_decided."""
        found = scope.half_message(self.request.user, self.kwargs["half_id"], self.permission)
        if found.state not in {"open", "undecided"}:
            raise conflict("already_decided", _("The half message {id} is decided already.").format(id=found.id))
        return found

    def check(self) -> None:
        """Refuse before anything is filled in."""
        self.half()

    def context(self) -> dict[str, Any]:
        """The message beside the form."""
        back = reverse("admin:messages_half")
        found = scope.half_message(self.request.user, self.kwargs["half_id"], self.permission)
        return {"crumbs": [(_("Half messages"), back)], "back": back, "m": found, "decision": self.decision}

    def perform(self, form: ReasonForm) -> str:
        """Decide."""
        found = scope.half_message(self.request.user, self.kwargs["half_id"], self.permission)
        reason = form.cleaned_data["reason"]
        operating.decide_half(actor=person(self.request), message_id=found.id, decision=self.decision, reason=reason)
        return reverse("admin:messages_half")

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("Message {id} is committed: its groups get it now.").format(id=self.kwargs["half_id"])


class RollBack(Decide):
    """Thrown away."""

    decision: Decision = "rollback"
    title = gettext_lazy("Roll a half message back")
    submit_label = gettext_lazy("Roll the message back")
    tone = "danger solid"

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("Message {id} is rolled back; no group will get it.").format(id=self.kwargs["half_id"])


class CheckBacks(Page):
    """Where applications are asked."""

    permission = "mq_messages.view_checkback"
    here = "half"
    title = gettext_lazy("Check-backs")
    template_name = "messages/check_backs.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """All that the person may see, with how the last question went."""
        why = "" if request.user.has_perm("mq_messages.add_checkback") else NOT_ALLOWED
        return self.show(
            {
                "crumbs": [(_("Half messages"), reverse("admin:messages_half"))],
                "rows": CheckBack.objects.restrict(request.user).select_related("application").defer("secret")[:500],
                "may_change": request.user.has_perm("mq_messages.change_checkback"),
                "add": Action(_("Add a check-back"), reverse("admin:messages_check_back_add"), "plus", "primary", why=why),
            }
        )


class CheckBackForm(ConsoleForm):
    """Where to ask."""

    url = forms.CharField(max_length=500, label=gettext_lazy("Address"), help_text=gettext_lazy("An https:// URL of the application."))


class NewCheckBackForm(CheckBackForm):
    """Whom to ask, and where."""

    application = forms.ModelChoiceField(Application.objects.order_by("name"), to_field_name="name", label=gettext_lazy("Application"))
    field_order = ["application", "url"]


class CheckBackPage(FormPage):
    """A form about one check-back."""

    here = "half"
    template_name = "messages/check_back.html"
    said: Any = ""

    def callback(self) -> CheckBack:
        """That of the address."""
        rows = CheckBack.objects.restrict(self.request.user, self.permission).select_related("application")
        return get(rows, pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        """Where to go back to."""
        back = reverse("admin:messages_check_backs")
        return {"crumbs": [(_("Half messages"), reverse("admin:messages_half")), (_("Check-backs"), back)], "back": back}

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """What perform has said."""
        return self.said


class AddCheckBack(CheckBackPage):
    """Say where an application is asked; the secret is shown once."""

    permission = "mq_messages.add_checkback"
    title = gettext_lazy("Add a check-back")
    form_class = NewCheckBackForm
    submit_label = gettext_lazy("Add")

    def perform(self, form: NewCheckBackForm) -> str:
        """Add it."""
        data = form.cleaned_data
        callbacks.check_address(data["url"])
        if CheckBack.objects.filter(application=data["application"]).exists():
            raise conflict("duplicate_name", _("“{name}” has a check-back already.").format(name=data["application"].name))
        made, secret, _changed = callbacks.put(actor=person(self.request), application=data["application"], url=data["url"], seen=None)
        self.said = _("The secret of {name}, which signs what it gets; it is not shown again: {secret}").format(
            name=made.application.name, secret=secret
        )
        return reverse("admin:messages_check_backs")


class EditCheckBack(CheckBackPage):
    """Another address."""

    permission = "mq_messages.change_checkback"
    form_class = CheckBackForm
    submit_label = gettext_lazy("Save")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._callback: CheckBack | None = None

    def versioned(self) -> CheckBack:
        """As it was when the page was opened."""
        if self._callback is None:
            self._callback = self.callback()
        return self._callback

    def initial(self) -> dict[str, Any]:
        """Where it is asked now."""
        return {"url": self.versioned().url}

    def context(self) -> dict[str, Any]:
        """What else can be done with it."""
        may_delete = self.request.user.has_perm("mq_messages.delete_checkback")
        row = self.versioned()
        return {**super().context(), "title": row.application.name, "row": row, "may_delete": may_delete}

    def perform(self, form: CheckBackForm) -> str:
        """Save."""
        row, url = self.versioned(), form.cleaned_data["url"]
        if url != row.url:
            callbacks.check_address(url)
        callbacks.put(actor=person(self.request), application=row.application, url=url, seen=row)
        self.said = _("Saved.")
        return reverse("admin:messages_check_backs")


class RenewCheckBack(CheckBackPage):
    """A new secret."""

    permission = "mq_messages.change_checkback"
    form_class = ConsoleForm
    submit_label = gettext_lazy("Make a new secret")

    def context(self) -> dict[str, Any]:
        """Which one."""
        return {**super().context(), "title": _("A new secret for {name}").format(name=self.callback().application.name)}

    def perform(self, form: ConsoleForm) -> str:  # noqa: ARG002
        """Make it."""
        row, secret = callbacks.renew_secret(actor=person(self.request), callback=self.callback())
        self.said = _("The secret of {name}, which signs what it gets; it is not shown again: {secret}").format(
            name=row.application.name, secret=secret
        )
        return reverse("admin:messages_check_backs")


class DeleteCheckBack(CheckBackPage):
    """Ask nowhere any more."""

    permission = "mq_messages.delete_checkback"
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Delete")
    tone = "danger solid"

    def context(self) -> dict[str, Any]:
        """Which one."""
        return {**super().context(), "title": _("Delete the check-back of {name}").format(name=self.callback().application.name)}

    def perform(self, form: OptionalReasonForm) -> str:
        """Away."""
        callbacks.delete(actor=person(self.request), callback=self.callback(), reason=form.cleaned_data["reason"])
        self.said = _("It is deleted; half messages that stay open wait for a person now.")
        return reverse("admin:messages_check_backs")


urlpatterns: list[URLPattern] = [
    path("half-messages/", HalfMessages.as_view(), name="messages_half"),
    path("half-messages/<int:half_id>/commit/", Decide.as_view(), name="messages_half_commit"),
    path("half-messages/<int:half_id>/rollback/", RollBack.as_view(), name="messages_half_rollback"),
    path("half-messages/check-backs/", CheckBacks.as_view(), name="messages_check_backs"),
    path("half-messages/check-backs/add/", AddCheckBack.as_view(), name="messages_check_back_add"),
    path("half-messages/check-backs/<int:pk>/", EditCheckBack.as_view(), name="messages_check_back"),
    path("half-messages/check-backs/<int:pk>/secret/", RenewCheckBack.as_view(), name="messages_check_back_secret"),
    path("half-messages/check-backs/<int:pk>/delete/", DeleteCheckBack.as_view(), name="messages_check_back_delete"),
]
