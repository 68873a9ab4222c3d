"""What a consumer group makes of its messages: status, dead letters, redrives."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from consumers.models import ConsumerGroup
from core.api.conventions import View, address
from core.api.pagination import CursorPagination
from core.api.views import actor, validated
from core.errors import not_found
from core.names import PATTERN
from messages import operating, pushing, scope, services
from messages.api import wire
from messages.api.control_documents import (
    ConsumptionSerializer,
    DeadLetterPageSerializer,
    DeadLetterSerializer,
    NewRedriveSerializer,
    PushSerializer,
    PushStateSerializer,
    RedriveItemPageSerializer,
    RedriveItemSerializer,
    RedrivePageSerializer,
    RedriveSerializer,
    StartedRedriveSerializer,
)
from messages.api.control_plane import PAGE, Query, json_object, parameter, topic_id_of
from messages.models import Redrive
from messages.names import topic_name
from messages.types import DeadFilter

_FILTER = frozenset({"topic", "key", "tag", "reason_contains", "after", "before"})
_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the consumer group")
_REDRIVE = OpenApiParameter("redrive", OpenApiTypes.INT64, OpenApiParameter.PATH)


def group_of(view: View, name: str) -> ConsumerGroup:
    """The group of an address, if the person may do this with it. Problem: not_found."""
    permission = view.permissions_by_action[str(view.request.method).lower().replace("head", "get")]
    group = scope.groups(view.request.user, permission).filter(name=name).first()
    if group is None:
        raise not_found(_("consumer group"), name)
    return group


def redrive_of(group: ConsumerGroup, number: str) -> Redrive:
    """A redrive of this group. Problem: not_found."""
    job = Redrive.objects.select_related("actor").filter(pk=int(number), group_id=group.pk).first() if int(number) < 2**63 else None
    if job is None:
        raise not_found(_("redrive"), number)
    return job


class ConsumptionView(View):
    """Where a group stands."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "consumers.view_consumergroup"}
    document = ConsumptionSerializer

    @extend_schema(operation_id="retrieve_consumption", parameters=[_NAME], responses=ConsumptionSerializer)
    def get(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Exact counts per status, and how far behind."""
        group = group_of(self, name)
        lag = services.lag(group_ids=[group.pk])[group.pk]
        return Response(
            {
                "group": group.name,
                "suspended": group.suspended,
                "counts": _counts(services.counts(group_ids=[group.pk])[group.pk]),
                "lag": {"messages": lag.messages, "seconds": round(lag.seconds, 3)},
                "topics": [
                    {"topic": topic_name(topic_id), "counts": _counts(counts)}
                    for topic_id, counts in services.counts_by_topic(group_id=group.pk).items()
                ],
            }
        )


def _counts(counts: Any) -> dict[str, int]:
    return {key: value for key, value in asdict(counts).items() if key != "group_id"}


class PushView(View):
    """A group's webhook."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "consumers.view_consumergroup"}
    document = PushSerializer

    @extend_schema(operation_id="retrieve_push", parameters=[_NAME], responses=PushSerializer)
    def get(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Where it delivers to, and how that goes: last success, last error, share of failures."""
        group = group_of(self, name)
        fields = {"url": group.push_url, "concurrency": group.push_concurrency, "timeout_ms": group.push_timeout_ms}
        return Response({"group": group.name, **fields, "delivery": PushStateSerializer(pushing.state(group)).data})


class DeadLettersView(View):
    """Dead letters of a group."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = DeadLetterSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("topic"),
            parameter("key"),
            parameter("tag"),
            parameter("reason_contains"),
            parameter("after", "RFC 3339; bounds the last failure", OpenApiTypes.DATETIME),
            parameter("before", "RFC 3339; bounds the last failure", OpenApiTypes.DATETIME),
            *PAGE,
        ]
    }

    @extend_schema(operation_id="list_dead_letters", parameters=[_NAME], responses=DeadLetterPageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Newest message first, each with its reason."""
        query = Query(request)
        only = DeadFilter(
            topic_id=query.topic_id(),
            tag=query.text("tag"),
            key=query.text("key"),
            reason_contains=query.text("reason_contains"),
            failed_from=query.moment("after"),
            failed_to=query.moment("before"),
        )
        page = services.dead_letters(group_id=group_of(self, name).pk, only=only, **query.page())
        return query.answer(page, DeadLetterSerializer(page.items, many=True).data)


class RedrivesView(View):
    """Redrives of a group."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_redrive", "post": "mq_messages.add_redrive"}
    document = RedriveSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": [*PAGE, parameter("count", "also count", OpenApiTypes.BOOL)]}

    @extend_schema(operation_id="list_redrives", parameters=[_NAME], responses=RedrivePageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Newest first."""
        group = group_of(self, name)
        paginator = CursorPagination()
        paginator.ordering = "-pk"
        jobs = paginator.paginate_queryset(Redrive.objects.filter(group_id=group.pk).select_related("actor"), request, view=self)
        return paginator.get_paginated_response(RedriveSerializer(jobs or [], many=True, context={"group": group}).data)

    @extend_schema(
        operation_id="start_redrive", parameters=[_NAME], request=NewRedriveSerializer, responses={202: StartedRedriveSerializer}
    )
    def post(self, request: Request, name: str) -> Response:
        """Bring dead letters back to their group: one, some, or all that match. The first thousand are done before the answer."""
        group = group_of(self, name)
        fields = json_object(request)
        checked = validated(NewRedriveSerializer, request)
        ids = [int(i) for i in checked["ids"]] if "ids" in checked else None
        only = dead_filter(request.user, fields.get("filter")) if checked["all"] else None
        if ids is not None and any(type(i) is not int for i in fields["ids"]):
            raise wire.invalid("/ids", _("Ids are integers."))
        if fields.get("filter") is not None and not checked["all"]:
            raise wire.invalid("/all", _("A filter goes with “all”: true."))
        job = operating.redrive(actor=actor(request), group=group, ids=ids, only=only, reason=checked["reason"])
        body = StartedRedriveSerializer(job, context={"group": group}).data
        return Response(body, status=status.HTTP_202_ACCEPTED, headers={"Location": address(request, job.pk)})


def dead_filter(user: Any, fields: Any) -> DeadFilter:
    """The filter of a redrive. Problems: unknown_field, invalid, invalid_time, not_found (the topic)."""
    if fields is None:
        return DeadFilter()
    wire.only(fields, _FILTER, "/filter")
    topic, tag, key, contains, after, before = (
        wire.typed(fields, name, str, "/filter") for name in ("topic", "tag", "key", "reason_contains", "after", "before")
    )
    return DeadFilter(
        topic_id=topic_id_of(user, topic) if topic else None,
        tag=tag,
        key=key,
        reason_contains=contains,
        failed_from=wire.moment(after, "/filter/after") if after else None,
        failed_to=wire.moment(before, "/filter/before") if before else None,
    )


class RedriveView(View):
    """One redrive."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_redrive"}
    document = RedriveSerializer

    @extend_schema(operation_id="retrieve_redrive", parameters=[_NAME, _REDRIVE], responses=RedriveSerializer)
    def get(self, request: Request, name: str, redrive: str) -> Response:  # noqa: ARG002
        """How far it is."""
        group = group_of(self, name)
        return Response(RedriveSerializer(redrive_of(group, redrive), context={"group": group}).data)


