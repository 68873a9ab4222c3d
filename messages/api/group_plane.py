"""What a consumer group makes of its messages: status, dead letters, redrives."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar
from urllib.parse import quote

from django.http import StreamingHttpResponse
from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from accounts.models import User
from consumers.models import ConsumerGroup
from core.api.conventions import View
from core.api.pagination import CursorPagination
from core.api.views import actor, validated
from core.errors import not_found
from core.names import PATTERN
from core.operations.api import OperationSerializer
from core.tags import spelt
from messages import broadcast, exporting, operating, pushing, scope, services
from messages.api import wire
from messages.api.control_documents import (
    CausesSerializer,
    ConsumptionSerializer,
    DeadLetterPageSerializer,
    DeadLetterSerializer,
    EditedRedriveSerializer,
    NewPurgeSerializer,
    NewRedriveSerializer,
    PushSerializer,
    PushStateSerializer,
    RedrivePageSerializer,
    RedriveSerializer,
)
from messages.api.control_plane import ID, PAGE, Query, json_object, parameter, started, topic_id_of
from messages.models import Redrive
from messages.names import topic_name, topic_names
from messages.types import DeadFilter

_FILTER = frozenset({"topic", "key", "tag", "reason_contains", "cause", "after", "before"})
CAUSES = 100  # shown at once
INSTANCE = parameter("instance", "of a broadcast group, needed there: dead letters are each instance's")
_DEAD = [
    INSTANCE,
    parameter("topic"),
    parameter("key"),
    parameter("tag"),
    parameter("reason_contains"),
    parameter("cause", "one of dead-letters/causes"),
    parameter("after", "RFC 3339; bounds the last failure", OpenApiTypes.DATETIME),
    parameter("before", "RFC 3339; bounds the last failure", OpenApiTypes.DATETIME),
]
_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the consumer group")


def group_of(view: View, name: str) -> ConsumerGroup:
    """The group of an address, if the person may do this with it. Problem: not_found."""
    permission = view.permissions_by_action[str(view.request.method).lower().replace("head", "get")]
    group = scope.groups(view.request.user, permission).filter(name=name).first()
    if group is None:
        raise not_found(_("consumer group"), name)
    return group


def store_id_of(query: Query, group: ConsumerGroup) -> int:
    """The group in the store, of a broadcast one the instance of the address. Problems: those of broadcast.find."""
    return broadcast.find(group=group, name=query.text("instance"))


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
                "mode": group.mode,
                "instances": broadcast.count_instances(group_id=group.pk) if broadcast.is_broadcast(group) else None,
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
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": [*_DEAD, *PAGE]}

    @extend_schema(operation_id="list_dead_letters", parameters=[_NAME], responses=DeadLetterPageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Newest message first, each with its reason."""
        query = Query(request)
        page = services.dead_letters(group_id=store_id_of(query, group_of(self, name)), only=asked_for(query), **query.page())
        return query.answer(page, DeadLetterSerializer(page.items, many=True).data)


def asked_for(query: Query) -> DeadFilter:
    """The filter of the address. Problems: invalid, invalid_time, not_found (the topic)."""
    return DeadFilter(
        topic_id=query.topic_id(),
        tag=query.text("tag"),
        key=query.text("key"),
        reason_contains=query.text("reason_contains"),
        cause=query.text("cause"),
        failed_from=query.moment("after"),
        failed_to=query.moment("before"),
    )


class CausesView(View):
    """Dead letters of a group by their causes."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = CausesSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": [INSTANCE]}

    @extend_schema(operation_id="list_dead_letter_causes", parameters=[_NAME], responses=CausesSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Reasons that are the same but for numbers and ids, with how many there are and since when."""
        found = services.dead_causes(group_id=store_id_of(Query(request), group_of(self, name)))
        body = {**asdict(found), "results": found.items[:CAUSES], "causes": len(found.items)}
        return Response(CausesSerializer(body).data)


