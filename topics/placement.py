"""Where a topic fits: what each cluster has promised already, what it takes, and which one is recommended.

What counts is what topics were applied for, not what flows: an allocation is a promise. A limit that nobody has set is unknown, neither
full nor free: such a cluster is recommended only when no cluster with limits has room.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import BigIntegerField, Count, Q, Sum
from django.db.models.functions import Cast, Coalesce
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Cluster, Kind
from core.approvals.models import State
from topics.models import Topic

LABELS = {
    "topics": gettext_lazy("Topics"),
    "rate": gettext_lazy("Messages per second"),
    "bytes_per_second": gettext_lazy("Bytes per second"),
    "partitions": gettext_lazy("Partitions"),
}


# Of two integers Postgres makes one of the same size, which such a product does not fit into.
_BYTES = Cast("topics__expected_rate", BigIntegerField()) * Cast("topics__message_bytes", BigIntegerField())


@dataclass(frozen=True, slots=True)
class Measure:
    """One dimension of a cluster: what is promised, what the topic adds, what it takes (None: no limit set)."""

    key: str
    used: int
    added: int
    limit: int | None

    @property
    def label(self) -> Any:
        """For people."""
        return LABELS[self.key]

    @property
    def after(self) -> int:
        """With the topic."""
        return self.used + self.added

    @property
    def over(self) -> bool:
        """Whether the topic would take it over its limit; one that adds nothing here never does."""
        return self.limit is not None and self.added > 0 and self.after > self.limit

    @property
    def percent(self) -> tuple[float, float] | None:
        """What is promised and what the topic adds, in percent of the limit for a bar that ends at 100; None without a limit."""
        if self.limit is None:
            return None
        whole = max(self.limit, self.after, 1)
        return 100 * self.used / whole, 100 * self.added / whole

    @property
    def share(self) -> float | None:
        """Of the limit, with the topic; None while there is none."""
        return None if self.limit is None else self.after / self.limit if self.limit else float(self.after > 0)


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster with a topic on it."""

    cluster: Cluster
    measures: list[Measure]

    @property
    def excess(self) -> list[str]:
        """What would be over its limit, in words."""
        return [
            _("{cluster}: {label} would be {after} of at most {limit}.").format(
                cluster=self.cluster.name, label=measure.label, after=f"{measure.after:,}", limit=f"{measure.limit:,}"
            )
            for measure in self.measures
            if measure.over
        ]

    @property
    def fits(self) -> bool:
        """Nothing speaks against it."""
        return not any(measure.over for measure in self.measures)

    @property
    def known(self) -> bool:
        """Whether any limit is set."""
        return any(measure.limit is not None for measure in self.measures)

    @property
    def after(self) -> dict[str, int]:
        """What is promised with the topic."""
        return {measure.key: measure.after for measure in self.measures}

    @property
    def load(self) -> float:
        """The fullest dimension, with the topic."""
        return max((measure.share for measure in self.measures if measure.share is not None), default=0.0)


def places(topic: Topic) -> list[Place]:
    """All clusters with this topic on them, the recommended one first; in one statement."""
    return _places(topic, Cluster.objects.all())


def place(topic: Topic, cluster: Cluster, *, added: bool = True) -> Place:
    """One cluster with this topic on it, or (not `added`) as it is."""
    return _places(topic, Cluster.objects.filter(pk=cluster.pk), added=added)[0]


def recommended(topic: Topic) -> Place | None:
    """The least loaded cluster that fits; None if none does."""
    best = places(topic)
    return best[0] if best and best[0].fits else None


def promised(cluster: Cluster) -> dict[str, int]:
    """What the active topics of a cluster take of it already."""
    return _used(_counted(Cluster.objects.filter(pk=cluster.pk), Q(topics__state=State.ACTIVE)).get())


def promised_by(clusters: Collection[Cluster]) -> dict[str, dict[str, int]]:
    """The same of several, by their names and in one statement; of one that is not saved yet, nothing is promised."""
    there = [cluster for cluster in clusters if cluster.pk]
    counted = _counted(Cluster.objects.filter(pk__in=[cluster.pk for cluster in there]), Q(topics__state=State.ACTIVE))
    return {cluster.name: dict.fromkeys(LABELS, 0) for cluster in clusters} | {one.name: _used(one) for one in counted}


def without(used: Mapping[str, int], topic: Topic) -> dict[str, int]:
    """What a cluster has promised when this topic has left it."""
    return {key: used[key] - adds for key, adds in _adds(topic).items()}


def added(cluster: Cluster, used: Mapping[str, int], topic: Topic) -> Place:
    """The cluster with a topic more than what is promised already."""
    return _place(cluster, used, _adds(topic))


def _places(topic: Topic, clusters: Any, *, added: bool = True) -> list[Place]:
    counted = _counted(clusters, Q(topics__state=State.ACTIVE) & ~Q(topics__pk=topic.pk or 0))
    adds = _adds(topic, topics=int(added))
    found = [_place(cluster, _used(cluster), adds) for cluster in counted]
    return sorted(
        found,
        key=lambda place: (not place.fits, not place.known, place.load, place.cluster.kind != Kind.BUILTIN, place.cluster.name),
    )


def _counted(clusters: Any, of: Q) -> Any:
    return clusters.annotate(
        used_topics=Count("topics", filter=of),
        used_rate=Coalesce(Sum("topics__expected_rate", filter=of), 0, output_field=BigIntegerField()),
        used_bytes_per_second=Coalesce(Sum(_BYTES, filter=of), 0, output_field=BigIntegerField()),
        used_partitions=Coalesce(Sum("topics__partitions", filter=of), 0, output_field=BigIntegerField()),
    )


def _used(counted: Any) -> dict[str, int]:
    return {key: int(getattr(counted, f"used_{key}")) for key in LABELS}


def _adds(topic: Topic, *, topics: int = 1) -> dict[str, int]:
    return {
        "topics": topics,
        "rate": topic.expected_rate,
        "bytes_per_second": topic.expected_rate * topic.message_bytes,
        "partitions": topic.partitions,
    }


def _place(cluster: Cluster, used: Mapping[str, int], adds: Mapping[str, int]) -> Place:
    measures = [
        Measure(key, used[key], adds[key], getattr(cluster, f"max_{key}"))
        for key in LABELS
        if not (key == "partitions" and cluster.kind == Kind.BUILTIN)  # the store has none
    ]
    return Place(cluster, measures)
