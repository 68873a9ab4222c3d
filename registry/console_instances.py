"""Instances in the console: who is online, which generation each runs, how long it took, and what is known of each."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.lists import Asked, Filter, ListPage, View
from core.console.pages import Page, get
from core.console.slots import Column
from registry import services
from registry.models import Instance, Publication
from registry.observing import KEEP_EVENTS

if TYPE_CHECKING:
    from registry.querysets import InstanceQuerySet


def _since(row: Instance) -> Any:
    return row.online_since if row.online else row.offline_at


def _latency(row: Any) -> Any:
    return "" if row.latency is None else row.latency.total_seconds()


def _counts(row: Any) -> str:
    return ", ".join(f"{name}={number}" for name, number in (row.counts or {}).items())


def _options(field: str) -> Callable[[HttpRequest], list[tuple[str, str]]]:
    """The values that there are, for a filter."""

    def found(request: HttpRequest) -> list[tuple[str, str]]:
        values = Instance.objects.restrict(request.user).exclude(**{field: ""}).order_by(field).values_list(field, flat=True)
        return [(value, value) for value in values.distinct()[:200]]

    return found


class Instances(ListPage[Instance]):
    """Who is online, and what each has applied."""

    permission = "registry.view_instance"
    here = "instances"
    title = gettext_lazy("Instances")
    model = Instance
    template_name = "registry/instances.html"
    columns = [
        Column("applied", gettext_lazy("Status"), sort=("-online", "applied"), value="applied"),
        Column("app", gettext_lazy("Application"), sort=("app", "node"), value="app"),
        Column("ip", gettext_lazy("Address"), sort=("ip",), value="ip"),
        Column("role", gettext_lazy("Role"), sort=("role",), css="hide-m", value="get_role_display"),
        Column("sdk", gettext_lazy("SDK"), sort=("sdk",), css="hide-m", value="sdk"),
        Column("path", gettext_lazy("Follows"), sort=("path",), value="path"),
        Column(
            "generation",
            gettext_lazy("Generation"),
            sort=("applied_generation",),
            css="num",
            title=gettext_lazy("Applied, and published if it differs"),
            value="applied_generation",
        ),
        Column(
            "latency",
            gettext_lazy("Latency"),
            sort=("-latency",),
            css="num hide-m",
            title=gettext_lazy("From the publication until it was seen to run it, by the clock of the database"),
            value=_latency,
        ),
        Column("since", gettext_lazy("Since"), sort=("-online_since",), css="num", value=_since),
        Column(
            "error",
            gettext_lazy("Error, or counts"),
            css="max",
            title=gettext_lazy("Why it could not apply a change; otherwise what it counts of its work since it started"),
            value=lambda row: row.error or _counts(row),
        ),
    ]
    search_fields = ("app", "ip", "sdk", "path", "node")
    default_sort = "applied"
    views = [
        View("online", gettext_lazy("Online"), lambda rows, _request: rows.filter(online=True)),
        View("outdated", gettext_lazy("Outdated"), lambda rows, _request: rows.outdated(), tone="warm"),
        View("unknown", gettext_lazy("Unknown"), lambda rows, _request: rows.silent()),
        View("offline", gettext_lazy("Offline"), lambda rows, _request: rows.filter(online=False)),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]
    filters = [
        Filter("role", gettext_lazy("Role"), lambda _request: Instance.Role.choices, lambda rows, value: rows.filter(role=value)),
        Filter("source", gettext_lazy("Known from"), lambda _request: Instance.Source.choices, lambda rows, value: rows.known_by(value)),
        Filter("app", gettext_lazy("Application"), _options("app"), lambda rows, value: rows.filter(app=value)),
        Filter("state", gettext_lazy("State"), _options("state"), lambda rows, value: rows.filter(state=value)),
        Filter("sdk", gettext_lazy("SDK"), _options("sdk"), lambda rows, value: rows.filter(sdk=value)),
    ]

    def annotated(self, queryset: QuerySet[Instance, Instance]) -> QuerySet[Instance, Instance]:
        """With what each has applied; the views tell it without a join of all rows."""
        return cast("InstanceQuerySet", queryset).with_applied()

    def counts(self, asked: Asked[Instance]) -> dict[str, int]:
        """What each has applied tells all views apart, so one look at each instance counts them."""
        rows = cast("InstanceQuerySet", asked.everything).with_applied().order_by()
        found: Counter[str] = Counter(dict(rows.values_list("applied").annotate(n=Count("pk"))))  # type: ignore[misc]  # annotated
        of = {
            "all": found.total(),
            "online": found.total() - found["offline"],
            **{key: found[key] for key in ("outdated", "unknown", "offline")},
        }
        total = asked.rows.order_by().count() if asked.narrowed or asked.view is None else of[asked.view.key]
        return {"": total, **{f"view:{key}": number for key, number in of.items()}}

    def context(self) -> dict[str, Any]:
        """Whether what is shown can be relied on, and the publications to link to."""
        return {"known": services.instances_known()}

    def decorate(self, rows: list[Instance]) -> None:
        """The publication that each follows, in one statement."""
        ids = dict(Publication.objects.restrict(self.request.user).filter(path__in={row.path for row in rows}).values_list("path", "pk"))
        for row in rows:
            row.publication_pk = ids.get(row.path)  # type: ignore[attr-defined]


class InstanceDetail(Page):
    """One instance: what it says of itself, and its history."""

    permission = "registry.view_instance"
    here = "instances"
    template_name = "registry/instance.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The instance."""
        row = get(Instance.objects.restrict(request.user).with_applied(), pk=pk)
        followed = Publication.objects.restrict(request.user).filter(path=row.path).first()
        return self.show(
            {
                "title": row.app or row.ip or row.node,
                "crumbs": [(_("Instances"), reverse("admin:registry_instances"))],
                "instance": row,
                "publication": followed,
                "events": row.events.all()[:KEEP_EVENTS],
                "known": services.instances_known(),
            }
        )


urlpatterns = [
    path("instances/", Instances.as_view(), name="registry_instances"),
    path("instances/<int:pk>/", InstanceDetail.as_view(), name="registry_instance"),
]
