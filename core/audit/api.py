"""The audit over REST: read only, newest first."""

from typing import ClassVar

import django_filters
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.routers import BaseRouter

from core.api.views import ReadViewSet
from core.audit.models import AuditEntry, AuditQuerySet


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """Who did what to what, before and after, and why."""

    actor = serializers.CharField(source="actor_name", help_text="user name; “system” is a worker of mqadmin")
    before = serializers.DictField(allow_null=True, help_text="what changed, as it was")
    after = serializers.DictField(allow_null=True, help_text="what changed, as it is now; all that is recorded of a new thing")

    class Meta:
        model = AuditEntry
        fields = [
            "id",
            "at",
            "actor",
            "credential",
            "application",
            "action",
            "kind",
            "name",
            "before",
            "after",
            "reason",
            "request_id",
            "address",
        ]


class AuditEntryFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    actor = django_filters.CharFilter(field_name="actor_name", help_text="user name; “system” is a worker")
    credential = django_filters.CharFilter(method="by_credential", help_text="session, token:mq_…, key:…; “token:” stands for all tokens")
    since = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte", help_text="from this moment on, ISO 8601")
    until = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt", help_text="before this moment, ISO 8601")
    q = django_filters.CharFilter(method="containing", help_text="every word occurs in name, person, reason or what changed")

    class Meta:
        model = AuditEntry
        fields = ["action", "kind", "name", "application", "request_id", "address"]

    def by_credential(self, queryset: QuerySet[AuditEntry], _name: str, value: str) -> QuerySet[AuditEntry]:
        """One credential, or all of a kind."""
        return queryset.filter(credential__startswith=value) if value.endswith(":") else queryset.filter(credential=value)

    def containing(self, queryset: AuditQuerySet, _name: str, value: str) -> AuditQuerySet:
        """All words."""
        return queryset.containing(value)


class AuditEntryViewSet(ReadViewSet):
    """What was done, by whom and why; entries are never changed."""

    queryset = AuditEntry.objects.none()
    serializer_class = AuditEntrySerializer
    filterset_class = AuditEntryFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "audit.view_auditentry", "retrieve": "audit.view_auditentry"}
    page_order: ClassVar[str] = "-pk"
    lookup_value_regex = "[0-9]{1,18}"

    def get_queryset(self) -> QuerySet[AuditEntry]:
        """What the person may see."""
        return AuditEntry.objects.restrict(self.request.user)


def register(router: BaseRouter) -> None:
    """Add the room's resource to the API."""
    router.register("audit-entries", AuditEntryViewSet, basename="audit-entry")
