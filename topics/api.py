"""Topics over REST."""

from typing import Any, ClassVar

from django.urls import path
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from accounts.fields import application_field, owner_field
from clusters.models import Cluster
from core.api.fields import NameField, NothingSerializer, OptionalReasonSerializer, ReasonSerializer, WrittenTimeField
from core.api.views import NamedViewSet, actor, extend, extend_put, validated
from core.approvals.models import Standing, State
from core.approvals.replacing import AskedSerializer, ask_for_change
from core.errors import conflict
from registry.status import PublicationStatusSerializer, PublishedSerializer
from registry.waiting import WithPublication
from topics import draining, moving, services
from topics.fleet_api import ClusterMovesView
from topics.models import OrderScope, Retention, Topic
from topics.requests import ChangeTopic, values_of


class DrainingSerializer(serializers.Serializer[Any]):
    """A cluster that a topic has left, and that may still hold messages of it: its groups go on pulling from there."""

    topic = serializers.CharField()
    cluster = serializers.CharField()
    since = WrittenTimeField(help_text="When the topic left it.")
    until = WrittenTimeField(
        allow_null=True, help_text="When it ends by itself; null: when the built-in store proves it to be empty, or when somebody ends it."
    )


class TopicSerializer(PublishedSerializer, serializers.ModelSerializer[Topic]):
    """A topic with the state of its request and of its publication."""

    application = serializers.CharField(source="application_name")
    owner = serializers.CharField(source="owner_name")
    cluster = serializers.CharField(source="cluster_name", allow_null=True)
    draining = DrainingSerializer(
        source="drained", many=True, help_text="Clusters that it has left and that may still hold messages of it."
    )
    requested_by = serializers.CharField(source="requested_by_name")
    decided_by = serializers.CharField(source="decided_by_name", allow_null=True)

    class Meta:
        model = Topic
        fields = [
            "name", "application", "owner", "expected_rate", "message_bytes", "partitions", "ordered", "order_scope", "max_backlog",
            "ttl_seconds", "max_length", "retention", "retention_hours", "retention_mib", "reason", "cluster", "state",
            "requested_by", "requested_at", "decided_by", "decided_at", "decision_reason", "version", "changed_at", "draining",
            "status", "waited",
        ]  # fmt: skip

    @extend_schema_field(PublicationStatusSerializer(allow_null=True))
    def get_status(self, thing: Topic) -> dict[str, Any] | None:
        """Null until it is approved."""
        return super().get_status(thing)


class TopicChangeSerializer(serializers.Serializer[Any]):
    """What a request can be edited in."""

    application = application_field()
    owner = owner_field()
    expected_rate = serializers.IntegerField(min_value=0, max_value=10_000_000, help_text="messages per second")
    message_bytes = serializers.IntegerField(min_value=1, max_value=16 * 1024 * 1024)
    partitions = serializers.IntegerField(min_value=1, max_value=4096, default=1)
    ordered = serializers.BooleanField(default=False, help_text="Messages are handed out in the order in which they were sent.")
    order_scope = serializers.ChoiceField(
        choices=OrderScope.choices,
        default=OrderScope.KEY.value,
        help_text="Of an ordered topic on the built-in store: each sharding key is in an order of its own, or all of the topic in one.",
    )
    max_backlog = serializers.IntegerField(
        min_value=0,
        max_value=2_000_000_000,
        default=0,
        help_text="Sends are refused (429) while so many messages wait for a group; 0: never.",
    )
    ttl_seconds = serializers.IntegerField(
        min_value=0,
        max_value=31_536_000,
        default=0,
        help_text="A group's dead letters are what it has not taken by then (expired); 0: none.",
    )
    max_length = serializers.IntegerField(
        min_value=0,
        max_value=2_000_000_000,
        default=0,
        help_text="When more wait for a group, the oldest become dead letters of it (crowded_out); 0: any number.",
    )
    retention = serializers.ChoiceField(
        choices=Retention.choices,
        default=Retention.STORE.value,
        help_text="When messages go from the built-in store. `store`: a week after no group needs them any more. `done`: when all groups"
        " are done with them, and they are beyond the age or the size, if one is given. `limit`: when they are beyond the age or the size,"
        " done or not: what a group has not taken by then is skipped.",
    )
    retention_hours = serializers.IntegerField(
        min_value=0, max_value=87_600, default=0, help_text="The age at which messages go, and to which they are kept; 0: none."
    )
    retention_mib = serializers.IntegerField(
        min_value=0,
        max_value=1_000_000_000,
        default=0,
        help_text="The size in MiB beyond which the oldest go, estimated from samples; 0: any size.",
    )
    reason = serializers.CharField(max_length=2000)


class TopicPutSerializer(TopicChangeSerializer):
    """A topic as it shall be; the owner is the person who asks unless another is named, and stays who it is in a change."""

    owner = owner_field(required=False)


class TopicRetirementSerializer(ReasonSerializer):
    """Retiring a topic."""

    cancel_delayed = serializers.BooleanField(default=False, help_text="Cancel the delayed messages that wait; without it they refuse it.")


class NewTopicSerializer(TopicChangeSerializer):
    """An application for a topic; the owner is the person who asks unless another is named."""

    name = serializers.CharField(trim_whitespace=False)
    owner = owner_field(required=False)


class ApprovalSerializer(OptionalReasonSerializer):
    """An approval allocates the topic."""

    cluster = NameField(queryset=Cluster.objects.all())


class MoveSerializer(serializers.Serializer[Any]):
    """Another cluster for an active topic."""

    cluster = NameField(queryset=Cluster.objects.all())
    reason = serializers.CharField(max_length=2000)
    accept_warnings = serializers.BooleanField(
        default=False, help_text="Move in spite of what confirmation_needed says: limits of the cluster, what it does not know."
    )