class RedriveItemsView(View):
    """The result per message of a redrive."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_redrive"}
    document = RedriveItemSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": PAGE}

    @extend_schema(operation_id="list_redrive_items", parameters=[_NAME, _REDRIVE], responses=RedriveItemPageSerializer)
    def get(self, request: Request, name: str, redrive: str) -> Response:
        """In the order of the message ids."""
        query = Query(request)
        page = services.redrive_results(redrive_id=redrive_of(group_of(self, name), redrive).pk, **query.page())
        return query.answer(page, RedriveItemSerializer(page.items, many=True).data)


_GROUP = rf"^consumer-groups/(?P<name>{PATTERN})"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_GROUP}/status$", ConsumptionView.as_view(), name="consumption"),
    re_path(rf"{_GROUP}/push$", PushView.as_view(), name="push"),
    re_path(rf"{_GROUP}/dead-letters$", DeadLettersView.as_view(), name="dead-letters"),
    re_path(rf"{_GROUP}/redrives$", RedrivesView.as_view(), name="redrives"),
    re_path(rf"{_GROUP}/redrives/(?P<redrive>[0-9]{{1,19}})$", RedriveView.as_view(), name="redrive"),
    re_path(rf"{_GROUP}/redrives/(?P<redrive>[0-9]{{1,19}})/items$", RedriveItemsView.as_view(), name="redrive-items"),
]
