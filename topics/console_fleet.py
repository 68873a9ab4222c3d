"""Moving everything that is on a cluster in the console: where to, then the plan, then the operation."""

from functools import cached_property
from typing import Any

from django import forms
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Cluster
from core.bulk import MAX_RATE, MIN_RATE
from core.console import slots
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import FormPage, ReasonForm, attach, get, person
from core.errors import Problem
from topics import fleet
from topics.console_verbs import ClusterChoice


class FleetForm(ReasonForm):
    """Where to, how fast, and why."""

    cluster = ClusterChoice(queryset=Cluster.objects.order_by("name"), to_field_name="name", label=gettext_lazy("To the cluster"))
    rate = forms.FloatField(
        required=False,
        min_value=MIN_RATE,
        max_value=MAX_RATE,
        label=gettext_lazy("Topics per second at most"),
        help_text=gettext_lazy("Empty: as fast as it goes. SDKs rebuild their clients when they see the change, all of them at once."),
    )
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Move in spite of warnings"),
        help_text=gettext_lazy("Otherwise those that the cluster is too small for, or does not know enough, are left out, with why."),
    )
    field_order = ["cluster", "rate", "accept_warnings", "reason"]

    def __init__(self, *args: Any, source: Cluster, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cluster"].queryset = Cluster.objects.exclude(pk=source.pk).order_by("name")  # type: ignore[attr-defined]


class MoveAll(FormPage):
    """Move everything that is on a cluster; what it would do is shown before."""

    permission = "topics.move_topic"
    here = "clusters"
    template_name = "topics/fleet.html"
    form_class = FleetForm
    submit_label = gettext_lazy("Show what it would do")
    plan: fleet.Plan | None = None
    shown: str = ""

    @cached_property
    def source(self) -> Cluster:
        """The cluster of the address."""
        return get(Cluster.objects.restrict(self.request.user), name=self.kwargs["name"])

    def form_arguments(self) -> dict[str, Any]:
        """Not to where they are."""
        return {"source": self.source}

    def context(self) -> dict[str, Any]:
        """How many there are, and the plan."""
        back = reverse("admin:clusters_detail", args=[self.source.name])
        return {
            "title": _("Move everything off {name}").format(name=self.source.name),
            "crumbs": [(_("Clusters"), reverse("admin:clusters_list")), (self.source.name, back)],
            "back": back,
            "source": self.source,
            "topics": fleet.on(self.source, person(self.request)).count(),
            "plan": self.plan,
            "shown": self.shown,
            "listed": fleet.SHOWN,
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """First the plan; what was shown is what may be confirmed."""
        form = self.narrowed(self.form_class(request.POST, initial=self.initial(), **self.form_arguments()))
        if not form.is_valid():
            return self.page(form)
        fields = {name: form.cleaned_data[name] for name in ("cluster", "accept_warnings")}
        try:
            self.plan = fleet.plan(actor=person(request), source=self.source, **fields)
        except Problem as problem:
            attach(form, problem)
            return self.page(form)
        self.shown = f"{fields['cluster'].name}={self.plan.movable}={self.plan.topics}"
        if "confirm" in request.POST and request.POST.get("shown") == self.shown:
            return super().post(request, *args, **kwargs)
        return self.page(form)

    def perform(self, form: FleetForm) -> str:
        """Start it and show how far it is."""
        fields = {name: form.cleaned_data[name] for name in ("cluster", "accept_warnings", "reason", "rate")}
        started = fleet.start(actor=person(self.request), source=self.source, **fields)
        return reverse("admin:operations_detail", args=[started.uid])

    def success(self, form: FleetForm) -> Any:  # noqa: ARG002
        """The operation's page says it."""
        return ""


def _button(request: HttpRequest, cluster: Cluster) -> Action:
    user = person(request)
    why: Any = "" if user.has_perm("topics.move_topic") else NOT_ALLOWED
    if not why and not fleet.on(cluster, user).exists():
        why = _("No active topic is on it.")
    return Action(_("Move everything"), reverse("admin:topics_move_all", args=[cluster.name]), "migrate", why=why)


slots.action("cluster", _button)

urlpatterns = [path("clusters/<str:name>/move-topics/", MoveAll.as_view(), name="topics_move_all")]
