"""Clusters over REST."""

from typing import Any, ClassVar

from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from clusters import services
from clusters.models import Cluster, Kind
from core.api.views import NamedViewSet, actor, extend, validated


class ClusterSerializer(serializers.ModelSerializer[Cluster]):
    """A cluster as SDKs are told about it."""

    class Meta:
        model = Cluster
        fields = ["name", "kind", "address", "description", "version", "created_at", "changed_at"]


class NewClusterSerializer(serializers.Serializer[Any]):
    """A cluster to add."""

    name = serializers.CharField(trim_whitespace=False)
    kind = serializers.ChoiceField(choices=[kind for kind in Kind.choices if kind[0] != Kind.BUILTIN])
    address = serializers.CharField(max_length=2000)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ClusterChangeSerializer(serializers.Serializer[Any]):
    """What can be changed; a new address sets every dependent node again."""

    address = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)


class ClusterViewSet(NamedViewSet):
    """List, read, add clusters and change their address."""

    queryset = Cluster.objects.all()
    serializer_class = ClusterSerializer
    filterset_fields = ["kind"]
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "clusters.view_cluster",
        "retrieve": "clusters.view_cluster",
        "create": "clusters.add_cluster",
        "partial_update": "clusters.change_cluster",
    }

    @extend(NewClusterSerializer, ClusterSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Add a cluster."""
        cluster = services.create(actor=actor(request), **validated(NewClusterSerializer, request))
        return Response(ClusterSerializer(cluster).data, status=status.HTTP_201_CREATED)

    @extend(ClusterChangeSerializer, ClusterSerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Change address or description."""
        cluster = self.get_object()
        wanted = {"address": cluster.address, "description": cluster.description, **validated(ClusterChangeSerializer, request)}
        return Response(ClusterSerializer(services.change(actor=actor(request), cluster=cluster, **wanted)).data)


def register(router: BaseRouter) -> None:
    """Add this room's resources."""
    router.register("clusters", ClusterViewSet, basename="cluster")
