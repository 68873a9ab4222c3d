"""The room as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TopicsConfig(AppConfig):
    """Topics."""

    name = "topics"
    verbose_name = _("Topics")

    def ready(self) -> None:
        """Tell the clusters room which nodes depend on a cluster, and what can be asked for."""
        from clusters.services import dependants, needs
        from core import scope
        from registry import checks, gates, rollbacks
        from topics import requests  # noqa: F401 - it registers what there is
        from topics.draining import check_none
        from topics.gating import TopicGates
        from topics.querysets import own_names, own_paths
        from topics.restoring import ROOM
        from topics.services import paths_on
        from topics.surveying import survey

        dependants.append(paths_on)
        needs.append(check_none)
        scope.own_paths.append(own_paths)
        scope.own_names["topic"] = own_names
        rollbacks.rooms["/zms/topic"] = ROOM
        gates.rooms["/zms/topic"] = TopicGates()
        checks.surveys["topics"] = survey
