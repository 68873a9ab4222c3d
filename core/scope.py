"""Who sees which rows: a permission reaches all objects, those of one's own applications, or none; a verb of the queryset says which.

A room's queryset derives from `ScopedQuerySet` and says in `own()` what belongs to the applications of a person. Everything that looks
something up for somebody (REST, console, search, counts) goes through `restrict`; what is left out does not exist for them: 404.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol, Self, TypeVar

from django.db import models
from django.db.models import Q, QuerySet

Row_co = TypeVar("Row_co", bound=models.Model, covariant=True)


class Reach(StrEnum):
    """How far a permission of somebody reaches."""

    NONE = "none"
    OWN = "own"
    ALL = "all"


class Principal(Protocol):
    """Who asks: a person, or an application by its key."""

    def reach(self, permission: str) -> Reach:
        """How far this permission (app.codename) reaches."""

    def own_applications(self) -> Any:
        """The primary keys of the applications that the person owns or is a member of, as a subquery."""

    def owns(self, application_id: int) -> bool:
        """Whether this application is one of them, now."""

    def own_application_ids(self) -> frozenset[int]:
        """The same as a set, for the data plane, which asks no query per request."""


def reach_of(user: Any, permission: str) -> Reach:
    """How far a permission of somebody reaches; nobody without a login reaches anything."""
    reach = getattr(user, "reach", None)
    return Reach.NONE if reach is None else reach(permission)


class ScopedQuerySet(models.QuerySet[Row_co]):
    """A queryset that can be cut down to what somebody may see or change."""

    def own(self, user: Principal) -> Q:
        """What belongs to the person's applications."""
        raise NotImplementedError

    def permission(self, action: str) -> str:
        """`view` → `topics.view_topic`; what has a dot is a permission already."""
        meta = self.model._meta  # noqa: SLF001 - Django's public API
        return action if "." in action else f"{meta.app_label}.{action}_{meta.model_name}"

    def restrict(self, user: Any, action: str = "view") -> Self:
        """The rows on which this person may do it: `view`, `change`, … of this model, or any permission as app.codename."""
        reach = reach_of(user, self.permission(action))
        if reach is Reach.ALL:
            return self
        return self.filter(self.own(user)) if reach is Reach.OWN else self.none()


def may(user: Any, permission: str, thing: Any) -> bool:
    """Whether somebody may do this with this one thing, which belongs to an application (`application_id`)."""
    reach = reach_of(user, permission)
    return reach is Reach.ALL or (reach is Reach.OWN and user.owns(thing.application_id))


def restricted(rows: Any, user: Any, permission: str, application: str = "application") -> Any:
    """Rows of any queryset, cut down by the application that they lead to."""
    reach = reach_of(user, permission)
    if reach is Reach.ALL:
        return rows
    return rows.filter(**{f"{application}__in": user.own_applications()}) if reach is Reach.OWN else rows.none()


#: Rooms above add what of theirs stands in ZooKeeper: each answers with the paths (a subquery of one column) of a person's own things.
own_paths: list[Callable[[Any], QuerySet[Any, Any]]] = []
#: And what the audit calls their things: a kind, and the names of a person's own ones, a flat list.
own_names: dict[str, Callable[[Any], QuerySet[Any, Any]]] = {}
