"""Set-based reads of consumer groups and shadow groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import F, OuterRef, Prefetch, Q, QuerySet, TextField, Value
from django.db.models.functions import Concat, JSONObject

from core.scope import Principal, ScopedQuerySet

if TYPE_CHECKING:
    from consumers.models import ConsumerGroup, ShadowTask  # noqa: F401 - for the quoted names below


class GroupQuerySet(ScopedQuerySet["ConsumerGroup"]):
    """Consumer groups."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications."""
        return Q(application__in=user.own_applications())

    def with_topics(self) -> GroupQuerySet:
        """With subscriptions and the names of their topics, in one statement for all; the rest of a topic is read when it is needed."""
        from consumers.models import Subscription

        rows = Subscription.objects.select_related("topic").only("group", "tags", "position", "topic__name")
        return self.prefetch_related(Prefetch("subscriptions", rows))

    def with_names(self) -> GroupQuerySet:
        """With the names of application, people and topics as values (`owner_name`, …, `subscribed`, `drained`), for documents.

        Loading them as objects cost more than half of a page of five hundred.
        """
        from consumers.models import Subscription
        from topics.models import Draining

        rows = Subscription.objects.filter(group=OuterRef("pk")).order_by("position")
        return self.annotate(
            application_name=F("application__name"),
            owner_name=F("owner__username"),
            requested_by_name=F("requested_by__username"),
            decided_by_name=F("decided_by__username"),
            drained=Draining.objects.filter(topic__subscriptions__group=OuterRef("pk")).as_documents(),
            subscribed=ArraySubquery(rows.values(json=JSONObject(topic="topic__name", tags="tags"))),
        )


class ShadowQuerySet(ScopedQuerySet["ShadowTask"]):
    """Shadow groups."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications."""
        return Q(application__in=user.own_applications())

    def with_names(self) -> ShadowQuerySet:
        """With what a document names: topic and owner as values, of application and group, which the node's path needs, the names."""
        named = self.annotate(topic_name=F("topic__name"), owner_name=F("owner__username")).select_related("application", "group")
        return named.only(*[field.name for field in self.model._meta.concrete_fields], "application__name", "group__name")  # noqa: SLF001


def own_group_paths(user: Principal) -> QuerySet[Any, Any]:
    """Where the person's groups stand in ZooKeeper (`ConsumerGroup.zookeeper_path`)."""
    from consumers.models import ConsumerGroup

    path = Concat(Value("/zms/consumergroup/"), F("name"), output_field=TextField())
    return ConsumerGroup.objects.filter(application__in=user.own_applications()).order_by().values_list(path, flat=True)


def own_shadow_paths(user: Principal) -> QuerySet[Any, Any]:
    """Where the person's shadow groups stand in ZooKeeper (`ShadowTask.zookeeper_path`)."""
    path = Concat(
        Value("/zpt/"), F("application__name"), Value("/"), F("task"), Value("/"), F("group__name"), output_field=TextField()
    )  # fmt: skip
    return _own_shadows(user).values_list(path, flat=True)


def own_group_names(user: Principal) -> QuerySet[Any, Any]:
    """Names of the person's groups."""
    from consumers.models import ConsumerGroup

    return ConsumerGroup.objects.filter(application__in=user.own_applications()).values_list("name", flat=True)


def own_shadow_names(user: Principal) -> QuerySet[Any, Any]:
    """What the audit calls the person's shadow groups: `APPLICATION/TASK/GROUP`."""
    name = Concat(F("application__name"), Value("/"), F("task"), Value("/"), F("group__name"), output_field=TextField())
    return _own_shadows(user).values_list(name, flat=True)


def _own_shadows(user: Principal) -> QuerySet[Any, Any]:
    from consumers.models import ShadowTask

    return ShadowTask.objects.filter(application__in=user.own_applications()).order_by()
