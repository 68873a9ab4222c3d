"""How far a change is, as documents of the rooms above show it: decided, written to ZooKeeper, applied by those who are online."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, get_args

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from registry.convergence import Goal, Outcome
from registry.models import Publication

GOALS, OUTCOMES = list(get_args(Goal)), list(get_args(Outcome))
#: What a status does not show: node data can be half a megabyte, and times cost most of what a row costs to load.
ASIDE = (
    "data", "foreign_keys", "requires", "published_digest", "last_attempt_at", "next_attempt_at", "last_foreign_edit_at",
    "repairs", "repairs_since", "overrules",
)  # fmt: skip


class AppliedSerializer(serializers.Serializer[Any]):
    """Of the instances that are online: how many run the published generation; plain ZMS clients do not say."""

    online = serializers.IntegerField(source="online_count")
    applied = serializers.IntegerField(source="applied_count")
    outdated = serializers.IntegerField(source="outdated_count")
    unknown = serializers.IntegerField(source="unknown_count")


class PublicationStatusSerializer(serializers.ModelSerializer[Publication]):
    """Desired and observed state of one node."""

    state = serializers.CharField(help_text="published, pending, failing, drifted, held or retired")
    applied = AppliedSerializer(source="*")

    class Meta:
        model = Publication
        fields = ["path", "state", "generation", "published_generation", "published_at", "last_error", "applied"]


class LatencySerializer(serializers.Serializer[Any]):
    """From the publication until it was seen to be applied, both by the database's clock, of those who were there before."""

    count = serializers.IntegerField()
    p50_ms = serializers.IntegerField()
    p95_ms = serializers.IntegerField()
    max_ms = serializers.IntegerField()


@extend_schema_field({"type": "object", "additionalProperties": {"type": "number"}})
class CountsField(serializers.JSONField):
    """Numbers by name, as an instance tells them."""


class InstanceNameSerializer(serializers.Serializer[Any]):
    """An instance, to be named."""

    id = serializers.IntegerField()
    app = serializers.CharField()
    ip = serializers.CharField()
    pid = serializers.IntegerField(allow_null=True)
    node = serializers.CharField()
    sdk = serializers.CharField()
    state = serializers.CharField()
    counts = CountsField(allow_null=True)
    counted_at = serializers.DateTimeField(allow_null=True)
    applied_generation = serializers.IntegerField(allow_null=True)
    error = serializers.CharField()
    online_since = serializers.DateTimeField()


class InstanceCountsSerializer(serializers.Serializer[Any]):
    """Of the instances that follow the path."""

    applied = serializers.IntegerField()
    outdated = serializers.IntegerField()
    unknown = serializers.IntegerField(help_text="Plain ZMS clients, which do not tell.")
    offline = serializers.IntegerField(help_text="In the last week.")


class ConvergenceSerializer(serializers.Serializer[Any]):
    """How far a change is."""

    path = serializers.CharField()
    generation = serializers.IntegerField()
    published = serializers.BooleanField(help_text="ZooKeeper holds this generation or a later one.")
    published_at = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(help_text="Why it is not published yet.")
    applied = serializers.BooleanField(
        help_text="It is published, and all that are online and tell what they run run it. No fence: who has no session is not counted."
    )
    known = serializers.BooleanField(help_text="false: no registrar watches, so nobody knows who is online, and applied is false.")
    instances = InstanceCountsSerializer(source="counts")
    latency = LatencySerializer(allow_null=True)
    stragglers = InstanceNameSerializer(many=True, help_text="Online, and run an older generation; the first hundred.")
    unknown = InstanceNameSerializer(many=True, source="silent", help_text="Online, and nobody knows what they run; the first hundred.")


class WaitedSerializer(serializers.Serializer[Any]):
    """What waiting came to; the change itself is done, whatever stands here."""

    goal = serializers.ChoiceField(GOALS)
    outcome = serializers.ChoiceField(
        OUTCOMES,
        help_text="interrupted: the server is ending, ask again. nothing_to_wait_for: nothing was published by this.",
    )
    seconds = serializers.FloatField()


class AppliedChangeSerializer(ConvergenceSerializer):
    """How far a change is, and what waiting for it came to."""

    waited = WaitedSerializer(allow_null=True)


class WaitedForSerializer(WaitedSerializer):
    """What waiting came to, and how far the change is then."""

    change = ConvergenceSerializer(allow_null=True)


def statuses(paths: Iterable[str], user: Any = None) -> dict[str, Publication]:
    """The publications at these paths with their applied counts, in one statement; for a user only those that they may see."""
    rows = Publication.objects.filter(path__in=list(paths)).defer(*ASIDE)
    return {row.path: row for row in (rows if user is None else rows.restrict(user)).with_applied_counts()}


class PublishedSerializer(serializers.Serializer[Any]):
    """Mix-in of a serializer that shows `status`, and in the answer of a write that waited `waited`."""

    status = serializers.SerializerMethodField()
    waited = WaitedForSerializer(required=False, help_text="Only in the answer of a write with `wait`.")

    def get_fields(self) -> dict[str, Any]:
        """What waiting came to is no property of a thing: it is added to the answer."""
        fields = super().get_fields()
        if self.context.get("publications"):
            fields.pop("waited", None)
        return fields

    def get_status(self, thing: Any) -> dict[str, Any] | None:
        """Null until it is published for the first time."""
        row = self.context["publications"].get(thing.zookeeper_path)
        return dict(self._published.to_representation(row)) if row else None

    @cached_property
    def _published(self) -> PublicationStatusSerializer:
        """One for all rows: making its fields costs more than the rest of the row."""
        return PublicationStatusSerializer()
