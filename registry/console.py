"""Publications and instances in the console: machine state, read-only; a publication can be tried again at once."""

from typing import Any

from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.audit.services import record
from core.console import slots
from core.console.actions import NOT_ALLOWED
from core.console.lists import ListPage, View
from core.console.pages import Page, get, person
from core.console.slots import Column
from mqadmin_sdk.zk import properties
from registry import (
    console_discovery,
    console_drift,
    console_gates,
    console_instances,
    console_releases,
    console_tree,
    convergence,
    counting,
    rendering,
    services,
)
from registry.models import Drift, Instance, Publication


def decoded(data: bytes, kind: str) -> list[dict[str, Any]]:
    """The keys and values of a node, in its order; `own` marks those that mqadmin adds. Bytes that are neither stay one raw line."""
    return [
        {"key": key, "value": value, "own": key.startswith(properties.OWN_PREFIX)} for key, value in rendering.pairs_of(kind, data).items()
    ]


def publication_of(zookeeper_path: str) -> Publication | None:
    """The publication of a topic, group or cluster with its applied counts and decoded node; None while it was never published."""
    found = Publication.objects.with_applied_counts().filter(path=zookeeper_path).first()
    if found is not None:
        found.pairs = decoded(bytes(found.data), found.format)  # type: ignore[attr-defined]
    return found


def instances_at(zookeeper_path: str) -> QuerySet[Instance, Instance]:
    """Who follows a path, those that are not all right first."""
    return Instance.objects.at([zookeeper_path]).with_applied().order_by("-online", "applied", "app", "node")  # type: ignore[misc]


def followers(user: Any, zookeeper_path: str) -> dict[str, Any]:
    """How far the newest change of a path is and who follows it, for a page; `change` is None while nothing was published there."""
    row = Publication.objects.filter(path=zookeeper_path).exclude(generation=0).only("generation").first()
    return {
        "change": row and convergence.look(zookeeper_path, row.generation),
        "instances": instances_at(zookeeper_path)[:500] if user.has_perm("registry.view_instance") else None,
        "known": services.instances_known(),
        "counted": counting.summed(Instance.objects.at([zookeeper_path])) if user.has_perm("registry.view_instance") else None,
    }


def _applied(row: Any) -> str:
    return f"{row.applied_count}/{row.online_count}" if row.online_count else ""


class Publications(ListPage[Publication]):
    """What should stand in ZooKeeper, and whether it does."""

    permission = "registry.view_publication"
    here = "publications"
    title = gettext_lazy("Publications")
    model = Publication
    template_name = "registry/publications.html"
    columns = [
        Column("path", gettext_lazy("Path"), sort=("path",), value="path"),
        Column("state", gettext_lazy("State"), sort=("published_generation", "path"), value="state"),
        Column(
            "generation",
            gettext_lazy("Generation"),
            sort=("generation",),
            css="num",
            title=gettext_lazy("Published, and wanted if it differs"),
            value="published_generation",
        ),
        Column("applied", gettext_lazy("Applied"), value=_applied),
        Column("published", gettext_lazy("Published"), sort=("published_at",), css="num", value="published_at"),
        Column("by", gettext_lazy("By"), css="hide-m", value="published_by"),
        Column("foreign", gettext_lazy("Edited by others"), sort=("last_foreign_edit_at",), value="get_last_foreign_edit_display"),
        Column("error", gettext_lazy("Last error"), css="max", value="last_error"),
    ]
    search_fields = ("path", "last_error", "published_by")
    default_sort = "path"
    views = [
        View("live", gettext_lazy("All"), lambda rows, _request: rows.live()),
        View("waiting", gettext_lazy("Not out yet"), lambda rows, _request: rows.dirty(), tone="warm"),
        View("failing", gettext_lazy("Failing"), lambda rows, _request: rows.failing(), tone="hot"),
        View("drift", gettext_lazy("Drift"), lambda rows, _request: rows.filter(drifted_at__isnull=False), tone="hot"),
        View("retired", gettext_lazy("Retired"), lambda rows, _request: rows.filter(deleted=True)),
    ]

    def annotated(self, queryset: QuerySet[Publication, Publication]) -> QuerySet[Publication, Publication]:
        """Applied counts, only for the rows shown."""
        return queryset.with_applied_counts().defer("data")  # type: ignore[attr-defined,no-any-return]


class PublicationDetail(Page):
    """One node: what it should hold, who has it, what went wrong."""

    permission = "registry.view_publication"
    here = "publications"
    template_name = "registry/publication.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The node, its recipients, and the retry."""
        row = publication_of(get(Publication.objects.restrict(request.user), pk=pk).path)
        assert row is not None  # the line before found it
        return self.show(
            {
                "title": row.path,
                "crumbs": [(_("Publications"), reverse("admin:registry_publications"))],
                "publication": row,
                **followers(request.user, row.path),
                "dependants": Publication.objects.restrict(request.user).depending_on(row.path).live().order_by("path")[:50],
                "retry_why": _retry_why(request, row),
                "releases": console_releases.releases_of(request.user, row.path),
                "drifts": _drifts(request, row.path),
            }
        )

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Let the registrars try it at once."""
        if not request.user.has_perm("registry.change_publication"):
            raise PermissionDenied
        row = get(Publication.objects.restrict(request.user, "change"), pk=pk)
        with transaction.atomic():
            tried = services.retry(paths=[row.path])
            if tried:
                record(actor=person(request), action="try again", kind="publication", name=row.path)
        if tried:
            flash.info(request, _("The registrars try it now."))
        else:
            flash.info(request, _("Nothing to do: the node holds the last generation."))
        return HttpResponseRedirect(reverse("admin:registry_publication", args=[pk]))


def _drifts(request: HttpRequest, zookeeper_path: str) -> list[Drift] | None:
    """The last edits by others, without their bytes; None for those who may not see them."""
    if not request.user.has_perm("registry.view_drift"):
        return None
    return list(Drift.objects.filter(path=zookeeper_path).select_related("decided_by").defer("data", "wanted")[:20])


def _retry_why(request: HttpRequest, row: Publication) -> Any:
    if not request.user.has_perm("registry.change_publication"):
        return NOT_ALLOWED
    if row.is_held:
        return _("An edit by others waits for a person; decide on it first.")
    return "" if row.state in {"pending", "failing", "drifted"} else _("The node holds the last generation.")


def _find(user: Any, words: str) -> list[slots.Hit]:
    hits = []
    if user.has_perm("registry.view_publication") and words.startswith("/"):
        rows = Publication.objects.restrict(user).filter(path__icontains=words).order_by("path").values_list("pk", "path")[:5]
        hits += [slots.Hit("tree", name, _("Publication"), reverse("admin:registry_publication", args=[pk])) for pk, name in rows]
    if user.has_perm("registry.view_instance"):
        found = Instance.objects.restrict(user).online().filter(Q(ip__icontains=words) | Q(app__icontains=words))
        apps = found.exclude(app="").order_by("app").values_list("app", flat=True).distinct()[:3]
        hits += [slots.Hit("instance", app, _("Instances"), f"{reverse('admin:registry_instances')}?app={app}") for app in apps]
    return hits


slots.search(_find)

urlpatterns = [
    *console_drift.urlpatterns,
    *console_tree.urlpatterns,
    path("publications/", Publications.as_view(), name="registry_publications"),
    path("publications/<int:pk>/", PublicationDetail.as_view(), name="registry_publication"),
    *console_instances.urlpatterns,
    *console_releases.urlpatterns,
    *console_gates.urlpatterns,
    *console_discovery.urlpatterns,
]
