"""Topics in the console: the list, a topic's page, and one page for each verb."""

from typing import Any, ClassVar

from django import forms
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application, User
from clusters.models import Cluster
from core.approvals.models import State
from core.console import approving, slots
from core.console.actions import Action
from core.console.lists import SLOT, Filter, ListPage, View
from core.console.pages import ConsoleForm, FormPage, OptionalReasonForm, Page, ReasonForm, TypedNameForm, get, person
from core.console.slots import Column
from registry.console import instances_at, publication_of
from registry.services import instances_known, online_instances
from registry.status import statuses
from topics import services
from topics.models import Topic

LIVE = [State.PENDING, State.REJECTED, State.ACTIVE]


def _clusters(_request: HttpRequest) -> list[tuple[str, str]]:
    return [(name, name) for name in Cluster.objects.values_list("name", flat=True)[:200]]


def _owners(_request: HttpRequest) -> list[tuple[str, str]]:
    names = User.objects.filter(topics__isnull=False).distinct().order_by("username").values_list("username", flat=True)
    return [(name, name) for name in names[:200]]


class Topics(ListPage[Topic]):
    """All topics."""

    permission = "topics.view_topic"
    here = "topics"
    title = gettext_lazy("Topics")
    model = Topic
    template_name = "topics/list.html"
    slot = "topics"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",)),
        Column("status", gettext_lazy("Status"), sort=("state", "name")),
        Column("cluster", gettext_lazy("Cluster"), sort=("cluster__name", "name")),
        Column("application", gettext_lazy("Application"), sort=("application__name", "name"), css="hide-m"),
        Column("owner", gettext_lazy("Owner"), sort=("owner__username", "name"), css="hide-m"),
        Column("rate", gettext_lazy("Expected /s"), sort=("expected_rate", "name"), css="num hide-s"),
        Column("groups", gettext_lazy("Groups"), sort=("groups_count", "name"), css="num"),
        SLOT,
        Column(
            "generation",
            gettext_lazy("Generation"),
            title=gettext_lazy("Published generation, and how many of the online instances have applied it"),
        ),
        Column("changed", gettext_lazy("Changed"), sort=("changed_at", "name"), css="num"),
    ]
    search_fields = ("name", "owner__username", "application__name")
    default_sort = "name"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows.exclude(state=State.RETIRED)),
        View(
            "mine",
            gettext_lazy("Mine"),
            lambda rows, request: rows.exclude(state=State.RETIRED).filter(Q(owner=request.user.pk) | Q(requested_by=request.user.pk)),
        ),
        View("pending", gettext_lazy("To approve"), lambda rows, _request: rows.filter(state=State.PENDING), tone="warm"),
        View("rejected", gettext_lazy("Rejected"), lambda rows, _request: rows.filter(state=State.REJECTED)),
        View("retired", gettext_lazy("Retired"), lambda rows, _request: rows.filter(state=State.RETIRED)),
    ]
    filters = [
        Filter("status", gettext_lazy("Status"), lambda _request: State.choices, lambda rows, value: rows.filter(state=value)),
        Filter("cluster", gettext_lazy("Cluster"), _clusters, lambda rows, value: rows.filter(cluster__name=value)),
        Filter("owner", gettext_lazy("Owner"), _owners, lambda rows, value: rows.filter(owner__username=value)),
    ]

    def annotated(self, queryset: QuerySet[Topic, Topic]) -> QuerySet[Topic, Topic]:
        """Joins, and the number of groups bound."""
        bound = Count("subscriptions", filter=~Q(subscriptions__group__state=State.RETIRED))
        return queryset.select_related("application", "owner", "cluster").annotate(groups_count=bound)

    def decorate(self, rows: list[Topic]) -> None:
        """The publication of each, in one statement."""
        published = statuses([row.zookeeper_path for row in rows])
        for row in rows:
            row.publication = published.get(row.zookeeper_path)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may apply."""
        return {"apply": apply_action(self.request), "applications_exist": Application.objects.exists()}


def apply_action(request: HttpRequest) -> Action:
    """The button for a new topic."""
    why = "" if request.user.has_perm("topics.add_topic") else _("You do not have the permission for this.")
    return Action(_("Apply for a topic"), reverse("admin:topics_apply"), "plus", "primary", why=why)


def load(name: str) -> Topic:
    """A topic by name, with what its head shows."""
    return get(Topic.objects.select_related("application", "owner", "cluster", "requested_by", "decided_by"), name=name)


def frame(request: HttpRequest, topic: Topic, tab: str) -> dict[str, Any]:
    """Head, facts, buttons and tabs of a topic's pages; other rooms' tabs use it as well, with the template console/_thing_head.html."""
    user = person(request)
    actions = approving.decisions(request, topic, room="topics", model="topic", app="topics")
    if topic.state == State.ACTIVE:
        why_retire = approving.why_not(user, "topics.retire_topic", topic, [State.ACTIVE])
        actions = [
            Action(
                _("Move"),
                reverse("admin:topics_move", args=[topic.name]),
                "migrate",
                why=approving.why_not(user, "topics.move_topic", topic, [State.ACTIVE]),
            ),
            Action(_("Retire"), reverse("admin:topics_retire", args=[topic.name]), "stop", "danger", why=why_retire),
        ]
    publication = publication_of(topic.zookeeper_path) if user.has_perm("registry.view_publication") else None

    def url(page: str) -> str:
        return reverse(f"admin:topics_{page}", args=[topic.name])

    bound = topic.subscriptions.exclude(group__state=State.RETIRED).count()
    tabs: list[dict[str, Any]] = [
        {"label": _("Overview"), "url": url("detail"), "key": "overview"},
        *slots.tabs_of("topic", topic, user),
        {"label": _("Groups"), "url": url("groups"), "key": "groups", "badge": bound},
    ]
    if user.has_perm("registry.view_instance"):
        tabs.append(
            {
                "label": _("Instances"),
                "url": url("instances"),
                "key": "instances",
                "badge": len(online_instances(paths=[topic.zookeeper_path])),
            }
        )
    if user.has_perm("registry.view_publication"):
        waiting = publication is not None and not publication.is_published
        tabs.append(
            {"label": _("Publication"), "url": url("publication"), "key": "publication", "badge": 1 if waiting else None, "tone": "warm"}
        )
    if user.has_perm("audit.view_auditentry"):
        tabs.append({"label": _("Audit"), "url": url("audit"), "key": "audit"})
    return {
        "title": topic.name,
        "crumbs": [(_("Topics"), reverse("admin:topics_list"))],
        "topic": topic,
        "thing": topic,
        "actions": actions,
        "publication": publication,
        "tabs": tabs,
        "tab": tab,
        "head_template": "topics/_facts.html",
    }


class Detail(Page):
    """A topic's page; its tabs are pages of the same view."""

    permission = "topics.view_topic"
    here = "topics"
    tab: ClassVar[str] = "overview"

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show the tab."""
        topic = load(name)
        context = frame(request, topic, self.tab)
        context |= getattr(self, f"_{self.tab}")(request, topic)
        return self.show(context, template=f"topics/{self.tab}.html")

    def _overview(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        panels = slots.panels_of("topic", request, topic) if topic.state in {State.ACTIVE, State.RETIRED} else []
        return {"panels": panels, **self._groups(request, topic)}

    def _groups(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        rows = list(
            topic.subscriptions.select_related("group__application", "group__owner")
            .exclude(group__state=State.RETIRED)
            .order_by("group__name")[:500]
        )
        groups = [row.group for row in rows]
        for row in rows:
            row.group.tags = row.tags  # type: ignore[attr-defined]
        slots.fill("topic.groups", groups)
        return {
            "groups": groups,
            "extra_columns": slots.columns_of("topic.groups"),
            "may_see_groups": request.user.has_perm("consumers.view_consumergroup"),
        }

    def _instances(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        _need(request, "registry.view_instance")
        return {"instances": instances_at(topic.zookeeper_path)[:500], "known": instances_known()}

    def _publication(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:  # noqa: ARG002
        _need(request, "registry.view_publication")
        return {}

    def _audit(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        _need(request, "audit.view_auditentry")
        return {"entries": approving.history("topic", topic.name)}


def _need(request: HttpRequest, permission: str) -> None:
    from django.core.exceptions import PermissionDenied

    if not request.user.has_perm(permission):
        raise PermissionDenied


class RequestForm(forms.ModelForm[Topic]):
    """What is applied for; names, limits and states are checked by the service."""

    use_required_attribute = False

    class Meta:
        model = Topic
        fields = ["application", "owner", "expected_rate", "message_bytes", "partitions", "ordered", "reason"]
        widgets = {"reason": forms.Textarea(attrs={"rows": 4})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        self.fields["application"].queryset = approving.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = approving.people()  # type: ignore[attr-defined]

    def _post_clean(self) -> None:
        """The service checks the model; two judges would say two things."""


class ApplyForm(RequestForm):
    """With the name, which cannot be changed later."""

    # Not the model's field: a wrong name is the service's to refuse, with its hint.
    name = forms.CharField(
        max_length=200,
        label=gettext_lazy("Name"),
        help_text=gettext_lazy("Letters, digits and _ . % -, at most 120. It cannot be changed."),
    )
    field_order = ["name"]


class Apply(FormPage):
    """Apply for a topic."""

    permission = "topics.add_topic"
    here = "topics"
    title = gettext_lazy("Apply for a topic")
    template_name = "topics/apply.html"
    form_class = ApplyForm
    submit_label = gettext_lazy("Apply")

    def initial(self) -> dict[str, Any]:
        """The person who applies owns it, unless they say otherwise."""
        return {"owner": self.request.user.pk, "expected_rate": 100, "message_bytes": 1000}

    def context(self) -> dict[str, Any]:
        """Where to go from here."""
        return {
            "crumbs": [(_("Topics"), reverse("admin:topics_list"))],
            "back": reverse("admin:topics_list"),
            "no_applications": not Application.objects.exists(),
            "may_add_application": self.request.user.has_perm("accounts.add_application"),
        }

    def perform(self, form: ApplyForm) -> str:
        """Apply."""
        topic = services.apply(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:topics_detail", args=[topic.name])

    def success(self, form: ApplyForm) -> Any:
        """What comes next."""
        return _("Applied for {name}. Another person approves it and allocates a cluster.").format(name=form.cleaned_data["name"])


class TopicAction(FormPage):
    """A page that does one thing with one topic."""

    here = "topics"
    template_name = "topics/action.html"
    states: ClassVar[list[State]] = [State.ACTIVE]
    said: Any = ""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._topic: Topic | None = None

    @property
    def topic(self) -> Topic:
        """The topic of the address."""
        if self._topic is None:
            self._topic = load(self.kwargs["name"])
        return self._topic

    def check(self) -> None:
        """Refuse before anything is filled in if the state does not allow it."""
        from core.approvals.services import require_state

        require_state(thing=self.topic, allowed=tuple(self.states), what=type(self).__name__.lower())

    def context(self) -> dict[str, Any]:
        """The topic beside the form."""
        return {
            "title": str(self.title).format(name=self.topic.name),
            "crumbs": [
                (_("Topics"), reverse("admin:topics_list")),
                (self.topic.name, reverse("admin:topics_detail", args=[self.topic.name])),
            ],
            "back": reverse("admin:topics_detail", args=[self.topic.name]),
            "topic": self.topic,
        }

    def perform(self, form: Any) -> str:
        """Run the verb, then show the topic."""
        self.run(form)
        return reverse("admin:topics_detail", args=[self.topic.name])

    def run(self, form: Any) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return str(self.said).format(name=self.topic.name)


class Edit(TopicAction):
    """Edit a request that is not decided, or was rejected."""

    permission = "topics.add_topic"
    title = gettext_lazy("Edit {name}")
    template_name = "topics/edit.html"
    form_class = RequestForm
    submit_label = gettext_lazy("Save")
    states = [State.PENDING, State.REJECTED]
    said = gettext_lazy("{name} is changed.")

    def form_arguments(self) -> dict[str, Any]:
        """Begin with what was applied for; a copy, so that a refused edit leaves the page's facts alone."""
        return {"instance": load(self.kwargs["name"])}

    def run(self, form: RequestForm) -> None:
        """Store it."""
        services.edit(actor=person(self.request), topic=self.topic, changes=form.cleaned_data)


