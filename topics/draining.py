"""The end of draining: a cluster that a topic has left holds nothing of it any more. Proven, said by a person, or by the clock.

It begins where topics leave (`moving.leave`).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from accounts.models import User
from clusters.drivers import builtin
from clusters.models import Cluster, Kind
from core.approvals import services as approvals
from core.audit.services import in_one_statement, record
from core.errors import Problem, conflict
from registry.releases import Change
from topics import moving
from topics.models import Draining, Topic

CHUNK = 500  # topics of one transaction
LISTED = 100
#: A message whose sending had begun when the topic left is stored by then.
MARGIN = timedelta(seconds=10)


def end(*, actor: User, topic: Topic, cluster: Cluster, reason: str) -> Topic:
    """Say that a cluster holds nothing more of a topic that has left it: groups let go of it. Problems: reason_required, not_draining."""
    for problem in end_many(actor=actor, topics=[topic], cluster=cluster, reason=reason):
        if problem is not None:
            raise problem
    return topic


def end_many(*, actor: User, topics: Sequence[Topic], cluster: Cluster, reason: str) -> list[Problem | None]:
    """The same for many, in one transaction; what stands in the way of each, None where nothing does."""
    reason = approvals.require_reason(reason)
    with transaction.atomic(), in_one_statement():
        rows = _locked([topic.pk for topic in topics], cluster=cluster)
        _end(list(rows.values()), actor, reason)
    return [None if topic.pk in rows else _not_draining(topic, cluster) for topic in topics]


def end_due() -> int:
    """End what is proven to be drained, and what has been drained for as long as brokers keep messages; for the task. Returns how many."""
    # A topic that is elsewhere takes no messages in the built-in store: what is empty there stays empty.
    stored = list(Draining.objects.filter(cluster__kind=Kind.BUILTIN, left_at__lte=Now() - MARGIN))
    holding = builtin.holding(topic_ids=[row.topic_id for row in stored]) if stored else set()
    empty = [row for row in stored if row.topic_id not in holding]
    over = list(Draining.objects.filter(until__lte=Now()))
    return _end_by_itself(empty, "Nothing of it is left on “{cluster}”.") + _end_by_itself(over, "“{cluster}” was drained long enough.")


def _end_by_itself(wanted: Sequence[Draining], why: str) -> int:
    ended = 0
    clusters = Cluster.objects.in_bulk({row.cluster_id for row in wanted})
    for pk, cluster in clusters.items():
        left = [row for row in wanted if row.cluster_id == pk]
        for start in range(0, len(left), CHUNK):
            chunk = {row.topic_id: row.left_at for row in left[start : start + CHUNK]}
            with transaction.atomic(), in_one_statement():
                # Looked at again under the locks of the topics: one may have come back, and left once more.
                rows = [row for row in _locked(chunk, cluster=cluster).values() if row.left_at == chunk[row.topic_id]]
                _end(rows, None, why.format(cluster=cluster.name))
            ended += len(rows)
    return ended


def _locked(topics: Collection[int], *, cluster: Cluster) -> Mapping[int, Draining]:
    """What is drained of these topics there, by the topic; nobody moves one of them until the transaction ends."""
    locked = list(Topic.objects.select_for_update(no_key=True).filter(pk__in=topics).order_by("pk").values_list("pk", flat=True))
    rows = Draining.objects.filter(topic__in=locked, cluster=cluster).select_related("cluster", "topic__cluster")
    return {row.topic_id: row for row in rows}


def _end(rows: Sequence[Draining], actor: User | None, reason: str) -> None:
    if not rows:
        return
    topics = [row.topic for row in rows]
    Draining.objects.filter(pk__in=[row.pk for row in rows]).delete()
    for row in rows:
        before = {"draining": row.cluster.name, "since": row.left_at.isoformat()}
        record(actor=actor, action="end draining", kind="topic", name=row.topic.name, before=before, reason=reason)
    moving.lock(topics)
    moving.publish_anew(topics, Change(author=actor, message=reason))


def check_none(cluster: Cluster) -> None:
    """Refuse while a cluster may hold messages of topics that have left it. Problem: still_drained, with topics and groups."""
    rows = Draining.objects.filter(cluster=cluster)
    topics = dict(rows.order_by("topic__name").values_list("topic", "topic__name"))
    if not topics:
        return
    groups = [path.rpartition("/")[2] for path in moving.touched(topics)]
    names = list(topics.values())
    raise conflict(
        "still_drained",
        _("“{name}” may still hold messages of topics that have left it: {topics}. Groups that pull them: {groups}.").format(
            name=cluster.name, topics=", ".join(names[:10]), groups=", ".join(groups[:10]) or _("none")
        ),
        hint=_("Wait until it is drained, or, if you know that it is, end the draining of these topics."),
        extra={"topics": names[:LISTED], "groups": groups[:LISTED]},
    )


def _not_draining(topic: Topic, cluster: Cluster) -> Problem:
    detail = _("“{cluster}” is not being drained of “{topic}”.").format(cluster=cluster.name, topic=topic.name)
    return conflict("not_draining", detail, hint=_("Look at it again: it may have ended meanwhile."))
