"""The room as a Django application."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class ClustersConfig(AppConfig):
    """Clusters."""

    name = "clusters"
    verbose_name = _("Clusters")

    def ready(self) -> None:
        """The built-in store is there as soon as the tables are."""
        from clusters.restoring import ROOM
        from registry import rollbacks

        post_migrate.connect(_add_builtin, sender=self)
        rollbacks.rooms["/zms/cluster"] = ROOM


def _add_builtin(**kwargs: Any) -> None:
    from clusters.services import ensure_builtin

    if kwargs.get("using", "default") == "default" and not kwargs.get("plan_only"):
        ensure_builtin()
