"""Policies in the console: the list, the form with its test against past requests, and taking one away."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from core.approvals import kinds, policies, showing
from core.approvals.models import Policy, Request
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import ConsoleForm, FormPage, Page, ReasonForm, attach, get, person
from core.errors import Problem

REHEARSED = 500


class PolicyForm(ConsoleForm):
    """All that is filled in must fit."""

    name = forms.CharField(max_length=120, label=gettext_lazy("Name"))
    enabled = forms.BooleanField(required=False, label=gettext_lazy("In force"))
    position = forms.IntegerField(label=gettext_lazy("Position"), help_text=gettext_lazy("The smallest one that fits decides."))
    kinds = forms.MultipleChoiceField(label=gettext_lazy("Kinds of requests"), widget=forms.CheckboxSelectMultiple)
    retirement = forms.BooleanField(
        required=False,
        label=gettext_lazy("Also retires"),
        help_text=gettext_lazy("Without this it never approves a retirement, whatever its kinds."),
    )
    name_pattern = forms.CharField(
        max_length=120, label=gettext_lazy("Names"), help_text=gettext_lazy("* stands for any signs, ? for one: order_* or dev.*")
    )
    applications = forms.CharField(
        required=False,
        max_length=4000,
        label=gettext_lazy("Applications"),
        help_text=gettext_lazy("Names with commas between them; empty: all."),
    )
    environment = forms.CharField(
        required=False,
        max_length=40,
        label=gettext_lazy("Environment"),
        help_text=gettext_lazy("In force only where mqadmin runs as this one; empty: everywhere."),
    )
    max_rate = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, label=gettext_lazy("Messages per second at most"))
    max_message_bytes = forms.IntegerField(
        required=False, min_value=0, max_value=2**31 - 1, label=gettext_lazy("Message size at most (bytes)")
    )
    max_partitions = forms.IntegerField(required=False, min_value=0, max_value=2**31 - 1, label=gettext_lazy("Partitions at most"))
    cluster = forms.CharField(
        required=False,
        max_length=120,
        label=gettext_lazy("Cluster"),
        help_text=gettext_lazy("Where new topics go; empty: the recommended one, if one is recommended."),
    )
    note = forms.CharField(required=False, max_length=2000, label=gettext_lazy("Note"), widget=forms.Textarea(attrs={"rows": 2}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kinds"].choices = kinds.choices()  # type: ignore[attr-defined]

    @property
    def values(self) -> dict[str, Any]:
        """As the service takes them."""
        names = [name.strip() for name in self.cleaned_data["applications"].split(",")]
        return {**self.cleaned_data, "applications": [name for name in names if name]}


class Policies(Page):
    """All policies, in the order in which they are asked."""

    permission = "approvals.view_policy"
    here = "requests"
    title = gettext_lazy("Policies")
    template_name = "approvals/policies.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The list."""
        labels = dict(kinds.choices())
        rows = list(Policy.objects.select_related("changed_by").prefetch_related("applications"))
        for row in rows:
            row.rule = rule(row)  # type: ignore[attr-defined]
            row.kind_labels = [labels.get(kind, kind) for kind in row.kinds]  # type: ignore[attr-defined]
        why = "" if request.user.has_perm("approvals.add_policy") else NOT_ALLOWED
        return self.show(
            {
                "policies": rows,
                "crumbs": [(_("Requests"), reverse("admin:requests"))],
                "add": Action(_("Add a policy"), reverse("admin:policy_add"), "plus", "primary", why=why),
            }
        )


def rule(policy: Policy) -> list[str]:
    """The rule in words, one condition each."""
    said = [_("name {pattern}").format(pattern=policy.name_pattern)] if policy.name_pattern.strip("*") else []
    if policy.max_rate is not None:
        said.append(_("up to {n} /s").format(n=f"{policy.max_rate:,}"))
    if policy.max_message_bytes is not None:
        said.append(_("up to {n} B a message").format(n=f"{policy.max_message_bytes:,}"))
    if policy.max_partitions is not None:
        said.append(ngettext("up to {n} partition", "up to {n} partitions", policy.max_partitions).format(n=f"{policy.max_partitions:,}"))
    chosen = [application.name for application in policy.applications.all()] if policy.pk else []
    if chosen:
        said.append(_("of {names}").format(names=", ".join(chosen)))
    if policy.environment:
        said.append(_("in {environment}").format(environment=policy.environment))
    if policy.cluster:
        said.append(_("on {cluster}").format(cluster=policy.cluster))
    return said


