"""What the store keeps: partitions and who needs them, and how far back a topic goes."""

from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View
from core.errors import not_found
from core.names import PATTERN
from messages import scope, services
from messages.types import STATUS_WORDS
from topics.models import Retention, Topic

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the topic")
_NEEDED = [STATUS_WORDS[letter] for letter in "WPLD"]


class HolderSerializer(serializers.Serializer[Any]):
    """A group for which messages of the topic wait."""

    group = serializers.CharField()
    instance = serializers.CharField(allow_null=True, help_text="Of a broadcast group: each has a position of its own.")
    since = serializers.DateTimeField(help_text="When the oldest message that waits for it was sent.")


class TopicRetentionSerializer(serializers.Serializer[Any]):
    """What is kept of a topic in the built-in store."""

    topic = serializers.CharField()
    retention = serializers.ChoiceField(
        choices=Retention.choices, help_text="The topic's rule; the three values are asked for as a change of it."
    )
    retention_hours = serializers.IntegerField()
    retention_mib = serializers.IntegerField()
    floor = serializers.IntegerField(help_text="Everything up to this id is gone by the topic's rule; 0: nothing is.")
    earliest_id = serializers.IntegerField(help_text="A rewind goes back to it at the most.")
    earliest_at = serializers.DateTimeField(help_text="The time that this id tells.")
    oldest_at = serializers.DateTimeField(allow_null=True, help_text="When the oldest message that is there was sent; null: there is none.")
    messages = serializers.IntegerField(allow_null=True, help_text="Null: never had a group, so they were not counted.")
    bytes_estimate = serializers.IntegerField(
        source="bytes", allow_null=True, help_text="On disk: their exact number, times the size of samples."
    )
    holders = HolderSerializer(
        many=True, help_text="Groups for which messages wait, the furthest behind first: the first 50, of those that you may see."
    )
    holders_total = serializers.IntegerField(help_text="Of all of them.")


class GroupNeedSerializer(serializers.Serializer[Any]):
    """What a group needs of a partition."""

    group = serializers.CharField()
    instance = serializers.CharField(allow_null=True)
    topic = serializers.CharField()
    status = serializers.ChoiceField(choices=_NEEDED)
    messages = serializers.IntegerField()


class TopicNeedSerializer(serializers.Serializer[Any]):
    """Until when a topic keeps what it has in a partition."""

    topic = serializers.CharField()
    until = serializers.DateTimeField(allow_null=True, help_text="Null: of delayed messages, until they are delivered.")


class PartitionSerializer(serializers.Serializer[Any]):
    """A partition of the store: a day of messages with its history, or a month or year of delayed ones. All topics share it."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["log", "delayed"])
    begins_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()
    bytes = serializers.IntegerField(help_text="On disk, with indexes.")
    rows_estimate = serializers.IntegerField(source="rows", allow_null=True, help_text="Postgres's own estimate; null: it has none yet.")
    state = serializers.ChoiceField(
        choices=["ahead", "current", "behind"], help_text="Who needs a partition of the log is told of those behind."
    )
    groups = GroupNeedSerializer(many=True, help_text="The 50 that need most of it.")
    groups_total = serializers.IntegerField()
    topics = TopicNeedSerializer(many=True, help_text="Those with an age of their own, or with delayed messages there: the first 50.")
    topics_total = serializers.IntegerField()
    other_topics = serializers.IntegerField(
        source="others", help_text="Topics without an age of their own, which keep it all to the same time."
    )
    other_topics_until = serializers.DateTimeField(
        source="others_until", allow_null=True, help_text="Null: not known as long as some group is not done with it."
    )
    can_go_at = serializers.DateTimeField(allow_null=True, help_text="Null: not known, since somebody needs it or an older one.")
    after = serializers.CharField(allow_null=True, help_text="The older partition that has to go before: always the oldest goes first.")


class PartitionsSerializer(serializers.Serializer[Any]):
    """Of the log, then of the delayed messages, oldest first."""

    results = PartitionSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Always null: this is all of them.")


class TopicRetentionView(View):
    """How long a topic's messages are kept."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "topics.view_topic"}
    document = TopicRetentionSerializer

    @extend_schema(operation_id="retrieve_retention", parameters=[_NAME], responses=TopicRetentionSerializer)
    def get(self, request: Request, name: str) -> Response:
        """The rule, how far it has come, how far back a rewind can go, and who holds what."""
        topic = Topic.objects.restrict(request.user, "topics.view_topic").filter(name=name).first()
        if topic is None:
            raise not_found(_("topic"), name)
        kept = services.retention(topic_id=topic.pk)
        seen = scope.visible_groups(request.user, [holder.group_id for holder in kept.holders])
        fields = ("retention", "retention_hours", "retention_mib")
        document = {
            "topic": topic.name,
            **{key: getattr(topic, key) for key in fields},
            **{key: getattr(kept, key) for key in kept.__slots__ if key != "holders"},
            "holders": [holder for holder in kept.holders if holder.group_id in seen],
        }
        return Response(TopicRetentionSerializer(document).data)


class PartitionsView(View):
    """The partitions of the store."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_storage"}
    document = PartitionsSerializer

    @extend_schema(operation_id="list_partitions", responses=PartitionsSerializer)
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """How large each is, who needs it, and when it can go."""
        return Response({"results": PartitionSerializer(services.partitions(), many=True).data, "next": None})


urlpatterns: list[URLPattern] = [
    re_path(rf"^topics/(?P<name>{PATTERN})/retention$", TopicRetentionView.as_view(), name="topic-retention"),
    re_path(r"^storage/partitions$", PartitionsView.as_view(), name="partitions"),
]
