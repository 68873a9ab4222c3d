"""Topics in the console: the list and a topic's page; what can be done with it is in console_verbs."""

from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application
from clusters.models import Cluster
from core.approvals.models import State
from core.console import approving, slots
from core.console.actions import Action
from core.console.lists import SLOT, Filter, ListPage, View, names_in
from core.console.pages import Page, person
from core.console.slots import Column
from core.scope import restricted
from registry.console import followers, publication_of
from registry.console_gates import action as gate_action
from registry.console_releases import releases_of
from registry.services import online_instances
from registry.status import statuses
from topics import console_draining, console_fleet
from topics import console_requests as asks
from topics import console_verbs as verbs
from topics.models import Topic

LIVE = [State.PENDING, State.REJECTED, State.ACTIVE]


def _clusters(_request: HttpRequest) -> list[tuple[str, str]]:
    return [(name, name) for name in Cluster.objects.values_list("name", flat=True)[:200]]


def _drained(_request: HttpRequest) -> list[tuple[str, str]]:
    names = Cluster.objects.filter(draining__isnull=False).order_by("name").values_list("name", flat=True).distinct()
    return [(name, name) for name in names[:200]]


def _owners(request: HttpRequest) -> list[tuple[str, str]]:
    return names_in(Topic.objects.restrict(request.user), "owner", "username")


