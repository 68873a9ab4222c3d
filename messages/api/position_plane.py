"""Where a consumer group stands, moved by a person: preview, rewind or skip, undo."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from consumers.models import ConsumerGroup
from core.api.conventions import View, address
from core.api.pagination import CursorPagination
from core.api.views import actor, validated
from core.errors import FieldError, Problem, not_found
from core.names import PATTERN
from messages import operating, services
from messages.api import wire
from messages.api.control_plane import PAGE, Query, json_object, parameter
from messages.api.group_plane import group_of
from messages.models import Reset
from messages.names import topic_name, topic_names
from messages.positions import Target
from topics.models import Topic

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the consumer group")
_RESET = OpenApiParameter("reset", OpenApiTypes.INT64, OpenApiParameter.PATH)


class PreviewSerializer(serializers.Serializer[Any]):
    """What a move of the position would do now."""

    topic = serializers.CharField()
    kind = serializers.ChoiceField(Reset.Kind.values)
    position_before = serializers.IntegerField(help_text="Everything up to this id has been handed out.")
    position = serializers.IntegerField(help_text="Where the group would stand: give it with the fingerprint to do it.")
    repeated = serializers.IntegerField(help_text="Messages that were handed out before and would be again.")
    first_time = serializers.IntegerField(help_text="Messages that the group had skipped or was not subscribed to, and would get.")
    skipped = serializers.IntegerField(help_text="Messages that wait and would be skipped.")
    processing = serializers.IntegerField(
        help_text="Of those that a rewind goes back over: in workers' hands, whose acks would be refused."
    )
    succeeded = serializers.IntegerField(help_text="Of the same: succeeded.")
    later = serializers.IntegerField(help_text="Of the same: to be retried; their attempts would be forgotten.")
    dead = serializers.IntegerField(help_text="Of the same: dead letters.")
    failed = serializers.IntegerField(help_text="Of the same: given up.")
    skipped_before = serializers.IntegerField(help_text="Of the same: skipped.")
    fingerprint = serializers.CharField(help_text="A reset with it does exactly this, or nothing: 409 stale_preview.")


class NewResetSerializer(serializers.Serializer[Any]):
    """The move that a preview has shown."""

    topic = serializers.CharField(max_length=140)
    position = serializers.IntegerField(min_value=-(2**63), max_value=2**63 - 1, help_text="The preview's.")
    fingerprint = serializers.CharField(max_length=64, help_text="The preview's.")
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class UndoSerializer(serializers.Serializer[Any]):
    """Why."""

    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class ResetSerializer(serializers.ModelSerializer[Reset]):
    """A move of a group's position on one topic."""

    group = serializers.SerializerMethodField()
    topic = serializers.SerializerMethodField()
    undoable = serializers.SerializerMethodField(help_text="Whether it can be taken back now.")
    done_by = serializers.CharField(source="actor.username", default=None, allow_null=True)
    undone_by = serializers.CharField(source="undone_by.username", default=None, allow_null=True)
    restored = serializers.IntegerField(allow_null=True, help_text="How many messages the undo gave their old status back.")

    class Meta:
        model = Reset
        fields = [
            *("id", "group", "topic", "kind", "state", "undoable", "position_before", "position", "repeated", "first_time", "skipped"),
            *("reason", "done_by", "created_at", "restored", "undone_by", "undone_at"),
        ]

    def get_group(self, made: Reset) -> str:  # noqa: ARG002
        """The group of the address."""
        return str(self.context["group"])

    def get_topic(self, made: Reset) -> str:
        """Its name."""
        return topic_name(made.topic_id)

    def get_undoable(self, made: Reset) -> bool:
        """Asked once for all of a page."""
        return made.pk in self.context["undoable"]


class ResetPageSerializer(serializers.Serializer[Any]):
    """Moves, newest first."""

    results = ResetSerializer(many=True)
    next = serializers.URLField(allow_null=True)


def subscribed_topic(group: ConsumerGroup, name: str) -> Topic:
    """A topic of the group. Problem: not_subscribed."""
    found = None if "\x00" in name else Topic.objects.filter(name=name, subscriptions__group=group).first()
    if found is None:
        detail = _("The group is not subscribed to a topic “{name}”.").format(name=name.replace("\x00", ""))
        raise Problem("not_subscribed", detail, hint=_("Name one of its topics."), errors=[FieldError("/topic", detail)])
    return found


def target(text: str) -> Target:
    """earliest, latest, a message's id, or a time. Problem: invalid_time."""
    if text in {"earliest", "latest"}:
        return text
    if text.isascii() and text.isdigit():
        return int(text[:20])
    return wire.moment(text[:19] + text[19:].replace(" ", "+"), "/to")


