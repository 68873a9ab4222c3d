"""Gated releases in the console: the list, opening one for live instances by name, its members, and its end."""

from typing import Any, ClassVar
from urllib.parse import quote

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage, View
from core.console.pages import ConsoleForm, FormPage, Page, ReasonForm, get, person
from core.console.slots import Column
from core.errors import FieldError, Problem, not_found
from registry import gates
from registry.models import Gate, Publication
from registry.services import instances_known, online_instances

VIEW, ADD, CHANGE = "registry.view_gate", "registry.add_gate", "registry.change_gate"
SHOWN = 200


def action(user: Any, zookeeper_path: str) -> Action:
    """The button on a topic's or group's page: to the gate that stands, or to open one."""
    found = Gate.objects.restrict(user, VIEW).at(zookeeper_path).standing().first() if user.has_perm(VIEW) else None
    if found is not None:
        return Action(_("Gated"), reverse("admin:registry_gate", args=[found.pk]), "release")
    why = "" if user.has_perm(ADD) else NOT_ALLOWED
    return Action(_("Gate"), f"{reverse('admin:registry_gate_add')}?path={quote(zookeeper_path)}", "release", why=why)


class Gates(ListPage[Gate]):
    """All gated releases."""

    permission = VIEW
    here = "gates"
    title = gettext_lazy("Gated releases")
    model = Gate
    template_name = "registry/gates.html"
    columns = [
        Column("path", gettext_lazy("Path"), sort=("publication__path",), value="publication.path"),
        Column("state", gettext_lazy("State"), value="get_state_display"),
        Column("cluster", gettext_lazy("Gated cluster"), sort=("cluster",), value="cluster"),
        Column("main", gettext_lazy("Main cluster"), sort=("main_cluster",), value="main_cluster"),
        Column("by", gettext_lazy("Opened by"), sort=("opened_by",), value="opened_by"),
        Column("opened", gettext_lazy("Opened"), sort=("id",), css="num", value="opened_at"),
        Column("closed", gettext_lazy("Closed"), css="num hide-m", value="closed_at"),
        Column("reason", gettext_lazy("Reason"), css="max", value="reason"),
    ]
    search_fields = ("publication__path", "cluster", "opened_by", "reason")
    default_sort = "-opened"
    views = [
        View("standing", gettext_lazy("Standing"), lambda rows, _request: rows.standing(), tone="warm"),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]
    filters = [
        Filter("path", gettext_lazy("Path"), lambda _request: [], lambda rows, value: rows.filter(publication__path=value)),
    ]

    def annotated(self, queryset: QuerySet[Gate, Gate]) -> QuerySet[Gate, Gate]:
        """With its node's path."""
        return queryset.select_related("publication").defer("publication__data")


class GateDetail(Page):
    """One gate: what it says, and where each of its instances is."""

    permission = VIEW
    here = "gates"
    template_name = "registry/gate.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The gate with its members by name."""
        gate = get(Gate.objects.restrict(request.user, VIEW).select_related("publication"), pk=pk)
        may = request.user.has_perm("registry.view_instance")
        found = gates.members(gate) if may else []
        counts = {key: sum(member.status == key for member in found) for key in ("gated", "waiting", "back", "left", "unknown")}
        return self.show(
            {
                "title": _("{path}, gated").format(path=gate.path),
                "crumbs": [(_("Gated releases"), reverse("admin:registry_gates"))],
                "gate": gate,
                "members": found[:SHOWN] if may else None,
                "total": len(found),
                "counts": counts,
                "known": instances_known(),
                "actions": _actions(request, gate),
            }
        )


def _actions(request: HttpRequest, gate: Gate) -> list[Action]:
    def button(label: Any, name: str, icon: str, state: str, tone: str = "") -> Action:
        why: Any = "" if request.user.has_perm(CHANGE) else NOT_ALLOWED
        if not why and gate.state != state:
            why = _("This gate is {state}.").format(state=gate.get_state_display())
        return Action(label, reverse(f"admin:registry_gate_{name}", args=[gate.pk]), icon, tone, why=why)

    if gate.closed_at is not None:
        return []
    if gate.state == Gate.State.ABANDONING:
        return [button(_("Close without proof"), "close", "close", Gate.State.ABANDONING, "danger")]
    return [
        button(_("Abandon"), "abandon", "undo", Gate.State.OPEN, "danger"),
        button(_("Promote"), "promote", "check", Gate.State.OPEN, "primary"),
    ]


