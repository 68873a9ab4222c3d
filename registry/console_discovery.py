"""Service registries in the console: services with who provides and uses them, applications, jobs, worker ids; who left, and how."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console import slots
from core.console.lists import Asked, Filter, ListPage, View
from core.console.pages import Page, get
from core.console.slots import Column
from registry import services
from registry.discovery_models import Departure, Registration, Service, WorkerId
from registry.discovery_querysets import RegistrationQuerySet, ServiceQuerySet

#: Of a service's page: who is registered, and what happened.
SHOWN = 100
_PAGES = {"dubbo": "services", "messages": "producers", "jobs": "jobs"}


def _rows(rows: Any) -> ServiceQuerySet:
    return cast("ServiceQuerySet", rows)


def _roots(layout: str) -> Any:
    def found(request: HttpRequest) -> list[tuple[str, str]]:
        roots = Service.objects.restrict(request.user).laid_out(layout).order_by("root").values_list("root", flat=True).distinct()
        names = list(roots[:50])
        return [(name, name) for name in names] if len(names) > 1 else []

    return found


def _apps_of(row: Any) -> str:
    return ", ".join(row.apps)


class _Services(ListPage[Service]):
    """What the lists of the three layouts share."""

    permission = "registry.view_service"
    model = Service
    layout: ClassVar[str]
    search_fields: ClassVar[Sequence[str]] = ("name", "leader")
    default_sort = "name"
    status = Column("status", gettext_lazy("Status"), sort=("online", "name"), value="online")
    since = Column("since", gettext_lazy("Since"), sort=("-online_since",), css="num", value="online_since")
    lost = Column(
        "lost",
        gettext_lazy("Lost"),
        css="num",
        title=gettext_lazy("Left without a goodbye within a day, and not back"),
        value="lost_count",
    )
    every = View("all", gettext_lazy("All"), lambda rows, _request: rows)
    offline = View("offline", gettext_lazy("Offline"), lambda rows, _request: rows.filter(online=False))
    deserted = View("deserted", gettext_lazy("Without a goodbye"), lambda rows, _request: rows.deserted(), tone="hot")

    def queryset(self) -> QuerySet[Service, Service]:
        """Of one layout."""
        return Service.objects.laid_out(self.layout)

    def annotated(self, queryset: QuerySet[Service, Service]) -> QuerySet[Service, Service]:
        """How many were lost lately."""
        lost = Registration.objects.lost_lately().filter(service=OuterRef("pk")).order_by().values("service").annotate(n=Count("pk"))
        return queryset.annotate(lost_count=Coalesce(Subquery(lost.values("n"), output_field=IntegerField()), Value(0)))

    def context(self) -> dict[str, Any]:
        """Whether what is shown can be relied on."""
        return {**services.registries_known(), "layout": self.layout}


class Services(_Services):
    """Dubbo services."""

    here = "services"
    title = gettext_lazy("Services")
    layout = "dubbo"
    template_name = "registry/services.html"
    columns = [
        _Services.status,
        Column("name", gettext_lazy("Service"), sort=("name",), value="name"),
        Column("providers", gettext_lazy("Providers"), sort=("-providers", "name"), css="num", value="providers"),
        Column("consumers", gettext_lazy("Consumers"), sort=("-consumers", "name"), css="num", value="consumers"),
        _Services.lost,
        _Services.since,
    ]
    search_fields = ("name",)
    views = [
        _Services.every,
        View("wanted", gettext_lazy("Used, not provided"), lambda rows, _request: rows.wanted(), tone="hot"),
        _Services.deserted,
        _Services.offline,
    ]
    filters = [Filter("root", gettext_lazy("Root"), _roots("dubbo"), lambda rows, value: rows.filter(root=value))]

    def annotated(self, queryset: QuerySet[Service, Service]) -> QuerySet[Service, Service]:
        """Without what only other layouts have."""
        return super().annotated(queryset).defer("details")


class Applications(_Services):
    """Producers and consumers of the registry of reliable messages."""

    here = "producers"
    title = gettext_lazy("Messaging apps")
    layout = "messages"
    template_name = "registry/registered_applications.html"
    columns = [
        _Services.status,
        Column("name", gettext_lazy("Application"), sort=("name", "role"), value="name"),
        Column("role", gettext_lazy("Role"), sort=("role", "name"), value="get_role_display"),
        Column("hosts", gettext_lazy("Hosts"), sort=("-providers", "name"), css="num", value="providers"),
        Column("group", gettext_lazy("Client group"), value="details.group"),
        Column("servers", gettext_lazy("Name servers"), css="hide-m", value="details.servers"),
        _Services.lost,
        _Services.since,
    ]
    search_fields = ("name",)
    views = [_Services.every, _Services.deserted, _Services.offline]
    filters = [
        Filter("role", gettext_lazy("Role"), lambda _request: Service.Role.choices, lambda rows, value: rows.filter(role=value)),
        Filter("root", gettext_lazy("Root"), _roots("messages"), lambda rows, value: rows.filter(root=value)),
    ]


class Jobs(_Services):
    """Sharded jobs and leader latches."""

    here = "jobs"
    title = gettext_lazy("Jobs and leaders")
    layout = "jobs"
    template_name = "registry/jobs.html"
    columns = [
        _Services.status,
        Column("name", gettext_lazy("Job"), sort=("name",), value="name"),
        Column("app", gettext_lazy("Application"), title=gettext_lazy("Whose instances or candidates are there now"), value=_apps_of),
        Column("leader", gettext_lazy("Leader"), sort=("leader", "name"), value="leader"),
        Column("instances", gettext_lazy("Instances"), sort=("-providers", "name"), css="num", value="providers"),
        Column("shards", gettext_lazy("Shards"), title=gettext_lazy("Running, of all")),
        Column("root", gettext_lazy("Namespace"), sort=("root", "name"), css="hide-m", value="root"),
        _Services.lost,
        _Services.since,
    ]
    views = [
        _Services.every,
        View("leaderless", gettext_lazy("Without a leader"), lambda rows, _request: rows.filter(online=True, leader=""), tone="warm"),
        _Services.deserted,
        _Services.offline,
    ]
    filters = [Filter("root", gettext_lazy("Namespace"), _roots("jobs"), lambda rows, value: rows.filter(root=value))]

    def annotated(self, queryset: QuerySet[Service, Service]) -> QuerySet[Service, Service]:
        """Whose each is."""
        return _rows(super().annotated(queryset)).with_apps()

    def decorate(self, rows: list[Service]) -> None:
        """The states of each one's shards."""
        for row in rows:
            row.states = Counter(shard["state"] for shard in row.details.get("shards", []))  # type: ignore[attr-defined]


