"""Releases over REST: who changed what is published, when, why, and how it differs from the one before."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.views import ReadViewSet, actor, extend, validated
from mqadmin_sdk.zk import paths
from registry import releases, rollbacks
from registry.models import Release


class ReleaseDifferenceSerializer(serializers.Serializer[Any]):
    """A key of a node; null: it was not there, or is not there any more."""

    key = serializers.CharField(source="field")
    before = serializers.CharField(allow_null=True)
    after = serializers.CharField(allow_null=True)
    mark = serializers.ChoiceField(["added", "removed", "changed"])


class ReleaseSerializer(serializers.ModelSerializer[Release]):
    """One generation of one node."""

    path = serializers.CharField()
    author = serializers.CharField(source="author_name", help_text="user name; “system” is a worker of mqadmin, or a policy")
    state = serializers.CharField(help_text="published, pending, or superseded: a later one came before it was seen in ZooKeeper")
    latest = serializers.BooleanField(source="is_latest", help_text="nothing was released after it")
    retired = serializers.BooleanField(source="deleted", help_text="the node was to go")
    change = serializers.UUIDField(help_text="what one verb released together has the same one")

    class Meta:
        model = Release
        fields = [
            "id", "path", "generation", "kind", "author", "message", "change", "state", "latest", "retired", "created_at", "published_at",
        ]  # fmt: skip


class ReleaseDetailSerializer(ReleaseSerializer):
    """The same with the node's data, and what differs from the release before."""

    content = serializers.CharField(source="text", help_text="the whole node, generation embedded; empty when it was to go")
    compared_with = serializers.SerializerMethodField(help_text="the generation before; null if there was none, or it is not kept any more")
    differences = serializers.SerializerMethodField(help_text="key by key, the generation left out; null if what was before is not known")

    class Meta(ReleaseSerializer.Meta):
        fields = [*ReleaseSerializer.Meta.fields, "content", "compared_with", "differences"]

    def get_compared_with(self, release: Release) -> int | None:
        """The generation before."""
        before = self._before(release)
        return None if before is None else before.generation

    @extend_schema_field(serializers.ListField(child=ReleaseDifferenceSerializer(), allow_null=True))
    def get_differences(self, release: Release) -> Any:
        """Against that."""
        found = releases.differences(self._before(release), release)
        return None if found is None else ReleaseDifferenceSerializer(found, many=True).data

    def _before(self, release: Release) -> Release | None:
        if not hasattr(self, "_found"):  # one release, two fields: looked for once
            self._found = releases.before(release)
        return self._found


class RollbackSerializer(serializers.Serializer[Any]):
    """A rollback is decided on what the person saw."""

    base = serializers.IntegerField(
        min_value=1,
        max_value=2**62,
        help_text="generation of the latest release of this node when you looked; stale_base if it is not any more",
    )
    reason = serializers.CharField(max_length=2000, help_text="becomes the message of the release")
    accept_warnings = serializers.BooleanField(
        default=False, help_text="in spite of what confirmation_needed says: limits of a cluster, messages that would be skipped"
    )


class ReleaseFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(field_name="publication__path", help_text="exactly this node")
    topic = django_filters.CharFilter(method="of_topic", help_text="the node of this topic")
    group = django_filters.CharFilter(method="of_group", help_text="the node of this consumer group")
    cluster = django_filters.CharFilter(method="of_cluster", help_text="the node of this cluster")
    author = django_filters.CharFilter(field_name="author_name", help_text="user name; “system” is a worker, or a policy")
    change = django_filters.UUIDFilter(help_text="all that was released together")
    since = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte", help_text="from this moment on, ISO 8601")
    until = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt", help_text="before this moment, ISO 8601")

    class Meta:
        model = Release
        fields = ["kind"]

    def of_topic(self, queryset: QuerySet[Release], _name: str, value: str) -> QuerySet[Release]:
        """By the topic's name."""
        return queryset.filter(publication__path=paths.topic(value))

    def of_group(self, queryset: QuerySet[Release], _name: str, value: str) -> QuerySet[Release]:
        """By the group's name."""
        return queryset.filter(publication__path=paths.group(value))

    def of_cluster(self, queryset: QuerySet[Release], _name: str, value: str) -> QuerySet[Release]:
        """By the cluster's name."""
        return queryset.filter(publication__path=paths.cluster(value))


class ReleaseViewSet(ReadViewSet):
    """Every generation of what is published, newest first; releases are never changed."""

    queryset = Release.objects.none()
    serializer_class = ReleaseSerializer
    filterset_class = ReleaseFilter
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "registry.view_release",
        "retrieve": "registry.view_release",
        "rollback": "registry.rollback_release",
    }
    page_order: ClassVar[str] = "-pk"
    lookup_value_regex = "[0-9]{1,18}"

    def get_queryset(self) -> QuerySet[Release]:
        """What the person may see."""
        rows: Any = self.restricted(Release.objects.all())
        return rows.select_related("publication") if self.action != "list" else rows.listed()  # type: ignore[no-any-return]

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """The data and the differences only in the detail."""
        return ReleaseSerializer if self.action == "list" else ReleaseDetailSerializer

    @extend(RollbackSerializer, ReleaseDetailSerializer)
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Want again what stood in this release; answers with the release of it. `dry_run=true` shows what would change."""
        made = rollbacks.rollback(actor=actor(request), release=self.get_object(), **validated(RollbackSerializer, request))
        return Response(self.get_serializer(made).data)
