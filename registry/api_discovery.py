"""Service registries over REST: services, who is registered with each, who left and how, worker ids, leaders, shards. Read only."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.routers import BaseRouter

from core.api.views import ReadViewSet
from registry.discovery_models import Departure, Registration, Service, ServiceEvent, WorkerId

EVENTS = 100


class ServiceSerializer(serializers.ModelSerializer[Service]):
    """What others register with: a Dubbo service, an application that produces or consumes messages, a job."""

    providers = serializers.IntegerField(help_text="Who is there now: providers of a service, hosts of an application, instances of a job.")
    online = serializers.BooleanField(help_text="Whether there is one of them; of a latch without a job, whether somebody leads.")
    apps = serializers.ListField(
        child=serializers.CharField(), help_text="Whose it is: the applications that provide it, or run it, now; twenty at most."
    )
    leader = serializers.CharField(help_text="Empty: nobody leads, or the leader has not yet said so.")
    leader_token = serializers.IntegerField(allow_null=True, help_text="The fencing token: it grows with each leader.")

    class Meta:
        model = Service
        fields = [
            "id", "layout", "root", "path", "name", "role", "apps", "online", "providers", "consumers", "online_since", "offline_at",
            "leader", "leader_token", "leader_since", "first_seen",
        ]  # fmt: skip


class ServiceEventSerializer(serializers.ModelSerializer[ServiceEvent]):
    """What happened to a service, by the clock of the database."""

    class Meta:
        model = ServiceEvent
        fields = ["at", "kind", "member", "app", "name", "departure", "session"]


class ShardSerializer(serializers.Serializer[Any]):
    """A shard of a job."""

    item = serializers.CharField()
    state = serializers.ChoiceField(
        ["idle", "running", "interrupted", "disabled"], help_text="interrupted: the instance that ran it died in the middle"
    )
    instance = serializers.CharField(help_text="who has it; empty: nobody")
    running = serializers.CharField(help_text="who runs it now")
    failover = serializers.CharField(help_text="who runs it in place of one that died")


class JobServerSerializer(serializers.Serializer[Any]):
    """A host of a job."""

    address = serializers.CharField()
    enabled = serializers.BooleanField()


class JobSerializer(serializers.Serializer[Any]):
    """A job, as its nodes describe it."""

    config = serializers.CharField(help_text="as it stands: JSON or YAML")
    candidates = serializers.IntegerField(help_text="instances that lead, or wait to lead")
    resharding = serializers.BooleanField(help_text="whether its shards are to be distributed anew")
    servers = JobServerSerializer(many=True)
    shards = ShardSerializer(many=True)


class MessageApplicationSerializer(serializers.Serializer[Any]):
    """An application in the registry of reliable messages, as its node describes it."""

    group = serializers.CharField(help_text="its producer group or consumer group")
    servers = serializers.CharField(help_text="its name servers")


class ServiceDetailSerializer(ServiceSerializer):
    """The same with what its own nodes say, and its history."""

    job = serializers.SerializerMethodField(help_text="Of a job; null for others.")
    application = serializers.SerializerMethodField(help_text="Of an application in the registry of reliable messages; null for others.")
    events = serializers.SerializerMethodField(help_text="The newest hundred, of at most a month.")

    class Meta(ServiceSerializer.Meta):
        fields = [*ServiceSerializer.Meta.fields, "job", "application", "events"]

    @extend_schema_field(JobSerializer(allow_null=True))
    def get_job(self, service: Service) -> Any:
        """Its settings and shards."""
        described = service.layout == Service.Layout.JOBS and service.details
        return JobSerializer(service.details).data if described else None

    @extend_schema_field(MessageApplicationSerializer(allow_null=True))
    def get_application(self, service: Service) -> Any:
        """Its group and name servers."""
        described = service.layout == Service.Layout.MESSAGES and service.details
        return MessageApplicationSerializer(service.details).data if described else None

    @extend_schema_field(ServiceEventSerializer(many=True))
    def get_events(self, service: Service) -> Any:
        """Newest first."""
        return ServiceEventSerializer(service.events.all()[:EVENTS], many=True).data


class ServiceFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    app = django_filters.CharFilter(method="of_app", help_text="those that this application provides or uses")
    wanted = django_filters.BooleanFilter(method="only_wanted", help_text="true: those that are used and that nobody provides")
    deserted = django_filters.BooleanFilter(
        method="only_deserted", help_text="true: those of which somebody left without a goodbye within a day, and is not back"
    )

    class Meta:
        model = Service
        fields = ["layout", "root", "name", "role", "online"]

    def of_app(self, queryset: QuerySet[Service], _name: str, value: str) -> QuerySet[Service]:
        """By what is registered now."""
        return queryset.filter(pk__in=Registration.objects.online().filter(app=value).values("service"))

    def only_wanted(self, queryset: Any, _name: str, value: bool) -> QuerySet[Service]:
        """Those, or the others."""
        wanted = queryset.wanted()
        return wanted if value else queryset.exclude(pk__in=wanted.values("pk"))  # type: ignore[no-any-return]

    def only_deserted(self, queryset: Any, _name: str, value: bool) -> QuerySet[Service]:
        """Those, or the others."""
        deserted = queryset.deserted()
        return deserted if value else queryset.exclude(pk__in=deserted.values("pk"))  # type: ignore[no-any-return]


class ServiceViewSet(ReadViewSet):
    """Services, applications and jobs of the service registries, as registrars see them."""

    queryset = Service.objects.all()
    serializer_class = ServiceSerializer
    filterset_class = ServiceFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "registry.view_service", "retrieve": "registry.view_service"}
    page_order: ClassVar[str] = "path"

    def get_queryset(self) -> QuerySet[Service]:
        """The description only in the detail."""
        rows: QuerySet[Service] = super().get_queryset().with_apps()
        return rows if self.action == "retrieve" else rows.defer("details")

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """The history only in the detail."""
        return ServiceDetailSerializer if self.action == "retrieve" else ServiceSerializer


class RegistrationSerializer(serializers.ModelSerializer[Registration]):
    """Somebody who is, or was, registered with a service."""

    service = serializers.IntegerField(source="service_id")
    service_name = serializers.CharField(source="service.name")
    name = serializers.CharField(help_text="The node's name: of Dubbo the URL, with passwords masked.")
    polite = serializers.BooleanField(help_text="Whether it is our SDK's, which says goodbye; of others nobody can tell how they left.")
    departure = serializers.ChoiceField(
        [("", ""), *Departure.choices], help_text="goodbye, lost (without one), removed (deleted by others) or unknown; empty while online"
    )
    session = serializers.CharField(help_text="The ZooKeeper session that it lives as long as, in hex; empty: it is persistent.")

    class Meta:
        model = Registration
        fields = [
            "id", "service", "service_name", "kind", "name", "app", "address", "service_version", "service_group", "pid", "sdk", "polite",
            "session", "online", "departure", "first_seen", "online_since", "offline_at",
        ]  # fmt: skip


class RegistrationFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    service = django_filters.NumberFilter(help_text="the id of a service")
    layout = django_filters.ChoiceFilter(field_name="service__layout", choices=Service.Layout.choices)
    departure = django_filters.ChoiceFilter(choices=Departure.choices, help_text="how those left that are gone")

    class Meta:
        model = Registration
        fields = ["kind", "app", "address", "session", "online", "polite"]


class RegistrationViewSet(ReadViewSet):
    """Who is registered with what; those that left are kept for a week."""

    queryset = Registration.objects.select_related("service")
    serializer_class = RegistrationSerializer
    filterset_class = RegistrationFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "registry.view_registration", "retrieve": "registry.view_registration"}


class WorkerIdSerializer(serializers.ModelSerializer[WorkerId]):
    """The number that a host of an application has for good."""

    number = serializers.IntegerField(allow_null=True, help_text="null: its node holds no number")

    class Meta:
        model = WorkerId
        fields = ["id", "app", "host", "number", "since"]


class WorkerIdFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    doubled = django_filters.BooleanFilter(method="only_doubled", help_text="true: those whose number another host has as well")

    class Meta:
        model = WorkerId
        fields = ["app", "host", "number"]

    def only_doubled(self, queryset: Any, _name: str, value: bool) -> QuerySet[WorkerId]:
        """Those, or the others."""
        doubled = queryset.doubled()
        return doubled if value else queryset.exclude(pk__in=doubled.values("pk"))  # type: ignore[no-any-return]


class WorkerIdViewSet(ReadViewSet):
    """Worker ids, which hosts of applications take out of one counter."""

    queryset = WorkerId.objects.all()
    serializer_class = WorkerIdSerializer
    filterset_class = WorkerIdFilter
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "registry.view_workerid", "retrieve": "registry.view_workerid"}


def register(router: BaseRouter) -> None:
    """Add the service registries to the API."""
    router.register("services", ServiceViewSet, basename="service")
    router.register("registrations", RegistrationViewSet, basename="registration")
    router.register("worker-ids", WorkerIdViewSet, basename="worker-id")
