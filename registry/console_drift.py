"""Edits by others in the console: the history, one edit with its difference, the decision, and the policies of the trees."""

from functools import cached_property
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage, View
from core.console.pages import FormPage, Page, ReasonForm, get, person
from core.console.slots import Column
from core.errors import conflict
from registry import drift
from registry.models import Drift, DriftPolicy, Edit, Publication


class Drifts(ListPage[Drift]):
    """Edits by others, the last first."""

    permission = "registry.view_drift"
    here = "drift"
    title = gettext_lazy("Drift")
    model = Drift
    template_name = "registry/drifts.html"
    columns = [
        Column("path", gettext_lazy("Path"), sort=("path", "-id"), value="path"),
        Column("edit", gettext_lazy("Edit"), value="get_edit_display"),
        Column("seen", gettext_lazy("Seen"), sort=("-id",), css="num", value="seen_at"),
        Column("who", gettext_lazy("Session"), css="hide-m", value="who"),
        Column("outcome", gettext_lazy("Outcome"), value="get_outcome_display"),
        Column("settled", gettext_lazy("Settled"), css="num", value="settled_at"),
        Column("by", gettext_lazy("Decided by"), value="decided_by.username"),
    ]
    search_fields = ("path", "session")
    default_sort = "seen"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
        View("waiting", gettext_lazy("Waits for a person"), lambda rows, _request: rows.waiting(), tone="hot"),
        View("open", gettext_lazy("Being repaired"), lambda rows, _request: rows.unsettled().filter(outcome="open"), tone="warm"),
        View("unknown", gettext_lazy("Unknown nodes"), lambda rows, _request: rows.unsettled().filter(outcome="left")),
    ]
    filters = [Filter("edit", gettext_lazy("Edit"), lambda _request: Edit.choices, lambda rows, value: rows.filter(edit=value))]

    def annotated(self, queryset: QuerySet[Drift, Drift]) -> QuerySet[Drift, Drift]:
        """Without the bytes."""
        return queryset.select_related("decided_by").defer("data", "wanted")

    def context(self) -> dict[str, Any]:
        """Where to say what is done about them."""
        why = "" if self.request.user.has_perm("registry.view_driftpolicy") else NOT_ALLOWED
        return {"policies": Action(_("Policies"), reverse("admin:registry_drift_policies"), "settings", why=why)}


class Detail(Page):
    """One edit: what was wanted, what was found, what became of it."""

    permission = "registry.view_drift"
    here = "drift"
    template_name = "registry/drift.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The edit, and the decision if it waits for one."""
        row = get(Drift.objects.restrict(request.user).select_related("decided_by"), pk=pk)
        return self.show(
            {
                "title": row.path,
                "crumbs": [(_("Drift"), reverse("admin:registry_drifts"))],
                "drift": row,
                "publication": Publication.objects.restrict(request.user).filter(path=row.path).first(),
                "actions": actions_of(request, row),
            }
        )


def actions_of(request: HttpRequest, row: Drift) -> list[Action]:
    """What can be decided; off with the reason while nothing can."""
    why: Any = "" if request.user.has_perm("registry.change_drift") else NOT_ALLOWED
    if not why and row.outcome != Drift.Outcome.WAITING:
        why = _("It does not wait for a person.")
    adopt_why = why or (_("A deletion is adopted by retiring: the topic, the group, the cluster.") if row.data is None else "")
    return [
        Action(_("Adopt"), reverse("admin:registry_drift_adopt", args=[row.pk]), "check", why=adopt_why),
        Action(_("Repair"), reverse("admin:registry_drift_repair", args=[row.pk]), "undo", "primary", why=why),
    ]


class Decision(FormPage):
    """A decision about one edit."""

    permission = "registry.change_drift"
    here = "drift"
    template_name = "registry/drift_decision.html"
    form_class = ReasonForm

    @cached_property
    def drift(self) -> Drift:
        """The edit of the address; not read before the permission is known."""
        return get(Drift.objects.restrict(self.request.user, "change"), pk=self.kwargs["pk"])

    def check(self) -> None:
        """Only what waits can be decided."""
        if self.drift.outcome != Drift.Outcome.WAITING:
            raise conflict("drift_settled", _("This edit does not wait for a person."), hint=_("Look at the last edit of this node."))

    def context(self) -> dict[str, Any]:
        """What was found, and what will stand there."""
        back = reverse("admin:registry_drift", args=[self.drift.pk])
        return {
            "title": str(self.title).format(path=self.drift.path),
            "crumbs": [(_("Drift"), reverse("admin:registry_drifts")), (self.drift.path, back)],
            "back": back,
            "drift": self.drift,
        }


