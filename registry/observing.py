"""Records who is online and what they have applied, and notices nodes that differ from what was published."""

from __future__ import annotations

import json
import queue
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from django.db import DataError, connection
from django.db.models.functions import Now
from django.utils.dateparse import parse_datetime

from mqadmin_sdk.zk import paths
from registry import repairs, surveying
from registry.models import Instance, Publication
from registry.roots import PATHS, is_place_of_ours, root_of
from registry.roots import ROOTS as TREES
from registry.statements import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mqadmin_sdk.zk import Client, NodeData, TreeEvent

logger = structlog.get_logger(__name__)

WATCHED = (*PATHS, paths.SHADOW_INSTANCES)
#: Names on the way from a root to an instance's node; 0: no instances there.
_DEPTH = {paths.TOPICS: 2, paths.GROUPS: 2, paths.SHADOW_INSTANCES: 4, paths.CLUSTERS: 0, paths.SHADOW: 0}
_OURS = dict(TREES.values())
#: Seconds between full comparisons that nothing asked for.
COMPARE_EVERY = 60.0
#: Seconds until a node is looked at again whose publication was on its way.
LOOK_AGAIN = 1.0
#: Seconds between two looks at what events named: one event is looked at at once, a stream of them together. 2,000 consumers that tell new
#: counts twice a minute are some 70 events a second, and a look at one costs nearly what a look at ten does.
GATHER = 0.05
KEEP_OFFLINE_DAYS = 7
KEEP_EVENTS = 100


