"""Serializer fields for references to what this room has: applications and people by name."""

from typing import Any

from django.utils.translation import gettext_lazy as _

from accounts.models import Application, User
from core.api.fields import NameField


def application_field(**kwargs: Any) -> NameField:
    """An application by name."""
    missing = {"does_not_exist": _("There is no application “{value}”; make it first.")}
    return NameField(queryset=Application.objects.all(), error_messages=missing, **kwargs)


def owner_field(**kwargs: Any) -> NameField:
    """A person by user name."""
    missing = {"does_not_exist": _("There is no active person “{value}”.")}
    return NameField("username", queryset=User.objects.filter(is_active=True), error_messages=missing, **kwargs)