class GateForm(ConsoleForm):
    """Who, to which cluster, and why."""

    cluster = forms.ChoiceField(label=gettext_lazy("Gated cluster"))
    instances = forms.MultipleChoiceField(
        required=False,
        label=gettext_lazy("Instances online, by address"),
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("All instances at an address are gated together."),
    )
    more = forms.CharField(
        required=False,
        max_length=2000,
        label=gettext_lazy("Further addresses"),
        help_text=gettext_lazy("Joined by commas; of instances that are not online yet."),
    )
    labels = forms.CharField(
        required=False,
        max_length=1000,
        label=gettext_lazy("Labels"),
        help_text=gettext_lazy("name=value, several joined by commas: instances of our SDK that have all of them, now or later."),
    )
    reason = forms.CharField(max_length=2000, label=gettext_lazy("Reason, kept in the audit"), widget=forms.Textarea(attrs={"rows": 3}))

    def __init__(self, *args: Any, places: list[tuple[str, str]], live: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cluster"].choices = [("", _("Choose")), *places]  # type: ignore[attr-defined]
        if live:
            self.fields["instances"].choices = live  # type: ignore[attr-defined]
        else:
            del self.fields["instances"]
            self.fields["more"].label, self.fields["more"].help_text = _("Addresses"), _("Joined by commas. No instance is online now.")

    def clean_labels(self) -> dict[str, str]:
        """As name and value."""
        pairs = [part.strip().partition("=") for part in self.cleaned_data["labels"].split(",") if part.strip()]
        if not all(name.strip() and value.strip() for name, _equals, value in pairs):
            raise forms.ValidationError(_("Write name=value, several joined by commas."))
        return {name.strip(): value.strip() for name, _equals, value in pairs}

    def attach_error(self, error: FieldError) -> bool:
        """An address is in one of two fields."""
        if error.pointer.startswith("/ips"):
            self.add_error("more" if self.cleaned_data.get("more") or "instances" not in self.fields else "instances", error.detail)
            return True
        return False


class AddGate(FormPage):
    """Open a gate for a topic or a group."""

    permission = ADD
    here = "gates"
    template_name = "registry/gate_form.html"
    form_class = GateForm
    submit_label = gettext_lazy("Open the gate")

    @cached_property
    def publication(self) -> Publication:
        """What the address asks for, within the person's reach."""
        asked = self.request.GET.get("path", "").replace("\x00", "")
        found = Publication.objects.restrict(self.request.user, ADD).live().filter(path=asked).first()
        if found is None or found.root not in gates.rooms:
            raise not_found(_("topic or consumer group"), asked)
        return found

    def check(self) -> None:
        """There is nothing to gate, or it is gated."""
        gates.check_none(self.publication.path)

    def form_arguments(self) -> dict[str, Any]:
        """Clusters, and live instances by address and name."""
        by_ip: dict[str, list[str]] = {}
        for row in online_instances(paths=[self.publication.path]):
            if row.ip:
                labels = ", ".join(f"{name}={value}" for name, value in (row.labels or {}).items())
                words = [row.app or _("plain ZMS client"), row.sdk, labels]
                by_ip.setdefault(row.ip, []).append(" ".join(word for word in words if word))
        live = [(ip, f"{ip} · {'; '.join(sorted(names)[:5])}") for ip, names in sorted(by_ip.items())]
        return {"places": gates.rooms[self.publication.root].places(), "live": live}

    def context(self) -> dict[str, Any]:
        """What is gated."""
        return {
            "title": _("Gate {path}").format(path=self.publication.path),
            "crumbs": [(_("Gated releases"), reverse("admin:registry_gates"))],
            "back": reverse("admin:registry_publication", args=[self.publication.pk]),
            "known": instances_known(),
        }

    def perform(self, form: GateForm) -> str:
        """Open it."""
        data = form.cleaned_data
        ips = [*data.get("instances", []), *(ip.strip() for ip in data["more"].split(",") if ip.strip())]
        made = gates.gate(
            actor=person(self.request),
            path=self.publication.path,
            cluster=data["cluster"],
            ips=ips,
            labels=data["labels"],
            reason=data["reason"],
        )
        return reverse("admin:registry_gate", args=[made.pk])

    def success(self, form: GateForm) -> Any:  # noqa: ARG002
        """What comes next."""
        return _("The gate is open; a registrar publishes it now.")


class GateAction(FormPage):
    """A page that ends a gate in one way."""

    permission = CHANGE
    here = "gates"
    template_name = "registry/gate_action.html"
    form_class: ClassVar[type[forms.BaseForm]] = ReasonForm
    state: ClassVar[str] = Gate.State.OPEN
    note: Any = ""
    said: Any = ""

    @cached_property
    def gate(self) -> Gate:
        """The gate of the address."""
        return get(Gate.objects.restrict(self.request.user, CHANGE).select_related("publication"), pk=self.kwargs["pk"])

    def check(self) -> None:
        """Refuse before a reason is written."""
        if self.gate.state != self.state:
            raise Problem("wrong_state", _("This gate is {state}.").format(state=self.gate.get_state_display()), status=409)

    def context(self) -> dict[str, Any]:
        """The gate, and who is in it."""
        back = reverse("admin:registry_gate", args=[self.gate.pk])
        return {
            "title": str(self.title).format(path=self.gate.path),
            "crumbs": [(_("Gated releases"), reverse("admin:registry_gates")), (str(self.gate), back)],
            "back": back,
            "gate": self.gate,
            "note": self.note,
            "members": gates.members(self.gate)[:SHOWN],
        }

    def perform(self, form: Any) -> str:
        """Run the verb, then show the gate."""
        self.run(form)
        return reverse("admin:registry_gate", args=[self.gate.pk])

    def run(self, form: Any) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return self.said


class PromoteForm(ReasonForm):
    """Why, and in spite of what."""

    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Promote in spite of warnings"),
        help_text=gettext_lazy("Otherwise you are told first what the cluster is too small for, or does not know."),
    )
    field_order = ["accept_warnings", "reason"]