class Observer:
    """Follows the trees. Callbacks of the watches only enqueue; one thread does the rest."""

    def __init__(self, zookeeper: Client, *, name: str = "", woken: Callable[[], None] = lambda: None) -> None:
        self._zookeeper = zookeeper
        self._name = name
        self._woken = woken  # there is new work for the publisher
        self._events: queue.SimpleQueue[TreeEvent | None] = queue.SimpleQueue()
        self._touched: set[str] = set()
        self._to_compare: set[str] = set(WATCHED)
        self._watched: set[str] = set()
        self._next_compare = time.monotonic() + COMPARE_EVERY
        self._again: set[str] = set()  # nodes to look at once more, when their publication has been recorded
        self._again_at = 0.0
        self._look_at = 0.0  # the next look at what is touched, on the monotonic clock

    def start(self) -> None:
        """Set the watches; each root is compared as a whole when its watch stands."""
        for root in WATCHED:
            self._zookeeper.watch_tree(root, self._events.put)

    def stop(self) -> None:
        """Let `step` return at once."""
        self._events.put(None)

    @property
    def state(self) -> str:
        """`none`: no watch stands. `comparing`: it does, the state before it is being read. `live`: every change is seen."""
        if self._watched != set(WATCHED):
            return "none"
        return "comparing" if self._to_compare else "live"

    def step(self, timeout: float = 1.0) -> None:
        """Wait for events and record what came of them. Raises the database's or ZooKeeper's error; nothing is forgotten then."""
        self._collect(timeout)
        if not self._zookeeper.connected:
            return
        if time.monotonic() > self._next_compare:
            self._to_compare |= self._watched
        for root in sorted(self._to_compare & self._watched):
            self._compare(root)
            self._to_compare.discard(root)
            self._next_compare = time.monotonic() + COMPARE_EVERY
        if self._again and time.monotonic() > self._again_at:
            self._again_at = time.monotonic() + LOOK_AGAIN
            self._touched |= self._again
            self._again.clear()
        if self._touched:
            touched = self._touched
            self._look(sorted(touched))
            self._touched = self._touched - touched
            self._look_at = time.monotonic() + GATHER
        while surveying.answer(self._zookeeper, self._name):
            pass

    def compare_all(self) -> None:
        """Ask for a full comparison at the next step."""
        self._to_compare |= set(WATCHED)

    def _collect(self, timeout: float) -> None:
        waiting = 0.0 if self._touched else timeout
        while True:
            try:
                event = self._events.get(timeout=waiting) if waiting else self._events.get_nowait()
            except queue.Empty:
                return
            if event is None:
                return
            waiting = max(0.0, self._look_at - time.monotonic())
            if event.kind == "established":
                self._watched.add(event.path)
                self._to_compare.add(event.path)
            elif event.kind == "interrupted":
                self._watched.discard(event.path)
            elif event.path not in WATCHED:  # their versions count retirements (guarding.py)
                self._touched.add(event.path)

    # --- single nodes ---------------------------------------------------------------------------------------------------

    def _look(self, touched: Sequence[str]) -> None:
        """Read the nodes that events named, as they are now: the last state wins, however many events there were."""
        instances = [path for path in touched if followed(path) is not None]
        metadata = [path for path in touched if followed(path) is None]
        if instances:
            denied: set[str] = set()  # anybody can make a node that nobody may read
            zxid, nodes = self._zookeeper.multi_read(instances, denied=denied)
            found = {path: node for path, node in zip(instances, nodes, strict=True) if node is not None}
            record(found)
            gone = [path for path in instances if path not in found and path not in denied]
            # Absent at this zxid: an incarnation that came later stays.
            self._gone(Instance.objects.online().filter(znode__in=gone, czxid__lte=zxid))
        if metadata:
            known = self._check_drift(Publication.objects.filter(path__in=metadata))
            self._look_at_unknown([path for path in metadata if path not in known and is_place_of_ours(path)])

    def _gone(self, instances: Any) -> None:
        if followed_paths := set(instances.gone()):
            logger.info("instances_gone", paths=sorted(followed_paths)[:20])
            # A retired node could not be deleted while they were below it.
            waiting = Publication.objects.dirty().filter(path__in=followed_paths, deleted=True)
            if waiting.update(next_attempt_at=Now(), attempts=0):
                self._woken()

    # --- whole trees ----------------------------------------------------------------------------------------------------

    def _compare(self, root: str) -> None:
        started = time.monotonic()
        known = self._check_drift(Publication.objects.filter(path__startswith=f"{root}/"))
        below = self._compare_instances(root) if _DEPTH[root] else []
        if depth := _OURS.get(root):
            below = below or self._names_below(root, depth)[1]
            self._compare_unknown(root, [path for path in below if path not in known])
        logger.debug("compared", root=root, seconds=round(time.monotonic() - started, 3))

    def _names_below(self, root: str, depth: int) -> tuple[int, list[str]]:
        """Return the paths so many names below a root, and the transaction number at which the first of them were read."""
        level, zxid = [root], 0
        for _name in range(depth):
            read_at, children = self._zookeeper.multi_children(level, denied=set())
            zxid = zxid or read_at
            level = [f"{parent}/{name}" for parent, names in zip(level, children, strict=True) for name in names or ()]
        return zxid, level

    def _compare_instances(self, root: str) -> list[str]:
        """Record who is below a root; returns the paths directly below it, among which the nodes of ours stand."""
        # The database first: what it holds is then older than what is read below.
        known = list(Instance.objects.filter(znode__startswith=f"{root}/").values("pk", "znode", "czxid", "mzxid", "online"))
        self._zookeeper.sync(root)
        zxid, first = self._names_below(root, 1)
        level, denied = first, set[str]()
        for _depth in range(_DEPTH[root] - 1):
            children = self._zookeeper.multi_children(level, denied=denied)[1] if level else []
            level = [f"{parent}/{name}" for parent, names in zip(level, children, strict=True) for name in names or ()]
        nodes = self._zookeeper.multi_read(level, denied=denied)[1] if level else []
        found = {path: node for path, node in zip(level, nodes, strict=True) if node is not None and followed(path) is not None}
        # Reports from a later transaction than the server has ever seen: its data was wiped or restored. Forget their order.
        other_history = [row for row in known if row["mzxid"] > zxid]
        for row in other_history:
            same = Instance.objects.filter(pk=row["pk"], mzxid=row["mzxid"])
            same.update(czxid=0, mzxid=0, online=False, offline_at=Now())
        record(found)
        hidden = tuple(f"{path}/" for path in denied)  # what is there, or below, is unknown and stays as it was
        gone = [
            row["pk"]
            for row in known
            if row["online"] and row["znode"] not in found and row["czxid"] <= zxid and not f"{row['znode']}/".startswith(hidden)
        ]
        self._gone(Instance.objects.online().filter(pk__in=gone, czxid__lte=zxid))
        return first

    # --- drift ----------------------------------------------------------------------------------------------------------

    def _check_drift(self, publications: Any) -> set[str]:
        """Mark rows whose node differs although everything was published; a publisher reads the node again and decides.

        Returns the paths that have a row.
        """
        rows = list(publications.only("path", "data", "deleted", "generation", "published_generation", "drifted_at", "held_at"))
        if not rows:
            return set()
        denied: set[str] = set()
        _zxid, nodes = self._zookeeper.multi_read([row.path for row in rows], denied=denied)
        differing = []
        for row, node in zip(rows, nodes, strict=True):
            if row.path in denied:
                continue  # what stands there is unknown
            same = node is None if row.deleted else node is not None and node.data == bytes(row.data)
            if row.is_held or (not same and row.published_generation == row.generation):
                # What waits for a person is looked at each time: the node may have been put right, or changed again.
                differing.append(row)
            elif not same:
                # On its way. If somebody edits the node between the write and its record, only another look finds it.
                self._again.add(row.path)
        if differing and (drifted := _mark(differing)):
            logger.warning("drift_seen", nodes=drifted)
            self._woken()
        return {row.path for row in rows}

    # --- nodes that nobody of ours knows ----------------------------------------------------------------------------------

    def _look_at_unknown(self, touched: list[str]) -> None:
        if not touched:
            return
        found = self._read(touched)
        for name, (root, _depth) in TREES.items():
            here = {path: node for path, node in found.items() if root_of(path) == name}
            repairs.note_unknown(here, root)
        repairs.forget_unknown(paths=[path for path in touched if path not in found])

    def _compare_unknown(self, root: str, unknown: list[str]) -> None:
        repairs.note_unknown(self._read(unknown[: repairs.MAX_UNKNOWN]), root)
        repairs.forget_unknown(root=root, except_for=unknown)

    def _read(self, wanted: Sequence[str]) -> dict[str, NodeData]:
        nodes = self._zookeeper.multi_read(wanted, denied=set())[1] if wanted else []
        return {path: node for path, node in zip(wanted, nodes, strict=True) if node is not None}


