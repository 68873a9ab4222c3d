"""What forms offer: applications and people."""

from django.db.models import QuerySet

from accounts.models import Application, User


def applications() -> QuerySet[Application, Application]:
    """What can be chosen as the application."""
    return Application.objects.order_by("name")


def people() -> QuerySet[User, User]:
    """Who can be an owner."""
    return User.objects.filter(is_active=True).order_by("username")
