"""Operations over REST: how far they are, what failed, and pause, resume, cancel, retry."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import path
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.routers import BaseRouter

from core.api.fields import OptionalReasonSerializer
from core.api.views import ReadViewSet, actor, extend, validated
from core.operations import services
from core.operations.models import ItemState, Operation, OperationItem, State

STEP_STATES = ["queued", "running", "succeeded", "partial", "failed", "cancelled"]


class ProgressSerializer(serializers.Serializer[Any]):
    """How far it is."""

    done = serializers.IntegerField()
    failed = serializers.IntegerField()
    skipped = serializers.IntegerField()
    total = serializers.IntegerField()
    rate = serializers.FloatField(allow_null=True, help_text="Items per second lately; null while it is not running.")
    eta = serializers.IntegerField(allow_null=True, help_text="Seconds until it is done at this rate; null when nobody knows.")


class OperationStepSerializer(serializers.Serializer[Any]):
    """A step with its own counters."""

    name = serializers.CharField()
    state = serializers.ChoiceField(choices=STEP_STATES)
    done = serializers.IntegerField()
    failed = serializers.IntegerField()
    skipped = serializers.IntegerField()
    total = serializers.IntegerField()


class OperationErrorSerializer(serializers.Serializer[Any]):
    """Why it stands still."""

    code = serializers.CharField(help_text="Stable, never translated.")
    detail = serializers.CharField()


class OperationSerializer(serializers.ModelSerializer[Operation]):
    """Long work: who started it, how far it is, and what stands in its way."""

    id = serializers.UUIDField(source="uid")
    state = serializers.ChoiceField(choices=State.choices, source="shown_state")
    wanted = serializers.ChoiceField(
        choices=["pause", "cancel"], allow_null=True, source="wanted_or_none", help_text="Asked for, and done once no chunk is in flight."
    )
    progress = serializers.SerializerMethodField()
    steps = OperationStepSerializer(many=True)
    started_by = serializers.CharField(source="started_by.username", default=None, allow_null=True, help_text="null: the system")
    error = serializers.SerializerMethodField()
    kind_known = serializers.BooleanField(help_text="false: it waits for a worker of another version of mqadmin.")

    class Meta:
        model = Operation
        fields = [
            "id", "kind", "kind_known", "title", "state", "wanted", "progress", "steps", "params", "reason", "started_by", "created_at",
            "started_at", "finished_at", "error",
        ]  # fmt: skip

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, operation: Operation) -> dict[str, Any]:
        """From the row's counters."""
        rate, eta = operation.rate, operation.eta
        return {
            "done": operation.done,
            "failed": operation.failed,
            "skipped": operation.skipped,
            "total": operation.total,
            "rate": None if rate is None else round(rate, 1),
            "eta": None if eta is None else round(eta.total_seconds()),
        }

    @extend_schema_field(OperationErrorSerializer(allow_null=True))
    def get_error(self, operation: Operation) -> dict[str, str] | None:
        """Null unless something is in its way."""
        return {"code": operation.error_code, "detail": operation.error} if operation.error_code else None


class FailureSerializer(serializers.ModelSerializer[OperationItem]):
    """An item that failed, and why."""

    id = serializers.CharField(source="key")
    failed_at = serializers.DateTimeField(source="done_at")

    class Meta:
        model = OperationItem
        fields = ["index", "id", "code", "detail", "attempts", "failed_at"]


class OperationFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter is untyped
    """By the names that the document has."""

    state = filters.ChoiceFilter(choices=State.choices, method="in_state")
    kind = filters.CharFilter()
    started_by = filters.CharFilter("started_by__username")

    def in_state(self, queryset: Any, _name: str, value: str) -> Any:
        """The state that is told, `unknown` included."""
        return queryset.in_state(value)


class OperationViewSet(ReadViewSet):
    """Long work: look, pause, resume, cancel, retry what failed."""

    queryset = Operation.objects.select_related("started_by").prefetch_related("steps")
    serializer_class = OperationSerializer
    filterset_class = OperationFilter
    lookup_field = "uid"
    lookup_url_kwarg = "id"
    lookup_value_regex = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    page_order: ClassVar[str] = "-pk"
    versioned: ClassVar[bool] = False  # it changes by itself; its verbs look at its state
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "operations.view_operation",
        "retrieve": "operations.view_operation",
        "cancellation": "operations.change_operation",
        "pause": "operations.change_operation",
        "resume": "operations.change_operation",
        "retries": "operations.change_operation",
    }

    def _answer(self, operation: Operation) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=operation.pk)).data)

    @extend(OptionalReasonSerializer, OperationSerializer)
    @action(detail=True, methods=["post"])
    def cancellation(self, request: Request, id: str) -> Response:  # noqa: A002, ARG002
        """End it: what is not done is skipped, what is done stays done."""
        fields = validated(OptionalReasonSerializer, request)
        return self._answer(services.cancel(actor=actor(request), operation=self.get_object(), **fields))

    @extend(OptionalReasonSerializer, OperationSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, id: str) -> Response:  # noqa: A002, ARG002
        """Take no more items on; what is in hand is finished."""
        fields = validated(OptionalReasonSerializer, request)
        return self._answer(services.pause(actor=actor(request), operation=self.get_object(), **fields))

    @extend(OptionalReasonSerializer, OperationSerializer)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, id: str) -> Response:  # noqa: A002, ARG002
        """Go on where it was paused."""
        fields = validated(OptionalReasonSerializer, request)
        return self._answer(services.resume(actor=actor(request), operation=self.get_object(), **fields))

    @extend(OptionalReasonSerializer, OperationSerializer)
    @action(detail=True, methods=["post"])
    def retries(self, request: Request, id: str) -> Response:  # noqa: A002, ARG002
        """Do again what failed."""
        fields = validated(OptionalReasonSerializer, request)
        return self._answer(services.retry_failed(actor=actor(request), operation=self.get_object(), **fields))


class FailureViewSet(ReadViewSet):
    """The items of an operation that failed, in their order."""

    queryset = OperationItem.objects.none()
    serializer_class = FailureSerializer
    page_order: ClassVar[str] = "pk"
    permissions_by_action: ClassVar[dict[str, str]] = {"list": "operations.view_operation"}

    def get_queryset(self) -> QuerySet[OperationItem, OperationItem]:
        """Of the operation of the address. Problem: not_found."""
        from rest_framework.generics import get_object_or_404

        if "id" not in self.kwargs:  # OpenAPI looks without one
            return OperationItem.objects.none()
        operation = get_object_or_404(Operation.objects.restrict(self.request.user), uid=self.kwargs["id"])
        return OperationItem.objects.filter(operation=operation, state=ItemState.FAILED)

    @extend_schema(operation_id="operations_failures_list")
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List what failed, with the reason of each."""
        return super().list(request, *args, **kwargs)


def operation_url(request: Request, operation: Operation) -> str:
    """Where it is told how far an operation is."""
    return reverse("operation-detail", kwargs={"id": operation.uid}, request=request)


def register(router: BaseRouter) -> None:
    """Add operations."""
    router.register("operations", OperationViewSet, basename="operation")


urlpatterns = [path("operations/<uuid:id>/failures", FailureViewSet.as_view({"get": "list"}), name="operation-failures")]
