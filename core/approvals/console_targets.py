"""Notification targets in the console: who is told of requests, what was sent, and what could not be."""

from typing import Any

from django import forms
from django.contrib import messages as flash
from django.http import HttpRequest
from django.http.response import HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.approvals import outbox, targets
from core.approvals.models import Channel, NotificationDelivery, NotificationTarget
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import ConsoleForm, FormPage, Page, ReasonForm, get, person

SHOWN = 100


class Targets(Page):
    """Who is told, and the newest notifications."""

    permission = "approvals.view_notificationtarget"
    here = "requests"
    title = gettext_lazy("Notifications")
    template_name = "approvals/targets.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Both lists; with ?view=failed only what was given up."""
        user = person(request)
        sent = NotificationDelivery.objects.select_related("target", "request").order_by("-created_at")
        if request.GET.get("view") == "failed":
            sent = sent.filter(state=NotificationDelivery.State.FAILED)
        why = "" if user.has_perm("approvals.add_notificationtarget") else NOT_ALLOWED
        return self.show(
            {
                "targets": NotificationTarget.objects.all(),
                "deliveries": sent[:SHOWN] if user.has_perm("approvals.view_notificationdelivery") else [],
                "failed_only": request.GET.get("view") == "failed",
                "mail_on": outbox.mail_is_on(),
                "wants_mail": targets.wants_mail(user),
                "own_address": user.email,
                "may_change": user.has_perm("approvals.change_notificationtarget"),
                "crumbs": [(_("Requests"), reverse("admin:requests"))],
                "add": Action(_("Add a target"), reverse("admin:notification_target_add"), "plus", "primary", why=why),
            }
        )


class OwnMail(Page):
    """Whether oneself is told by mail."""

    permission = "approvals.view_request"
    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        """Switch it."""
        wanted = request.POST.get("wanted") == "yes"
        targets.set_mail(user=person(request), wanted=wanted)
        flash.success(request, _("You are told of requests by mail.") if wanted else _("You get no more mails about requests."))
        return HttpResponseRedirect(reverse("admin:requests"))


class Retry(Page):
    """Try one that was given up again."""

    permission = "approvals.change_notificationtarget"
    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """Due at once."""
        outbox.retry(actor=person(request), delivery=get(NotificationDelivery.objects.all(), pk=pk))
        flash.success(request, _("It is tried again now."))
        return HttpResponseRedirect(reverse("admin:notification_targets"))


class TargetForm(ConsoleForm):
    """A target."""

    name = forms.CharField(max_length=120, label=gettext_lazy("Name"))
    channel = forms.ChoiceField(choices=Channel.choices, label=gettext_lazy("Channel"))
    address = forms.CharField(max_length=500, label=gettext_lazy("Address"), help_text=gettext_lazy("A mail address, or an https:// URL."))
    events = forms.MultipleChoiceField(
        required=False,
        choices=[(str(event), event.label) for event in targets.EVENTS],
        label=gettext_lazy("Events"),
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("None chosen: all."),
    )
    enabled = forms.BooleanField(required=False, label=gettext_lazy("On"))


class Add(FormPage):
    """Add a target; the secret of a webhook is shown once."""

    permission = "approvals.add_notificationtarget"
    here = "requests"
    title = gettext_lazy("Add a target")
    template_name = "approvals/target.html"
    form_class = TargetForm
    submit_label = gettext_lazy("Add")

    def initial(self) -> dict[str, Any]:
        """What most begin with."""
        return {"enabled": True, "channel": "webhook"}

    def context(self) -> dict[str, Any]:
        """Where to go back to."""
        back = reverse("admin:notification_targets")
        return {"back": back, "crumbs": [(_("Requests"), reverse("admin:requests")), (_("Notifications"), back)]}

    def perform(self, form: TargetForm) -> str:
        """Add it."""
        if form.cleaned_data["channel"] == Channel.WEBHOOK:
            targets.check_address(form.cleaned_data["address"])
        made, secret = targets.create(actor=person(self.request), **form.cleaned_data)
        self.said = (
            _("The secret of {name}, which signs what it gets; it is not shown again: {secret}").format(name=made.name, secret=secret)
            if secret
            else _("{name} is told of requests from now on.").format(name=made.name)
        )
        return reverse("admin:notification_targets")

    def success(self, form: TargetForm) -> Any:  # noqa: ARG002
        """The secret, once."""
        return self.said


