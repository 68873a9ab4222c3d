"""The audit in the console: read-only, newest first."""

from django.urls import path
from django.utils.translation import gettext_lazy

from core.audit.models import AuditEntry
from core.audit.reading import changes, said
from core.console.lists import Filter, ListPage
from core.console.slots import Column


def _kinds(_request: object) -> list[tuple[str, str]]:
    return [(kind, said(kind)) for kind in AuditEntry.objects.order_by("kind").values_list("kind", flat=True).distinct()[:50]]


def _who(_request: object) -> list[tuple[str, str]]:
    return [(name, said(name)) for name in AuditEntry.objects.order_by("actor_name").values_list("actor_name", flat=True).distinct()[:100]]


class Audit(ListPage[AuditEntry]):
    """Who did what, when and why."""

    permission = "audit.view_auditentry"
    here = "audit"
    title = gettext_lazy("Audit")
    model = AuditEntry
    template_name = "audit/list.html"
    counted = False  # it only ever grows
    columns = [
        Column("at", gettext_lazy("Time"), sort=("id",), value="at"),
        Column("who", gettext_lazy("Who"), value="actor_name"),
        Column("action", gettext_lazy("Action"), value="action"),
        Column("kind", gettext_lazy("Kind"), value="kind"),
        Column("name", gettext_lazy("Name"), value="name"),
        Column("changes", gettext_lazy("What changed"), css="max", value="change_text"),
        Column("reason", gettext_lazy("Reason"), css="hide-m", value="reason"),
        Column("from", gettext_lazy("From"), css="hide-m", value="address"),
    ]
    search_fields = ("name", "actor_name", "action", "reason", "request_id")
    default_sort = "-at"
    filters = [
        Filter("kind", gettext_lazy("Kind"), _kinds, lambda rows, value: rows.filter(kind=value)),
        Filter("who", gettext_lazy("Who"), _who, lambda rows, value: rows.filter(actor_name=value)),
    ]

    def decorate(self, rows: list[AuditEntry]) -> None:
        """The change of each in one line."""
        for row in rows:
            row.change_text = changes(row)  # type: ignore[attr-defined]


urlpatterns = [path("audit/", Audit.as_view(), name="audit_list")]
