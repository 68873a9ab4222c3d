"""Shadow groups in the console: switched on with a duration and a reason, off by hand, all of them by one button."""

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import choices
from accounts.models import Application
from consumers import shadow as services
from consumers.models import ConsumerGroup, ShadowTask
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage, View, names_in
from core.console.pages import ConsoleForm, FormPage, Page, ReasonForm, get, person
from core.console.slots import Column
from core.scope import Reach, reach_of
from registry.services import instances_known
from registry.status import statuses
from topics.models import Topic


def _tasks(request: HttpRequest) -> list[tuple[str, str]]:
    return [
        (task, task) for task in ShadowTask.objects.restrict(request.user).order_by("task").values_list("task", flat=True).distinct()[:200]
    ]


def _applications(request: HttpRequest) -> list[tuple[str, str]]:
    return names_in(ShadowTask.objects.restrict(request.user), "application", "name")


def _running(row: Any) -> str:
    shown = row.publication
    return f"{shown.applied_count}/{shown.online_count}" if shown and shown.online_count else ""


class Shadows(ListPage[ShadowTask]):
    """All shadow groups."""

    permission = "consumers.view_shadowtask"
    here = "shadow"
    title = gettext_lazy("Shadow groups")
    model = ShadowTask
    template_name = "consumers/shadow.html"
    columns = [
        Column("on", gettext_lazy("State"), sort=("-enabled", "group__name"), value="enabled"),
        Column("group", gettext_lazy("Shadow group"), sort=("group__name",), value="group.name"),
        Column("application", gettext_lazy("Application"), sort=("application__name", "group__name"), value="application.name"),
        Column("task", gettext_lazy("Stress test"), sort=("task", "group__name"), value="task"),
        Column("topic", gettext_lazy("Topic"), sort=("topic__name",), css="hide-m", value="topic.name"),
        Column("left", gettext_lazy("Time left"), sort=("lease_until",), css="num", value="lease_until"),
        Column(
            "instances",
            gettext_lazy("Running"),
            title=gettext_lazy("Running consumers that have applied the switch, of all that run"),
            value=_running,
        ),
        Column("reason", gettext_lazy("Reason"), css="max hide-m", value="reason"),
        Column("switch", "", css="num"),
    ]
    search_fields = ("group__name", "application__name", "task", "topic__name")
    default_sort = "group"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
        View("on", gettext_lazy("On"), lambda rows, _request: rows.filter(enabled=True), tone="warm"),
    ]
    filters = [
        Filter("application", gettext_lazy("Application"), _applications, lambda rows, value: rows.filter(application__name=value)),
        Filter("task", gettext_lazy("Stress test"), _tasks, lambda rows, value: rows.filter(task=value)),
    ]

    def annotated(self, queryset: QuerySet[ShadowTask, ShadowTask]) -> QuerySet[ShadowTask, ShadowTask]:
        """Joins."""
        return queryset.select_related("application", "group", "topic", "owner")

    def decorate(self, rows: list[ShadowTask]) -> None:
        """The publication and the switch of each."""
        published = statuses([row.zookeeper_path for row in rows])
        allowed = self.request.user.has_perm("consumers.switch_shadowtask")
        for row in rows:
            row.publication = published.get(row.zookeeper_path)  # type: ignore[attr-defined]
            row.actions = switches(row, allowed=allowed)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """What can be done with all of them."""
        user = self.request.user
        chosen = _chosen(self.request)
        on = services.switched_on(person(self.request), **chosen).count()
        why: Any = "" if user.has_perm("consumers.switch_shadowtask") else NOT_ALLOWED
        add = "" if user.has_perm("consumers.add_shadowtask") else NOT_ALLOWED
        what = _("Stop these") if chosen else _("Stop all")
        stop = ngettext("{what}: {n} is on", "{what}: {n} are on", on).format(what=what, n=on) if on else what
        return {
            "add": Action(_("Add a shadow group"), reverse("admin:consumers_shadow_add"), "plus", "primary" if not on else "", why=add),
            "stop_all": Action(
                stop,
                reverse("admin:consumers_shadow_stop_all") + (f"?{urlencode(chosen)}" if chosen else ""),
                "stop",
                "danger solid" if on else "danger",
                why=why or ("" if on else _("No shadow group is on.")),
            ),
            "on_count": on,
        }


