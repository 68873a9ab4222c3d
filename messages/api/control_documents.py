"""How messages, delayed messages, dead letters and redrives are written, for people and their tools."""

from typing import Any, Literal

from rest_framework import serializers

from consumers.models import ConsumerGroup
from messages import pushing, tracing
from messages.api import documents, wire
from messages.models import Redrive
from messages.names import topic_name
from messages.types import StoredMessage


class GroupStatusSerializer(serializers.Serializer[Any]):
    """The status of one message in one group."""

    group = serializers.CharField()
    instance = serializers.CharField(allow_null=True, help_text="Of a broadcast group: each instance has a status of its own.")
    status = serializers.ChoiceField(documents.STATUSES)
    attempts = serializers.IntegerField(help_text="Tries so far, the running one included.")
    last_error = serializers.CharField(allow_null=True)
    next_retry_at = serializers.DateTimeField(allow_null=True)
    consumer = serializers.CharField(allow_null=True)
    pulled_at = serializers.DateTimeField(allow_null=True)
    settled_at = serializers.DateTimeField(allow_null=True)
    lease_until = serializers.DateTimeField(allow_null=True)


class TraceEventSerializer(serializers.Serializer[Any]):
    """What happened to a message, and when; a time that is still to come stands with `due` and `retry`."""

    at = serializers.DateTimeField()
    event = serializers.ChoiceField(tracing.WORDS)
    group = serializers.CharField(allow_null=True)
    instance = serializers.CharField(allow_null=True, help_text="Of a broadcast group.")
    consumer = serializers.CharField(allow_null=True)
    attempt = serializers.IntegerField(allow_null=True, help_text="Which try; those between the first and the last failure are not kept.")
    detail = serializers.CharField(allow_null=True, help_text="The error, or the time to which it was moved.")
    by = serializers.CharField(allow_null=True, help_text="The person who did it.")
    message = serializers.IntegerField(allow_null=True, help_text="The new message of a redrive, or the one that this one came from.")
    topic = serializers.CharField(allow_null=True)
    operation = serializers.UUIDField(allow_null=True)


class TraceSerializer(serializers.Serializer[Any]):
    """The life of a message, oldest first."""

    results = TraceEventSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Always null: there is one page.")


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


class DueInHourSerializer(serializers.Serializer[Any]):
    """How many messages are due within an hour."""

    hour = serializers.DateTimeField(help_text="When the hour begins.")
    messages = serializers.IntegerField()


class DueInHoursSerializer(serializers.Serializer[Any]):
    """Hour by hour, those without any included."""

    results = DueInHourSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="Always null: there is one page.")


class DelayedFilterSerializer(serializers.Serializer[Any]):
    """Which delayed messages; what is not given matches all."""

    topic = serializers.CharField(required=False, max_length=140)
    key = serializers.CharField(required=False, max_length=255)
    tag = serializers.CharField(required=False, max_length=500)
    due_from = serializers.CharField(required=False, help_text="RFC 3339; bounds the delivery time.")
    due_to = serializers.CharField(required=False, help_text="RFC 3339; bounds the delivery time.")


class ManyDelayedSerializer(serializers.Serializer[Any]):
    """All that match the filter now, of the topics within one's reach; what is sent later is not taken."""

    all = serializers.BooleanField(help_text="true: so that an empty body does not mean everything.")
    filter = DelayedFilterSerializer(required=False)
    reason = serializers.CharField(required=False, max_length=2000, allow_blank=True, default="", help_text="Kept in the audit.")


class ManyRescheduledSerializer(ManyDelayedSerializer):
    """And the time, the same for all: `deliver_at`, or `delay_ms` from now; 0 delivers them now."""

    deliver_at = serializers.DateTimeField(required=False)
    delay_ms = serializers.IntegerField(required=False, min_value=0)


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


class CauseSerializer(serializers.Serializer[Any]):
    """Dead letters whose reasons are the same but for numbers and ids."""

    cause = serializers.CharField(help_text="The reason with # for each number and id; as a filter it finds exactly these.")
    example = serializers.CharField(help_text="One of their reasons.")
    messages = serializers.IntegerField()
    oldest = serializers.DateTimeField(help_text="When the first of them died.")
    newest = serializers.DateTimeField()


class CausesSerializer(serializers.Serializer[Any]):
    """Why and when: the newest 50,000 dead letters of a group by cause, most frequent first, at most 100 causes."""

    results = CauseSerializer(many=True)
    causes = serializers.IntegerField(help_text="How many causes there are.")
    looked_at = serializers.IntegerField()
    complete = serializers.BooleanField(help_text="All dead letters of the group were looked at.")
    in_hour = serializers.IntegerField(help_text="How many have died within the last hour.")
    in_day = serializers.IntegerField()
    in_week = serializers.IntegerField()
    oldest = serializers.DateTimeField(allow_null=True)


