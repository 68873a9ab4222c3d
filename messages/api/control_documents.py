"""How messages, delayed messages, dead letters and redrives are written, for people and their tools."""

from typing import Any

from rest_framework import serializers

from messages import pushing
from messages.api import documents, wire
from messages.models import Redrive, RedriveItem
from messages.types import StoredMessage


class GroupStatusSerializer(serializers.Serializer[Any]):
    """The status of one message in one group."""

    group = serializers.CharField()
    status = serializers.ChoiceField(documents.STATUSES)
    attempts = serializers.IntegerField(help_text="Tries so far, the running one included.")
    last_error = serializers.CharField(allow_null=True)
    next_retry_at = serializers.DateTimeField(allow_null=True)
    consumer = serializers.CharField(allow_null=True)
    pulled_at = serializers.DateTimeField(allow_null=True)
    settled_at = serializers.DateTimeField(allow_null=True)
    lease_until = serializers.DateTimeField(allow_null=True)


class FoundSerializer(serializers.Serializer[Any]):
    """A message without its body."""

    id = serializers.IntegerField()
    topic = serializers.CharField()
    state = serializers.ChoiceField(documents.STATES, help_text="delayed: not delivered to its topic yet, due at deliver_at.")
    key = serializers.CharField(allow_null=True)
    tag = serializers.CharField()
    sharding_key = serializers.CharField(allow_null=True)
    headers = serializers.DictField(child=serializers.CharField())
    body_bytes = serializers.IntegerField()
    sent_at = serializers.DateTimeField()
    deliver_at = serializers.DateTimeField(allow_null=True)
    origin_id = serializers.IntegerField(allow_null=True, help_text="The id that the producer of a delayed message got.")


class MessageSerializer(FoundSerializer):
    """A message with its body and its status in every group."""

    body = serializers.CharField(required=False, help_text="Left out, as body_base64 is, for those who may not read bodies.")
    body_base64 = serializers.CharField(required=False, help_text="Instead of body when it is not UTF-8.")
    groups = GroupStatusSerializer(many=True)

    def to_representation(self, instance: StoredMessage) -> dict[str, Any]:
        """`body` or `body_base64`, neither for those who may not read bodies; `groups` come by the context."""
        fields = FoundSerializer(instance).data
        body = wire.body_fields(instance.body) if self.context["body"] else {}
        return {**fields, **body, "groups": GroupStatusSerializer(self.context["groups"], many=True).data}


class RecentPushesSerializer(serializers.Serializer[Any]):
    """The attempts since a time, at most an hour ago."""

    since = serializers.DateTimeField(source="recent_since", allow_null=True)
    delivered = serializers.IntegerField(source="recent_ok")
    failed = serializers.IntegerField(source="recent_failed")
    failure_rate = serializers.FloatField(allow_null=True, help_text="0 to 1; null without an attempt.")


class PushStateSerializer(serializers.Serializer[Any]):
    """How the delivery to a group's webhook goes."""

    state = serializers.ChoiceField(
        pushing.STATES,
        help_text="off: no webhook. idle: nothing waits. delivering: a round goes on, or comes next. quiet: nobody answered, until"
        " quiet_until. unserved: something waits and no worker"
        " takes the queue “push”.",
    )
    quiet_until = serializers.DateTimeField(allow_null=True)
    last_success_at = serializers.DateTimeField(source="succeeded_at", allow_null=True)
    last_failure_at = serializers.DateTimeField(source="failed_at", allow_null=True)
    last_error = serializers.CharField(source="error", allow_blank=True)
    delivered = serializers.IntegerField(help_text="Attempts that succeeded, of all times.")
    failed = serializers.IntegerField(help_text="Attempts that failed, of all times.")
    recent = RecentPushesSerializer(source="*")


class PushSerializer(serializers.Serializer[Any]):
    """A group's webhook and how it goes; url empty: it has none."""

    group = serializers.CharField()
    url = serializers.CharField(allow_blank=True)
    concurrency = serializers.IntegerField()
    timeout_ms = serializers.IntegerField()
    delivery = PushStateSerializer()


class SearchPageSerializer(serializers.Serializer[Any]):
    """A page of a search; it may be empty and still go on at `next`: each page looks at a bounded number of messages."""

    results = FoundSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    searched_to = serializers.DateTimeField(allow_null=True, help_text="How far back this page got; null when all was searched.")


