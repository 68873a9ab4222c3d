"""Gated releases over REST: opened, promoted, abandoned; with everybody who is gated by name."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.views import ReadViewSet, actor, extend, validated
from core.errors import FieldError, Problem
from mqadmin_sdk.zk import paths
from registry import gates
from registry.models import Gate


class MemberSerializer(serializers.Serializer[Any]):
    """An instance that is, or was, gated."""

    node = serializers.CharField(source="instance.node")
    app = serializers.CharField(source="instance.app")
    ip = serializers.CharField(source="instance.ip")
    sdk = serializers.CharField(source="instance.sdk")
    plain = serializers.BooleanField(source="instance.plain")
    status = serializers.ChoiceField(
        ["gated", "waiting", "back", "left", "unknown"],
        help_text="on the gated cluster, not yet there, on the main one again, offline, or not reporting (plain ZMS clients)",
    )
    cluster = serializers.CharField(source="instance.cluster")
    applied_generation = serializers.IntegerField(source="instance.applied_generation", allow_null=True)
    applied_at = serializers.DateTimeField(source="instance.applied_at", allow_null=True)


class GateSerializer(serializers.ModelSerializer[Gate]):
    """A gated release."""

    path = serializers.CharField()
    labels = serializers.DictField(child=serializers.CharField())

    class Meta:
        model = Gate
        fields = [
            "id", "path", "state", "cluster", "main_cluster", "ips", "labels", "generation", "opened_by", "reason", "opened_at",
            "ended_generation", "ended_by", "end_reason", "ended_at", "closed_at",
        ]  # fmt: skip


class GateDetailSerializer(GateSerializer):
    """The same with everybody who is, or was, gated."""

    members = serializers.SerializerMethodField()

    class Meta(GateSerializer.Meta):
        fields = [*GateSerializer.Meta.fields, "members"]

    @extend_schema_field(MemberSerializer(many=True))
    def get_members(self, gate: Gate) -> Any:
        """By name, those that are not back first."""
        return MemberSerializer(gates.members(gate), many=True).data


class NewGateSerializer(serializers.Serializer[Any]):
    """Some instances of a topic or of a group on another cluster."""

    topic = serializers.CharField(max_length=120, required=False, help_text="a topic, or")
    group = serializers.CharField(max_length=120, required=False, help_text="a consumer group")
    cluster = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")
    ips = serializers.ListField(
        child=serializers.CharField(max_length=64), required=False, default=list, help_text="addresses of instances"
    )
    labels = serializers.DictField(
        child=serializers.CharField(max_length=200), required=False, default=dict, help_text="instances of our SDK that have all of them"
    )
    reason = serializers.CharField(max_length=2000)


class EndSerializer(serializers.Serializer[Any]):
    """Why."""

    reason = serializers.CharField(max_length=2000)


class PromotionSerializer(EndSerializer):
    """Why, and in spite of what."""

    accept_warnings = serializers.BooleanField(default=False, help_text="in spite of what confirmation_needed says, as of a move")


class GateFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(field_name="publication__path", help_text="exactly this node")
    topic = django_filters.CharFilter(method="of_topic")
    group = django_filters.CharFilter(method="of_group")

    class Meta:
        model = Gate
        fields = ["state", "cluster"]

    def of_topic(self, queryset: QuerySet[Gate], _name: str, value: str) -> QuerySet[Gate]:
        """By the topic's name."""
        return queryset.filter(publication__path=paths.topic(value))

    def of_group(self, queryset: QuerySet[Gate], _name: str, value: str) -> QuerySet[Gate]:
        """By the group's name."""
        return queryset.filter(publication__path=paths.group(value))


class GateViewSet(ReadViewSet):
    """Gated releases of topics and groups, newest first."""

    queryset = Gate.objects.none()
    serializer_class = GateSerializer
    filterset_class = GateFilter
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "registry.view_gate",
        "retrieve": "registry.view_gate",
        "create": "registry.add_gate",
        "promotion": "registry.change_gate",
        "abandonment": "registry.change_gate",
        "closure": "registry.change_gate",
    }
    page_order: ClassVar[str] = "-pk"
    lookup_value_regex = "[0-9]{1,18}"

    def get_queryset(self) -> QuerySet[Gate]:
        """What the person may see, or change."""
        return self.restricted(Gate.objects.all()).select_related("publication")  # type: ignore[no-any-return]

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """With everybody by name, but not in the list."""
        return GateSerializer if self.action == "list" else GateDetailSerializer

    @extend(NewGateSerializer, GateDetailSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Open a gate."""
        fields = validated(NewGateSerializer, request)
        topic, group = fields.pop("topic", ""), fields.pop("group", "")
        if bool(topic) == bool(group):
            detail = _("Name a topic or a group.")
            raise Problem("invalid", detail, errors=[FieldError("/topic", detail)])
        made = gates.gate(actor=actor(request), path=paths.topic(topic) if topic else paths.group(group), **fields)
        return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)

    @extend(PromotionSerializer, GateDetailSerializer)
    @action(detail=True, methods=["post"])
    def promotion(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """The gated cluster becomes that of everybody."""
        done = gates.promote(actor=actor(request), gate=self.get_object(), **validated(PromotionSerializer, request))
        return Response(self.get_serializer(done).data)

    @extend(EndSerializer, GateDetailSerializer)
    @action(detail=True, methods=["post"])
    def abandonment(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Everybody uses the main cluster again; `state` is abandoning until that is proven."""
        done = gates.abandon(actor=actor(request), gate=self.get_object(), **validated(EndSerializer, request))
        return Response(self.get_serializer(done).data)

    @extend(EndSerializer, GateDetailSerializer)
    @action(detail=True, methods=["post"])
    def closure(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """A person answers for it that the clients are back, where it cannot be proven."""
        done = gates.close(actor=actor(request), gate=self.get_object(), **validated(EndSerializer, request))
        return Response(self.get_serializer(done).data)