class Repair(Decision):
    """Write ours over it."""

    title = gettext_lazy("Repair {path}")
    submit_label = gettext_lazy("Write what mqadmin wants")

    def perform(self, form: ReasonForm) -> str:
        """Let the registrars write."""
        drift.repair(actor=person(self.request), drift=self.drift, reason=form.cleaned_data["reason"])
        return reverse("admin:registry_drift", args=[self.drift.pk])

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """What comes next."""
        return _("The registrars write the node now.")


class AdoptForm(ReasonForm):
    """Why, and whether in spite of warnings."""

    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Adopt in spite of warnings"),
        help_text=gettext_lazy("Otherwise you are told first what speaks against it."),
    )
    field_order = ["accept_warnings", "reason"]


class Adopt(Decision):
    """What others wrote becomes what mqadmin wants."""

    form_class = AdoptForm
    title = gettext_lazy("Adopt what stands at {path}")
    submit_label = gettext_lazy("Adopt")

    def perform(self, form: AdoptForm) -> str:
        """By the verbs of the topic, group, cluster or shadow group."""
        drift.adopt(actor=person(self.request), drift=self.drift, **form.cleaned_data)
        return reverse("admin:registry_drift", args=[self.drift.pk])

    def success(self, form: AdoptForm) -> Any:  # noqa: ARG002
        """What comes next."""
        return _("It is what mqadmin wants now; a release was made of it.")


class Policies(Page):
    """What is done about edits by others, tree by tree."""

    permission = "registry.view_driftpolicy"
    here = "drift"
    title = gettext_lazy("Drift policies")
    template_name = "registry/drift_policies.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """All trees."""
        waiting, why = drift.waiting(), "" if request.user.has_perm("registry.change_driftpolicy") else NOT_ALLOWED
        rows = []
        for policy in DriftPolicy.objects.all():
            edit = Action(_("Change"), reverse("admin:registry_drift_policy", args=[policy.name]), "edit", why=why)
            rows.append({"policy": policy, "waiting": waiting[policy.name], "edit": edit})
        return self.show({"crumbs": [(_("Drift"), reverse("admin:registry_drifts"))], "rows": rows})


class PolicyForm(ReasonForm):
    """Another policy, and why."""

    policy = forms.ChoiceField(choices=DriftPolicy.Policy.choices, label=gettext_lazy("When somebody else edits a node"))
    field_order = ["policy", "reason"]


class Policy(FormPage):
    """Change the policy of a tree."""

    permission = "registry.change_driftpolicy"
    here = "drift"
    template_name = "registry/drift_policy.html"
    form_class = PolicyForm
    submit_label = gettext_lazy("Save")

    @cached_property
    def policy(self) -> DriftPolicy:
        """The policy of the address; not read before the permission is known."""
        return get(DriftPolicy.objects.all(), name=self.kwargs["name"])

    def versioned(self) -> DriftPolicy:
        """As it was when the page was opened."""
        return self.policy

    def initial(self) -> dict[str, Any]:
        """As it is."""
        return {"policy": self.policy.policy}

    def context(self) -> dict[str, Any]:
        """How many wait, which will be repaired when waiting ends."""
        back = reverse("admin:registry_drift_policies")
        return {
            "title": _("Drift policy of {root}").format(root=self.policy.root),
            "crumbs": [(_("Drift"), reverse("admin:registry_drifts")), (_("Policies"), back)],
            "back": back,
            "policy": self.policy,
            "waiting": drift.waiting()[self.policy.name],
        }

    def perform(self, form: PolicyForm) -> str:
        """Change it."""
        values = form.cleaned_data
        drift.set_policy(actor=person(self.request), policy=self.policy, to=values["policy"], reason=values["reason"])
        return reverse("admin:registry_drift_policies")

    def success(self, form: PolicyForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("Saved; it holds from the next edit on.")


urlpatterns = [
    path("drift/", Drifts.as_view(), name="registry_drifts"),
    path("drift/policies/", Policies.as_view(), name="registry_drift_policies"),
    path("drift/policies/<slug:name>/", Policy.as_view(), name="registry_drift_policy"),
    path("drift/<int:pk>/", Detail.as_view(), name="registry_drift"),
    path("drift/<int:pk>/repair/", Repair.as_view(), name="registry_drift_repair"),
    path("drift/<int:pk>/adopt/", Adopt.as_view(), name="registry_drift_adopt"),
]
