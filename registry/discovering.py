"""Follows the service registries of other programs: who is registered, who left and how, worker ids, leaders, shards. Writes nothing."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings

from registry import discovery_layouts as layouts
from registry import discovery_records as records
from registry.discovery_models import Departure, Registration, Service, WorkerId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from mqadmin_sdk.zk import Client, NodeData, TreeEvent
    from registry.discovery_layouts import Tree

logger = structlog.get_logger(__name__)

#: Seconds between full comparisons that nothing asked for.
COMPARE_EVERY = 300.0
#: Seconds between two looks at the jobs whose nodes change: each run of a shard changes several.
JOBS_EVERY = 1.0
#: Other nodes of each session that are looked at to see whether it goes on.
WITNESSES = 10


def trees() -> Sequence[Tree]:
    """The registries to follow, by the settings; none where those are wrong, which a system check (E024) tells: publishing goes on."""
    try:
        return layouts.trees(settings.REGISTRY_DUBBO, settings.REGISTRY_MESSAGES, settings.REGISTRY_JOBS)
    except ValueError as error:
        logger.error("registry_roots_refused", error=str(error))  # noqa: TRY400 - the traceback says nothing more
        return ()


@dataclass
class _Told:
    """What the watch has told of nodes since they were created, in its order."""

    changed: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)  # deleted, and not yet looked at: whether it had been changed before

    def take(self, event: TreeEvent) -> None:
        """Note an event; a goodbye is a change and a deletion in one transaction, since nothing else changes such a node."""
        if event.kind == "changed":
            self.changed.add(event.path)
            return
        changed = event.path in self.changed
        self.changed.discard(event.path)
        if event.kind == "deleted":
            self.ended[event.path] = Departure.GOODBYE if changed else Departure.LOST
        else:
            self.ended.pop(event.path, None)

    def forget(self, tree: Tree) -> None:
        """The watch is gone: what comes next may not be what happened next."""
        self.changed = {path for path in self.changed if not tree.covers(path)}


class Discoverer:
    """Follows the trees. Callbacks of the watches only enqueue; one thread does the rest."""

    def __init__(self, zookeeper: Client, trees: Sequence[Tree]) -> None:
        self._zookeeper = zookeeper
        self._trees = {tree.root: tree for tree in trees}
        self._events: queue.SimpleQueue[TreeEvent | None] = queue.SimpleQueue()
        self._told = _Told()
        self._touched: set[str] = set()
        self._jobs: set[str] = set()
        self._jobs_at = 0.0
        self._watched: set[str] = set()
        self._to_compare = set(self._trees)
        self._missing: dict[str, set[str]] = {}  # by tree compared since its watch stands: gone, and the watch has not told it yet
        self._next_compare = time.monotonic() + COMPARE_EVERY
        self._refused: dict[str, set[str]] = {}  # by tree: services that there is no room for

    def start(self) -> None:
        """Set the watches; each tree is compared as a whole when its watch stands."""
        for root in self._trees:
            self._zookeeper.watch_tree(root, self._events.put)

    def stop(self) -> None:
        """Let `step` return at once."""
        self._events.put(None)

    @property
    def state(self) -> str:
        """`off`: no tree is to be followed. `none`: a watch is missing. `comparing`: what was before is being read. `live`: all is seen."""
        if not self._trees:
            return "off"
        if self._watched != set(self._trees):
            return "none"
        return "live" if set(self._missing) == set(self._trees) else "comparing"

    @property
    def unrecorded(self) -> dict[str, int]:
        """How many services of each tree there is no room for, as far as is known."""
        return {root: len(self._refused.get(root, ())) for root in self._trees}

    def step(self, timeout: float = 1.0) -> None:
        """Wait for events and record what came of them. Raises the database's or ZooKeeper's error; nothing is forgotten then."""
        self._collect(timeout)
        if not self._zookeeper.connected:
            return
        if time.monotonic() > self._next_compare:
            self._to_compare |= self._watched
        for root in sorted(self._to_compare & self._watched):
            self._compare(self._trees[root])
            self._to_compare.discard(root)
            self._next_compare = time.monotonic() + COMPARE_EVERY
        if self._touched:
            touched = set(self._touched)
            for tree in self._trees.values():
                self._look(tree, sorted(path for path in touched if tree.covers(path)))
            self._touched -= touched
            for path in touched:
                self._told.ended.pop(path, None)
        if self._jobs and time.monotonic() >= self._jobs_at:
            self._jobs_at = time.monotonic() + JOBS_EVERY
            jobs = set(self._jobs)
            for tree in self._trees.values():
                self._describe_jobs(tree, sorted(path for path in jobs if tree.covers(path)))
            self._jobs -= jobs

    def _collect(self, timeout: float) -> None:
        waiting = 0.0 if self._touched else timeout
        while True:
            try:
                event = self._events.get(timeout=waiting) if waiting else self._events.get_nowait()
            except queue.Empty:
                return
            if event is None:
                return
            waiting = 0.0
            if event.kind == "established":
                self._watched.add(event.path)
                self._to_compare.add(event.path)
                self._missing.pop(event.path, None)
            elif event.kind == "interrupted":
                self._watched.discard(event.path)
                self._missing.pop(event.path, None)
                self._told.forget(self._trees[event.path])
            elif event.path not in self._trees:
                self._told.take(event)
                self._touched.add(event.path)

    # --- single nodes ---------------------------------------------------------------------------------------------------

    def _look(self, tree: Tree, touched: Sequence[str]) -> None:
        """Read what events named, as it is now: the last state wins, however many events there were."""
        places = {path: place for path in touched if (place := layouts.place_of(tree, path)) is not None}
        members = [path for path, place in places.items() if place.member]
        if members:
            denied: set[str] = set()  # anybody can make a node that nobody may read
            zxid, nodes = self._zookeeper.multi_read(members, denied=denied)
            found = {path: node for path, node in zip(members, nodes, strict=True) if node is not None}
            self._record(tree, found)
            # What is gone and was not told yet is about to be: a goodbye is two events.
            self._end([path for path in members if path not in found and path in self._told.ended and path not in denied], zxid=zxid)
        services = {place.service for place in places.values() if place.service and not place.member}
        if tree.layout == layouts.JOBS:
            self._jobs |= services
        elif services:
            self._describe(tree, sorted(services))
        workers = [path for path, place in places.items() if place.worker]
        if workers:
            denied = set()
            nodes = self._zookeeper.multi_read(workers, denied=denied)[1]
            there = {path: node for path, node in zip(workers, nodes, strict=True) if node is not None}
            gone = [path for path in workers if path not in there and path not in denied]
            records.record_workers([layouts.worker_row(path, node) for path, node in there.items()], gone)

    def _record(self, tree: Tree, found: Mapping[str, NodeData]) -> None:
        paths = sorted(found)  # those of a service together: it is locked and counted once, not in each chunk
        for start in range(0, len(paths), records.CHUNK):
            chunk = sorted(paths[start : start + records.CHUNK], key=lambda path: found[path].stat.czxid)  # as its history tells them
            rows = [row for path in chunk if (row := layouts.describe(tree, path, found[path])) is not None]
            self._refuse(tree, records.record(rows, {row["service"]: layouts.service_row(tree, row["service"]) for row in rows}))

    def _refuse(self, tree: Tree, services: Iterable[str]) -> None:
        refused = self._refused.setdefault(tree.root, set())
        known = len(refused)
        refused.update(services)
        if refused and not known:
            logger.error("registry_full", root=tree.root, services=records.MAX_SERVICES, hint="Services beyond are counted, not recorded.")

    def _end(self, gone: Collection[str], *, zxid: int) -> None:
        """Members whose nodes are gone: with a goodbye, by somebody else's hand, with their session, or nobody saw how."""
        if not gone:
            return
        departures = {path: self._told.ended.get(path, Departure.UNKNOWN) for path in gone}
        keys = {layouts.key_of(path): path for path in gone}
        doubtful = [key for key, path in keys.items() if departures[path] == Departure.LOST]
        if doubtful:
            rows = Registration.objects.online().filter(key__in=doubtful).exclude(session="")
            sessions = dict(rows.values_list("key", "session"))
            alive = self._alive(set(sessions.values()), except_for=keys)
            departures |= {keys[key]: Departure.REMOVED for key, session in sessions.items() if session in alive}
        records.end({key: departures[path] for key, path in keys.items()}, zxid=zxid)

    def _alive(self, sessions: Collection[str], *, except_for: Collection[str]) -> set[str]:
        """Of these sessions those that still own another node."""
        if not sessions:
            return set()
        paths = records.witnesses(sessions, except_for, most=WITNESSES)
        nodes = self._zookeeper.multi_read(paths, denied=set())[1] if paths else []
        return {layouts.session_of(node) for node in nodes if node is not None} & set(sessions)

    # --- what services say of themselves --------------------------------------------------------------------------------

    def _describe(self, tree: Tree, services: Sequence[str]) -> None:
        if tree.layout == layouts.DUBBO:  # its node says nothing; that there is one of its categories makes it a service
            lists = self._zookeeper.multi_children([f"{path}/{name}" for path in services for name in layouts.CATEGORIES], denied=set())[1]
            width = len(layouts.CATEGORIES)
            there = [path for number, path in enumerate(services) if any(names is not None for names in lists[number * width :][:width])]
            self._refuse(tree, records.note([layouts.service_row(tree, path) for path in there]))
            return
        zxid, nodes = self._zookeeper.multi_read(services, denied=set())
        for path, node in zip(services, nodes, strict=True):
            if node is not None and not records.describe(layouts.service_row(tree, path), layouts.describe_application(node), zxid=zxid):
                self._refuse(tree, [path])

    def _describe_jobs(self, tree: Tree, jobs: Sequence[str]) -> None:
        """Read whole jobs: what belongs together is then of one moment, or nearly so."""
        if not jobs:
            return
        asked = [path for job in jobs for path in layouts.job_lists(job)]
        zxid, lists = self._zookeeper.multi_children(asked, denied=set())
        children = {path: names or [] for path, names in zip(asked, lists, strict=True)}
        denied: set[str] = set()
        there = self._zookeeper.multi_children(jobs, denied=denied)[1]
        found = [job for job, names in zip(jobs, there, strict=True) if names is not None and layouts.JOB_NODES & set(names)]
        paths = {job: layouts.job_paths(job, children) for job in found}
        every = [path for of_job in paths.values() for path in of_job]
        nodes = dict(zip(every, self._zookeeper.multi_read(every, denied=set())[1], strict=True)) if every else {}
        for job in paths:
            if not records.describe(layouts.service_row(tree, job), layouts.describe_job(job, children, nodes), zxid=zxid):
                self._refuse(tree, [job])
        records.end_services([job for job in jobs if job not in paths and job not in denied], zxid=zxid)

    # --- whole trees ----------------------------------------------------------------------------------------------------

    def _compare(self, tree: Tree) -> None:
        started = time.monotonic()
        # The database first: what it holds is then older than what is read below.
        known = dict(Registration.objects.filter(service__root=tree.root, online=True).values_list("znode", "mzxid"))
        self._zookeeper.sync(tree.root)
        denied: set[str] = set()
        zxid, level = self._names(tree, denied)
        records.forget_history(tree.root, after=zxid)
        level, beyond = self._within_limits(tree, level)
        self._refused[tree.root] = set(beyond)
        services, members, workers = self._places(tree, level, denied)
        hidden = tuple(f"{path}/" for path in denied)  # what is there, or below, is unknown and stays as it was
        gone = Service.objects.filter(root=tree.root, standing=True).values_list("path", flat=True)
        records.end_services([path for path in gone if path not in services and not f"{path}/".startswith(hidden)], zxid=zxid)
        self._record_services(tree, services)  # for which those that are gone may have to make room
        nodes = self._zookeeper.multi_read(members, denied=denied)[1] if members else []
        found = {path: node for path, node in zip(members, nodes, strict=True) if node is not None}
        # Of tens of thousands nearly all are as they were: what would be written down again is not even looked at.
        self._record(tree, {path: node for path, node in found.items() if known.get(path) != node.stat.mzxid})
        hidden = tuple(f"{path}/" for path in denied)
        missing = {path for path in known if path not in found and not f"{path}/".startswith(hidden)}
        # Where the watch stood all the time it has told, or is about to.
        self._end(missing & self._missing.get(tree.root, missing), zxid=zxid)
        self._missing[tree.root] = missing
        if tree.layout == layouts.MESSAGES:
            self._compare_workers(tree, workers, hidden)
        logger.debug("registry_compared", root=tree.root, members=len(members), seconds=round(time.monotonic() - started, 3))

    def _names(self, tree: Tree, denied: set[str]) -> tuple[int, list[str]]:
        """The transaction at which the reading began, and the paths of what stands where services do."""
        roots = [f"{tree.root}/producer", f"{tree.root}/consumer"] if tree.layout == layouts.MESSAGES else [tree.root]
        zxid, lists = self._zookeeper.multi_children(roots, denied=denied)
        return zxid, _below(roots, lists)

    @staticmethod
    def _within_limits(tree: Tree, level: list[str]) -> tuple[list[str], Sequence[str]]:
        """Of what stands where services do, what is looked into, and the rest: of a flooded tree what is recorded, and what finds room."""
        if len(level) <= records.MAX_SERVICES:
            return level, ()
        recorded = set(Service.objects.filter(root=tree.root, standing=True).values_list("path", flat=True)) & set(level)
        others = sorted(set(level) - recorded)
        room = max(0, records.MAX_SERVICES - len(recorded))
        return [*sorted(recorded), *others[:room]], others[room:]

    def _places(self, tree: Tree, level: Sequence[str], denied: set[str]) -> tuple[set[str], list[str], list[str]]:
        """What of these are services, the members of all of them, and the worker ids."""
        services = {path for path in level if len(path) < layouts.MAX_NAME + len(tree.root)}
        parents, workers = sorted(services), []
        if tree.layout == layouts.DUBBO:
            parents = [f"{path}/{name}" for path in parents for name in layouts.CATEGORIES]
        elif tree.layout == layouts.JOBS:
            parents = [f"{path}/{name}" for path in parents for name in layouts.JOB_MEMBERS]
        else:
            applications = _below([f"{tree.root}/id"], self._zookeeper.multi_children([f"{tree.root}/id"], denied=denied)[1])
            lists = self._zookeeper.multi_children(applications, denied=denied)[1] if applications else []
            workers = [path for path in _below(applications, lists) if layouts.place_of(tree, path) is not None]
        lists = self._zookeeper.multi_children(parents, denied=denied)[1] if parents else []
        if tree.layout == layouts.DUBBO:  # beside the services stand nodes of Dubbo's own, such as /dubbo/config
            services = {parent.rpartition("/")[0] for parent, names in zip(parents, lists, strict=True) if names is not None}
        return services, [path for path in _below(parents, lists) if layouts.place_of(tree, path) is not None], workers

    def _record_services(self, tree: Tree, services: Collection[str]) -> None:
        if tree.layout == layouts.DUBBO:
            self._refuse(tree, records.note([layouts.service_row(tree, path) for path in services]))
        elif tree.layout == layouts.JOBS:
            self._describe_jobs(tree, sorted(services))
        elif services:
            self._describe(tree, sorted(services))

    def _compare_workers(self, tree: Tree, workers: Sequence[str], hidden: tuple[str, ...]) -> None:
        known = list(WorkerId.objects.filter(znode__startswith=f"{tree.root}/id/").values_list("znode", flat=True))
        nodes = self._zookeeper.multi_read(workers, denied=set())[1] if workers else []
        rows = [layouts.worker_row(path, node) for path, node in zip(workers, nodes, strict=True) if node is not None]
        gone = set(known) - set(workers)
        records.record_workers(rows, [path for path in gone if not f"{path}/".startswith(hidden)])


def _below(parents: Sequence[str], lists: Iterable[Any]) -> list[str]:
    return [f"{parent}/{name}" for parent, names in zip(parents, lists, strict=True) for name in names or ()]
