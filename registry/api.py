"""Publications and instances over REST: what should stand in ZooKeeper, and who runs it. Read only; the rooms above change it."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from core.api import parameters
from core.api.views import ReadViewSet
from registry import api_discovery, api_tree, convergence, services
from registry.api_drift import DriftPolicyViewSet, DriftViewSet
from registry.api_gates import GateViewSet
from registry.api_releases import ReleaseViewSet
from registry.models import Drift, Instance, InstanceEvent, Publication, RegistrarHeartbeat
from registry.status import AppliedChangeSerializer, AppliedSerializer, CountsField
from registry.waiting import GENERATION, TIMEOUT, WAIT, show


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
    permissions_by_action: ClassVar[dict[str, str]] = dict.fromkeys(("list", "retrieve", "applied"), "registry.view_publication")
    query: ClassVar[dict[str, Any]] = {"applied": (GENERATION, WAIT, TIMEOUT)}
    page_order: ClassVar[str] = "path"

    @extend_schema(responses=AppliedChangeSerializer)
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def applied(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Who runs the newest change of a node, or the one of `generation`, and who does not; `wait` until they do."""
        return Response(show(request, self.get_object()))

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
    counts = CountsField(
        allow_null=True,
        help_text="What it counts of its work since it started, such as `succeeded`, `failed`, `in_hand`; null: it does not tell.",
    )
    counted_at = serializers.DateTimeField(allow_null=True, help_text="When it wrote these counts, by ZooKeeper's clock.")
    applied_at = serializers.DateTimeField(allow_null=True, help_text="By the instance's own clock.")
    reached_at = serializers.DateTimeField(
        allow_null=True,
        help_text="By the database's clock: when it was seen to run this, or with `generation` that one or a later.",
    )
    latency_ms = serializers.SerializerMethodField(
        help_text="From the publication to reached_at; null if it runs something older, or came after the publication."
    )
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
            "counts",
            "counted_at",
            "state",
            "cluster",
            "applied",
            "applied_generation",
            "published_generation",
            "applied_at",
            "reached_at",
            "latency_ms",
            "error",
            "online",
            "beat_at",
            "first_seen",
            "online_since",
            "offline_at",
        ]

    def get_latency_ms(self, instance: Any) -> int | None:
        """Whole milliseconds."""
        return None if instance.latency is None else round(instance.latency.total_seconds() * 1000)


class InstanceEventSerializer(serializers.ModelSerializer[InstanceEvent]):
    """What became known of an instance, and when by the database's clock."""

    class Meta:
        model = InstanceEvent
        fields = ["at", "kind", "generation", "applied_at", "detail"]


class InstanceDetailSerializer(InstanceSerializer):
    """The same with its history."""

    events = serializers.SerializerMethodField(help_text="The newest hundred, of at most a week.")

    class Meta(InstanceSerializer.Meta):
        fields = [*InstanceSerializer.Meta.fields, "events"]

    @extend_schema_field(InstanceEventSerializer(many=True))
    def get_events(self, instance: Instance) -> Any:
        """Newest first."""
        return InstanceEventSerializer(instance.events.all()[:100], many=True).data


class InstanceFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(help_text="the node that they follow")
    applied = django_filters.ChoiceFilter(choices=Instance.Applied.choices)
    source = django_filters.ChoiceFilter(choices=Instance.Source.choices, method="only_from")
    path_prefix = django_filters.CharFilter(field_name="path", lookup_expr="startswith", help_text="the nodes below")
    generation = django_filters.CharFilter(
        method="as_it_is", help_text="with `path`: `applied`, `reached_at` and `latency_ms` of this change, not of the published one"
    )

    class Meta:
        model = Instance
        fields = ["app", "ip", "sdk", "role", "online", "plain", "state"]

    def as_it_is(self, queryset: QuerySet[Instance], _name: str, _value: str) -> QuerySet[Instance]:
        """It leaves nobody out: the view has read it already."""
        return queryset

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
        asked, path = self.request.query_params.get("generation"), self.request.query_params.get("path")
        if asked is None:
            return self.restricted(Instance.objects.with_applied())  # type: ignore[no-any-return]
        generation = parameters.limit(self.request, default=0, highest=999_999_999, name="generation")
        if path is None or "\x00" in path:
            raise parameters.invalid("generation", _("“generation” needs “path”."))
        rows = Instance.objects.with_applied_to(generation, convergence.published_at(path, generation))
        return self.restricted(rows)  # type: ignore[no-any-return]

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """The history only in the detail."""
        return InstanceDetailSerializer if self.action == "retrieve" else InstanceSerializer


class RegistrarSerializer(serializers.ModelSerializer[RegistrarHeartbeat]):
    """A registrar as it last described itself."""

    alive = serializers.BooleanField(source="is_alive", help_text="Its heart has beaten within the last 6 seconds.")
    watching = serializers.BooleanField(source="is_watching", help_text="It sees every change in ZooKeeper as it happens.")
    discovery = serializers.CharField(help_text="Its watch on the service registries: live, comparing, none, or off where it follows none.")

    class Meta:
        model = RegistrarHeartbeat
        fields = ["id", "host", "pid", "session", "zookeeper", "watch", "discovery", "alive", "watching", "error", "started_at", "beat_at"]


class RegistrarViewSet(ReadViewSet):
    """The registrars, those of the last day that ended without a word included."""

    queryset = RegistrarHeartbeat.objects.all()
    serializer_class = RegistrarSerializer
    lookup_value_regex = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "registry.view_registrarheartbeat",
        "retrieve": "registry.view_registrarheartbeat",
    }


def register(router: BaseRouter) -> None:
    """Add the room's resources to the API."""
    router.register("publications", PublicationViewSet, basename="publication")
    router.register("gates", GateViewSet, basename="gate")
    router.register("releases", ReleaseViewSet, basename="release")
    router.register("drift", DriftViewSet, basename="drift")
    router.register("drift-policies", DriftPolicyViewSet, basename="drift-policy")
    router.register("registrars", RegistrarViewSet, basename="registrar")
    router.register("instances", InstanceViewSet, basename="instance")
    api_discovery.register(router)


urlpatterns = api_tree.urlpatterns