class DrainedClusterSerializer(ReasonSerializer):
    """A cluster that holds nothing more of the topic, and why you know."""

    cluster = NameField(queryset=Cluster.objects.all())


class TopicFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    state = filters.ChoiceFilter(choices=State.choices)
    cluster = filters.CharFilter("cluster__name")
    draining = filters.CharFilter("draining__cluster__name", label="Has left this cluster, which is still drained of it.")
    application = filters.CharFilter("application__name")
    owner = filters.CharFilter("owner__username")
    name_contains = filters.CharFilter("name", "icontains")


class TopicViewSet(WithPublication, NamedViewSet):
    """Apply for topics, decide, allocate, move, retire."""

    queryset = Topic.objects.with_names()
    serializer_class = TopicSerializer
    filterset_class = TopicFilter
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "topics.view_topic",
        "retrieve": "topics.view_topic",
        "create": "topics.add_topic",
        "update": "topics.add_topic",
        "partial_update": "topics.add_topic",
        "submission": "topics.add_topic",
        "approval": "topics.approve_topic",
        "rejection": "topics.approve_topic",
        "moves": "topics.move_topic",
        "drained_clusters": "topics.move_topic",
        "retirement": "topics.retire_topic",
    }

    def _answer(self, topic: Topic, code: int = status.HTTP_200_OK) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=topic.pk)).data, status=code)

    @extend(NewTopicSerializer, TopicSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Apply for a topic."""
        fields = validated(NewTopicSerializer, request)
        fields.setdefault("owner", actor(request))
        return self._answer(services.apply(actor=actor(request), **fields), status.HTTP_201_CREATED)

    @extend_put(TopicPutSerializer, TopicSerializer, AskedSerializer)
    def update(self, request: Request, name: str) -> Response:
        """Apply for the topic, edit a request that is not decided, or ask for a change of an active one (202)."""
        topic, fields = self.to_replace(name), validated(TopicPutSerializer, request)
        if topic is None:
            made = services.apply(actor=actor(request), name=name, **{"owner": actor(request), **fields})
            return self.put_answer(self._answer(made).data, made=True, changed=True)
        if topic.state == State.ACTIVE:
            return self._ask_for_change(topic, fields)
        before = topic.version
        edited = services.edit(actor=actor(request), topic=topic, changes=fields)
        return self.put_answer(self._answer(edited).data, made=False, changed=edited.version != before)

    def _ask_for_change(self, topic: Topic, fields: dict[str, Any]) -> Response:
        wanted = {"purpose" if key == "reason" else key: services.named(value) for key, value in fields.items()}
        if (wanted.pop("ordered"), wanted.pop("order_scope")) != (topic.ordered, topic.order_scope):
            raise conflict("order_is_fixed", _("Whether a topic is ordered cannot be changed."), hint=_("Apply for another topic."))
        request = ask_for_change(actor=actor(self.request), kind=ChangeTopic.name, thing=topic, now=values_of(topic), wanted=wanted)
        if request is not None and request.state == Standing.PENDING:
            return self.asked_answer(request)
        return self.put_answer(self._answer(topic).data, made=False, changed=request is not None)

    @extend(TopicChangeSerializer, TopicSerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Edit a request that is not decided or was rejected."""
        topic = self.get_object()
        return self._answer(
            services.edit(actor=actor(request), topic=topic, changes=validated(TopicChangeSerializer, request, partial=True))
        )

    @extend(None, TopicSerializer)
    @action(detail=True, methods=["post"])
    def submission(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Send a rejected request again."""
        validated(NothingSerializer, request)
        return self._answer(services.resubmit(actor=actor(request), topic=self.get_object()))

    @extend(ApprovalSerializer, TopicSerializer)
    @action(detail=True, methods=["post"])
    def approval(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Approve and allocate; not your own. With If-Match only what you have read: an edit since then is refused."""
        topic, fields = self.get_object(), validated(ApprovalSerializer, request)
        return self._answer(services.approve(actor=actor(request), topic=topic, **fields))

    @extend(ReasonSerializer, TopicSerializer)
    @action(detail=True, methods=["post"])
    def rejection(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Reject with a reason."""
        return self._answer(services.reject(actor=actor(request), topic=self.get_object(), **validated(ReasonSerializer, request)))

    @extend(MoveSerializer, TopicSerializer)
    @action(detail=True, methods=["post"])
    def moves(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Assign the topic to another cluster (metadata: SDKs rebuild; messages stay where they are, and groups drain them there)."""
        return self._answer(moving.move(actor=actor(request), topic=self.get_object(), **validated(MoveSerializer, request)))

    @extend(DrainedClusterSerializer, TopicSerializer)
    @action(detail=True, methods=["post"], url_path="drained-clusters")
    def drained_clusters(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Say that a cluster which the topic has left holds nothing more of it: groups let go of it. What is there all the same stays."""
        fields = validated(DrainedClusterSerializer, request)
        return self._answer(draining.end(actor=actor(request), topic=self.get_object(), **fields))

    @extend(TopicRetirementSerializer, TopicSerializer)
    @action(detail=True, methods=["post"])
    def retirement(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Retire; refused while instances are online or groups bound, listing them, and while delayed messages wait."""
        fields = validated(TopicRetirementSerializer, request)
        return self._answer(services.retire(actor=actor(request), topic=self.get_object(), **fields))


urlpatterns = [path("clusters/<str:name>/moves", ClusterMovesView.as_view(), name="cluster-moves")]


def register(router: BaseRouter) -> None:
    """Add this room's resources."""
    router.register("topics", TopicViewSet, basename="topic")
