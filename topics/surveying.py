"""What the full check asks this room: topics that their broker knows otherwise."""

from collections.abc import Mapping, Sequence

from django.utils.translation import gettext as _

from clusters.drivers import builtin
from clusters.models import Kind
from core.approvals.models import State
from topics.models import OrderScope, Topic


def survey(paths: Sequence[str]) -> Mapping[str, str]:
    """What differs for the topics at these paths, in two statements. Only the built-in store has a driver that can be asked."""
    rows = Topic.objects.filter(name__in=[path.rpartition("/")[2] for path in paths], cluster__kind=Kind.BUILTIN)
    topics = list(rows.filter(state=State.ACTIVE))
    stored = builtin.survey_topics(topic_ids=[topic.pk for topic in topics])
    return {topic.zookeeper_path: what for topic in topics if (what := _differs(topic, stored[topic.pk]))}


def _differs(topic: Topic, stored: builtin.StoredTopic) -> str:
    order: builtin.Ordering = "none" if not topic.ordered else "topic" if topic.order_scope == OrderScope.TOPIC else "key"
    told = {
        _("retired"): (False, stored.retired),
        _("order"): (order, stored.ordering),
        _("time to live"): (topic.ttl_seconds, stored.ttl_seconds),
        _("length at most"): (topic.max_length, stored.max_length),
    }
    return ", ".join(f"{name}: {there}, {_('wanted')} {here}" for name, (here, there) in told.items() if here != there)