def _mark(rows: Sequence[Publication]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            sql("mark_drifted"),
            {
                "ids": [row.pk for row in rows],
                "generations": [row.generation for row in rows],
                "published": [row.published_generation for row in rows],
            },
        )
        return int(cursor.rowcount)


def followed(znode: str) -> str | None:
    """Return the path of the publication that an instance's node belongs to, or None if this is no instance's node."""
    parent, _, name = znode.rpartition("/")
    if parent.startswith(f"{paths.SHADOW_INSTANCES}/"):
        parts = parent.removeprefix(f"{paths.SHADOW_INSTANCES}/").split("/")
        return paths.shadow(*parts) if len(parts) == 3 and paths.parse_shadow_instance_name(name) else None
    if parent.rpartition("/")[0] in {paths.TOPICS, paths.GROUPS} and paths.parse_instance_name(name):
        return parent
    return None


def record(found: Mapping[str, NodeData]) -> None:
    """Write down instances as they were read; older readings than the recorded ones are ignored."""
    rows = [row for znode, node in found.items() if (row := describe(znode, node)) is not None]
    for chunk in _chunks(rows, 500):
        try:
            _store(chunk)
        except DataError:  # anybody can write anything into a node: what cannot be stored must not hold up the others
            for row in chunk:
                try:
                    _store([row])
                except DataError as error:
                    logger.error("instance_not_recorded", znode=row["znode"], error=str(error).strip())  # noqa: TRY400 - no traceback


