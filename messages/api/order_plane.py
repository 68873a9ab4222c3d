"""Stopped keys of ordered topics: see them, and decide."""

from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View
from core.api.views import actor, validated
from core.names import PATTERN
from messages import operating, services
from messages.api import wire
from messages.api.control_plane import json_object
from messages.api.group_plane import group_of
from messages.ordering import DECISIONS, MAX_DECIDED

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the consumer group")
SHOWN = 1000


class StoppedKeySerializer(serializers.Serializer[Any]):
    """A message that is out of attempts and stops its key."""

    message_id = serializers.IntegerField()
    topic = serializers.CharField()
    sharding_key = serializers.CharField(allow_null=True)
    key = serializers.CharField(allow_null=True)
    attempts = serializers.IntegerField()
    reason = serializers.CharField(help_text="Of the last failure.")
    consumer = serializers.CharField(allow_null=True, help_text="Who failed last.")
    stopped_at = serializers.DateTimeField()
    held_back = serializers.IntegerField(
        help_text="Messages of the same key that were passed and wait behind it; those the group has not come to are not among them."
    )


class StoppedKeysSerializer(serializers.Serializer[Any]):
    """The oldest thousand."""

    results = StoppedKeySerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Always null: decide on these first.")


class NewDecisionSerializer(serializers.Serializer[Any]):
    """What shall become of messages that stop their keys."""

    message_ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), min_length=1, max_length=MAX_DECIDED
    )
    decision = serializers.ChoiceField(
        choices=list(DECISIONS), help_text="retry: again, with fresh attempts; dead_letter: to the dead letters; skip: given up, as failed."
    )
    reason = serializers.CharField(max_length=500, help_text="Kept in the audit.")


class DecidedSerializer(serializers.Serializer[Any]):
    """What became of one message."""

    message_id = serializers.IntegerField()
    code = serializers.CharField(
        allow_null=True, help_text="Null: done. not_stopped: it does not stop a key, or not any more; nothing was changed."
    )


class DecisionSerializer(serializers.Serializer[Any]):
    """One result for each message, in the order given."""

    results = DecidedSerializer(many=True)


class StoppedKeysView(View):
    """Keys of a group's ordered topics that stand still."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = StoppedKeysSerializer

    @extend_schema(operation_id="list_stopped_keys", parameters=[_NAME], responses=StoppedKeysSerializer)
    def get(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Oldest message first."""
        group = group_of(self, name)
        rows = services.stopped_keys(group_id=group.pk, limit=SHOWN)
        return Response({"results": StoppedKeySerializer(rows, many=True).data, "next": None})


class DecisionsView(View):
    """Let stopped keys go on."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.decide_stopped"}
    document = DecisionSerializer

    @extend_schema(operation_id="decide_stopped_keys", parameters=[_NAME], request=NewDecisionSerializer, responses=DecisionSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Try the messages again, give them to the dead letters, or skip them; their keys go on."""
        group = group_of(self, name)
        checked = validated(NewDecisionSerializer, request)
        if any(type(i) is not int for i in json_object(request)["message_ids"]):
            raise wire.invalid("/message_ids", _("Ids are integers."))
        ids = list(dict.fromkeys(checked["message_ids"]))
        found = operating.decide_stopped(actor=actor(request), group=group, ids=ids, decision=checked["decision"], reason=checked["reason"])
        return Response({"results": [{"message_id": i, "code": found[i] or None} for i in ids]})


_GROUP = rf"^consumer-groups/(?P<name>{PATTERN})"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_GROUP}/stopped-keys$", StoppedKeysView.as_view(), name="stopped-keys"),
    re_path(rf"{_GROUP}/stopped-keys/decisions$", DecisionsView.as_view(), name="stopped-keys-decisions"),
]