class ServiceDetail(Page):
    """One service, application or job: who is registered, who left and how, its history."""

    permission = "registry.view_service"
    template_name = "registry/service.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The service."""
        row = get(Service.objects.restrict(request.user), pk=pk)
        members = Registration.objects.filter(service=row) if request.user.has_perm("registry.view_registration") else None
        page = _PAGES[row.layout]
        return self.show(
            {
                "title": row.name,
                "here": page,
                "crumbs": [(self.of(row), reverse(f"admin:registry_{page}"))],
                "service": row,
                "members": members and list(members.online().order_by("kind", "app", "address", "pk")[: SHOWN + 1]),
                "left": members and list(members.filter(online=False).order_by("-offline_at", "-pk")[:SHOWN]),
                "shown": SHOWN,
                "events": row.events.all()[:SHOWN],
                **services.registries_known(),
            }
        )

    def of(self, row: Service) -> Any:
        """The list that it stands in."""
        return {"dubbo": Services.title, "messages": Applications.title, "jobs": Jobs.title}[row.layout]


def _service(request: HttpRequest) -> list[tuple[str, str]]:
    """Chosen by a link from the service's page, not from a menu."""
    asked = request.GET.get("service", "")
    if not (asked.isascii() and asked.isdigit() and len(asked) < 19):
        return []
    return [(asked, name) for name in Service.objects.restrict(request.user).filter(pk=asked).values_list("name", flat=True)]


def _apps(request: HttpRequest) -> list[tuple[str, str]]:
    rows = Registration.objects.restrict(request.user).exclude(app="").order_by("app").values_list("app", flat=True)
    return [(app, app) for app in rows.distinct()[:200]]


def _of_service(rows: QuerySet[Registration, Registration], value: str) -> QuerySet[Registration, Registration]:
    return rows.filter(service=int(value)) if value.isascii() and value.isdigit() and len(value) < 19 else rows.none()


def _left(how: Departure) -> Any:
    return lambda rows, _request: rows.filter(online=False, departure=how)


