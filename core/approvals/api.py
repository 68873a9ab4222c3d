"""Requests over REST: ask, edit, comment, decide; and the policies and notification targets around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.utils import timezone
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request as Call
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from core.api.fields import NothingSerializer, OptionalReasonSerializer, ReasonSerializer
from core.api.views import ReadViewSet, actor, extend, validated
from core.approvals import kinds, outbox, policies, targets, workflow
from core.approvals.models import Channel, Comment, Event, NotificationDelivery, NotificationTarget, Policy, Request, Standing
from core.errors import FieldError, Problem

NUMBER = r"\d{1,18}"


class CommentSerializer(serializers.ModelSerializer[Comment]):
    """A line of the thread; `by` is null for mqadmin itself and for policies."""

    by = serializers.CharField(source="author.username", default=None, allow_null=True)

    class Meta:
        model = Comment
        fields = ["event", "by", "at", "text"]


class DiffSerializer(serializers.Serializer[Any]):
    """One field that is asked for; `old` is null for a new thing."""

    field = serializers.CharField()
    old = serializers.JSONField(allow_null=True)
    new = serializers.JSONField()


class RequestSerializer(serializers.ModelSerializer[Request]):
    """What somebody asks for, and what became of it."""

    application = serializers.CharField(source="application.name", default=None, allow_null=True)
    owner = serializers.CharField(source="owner.username", default=None, allow_null=True)
    requested_by = serializers.CharField(source="requested_by.username")
    decided_by = serializers.CharField(source="decided_by.username", default=None, allow_null=True)
    payload = serializers.DictField(help_text="As asked for; of a change what differs.")
    outcome = serializers.DictField(help_text="What the decision added, such as the cluster.")
    diff = serializers.SerializerMethodField()
    age_seconds = serializers.SerializerMethodField(help_text="How long it waited, or has waited so far.")
    overdue = serializers.BooleanField(source="is_overdue")

    class Meta:
        model = Request
        fields = [
            "id", "kind", "target", "application", "owner", "payload", "diff", "base_version", "reason", "state", "requested_by",
            "requested_at", "age_seconds", "overdue", "decided_by", "decided_at", "decision_reason", "policy", "outcome", "version",
            "changed_at",
        ]  # fmt: skip

    @extend_schema_field(DiffSerializer(many=True))
    def get_diff(self, request: Request) -> list[dict[str, Any]]:
        """Old and new of each field."""
        return [{key: row[key] for key in ("field", "old", "new")} for row in kinds.of(request).diff(request)]

    def get_age_seconds(self, request: Request) -> int:
        """Whole seconds."""
        return max(0, int(((request.decided_at or timezone.now()) - request.requested_at).total_seconds()))


class RequestDetailSerializer(RequestSerializer):
    """With its thread, and whether the target was changed since."""

    comments = CommentSerializer(many=True)
    stale = serializers.SerializerMethodField(help_text="The target of the change is no longer what the requester saw.")

    class Meta(RequestSerializer.Meta):
        fields = [*RequestSerializer.Meta.fields, "stale", "comments"]

    def get_stale(self, request: Request) -> bool:
        """Approval would be refused."""
        return workflow.is_stale(request)


class NewRequestSerializer(serializers.Serializer[Any]):
    """A change or a retirement to ask for; new topics and groups are asked for in their own collections."""

    kind = serializers.CharField(max_length=40, help_text="topic.change, topic.retire, group.change, group.retire, …")
    target = serializers.CharField(max_length=250, trim_whitespace=False)
    payload = serializers.DictField(required=False, default=dict, help_text="The fields that shall change.")
    reason = serializers.CharField(max_length=2000)


class EditSerializer(serializers.Serializer[Any]):
    """What is asked for instead; fields that are not sent stay, null takes one back. An empty object rebases it on the target as it is."""

    payload = serializers.DictField(required=False)
    reason = serializers.CharField(max_length=2000, required=False)


class ApproveSerializer(OptionalReasonSerializer):
    """An approval, with what the kind wants of the approver."""

    values = serializers.DictField(required=False, default=dict, help_text='For a new topic: {"cluster": NAME}.')
    accept_warnings = serializers.BooleanField(required=False, default=False, help_text="Although a cluster would be over its limit.")


class CommentBodySerializer(serializers.Serializer[Any]):
    """Something to say."""

    text = serializers.CharField(max_length=4000)


class MeasureSerializer(serializers.Serializer[Any]):
    """One dimension of a cluster; `limit` is null while nobody has set one."""

    measure = serializers.CharField()
    used = serializers.IntegerField()
    after = serializers.IntegerField()
    limit = serializers.IntegerField(allow_null=True)
    over = serializers.BooleanField()


class PlaceSerializer(serializers.Serializer[Any]):
    """A cluster with what is asked for on it."""

    cluster = serializers.CharField()
    kind = serializers.CharField()
    recommended = serializers.BooleanField()
    fits = serializers.BooleanField()
    limits_known = serializers.BooleanField(help_text="false: no limit is set, so nobody knows.")
    why_not = serializers.ListField(child=serializers.CharField())
    measures = MeasureSerializer(many=True)


class PlacementSerializer(serializers.Serializer[Any]):
    """All clusters, the recommended one first."""

    places = PlaceSerializer(many=True)


class RequestFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    state = filters.ChoiceFilter(choices=Standing.choices)
    kind = filters.CharFilter()
    application = filters.CharFilter("application__name")
    requested_by = filters.CharFilter("requested_by__username")
    target = filters.CharFilter()
    overdue = filters.BooleanFilter(method="only_overdue")

    def only_overdue(self, rows: Any, _name: str, value: bool) -> Any:
        """What has waited too long, or all the rest."""
        late = Request.objects.overdue().values("pk")
        return rows.filter(pk__in=late) if value else rows.exclude(pk__in=late)


@contextmanager
def below(pointer: str) -> Iterator[None]:
    """Problems of a part of the body name their fields from its beginning."""
    try:
        yield
    except Problem as problem:
        own = {"/reason", "/kind", "/target"}
        problem.errors = tuple(
            error if error.pointer in own else FieldError(f"{pointer}{error.pointer.rstrip('/')}", error.detail) for error in problem.errors
        )
        raise


class RequestViewSet(ReadViewSet):
    """Ask for changes and retirements, edit, comment, withdraw, approve, decline. Newest first."""

    queryset = Request.objects.select_related("application", "owner", "requested_by", "decided_by")
    serializer_class = RequestSerializer
    filterset_class = RequestFilter
    lookup_value_regex = NUMBER
    page_order: ClassVar[str] = "-pk"
    # Who may ask for it, and decide it, is each kind's to say: the service checks that.
    permissions_by_action: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            "list", "retrieve", "placement", "create", "partial_update", "submission", "withdrawal", "comments", "approval", "rejection",
        ),
        "approvals.view_request",
    )  # fmt: skip
    observed: ClassVar[frozenset[str]] = frozenset({"age_seconds"})

    def initial(self, request: Call, *args: Any, **kwargs: Any) -> None:
        """What has to be asked of the network about a payload is asked before any transaction begins."""
        super().initial(request, *args, **kwargs)
        body = request.data if self.action in {"create", "partial_update"} and isinstance(request.data, dict) else {}
        if isinstance(payload := body.get("payload"), dict):
            seen = (
                body.get("kind")
                if self.action == "create"
                else self.get_queryset().filter(pk=kwargs["pk"]).values_list("kind", flat=True).first()
            )
            if isinstance(seen, str) and seen in dict(kinds.choices()):
                with below("/payload"):
                    kinds.get(seen).look_up(payload)

    def get_serializer_class(self) -> Any:
        """The thread in the detail only."""
        return RequestDetailSerializer if self.action == "retrieve" else RequestSerializer

    def get_queryset(self) -> Any:
        """The thread with it."""
        rows = super().get_queryset()
        return rows.prefetch_related("comments__author") if self.action == "retrieve" else rows

    def _answer(self, request: Request, code: int = status.HTTP_200_OK) -> Response:
        # A key is not restricted to what may be viewed: who changed it sees it.
        found = Request.objects.select_related("application", "owner", "requested_by", "decided_by").prefetch_related("comments__author")
        return Response(RequestDetailSerializer(found.get(pk=request.pk)).data, status=code)

    @extend(NewRequestSerializer, RequestDetailSerializer, status.HTTP_201_CREATED)
    def create(self, call: Call) -> Response:
        """Ask for a change or a retirement; a policy that fits approves it at once, and is named."""
        fields = validated(NewRequestSerializer, call)
        if fields["kind"] in {"topic.create", "group.create"}:
            detail = _("New topics and groups are asked for with POST /topics and POST /consumer-groups.")
            raise Problem("invalid", detail, errors=[FieldError("/kind", detail)])
        with below("/payload"):
            return self._answer(workflow.submit(actor=actor(call), **fields), status.HTTP_201_CREATED)

    @extend(EditSerializer, RequestDetailSerializer)
    def partial_update(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Edit it until it is decided; after a decline that sends it again. Also rebases a change on what its target is now."""
        request, fields = self.get_object(), validated(EditSerializer, call, partial=True)
        with below("/payload"):
            return self._answer(workflow.edit(actor=actor(call), request=request, version=request.version, **fields))

    @extend(NothingSerializer, RequestDetailSerializer)
    @action(detail=True, methods=["post"])
    def submission(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Send a declined request again, as it is."""
        request = self.get_object()
        validated(NothingSerializer, call)
        return self._answer(workflow.resubmit(actor=actor(call), request=request, version=request.version))

    @extend(OptionalReasonSerializer, RequestDetailSerializer)
    @action(detail=True, methods=["post"])
    def withdrawal(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Take it back; a name that it reserved is free again."""
        request = self.get_object()
        fields = validated(OptionalReasonSerializer, call)
        return self._answer(workflow.withdraw(actor=actor(call), request=request, version=request.version, **fields))

    @extend(CommentBodySerializer, RequestDetailSerializer, status.HTTP_201_CREATED)
    @action(detail=True, methods=["post"])
    def comments(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Say something in the thread."""
        request = self.get_object()
        workflow.comment(actor=actor(call), request=request, **validated(CommentBodySerializer, call))
        return self._answer(request, status.HTTP_201_CREATED)

    @extend(ApproveSerializer, RequestDetailSerializer)
    @action(detail=True, methods=["post"])
    def approval(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Approve and apply; not your own. With If-Match only what you have read: an edit since then is refused."""
        request, fields = self.get_object(), validated(ApproveSerializer, call)
        with below("/values"):
            return self._answer(workflow.approve(actor=actor(call), request=request, version=request.version, **fields))

    @extend(ReasonSerializer, RequestDetailSerializer)
    @action(detail=True, methods=["post"])
    def rejection(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Decline with a reason; it can be edited and sent again."""
        request, fields = self.get_object(), validated(ReasonSerializer, call)
        return self._answer(workflow.decline(actor=actor(call), request=request, version=request.version, **fields))

    @extend(None, PlacementSerializer)
    @action(detail=True, methods=["get"])
    def placement(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """What each cluster has promised, what it takes, and which one is recommended; of requests about topics."""
        request = self.get_object()
        places = kinds.of(request).places(request)
        if places is None:
            raise Problem("no_placement", _("What this asks for is not placed on a cluster."), status=404)
        return Response({"places": places})


class PolicySerializer(serializers.ModelSerializer[Policy]):
    """What is approved without a person: all that is filled in must fit."""

    kinds = serializers.ListField(child=serializers.CharField())
    applications = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]
    changed_by = serializers.CharField(source="changed_by.username")

    class Meta:
        model = Policy
        fields = ["id", *policies.FIELDS, "applications", "changed_by", "version", "changed_at"]


class NewPolicySerializer(serializers.Serializer[Any]):
    """A policy to add, or what changes in one."""

    name = serializers.CharField(max_length=120)
    enabled = serializers.BooleanField(required=False, default=True)
    position = serializers.IntegerField(required=False, default=100, min_value=0, max_value=9999)
    kinds = serializers.ListField(child=serializers.CharField(max_length=40), max_length=50)
    name_pattern = serializers.CharField(max_length=120, required=False, default="*")
    applications = serializers.ListField(child=serializers.CharField(max_length=120), required=False, default=list, max_length=200)
    environment = serializers.CharField(max_length=40, required=False, allow_blank=True, default="")
    max_rate = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0, max_value=2**31 - 1)
    max_message_bytes = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0, max_value=2**31 - 1)
    max_partitions = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0, max_value=2**31 - 1)
    cluster = serializers.CharField(max_length=120, required=False, allow_blank=True, default="")
    retirement = serializers.BooleanField(required=False, default=False)
    note = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="")


class PolicyViewSet(ReadViewSet):
    """Policies, in the order in which they are asked."""

    queryset = Policy.objects.select_related("changed_by").prefetch_related("applications").order_by("pk")
    serializer_class = PolicySerializer
    lookup_value_regex = NUMBER
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "approvals.view_policy",
        "retrieve": "approvals.view_policy",
        "create": "approvals.add_policy",
        "partial_update": "approvals.change_policy",
        "destroy": "approvals.delete_policy",
    }

    @extend(NewPolicySerializer, PolicySerializer, status.HTTP_201_CREATED)
    def create(self, call: Call) -> Response:
        """Add a policy; it decides on what is submitted from then on, but never for who wrote it."""
        made = policies.create(actor=actor(call), **validated(NewPolicySerializer, call))
        return Response(PolicySerializer(made).data, status=status.HTTP_201_CREATED)

    @extend(NewPolicySerializer, PolicySerializer)
    def partial_update(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Change a policy."""
        policy = self.get_object()
        fields = validated(NewPolicySerializer, call, partial=True)
        return Response(PolicySerializer(policies.change(actor=actor(call), policy=policy, version=policy.version, **fields)).data)

    @extend(None, None, status.HTTP_204_NO_CONTENT)
    def destroy(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Take a policy away; what it has approved stays approved."""
        policy = self.get_object()
        policies.delete(actor=actor(call), policy=policy, version=policy.version)
        return Response(status=status.HTTP_204_NO_CONTENT)


class TargetSerializer(serializers.ModelSerializer[NotificationTarget]):
    """Where notifications go; the secret of a webhook is shown once, when it is made."""

    events = serializers.ListField(child=serializers.CharField(), help_text="Empty: all.")

    class Meta:
        model = NotificationTarget
        fields = ["id", "name", "channel", "address", "events", "enabled", "version", "changed_at"]


class MadeTargetSerializer(TargetSerializer):
    """With the secret that signs, once."""

    secret = serializers.CharField(allow_null=True, help_text="Signs each delivery (HMAC-SHA256); null for mail. Not shown again.")

    class Meta(TargetSerializer.Meta):
        fields = [*TargetSerializer.Meta.fields, "secret"]


class TargetChangeSerializer(serializers.Serializer[Any]):
    """What changes in a target."""

    name = serializers.CharField(max_length=120)
    address = serializers.CharField(max_length=500)
    events = serializers.ListField(child=serializers.ChoiceField(choices=[str(event) for event in targets.EVENTS]), max_length=10)
    enabled = serializers.BooleanField()


class NewTargetSerializer(TargetChangeSerializer):
    """A target to add."""

    channel = serializers.ChoiceField(choices=Channel.choices)
    events = serializers.ListField(
        child=serializers.ChoiceField(choices=[str(event) for event in targets.EVENTS]), required=False, default=list, max_length=10
    )
    enabled = serializers.BooleanField(required=False, default=True)


class TargetViewSet(ReadViewSet):
    """Mail addresses and webhooks that are told of requests."""

    queryset = NotificationTarget.objects.all()
    serializer_class = TargetSerializer
    lookup_value_regex = NUMBER
    secret_fields: ClassVar[frozenset[str]] = frozenset({"secret"})
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "approvals.view_notificationtarget",
        "retrieve": "approvals.view_notificationtarget",
        "create": "approvals.add_notificationtarget",
        "partial_update": "approvals.change_notificationtarget",
        "destroy": "approvals.delete_notificationtarget",
        "secret": "approvals.change_notificationtarget",
    }

    def initial(self, request: Call, *args: Any, **kwargs: Any) -> None:
        """The name in an address is looked up before any transaction begins."""
        super().initial(request, *args, **kwargs)
        address = request.data.get("address") if request.method in {"POST", "PATCH"} and isinstance(request.data, dict) else None
        if isinstance(address, str):
            targets.check_address(address)

    @extend(NewTargetSerializer, MadeTargetSerializer, status.HTTP_201_CREATED)
    def create(self, call: Call) -> Response:
        """Add a target; a webhook's secret is in this answer and nowhere else."""
        made, secret = targets.create(actor=actor(call), **validated(NewTargetSerializer, call))
        return Response({**TargetSerializer(made).data, "secret": secret or None}, status=status.HTTP_201_CREATED)

    @extend(TargetChangeSerializer, TargetSerializer)
    def partial_update(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Change a target."""
        target = self.get_object()
        fields = validated(TargetChangeSerializer, call, partial=True)
        return Response(TargetSerializer(targets.change(actor=actor(call), target=target, **fields)).data)

    @extend(None, None, status.HTTP_204_NO_CONTENT)
    def destroy(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Take a target away, and what was not sent to it yet."""
        targets.delete(actor=actor(call), target=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend(NothingSerializer, MadeTargetSerializer, status.HTTP_201_CREATED)
    @action(detail=True, methods=["post"])
    def secret(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """A new secret for a webhook; the old one signs nothing any more."""
        target = self.get_object()
        validated(NothingSerializer, call)
        row, secret = targets.renew_secret(actor=actor(call), target=target)
        return Response({**TargetSerializer(row).data, "secret": secret}, status=status.HTTP_201_CREATED)


class DeliverySerializer(serializers.ModelSerializer[NotificationDelivery]):
    """A notification and how far it is; the receiver gets its id with each attempt."""

    target = serializers.CharField(source="target.name", default=None, allow_null=True)

    class Meta:
        model = NotificationDelivery
        fields = [
            "id", "request", "event", "channel", "target", "address", "state", "attempts", "next_attempt_at", "last_error", "created_at",
            "sent_at",
        ]  # fmt: skip


class DeliveryFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    state = filters.ChoiceFilter(choices=NotificationDelivery.State.choices)
    channel = filters.ChoiceFilter(choices=Channel.choices)
    event = filters.ChoiceFilter(choices=Event.choices)
    request = filters.NumberFilter("request_id", max_value=2**62)


class DeliveryViewSet(ReadViewSet):
    """Notifications: sent, waiting, given up."""

    queryset = NotificationDelivery.objects.select_related("target")
    serializer_class = DeliverySerializer
    filterset_class = DeliveryFilter
    versioned: ClassVar[bool] = False
    lookup_value_regex = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    page_order: ClassVar[str] = "id"
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "approvals.view_notificationdelivery",
        "retrieve": "approvals.view_notificationdelivery",
        "retry": "approvals.change_notificationtarget",
    }

    @extend(NothingSerializer, DeliverySerializer)
    @action(detail=True, methods=["post"])
    def retry(self, call: Call, pk: str) -> Response:  # noqa: ARG002
        """Try one that was given up again."""
        delivery = self.get_object()
        validated(NothingSerializer, call)
        outbox.retry(actor=actor(call), delivery=delivery)
        delivery.refresh_from_db()
        return Response(DeliverySerializer(delivery).data)


def register(router: BaseRouter) -> None:
    """Add these resources."""
    router.register("requests", RequestViewSet, basename="request")
    router.register("policies", PolicyViewSet, basename="policy")
    router.register("notification-targets", TargetViewSet, basename="notification-target")
    router.register("notifications", DeliveryViewSet, basename="notification")
