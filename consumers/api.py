"""Consumer groups and shadow groups over REST."""

from typing import Any, ClassVar

from django.urls import path
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from accounts.fields import application_field, owner_field
from accounts.models import Application
from consumers import push, services, shadow
from consumers.imports_api import ImportsView, ManifestView
from consumers.models import Balance, ConsumeFrom, ConsumerGroup, OnExhausted, ShadowTask
from consumers.requests import ChangeGroup, values_of
from core.api.fields import NameField, NothingSerializer, OptionalReasonSerializer, ReasonSerializer
from core.api.views import NamedViewSet, ReadViewSet, actor, extend, extend_put, validated
from core.approvals.models import Standing, State
from core.approvals.replacing import AskedSerializer, ask_for_change
from registry.status import InstanceNameSerializer, PublicationStatusSerializer, PublishedSerializer
from registry.waiting import WithPublication
from topics.api import DrainingSerializer
from topics.models import Topic
from topics.services import named


class SubscriptionSerializer(serializers.Serializer[Any]):
    """A topic with its tag expression."""

    topic = serializers.CharField()
    tags = serializers.CharField()

    def to_representation(self, instance: Any) -> Any:
        """As the statement made it: five hundred groups have thousands of these."""
        return instance


class GroupSerializer(PublishedSerializer, serializers.ModelSerializer[ConsumerGroup]):
    """A consumer group with the state of its request and of its publication."""

    application = serializers.CharField(source="application_name")
    owner = serializers.CharField(source="owner_name")
    requested_by = serializers.CharField(source="requested_by_name")
    decided_by = serializers.CharField(source="decided_by_name", allow_null=True)
    subscriptions = SubscriptionSerializer(source="subscribed", many=True)
    draining = DrainingSerializer(
        source="drained", many=True, help_text="Clusters that its topics have left and that it goes on pulling from, by topic."
    )

    class Meta:
        model = ConsumerGroup
        fields = [
            "name", "application", "owner", "subscriptions",
            "mode", "instance_ttl_hours", "consume_from", "max_attempts", "backoff_ms", "backoff_max_ms",
            "push_url", "push_concurrency", "push_timeout_ms", "max_outstanding", "on_exhausted", "balance", "reason",
            "suspended", "suspend_reason", "state", "requested_by", "requested_at", "decided_by", "decided_at", "decision_reason",
            "version", "changed_at", "draining", "status", "waited",
        ]  # fmt: skip

    @extend_schema_field(PublicationStatusSerializer(allow_null=True))
    def get_status(self, thing: ConsumerGroup) -> dict[str, Any] | None:
        """Null until it is approved."""
        return super().get_status(thing)


class NewSubscriptionSerializer(serializers.Serializer[Any]):
    """A topic to subscribe to."""

    topic = serializers.CharField(max_length=140)
    tags = serializers.CharField(
        max_length=500,
        default="*",
        help_text=r"* or a list: created || paid, or ~ and a regular expression that a whole tag matches: ~paid\..*",
    )


class GroupChangeSerializer(serializers.Serializer[Any]):
    """What a request can be edited in."""

    application = application_field()
    owner = owner_field()
    subscriptions = NewSubscriptionSerializer(many=True)
    mode = serializers.ChoiceField(
        choices=ConsumerGroup.Mode.choices,
        required=False,
        help_text="clustering if not given. It cannot be changed once the group is active.",
    )
    instance_ttl_hours = serializers.IntegerField(
        min_value=1,
        max_value=720,
        default=168,
        help_text="An instance of a broadcast group that was not seen for so long loses its position.",
    )
    consume_from = serializers.ChoiceField(
        choices=ConsumeFrom.choices,
        required=False,
        help_text="earliest if not given; latest for a broadcast group, of which it says where a new instance begins.",
    )
    max_attempts = serializers.IntegerField(min_value=1, max_value=1000, default=16)
    backoff_ms = serializers.IntegerField(min_value=0, max_value=86_400_000, default=1000)
    backoff_max_ms = serializers.IntegerField(min_value=0, max_value=86_400_000, default=600_000)
    push_url = serializers.CharField(
        max_length=500, allow_blank=True, default="", help_text="https:// address that messages are delivered to; empty: the group pulls."
    )
    push_concurrency = serializers.IntegerField(min_value=1, max_value=32, default=4, help_text="Deliveries at once.")
    push_timeout_ms = serializers.IntegerField(min_value=100, max_value=30_000, default=10_000, help_text="To answer within.")
    max_outstanding = serializers.IntegerField(
        min_value=0, max_value=100_000_000, default=0, help_text="So many messages may be in the workers' hands at once; 0: no ceiling."
    )
    on_exhausted = serializers.ChoiceField(
        choices=OnExhausted.choices,
        default=OnExhausted.DEAD_LETTER.value,
        help_text="On ordered topics a message that is out of attempts becomes a dead letter, or stops its key until a person decides.",
    )
    balance = serializers.ChoiceField(
        choices=Balance.choices,
        default=Balance.SHARED.value,
        help_text="Which of the workers that wait gets the next messages. shared: who asks first; sticky: a sharding key stays with its"
        " worker, which names itself as consumer when it pulls, and moves when that one leaves.",
    )
    reason = serializers.CharField(max_length=2000)


