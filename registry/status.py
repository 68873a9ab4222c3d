"""How far a change is, for lists and details of the rooms above: decided, written to ZooKeeper, applied by those who are online."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from rest_framework import serializers

from registry.models import Publication

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


def statuses(paths: Iterable[str], user: Any = None) -> dict[str, Publication]:
    """The publications at these paths with their applied counts, in one statement; for a user only those that they may see."""
    rows = Publication.objects.filter(path__in=list(paths)).defer(*ASIDE)
    return {row.path: row for row in (rows if user is None else rows.restrict(user)).with_applied_counts()}


class WithPublication:
    """A view whose objects have a `zookeeper_path`: its serializer finds their publications in the context, by one statement a page."""

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the publications of the page to the serializer."""
        things = args[0] if args else []
        selected = getattr(self, "selected", None)
        if selected is not None and "status" not in selected:
            return super().get_serializer(*args, **kwargs)  # type: ignore[misc]
        things = things if isinstance(things, list) else [things]
        context = {**self.get_serializer_context(), "publications": statuses(thing.zookeeper_path for thing in things)}  # type: ignore[attr-defined]
        return super().get_serializer(*args, **{**kwargs, "context": context})  # type: ignore[misc]


class PublishedSerializer(serializers.Serializer[Any]):
    """Mix-in of a serializer that shows `status`."""

    status = serializers.SerializerMethodField()

    def get_status(self, thing: Any) -> dict[str, Any] | None:
        """Null until it is published for the first time."""
        row = self.context["publications"].get(thing.zookeeper_path)
        return dict(self._published.to_representation(row)) if row else None

    @cached_property
    def _published(self) -> PublicationStatusSerializer:
        """One for all rows: making its fields costs more than the rest of the row."""
        return PublicationStatusSerializer()