class DeadFilterSerializer(serializers.Serializer[Any]):
    """Which dead letters; what is not given matches all."""

    topic = serializers.CharField(required=False, max_length=140)
    key = serializers.CharField(required=False, max_length=255)
    tag = serializers.CharField(required=False, max_length=500)
    reason_contains = serializers.CharField(required=False, max_length=500)
    cause = serializers.CharField(required=False, max_length=300, help_text="One of dead-letters/causes.")
    after = serializers.CharField(required=False, help_text="RFC 3339; bounds the last failure.")
    before = serializers.CharField(required=False, help_text="RFC 3339; bounds the last failure.")


class SelectionSerializer(serializers.Serializer[Any]):
    """Either `ids`, or `all` with an optional filter: those that match now are taken, later ones are not."""

    ids = serializers.ListField(child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), required=False)
    all = serializers.BooleanField(required=False, default=False)
    filter = DeadFilterSerializer(required=False)
    instance = serializers.CharField(
        max_length=255, required=False, help_text="Of a broadcast group, whose dead letters are each instance's."
    )
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class NewPurgeSerializer(SelectionSerializer):
    """Which dead letters are to be failed for good, and the confirmation."""

    reason = serializers.CharField(max_length=500, help_text="Why nobody needs them; kept in the audit and with each message.")
    confirm = serializers.CharField(max_length=140, help_text="The name of the group.")


class NewRedriveSerializer(SelectionSerializer):
    """Which dead letters, where to, and how carefully."""

    to = serializers.ChoiceField(
        ["group", "topic"],
        default="group",
        help_text="group: again to this group alone, its tries start from one. topic: as new messages, to all groups of the topic.",
    )
    topic = serializers.CharField(required=False, max_length=140, help_text="Another topic than each message's own, with to=topic.")
    rate = serializers.FloatField(required=False, help_text="Messages per second at most, 0.1 to 10,000.")
    canary = serializers.IntegerField(
        required=False, default=0, help_text="So many go first; the others follow only when all of these have succeeded. At most 1,000."
    )
    stop_at = serializers.FloatField(
        required=False, help_text="The share of failures among those tried again, above 0 to 1, at which the operation pauses."
    )


class EditedRedriveSerializer(serializers.Serializer[Any]):
    """A dead letter as it is to go on; what is not given stays as it was."""

    to = serializers.ChoiceField(
        ["group", "topic"], default="group", help_text="group: to this group alone. topic: to all groups of the topic."
    )
    topic = serializers.CharField(required=False, max_length=140, help_text="Another topic than the message's own, with to=topic.")
    body = serializers.CharField(required=False, trim_whitespace=False, allow_blank=True, help_text="Text, at most 1 MiB in UTF-8.")
    body_base64 = serializers.CharField(required=False, allow_blank=True, help_text="Instead of body: bytes.")
    key = serializers.CharField(required=False, allow_null=True, max_length=255)
    tag = serializers.CharField(required=False, allow_blank=True, max_length=500)
    sharding_key = serializers.CharField(required=False, allow_null=True, max_length=255)
    headers = serializers.DictField(child=serializers.CharField(), required=False)
    instance = serializers.CharField(max_length=255, required=False, help_text="Of a broadcast group: whose dead letter it is.")
    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class RedriveSerializer(serializers.ModelSerializer[Redrive]):
    """A dead letter that was redriven, and where it went."""

    id = serializers.IntegerField()
    message = serializers.IntegerField(source="message_id")
    to = serializers.SerializerMethodField()
    topic = serializers.SerializerMethodField(help_text="Of the new message; null: there is none, the same one went back to the group.")
    new_message = serializers.IntegerField(source="new_id", allow_null=True)
    operation = serializers.UUIDField(source="operation.uid", default=None, allow_null=True)
    by = serializers.CharField(source="actor.username", default=None, allow_null=True)

    class Meta:
        model = Redrive
        fields = ["id", "message", "to", "topic", "new_message", "operation", "by", "at"]

    def get_to(self, row: Redrive) -> Literal["group", "topic"]:
        """The group itself, or a topic."""
        return "group" if row.new_topic_id is None or row.new_topic_id < 0 else "topic"

    def get_topic(self, row: Redrive) -> str | None:
        """By its name."""
        return None if row.new_topic_id is None else topic_name(row.new_topic_id)


class RedrivePageSerializer(serializers.Serializer[Any]):
    """Redriven messages, newest first."""

    results = RedriveSerializer(many=True)
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
    mode = serializers.ChoiceField(ConsumerGroup.Mode.choices)
    instances = serializers.IntegerField(allow_null=True, help_text="With a position of their own, of a broadcast group; null of another.")
    suspended = serializers.BooleanField()
    counts = CountsSerializer(help_text="Of a broadcast group those of all instances together.")
    lag = LagSerializer(help_text="Of a broadcast group that of the instance that is furthest behind.")
    topics = TopicCountsSerializer(many=True)