def _chosen(request: HttpRequest) -> dict[str, str]:
    """The application and the stress test that the address names."""
    asked = {key: request.GET.get(key, "").replace("\x00", "").strip() for key in ("application", "task")}
    return {key: value for key, value in asked.items() if value}


def switches(row: ShadowTask, *, allowed: bool) -> list[Action]:
    """The buttons of a row."""
    why: Any = "" if allowed else NOT_ALLOWED
    if row.enabled:
        return [
            Action(_("Extend"), reverse("admin:consumers_shadow_start", args=[row.pk]), "", "s", why=why),
            Action(_("Switch off"), reverse("admin:consumers_shadow_stop", args=[row.pk]), "", "s danger", why=why),
        ]
    if not why and row.group.state != State.ACTIVE:
        why = _("The group is not active.")
    return [Action(_("Switch on"), reverse("admin:consumers_shadow_start", args=[row.pk]), "", "s", why=why)]


class Detail(Page):
    """One shadow group: its lease, who runs it now, and for whom nobody but mqadmin ends the lease."""

    permission = "consumers.view_shadowtask"
    here = "shadow"
    template_name = "consumers/shadow_detail.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The shadow group."""
        rows = ShadowTask.objects.restrict(request.user).select_related("application", "group", "topic", "owner")
        shadow = get(rows, pk=pk)
        may_see = request.user.has_perm("registry.view_instance")
        return self.show(
            {
                **_around(),
                "title": shadow.group.name,
                "shadow": shadow,
                "actions": switches(shadow, allowed=request.user.has_perm("consumers.switch_shadowtask")),
                "publication": statuses([shadow.zookeeper_path]).get(shadow.zookeeper_path),
                "running": services.running(shadow, person(request)) if may_see else None,
                "unleased": services.unleased(shadow, person(request)) if may_see else [],
                "known": instances_known(),
            }
        )


