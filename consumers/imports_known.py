"""What an import finds: the things that its items name, looked up for all of them at once, and what each item that goes through adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from accounts.models import Application, User
from clusters.drivers import builtin
from clusters.models import Cluster
from consumers.manifests import KINDS, Entry
from consumers.models import ConsumerGroup
from consumers.requests import dropped_warning
from core.approvals import workflow
from core.approvals.models import State
from registry import services as registry
from topics import moving, placement
from topics.models import Topic


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the things are that do not say it themselves: by the longest prefix of their names, or one application for all."""

    application: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""

    def application_of(self, entry: Entry) -> str:
        """The application of a thing; empty: nobody said."""
        fitting = [prefix for prefix in self.prefixes if entry.name.startswith(prefix)]
        by_name = self.prefixes[max(fitting, key=len)] if fitting else self.application
        return str(entry.fields.get("application") or by_name)


class Known:
    """The world as it is with the items that have been looked at: what they make, move and take is put into it one after the other."""

    def __init__(self, entries: Sequence[Entry], owners: Owners, *, accept_warnings: bool) -> None:
        self.entries = [entry for entry in entries if entry.problem is None]
        self.owners, self.accept_warnings = owners, accept_warnings
        names: dict[str, set[str]] = {kind: {entry.name for entry in self.entries if entry.kind == kind} for kind in KINDS}
        subscribed = {row["topic"] for entry in self.entries for row in rows_in(entry) if isinstance(row.get("topic"), str)}
        targets = {str(entry.fields["cluster"]) for entry in self.entries if "cluster" in entry.fields}
        self.topics = _by_name(Topic.objects.select_related("application", "owner", "cluster"), names["topics"] | subscribed)
        groups = ConsumerGroup.objects.select_related("application", "owner").prefetch_related("subscriptions__topic")
        self.groups = _by_name(groups, names["consumer_groups"])
        here = {topic.cluster.name for topic in self.topics.values() if topic.cluster is not None}
        self.clusters = _by_name(Cluster.objects, names["clusters"] | targets | here)
        for topic in self.topics.values():  # one object for each cluster, so that what an item changes of it holds for all
            topic.cluster = self.clusters[topic.cluster.name] if topic.cluster is not None else None
        applications = {owners.application_of(entry) for entry in self.entries}
        self.applications = _by_name(Application.objects.select_related("owner"), applications)
        people = {str(entry.fields["owner"]) for entry in self.entries if "owner" in entry.fields} | {owners.owner}
        self.people = {one.get_username(): one for one in User.objects.filter(is_active=True, username__in=people)}
        standing = [entry.node.path for entry in self.entries if entry.node is not None and not entry.node.elsewhere]
        self.published = registry.data_at(standing) if standing else {}

    def topic(self, name: str) -> Topic | None:
        """The active topic of this name that is there or comes."""
        found = self.topics.get(name)
        return found if found is not None and found.state == State.ACTIVE else None

    def allocate(self, topic: Topic, cluster: Cluster) -> list[str]:
        """Put a new topic there; returns what of the cluster's limits spoke against it. Problem: confirmation_needed."""
        place = placement.added(cluster, self._used[cluster.name], topic)
        self.weigh(place.excess)
        self._used[cluster.name] |= place.after
        topic.cluster = cluster
        self.topics[topic.name] = topic
        return place.excess

    def change(self, topic: Topic, wanted: Topic, cluster: Cluster | None) -> list[str]:
        """Move a topic, if a cluster is given, and let it take what it is wanted to; returns what spoke against it.

        Problems: confirmation_needed, and what forbids the move.
        """
        home = topic.cluster
        if home is None:
            return []
        against: list[str] = []
        used = {home.name: self._used[home.name]}
        if cluster is not None:
            against, after = self._looks[cluster.name].at(topic, self._used[cluster.name])
            used = {home.name: placement.without(used[home.name], topic), cluster.name: dict(after)}
        target = cluster or home
        if any(getattr(topic, name) != getattr(wanted, name) for name in ("expected_rate", "message_bytes", "partitions")):
            place = placement.added(target, placement.without(used[target.name], topic), wanted)
            against += [text for text in place.excess if text not in against]
            used[target.name] = used[target.name] | place.after
        self.weigh(against)
        self._used |= used
        topic.cluster = target
        return against

    def weigh(self, against: Sequence[str]) -> None:
        """Refuse what has not been accepted expressly. Problem: confirmation_needed."""
        if not self.accept_warnings:
            workflow.confirm(against)

    def dropping(self, group: ConsumerGroup, wanted: Sequence[Mapping[str, str]]) -> list[str]:
        """What a group loses with the topics that are not among its wanted subscriptions. Problem: confirmation_needed."""
        kept = {row["topic"] for row in wanted}
        dropped = [row.topic for row in group.subscriptions.all() if row.topic.name not in kept]
        against = [text for topic in dropped if (text := dropped_warning(topic, self._backlogs[group.pk, topic.pk]))]
        self.weigh(against)
        return against

    @cached_property
    def _used(self) -> dict[str, dict[str, int]]:
        """What the clusters have promised, by their names. Asked for when all clusters of the import have been looked at."""
        return placement.promised_by(self.clusters.values())

    @cached_property
    def _looks(self) -> dict[str, moving.Look]:
        """What stands in the way of the topics that move, by the cluster that they move to."""
        going: dict[str, list[Topic]] = {}
        for entry in self.entries:
            there, to = self.topic(entry.name) if entry.kind == "topics" else None, entry.fields.get("cluster")
            if there is not None and there.pk and there.cluster is not None and to in self.clusters and to != there.cluster.name:
                going.setdefault(to, []).append(there)
        return {name: moving.Look(topics, self.clusters[name]) for name, topics in going.items()}

    @cached_property
    def _backlogs(self) -> dict[tuple[int, int], builtin.Backlog]:
        """What waits for groups on topics that they drop."""
        pairs = []
        for entry in self.entries:
            if entry.kind == "consumer_groups" and "subscriptions" in entry.fields and (group := self.groups.get(entry.name)):
                kept = {row.get("topic") for row in rows_in(entry)}
                pairs += [(group.pk, row.topic_id) for row in group.subscriptions.all() if row.topic.name not in kept]
        return builtin.backlogs_of(pairs) if pairs else {}


def rows_in(entry: Entry) -> list[dict[str, Any]]:
    """The subscriptions of an item, whose JSON may be anything."""
    rows = entry.fields.get("subscriptions")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _by_name(rows: Any, names: set[str]) -> dict[str, Any]:
    return {row.name: row for row in rows.filter(name__in=sorted(names))} if names else {}
