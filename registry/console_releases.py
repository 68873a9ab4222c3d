"""Releases in the console: the list, and one with what it changed."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage
from core.console.pages import FormPage, Page, ReasonForm, get, person
from core.console.slots import Column
from core.errors import Problem
from registry import releases, rollbacks
from registry.models import Release

PERMISSION = "registry.view_release"
ROLLBACK = "registry.rollback_release"
SHOWN = 50
PERIODS = {
    "hour": (gettext_lazy("The last hour"), timedelta(hours=1)),
    "day": (gettext_lazy("The last 24 hours"), timedelta(days=1)),
    "week": (gettext_lazy("The last 7 days"), timedelta(days=7)),
    "month": (gettext_lazy("The last 30 days"), timedelta(days=30)),
}


def releases_of(user: Any, zookeeper_path: str) -> list[Release] | None:
    """The last releases of a path for a panel; None for whoever may not see releases."""
    if not user.has_perm(PERMISSION):
        return None
    return list(Release.objects.restrict(user, PERMISSION).of(zookeeper_path).listed()[:SHOWN])


def _authors(request: HttpRequest) -> list[tuple[str, str]]:
    """Whoever released something lately."""
    lately = Release.objects.restrict(request.user, PERMISSION).order_by("-pk").values_list("author_name", flat=True)[:1000]
    return [(name, name) for name in sorted(set(lately))]


def _none(_request: HttpRequest) -> list[tuple[str, str]]:
    """Chosen by a link (all of this node), not from a menu."""
    return []


def _period(rows: QuerySet[Release, Release], value: str) -> QuerySet[Release, Release]:
    return rows.filter(created_at__gte=timezone.now() - PERIODS[value][1]) if value in PERIODS else rows.none()


def _change(rows: QuerySet[Release, Release], value: str) -> QuerySet[Release, Release]:
    try:
        return rows.filter(change=UUID(value))
    except ValueError:
        return rows.none()


class Releases(ListPage[Release]):
    """Every generation of what is published, newest first."""

    permission = PERMISSION
    here = "releases"
    title = gettext_lazy("Releases")
    model = Release
    template_name = "registry/releases.html"
    counted = False
    columns = [
        Column("at", gettext_lazy("Time"), sort=("id",), value="created_at"),
        Column("path", gettext_lazy("Path"), value="publication.path"),
        Column("generation", gettext_lazy("Generation"), css="num", value="generation"),
        Column("kind", gettext_lazy("Kind"), value="get_kind_display"),
        Column("state", gettext_lazy("State"), value="state"),
        Column("author", gettext_lazy("Author"), value="author_name"),
        Column("message", gettext_lazy("Message"), css="max", value="message"),
    ]
    search_fields = ("publication__path", "author_name")
    default_sort = "-at"
    filters = [
        Filter("kind", gettext_lazy("Kind"), lambda _request: Release.Kind.choices, lambda rows, value: rows.filter(kind=value)),
        Filter("author", gettext_lazy("Author"), _authors, lambda rows, value: rows.filter(author_name=value)),
        Filter("period", gettext_lazy("Period"), lambda _request: [(key, label) for key, (label, _ago) in PERIODS.items()], _period),
        Filter("path", gettext_lazy("Path"), _none, lambda rows, value: rows.filter(publication__path=value)),
        Filter("change", gettext_lazy("Change"), _none, _change),
    ]

    def annotated(self, queryset: QuerySet[Release, Release]) -> QuerySet[Release, Release]:
        """Without the bytes."""
        return queryset.listed()  # type: ignore[attr-defined,no-any-return]


class ReleaseDetail(Page):
    """One release: who, when, why, and what it changed."""

    permission = PERMISSION
    here = "releases"
    template_name = "registry/release.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The release; one of a node that is not the person's does not exist for them."""
        visible = Release.objects.restrict(request.user, PERMISSION)
        release = get(visible.select_related("publication"), pk=pk)
        before = releases.before(release)
        together = visible.filter(change=release.change).exclude(pk=release.pk)
        return self.show(
            {
                "title": _("{path}, generation {n}").format(path=release.path, n=release.generation),
                "crumbs": [(_("Releases"), reverse("admin:registry_releases"))],
                "release": release,
                "before": before,
                "differences": releases.differences(before, release),
                "together": list(together.listed().order_by("pk")[: SHOWN + 1]),
                "shown": SHOWN,
                "rollback": _rollback_action(request, release),
            }
        )


def _rollback_action(request: HttpRequest, release: Release) -> Action:
    """The button, and why it cannot be used."""
    problem = rollbacks.why_not(release)
    why = NOT_ALLOWED if not request.user.has_perm(ROLLBACK) else "" if problem is None else str(problem)
    return Action(_("Roll back to this"), reverse("admin:registry_rollback", args=[release.pk]), "undo", why=why)


class RollbackForm(ReasonForm):
    """Why, and against which release what would change was shown."""

    base = forms.IntegerField(min_value=1, widget=forms.HiddenInput)
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Roll back in spite of warnings"),
        help_text=gettext_lazy("Otherwise you are told first what speaks against it."),
    )
    field_order = ["base", "accept_warnings", "reason"]


class Rollback(FormPage):
    """What stood in a release is wanted again, after a look at what that changes."""

    permission = ROLLBACK
    here = "releases"
    template_name = "registry/rollback.html"
    form_class = RollbackForm
    submit_label = gettext_lazy("Roll back")

    @cached_property
    def release(self) -> Release:
        """The release of the address."""
        rows = Release.objects.restrict(self.request.user, ROLLBACK).select_related("publication")
        return get(rows, pk=self.kwargs["pk"])

    def check(self) -> None:
        """Refuse before anything is filled in."""
        if (problem := rollbacks.why_not(self.release)) is not None:
            raise problem

    def initial(self) -> dict[str, Any]:
        """What is shown is compared with what is latest now."""
        return {"base": self.release.publication.generation}

    def context(self) -> dict[str, Any]:
        """What would change."""
        release = self.release
        back = reverse("admin:registry_release", args=[release.pk])
        return {
            "title": _("Roll {path} back to generation {n}").format(path=release.path, n=release.generation),
            "crumbs": [(_("Releases"), reverse("admin:registry_releases")), (str(release), back)],
            "back": back,
            "release": release,
            "latest": rollbacks.latest(release.publication),
            "differences": rollbacks.preview(release),
        }

    def perform(self, form: RollbackForm) -> str:
        """Roll back, and show the new release."""
        fields = {name: form.cleaned_data[name] for name in ("base", "accept_warnings", "reason")}
        try:
            made = rollbacks.rollback(actor=person(self.request), release=self.release, **fields)
        except Problem as problem:
            if problem.code == "stale_base":  # the page now shows what would change against the latest, and asks again
                self.release.publication.refresh_from_db()
                form.data = {**self.request.POST.dict(), "base": str(self.release.publication.generation)}
            raise
        return reverse("admin:registry_release", args=[made.pk])

    def success(self, form: RollbackForm) -> Any:  # noqa: ARG002
        """What comes next."""
        return _("{path} is rolled back; a registrar publishes it now.").format(path=self.release.path)


urlpatterns = [
    path("releases/", Releases.as_view(), name="registry_releases"),
    path("releases/<int:pk>/", ReleaseDetail.as_view(), name="registry_release"),
    path("releases/<int:pk>/rollback/", Rollback.as_view(), name="registry_rollback"),
]
