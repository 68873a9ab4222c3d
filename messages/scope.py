"""Whose messages somebody sees: by their topic or their group; looked up here by REST and console alike."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from consumers.models import ConsumerGroup, Subscription
from core.approvals.models import State
from core.errors import not_found
from core.scope import Reach, reach_of
from messages import half, querysets, tracing
from messages.names import topic_of
from messages.tracing import TraceEvent
from messages.types import GroupStatus, HalfMessage, StoredMessage
from topics.models import Topic

VIEW, BODY = "mq_messages.view_message", "mq_messages.view_body"


def topics(user: Any, permission: str = VIEW) -> QuerySet[Topic, Topic]:
    """The topics whose messages somebody may see, send, change; a reader of own groups' messages also reads what these are given."""
    rows = Topic.objects.restrict(user, permission)
    if permission in {VIEW, BODY} and reach_of(user, permission) is Reach.OWN:
        own = user.own_applications()
        given = Subscription.objects.filter(group__application__in=own, group__state=State.ACTIVE).values("topic")
        return Topic.objects.filter(Q(application__in=own) | Q(pk__in=given))
    return rows


def topic_id(user: Any, name: str, permission: str = VIEW) -> int | None:
    """The id of a topic by its name; None if there is none for this person."""
    return topics(user, permission).filter(name=name).values_list("pk", flat=True).first() if name and "\x00" not in name else None


def topic_ids(user: Any, permission: str = VIEW) -> list[int] | None:
    """Ids of the topics, None for all of them."""
    return None if reach_of(user, permission) is Reach.ALL else list(topics(user, permission).values_list("pk", flat=True))


def groups(user: Any, permission: str = VIEW) -> QuerySet[ConsumerGroup, ConsumerGroup]:
    """The groups whose messages and status somebody may see or settle."""
    return ConsumerGroup.objects.restrict(user, permission)


def message(user: Any, message_id: int, permission: str = VIEW) -> StoredMessage:
    """A message of one of these topics. Problem: not_found."""
    found = querysets.message(message_id=message_id)
    if reach_of(user, permission) is not Reach.ALL and not topics(user, permission).filter(pk=topic_of(found.topic_id)).exists():
        raise not_found(_("message"), message_id)
    return found


def half_message(user: Any, message_id: int, permission: str = VIEW) -> HalfMessage:
    """A half message of one of these topics. Problem: not_found."""
    found = half.half_message(message_id=message_id)
    if reach_of(user, permission) is not Reach.ALL and not topics(user, permission).filter(pk=found.topic_id).exists():
        raise not_found(_("half message"), message_id)
    return found


def message_status(user: Any, message_id: int) -> list[GroupStatus]:
    """Its status in every group that the person may see."""
    statuses = querysets.message_status(message_id=message_id)
    if not statuses or reach_of(user, "consumers.view_consumergroup") is Reach.ALL:
        return statuses
    seen = visible_groups(user, [status.group_id for status in statuses])
    return [status for status in statuses if status.group_id in seen]


def trace(user: Any, found: StoredMessage) -> list[TraceEvent]:
    """The life of a message in the groups that the person may see."""
    events = tracing.trace(found)
    if reach_of(user, "consumers.view_consumergroup") is Reach.ALL:
        return events
    seen = visible_groups(user, [event.group_id for event in events if event.group_id is not None])
    return [event for event in events if event.group_id is None or event.group_id in seen]


def visible_groups(user: Any, group_ids: Sequence[int]) -> set[int]:
    """Of these groups those that the person may see."""
    return set(groups(user, "consumers.view_consumergroup").filter(pk__in=set(group_ids)).values_list("pk", flat=True))


def may_read_body(user: Any, topic: int) -> bool:
    """Whether somebody may read the bodies of a topic's messages."""
    reach = reach_of(user, BODY)
    return reach is Reach.ALL or (reach is Reach.OWN and topics(user, BODY).filter(pk=topic_of(topic)).exists())
