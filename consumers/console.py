"""Consumer groups in the console: the list and a group's page; what can be done with it is in console_verbs."""

from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from consumers import console_imports, console_shadow
from consumers import console_requests as asks
from consumers import console_verbs as verbs
from consumers.models import ConsumerGroup, Subscription
from core.approvals.models import State
from core.console import approving, slots
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import SLOT, Filter, ListPage, View, names_in
from core.console.pages import Page, person
from core.console.slots import Column
from core.scope import restricted
from registry.console import followers, publication_of
from registry.console_gates import action as gate_action
from registry.console_releases import releases_of
from registry.services import online_instances
from registry.status import statuses
from topics.console_draining import of_group as draining_of_group
from topics.models import Topic

if TYPE_CHECKING:
    from consumers.querysets import GroupQuerySet


def _owners(request: HttpRequest) -> list[tuple[str, str]]:
    return names_in(ConsumerGroup.objects.restrict(request.user), "owner", "username")


def _applications(request: HttpRequest) -> list[tuple[str, str]]:
    return names_in(ConsumerGroup.objects.restrict(request.user), "application", "name")


def _status(group: ConsumerGroup) -> str:
    return _("Suspended") if group.suspended and group.state == State.ACTIVE else str(group.get_state_display())


def _topics(group: ConsumerGroup) -> str:
    return "; ".join(row.topic.name if row.tags == "*" else f"{row.topic.name} [{row.tags}]" for row in group.subscriptions.all())


class Groups(ListPage[ConsumerGroup]):
    """All consumer groups."""

    permission = "consumers.view_consumergroup"
    here = "groups"
    title = gettext_lazy("Consumer groups")
    model = ConsumerGroup
    template_name = "consumers/list.html"
    slot = "groups"
    bulk = "consumer-groups"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",), value="name"),
        Column("status", gettext_lazy("Status"), sort=("state", "suspended", "name"), value=_status),
        Column("topics", gettext_lazy("Topics"), value=_topics),
        Column("application", gettext_lazy("Application"), sort=("application__name", "name"), css="hide-m", value="application.name"),
        Column("owner", gettext_lazy("Owner"), sort=("owner__username", "name"), css="hide-m", value="owner.username"),
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
        View("suspended", gettext_lazy("Suspended"), lambda rows, _request: rows.filter(state=State.ACTIVE, suspended=True), tone="warm"),
        View("rejected", gettext_lazy("Rejected"), lambda rows, _request: rows.filter(state=State.REJECTED)),
        View("retired", gettext_lazy("Retired"), lambda rows, _request: rows.filter(state=State.RETIRED)),
    ]
    filters = [
        Filter("status", gettext_lazy("Status"), lambda _request: State.choices, lambda rows, value: rows.filter(state=value)),
        Filter("application", gettext_lazy("Application"), _applications, lambda rows, value: rows.filter(application__name=value)),
        Filter("owner", gettext_lazy("Owner"), _owners, lambda rows, value: rows.filter(owner__username=value)),
    ]

    def contains(self, word: str) -> Q:
        """Also in the name of one of its topics."""
        return super().contains(word) | Q(pk__in=Subscription.objects.filter(topic__name__icontains=word).order_by().values("group"))

    def annotated(self, queryset: QuerySet[ConsumerGroup, ConsumerGroup]) -> QuerySet[ConsumerGroup, ConsumerGroup]:
        """Joins, and the topics by one more statement."""
        return cast("GroupQuerySet", queryset).with_topics().select_related("application", "owner")

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
        change = approving.ask(user, _("Ask for a change"), url("ask_change"), "consumers.add_consumergroup", group)
        retire = approving.retire(user, group, room="consumers", ask="consumers.add_consumergroup", why=why)
        actions = [change, switch, gate_action(user, group.zookeeper_path), retire]
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
    if user.has_perm("registry.view_release"):
        tabs.append({"label": _("Releases"), "url": url("releases"), "key": "releases"})
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
        group = verbs.load(name, request.user)
        context = frame(request, group, self.tab)
        context |= getattr(self, f"_{self.tab}")(request, group)
        return self.show(context, template=f"consumers/{self.tab}.html")

    def _overview(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        decided = group.state in {State.ACTIVE, State.RETIRED}
        return {
            "panels": slots.panels_of("group", request, group) if decided else [],
            "shadows": restricted(
                group.shadow_tasks.select_related("application", "topic", "group"), request.user, "consumers.view_shadowtask"
            )
            if request.user.has_perm("consumers.view_shadowtask")
            else [],
        }

    def _instances(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "registry.view_instance")
        panels = slots.panels_of("group.instances", request, group)
        return {**followers(request.user, group.zookeeper_path), "panels": panels}

    def _publication(self, request: HttpRequest, _group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "registry.view_publication")
        return {}

    def _releases(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "registry.view_release")
        return {"releases": releases_of(request.user, group.zookeeper_path)}

    def _audit(self, request: HttpRequest, group: ConsumerGroup) -> dict[str, Any]:
        _need(request, "audit.view_auditentry")
        return {"entries": approving.history("consumer group", group.name)}


def _need(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


def _find(user: Any, words: str) -> list[slots.Hit]:
    if not user.has_perm("consumers.view_consumergroup"):
        return []
    rows = ConsumerGroup.objects.restrict(user).filter(name__icontains=words).order_by("state", "name").values_list("name", "state")[:7]
    return [slots.Hit("group", name, State(state).label, reverse("admin:consumers_detail", args=[name])) for name, state in rows]


def _cells(rows: Any) -> dict[int, list[int]]:
    on_cluster = ConsumerGroup.objects.filter(state=State.ACTIVE, subscriptions__topic__cluster__in=[row.pk for row in rows]).order_by()
    found = dict(on_cluster.values_list("subscriptions__topic__cluster").annotate(n=Count("pk", distinct=True)))
    return {row.pk: [found.get(row.pk, 0)] for row in rows}


slots.search(_find)
slots.panel("group", draining_of_group)
slots.columns("clusters", [Column("groups", gettext_lazy("Groups"), css="num")], _cells)

urlpatterns = [
    path("groups/", Groups.as_view(), name="consumers_list"),
    path("groups/apply/", verbs.Apply.as_view(), name="consumers_apply"),
    path("groups/<str:name>/", Detail.as_view(), name="consumers_detail"),
    *[
        path(f"groups/<str:name>/{tab}/", Detail.as_view(tab=tab), name=f"consumers_{tab}")
        for tab in ("instances", "publication", "releases", "audit")
    ],
    path("groups/<str:name>/edit/", verbs.Edit.as_view(), name="consumers_edit"),
    path("groups/<str:name>/resubmit/", verbs.Resubmit.as_view(), name="consumers_resubmit"),
    path("groups/<str:name>/approve/", verbs.Approve.as_view(), name="consumers_approve"),
    path("groups/<str:name>/reject/", verbs.Reject.as_view(), name="consumers_reject"),
    path("groups/<str:name>/ask-change/", asks.Change.as_view(), name="consumers_ask_change"),
    path("groups/<str:name>/ask-retirement/", asks.Retire.as_view(), name="consumers_ask_retire"),
    path("groups/<str:name>/suspend/", verbs.Suspend.as_view(), name="consumers_suspend"),
    path("groups/<str:name>/resume/", verbs.Resume.as_view(), name="consumers_resume"),
    path("groups/<str:name>/push-secret/", verbs.RenewSecret.as_view(), name="consumers_push_secret"),
    path("groups/<str:name>/retire/", verbs.Retire.as_view(), name="consumers_retire"),
    *console_shadow.urlpatterns,
    *console_imports.urlpatterns,
]