def _document(group: ConsumerGroup, made: Reset) -> Any:
    return ResetSerializer(made, context={"group": group, "undoable": services.undoable(group_id=group.pk)}).data


def reset_of(group: ConsumerGroup, number: str) -> Reset:
    """A move of this group. Problem: not_found."""
    made = (
        Reset.objects.select_related("actor", "undone_by").filter(pk=int(number), group_id=group.pk).first()
        if int(number) < 2**63
        else None
    )
    if made is None:
        raise not_found(_("move of a position"), number)
    return made


class PreviewView(View):
    """What a rewind or skip would do."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_reset"}
    document = PreviewSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("topic", "one of the group's", required=True),
            parameter("to", "earliest, latest, the id of the message that comes next, or a time of sending in RFC 3339", required=True),
        ]
    }

    @extend_schema(operation_id="preview_reset", parameters=[_NAME], responses=PreviewSerializer)
    def get(self, request: Request, name: str) -> Response:
        """How many messages would be repeated or skipped. It reads counters, and changes nothing."""
        query, group = Query(request), group_of(self, name)
        topic, to = query.text("topic"), query.text("to")
        if topic is None or to is None:
            missing = "topic" if topic is None else "to"
            raise wire.invalid(f"/{missing}", _("Give ?topic=… and ?to=…"))
        found = subscribed_topic(group, topic)
        plan = services.preview_reset(group_id=group.pk, topic_id=found.pk, to=target(to))
        return Response({"topic": found.name, "kind": plan.kind, **asdict(plan)})


class ResetsView(View):
    """Moves of a group's positions."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_reset", "post": "mq_messages.add_reset"}
    document = ResetSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"get": [*PAGE, parameter("count", "also count", OpenApiTypes.BOOL)]}

    @extend_schema(operation_id="list_resets", parameters=[_NAME], responses=ResetPageSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Newest first."""
        group = group_of(self, name)
        paginator = CursorPagination()
        paginator.ordering = "-pk"
        rows = Reset.objects.filter(group_id=group.pk).select_related("actor", "undone_by")
        made = paginator.paginate_queryset(rows, request, view=self) or []
        topic_names(row.topic_id for row in made)
        context = {"group": group, "undoable": services.undoable(group_id=group.pk)}
        return paginator.get_paginated_response(ResetSerializer(made, many=True, context=context).data)

    @extend_schema(operation_id="reset_position", parameters=[_NAME], request=NewResetSerializer, responses={201: ResetSerializer})
    def post(self, request: Request, name: str) -> Response:
        """Rewind or skip, as the preview with this fingerprint said; 409 stale_preview and nothing is done if the group has gone on."""
        group = group_of(self, name)
        fields = json_object(request)
        checked = validated(NewResetSerializer, request)
        if type(fields["position"]) is not int:
            raise wire.invalid("/position", _("“{name}” must be {kind}.").format(name="position", kind="an integer"))
        made = operating.reset(
            actor=actor(request),
            group=group,
            topic=subscribed_topic(group, checked["topic"]),
            position=checked["position"],
            fingerprint=checked["fingerprint"],
            reason=checked["reason"],
        )
        return Response(_document(group, made), status=status.HTTP_201_CREATED, headers={"Location": address(request, made.pk)})


class ResetView(View):
    """One move of a position."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_reset"}
    document = ResetSerializer

    @extend_schema(operation_id="retrieve_reset", parameters=[_NAME, _RESET], responses=ResetSerializer)
    def get(self, request: Request, name: str, reset: str) -> Response:  # noqa: ARG002
        """What it did, and whether it can be taken back."""
        group = group_of(self, name)
        return Response(_document(group, reset_of(group, reset)))


class UndoView(View):
    """Take a move back."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.change_reset"}
    document = ResetSerializer

    @extend_schema(operation_id="undo_reset", parameters=[_NAME, _RESET], request=UndoSerializer, responses=ResetSerializer)
    def post(self, request: Request, name: str, reset: str) -> Response:
        """What was not handed out since is as it was before the move, retries, dead letters and leases included."""
        group = group_of(self, name)
        checked = validated(UndoSerializer, request)
        undone = operating.undo_reset(actor=actor(request), group=group, made=reset_of(group, reset), reason=checked["reason"])
        return Response(_document(group, undone))


_GROUP = rf"^consumer-groups/(?P<name>{PATTERN})"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_GROUP}/resets$", ResetsView.as_view(), name="resets"),
    re_path(rf"{_GROUP}/resets/preview$", PreviewView.as_view(), name="reset-preview"),
    re_path(rf"{_GROUP}/resets/(?P<reset>[0-9]{{1,19}})$", ResetView.as_view(), name="reset"),
    re_path(rf"{_GROUP}/resets/(?P<reset>[0-9]{{1,19}})/undo$", UndoView.as_view(), name="reset-undo"),
]