class AddForm(ConsoleForm):
    """A shadow group; what fits together is the service's to say."""

    application = forms.ModelChoiceField(queryset=Application.objects.none(), label=gettext_lazy("Application"))
    task = forms.CharField(
        max_length=200, label=gettext_lazy("Stress test"), help_text=gettext_lazy("The stress test, for example stress-2026-11.")
    )
    group = forms.ModelChoiceField(
        queryset=ConsumerGroup.objects.none(), label=gettext_lazy("Consumer group"), help_text=gettext_lazy("A group of this application.")
    )
    topic = forms.ModelChoiceField(
        queryset=Topic.objects.none(), label=gettext_lazy("Topic"), help_text=gettext_lazy("One that the group is subscribed to.")
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["group"].queryset = ConsumerGroup.objects.filter(state=State.ACTIVE).order_by("name")  # type: ignore[attr-defined]
        self.fields["topic"].queryset = Topic.objects.filter(state=State.ACTIVE).order_by("name")  # type: ignore[attr-defined]


class Add(FormPage):
    """Add a shadow group, off."""

    permission = "consumers.add_shadowtask"
    here = "shadow"
    title = gettext_lazy("Add a shadow group")
    template_name = "consumers/shadow_form.html"
    form_class = AddForm
    own_choices = ("application", "group")
    submit_label = gettext_lazy("Add, switched off")

    def narrowed(self, form: Any) -> Any:
        """Of the topics those that one of these groups is subscribed to."""
        form = super().narrowed(form)
        if reach_of(self.request.user, self.permission) is not Reach.ALL:
            groups, topics = form.fields["group"].queryset, form.fields["topic"]
            topics.queryset = topics.queryset.filter(pk__in=groups.order_by().values("subscriptions__topic"))
        return form

    def context(self) -> dict[str, Any]:
        """Where to go back to."""
        return _around()

    def perform(self, form: AddForm) -> str:
        """Add it."""
        services.create(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:consumers_shadow")

    def success(self, form: AddForm) -> Any:
        """What comes next."""
        return _("{name} is added, switched off.").format(name=form.cleaned_data["group"].name)


class StartForm(ReasonForm):
    """How long, and why."""

    minutes = forms.IntegerField(
        label=gettext_lazy("Minutes"),
        initial=30,
        help_text=gettext_lazy("It ends by itself then, even if the control plane is gone. At most 1,440."),
    )
    field_order = ["minutes", "reason"]


class ShadowAction(FormPage):
    """A page that does one thing with one shadow group."""

    permission = "consumers.switch_shadowtask"
    here = "shadow"
    template_name = "consumers/shadow_form.html"

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._shadow: ShadowTask | None = None

    def shadow(self) -> ShadowTask:
        """The one of the address."""
        if self._shadow is None:
            self._shadow = get(
                ShadowTask.objects.restrict(self.request.user, self.permission).select_related("application", "group", "topic", "owner"),
                pk=self.kwargs["pk"],
            )
        return self._shadow

    def versioned(self) -> ShadowTask:
        """As it was when the page was opened."""
        return self.shadow()

    def context(self) -> dict[str, Any]:
        """It, beside the form."""
        shadow = self.shadow()
        return {**_around(), "title": str(self.title).format(name=shadow.group.name), "shadow": shadow}


class Start(ShadowAction):
    """Switch on, or give a new lease."""

    title = gettext_lazy("Switch on {name}")
    form_class = StartForm
    submit_label = gettext_lazy("Switch on")

    def perform(self, form: StartForm) -> str:
        """Switch on."""
        services.start(
            actor=person(self.request), shadow=self.shadow(), minutes=form.cleaned_data["minutes"], reason=form.cleaned_data["reason"]
        )
        return reverse("admin:consumers_shadow")

    def success(self, form: StartForm) -> Any:
        """For how long."""
        return _("{name} is on for {minutes} minutes.").format(name=self.shadow().group.name, minutes=form.cleaned_data["minutes"])


class Stop(ShadowAction):
    """Switch off."""

    title = gettext_lazy("Switch off {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Switch off")
    tone = "danger solid"

    def perform(self, form: ReasonForm) -> str:
        """Switch off."""
        services.stop(actor=person(self.request), shadow=self.shadow(), reason=form.cleaned_data["reason"])
        return reverse("admin:consumers_shadow")

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("{name} is off.").format(name=self.shadow().group.name)


class StopAll(FormPage):
    """Switch everything off, or what the list's filters leave of it: an application's, a stress test's."""

    permission = "consumers.switch_shadowtask"
    here = "shadow"
    title = gettext_lazy("Stop all shadow groups")
    template_name = "consumers/shadow_form.html"
    form_class = ReasonForm
    submit_label = gettext_lazy("Stop all")
    tone = "danger solid"

    def context(self) -> dict[str, Any]:
        """Which are on."""
        chosen = _chosen(self.request)
        around = {**_around(), "on": services.switched_on(person(self.request), **chosen), "chosen": chosen}
        return {**around, "title": _("Stop these shadow groups")} if chosen else around

    def perform(self, form: ReasonForm) -> str:
        """Stop them."""
        self.stopped = len(services.stop_all(actor=person(self.request), reason=form.cleaned_data["reason"], **_chosen(self.request)))
        return reverse("admin:consumers_shadow")

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """How many."""
        return ngettext("{n} shadow group is switched off.", "{n} shadow groups are switched off.", self.stopped).format(n=self.stopped)


def _around() -> dict[str, Any]:
    return {"crumbs": [(_("Shadow groups"), reverse("admin:consumers_shadow"))], "back": reverse("admin:consumers_shadow")}


urlpatterns = [
    path("shadow/", Shadows.as_view(), name="consumers_shadow"),
    path("shadow/add/", Add.as_view(), name="consumers_shadow_add"),
    path("shadow/stop-all/", StopAll.as_view(), name="consumers_shadow_stop_all"),
    path("shadow/<int:pk>/", Detail.as_view(), name="consumers_shadow_detail"),
    path("shadow/<int:pk>/start/", Start.as_view(), name="consumers_shadow_start"),
    path("shadow/<int:pk>/stop/", Stop.as_view(), name="consumers_shadow_stop"),
]
