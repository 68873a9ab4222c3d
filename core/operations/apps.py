"""Operations as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OperationsConfig(AppConfig):
    """Operations."""

    name = "core.operations"
    label = "operations"
    verbose_name = _("Operations")