class Promote(GateAction):
    """The gated cluster becomes that of everybody."""

    title = gettext_lazy("Promote the gate of {path}")
    form_class = PromoteForm
    submit_label = gettext_lazy("Promote")
    note = gettext_lazy("Everybody is told to use the gated cluster, as by a move.")
    said = gettext_lazy("Promoted; a registrar publishes it now.")

    def run(self, form: PromoteForm) -> None:
        """Promote."""
        fields = {name: form.cleaned_data[name] for name in ("reason", "accept_warnings")}
        gates.promote(actor=person(self.request), gate=self.gate, **fields)


class Abandon(GateAction):
    """Everybody goes back."""

    title = gettext_lazy("Abandon the gate of {path}")
    submit_label = gettext_lazy("Abandon")
    tone = "danger solid"
    note = gettext_lazy("The gate is taken out of the node at once. It stays here until all its instances are known to be back.")
    said = gettext_lazy("Abandoned; below is who is back.")

    def run(self, form: ReasonForm) -> None:
        """Abandon."""
        gates.abandon(actor=person(self.request), gate=self.gate, reason=form.cleaned_data["reason"])


class Close(GateAction):
    """A person answers for what cannot be proven."""

    title = gettext_lazy("Close the gate of {path} without proof")
    submit_label = gettext_lazy("Close")
    tone = "danger solid"
    state = Gate.State.ABANDONING
    note = gettext_lazy(
        "It is not proven that these instances are back on the main cluster. Make sure that they are, for example by restarting them."
    )
    said = gettext_lazy("Closed without proof.")

    def run(self, form: ReasonForm) -> None:
        """Close."""
        gates.close(actor=person(self.request), gate=self.gate, reason=form.cleaned_data["reason"])


urlpatterns = [
    path("gates/", Gates.as_view(), name="registry_gates"),
    path("gates/add/", AddGate.as_view(), name="registry_gate_add"),
    path("gates/<int:pk>/", GateDetail.as_view(), name="registry_gate"),
    path("gates/<int:pk>/promote/", Promote.as_view(), name="registry_gate_promote"),
    path("gates/<int:pk>/abandon/", Abandon.as_view(), name="registry_gate_abandon"),
    path("gates/<int:pk>/close/", Close.as_view(), name="registry_gate_close"),
]
