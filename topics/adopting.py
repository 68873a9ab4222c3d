"""Topics that come from elsewhere, from ZMS or another deployment: active at once, many with few statements."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.drivers import builtin
from core.approvals import services as approvals
from core.approvals.models import State
from core.audit.services import in_one_statement, record
from core.errors import Problem, conflict
from registry import services as registry
from registry.trees import Standing
from topics.models import Retention, Topic
from topics.services import change_of, keep_messages, keep_orders, nodes_of


@dataclass(frozen=True, slots=True)
class Arrival:
    """A topic that is not saved yet, checked and on its cluster.

    `node` is the one that it has where it comes from. `forced`: warnings spoke against the topic and were accepted.
    """

    topic: Topic
    node: Standing | None = None
    forced: bool = False


def adopt(*, actor: User, arrivals: Sequence[Arrival], reason: str) -> None:
    """Save them active and publish them; all or none. Problems: duplicate_name, and those of publishing."""
    made = [arrival.topic for arrival in arrivals]
    with transaction.atomic(), in_one_statement():
        for topic in made:
            topic.state, topic.requested_by = State.ACTIVE, actor
            for name, value in approvals.decision(actor=actor, reason=reason).items():
                setattr(topic, name, value)
        try:
            with transaction.atomic():
                Topic.objects.bulk_create(made)
        except IntegrityError:
            raise _taken(made) from None
        limited = [topic for topic in made if topic.ttl_seconds or topic.max_length]
        builtin.set_limits_of({topic.pk: (topic.ttl_seconds, topic.max_length) for topic in limited})
        for topic in made:
            if topic.retention != Retention.STORE:
                keep_messages(topic)
            after = {"cluster": topic.cluster.name if topic.cluster else ""}
            record(actor=actor, action="import", kind="topic", name=topic.name, after=after, reason=reason)
        number = uuid4()  # all of it is one change
        for forced in (False, True):
            if part := [arrival for arrival in arrivals if arrival.forced is forced]:
                change = replace(change_of(actor=actor, message=reason, forced=forced), id=number)
                nodes = nodes_of([arrival.topic for arrival in part])
                registry.bring_many([(node, arrival.node) for node, arrival in zip(nodes, part, strict=True)], change=change)
        keep_orders(made)


def _taken(made: Sequence[Topic]) -> Problem:
    there = Topic.objects.filter(name__in=[topic.name for topic in made]).values_list("name", flat=True)
    detail = _("There is a topic “{name}” already.").format(name=", ".join(there[:10]))
    return conflict("duplicate_name", detail, hint=_("Choose another name."))