class PolicyPage(FormPage):
    """A form with a policy; the button “test” shows what it would have said to past requests, and stores nothing."""

    here = "requests"
    template_name = "approvals/policy.html"
    form_class = PolicyForm
    own_choices = ()

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet."""
        super().setup(request, *args, **kwargs)
        self.rehearsal: dict[str, Any] | None = None

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Save, or test."""
        if "test" not in request.POST:
            return super().post(request, *args, **kwargs)
        form = PolicyForm(request.POST, initial=self.initial())
        if form.is_valid():
            try:
                self.rehearsal = rehearse(person(request), form.values)
            except Problem as problem:
                attach(form, problem)
        return self.page(form)

    def context(self) -> dict[str, Any]:
        """Where to go back to, and what a test found."""
        back = reverse("admin:policies")
        crumbs = [(_("Requests"), reverse("admin:requests")), (_("Policies"), back)]
        return {"back": back, "crumbs": crumbs, "rehearsal": self.rehearsal}


def rehearse(user: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the policy that the form describes would have said to the newest requests that this person may see."""
    known = {kind.name: kind for kind in kinds.every()}
    chosen = set(values.pop("applications"))
    policy = Policy(**values, changed_by=None)
    asked = Request.objects.restrict(user).select_related("application", "requested_by").order_by("-pk")[:REHEARSED]
    rows = []
    for request in asked:
        why = policies.refusal(policy, known[request.kind], request, applications=chosen) if request.kind in known else _("Unknown kind.")
        request.what = known.get(request.kind)  # type: ignore[attr-defined]
        request.shown = showing.summary(request) if request.kind in known else ""  # type: ignore[attr-defined]
        rows.append((request, why))
    return {
        "rows": sorted(rows, key=lambda row: row[1] is not None)[:50],
        "approved": sum(why is None for _r, why in rows),
        "of": len(rows),
    }


class Add(PolicyPage):
    """Add a policy."""

    permission = "approvals.add_policy"
    title = gettext_lazy("Add a policy")
    submit_label = gettext_lazy("Add")

    def initial(self) -> dict[str, Any]:
        """What most begin with."""
        return {"enabled": True, "position": 100, "name_pattern": "*"}

    def perform(self, form: PolicyForm) -> str:
        """Add it."""
        policies.create(actor=person(self.request), **form.values)
        return reverse("admin:policies")

    def success(self, form: PolicyForm) -> Any:
        """What comes next."""
        return _("{name} decides on what is asked for from now on.").format(name=form.cleaned_data["name"])


class Edit(PolicyPage):
    """Change a policy."""

    permission = "approvals.change_policy"
    submit_label = gettext_lazy("Save")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._policy: Policy | None = None

    def policy(self) -> Policy:
        """The policy of the address."""
        if self._policy is None:
            self._policy = get(Policy.objects.select_related("changed_by"), pk=self.kwargs["pk"])
        return self._policy

    def versioned(self) -> Policy:
        """As it was when the page was opened."""
        return self.policy()

    def initial(self) -> dict[str, Any]:
        """As it is."""
        policy = self.policy()
        names = ", ".join(policy.applications.order_by("name").values_list("name", flat=True))
        return {**{name: getattr(policy, name) for name in policies.FIELDS}, "applications": names}

    def context(self) -> dict[str, Any]:
        """What it is."""
        policy = self.policy()
        may_delete = self.request.user.has_perm("approvals.delete_policy")
        return {**super().context(), "title": policy.name, "policy": policy, "may_delete": may_delete}

    def perform(self, form: PolicyForm) -> str:
        """Change it."""
        policies.change(actor=person(self.request), policy=self.policy(), version=self.policy().version, **form.values)
        return reverse("admin:policies")

    def success(self, form: PolicyForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("Saved; it holds for what is asked for from now on.")


class Delete(FormPage):
    """Take a policy away."""

    permission = "approvals.delete_policy"
    here = "requests"
    form_class = ReasonForm
    submit_label = gettext_lazy("Delete")
    tone = "danger solid"

    def policy(self) -> Policy:
        """The policy of the address."""
        return get(Policy.objects.all(), pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        """Which one."""
        policy, back = self.policy(), reverse("admin:policy_edit", args=[self.kwargs["pk"]])
        crumbs = [(_("Requests"), reverse("admin:requests")), (_("Policies"), reverse("admin:policies")), (policy.name, back)]
        return {"title": _("Delete {name}").format(name=policy.name), "crumbs": crumbs, "back": back}

    def perform(self, form: ReasonForm) -> str:
        """Away."""
        policies.delete(actor=person(self.request), policy=self.policy(), reason=form.cleaned_data["reason"])
        return reverse("admin:policies")

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("The policy is deleted; what it has approved stays approved.")


urlpatterns = [
    path("policies/", Policies.as_view(), name="policies"),
    path("policies/add/", Add.as_view(), name="policy_add"),
    path("policies/<int:pk>/", Edit.as_view(), name="policy_edit"),
    path("policies/<int:pk>/delete/", Delete.as_view(), name="policy_delete"),
]
