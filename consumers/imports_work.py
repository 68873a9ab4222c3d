"""The operation that carries out an import: each chunk is looked at again as it is then, and done with few statements where it can be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext_lazy

from clusters import services as clusters
from clusters.models import Cluster
from consumers import adopting, requests, services
from consumers.imports import KIND, PERMISSION, Planned, plan, wanted_of
from consumers.imports_known import Owners
from consumers.manifests import Entry
from consumers.models import ConsumerGroup
from core.approvals import workflow
from core.approvals.kinds import Ask, Decision
from core.approvals.kinds import Kind as RequestKind
from core.approvals.models import Request
from core.errors import Problem
from core.operations import kinds
from registry.trees import parsed
from topics import adopting as topics
from topics import moving
from topics.models import Topic
from topics.requests import ChangeTopic

if TYPE_CHECKING:
    from accounts.models import User

SECONDS = 10.0  # of a chunk of clusters, whose topics and groups are published with them


def _perform(actor: User | None, item: kinds.Item, params: Mapping[str, Any]) -> None:
    """One alone."""
    [problem] = _perform_many(actor, [item], params)
    if problem is not None:
        raise problem


def _perform_many(actor: User | None, items: Sequence[kinds.Item], params: Mapping[str, Any]) -> list[Problem | None]:
    """All of one kind, as they come in the steps of the operation; or the first of them."""
    assert actor is not None  # an import is a person's
    owners = Owners(params["application"], params["prefixes"], params["owner"])
    work = _Work(actor, owners, params["reason"], params.get("accept_warnings", False))
    entries = [_entry_of(item) for item in items]
    return {"topics": work.topics, "consumer_groups": work.groups}.get(items[0].input["kind"], work.clusters)(entries)


def _entry_of(item: kinds.Item) -> Entry:
    given, node = item.input, item.input.get("node")
    problem = Problem(given["problem"]["code"], given["problem"]["detail"]) if "problem" in given else None
    standing = None
    if node:
        standing = parsed(node["path"], node["data"].encode("latin-1"), node["version"], elsewhere=node.get("elsewhere", False))
    return Entry(given["kind"], given["name"], dict(given["fields"]), standing, problem)


@dataclass(frozen=True, slots=True)
class _Work:
    """Does what a plan says."""

    actor: User
    owners: Owners
    reason: str
    accept_warnings: bool

    def clusters(self, entries: Sequence[Entry]) -> list[Problem | None]:
        """One after the other: what is on a cluster is published with it."""
        until, problems = time.monotonic() + SECONDS, list[Problem | None]()
        for planned in self._plan(entries):
            problems.append(self._alone(planned, self._cluster))
            if time.monotonic() > until:
                break
        return problems

    def topics(self, entries: Sequence[Entry]) -> list[Problem | None]:
        """New ones together, those that only move by their clusters, the others one by one."""
        # First the topics, then their clusters, as everybody locks them: what is looked at now is what is changed.
        sound = [entry for entry in entries if entry.problem is None]
        there = Topic.objects.select_for_update(no_key=True).filter(name__in=[entry.name for entry in sound]).order_by("pk")
        used = Q(pk__in=list(there.values_list("cluster_id", flat=True))) | Q(
            name__in=[str(entry.fields.get("cluster")) for entry in sound]
        )
        list(Cluster.objects.select_for_update(no_key=True).filter(used).order_by("pk").values_list("pk"))
        planned = self._plan(entries)
        problems = [one.problem for one in planned]
        if new := [one for one in planned if one.action == "create"]:
            for one in new:
                one.thing.reason = one.thing.reason or self.reason
            arrivals = [topics.Arrival(one.thing, one.entry.node, one.forced) for one in new]
            topics.adopt(actor=self.actor, arrivals=arrivals, reason=self.reason)
        # In their order, since one makes room for another; what only moves, and to the same cluster, together.
        differing = [index for index, one in enumerate(planned) if one.action == "differs"]
        for target, run in groupby(differing, lambda index: _only_moves_to(planned[index])):
            indexes = list(run)
            if target:
                moved = self._move(target, [planned[index].entry.name for index in indexes])
            else:
                moved = [self._alone(planned[index], self._topic) for index in indexes]
            for index, problem in zip(indexes, moved, strict=True):
                problems[index] = problem
        return problems

    def groups(self, entries: Sequence[Entry]) -> list[Problem | None]:
        """New ones together, the others one by one."""
        planned = self._plan(entries)
        problems = [one.problem for one in planned]
        for index, one in enumerate(planned):
            if one.action == "differs":
                problems[index] = self._alone(one, self._group)
        if new := [one for one in planned if one.action == "create"]:
            for one in new:
                one.thing.reason = one.thing.reason or self.reason
                one.thing.suspend_reason = self.reason if one.thing.suspended else ""
            arrivals = [
                adopting.Arrival(one.thing, wanted_of(one.entry), one.entry.node, str(one.entry.fields.get("cluster", ""))) for one in new
            ]
            adopting.adopt(actor=self.actor, arrivals=arrivals, reason=self.reason)
        return problems

    def _plan(self, entries: Sequence[Entry]) -> list[Planned]:
        return plan(entries, self.owners, accept_warnings=self.accept_warnings)

    @staticmethod
    def _alone(one: Planned, do: Any) -> Problem | None:
        """One in a savepoint of its own: what is refused of it is undone as a whole."""
        if one.problem is None and one.action != "same":
            try:
                with transaction.atomic():
                    do(one)
            except Problem as problem:
                return problem
        return one.problem

    def _cluster(self, one: Planned) -> None:
        fields, name = dict(one.entry.fields), one.entry.name
        if one.action == "create":
            clusters.create(actor=self.actor, name=name, standing=one.entry.node, **{"address": "", **fields})
            return
        there = Cluster.objects.get(name=name)
        fields.pop("kind", None)
        clusters.change(actor=self.actor, cluster=there, **{"address": there.address, "description": there.description, **fields})

    def _topic(self, one: Planned) -> None:
        fields = {key: after for key, (_before, after) in one.changes.items()}
        if "cluster" in fields:
            [problem] = self._move(fields.pop("cluster"), [one.entry.name])
            if problem is not None:
                raise problem
        self._change(ChangeTopic(), one.entry.name, fields)

    def _move(self, cluster: str, names: Sequence[str]) -> list[Problem | None]:
        target = Cluster.objects.get(name=cluster)
        found = {topic.name: topic for topic in moving.as_moved(Topic.objects.filter(name__in=names))}
        wanted = [found[name] for name in names]
        return moving.move_many(actor=self.actor, topics=wanted, cluster=target, reason=self.reason, accept_warnings=self.accept_warnings)

    def _group(self, one: Planned) -> None:
        fields = {key: after for key, (_before, after) in one.changes.items()}
        if (suspended := fields.pop("suspended", None)) is not None:
            there = ConsumerGroup.objects.get(name=one.entry.name)
            (services.suspend if suspended else services.resume)(actor=self.actor, group=there, reason=self.reason)
        self._change(requests.ChangeGroup(), one.entry.name, fields)

    def _change(self, kind: RequestKind, name: str, payload: dict[str, Any]) -> None:
        """As a request that is decided at once; what it says is checked, and what speaks against it weighed, in the same way."""
        if not payload:
            return
        draft = kind.draft(Ask(self.actor, name, kind.checked(payload), self.reason))
        asked = Request(kind=kind.name, target=name, payload=draft.payload, before=draft.before, base_version=draft.base_version)
        warnings = kind.warnings(asked, {})
        if not self.accept_warnings:
            workflow.confirm(warnings)
        kind.apply(asked, Decision(self.actor, self.reason, forced=bool(warnings)))


def _only_moves_to(one: Planned) -> str:
    """The cluster that a topic goes to if nothing else changes of it."""
    return str(one.changes["cluster"][1]) if set(one.changes) == {"cluster"} else ""


kinds.register(
    kinds.Kind(
        name=KIND,
        label=gettext_lazy("Import"),
        permission=PERMISSION,
        perform=_perform,
        perform_many=_perform_many,
        steps=(
            kinds.Step("clusters", gettext_lazy("Clusters")),
            kinds.Step("topics", gettext_lazy("Topics")),
            kinds.Step("groups", gettext_lazy("Consumer groups")),
        ),
    )
)
