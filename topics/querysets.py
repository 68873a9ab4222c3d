"""Set-based reads of topics."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import F, OuterRef, Q, QuerySet, TextField, Value
from django.db.models.functions import Concat, JSONObject

from core.scope import Principal, ScopedQuerySet

if TYPE_CHECKING:
    from topics.models import Draining, Topic  # noqa: F401 - for the quoted names below


class TopicQuerySet(ScopedQuerySet["Topic"]):
    """Topics."""

    def own(self, user: Principal) -> Q:
        """Those that the person's applications produce."""
        return Q(application__in=user.own_applications())

    def with_names(self) -> TopicQuerySet:
        """With the names of application, people and clusters as values (`owner_name`, …, `drained`), for documents.

        Objects cost far more to load.
        """
        from topics.models import Draining

        return self.annotate(
            application_name=F("application__name"),
            owner_name=F("owner__username"),
            cluster_name=F("cluster__name"),
            requested_by_name=F("requested_by__username"),
            decided_by_name=F("decided_by__username"),
            drained=Draining.objects.filter(topic=OuterRef("pk")).as_documents(),
        )


class DrainingQuerySet(QuerySet["Draining", "Draining"]):
    """Clusters that topics have left."""

    def names_of(self, topics: Collection[int]) -> dict[int, list[str]]:
        """The names of the clusters that are drained of each of these topics, in their order; those of none are left out."""
        found: dict[int, list[str]] = {}
        for topic_id, name in self.filter(topic__in=topics).order_by("cluster__name").values_list("topic_id", "cluster__name"):
            found.setdefault(topic_id, []).append(name)
        return found

    def as_documents(self) -> ArraySubquery:
        """As a column of values for documents, of a filter by an outer row."""
        rows = self.order_by("topic__name", "cluster__name")
        return ArraySubquery(rows.values(json=JSONObject(topic="topic__name", cluster="cluster__name", since="left_at", until="until")))


def own_paths(user: Principal) -> QuerySet[Any, Any]:
    """Where the person's topics stand in ZooKeeper (`Topic.zookeeper_path`)."""
    from topics.models import Topic

    path = Concat(Value("/zms/topic/"), F("name"), output_field=TextField())
    return Topic.objects.filter(application__in=user.own_applications()).order_by().values_list(path, flat=True)


def own_names(user: Principal) -> QuerySet[Any, Any]:
    """Their names."""
    from topics.models import Topic

    return Topic.objects.filter(application__in=user.own_applications()).values_list("name", flat=True)