class GroupPutSerializer(GroupChangeSerializer):
    """A group as it shall be; the owner is the person who asks unless another is named, and stays who it is in a change."""

    owner = owner_field(required=False)


class NewGroupSerializer(GroupChangeSerializer):
    """An application for a group; the owner is the person who asks unless another is named."""

    name = serializers.CharField(trim_whitespace=False)
    owner = owner_field(required=False)


class PushSecretSerializer(serializers.Serializer[Any]):
    """What signs the deliveries from now on."""

    group = serializers.CharField()
    secret = serializers.CharField(allow_null=True, help_text="Null in a repeated answer.")


def _wanted(fields: dict[str, Any]) -> list[tuple[str, str]] | None:
    rows = fields.pop("subscriptions", None)
    return None if rows is None else [(row["topic"], row["tags"]) for row in rows]


class GroupFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    state = filters.ChoiceFilter(choices=State.choices)
    suspended = filters.BooleanFilter()
    mode = filters.ChoiceFilter(choices=ConsumerGroup.Mode.choices)
    application = filters.CharFilter("application__name")
    owner = filters.CharFilter("owner__username")
    topic = filters.CharFilter("subscriptions__topic__name")
    name_contains = filters.CharFilter("name", "icontains")


class GroupViewSet(WithPublication, NamedViewSet):
    """Apply for consumer groups, decide, suspend, resume, retire."""

    queryset = ConsumerGroup.objects.with_names()
    serializer_class = GroupSerializer
    filterset_class = GroupFilter
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "consumers.view_consumergroup",
        "retrieve": "consumers.view_consumergroup",
        "create": "consumers.add_consumergroup",
        "update": "consumers.add_consumergroup",
        "partial_update": "consumers.add_consumergroup",
        "submission": "consumers.add_consumergroup",
        "approval": "consumers.approve_consumergroup",
        "rejection": "consumers.approve_consumergroup",
        "suspension": "consumers.suspend_consumergroup",
        "resumption": "consumers.suspend_consumergroup",
        "retirement": "consumers.retire_consumergroup",
        "push_secret": "consumers.change_consumergroup",
    }
    secret_fields: ClassVar[frozenset[str]] = frozenset({"secret"})
    waits_not: ClassVar[frozenset[str]] = frozenset({"push_secret"})

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """The name in a webhook's address is looked up before any transaction begins."""
        super().initial(request, *args, **kwargs)
        if self.action in {"create", "update", "partial_update"} and isinstance(request.data, dict):
            push.look_up(request.data)

    def _answer(self, group: ConsumerGroup, code: int = status.HTTP_200_OK) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=group.pk)).data, status=code)

    @extend(NewGroupSerializer, GroupSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Apply for a consumer group."""
        fields = validated(NewGroupSerializer, request)
        fields.setdefault("owner", actor(request))
        wanted = _wanted(fields) or []
        return self._answer(services.apply(actor=actor(request), subscriptions=wanted, **fields), status.HTTP_201_CREATED)

    @extend_put(GroupPutSerializer, GroupSerializer, AskedSerializer)
    def update(self, request: Request, name: str) -> Response:
        """Apply for the group, edit a request that is not decided, or ask for a change of an active one (202)."""
        group, fields = self.to_replace(name), validated(GroupPutSerializer, request)
        rows = _wanted(fields) or []
        if group is None:
            made = services.apply(actor=actor(request), name=name, subscriptions=rows, **{"owner": actor(request), **fields})
            return self.put_answer(self._answer(made).data, made=True, changed=True)
        if group.state == State.ACTIVE:
            return self._ask_for_change(group, fields, rows)
        before = group.version
        edited = services.edit(actor=actor(request), group=group, changes=fields, subscriptions=rows)
        return self.put_answer(self._answer(edited).data, made=False, changed=edited.version != before)

    def _ask_for_change(self, group: ConsumerGroup, fields: dict[str, Any], rows: list[tuple[str, str]]) -> Response:
        wanted = {"purpose" if key == "reason" else key: named(value) for key, value in fields.items()}
        wanted["subscriptions"] = services.listed([(topic, tags.strip() or "*") for topic, tags in rows])
        request = ask_for_change(actor=actor(self.request), kind=ChangeGroup.name, thing=group, now=values_of(group), wanted=wanted)
        if request is not None and request.state == Standing.PENDING:
            return self.asked_answer(request)
        return self.put_answer(self._answer(group).data, made=False, changed=request is not None)

    @extend(GroupChangeSerializer, GroupSerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Edit a request that is not decided or was rejected."""
        group = self.get_object()
        fields = validated(GroupChangeSerializer, request, partial=True)
        wanted = _wanted(fields)
        return self._answer(services.edit(actor=actor(request), group=group, changes=fields, subscriptions=wanted))

    @extend(None, GroupSerializer)
    @action(detail=True, methods=["post"])
    def submission(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Send a rejected request again."""
        validated(NothingSerializer, request)
        return self._answer(services.resubmit(actor=actor(request), group=self.get_object()))

    @extend(OptionalReasonSerializer, GroupSerializer)
    @action(detail=True, methods=["post"])
    def approval(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Approve; not your own. With If-Match only what you have read: an edit since then is refused."""
        group, fields = self.get_object(), validated(OptionalReasonSerializer, request)
        return self._answer(services.approve(actor=actor(request), group=group, **fields))

    @extend(ReasonSerializer, GroupSerializer)
    @action(detail=True, methods=["post"])
    def rejection(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Reject with a reason."""
        return self._answer(services.reject(actor=actor(request), group=self.get_object(), **validated(ReasonSerializer, request)))

    @extend(ReasonSerializer, GroupSerializer)
    @action(detail=True, methods=["post"])
    def suspension(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Hand out nothing more."""
        return self._answer(services.suspend(actor=actor(request), group=self.get_object(), **validated(ReasonSerializer, request)))

    @extend(OptionalReasonSerializer, GroupSerializer)
    @action(detail=True, methods=["post"])
    def resumption(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Go on where it stopped."""
        return self._answer(services.resume(actor=actor(request), group=self.get_object(), **validated(OptionalReasonSerializer, request)))

    @extend(ReasonSerializer, GroupSerializer)
    @action(detail=True, methods=["post"])
    def retirement(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Retire; refused while instances are online, listing them."""
        return self._answer(services.retire(actor=actor(request), group=self.get_object(), **validated(ReasonSerializer, request)))

    @extend(NothingSerializer, PushSecretSerializer)
    @action(detail=True, methods=["post"], url_path="push-secret")
    def push_secret(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """A new secret for the webhook, shown here and nowhere else; the one before signs as well for 24 hours."""
        validated(NothingSerializer, request)
        group = self.get_object()
        return Response({"group": group.name, "secret": push.renew_secret(actor=actor(request), group=group)})


class ShadowSerializer(PublishedSerializer, serializers.ModelSerializer[ShadowTask]):
    """A shadow group: on or off, and until when."""

    application = serializers.CharField(source="application.name")
    group = serializers.CharField(source="group.name")
    topic = serializers.CharField(source="topic_name")
    owner = serializers.CharField(source="owner_name")

    class Meta:
        model = ShadowTask
        fields = [
            "id",
            "application",
            "task",
            "group",
            "topic",
            "enabled",
            "lease_until",
            "owner",
            "reason",
            "version",
            "changed_at",
            "status",
            "waited",
        ]

    @extend_schema_field(PublicationStatusSerializer(allow_null=True))
    def get_status(self, thing: ShadowTask) -> dict[str, Any] | None:
        """How far the node is."""
        return super().get_status(thing)


class ShadowDetailSerializer(ShadowSerializer):
    """The same with who runs it now."""

    running = serializers.SerializerMethodField(help_text="The shadow consumers that run now.")
    lease_not_enforced = serializers.SerializerMethodField(
        help_text="Plain ZMS clients that follow the group: for them only the control plane ends the lease."
    )

    class Meta(ShadowSerializer.Meta):
        fields = [*ShadowSerializer.Meta.fields, "running", "lease_not_enforced"]

    @extend_schema_field(InstanceNameSerializer(many=True))
    def get_running(self, thing: ShadowTask) -> Any:
        """By name."""
        return InstanceNameSerializer(shadow.running(thing, self.context["request"].user), many=True).data

    @extend_schema_field(InstanceNameSerializer(many=True))
    def get_lease_not_enforced(self, thing: ShadowTask) -> Any:
        """By name."""
        return InstanceNameSerializer(shadow.unleased(thing, self.context["request"].user), many=True).data


class StopAllSerializer(ReasonSerializer):
    """Which to stop: all, or those of an application or of a stress test."""

    application = NameField(queryset=Application.objects.all(), required=False)
    task = serializers.CharField(max_length=140, required=False)


class StoppedSerializer(serializers.Serializer[Any]):
    """What was on and is off now."""

    stopped = serializers.IntegerField()
    shadow_tasks = serializers.ListField(child=serializers.CharField(), help_text="application/task/group")


class NewShadowSerializer(serializers.Serializer[Any]):
    """A shadow group to add; it is off at first."""

    application = NameField(queryset=Application.objects.all())
    task = serializers.CharField(max_length=140)
    group = NameField(queryset=ConsumerGroup.objects.select_related("application"), permission="consumers.view_consumergroup")
    topic = NameField(queryset=Topic.objects.all())


class StartSerializer(serializers.Serializer[Any]):
    """A lease."""

    minutes = serializers.IntegerField(min_value=1, max_value=shadow.MAX_MINUTES, help_text="It ends by itself after so many.")
    reason = serializers.CharField(max_length=2000)


class ShadowFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    application = filters.CharFilter("application__name")
    task = filters.CharFilter()
    group = filters.CharFilter("group__name")
    enabled = filters.BooleanFilter()


class ShadowViewSet(WithPublication, ReadViewSet):
    """Shadow groups of applications in stress tests."""

    queryset = ShadowTask.objects.with_names()
    serializer_class = ShadowSerializer
    filterset_class = ShadowFilter
    lookup_value_regex = r"\d+"
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "consumers.view_shadowtask",
        "retrieve": "consumers.view_shadowtask",
        "create": "consumers.add_shadowtask",
        "start": "consumers.switch_shadowtask",
        "stop": "consumers.switch_shadowtask",
        "stop_all": "consumers.switch_shadowtask",
    }
    waits_not: ClassVar[frozenset[str]] = frozenset({"stop_all"})

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """Who runs it only in the detail."""
        return ShadowDetailSerializer if self.action == "retrieve" else ShadowSerializer

    def _answer(self, task: ShadowTask, code: int = status.HTTP_200_OK) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=task.pk)).data, status=code)

    @extend(NewShadowSerializer, ShadowSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Add a shadow group, off."""
        return self._answer(shadow.create(actor=actor(request), **validated(NewShadowSerializer, request)), status.HTTP_201_CREATED)

    @extend(StartSerializer, ShadowSerializer)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Switch on, for so many minutes."""
        return self._answer(shadow.start(actor=actor(request), shadow=self.get_object(), **validated(StartSerializer, request)))

    @extend(ReasonSerializer, ShadowSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Switch off."""
        return self._answer(shadow.stop(actor=actor(request), shadow=self.get_object(), **validated(ReasonSerializer, request)))

    @extend(StopAllSerializer, StoppedSerializer)
    @action(detail=False, methods=["post"], url_path="stop-all")
    def stop_all(self, request: Request) -> Response:
        """Switch all off that are within your reach, or those of an application, a stress test, or both."""
        fields = validated(StopAllSerializer, request)
        application = fields.pop("application", None)
        stopped = shadow.stop_all(actor=actor(request), application=application.name if application else "", **fields)
        return Response({"stopped": len(stopped), "shadow_tasks": [str(one) for one in stopped]})


urlpatterns = [
    path("imports", ImportsView.as_view(), name="imports"),
    path("manifest", ManifestView.as_view(), name="manifest"),
]


def register(router: BaseRouter) -> None:
    """Add this room's resources."""
    router.register("consumer-groups", GroupViewSet, basename="consumer-group")
    router.register("shadow-tasks", ShadowViewSet, basename="shadow-task")
