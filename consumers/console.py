"""Consumer groups in the console: the list, a group's page, and one page for each verb."""

from typing import Any, ClassVar

from django import forms
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application, User
from consumers import console_shadow, services
from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.approvals.services import require_state
from core.console import approving, slots
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import SLOT, Filter, ListPage, View
from core.console.pages import ConsoleForm, FormPage, OptionalReasonForm, Page, ReasonForm, TypedNameForm, get, person
from core.console.slots import Column
from core.errors import FieldError
from registry.console import instances_at, publication_of
from registry.services import instances_known, online_instances
from registry.status import statuses
from topics.models import Topic


def _owners(_request: HttpRequest) -> list[tuple[str, str]]:
    names = User.objects.filter(consumer_groups__isnull=False).distinct().order_by("username").values_list("username", flat=True)
    return [(name, name) for name in names[:200]]


def _applications(_request: HttpRequest) -> list[tuple[str, str]]:
    names = Application.objects.filter(consumer_groups__isnull=False).distinct().order_by("name").values_list("name", flat=True)
    return [(name, name) for name in names[:200]]


class Groups(ListPage[ConsumerGroup]):
    """All consumer groups."""

    permission = "consumers.view_consumergroup"
    here = "groups"
    title = gettext_lazy("Consumer groups")
    model = ConsumerGroup
    template_name = "consumers/list.html"
    slot = "groups"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",)),
        Column("status", gettext_lazy("Status"), sort=("state", "suspended", "name")),
        Column("topics", gettext_lazy("Topics")),
        Column("application", gettext_lazy("Application"), sort=("application__name", "name"), css="hide-m"),
        Column("owner", gettext_lazy("Owner"), sort=("owner__username", "name"), css="hide-m"),
        SLOT,
        Column(
            "generation",
            gettext_lazy("Generation"),
            title=gettext_lazy("Published generation, and how many of the online instances have applied it"),
        ),
        Column("changed", gettext_lazy("Changed"), sort=("changed_at", "name"), css="num"),
    ]
    search_fields = ("name", "owner__username", "application__name", "subscriptions__topic__name")
    default_sort = "name"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows.exclude(state=State.RETIRED)),
        View(
            "mine",
            gettext_lazy("Mine"),
            lambda rows, request: rows.exclude(state=State.RETIRED).filter(Q(owner=request.user.pk) | Q(requested_by=request.user.pk)),
        ),
        View("pending", gettext_lazy("To approve"), lambda rows, _request: rows.filter(state=State.PENDING), tone="warm"),
        View("suspended", gettext_lazy("Suspended"), lambda rows, _request: rows.filter(state=State.ACTIVE, suspended=True), tone="warm"),
        View("rejected", gettext_lazy("Rejected"), lambda rows, _request: rows.filter(state=State.REJECTED)),
        View("retired", gettext_lazy("Retired"), lambda rows, _request: rows.filter(state=State.RETIRED)),
    ]
    filters = [
        Filter("status", gettext_lazy("Status"), lambda _request: State.choices, lambda rows, value: rows.filter(state=value)),
        Filter("application", gettext_lazy("Application"), _applications, lambda rows, value: rows.filter(application__name=value)),
        Filter("owner", gettext_lazy("Owner"), _owners, lambda rows, value: rows.filter(owner__username=value)),
    ]

    def _searched(self, rows: QuerySet[ConsumerGroup, ConsumerGroup], words: str) -> QuerySet[ConsumerGroup, ConsumerGroup]:
        # A group with two topics that match is still one row.
        return ConsumerGroup.objects.filter(pk__in=super()._searched(rows, words).order_by().values("pk")) if words else rows

    def annotated(self, queryset: QuerySet[ConsumerGroup, ConsumerGroup]) -> QuerySet[ConsumerGroup, ConsumerGroup]:
        """Joins, and the topics by one more statement."""
        return queryset.select_related("application", "owner").prefetch_related("subscriptions__topic")

    def decorate(self, rows: list[ConsumerGroup]) -> None:
        """The publication of each, in one statement."""
        published = statuses([row.zookeeper_path for row in rows])
        for row in rows:
            row.publication = published.get(row.zookeeper_path)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may apply."""
        why = "" if self.request.user.has_perm("consumers.add_consumergroup") else NOT_ALLOWED
        return {
            "apply": Action(_("Apply for a group"), reverse("admin:consumers_apply"), "plus", "primary", why=why),
            "active_topics": Topic.objects.filter(state=State.ACTIVE).exists(),
        }


def load(name: str) -> ConsumerGroup:
    """A group by name, with what its head shows."""
    return get(
        ConsumerGroup.objects.select_related("application", "owner", "requested_by", "decided_by").prefetch_related(
            "subscriptions__topic__cluster"
        ),
        name=name,
    )


def frame(request: HttpRequest, group: ConsumerGroup, tab: str) -> dict[str, Any]:
    """Head, facts, buttons and tabs of a group's pages; other rooms' tabs use it as well, with the template console/thing.html."""
    user = person(request)

    def url(page: str) -> str:
        return reverse(f"admin:consumers_{page}", args=[group.name])

    actions = approving.decisions(request, group, room="consumers", model="consumergroup", app="consumers")
    if group.state == State.ACTIVE:
        why = approving.why_not(user, "consumers.suspend_consumergroup", group, [State.ACTIVE])
        switch = (
            Action(_("Resume"), url("resume"), "play", "primary", why=why)
            if group.suspended
            else Action(_("Suspend"), url("suspend"), "pause", why=why)
        )
        why = approving.why_not(user, "consumers.retire_consumergroup", group, [State.ACTIVE])
        actions = [switch, Action(_("Retire"), url("retire"), "stop", "danger", why=why)]
    publication = publication_of(group.zookeeper_path) if user.has_perm("registry.view_publication") else None
    tabs: list[dict[str, Any]] = [{"label": _("Overview"), "url": url("detail"), "key": "overview"}, *slots.tabs_of("group", group, user)]
    if user.has_perm("registry.view_instance"):
        online = len(online_instances(paths=[group.zookeeper_path]))
        tabs.append({"label": _("Instances"), "url": url("instances"), "key": "instances", "badge": online})
    if user.has_perm("registry.view_publication"):
        waiting = publication is not None and not publication.is_published
        tabs.append(
            {"label": _("Publication"), "url": url("publication"), "key": "publication", "badge": 1 if waiting else None, "tone": "warm"}
        )
    if user.has_perm("audit.view_auditentry"):
        tabs.append({"label": _("Audit"), "url": url("audit"), "key": "audit"})
    return {
        "title": group.name,
        "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list"))],
        "group": group,
        "thing": group,
        "actions": actions,
        "publication": publication,
        "tabs": tabs,
        "tab": tab,
        "head_template": "consumers/_facts.html",
    }


class Detail(Page):
    """A group's page; its tabs are pages of the same view."""

    permission = "consumers.view_consumergroup"
    here = "groups"
    tab: ClassVar[str] = "overview"

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show the tab."""
        group = load(name)
        context = frame(request, group, self.tab)
        context |= getattr(self, f"_{self.tab}")(request, group)
        return self.show(context, template=f"consumers/{self.tab}.html")

    def _overview(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        decided = group.state in {State.ACTIVE, State.RETIRED}
        return {
            "panels": slots.panels_of("group", request, group) if decided else [],
            "shadows": group.shadow_tasks.select_related("application", "topic", "group")
            if request.user.has_perm("consumers.view_shadowtask")
            else [],
        }

    def _instances(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "registry.view_instance")
        return {"instances": instances_at(group.zookeeper_path)[:500], "known": instances_known()}

    def _publication(self, request: HttpRequest, _group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "registry.view_publication")
        return {}

    def _audit(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "audit.view_auditentry")
        return {"entries": approving.history("consumer group", group.name)}


def _need(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


class SubscriptionForm(ConsoleForm):
    """A topic with its tag expression; whether they can be used is the service's to say."""

    topic = forms.CharField(max_length=200, required=False, label=gettext_lazy("Topic"))
    tags = forms.CharField(max_length=500, required=False, label=gettext_lazy("Tags"), initial="*")

    def __init__(self, *args: Any, topics: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        asked = self.data.get(self.add_prefix("topic")) or self.initial.get("topic")
        names = [*topics, asked] if asked and asked not in topics else topics
        self.fields["topic"].widget = forms.Select(choices=[("", "—"), *((name, name) for name in names)])


class GroupForm(forms.ModelForm[ConsumerGroup]):
    """What is applied for, with a row for each topic; names, limits and states are checked by the service."""

    use_required_attribute = False

    class Meta:
        model = ConsumerGroup
        fields = ["application", "owner", "consume_from", "max_attempts", "backoff_ms", "backoff_max_ms", "reason"]
        widgets = {"reason": forms.Textarea(attrs={"rows": 4})}

    def __init__(self, data: Any = None, *args: Any, subscriptions: list[dict[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(data, *args, **{"label_suffix": "", **kwargs})
        self.fields["application"].queryset = approving.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = approving.people()  # type: ignore[attr-defined]
        initial = subscriptions or []
        rows: Any = forms.formset_factory(SubscriptionForm, extra=0 if initial else 1, can_delete=True, max_num=50, absolute_max=60)
        names = list(Topic.objects.filter(state=State.ACTIVE).order_by("name").values_list("name", flat=True))
        self.rows = rows(data, prefix="subscriptions", initial=initial, form_kwargs={"topics": names})

    def _post_clean(self) -> None:
        """The service checks the model; two judges would say two things."""

    def is_valid(self) -> bool:
        """Both parts."""
        both = [super().is_valid(), self.rows.is_valid()]
        return all(both)

    def _filled(self) -> list[SubscriptionForm]:
        return [row for row in self.rows.forms if row.cleaned_data.get("topic") and not row.cleaned_data.get("DELETE")]

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """The subscriptions as the service takes them."""
        return [(row.cleaned_data["topic"], row.cleaned_data["tags"] or "*") for row in self._filled()]

    def attach_error(self, error: FieldError) -> bool:
        """An error of a row belongs to that row, one of the whole list above them."""
        parts = error.pointer.strip("/").split("/")
        if parts[0] != "subscriptions":
            return False
        filled = self._filled()
        if len(parts) == 3 and parts[1].isdigit() and int(parts[1]) < len(filled) and parts[2] in filled[int(parts[1])].fields:
            filled[int(parts[1])].add_error(parts[2], error.detail)
        else:
            self.rows_error = error.detail
        return True


class ApplyForm(GroupForm):
    """With the name, which cannot be changed later."""

    name = forms.CharField(
        max_length=200,
        label=gettext_lazy("Name"),
        help_text=gettext_lazy("Letters, digits and _ . % -, at most 120. It cannot be changed."),
    )


class Apply(FormPage):
    """Apply for a consumer group."""

    permission = "consumers.add_consumergroup"
    here = "groups"
    title = gettext_lazy("Apply for a consumer group")
    template_name = "consumers/apply.html"
    form_class = ApplyForm
    submit_label = gettext_lazy("Apply")

    def initial(self) -> dict[str, Any]:
        """The person who applies owns it, unless they say otherwise."""
        return {"owner": self.request.user.pk}

    def form_arguments(self) -> dict[str, Any]:
        """From a topic's page the topic is filled in."""
        name = self.request.GET.get("topic", "").replace("\x00", "")[:120]
        return {"subscriptions": [{"topic": name, "tags": "*"}]} if name else {}

    def context(self) -> dict[str, Any]:
        """Where to go from here."""
        return {
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list"))],
            "back": reverse("admin:consumers_list"),
            "no_applications": not Application.objects.exists(),
            "no_topics": not Topic.objects.filter(state=State.ACTIVE).exists(),
            "may_add_application": self.request.user.has_perm("accounts.add_application"),
        }

    def perform(self, form: ApplyForm) -> str:
        """Apply."""
        group = services.apply(actor=person(self.request), subscriptions=form.wanted, **form.cleaned_data)
        return reverse("admin:consumers_detail", args=[group.name])

    def success(self, form: ApplyForm) -> Any:
        """What comes next."""
        return _("Applied for {name}. Another person approves it.").format(name=form.cleaned_data["name"])


class GroupAction(FormPage):
    """A page that does one thing with one group."""

    here = "groups"
    template_name = "consumers/action.html"
    states: ClassVar[list[State]] = [State.ACTIVE]
    said: Any = ""
    note: Any = ""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._group: ConsumerGroup | None = None

    @property
    def group(self) -> ConsumerGroup:
        """The group of the address."""
        if self._group is None:
            self._group = load(self.kwargs["name"])
        return self._group

    def check(self) -> None:
        """Refuse before anything is filled in if the state does not allow it."""
        require_state(thing=self.group, allowed=tuple(self.states), what=type(self).__name__.lower())

    def context(self) -> dict[str, Any]:
        """The group beside the form."""
        back = reverse("admin:consumers_detail", args=[self.group.name])
        return {
            "title": str(self.title).format(name=self.group.name),
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list")), (self.group.name, back)],
            "back": back,
            "group": self.group,
            "note": self.note,
        }

    def perform(self, form: Any) -> str:
        """Run the verb, then show the group."""
        self.run(form)
        return reverse("admin:consumers_detail", args=[self.group.name])

    def run(self, form: Any) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return str(self.said).format(name=self.group.name)


class Edit(GroupAction):
    """Edit a request that is not decided, or was rejected."""

    permission = "consumers.add_consumergroup"
    title = gettext_lazy("Edit {name}")
    template_name = "consumers/edit.html"
    form_class = GroupForm
    submit_label = gettext_lazy("Save")
    states = [State.PENDING, State.REJECTED]
    said = gettext_lazy("{name} is changed.")

    def form_arguments(self) -> dict[str, Any]:
        """Begin with what was applied for; a copy, so that a refused edit leaves the page's facts alone."""
        group = load(self.kwargs["name"])
        return {"instance": group, "subscriptions": [{"topic": row.topic.name, "tags": row.tags} for row in group.subscriptions.all()]}

    def run(self, form: GroupForm) -> None:
        """Store it."""
        services.edit(actor=person(self.request), group=self.group, changes=form.cleaned_data, subscriptions=form.wanted)


class Resubmit(GroupAction):
    """Send a rejected request again."""

    permission = "consumers.add_consumergroup"
    title = gettext_lazy("Send {name} again")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Send again")
    states = [State.REJECTED]
    said = gettext_lazy("{name} waits for approval again.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Back to pending."""
        services.resubmit(actor=person(self.request), group=self.group)


class Approve(GroupAction):
    """Approve."""

    permission = "consumers.approve_consumergroup"
    title = gettext_lazy("Approve {name}")
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Approve and publish")
    states = [State.PENDING]
    said = gettext_lazy("{name} is approved; a registrar publishes it now.")

    def run(self, form: OptionalReasonForm) -> None:
        """Approve."""
        services.approve(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Reject(GroupAction):
    """Reject with a reason."""

    permission = "consumers.approve_consumergroup"
    title = gettext_lazy("Reject {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Reject")
    tone = "danger solid"
    states = [State.PENDING]
    said = gettext_lazy("{name} is rejected; the person who applied can edit it and send it again.")

    def run(self, form: ReasonForm) -> None:
        """Reject."""
        services.reject(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Suspend(GroupAction):
    """Hand out nothing more."""

    permission = "consumers.suspend_consumergroup"
    title = gettext_lazy("Suspend {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Suspend")
    said = gettext_lazy("{name} is suspended; it gets no more messages.")
    note = gettext_lazy(
        "It gets no more messages until it is resumed. What its workers have in hand can still be acknowledged; new messages wait."
    )

    def run(self, form: ReasonForm) -> None:
        """Suspend."""
        services.suspend(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Resume(GroupAction):
    """Go on."""

    permission = "consumers.suspend_consumergroup"
    title = gettext_lazy("Resume {name}")
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Resume")
    said = gettext_lazy("{name} goes on where it stopped.")
    note = gettext_lazy("It goes on where it stopped; everything that waited meanwhile is handed out.")

    def run(self, form: OptionalReasonForm) -> None:
        """Resume."""
        services.resume(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Retire(GroupAction):
    """Retire: by typing the name, after a list of who still uses it."""

    permission = "consumers.retire_consumergroup"
    title = gettext_lazy("Retire {name}")
    template_name = "consumers/retire.html"
    form_class = TypedNameForm
    submit_label = gettext_lazy("Retire")
    tone = "danger solid"
    said = gettext_lazy("{name} is retired; its node goes from ZooKeeper.")

    def form_arguments(self) -> dict[str, Any]:
        """The name to type."""
        return {"expected": self.group.name}

    def context(self) -> dict[str, Any]:
        """What is alive on it."""
        return {
            **super().context(),
            "confirm_name": self.group.name,
            "instances": instances_at(self.group.zookeeper_path).filter(online=True)[:200],
            "known": instances_known(),
            "shadows": list(self.group.shadow_tasks.filter(enabled=True).select_related("application", "group")),
        }

    def run(self, form: TypedNameForm) -> None:
        """Retire."""
        services.retire(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


def _find(user: Any, words: str) -> list[slots.Hit]:
    if not user.has_perm("consumers.view_consumergroup"):
        return []
    rows = ConsumerGroup.objects.filter(name__icontains=words).order_by("state", "name").values_list("name", "state")[:7]
    return [slots.Hit("group", name, State(state).label, reverse("admin:consumers_detail", args=[name])) for name, state in rows]


def _cells(rows: Any) -> dict[int, list[int]]:
    on_cluster = ConsumerGroup.objects.filter(state=State.ACTIVE, subscriptions__topic__cluster__in=[row.pk for row in rows]).order_by()
    found = dict(on_cluster.values_list("subscriptions__topic__cluster").annotate(n=Count("pk", distinct=True)))
    return {row.pk: [found.get(row.pk, 0)] for row in rows}


slots.search(_find)
slots.columns("clusters", [Column("groups", gettext_lazy("Groups"), css="num")], _cells)

urlpatterns = [
    path("groups/", Groups.as_view(), name="consumers_list"),
    path("groups/apply/", Apply.as_view(), name="consumers_apply"),
    path("groups/<str:name>/", Detail.as_view(), name="consumers_detail"),
    *[path(f"groups/<str:name>/{tab}/", Detail.as_view(tab=tab), name=f"consumers_{tab}") for tab in ("instances", "publication", "audit")],
    path("groups/<str:name>/edit/", Edit.as_view(), name="consumers_edit"),
    path("groups/<str:name>/resubmit/", Resubmit.as_view(), name="consumers_resubmit"),
    path("groups/<str:name>/approve/", Approve.as_view(), name="consumers_approve"),
    path("groups/<str:name>/reject/", Reject.as_view(), name="consumers_reject"),
    path("groups/<str:name>/suspend/", Suspend.as_view(), name="consumers_suspend"),
    path("groups/<str:name>/resume/", Resume.as_view(), name="consumers_resume"),
    path("groups/<str:name>/retire/", Retire.as_view(), name="consumers_retire"),
    *console_shadow.urlpatterns,
]