class Topics(ListPage[Topic]):
    """All topics."""

    permission = "topics.view_topic"
    here = "topics"
    title = gettext_lazy("Topics")
    model = Topic
    template_name = "topics/list.html"
    slot = "topics"
    bulk = "topics"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",), value="name"),
        Column("status", gettext_lazy("Status"), sort=("state", "name"), value="get_state_display"),
        Column("cluster", gettext_lazy("Cluster"), sort=("cluster__name", "name"), value="cluster.name"),
        Column("application", gettext_lazy("Application"), sort=("application__name", "name"), css="hide-m", value="application.name"),
        Column("owner", gettext_lazy("Owner"), sort=("owner__username", "name"), css="hide-m", value="owner.username"),
        Column("rate", gettext_lazy("Expected /s"), sort=("expected_rate", "name"), css="num hide-s", value="expected_rate"),
        Column("groups", gettext_lazy("Groups"), sort=("groups_count", "name"), css="num", value="groups_count"),
        SLOT,
        Column(
            "generation",
            gettext_lazy("Generation"),
            title=gettext_lazy("Published generation, and how many of the online instances have applied it"),
            value="publication.published_generation",
        ),
        Column("changed", gettext_lazy("Changed"), sort=("changed_at", "name"), css="num", value="changed_at"),
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
        Filter("draining", gettext_lazy("Being drained from"), _drained, lambda rows, value: rows.filter(draining__cluster__name=value)),
        Filter("owner", gettext_lazy("Owner"), _owners, lambda rows, value: rows.filter(owner__username=value)),
    ]

    def annotated(self, queryset: QuerySet[Topic, Topic]) -> QuerySet[Topic, Topic]:
        """Joins, and the number of groups bound."""
        subscriptions = Topic.subscriptions.rel.related_model._default_manager.exclude(group__state=State.RETIRED)  # noqa: SLF001 - Django's public API
        # Counted for the rows that are shown; a join would count for all ten thousand first.
        bound = subscriptions.filter(topic=OuterRef("pk")).order_by().values("topic").annotate(n=Count("pk")).values("n")
        return queryset.select_related("application", "owner", "cluster").annotate(groups_count=Coalesce(Subquery(bound), 0))

    def decorate(self, rows: list[Topic]) -> None:
        """The publication of each, in one statement."""
        published = statuses([row.zookeeper_path for row in rows])
        for row in rows:
            row.publication = published.get(row.zookeeper_path)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may apply."""
        return {
            "apply": apply_action(self.request),
            "applications_exist": Application.objects.restrict(self.request.user, "topics.add_topic").exists(),
        }


def apply_action(request: HttpRequest) -> Action:
    """The button for a new topic."""
    why = "" if request.user.has_perm("topics.add_topic") else _("You do not have the permission for this.")
    return Action(_("Apply for a topic"), reverse("admin:topics_apply"), "plus", "primary", why=why)


def frame(request: HttpRequest, topic: Topic, tab: str) -> dict[str, Any]:
    """Head, facts, buttons and tabs of a topic's pages; other rooms' tabs use it as well, with the template console/_thing_head.html."""
    user = person(request)
    actions = approving.decisions(request, topic, room="topics", model="topic", app="topics")
    if topic.state == State.ACTIVE:
        why_retire = approving.why_not(user, "topics.retire_topic", topic, [State.ACTIVE])
        actions = [
            approving.ask(user, _("Ask for a change"), reverse("admin:topics_ask_change", args=[topic.name]), "topics.add_topic", topic),
            Action(
                _("Move"),
                reverse("admin:topics_move", args=[topic.name]),
                "migrate",
                why=approving.why_not(user, "topics.move_topic", topic, [State.ACTIVE]),
            ),
            gate_action(user, topic.zookeeper_path),
            approving.retire(user, topic, room="topics", ask="topics.add_topic", why=why_retire),
        ]
    publication = publication_of(topic.zookeeper_path) if user.has_perm("registry.view_publication") else None

    def url(page: str) -> str:
        return reverse(f"admin:topics_{page}", args=[topic.name])

    groups = restricted(topic.subscriptions.all(), user, "consumers.view_consumergroup", "group__application")
    bound = groups.exclude(group__state=State.RETIRED).count()
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
    if user.has_perm("registry.view_release"):
        tabs.append({"label": _("Releases"), "url": url("releases"), "key": "releases"})
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
        topic = verbs.load(name, request.user)
        context = frame(request, topic, self.tab)
        context |= getattr(self, f"_{self.tab}")(request, topic)
        return self.show(context, template=f"topics/{self.tab}.html")

    def _overview(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        panels = slots.panels_of("topic", request, topic) if topic.state in {State.ACTIVE, State.RETIRED} else []
        return {"panels": panels, **self._groups(request, topic)}

    def _groups(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        bound = restricted(topic.subscriptions.all(), request.user, "consumers.view_consumergroup", "group__application")
        rows = list(
            bound.select_related("group__application", "group__owner").exclude(group__state=State.RETIRED).order_by("group__name")[:500]
        )
        groups = [row.group for row in rows]
        for row in rows:
            row.group.tags = row.tags
        slots.fill("topic.groups", groups)
        return {
            "groups": groups,
            "extra_columns": slots.columns_of("topic.groups"),
            "may_see_groups": request.user.has_perm("consumers.view_consumergroup"),
        }

    def _instances(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        _need(request, "registry.view_instance")
        return followers(request.user, topic.zookeeper_path)

    def _publication(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:  # noqa: ARG002
        _need(request, "registry.view_publication")
        return {}

    def _releases(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        _need(request, "registry.view_release")
        return {"releases": releases_of(request.user, topic.zookeeper_path)}

    def _audit(self, request: HttpRequest, topic: Topic) -> dict[str, Any]:
        _need(request, "audit.view_auditentry")
        return {"entries": approving.history("topic", topic.name)}


def _need(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


def _find(user: Any, words: str) -> list[slots.Hit]:
    if not user.has_perm("topics.view_topic"):
        return []
    rows = Topic.objects.restrict(user).filter(name__icontains=words).order_by("state", "name").values_list("name", "state")[:7]
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
    *console_fleet.urlpatterns,
    *console_draining.urlpatterns,
    path("topics/", Topics.as_view(), name="topics_list"),
    path("topics/apply/", verbs.Apply.as_view(), name="topics_apply"),
    path("topics/<str:name>/", Detail.as_view(), name="topics_detail"),
    *[
        path(f"topics/<str:name>/{tab}/", Detail.as_view(tab=tab), name=f"topics_{tab}")
        for tab in ("groups", "instances", "publication", "releases", "audit")
    ],
    path("topics/<str:name>/edit/", verbs.Edit.as_view(), name="topics_edit"),
    path("topics/<str:name>/resubmit/", verbs.Resubmit.as_view(), name="topics_resubmit"),
    path("topics/<str:name>/approve/", verbs.Approve.as_view(), name="topics_approve"),
    path("topics/<str:name>/reject/", verbs.Reject.as_view(), name="topics_reject"),
    path("topics/<str:name>/ask-change/", asks.Change.as_view(), name="topics_ask_change"),
    path("topics/<str:name>/ask-retirement/", asks.Retire.as_view(), name="topics_ask_retire"),
    path("topics/<str:name>/move/", verbs.Move.as_view(), name="topics_move"),
    path("topics/<str:name>/retire/", verbs.Retire.as_view(), name="topics_retire"),
]