def _store(rows: Sequence[dict[str, Any]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql("record_instances"), {"found": json.dumps(rows)})


def describe(znode: str, node: NodeData) -> dict[str, Any] | None:
    """Return the row of an instance's node. Without our SDK's data it is a plain client: what it has applied is unknown."""
    path, name = followed(znode), znode.rpartition("/")[2]
    if path is None:
        return None
    said = paths.parse_shadow_instance_name(name) if path.startswith(f"{paths.SHADOW}/") else paths.parse_instance_name(name)
    if said is None:
        return None
    report = _report(node.data)
    plain = not isinstance(report.get("sdk"), str)
    counts = _counts(report.get("counts"))
    return {
        "znode": znode,
        "path": path,
        "node": name,
        "ip": _text(said.ip, 255),
        "role": said.role,
        "sdk": _text(report.get("sdk"), 120) or _text(said.sdk, 120),
        "app": _text(report.get("app"), 120),
        "pid": _number(report.get("pid", said.pid)),
        "state": _text(report.get("state"), 32),
        "cluster": _text(report.get("cluster"), 120),
        "applied_generation": None if plain else _number(report.get("generation")),
        "applied_at": _moment(report.get("appliedAt")),
        "error": _text(report.get("error"), 4000),
        "labels": _labels(report.get("labels")),
        "plain": plain,
        "czxid": node.stat.czxid,
        "mzxid": node.stat.mzxid,
        "online_since": datetime.fromtimestamp(node.stat.ctime / 1000, tz=UTC).isoformat(),
        "counts": counts,
        "counted_at": None if counts is None else datetime.fromtimestamp(node.stat.mtime / 1000, tz=UTC).isoformat(),
    }


def forget_old() -> int:
    """Delete instances that have been gone for a week, and of the others' history what is as old or too much; returns how many rows."""
    week = Now() - timedelta(days=KEEP_OFFLINE_DAYS)
    instances = Instance.objects.filter(online=False, offline_at__lt=week).delete()[0]
    with connection.cursor() as cursor:
        cursor.execute(sql("forget_events"), {"days": KEEP_OFFLINE_DAYS, "keep": KEEP_EVENTS})
        return instances + int(cursor.rowcount)


def _report(data: bytes) -> dict[str, Any]:
    try:
        report = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _text(value: object, limit: int) -> str:
    """Text that Postgres stores: without NUL, lone surrogates replaced."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "")[:limit] if isinstance(value, str) else ""


def _labels(value: object) -> dict[str, str] | None:
    """The labels of an instance, twenty at most; None: it reports none."""
    if not isinstance(value, dict) or not value:
        return None
    pairs = [(_text(name, 120), _text(text, 200)) for name, text in list(value.items())[:20]]
    return {name: text for name, text in pairs if name and text}


def _counts(value: object) -> dict[str, float] | None:
    """What an instance counts, thirty numbers at most, none beyond what every reader of JSON holds exactly; None: it counts nothing."""
    if not isinstance(value, dict) or not value:
        return None
    pairs = [(_text(name, 60), number) for name, number in list(value.items())[:30]]
    return {
        name: number
        for name, number in pairs
        if name and isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 2**53  # nor NaN, nor infinity
    } or None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else None


def _moment(value: object) -> str | None:
    try:
        moment: datetime | None = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # The first and the last year can be stored, but in another time zone no longer be read.
    return moment.isoformat() if moment is not None and moment.tzinfo is not None and 1 < moment.year < 9999 else None


def _chunks(rows: Sequence[dict[str, Any]], size: int) -> Iterable[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
