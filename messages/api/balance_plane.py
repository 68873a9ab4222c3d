"""The workers of a sticky group: who has which share of the sharding keys."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View
from core.names import PATTERN
from messages import balancing, services
from messages.api.control_plane import PAGE, Query
from messages.api.group_plane import group_of

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the consumer group")


class WorkerSerializer(serializers.Serializer[Any]):
    """A worker of a sticky group."""

    name = serializers.CharField(help_text="What it calls itself as consumer of its pulls.")
    joined_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField(help_text="Its last pull, to within some seconds.")
    slots = serializers.IntegerField(help_text=f"So many of {balancing.SLOTS} slots are its own; the hash of a sharding key says its slot.")
    share = serializers.FloatField(help_text="The same as a share of all sharding keys, 0 to 1.")
    parked = serializers.IntegerField(help_text="Messages that the group has passed and that wait for this worker alone.")
    processing = serializers.IntegerField(help_text="Messages in its hands.")
    awaited = serializers.IntegerField(help_text="Keys that have moved to it while another worker has one of their messages in hand.")


class WorkerPageSerializer(serializers.Serializer[Any]):
    """Workers by name."""

    results = WorkerSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class WorkersView(View):
    """Workers of a sticky group."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "consumers.view_consumergroup"}
    document = WorkerSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": PAGE}

    @extend_schema(operation_id="list_workers", parameters=[_NAME], responses=WorkerPageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """By name, each with its share of the sharding keys; none of a group whose balance is shared."""
        query, group = Query(request), group_of(self, name)
        page = services.workers(group_id=group.pk, **query.page())
        return query.answer(page, WorkerSerializer(page.items, many=True).data)


urlpatterns: list[URLPattern] = [
    re_path(rf"^consumer-groups/(?P<name>{PATTERN})/workers$", WorkersView.as_view(), name="workers"),
]
