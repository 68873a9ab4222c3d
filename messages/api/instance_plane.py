"""The instances of a broadcast group: where each stands, and giving up one that never returns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View
from core.api.views import actor, validated
from core.names import PATTERN
from messages import broadcast, services
from messages.api.control_documents import CountsSerializer, LagSerializer
from messages.api.control_plane import PAGE, Query
from messages.api.group_plane import group_of
from messages.names import topic_name, topic_names
from messages.types import Instance

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the broadcast group")


class PositionSerializer(serializers.Serializer[Any]):
    """Where an instance stands on a topic."""

    topic = serializers.CharField()
    position = serializers.IntegerField(help_text="Everything up to this id has been handed out.")


class BroadcastInstanceSerializer(serializers.Serializer[Any]):
    """An instance of a broadcast group, with a position of its own."""

    name = serializers.CharField()
    began_at = serializers.DateTimeField(help_text="Its first pull, or when it registered first.")
    last_seen_at = serializers.DateTimeField(help_text="It pulls, settles or sends heartbeats; to within some seconds.")
    overdue = serializers.BooleanField(help_text="Not seen for as long as the group's instance_ttl_hours: it is about to be given up.")
    counts = CountsSerializer()
    lag = LagSerializer()
    positions = PositionSerializer(many=True)

    def to_representation(self, instance: Instance) -> dict[str, Any]:
        """Topics by their names."""
        counts = {name: value for name, value in asdict(instance.counts).items() if name != "group_id"}
        return {
            "name": instance.name,
            "began_at": instance.began_at,
            "last_seen_at": instance.last_seen_at,
            "overdue": instance.overdue,
            "counts": counts,
            "lag": {"messages": instance.lag.messages, "seconds": round(instance.lag.seconds, 3)},
            "positions": [{"topic": topic_name(pk), "position": at} for pk, at in instance.positions.items()],
        }


class BroadcastInstancePageSerializer(serializers.Serializer[Any]):
    """Instances by name."""

    results = BroadcastInstanceSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class GiveUpSerializer(serializers.Serializer[Any]):
    """Which instance never returns."""

    instance = serializers.CharField(max_length=255, trim_whitespace=False)
    reason = serializers.CharField(max_length=500, help_text="Kept in the audit.")


class InstancesView(View):
    """Instances of a broadcast group."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "consumers.view_consumergroup"}
    document = BroadcastInstanceSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": PAGE}

    @extend_schema(operation_id="list_broadcast_instances", parameters=[_NAME], responses=BroadcastInstancePageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """By name, each with its position, counts and lag; none of a group whose workers share one position."""
        query, group = Query(request), group_of(self, name)
        page = services.instances(group_id=group.pk, **query.page())
        topic_names(pk for instance in page.items for pk in instance.positions)
        return query.answer(page, BroadcastInstanceSerializer(page.items, many=True).data)


class GiveUpView(View):
    """An instance that never returns."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "consumers.change_consumergroup"}

    @extend_schema(operation_id="give_up_instance", parameters=[_NAME], request=GiveUpSerializer, responses={204: None})
    def post(self, request: Request, name: str) -> Response:
        """Forget its position, its retries and its dead letters, as happens by itself after instance_ttl_hours without a sign of life."""
        group = group_of(self, name)
        checked = validated(GiveUpSerializer, request)
        broadcast.give_up(actor=actor(request), group=group, name=checked["instance"], reason=checked["reason"])
        return Response(status=status.HTTP_204_NO_CONTENT)


_GROUP = rf"^consumer-groups/(?P<name>{PATTERN})"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_GROUP}/instances$", InstancesView.as_view(), name="broadcast-instances"),
    re_path(rf"{_GROUP}/instances/given-up$", GiveUpView.as_view(), name="broadcast-instances-given-up"),
]