class DelayedPageSerializer(serializers.Serializer[Any]):
    """Delayed messages, next due first."""

    results = FoundSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class RescheduleSerializer(serializers.Serializer[Any]):
    """Another time: `deliver_at` or `delay_ms` from now, 0 for at once."""

    deliver_at = serializers.DateTimeField(required=False)
    delay_ms = serializers.IntegerField(required=False, min_value=0)
    reason = serializers.CharField(required=False, max_length=2000, help_text="Kept in the audit.")


class DeadLetterSerializer(serializers.Serializer[Any]):
    """A message that a group has given up, with its reason."""

    id = serializers.IntegerField()
    topic = serializers.CharField()
    key = serializers.CharField(allow_null=True)
    tag = serializers.CharField()
    body_bytes = serializers.IntegerField()
    sent_at = serializers.DateTimeField()
    attempts = serializers.IntegerField()
    redrives = serializers.IntegerField(help_text="How often it was redriven before.")
    reason = serializers.CharField()
    first_failed_at = serializers.DateTimeField()
    last_failed_at = serializers.DateTimeField()
    consumer = serializers.CharField(allow_null=True)


class DeadLetterPageSerializer(serializers.Serializer[Any]):
    """Dead letters, newest message first."""

    results = DeadLetterSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class DeadFilterSerializer(serializers.Serializer[Any]):
    """Which dead letters; what is not given matches all."""

    topic = serializers.CharField(required=False, max_length=140)
    key = serializers.CharField(required=False, max_length=255)
    tag = serializers.CharField(required=False, max_length=120)
    reason_contains = serializers.CharField(required=False, max_length=500)
    after = serializers.CharField(required=False, help_text="RFC 3339; bounds the last failure.")
    before = serializers.CharField(required=False, help_text="RFC 3339; bounds the last failure.")


class NewRedriveSerializer(serializers.Serializer[Any]):
    """Either `ids`, or `all` with an optional filter: those that match now are taken, later ones are not."""

    ids = serializers.ListField(child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), required=False)
    all = serializers.BooleanField(required=False, default=False)
    filter = DeadFilterSerializer(required=False)
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class RedriveItemSerializer(serializers.ModelSerializer[RedriveItem]):
    """What became of one message."""

    id = serializers.IntegerField(source="message_id")
    detail = serializers.CharField(source="get_reason_display", help_text="The reason for people.")

    class Meta:
        model = RedriveItem
        fields = ["id", "state", "reason", "detail", "done_at"]


class RedriveSerializer(serializers.ModelSerializer[Redrive]):
    """A job that brings dead letters back to their group."""

    group = serializers.SerializerMethodField()
    started_by = serializers.CharField(source="actor.username", default=None, allow_null=True)

    class Meta:
        model = Redrive
        fields = ["id", "group", "state", "total", "redriven", "refused", "filter", "reason", "started_by", "created_at", "finished_at"]

    def get_group(self, job: Redrive) -> str:  # noqa: ARG002
        """The group of the address."""
        return str(self.context["group"])


class RedrivePageSerializer(serializers.Serializer[Any]):
    """Redrives, newest first."""

    results = RedriveSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class StartedRedriveSerializer(RedriveSerializer):
    """A job with the results so far, of the first thousand messages."""

    items = serializers.SerializerMethodField()

    class Meta(RedriveSerializer.Meta):
        fields = [*RedriveSerializer.Meta.fields, "items"]

    def get_items(self, job: Redrive) -> RedriveItemSerializer:
        """In the order of the ids."""
        return RedriveItemSerializer(job.items.order_by("message_id")[:1000], many=True).data  # type: ignore[return-value]


class RedriveItemPageSerializer(serializers.Serializer[Any]):
    """Results by message id."""

    results = RedriveItemSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class CountsSerializer(serializers.Serializer[Any]):
    """Messages by status."""

    waiting = serializers.IntegerField()
    processing = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    later = serializers.IntegerField()
    dead = serializers.IntegerField()
    failed = serializers.IntegerField()
    skipped = serializers.IntegerField()


class TopicCountsSerializer(serializers.Serializer[Any]):
    """Messages of one topic by status."""

    topic = serializers.CharField()
    counts = CountsSerializer()


class LagSerializer(serializers.Serializer[Any]):
    """How far behind."""

    messages = serializers.IntegerField()
    seconds = serializers.FloatField(help_text="The age of the oldest message that waits.")


class ConsumptionSerializer(serializers.Serializer[Any]):
    """Where a group stands: exact counts per status, per topic too, and how far behind it is."""

    group = serializers.CharField()
    suspended = serializers.BooleanField()
    counts = CountsSerializer()
    lag = LagSerializer()
    topics = TopicCountsSerializer(many=True)
