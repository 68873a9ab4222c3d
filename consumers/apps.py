"""The room as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ConsumersConfig(AppConfig):
    """Consumer groups."""

    name = "consumers"
    verbose_name = _("Consumer groups")

    def ready(self) -> None:
        """Groups follow their topics: to another cluster, and when a cluster's address changes."""
        from clusters.services import dependants
        from consumers.services import paths_on, publish_groups_of
        from topics.services import moved

        dependants.append(paths_on)
        moved.append(publish_groups_of)
