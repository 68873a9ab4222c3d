"""Edits by others over REST: their history, what waits for a person, and the policy of each tree."""

from typing import Any, ClassVar

import django_filters
from django.db.models import QuerySet
from django.utils.functional import SimpleLazyObject
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.fields import ReasonSerializer
from core.api.views import NamedViewSet, ReadViewSet, actor, extend, validated
from registry import drift
from registry.models import Drift, DriftPolicy


class DriftSerializer(serializers.ModelSerializer[Drift]):
    """One edit by somebody other than mqadmin."""

    changed_at = serializers.DateTimeField(source="node_mtime", allow_null=True, help_text="As the node says; null: there is none.")
    session = serializers.SerializerMethodField(help_text="Who: ZooKeeper tells it of ephemeral nodes only; null: unknown.")
    decided_by = serializers.CharField(source="decided_by.username", default=None, allow_null=True)

    class Meta:
        model = Drift
        fields = [
            "id", "path", "edit", "seen_at", "changed_at", "mzxid", "node_version", "session", "size", "outcome", "settled_at",
            "decided_by", "reason",
        ]  # fmt: skip

    def get_session(self, row: Drift) -> str | None:
        """In hexadecimal, as ZooKeeper's logs have it."""
        return row.who or None


class DriftDifferenceSerializer(serializers.Serializer[Any]):
    """One key."""

    key = serializers.CharField()
    wanted = serializers.CharField(allow_null=True)
    found = serializers.CharField(allow_null=True)
    kind = serializers.ChoiceField(choices=["same", "changed", "missing", "added"])


class DriftDetailSerializer(DriftSerializer):
    """The same with what was found, what was wanted then, and how they differ."""

    found = serializers.SerializerMethodField(help_text="The node as text; null: it was gone.")
    wanted = serializers.SerializerMethodField(help_text="What mqadmin wanted there; null: nothing.")
    differences = DriftDifferenceSerializer(many=True)

    class Meta(DriftSerializer.Meta):
        fields = [*DriftSerializer.Meta.fields, "found", "wanted", "differences"]

    def get_found(self, row: Drift) -> str | None:
        """What is not UTF-8 is replaced."""
        return None if row.data is None else bytes(row.data).decode("utf-8", "replace")

    def get_wanted(self, row: Drift) -> str | None:
        """As it was to be."""
        return None if row.wanted is None else bytes(row.wanted).decode("utf-8", "replace")


class AdoptionSerializer(serializers.Serializer[Any]):
    """Why, and whether in spite of warnings."""

    reason = serializers.CharField(max_length=2000, help_text="Becomes the message of the release.")
    accept_warnings = serializers.BooleanField(
        default=False, help_text="In spite of what confirmation_needed says: limits of a cluster, messages that would be skipped."
    )


class DriftFilter(django_filters.FilterSet):  # type: ignore[misc]  # no types
    """Filters of the list."""

    path = django_filters.CharFilter(help_text="exactly this node")
    path_prefix = django_filters.CharFilter(field_name="path", lookup_expr="startswith", help_text="nodes below")
    settled = django_filters.BooleanFilter(field_name="settled_at", lookup_expr="isnull", exclude=True)

    class Meta:
        model = Drift
        fields = ["edit", "outcome"]


class DriftViewSet(ReadViewSet):
    """Edits by others, the last first."""

    queryset = Drift.objects.select_related("decided_by")
    serializer_class = DriftSerializer
    filterset_class = DriftFilter
    lookup_value_regex = "[0-9]{1,18}"
    page_order: ClassVar[str] = "-pk"
    versioned: ClassVar[bool] = False  # it changes by itself; its verbs look at its outcome
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "registry.view_drift",
        "retrieve": "registry.view_drift",
        "repair": "registry.change_drift",
        "adoption": "registry.change_drift",
    }

    def get_queryset(self) -> QuerySet[Drift]:
        """The bytes only in the detail."""
        rows: QuerySet[Drift] = super().get_queryset()
        return rows.defer("data", "wanted") if self.action == "list" else rows

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """The data only in the detail."""
        return DriftSerializer if self.action == "list" else DriftDetailSerializer

    @extend(ReasonSerializer, DriftDetailSerializer)
    @action(detail=True, methods=["post"])
    def repair(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Write ours over an edit that waits for a person; refused if it is settled, or the node was changed again."""
        row = drift.repair(actor=actor(request), drift=self.get_object(), **validated(ReasonSerializer, request))
        return Response(DriftDetailSerializer(row).data)

    @extend(AdoptionSerializer, DriftDetailSerializer)
    @action(detail=True, methods=["post"])
    def adoption(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Let the values that wait become those of the topic, group, cluster or shadow group; refused if they cannot be had."""
        row = drift.adopt(actor=actor(request), drift=self.get_object(), **validated(AdoptionSerializer, request))
        return Response(DriftDetailSerializer(row).data)


class DriftPolicySerializer(serializers.ModelSerializer[DriftPolicy]):
    """What registrars do about edits by others in one tree."""

    name = serializers.CharField()
    root = serializers.CharField()  # type: ignore[assignment]  # the field that a Field has by this name is set later
    waiting = serializers.SerializerMethodField(help_text="Nodes of the tree that wait for a person.")

    class Meta:
        model = DriftPolicy
        fields = ["name", "root", "policy", "waiting", "version", "changed_at"]

    def get_waiting(self, row: DriftPolicy) -> int:
        """Counted for all of them at once."""
        return int(self.context["waiting"][row.name])


class DriftPolicyChangeSerializer(serializers.Serializer[Any]):
    """Another policy, and why."""

    policy = serializers.ChoiceField(choices=DriftPolicy.Policy.choices)
    reason = serializers.CharField(max_length=2000, help_text="Kept in the audit.")


class DriftPolicyViewSet(NamedViewSet):
    """The policy of each tree: repair at once, or alert and wait for a person."""

    queryset = DriftPolicy.objects.all()
    serializer_class = DriftPolicySerializer
    observed: ClassVar[frozenset[str]] = frozenset({"waiting"})
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "registry.view_driftpolicy",
        "retrieve": "registry.view_driftpolicy",
        "partial_update": "registry.change_driftpolicy",
    }

    def get_serializer_context(self) -> dict[str, Any]:
        """How many wait, for all trees in one statement."""
        return {**super().get_serializer_context(), "waiting": SimpleLazyObject(drift.waiting)}

    @extend(DriftPolicyChangeSerializer, DriftPolicySerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Change it; when waiting ends, what waits is repaired."""
        policy = self.get_object()
        values = validated(DriftPolicyChangeSerializer, request)
        changed = drift.set_policy(actor=actor(request), policy=policy, to=values["policy"], reason=values["reason"])
        return Response(self.get_serializer(changed).data)