class Registrations(ListPage[Registration]):
    """Who is registered with what, and who left how."""

    permission = "registry.view_registration"
    here = "registrations"
    title = gettext_lazy("Registrations")
    model = Registration
    template_name = "registry/registrations.html"
    columns = [
        Column("status", gettext_lazy("Status"), sort=("-online", "departure"), value="online"),
        Column("app", gettext_lazy("Application"), sort=("app", "address"), value="app"),
        Column("address", gettext_lazy("Address"), sort=("address",), value="address"),
        Column("kind", gettext_lazy("Role"), sort=("kind",), value="get_kind_display"),
        Column("service", gettext_lazy("Service"), sort=("service__name",), css="max", value="service.name"),
        Column("version", gettext_lazy("Version"), sort=("service_version",), css="hide-m", value="service_version"),
        Column("group", gettext_lazy("Service group"), sort=("service_group",), css="hide-m", value="service_group"),
        Column("sdk", gettext_lazy("SDK"), sort=("sdk",), css="hide-m", value="sdk"),
        Column("since", gettext_lazy("Since"), sort=("-online_since",), css="num", value="online_since"),
        Column("left", gettext_lazy("Left"), sort=("-offline_at",), css="num", value="offline_at"),
        Column("departure", gettext_lazy("How it left"), value="get_departure_display"),
    ]
    search_fields = ("app", "address", "service__name")
    default_sort = "app"
    views = [
        View("online", gettext_lazy("Online"), lambda rows, _request: rows.filter(online=True)),
        View("lost", gettext_lazy("Without a goodbye"), _left(Departure.LOST), tone="hot"),
        View("goodbye", gettext_lazy("Said goodbye"), _left(Departure.GOODBYE)),
        View("removed", gettext_lazy("Deleted by others"), _left(Departure.REMOVED), tone="warm"),
        View("unknown", gettext_lazy("Nobody can tell"), _left(Departure.UNKNOWN)),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]
    filters = [
        Filter("service", gettext_lazy("Service"), _service, _of_service),
        Filter("kind", gettext_lazy("Role"), lambda _request: Registration.Kind.choices, lambda rows, value: rows.filter(kind=value)),
        Filter("app", gettext_lazy("Application"), _apps, lambda rows, value: rows.filter(app=value)),
    ]

    def annotated(self, queryset: QuerySet[Registration, Registration]) -> QuerySet[Registration, Registration]:
        """With the service that each is registered with."""
        return queryset.select_related("service").defer("service__details")

    def context(self) -> dict[str, Any]:
        """Whether what is shown can be relied on."""
        return services.registries_known()

    def counts(self, asked: Asked[Registration]) -> dict[str, int]:
        """The views tell each registration apart by one column, so one look at all of them counts them."""
        everything = cast("RegistrationQuerySet", asked.everything)
        found = Counter(dict(everything.order_by().values_list("departure").annotate(n=Count("pk"))))
        of = {"online": found[""], "all": found.total(), **{how: found[how] for how in Departure.values}}
        total = asked.rows.order_by().count() if asked.narrowed or asked.view is None else of[asked.view.key]
        return {"": total, **{f"view:{key}": number for key, number in of.items()}}


class WorkerIds(ListPage[WorkerId]):
    """The numbers that hosts have for good."""

    permission = "registry.view_workerid"
    here = "worker-ids"
    title = gettext_lazy("Worker ids")
    model = WorkerId
    template_name = "registry/worker_ids.html"
    columns = [
        Column("number", gettext_lazy("Worker id"), sort=("number",), css="num", value="number"),
        Column("app", gettext_lazy("Application"), sort=("app", "host"), value="app"),
        Column("host", gettext_lazy("Host"), sort=("host", "app"), value="host"),
        Column("since", gettext_lazy("Since"), sort=("-since",), css="num", value="since"),
        Column("node", gettext_lazy("Node"), css="max hide-m", value="znode"),
    ]
    search_fields = ("app", "host")
    default_sort = "app"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
        View("doubled", gettext_lazy("Given twice"), lambda rows, _request: rows.doubled(), tone="hot"),
    ]

    def context(self) -> dict[str, Any]:
        """Whether what is shown can be relied on."""
        return services.registries_known()

    def decorate(self, rows: list[WorkerId]) -> None:
        """Which of them are given twice."""
        doubled = set(WorkerId.objects.doubled().filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
        for row in rows:
            row.is_doubled = row.pk in doubled  # type: ignore[attr-defined]


def _find(user: Any, words: str) -> list[slots.Hit]:
    """Services, applications and jobs by name."""
    if len(words) < 3 or not user.has_perm("registry.view_service"):
        return []
    found = Service.objects.restrict(user).filter(name__icontains=words).order_by("name", "pk").only("name", "layout", "role")[:5]
    return [slots.Hit("branch", row.name, _said(row), reverse("admin:registry_service", args=[row.pk])) for row in found]


def _said(row: Service) -> Any:
    words = {"dubbo": _("Service"), "jobs": _("Job")}
    return words.get(row.layout) or row.get_role_display()


slots.search(_find)

urlpatterns = [
    path("services/", Services.as_view(), name="registry_services"),
    path("services/<int:pk>/", ServiceDetail.as_view(), name="registry_service"),
    path("registered-applications/", Applications.as_view(), name="registry_producers"),
    path("jobs/", Jobs.as_view(), name="registry_jobs"),
    path("registrations/", Registrations.as_view(), name="registry_registrations"),
    path("worker-ids/", WorkerIds.as_view(), name="registry_worker_ids"),
]