class Resubmit(TopicAction):
    """Send a rejected request again."""

    permission = "topics.add_topic"
    title = gettext_lazy("Send {name} again")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Send again")
    states = [State.REJECTED]
    said = gettext_lazy("{name} waits for approval again.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Back to pending."""
        services.resubmit(actor=person(self.request), topic=self.topic)


class ClusterChoice(forms.ModelChoiceField[Cluster]):
    """Clusters with their kind."""

    def label_from_instance(self, obj: Any) -> str:
        """Name and kind."""
        return f"{obj.name} · {obj.get_kind_display()}"


class AllocateForm(OptionalReasonForm):
    """Where the topic goes, and a remark."""

    cluster = ClusterChoice(
        queryset=Cluster.objects.order_by("name"),
        label=gettext_lazy("Cluster"),
        help_text=gettext_lazy("SDKs connect there; it can be changed later."),
    )
    field_order = ["cluster", "reason"]


class Approve(TopicAction):
    """Approve and allocate."""

    permission = "topics.approve_topic"
    title = gettext_lazy("Approve {name}")
    form_class = AllocateForm
    submit_label = gettext_lazy("Approve and publish")
    states = [State.PENDING]
    said = gettext_lazy("{name} is approved; a registrar publishes it now.")

    def initial(self) -> dict[str, Any]:
        """The built-in store, unless the topic wants an order, which it cannot keep."""
        fit = Cluster.objects.exclude(kind="builtin") if self.topic.ordered else Cluster.objects.order_by("-kind")
        builtin = Cluster.objects.filter(kind="builtin").first() if not self.topic.ordered else None
        return {"cluster": builtin or fit.first()}

    def run(self, form: AllocateForm) -> None:
        """Approve."""
        services.approve(
            actor=person(self.request), topic=self.topic, cluster=form.cleaned_data["cluster"], reason=form.cleaned_data["reason"]
        )


class Reject(TopicAction):
    """Reject with a reason."""

    permission = "topics.approve_topic"
    title = gettext_lazy("Reject {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Reject")
    tone = "danger solid"
    states = [State.PENDING]
    said = gettext_lazy("{name} is rejected; the person who applied can edit it and send it again.")

    def run(self, form: ReasonForm) -> None:
        """Reject."""
        services.reject(actor=person(self.request), topic=self.topic, reason=form.cleaned_data["reason"])


def _others(topic: Topic) -> QuerySet[Cluster, Cluster]:
    return Cluster.objects.exclude(topics=topic).order_by("name")


class MoveForm(ReasonForm):
    """Another cluster, and why."""

    cluster = ClusterChoice(queryset=Cluster.objects.order_by("name"), label=gettext_lazy("To the cluster"))
    field_order = ["cluster", "reason"]

    def __init__(self, *args: Any, topic: Topic, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cluster"].queryset = _others(topic)  # type: ignore[attr-defined]


class Move(TopicAction):
    """Assign it to another cluster."""

    permission = "topics.move_topic"
    title = gettext_lazy("Move {name}")
    template_name = "topics/move.html"
    form_class = MoveForm
    submit_label = gettext_lazy("Move")
    said = gettext_lazy("{name} is assigned to the other cluster; SDKs rebuild their clients when they see it.")

    def form_arguments(self) -> dict[str, Any]:
        """Not to where it is."""
        return {"topic": self.topic}

    def context(self) -> dict[str, Any]:
        """Who will notice."""
        return {
            **super().context(),
            "publication": publication_of(self.topic.zookeeper_path),
            "groups": [
                row.group
                for row in self.topic.subscriptions.select_related("group")
                .exclude(group__state=State.RETIRED)
                .order_by("group__name")[:200]
            ],
            "other_clusters": _others(self.topic).exists(),
        }

    def run(self, form: MoveForm) -> None:
        """Move."""
        services.move(
            actor=person(self.request), topic=self.topic, cluster=form.cleaned_data["cluster"], reason=form.cleaned_data["reason"]
        )


class Retire(TopicAction):
    """Retire: by typing the name, after a list of who still uses it."""

    permission = "topics.retire_topic"
    title = gettext_lazy("Retire {name}")
    template_name = "topics/retire.html"
    form_class = TypedNameForm
    submit_label = gettext_lazy("Retire")
    tone = "danger solid"
    said = gettext_lazy("{name} is retired; its node goes from ZooKeeper.")

    def form_arguments(self) -> dict[str, Any]:
        """The name to type."""
        return {"expected": self.topic.name}

    def context(self) -> dict[str, Any]:
        """What is alive on it."""
        return {
            **super().context(),
            "confirm_name": self.topic.name,
            "instances": instances_at(self.topic.zookeeper_path).filter(online=True)[:200],
            "known": instances_known(),
            "groups": [
                row.group
                for row in self.topic.subscriptions.select_related("group")
                .exclude(group__state=State.RETIRED)
                .order_by("group__name")[:200]
            ],
        }

    def run(self, form: TypedNameForm) -> None:
        """Retire."""
        services.retire(actor=person(self.request), topic=self.topic, reason=form.cleaned_data["reason"])


def _find(user: Any, words: str) -> list[slots.Hit]:
    if not user.has_perm("topics.view_topic"):
        return []
    rows = Topic.objects.filter(name__icontains=words).order_by("state", "name").values_list("name", "state")[:7]
    return [slots.Hit("topic", name, State(state).label, reverse("admin:topics_detail", args=[name])) for name, state in rows]


def _cells(rows: Any) -> dict[int, list[int]]:
    counted = (
        Topic.objects.filter(cluster__in=[row.pk for row in rows], state=State.ACTIVE)
        .order_by()
        .values_list("cluster")
        .annotate(n=Count("pk"))
    )
    found = dict(counted)
    return {row.pk: [found.get(row.pk, 0)] for row in rows}


slots.search(_find)
slots.columns("clusters", [Column("topics", gettext_lazy("Topics"), css="num")], _cells)

urlpatterns = [
    path("topics/", Topics.as_view(), name="topics_list"),
    path("topics/apply/", Apply.as_view(), name="topics_apply"),
    path("topics/<str:name>/", Detail.as_view(), name="topics_detail"),
    *[
        path(f"topics/<str:name>/{tab}/", Detail.as_view(tab=tab), name=f"topics_{tab}")
        for tab in ("groups", "instances", "publication", "audit")
    ],
    path("topics/<str:name>/edit/", Edit.as_view(), name="topics_edit"),
    path("topics/<str:name>/resubmit/", Resubmit.as_view(), name="topics_resubmit"),
    path("topics/<str:name>/approve/", Approve.as_view(), name="topics_approve"),
    path("topics/<str:name>/reject/", Reject.as_view(), name="topics_reject"),
    path("topics/<str:name>/move/", Move.as_view(), name="topics_move"),
    path("topics/<str:name>/retire/", Retire.as_view(), name="topics_retire"),
]
