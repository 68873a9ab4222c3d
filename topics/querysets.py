"""Set-based reads of topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import F, Q, QuerySet, TextField, Value
from django.db.models.functions import Concat

from core.scope import Principal, ScopedQuerySet

if TYPE_CHECKING:
    from topics.models import Topic  # noqa: F401 - for the quoted name below


class TopicQuerySet(ScopedQuerySet["Topic"]):
    """Topics."""

    def own(self, user: Principal) -> Q:
        """Those that the person's applications produce."""
        return Q(application__in=user.own_applications())

    def with_names(self) -> TopicQuerySet:
        """With the names of application, people and cluster as values (`owner_name`, …), for documents: objects cost far more to load."""
        return self.annotate(
            application_name=F("application__name"),
            owner_name=F("owner__username"),
            cluster_name=F("cluster__name"),
            requested_by_name=F("requested_by__username"),
            decided_by_name=F("decided_by__username"),
        )


def own_paths(user: Principal) -> QuerySet[Any, Any]:
    """Where the person's topics stand in ZooKeeper (`Topic.zookeeper_path`)."""
    from topics.models import Topic

    path = Concat(Value("/zms/topic/"), F("name"), output_field=TextField())
    return Topic.objects.filter(application__in=user.own_applications()).order_by().values_list(path, flat=True)


def own_names(user: Principal) -> QuerySet[Any, Any]:
    """Their names."""
    from topics.models import Topic

    return Topic.objects.filter(application__in=user.own_applications()).values_list("name", flat=True)
