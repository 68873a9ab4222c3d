"""What forms offer: applications and people."""

from typing import Any

from django.db.models import QuerySet

from accounts.models import Application, User


def applications(user: Any = None, permission: str = "") -> QuerySet[Application, Application]:
    """What can be chosen as the application: all, or those for which this person may do it."""
    rows = Application.objects.order_by("name")
    return rows.restrict(user, permission) if permission else rows


def people() -> QuerySet[User, User]:
    """Who can be an owner."""
    return User.objects.filter(is_active=True).order_by("username")
