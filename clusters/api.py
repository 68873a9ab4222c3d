"""Clusters over REST."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from clusters import probing, services
from clusters.models import Cluster, Kind
from core.api.dry_run import Warn
from core.api.permissions import require
from core.api.views import NamedViewSet, actor, extend, extend_put, validated
from core.errors import conflict

PROXIES = "RocketMQ only: its gRPC proxies, host:port;host:port, which Python applications need."
BROKERS = [kind for kind in Kind.choices if kind[0] != Kind.BUILTIN]


class ClusterSerializer(serializers.ModelSerializer[Cluster]):
    """A cluster as SDKs are told about it."""

    class Meta:
        model = Cluster
        fields = ["name", "kind", "address", "proxy_address", "description", *services.LIMITS, "version", "created_at", "changed_at"]


def _limit(name: str, unit: str) -> serializers.IntegerField:
    most = services.LIMITS[name]
    return serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=most, help_text=f"{unit}; null: not known.")


class LimitsSerializer(serializers.Serializer[Any]):
    """What the cluster takes; a topic that is more than that has to be approved expressly."""

    max_topics = _limit("max_topics", "topics")
    max_rate = _limit("max_rate", "messages per second")
    max_bytes_per_second = _limit("max_bytes_per_second", "bytes per second")
    max_partitions = _limit("max_partitions", "partitions")


class NewClusterSerializer(LimitsSerializer):
    """A cluster to add."""

    name = serializers.CharField(trim_whitespace=False)
    kind = serializers.ChoiceField(choices=BROKERS)
    address = serializers.CharField(max_length=2000)
    proxy_address = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="", help_text=PROXIES)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ClusterChangeSerializer(LimitsSerializer):
    """What can be changed; a new address sets every dependent node again."""

    address = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    proxy_address = serializers.CharField(max_length=2000, required=False, allow_blank=True, help_text=PROXIES)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)


class ClusterPutSerializer(LimitsSerializer):
    """A cluster as it shall be; its kind cannot be changed."""

    kind = serializers.ChoiceField(choices=Kind.choices)
    address = serializers.CharField(max_length=2000, allow_blank=True)
    proxy_address = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="", help_text=PROXIES)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ClusterViewSet(NamedViewSet):
    """List, read, add, change and delete clusters."""

    queryset = Cluster.objects.all()
    serializer_class = ClusterSerializer
    filterset_fields = ["kind"]
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "clusters.view_cluster",
        "retrieve": "clusters.view_cluster",
        "create": "clusters.add_cluster",
        "update": "clusters.add_cluster",
        "partial_update": "clusters.change_cluster",
        "destroy": "clusters.delete_cluster",
    }

    @extend(NewClusterSerializer, ClusterSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Add a cluster."""
        cluster = services.create(actor=actor(request), **validated(NewClusterSerializer, request))
        return Response(ClusterSerializer(cluster).data, status=status.HTTP_201_CREATED)

    @extend_put(ClusterPutSerializer, ClusterSerializer)
    def update(self, request: Request, name: str) -> Response:
        """Add the cluster, or change it to be so; a new address sets every dependent node again."""
        found, fields = self.to_replace(name), validated(ClusterPutSerializer, request)
        if found is None:
            made = services.create(actor=actor(request), name=name, **fields)
            return self.put_answer(ClusterSerializer(made).data, made=True, changed=True)
        require(request.user, "clusters.change_cluster")
        if fields.pop("kind") != found.kind:
            hint = _("Add another cluster under another name, and move the topics there.")
            raise conflict("kind_is_fixed", _("The kind of a cluster cannot be changed."), hint=hint)
        changed = services.change(actor=actor(request), cluster=found, **fields)
        return self.put_answer(ClusterSerializer(changed).data, made=False, changed=changed.version != found.version)

    @extend(ClusterChangeSerializer, ClusterSerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Change address, description or limits."""
        cluster = self.get_object()
        wanted = {"address": cluster.address, "description": cluster.description, **validated(ClusterChangeSerializer, request)}
        return Response(ClusterSerializer(services.change(actor=actor(request), cluster=cluster, **wanted)).data)

    @extend(None, None, status.HTTP_204_NO_CONTENT)
    def destroy(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Delete a cluster that has no topics; those that it has are listed otherwise."""
        services.delete(actor=actor(request), cluster=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    def probe(self, request: Request) -> list[Warn]:
        """Whether somebody listens at the address of the body."""
        address = request.data.get("address") if isinstance(request.data, dict) else None
        return probing.probe(address) if isinstance(address, str) else []


def register(router: BaseRouter) -> None:
    """Add this room's resources."""
    router.register("clusters", ClusterViewSet, basename="cluster")
