"""The room as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RegistryConfig(AppConfig):
    """Publication in ZooKeeper."""

    name = "registry"
    verbose_name = _("Publication")
