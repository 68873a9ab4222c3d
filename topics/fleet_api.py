"""Moving everything that is on a cluster over REST."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from clusters.models import Cluster
from core.api.conventions import View
from core.api.fields import NameField, ReasonSerializer
from core.api.views import actor, validated
from core.bulk.api import rate_field
from core.operations.api import OperationSerializer, operation_url
from topics import fleet


class FleetMoveSerializer(ReasonSerializer):
    """Where the topics go, why, and how fast."""

    cluster = NameField(queryset=Cluster.objects.all(), help_text="Where they go.")
    accept_warnings = serializers.BooleanField(default=False, help_text="Move also what the cluster is too small for, or does not know.")
    rate = rate_field()


class RefusedTopicSerializer(serializers.Serializer[Any]):
    """A topic that stays, and why."""

    name = serializers.CharField()
    code = serializers.CharField()
    detail = serializers.CharField()


class FleetPlanSerializer(serializers.Serializer[Any]):
    """What the move does, as it was told before it began."""

    topics = serializers.IntegerField(help_text="Active topics on the cluster.")
    movable = serializers.IntegerField(help_text="Those of them that can be moved.")
    refused_count = serializers.IntegerField()
    refused = RefusedTopicSerializer(many=True, help_text=f"The first {fleet.SHOWN} that cannot be moved.")
    groups = serializers.IntegerField(help_text="Consumer groups that follow.")
    instances = serializers.IntegerField(allow_null=True, help_text="Online on these topics and groups; null: no registrar is watching.")
    plain_clients = serializers.IntegerField(allow_null=True, help_text="Plain ZMS clients among them.")


class FleetMoveAnswerSerializer(serializers.Serializer[Any]):
    """The plan, and the operation that carries it out."""

    plan = FleetPlanSerializer()
    operation = OperationSerializer()


class ClusterMovesView(View):
    """Move everything that is on a cluster."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "topics.move_topic"}
    versioned: ClassVar[bool] = False

    @extend_schema(
        operation_id="clusters_moves_create",
        request=FleetMoveSerializer,
        responses={202: OpenApiResponse(FleetMoveAnswerSerializer, "An operation does it; Location names it.")},
    )
    def post(self, request: Request, name: str) -> Response:
        """Move all topics of this cluster to another one, with the groups that follow. With dry_run the plan, and nothing is moved."""
        source = get_object_or_404(Cluster.objects.restrict(request.user, "clusters.view_cluster"), name=name)
        fields = validated(FleetMoveSerializer, request)
        person, rate, reason = actor(request), fields.pop("rate", None), fields.pop("reason")
        plan = fleet.plan(actor=person, source=source, **fields)
        operation = fleet.start(actor=person, source=source, reason=reason, rate=rate, **fields)
        document = {
            "plan": {
                "topics": plan.topics,
                "movable": plan.movable,
                "refused_count": plan.refused_count,
                "refused": [{"name": name, "code": problem.code, "detail": str(problem.detail)} for name, problem in plan.refused],
                "groups": plan.groups,
                "instances": plan.instances,
                "plain_clients": plan.plain_clients,
            },
            "operation": OperationSerializer(operation, context={"request": request}).data,
        }
        return Response(document, status=202, headers={"Location": operation_url(request, operation)})
