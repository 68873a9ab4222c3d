"""Publications and instances over REST: what should stand in ZooKeeper, and who runs it. Read only; the rooms above change it."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.routers import BaseRouter

from core.api.views import ReadViewSet
from registry import services
from registry.api_drift import DriftPolicyViewSet, DriftViewSet
from registry.api_gates import GateViewSet
from registry.api_releases import ReleaseViewSet
from registry.models import Drift, Instance, Publication
from registry.status import AppliedSerializer


class PublicationSerializer(serializers.ModelSerializer[Publication]):
    """Desired and published state of one node."""

    state = serializers.CharField(help_text="published, pending, failing, drifted, held or retired")
    applied = AppliedSerializer(source="*")

    class Meta:
        model = Publication
        fields = [
            "id",
            "path",
            "format",
            "state",
            "generation",
            "published_generation",
            "changed_at",
            "published_at",
            "published_by",
            "attempts",
            "last_attempt_at",
            "next_attempt_at",
            "last_error",
            "last_foreign_edit",
            "last_foreign_edit_at",
            "applied",
        ]


class PublicationDetailSerializer(PublicationSerializer):
    """The same with the node's data as text."""

    content = serializers.CharField(source="text", help_text="the whole node, generation embedded")
    foreign_content = serializers.SerializerMethodField(help_text="what somebody else had written there, if that ever happened")
    requires = serializers.ListField(child=serializers.CharField())
    waiting_drift = serializers.SerializerMethodField(help_text="The edit by others that waits for a person, if one does: see drift.")
    waits_for = serializers.SerializerMethodField(help_text="paths that have to be published, or retired, first")

    class Meta(PublicationSerializer.Meta):
        fields = [*PublicationSerializer.Meta.fields, "content", "foreign_content", "waiting_drift", "requires", "waits_for"]

    def get_foreign_content(self, publication: Publication) -> str | None:
        """As text: of the last edit by others."""
        last = Drift.objects.filter(path=publication.path).exclude(data=None).values_list("data", flat=True).first()
        return None if last is None else bytes(last).decode("utf-8", "replace")

    def get_waiting_drift(self, publication: Publication) -> int | None:
        """Its number."""
        return Drift.objects.waiting().filter(path=publication.path).values_list("pk", flat=True).first() if publication.is_held else None

    def get_waits_for(self, publication: Publication) -> list[str]:
        """Empty once it is published."""
        return [] if publication.is_published else services.blockers(publication)


class PublicationFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(help_text="exactly this node")
    path_prefix = django_filters.CharFilter(field_name="path", lookup_expr="startswith", help_text="nodes below")
    waiting = django_filters.BooleanFilter(method="only_waiting", help_text="true: only what ZooKeeper does not hold yet")

    class Meta:
        model = Publication
        fields = ["root"]

    def only_waiting(self, queryset: QuerySet[Publication], _name: str, value: bool) -> QuerySet[Publication]:
        """Dirty or drifted rows, or the others."""
        waiting = Publication.objects.dirty().values("pk")
        return queryset.filter(pk__in=waiting) if value else queryset.exclude(pk__in=waiting)


class PublicationViewSet(ReadViewSet):
    """What should stand in ZooKeeper and how far it is."""

    queryset = Publication.objects.none()
    serializer_class = PublicationSerializer
    filterset_class = PublicationFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "registry.view_publication", "retrieve": "registry.view_publication"}
    page_order: ClassVar[str] = "path"

    def get_queryset(self) -> QuerySet[Publication]:
        """With the counts of who has applied it."""
        rows: QuerySet[Publication] = self.restricted(Publication.objects.with_applied_counts())
        return rows if self.action == "retrieve" else rows.defer("data")

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """The data only in the detail."""
        return PublicationDetailSerializer if self.action == "retrieve" else PublicationSerializer


class InstanceSerializer(serializers.ModelSerializer[Instance]):
    """A process that follows a topic, a group or a shadow group."""

    applied = serializers.CharField(help_text="applied, outdated, unknown (a plain ZMS client does not say) or offline")
    published_generation = serializers.IntegerField(allow_null=True)
    labels = serializers.DictField(child=serializers.CharField(), allow_null=True, help_text="what it says of itself; null: nothing")
    source = serializers.ChoiceField(  # type: ignore[assignment]  # the field that a Field has by this name is set later
        Instance.Source.choices, read_only=True, help_text="zookeeper, or rest: registered with POST clients"
    )

    class Meta:
        model = Instance
        fields = [
            "id",
            "path",
            "node",
            "znode",
            "source",
            "role",
            "app",
            "ip",
            "pid",
            "sdk",
            "plain",
            "labels",
            "state",
            "cluster",
            "applied",
            "applied_generation",
            "published_generation",
            "applied_at",
            "error",
            "online",
            "beat_at",
            "first_seen",
            "online_since",
            "offline_at",
        ]


class InstanceFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(help_text="the node that they follow")
    applied = django_filters.ChoiceFilter(choices=Instance.Applied.choices)
    source = django_filters.ChoiceFilter(choices=Instance.Source.choices, method="only_from")

    class Meta:
        model = Instance
        fields = ["app", "role", "online", "plain", "state"]

    def only_from(self, queryset: QuerySet[Instance], _name: str, value: str) -> QuerySet[Instance]:
        """Known from ZooKeeper, or over REST."""
        return queryset.known_by(value)  # type: ignore[attr-defined,no-any-return]


class InstanceViewSet(ReadViewSet):
    """Who is online, and which generation each runs."""

    queryset = Instance.objects.none()
    serializer_class = InstanceSerializer
    filterset_class = InstanceFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "registry.view_instance", "retrieve": "registry.view_instance"}

    def get_queryset(self) -> QuerySet[Instance]:
        """With what they should run."""
        return self.restricted(Instance.objects.with_applied())  # type: ignore[no-any-return]


def register(router: BaseRouter) -> None:
    """Add the room's resources to the API."""
    router.register("publications", PublicationViewSet, basename="publication")
    router.register("gates", GateViewSet, basename="gate")
    router.register("releases", ReleaseViewSet, basename="release")
    router.register("drift", DriftViewSet, basename="drift")
    router.register("drift-policies", DriftPolicyViewSet, basename="drift-policy")
    router.register("instances", InstanceViewSet, basename="instance")