class ExportView(View):
    """Dead letters of a group as a file."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": [parameter("as", "csv or jsonl; jsonl if not given"), *_DEAD]}

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:  # noqa: ARG002 - DRF's
        """What the file is, `as` says."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(
        operation_id="export_dead_letters",
        parameters=[_NAME],
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request, name: str) -> StreamingHttpResponse:
        """All that match, newest message first, one a line; with their bodies for those who may read them. Kept in the audit."""
        query = Query(request)
        form = query.text("as") or "jsonl"
        if form not in exporting.FORMS:
            raise wire.invalid("/as", _("“{name}” is one of {known}.").format(name="as", known=", ".join(exporting.FORMS)))
        return dead_letter_file(actor(request), group_of(self, name), asked_for(query), form, query.text("instance"))


def dead_letter_file(
    user: User, group: ConsumerGroup, only: DeadFilter, form: exporting.Form, instance: str | None
) -> StreamingHttpResponse:
    """The file as a response that streams; who has taken it is recorded before the first byte leaves."""
    store_id = broadcast.find(group=group, name=instance)
    operating.record_export(actor=user, group=group, only=only, instance=instance)
    lines = services.export_dead(group_id=store_id, only=only, form=form, bodies=scope.topic_ids(user, scope.BODY))
    return StreamingHttpResponse(
        lines,
        content_type=exporting.CONTENT_TYPES[form],
        headers={
            "Content-Disposition": f'attachment; filename="dead-letters-{quote(group.name)}.{form}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


class EditedRedriveView(View):
    """A dead letter that goes on edited."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.add_redrive"}
    document = RedriveSerializer

    @extend_schema(operation_id="redrive_edited", parameters=[_NAME], request=EditedRedriveSerializer, responses={201: RedriveSerializer})
    def post(self, request: Request, name: str, message_id: str) -> Response:
        """Correct a dead letter and send it on as a new message, whose headers name the original; that is closed as failed."""
        group = group_of(self, name)
        fields = json_object(request)
        checked = validated(EditedRedriveSerializer, request)
        given: dict[str, Any] = {field: checked[field] for field in ("tag", "key", "sharding_key", "headers") if field in checked}
        if "tag" in given:
            given["tag"] = spelt(given["tag"])
        if "body" in checked or "body_base64" in checked:
            given["body"] = wire.body_of(fields)
        other = checked.get("topic")
        plan = services.Plan(to=checked["to"], topic_id=topic_id_of(request.user, other) if other else None)
        done = operating.redrive_edited(
            actor=actor(request),
            group=group,
            message_id=int(message_id),
            edit=services.Edit(**given),
            plan=plan,
            reason=checked["reason"],
            instance=checked.get("instance"),
        )
        where = reverse("message", kwargs={"message_id": done.new_id}, request=request)
        return Response(RedriveSerializer(done).data, status=status.HTTP_201_CREATED, headers={"Location": where})


class PurgesView(View):
    """Purges of dead letters."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.purge_dead"}

    @extend_schema(
        operation_id="start_purge",
        parameters=[_NAME],
        request=NewPurgeSerializer,
        responses={202: OpenApiResponse(OperationSerializer, "The operation that does it; Location names it.")},
    )
    def post(self, request: Request, name: str) -> Response:
        """Fail dead letters for good: nobody gets them any more. Up to a thousand are done at once."""
        group = group_of(self, name)
        checked = validated(NewPurgeSerializer, request)
        ids, only = selection(request, checked)
        given = {"reason": checked["reason"], "confirm": checked["confirm"], "instance": checked.get("instance")}
        return started(request, operating.purge(actor=actor(request), group=group, ids=ids, only=only, **given))


class RedrivesView(View):
    """Redrives of a group."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_redrive", "post": "mq_messages.add_redrive"}
    document = RedriveSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("message", "where this dead letter went", OpenApiTypes.INT64),
            parameter("instance", "of a broadcast group; all of them if not given"),
            *PAGE,
            parameter("count", "also count", OpenApiTypes.BOOL),
        ]
    }

    @extend_schema(operation_id="list_redrives", parameters=[_NAME], responses=RedrivePageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """The messages that were redriven, newest first."""
        query, group = Query(request), group_of(self, name)
        instance = query.text("instance")
        ids = [broadcast.find(group=group, name=instance)] if instance else broadcast.store_ids(group=group)
        rows = Redrive.objects.filter(group_id__in=ids).select_related("actor", "operation")
        if (message_id := query.number("message")) is not None:
            rows = rows.filter(message_id=message_id)
        paginator = CursorPagination()
        paginator.ordering = "-pk"
        page = paginator.paginate_queryset(rows, request, view=self) or []
        topic_names(row.new_topic_id for row in page if row.new_topic_id is not None)
        return paginator.get_paginated_response(RedriveSerializer(page, many=True).data)

    @extend_schema(
        operation_id="start_redrive",
        parameters=[_NAME],
        request=NewRedriveSerializer,
        responses={202: OpenApiResponse(OperationSerializer, "The operation that does it; Location names it.")},
    )
    def post(self, request: Request, name: str) -> Response:
        """Redrive dead letters: one, some, or all that match, oldest first. Up to a thousand that nothing holds back are done at once."""
        group = group_of(self, name)
        checked = validated(NewRedriveSerializer, request)
        ids, only = selection(request, checked)
        plan = services.Plan(
            to=checked["to"],
            topic_id=topic_id_of(request.user, checked["topic"]) if checked.get("topic") else None,
            rate=checked.get("rate"),
            canary=checked["canary"],
            stop_at=checked.get("stop_at"),
        )
        given = {"reason": checked["reason"], "instance": checked.get("instance")}
        job = operating.redrive(actor=actor(request), group=group, ids=ids, only=only, plan=plan, **given)
        return started(request, job)


def selection(request: Request, checked: Mapping[str, Any]) -> tuple[list[int] | None, DeadFilter | None]:
    """`ids`, or `all` with its filter. Problems: invalid, and those of the filter."""
    fields = json_object(request)
    ids = [int(i) for i in checked["ids"]] if "ids" in checked else None
    only = dead_filter(request.user, fields.get("filter")) if checked["all"] else None
    if ids is not None and any(type(i) is not int for i in fields["ids"]):
        raise wire.invalid("/ids", _("Ids are integers."))
    if fields.get("filter") is not None and not checked["all"]:
        raise wire.invalid("/all", _("A filter goes with “all”: true."))
    return ids, only


def dead_filter(user: Any, fields: Any) -> DeadFilter:
    """The filter of a redrive. Problems: unknown_field, invalid, invalid_time, not_found (the topic)."""
    if fields is None:
        return DeadFilter()
    wire.only(fields, _FILTER, "/filter")
    topic, tag, key, contains, cause, after, before = (
        wire.typed(fields, name, str, "/filter") for name in ("topic", "tag", "key", "reason_contains", "cause", "after", "before")
    )
    return DeadFilter(
        topic_id=topic_id_of(user, topic) if topic else None,
        tag=tag,
        key=key,
        reason_contains=contains,
        cause=cause,
        failed_from=wire.moment(after, "/filter/after") if after else None,
        failed_to=wire.moment(before, "/filter/before") if before else None,
    )


_GROUP = rf"^consumer-groups/(?P<name>{PATTERN})"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_GROUP}/status$", ConsumptionView.as_view(), name="consumption"),
    re_path(rf"{_GROUP}/push$", PushView.as_view(), name="push"),
    re_path(rf"{_GROUP}/dead-letters$", DeadLettersView.as_view(), name="dead-letters"),
    re_path(rf"{_GROUP}/dead-letters/causes$", CausesView.as_view(), name="dead-letters-causes"),
    re_path(rf"{_GROUP}/dead-letters/export$", ExportView.as_view(), name="dead-letters-export"),
    re_path(rf"{_GROUP}/dead-letters/{ID}/redrive$", EditedRedriveView.as_view(), name="dead-letter-redrive"),
    re_path(rf"{_GROUP}/purges$", PurgesView.as_view(), name="purges"),
    re_path(rf"{_GROUP}/redrives$", RedrivesView.as_view(), name="redrives"),
]
