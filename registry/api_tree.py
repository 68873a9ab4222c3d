"""ZooKeeper itself over REST: one node with a page of its children, live and read-only."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.http import StreamingHttpResponse
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View
from core.api.fields import OptionalReasonSerializer, ReasonSerializer
from core.api.parameters import limit
from core.api.views import actor, validated
from core.operations.api import OperationSerializer, operation_url
from core.operations.models import Operation
from registry import checks, exporting, rebuilding, tree
from registry.api_drift import DriftDifferenceSerializer
from registry.models import Publication

_STARTED = "The operation that does it; Location names it."


class NodeStatSerializer(serializers.Serializer[Any]):
    """What ZooKeeper knows of a node."""

    version = serializers.IntegerField()
    cversion = serializers.IntegerField()
    aversion = serializers.IntegerField()
    czxid = serializers.IntegerField()
    mzxid = serializers.IntegerField()
    pzxid = serializers.IntegerField()
    created_at = serializers.DateTimeField(allow_null=True)
    changed_at = serializers.DateTimeField(allow_null=True)
    ephemeral_owner = serializers.CharField(allow_null=True, help_text="The session of an ephemeral node; null: it is persistent.")
    data_length = serializers.IntegerField()
    children = serializers.IntegerField(help_text="How many.")


class ChildNodeSerializer(serializers.Serializer[Any]):
    """A node below."""

    name = serializers.CharField()
    path = serializers.CharField()
    version = serializers.IntegerField()
    changed_at = serializers.DateTimeField(allow_null=True)
    ephemeral_owner = serializers.CharField(allow_null=True)
    data_length = serializers.IntegerField()
    children = serializers.IntegerField()
    state = serializers.CharField(
        allow_null=True, help_text="Of its publication; unknown: it stands among ours and is none; null: neither."
    )


class NodePublicationSerializer(serializers.Serializer[Any]):
    """The publication of the node."""

    id = serializers.IntegerField()
    state = serializers.CharField()
    generation = serializers.IntegerField()


class NodeSerializer(serializers.Serializer[Any]):
    """A node as it stands in ZooKeeper just now, beside what Postgres wants there."""

    path = serializers.CharField()
    stat = NodeStatSerializer(allow_null=True)
    format = serializers.CharField(allow_null=True, help_text="properties, json, or null: something else")
    content = serializers.CharField(allow_null=True, help_text="The first 64 KB as text; null: it is none.")
    hexadecimal = serializers.CharField(allow_null=True, help_text="The first bytes of what is no text.")
    values = serializers.DictField(child=serializers.CharField(), allow_null=True, help_text="Keys and values of properties or JSON.")
    publication = NodePublicationSerializer(allow_null=True)
    matches = serializers.BooleanField(allow_null=True, help_text="Whether it holds what is wanted; null: nothing is wanted here.")
    differences = DriftDifferenceSerializer(many=True)
    children = ChildNodeSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="Give it as `after` for the next children.")


class ZooKeeperView(View):
    """The only read of the control plane that asks ZooKeeper: it answers within seconds, or 503 zookeeper_away."""

    versioned: ClassVar[bool] = False
    permissions_by_action: ClassVar[dict[str, str]] = {"get": "registry.view_zookeeper"}
    document = NodeSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            OpenApiParameter("path", str, description="The node; without it the root.", default="/"),
            OpenApiParameter("after", str, description="Only children whose names come after this one."),
            OpenApiParameter("limit", int, description=f"Children at most, 1 to {tree.PAGE}.", default=tree.PAGE),
        ]
    }

    @extend_schema(responses=NodeSerializer, operation_id="zookeeper_retrieve")
    def get(self, request: Request) -> Response:
        """Read a node and a page of its children. Problems: invalid_path, not_found, zookeeper_denies, zookeeper_away."""
        asked = request.query_params
        most = limit(request, default=tree.PAGE, highest=tree.PAGE)
        found = tree.look(path=asked.get("path", "/"), after=asked.get("after", ""), limit=most)
        return Response(NodeSerializer(tree.describe(found)).data)


class RebuildView(View):
    """What is missing in ZooKeeper is written again."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": rebuilding.PERMISSION}

    @extend_schema(
        operation_id="rebuild_zookeeper", request=ReasonSerializer, responses={202: OpenApiResponse(OperationSerializer, _STARTED)}
    )
    def post(self, request: Request) -> Response:
        """Have every node looked at and written again where it is missing, whatever the policy of its tree."""
        return _started(request, rebuilding.start(actor=actor(request), **validated(ReasonSerializer, request)))


class CheckView(View):
    """Postgres, ZooKeeper and the brokers, compared."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": checks.PERMISSION}

    @extend_schema(
        operation_id="check_everything", request=OptionalReasonSerializer, responses={202: OpenApiResponse(OperationSerializer, _STARTED)}
    )
    def post(self, request: Request) -> Response:
        """Compare every node; what differs is a failed item of the operation, with the reason and what to do. It repairs nothing."""
        return _started(request, checks.start(actor=actor(request), **validated(OptionalReasonSerializer, request)))


class ExportView(View):
    """The tree as Postgres wants it, as a file."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "registry.view_publication"}

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:  # noqa: ARG002 - DRF's
        """It is one kind of file."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(operation_id="export_zookeeper", responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: Request) -> StreamingHttpResponse:
        """A line of JSON for each node that should stand and that you may see: path, data or base64, generation."""
        return tree_file(request.user)


def tree_file(user: Any) -> StreamingHttpResponse:
    """The file as a response that streams."""
    return StreamingHttpResponse(
        exporting.lines(Publication.objects.restrict(user)),
        content_type="application/octet-stream",
        headers={"Content-Disposition": 'attachment; filename="zookeeper.jsonl"', "Cache-Control": "no-store"},
    )


def _started(request: Request, operation: Operation) -> Response:
    body = OperationSerializer(operation).data
    return Response(body, status=202, headers={"Location": operation_url(request, operation)})


urlpatterns = [
    path("zookeeper", ZooKeeperView.as_view(), name="zookeeper"),
    path("zookeeper/rebuild", RebuildView.as_view(), name="zookeeper-rebuild"),
    path("zookeeper/check", CheckView.as_view(), name="zookeeper-check"),
    path("zookeeper/export", ExportView.as_view(), name="zookeeper-export"),
]
