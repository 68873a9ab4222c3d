"""The room as a Django application."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class RegistryConfig(AppConfig):
    """Publication in ZooKeeper."""

    name = "registry"
    verbose_name = _("Publication")

    def ready(self) -> None:
        """Each tree has a policy as soon as the tables are there."""
        post_migrate.connect(_ensure_policies, sender=self)


def _ensure_policies(**kwargs: Any) -> None:
    from registry.drift import ensure_policies

    if kwargs.get("using", "default") == "default" and not kwargs.get("plan_only"):
        ensure_policies()
