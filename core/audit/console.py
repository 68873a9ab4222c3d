"""The audit in the console: read-only, newest first, by key and not by page number, since it only ever grows."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.audit.models import AuditEntry, AuditQuerySet
from core.audit.reading import WORDS, changes, differences, said
from core.console.lists import Asked, Filter, ListPage
from core.console.pages import Page, get, person
from core.console.slots import Column
from core.scope import Reach, reach_of

PERMISSION = "audit.view_auditentry"
PERIODS = {
    "hour": (gettext_lazy("The last hour"), timedelta(hours=1)),
    "day": (gettext_lazy("The last 24 hours"), timedelta(days=1)),
    "week": (gettext_lazy("The last 7 days"), timedelta(days=7)),
    "month": (gettext_lazy("The last 30 days"), timedelta(days=30)),
    "quarter": (gettext_lazy("The last 90 days"), timedelta(days=90)),
}
CREDENTIALS = {
    "session": gettext_lazy("a browser's session"),
    "token:": gettext_lazy("an API token"),
    "key:": gettext_lazy("an application's key"),
    "task:": gettext_lazy("none: a worker"),
}


def visible(request: HttpRequest) -> AuditQuerySet:
    """What the person may see."""
    return AuditEntry.objects.restrict(request.user, PERMISSION)


def _values(column: str) -> Any:
    """What can be chosen: all that occurs, or for those who see their own things only, what occurs there."""

    def options(request: HttpRequest) -> list[tuple[str, str]]:
        if reach_of(request.user, PERMISSION) is Reach.ALL:
            found = AuditEntry.objects.all().values_of(column)
        else:
            found = sorted(set(visible(request).order_by("-pk").values_list(column, flat=True)[:1000]))
        return [(value, said(value) if value in WORDS else value) for value in found]

    return options


def _none(_request: HttpRequest) -> list[tuple[str, str]]:
    """Chosen by a link (all of this request), not from a menu."""
    return []


def period(rows: AuditQuerySet, value: str) -> AuditQuerySet:
    """The last hour, day, …; anything else finds nothing."""
    return rows.filter(at__gte=timezone.now() - PERIODS[value][1]) if value in PERIODS else rows.none()


def _days(lookup: str, later: int) -> Any:
    """From the beginning of a day (ISO 8601, in the console's time zone) on, or to its end; what is no day finds nothing."""

    def apply(rows: AuditQuerySet, value: str) -> AuditQuerySet:
        try:
            day = parse_date(value)
            if day is None:
                return rows.none()
            moment = timezone.make_aware(datetime.combine(day + timedelta(days=later), time.min)).astimezone(UTC)
        except (ValueError, OverflowError):  # the 31st of February, the year 9999
            return rows.none()
        return rows.filter(**{lookup: moment})

    return apply


def _credential(rows: AuditQuerySet, value: str) -> AuditQuerySet:
    return rows.filter(credential__startswith=value) if value in CREDENTIALS and value.endswith(":") else rows.filter(credential=value)


class Audit(ListPage[AuditEntry]):
    """Who did what, when and why."""

    permission = PERMISSION
    here = "audit"
    title = gettext_lazy("Audit")
    model = AuditEntry
    template_name = "audit/list.html"
    counted = False
    columns = [
        Column("at", gettext_lazy("Time"), sort=("id",), value="at"),
        Column("who", gettext_lazy("Who"), value="actor_name"),
        Column("action", gettext_lazy("Action"), value="action"),
        Column("kind", gettext_lazy("Kind"), value="kind"),
        Column("name", gettext_lazy("Name"), value="name"),
        Column("changes", gettext_lazy("What changed"), css="max", value=changes),
        Column("reason", gettext_lazy("Reason"), css="hide-m", value="reason"),
        Column("credential", gettext_lazy("Credential"), css="hide-m", value="credential"),
        Column("from", gettext_lazy("Address"), css="hide-m", value="address"),
        Column("request", gettext_lazy("Request"), css="hide-m", value="request_id"),
    ]
    default_sort = "-at"
    filters = [
        Filter("kind", gettext_lazy("Kind"), _values("kind"), lambda rows, value: rows.filter(kind=value)),
        Filter("action", gettext_lazy("Action"), _values("action"), lambda rows, value: rows.filter(action=value)),
        Filter("who", gettext_lazy("Who"), _values("actor_name"), lambda rows, value: rows.filter(actor_name=value)),
        Filter("credential", gettext_lazy("Credential"), lambda _request: CREDENTIALS.items(), _credential),
        Filter("period", gettext_lazy("Period"), lambda _request: [(key, label) for key, (label, _ago) in PERIODS.items()], period),
        Filter("first", gettext_lazy("From"), _none, _days("at__gte", 0)),
        Filter("last", gettext_lazy("To"), _none, _days("at__lt", 1)),
        Filter("name", gettext_lazy("Name"), _none, lambda rows, value: rows.filter(name=value)),
        Filter("application", gettext_lazy("Application"), _none, lambda rows, value: rows.filter(application=value)),
        Filter("request", gettext_lazy("Request"), _none, lambda rows, value: rows.filter(request_id=value)),
        Filter("from", gettext_lazy("Address"), _none, lambda rows, value: rows.filter(address=value)),
    ]
    older = newer = ""  # where the next and the previous page begin

    def _searched(self, rows: Any, words: str) -> Any:
        return rows.containing(words)

    def cut(self, asked: Asked[AuditEntry], first: int) -> tuple[list[AuditEntry], bool]:  # noqa: ARG002 - a key instead
        """From the entry that `page=older-123` or `newer-123` names: the thousandth page is as near as the first."""
        way, _dash, key = self.request.GET.get("page", "").partition("-")
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 19 else None
        after, before = number if way == "older" else None, number if way == "newer" else None
        ascending = not asked.sort.startswith("-")
        rows, back = asked.rows.order_by("pk" if ascending else "-pk"), after is not None
        if after is not None:
            rows = rows.filter(**{"pk__gt" if ascending else "pk__lt": after})
        if before is not None:
            rows = rows.filter(**{"pk__lt" if ascending else "pk__gt": before}).reverse()
        found = list(rows[: asked.size + 1])
        if not found and number is not None:  # nothing lies there: the first page
            rows, back, before = asked.rows.order_by("pk" if ascending else "-pk"), False, None
            found = list(rows[: asked.size + 1])
        more, found = len(found) > asked.size, found[: asked.size]
        if before is not None:
            more, back, found = True, more, found[::-1]
        if found:
            self.older, self.newer = f"older-{found[-1].pk}" if more else "", f"newer-{found[0].pk}" if back else ""
        return found, more

    def decorate(self, rows: list[AuditEntry]) -> None:
        """The change of each in one line."""
        for row in rows:
            row.change_text = changes(row)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """The neighbouring pages, and the days that are chosen."""
        days = {f"{key}_day": self.request.GET.get(key, "") for key in ("first", "last")}
        return {
            "older": self.older,
            "newer": self.newer,
            "beyond": "page" in self.request.GET and not self.newer and not self.older,
            **days,
        }


class Detail(Page):
    """One entry with all that it changed."""

    permission = PERMISSION
    here = "audit"
    template_name = "audit/detail.html"

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The entry; one about things that are not the person's does not exist for them."""
        entry = get(AuditEntry.objects.restrict(person(request), PERMISSION), pk=pk)
        return self.show(
            {
                "title": f"{said(entry.action)} · {entry.name}",
                "crumbs": [(_("Audit"), reverse("admin:audit_list"))],
                "entry": entry,
                "differences": differences(entry),
            }
        )


urlpatterns = [
    path("audit/", Audit.as_view(), name="audit_list"),
    path("audit/<int:pk>/", Detail.as_view(), name="audit_detail"),
]
