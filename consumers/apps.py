"""The room as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ConsumersConfig(AppConfig):
    """Consumer groups."""

    name = "consumers"
    verbose_name = _("Consumer groups")

    def ready(self) -> None:
        """Groups follow their topics: to another cluster, and when a cluster's address changes. Registrars end leases of shadow groups."""
        from clusters.services import dependants
        from consumers import following, requests  # noqa: F401 - the second registers what there is
        from consumers.gating import GroupGates
        from consumers.querysets import own_group_names, own_group_paths, own_shadow_names, own_shadow_paths
        from consumers.restoring import ROOM, SHADOW_ROOM
        from consumers.services import paths_on
        from consumers.shadow import end_expired
        from consumers.surveying import strays, survey
        from core import scope
        from registry import checks, gates, rollbacks
        from registry.services import sweeps
        from topics.moving import followers

        dependants.append(paths_on)
        scope.own_paths += [own_group_paths, own_shadow_paths]
        scope.own_names |= {"consumer group": own_group_names, "shadow group": own_shadow_names}
        checks.surveys["consumer-groups"] = survey
        checks.strays["built-in store"] = strays
        rollbacks.rooms |= {"/zms/consumergroup": ROOM, "/zpt": SHADOW_ROOM}
        gates.rooms["/zms/consumergroup"] = GroupGates()
        followers.append(following.FOLLOWER)
        sweeps.append(end_expired)