class EditForm(TargetForm):
    """The channel stays."""

    channel = None  # type: ignore[assignment]


class Edit(Add):
    """Change a target."""

    permission = "approvals.change_notificationtarget"
    form_class = EditForm
    submit_label = gettext_lazy("Save")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._target: NotificationTarget | None = None

    def target(self) -> NotificationTarget:
        """The target of the address."""
        if self._target is None:
            self._target = get(NotificationTarget.objects.all(), pk=self.kwargs["pk"])
        return self._target

    def versioned(self) -> NotificationTarget:
        """As it was when the page was opened."""
        return self.target()

    def initial(self) -> dict[str, Any]:
        """As it is."""
        return {name: getattr(self.target(), name) for name in ("name", "address", "events", "enabled")}

    def context(self) -> dict[str, Any]:
        """What it is."""
        return {
            **super().context(),
            "title": self.target().name,
            "target": self.target(),
            "may_delete": self.request.user.has_perm("approvals.delete_notificationtarget"),
        }

    def perform(self, form: TargetForm) -> str:
        """Change it; with the button “renew” only the secret."""
        if self.target().channel == Channel.WEBHOOK and form.cleaned_data["address"] != self.target().address:
            targets.check_address(form.cleaned_data["address"])
        targets.change(actor=person(self.request), target=self.target(), **form.cleaned_data)
        self.said = _("Saved.")
        return reverse("admin:notification_targets")


class Renew(FormPage):
    """A new secret for a webhook."""

    permission = "approvals.change_notificationtarget"
    here = "requests"
    form_class = ConsoleForm
    submit_label = gettext_lazy("Make a new secret")

    def target(self) -> NotificationTarget:
        """The target of the address."""
        return get(NotificationTarget.objects.all(), pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        """Which one."""
        target, back = self.target(), reverse("admin:notification_target_edit", args=[self.kwargs["pk"]])
        crumbs = [(_("Requests"), reverse("admin:requests")), (_("Notifications"), reverse("admin:notification_targets"))]
        return {"title": _("A new secret for {name}").format(name=target.name), "crumbs": [*crumbs, (target.name, back)], "back": back}

    def perform(self, form: ConsoleForm) -> str:  # noqa: ARG002
        """Make it."""
        target, secret = targets.renew_secret(actor=person(self.request), target=self.target())
        self.said = _("The secret of {name}, which signs what it gets; it is not shown again: {secret}").format(
            name=target.name, secret=secret
        )
        return reverse("admin:notification_targets")

    def success(self, form: ConsoleForm) -> Any:  # noqa: ARG002
        """The secret, once."""
        return self.said


class Delete(Renew):
    """Take a target away."""

    permission = "approvals.delete_notificationtarget"
    form_class = ReasonForm
    submit_label = gettext_lazy("Delete")
    tone = "danger solid"

    def context(self) -> dict[str, Any]:
        """Which one."""
        return {**super().context(), "title": _("Delete {name}").format(name=self.target().name)}

    def perform(self, form: Any) -> str:
        """Away."""
        targets.delete(actor=person(self.request), target=self.target(), reason=form.cleaned_data["reason"])
        self.said = _("The target is deleted.")
        return reverse("admin:notification_targets")


urlpatterns = [
    path("notifications/", Targets.as_view(), name="notification_targets"),
    path("notifications/mine/", OwnMail.as_view(), name="notification_own"),
    path("notifications/add/", Add.as_view(), name="notification_target_add"),
    path("notifications/<int:pk>/", Edit.as_view(), name="notification_target_edit"),
    path("notifications/<int:pk>/secret/", Renew.as_view(), name="notification_target_secret"),
    path("notifications/<int:pk>/delete/", Delete.as_view(), name="notification_target_delete"),
    path("notifications/<uuid:pk>/retry/", Retry.as_view(), name="notification_retry"),
]
