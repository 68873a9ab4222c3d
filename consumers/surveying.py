"""What the full check asks this room: groups that the store knows otherwise, or that only the store knows."""

from collections.abc import Mapping, Sequence

from django.utils.translation import gettext as _

from clusters.drivers import builtin
from consumers.models import Balance, ConsumerGroup, OnExhausted
from core import tags
from core.approvals.models import State


def survey(paths: Sequence[str]) -> Mapping[str, str]:
    """What differs for the groups at these paths, in three statements. The store knows every group, wherever its topics are."""
    names = [path.rpartition("/")[2] for path in paths]
    groups = list(ConsumerGroup.objects.filter(name__in=names, state=State.ACTIVE).prefetch_related("subscriptions"))
    stored = builtin.survey_groups(group_ids=[group.pk for group in groups])
    return {group.zookeeper_path: what for group in groups if (what := _differs(group, stored.get(group.pk)))}


def strays() -> Sequence[str]:
    """Groups that the store hands out messages to and that are not active here, by their number in the store."""
    known = set(ConsumerGroup.objects.filter(state=State.ACTIVE).values_list("pk", flat=True))
    return [str(pk) for pk in sorted(builtin.living_groups()) if pk not in known]


def _differs(group: ConsumerGroup, stored: builtin.StoredGroup | None) -> str:
    if stored is None:
        return _("the store does not know this group")
    told: dict[str, tuple[object, object]] = {
        _("retired"): (False, stored.retired),
        _("suspended"): (group.suspended, stored.suspended),
        _("attempts"): (group.max_attempts, stored.max_attempts),
        _("waits"): (group.backoffs_ms, stored.backoff_ms),
        _("messages in hand at most"): (group.max_outstanding, stored.max_outstanding),
        _("keys stop"): (group.on_exhausted == OnExhausted.STOP_KEY, stored.stop_key),
        _("sticky"): (group.balance == Balance.STICKY, stored.sticky),
    }
    if group.mode != ConsumerGroup.Mode.BROADCAST:  # whose instances have the subscriptions
        wanted = {row.topic_id: tags.parse(row.tags) for row in group.subscriptions.all()}
        told[_("subscriptions")] = (wanted, stored.tags)
    return ", ".join(f"{name}: {there}, {_('wanted')} {here}" for name, (here, there) in told.items() if here != there)
