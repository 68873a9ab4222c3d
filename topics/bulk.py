"""What can be done with many topics at once."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from accounts.fields import owner_field
from accounts.models import User
from clusters.models import Cluster
from core.api.fields import NameField, OptionalReasonSerializer, ReasonSerializer
from core.approvals.models import State
from core.bulk import Bulk, Resource, Values, register, verb
from core.console.approving import why_not
from core.errors import Problem
from topics import draining, moving, services
from topics.models import Topic
from topics.ownership import as_owned, change_owner, change_owners


class AllocationSerializer(OptionalReasonSerializer):
    """Where the topics go."""

    cluster = NameField(queryset=Cluster.objects.all())
    accept_warnings = serializers.BooleanField(default=False)


class MoveSerializer(ReasonSerializer):
    """Where the topics go, and why."""

    cluster = NameField(queryset=Cluster.objects.all())
    accept_warnings = serializers.BooleanField(default=False)


class DrainedSerializer(ReasonSerializer):
    """The cluster that holds nothing more of them, and why."""

    cluster = NameField(queryset=Cluster.objects.all())


class OwnerSerializer(ReasonSerializer):
    """Who answers for them from now on, and why."""

    owner = owner_field()


def _filterset() -> Any:
    from topics.api import TopicFilter

    return TopicFilter


def _hand_over(actor: User, topic: Topic, values: Values) -> None:
    change_owner(actor=actor, kind="topic", thing=topic, **values)


def _hand_over_many(actor: User, topics: Sequence[Topic], values: Values) -> Sequence[Problem | None]:
    return change_owners(actor=actor, kind="topic", things=topics, **values)


register(
    Resource(
        "topics",
        label=_("Topics"),
        rows=lambda: Topic.objects.select_related("application", "owner", "cluster"),
        filterset=_filterset,
        lists="topics.console.Topics",
        here="topics",
    )
)
verb(
    Bulk(
        "topics",
        "approve",
        label=_("Approve"),
        permission="topics.approve_topic",
        serializer=AllocationSerializer,
        run=lambda actor, topic, values: services.approve(actor=actor, topic=topic, **values),
        why_not=lambda user, topic: why_not(user, "topics.approve_topic", topic, [State.PENDING], four_eyes=True),
        form="topics.console_bulk.AllocateManyForm",
        tone="primary",
    )
)
verb(
    Bulk(
        "topics",
        "reject",
        label=_("Reject"),
        permission="topics.approve_topic",
        serializer=ReasonSerializer,
        run=lambda actor, topic, values: services.reject(actor=actor, topic=topic, **values),
        why_not=lambda user, topic: why_not(user, "topics.approve_topic", topic, [State.PENDING], four_eyes=True),
        form="core.console.pages.ReasonForm",
    )
)
verb(
    Bulk(
        "topics",
        "move",
        label=_("Move"),
        permission="topics.move_topic",
        serializer=MoveSerializer,
        run=lambda actor, topic, values: moving.move(actor=actor, topic=topic, **values),
        run_many=lambda actor, topics, values: moving.move_many(actor=actor, topics=topics, **values),
        many_rows=moving.as_moved,
        why_not=lambda user, topic: why_not(user, "topics.move_topic", topic, [State.ACTIVE]),
        form="topics.console_bulk.MoveManyForm",
    )
)
verb(
    Bulk(
        "topics",
        "end-draining",
        label=_("End draining"),
        permission="topics.move_topic",
        serializer=DrainedSerializer,
        run=lambda actor, topic, values: draining.end(actor=actor, topic=topic, **values),
        run_many=lambda actor, topics, values: draining.end_many(actor=actor, topics=topics, **values),
        why_not=lambda user, topic: why_not(user, "topics.move_topic", topic, [State.ACTIVE]),
        form="topics.console_bulk.DrainedManyForm",
    )
)
verb(
    Bulk(
        "topics",
        "change-owner",
        label=_("Change owner"),
        permission="topics.change_topic",
        serializer=OwnerSerializer,
        run=_hand_over,
        run_many=_hand_over_many,
        many_rows=as_owned,
        why_not=lambda user, topic: why_not(user, "topics.change_topic", topic, [State.ACTIVE]),
        form="topics.console_bulk.OwnerForm",
    )
)
verb(
    Bulk(
        "topics",
        "retire",
        label=_("Retire"),
        permission="topics.retire_topic",
        serializer=ReasonSerializer,
        run=lambda actor, topic, values: services.retire(actor=actor, topic=topic, **values),
        why_not=lambda user, topic: why_not(user, "topics.retire_topic", topic, [State.ACTIVE]),
        form="core.console.pages.ReasonForm",
        tone="danger",
    )
)
