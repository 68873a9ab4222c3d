"""`mqctl watch`: a node or a subtree of ZooKeeper as it changes: created, changed with what is different, deleted, decoded."""

from __future__ import annotations

import difflib
import json
import queue
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from mqadmin_sdk.cli.common import Duration, Group
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.session import Session
from mqadmin_sdk.zk import properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kazoo.protocol.states import ZnodeStat

    from mqadmin_sdk.cli.settings import Settings
    from mqadmin_sdk.zk import Client, NodeData, TreeEvent

_CONNECT = 10.0  # seconds
_SHOWN = 512  # bytes of what is no text


@click.command("watch", cls=Group.command_class)
@click.argument("path")
@click.option("-d", "--depth", type=click.IntRange(0), help="So many levels below; 0 is the node alone. [all]")
@click.option("--existing/--no-existing", default=True, show_default=True, help="Begin with what stands there.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many changes.")
@click.option("--for", "seconds", type=Duration(), help="End after so long.")
@click.pass_obj
def watch(session: Session, /, path: str, *, depth: int | None, existing: bool, count: int | None, seconds: float | None) -> None:
    """Watch a node of ZooKeeper and all below it, such as /zms/topic/order_topic.

    The last state counts: changes that follow each other faster than they can be read are shown as one, with the version to tell. What
    changed while the connection was lost is found and shown after it.
    """
    if not path.startswith("/") or (path != "/" and path.endswith("/")):
        raise click.UsageError("A path begins with a slash and does not end with one.")
    ends = None if seconds is None else time.monotonic() + seconds
    client = connect(session.settings)
    try:
        shown = 0
        tree = Tree(client, path, depth)
        for change in tree.changes(ends=ends, tell=session.output.note):
            if change.kind == "exists" and not existing:
                continue
            _print(session, change)
            shown += change.kind != "exists"
            if count is not None and shown >= count:
                return
    finally:
        client.stop()
        client.close()


def connect(settings: Settings) -> Client:
    """Connect to ZooKeeper. Raises CommandError (usage, unreachable)."""
    from mqadmin_sdk.zk import Client

    if not settings.zookeeper:
        raise CommandError("Where is ZooKeeper?", code=Exit.USAGE, hint="Set MQADMIN_ZOOKEEPER, or say --zookeeper host:port/chroot.")
    client = Client(settings.zookeeper, timeout=_CONNECT, access=settings.access())
    client.start_async()
    if not client._live.wait(_CONNECT):  # noqa: SLF001 - kazoo's own event for it
        trouble = client.trouble
        client.stop()
        client.close()
        why = f" ({trouble})" if trouble else ""
        raise CommandError(f"ZooKeeper was not reached at {settings.zookeeper} within {_CONNECT:g} s{why}.", code=Exit.UNREACHABLE)
    return client


@dataclass
class Change:
    """What happened to a node; `exists`: it was there when the watch began. `children` are those of its parent now."""

    kind: str
    path: str
    node: NodeData | None = None
    before: NodeData | None = None
    parent: str = ""
    children: int | None = None
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


class Tree:
    """A subtree as it was read last. Events say only where to look: what is compared is what stands there."""

    def __init__(self, client: Client, root: str, depth: int | None) -> None:
        self._client, self._root, self._depth = client, root, depth
        self._known: dict[str, NodeData] = {}
        self._children: Counter[str] = Counter()
        self._begun = False

    def changes(self, *, ends: float | None, tell: Callable[[str], None]) -> Iterator[Change]:
        """Yield what is there and then every change, until `ends` on the monotonic clock."""
        events: queue.SimpleQueue[TreeEvent] = queue.SimpleQueue()
        watch = self._client.watch_tree(self._root, events.put)
        began = time.monotonic()
        try:
            while ends is None or time.monotonic() < ends:
                try:
                    batch = [events.get(timeout=1.0 if ends is None else max(0.0, min(1.0, ends - time.monotonic())))]
                except queue.Empty:
                    if watch.error is not None:
                        raise CommandError(f"ZooKeeper refuses the watch: {watch.error!r}") from watch.error
                    if not self._begun and time.monotonic() - began > _CONNECT:
                        raise CommandError("ZooKeeper does not answer.", code=Exit.UNREACHABLE) from None
                    continue
                while not events.empty():
                    batch.append(events.get_nowait())
                if any(event.kind == "interrupted" for event in batch):
                    tell("ZooKeeper was lost; what changes meanwhile is shown after it.")
                begun = self._begun
                yield from self._look(batch)
                if self._begun and not begun:
                    tell(f"watching {self._root}: {len(self._known):,} nodes")
        finally:
            watch.close()

    def _look(self, batch: list[TreeEvent]) -> Iterator[Change]:
        from kazoo.exceptions import ConnectionLoss, NoAuthError, SessionExpiredError

        try:
            if any(event.kind == "established" for event in batch):
                yield from self._compare(self._read_all(), set(self._known))
                if not self._begun and not self._known:
                    yield Change("missing", self._root)
                self._begun = True
                return
            paths = {event.path for event in batch if event.kind in {"created", "changed", "deleted"} and self._within(event.path)}
            # A node that was deleted and made again in between is known by its czxid.
            if paths:
                yield from self._compare(self._read(sorted(paths)), paths)
        except (ConnectionLoss, SessionExpiredError):
            return  # the watch is set again, and all is compared
        except NoAuthError as error:
            raise CommandError(f"ZooKeeper does not let us read {self._root}: {error!r}", code=Exit.CREDENTIALS) from error

    def _compare(self, found: dict[str, NodeData], looked_at: set[str]) -> Iterator[Change]:
        for path in sorted(looked_at - set(found), reverse=True):  # children before their parents
            if (before := self._known.pop(path, None)) is not None:
                self._children[parent_of(path)] -= 1
                yield self._change("deleted", path, before=before)
        for path in sorted(found):
            node, before = found[path], self._known.get(path)
            self._known[path] = node
            if before is None:
                self._children[parent_of(path)] += 1
                yield self._change("created" if self._begun else "exists", path, node=node)
            elif before.stat.czxid != node.stat.czxid:
                yield self._change("deleted", path, before=before)
                yield self._change("created", path, node=node)
            elif before.stat.mzxid != node.stat.mzxid:
                yield self._change("changed", path, node=node, before=before)

    def _change(self, kind: str, path: str, **more: Any) -> Change:
        parent = parent_of(path)
        children = self._children[parent] if path != self._root and kind != "exists" else None
        return Change(kind, path, parent=parent, children=children, **more)

    def _within(self, path: str) -> bool:
        if self._depth is None:
            return True
        below = path[len(self._root.rstrip("/")) :]
        return below.count("/") <= self._depth if path != self._root else True

    def _read_all(self) -> dict[str, NodeData]:
        found: dict[str, NodeData] = {}
        level = [self._root]
        for _ in range(1000):
            found |= (read := self._read(level))
            inner = [path for path in read if read[path].stat.numChildren]
            names = self._client.multi_children(inner)[1] if inner else []
            pairs = zip(inner, names, strict=True)
            level = [f"{path.rstrip('/')}/{name}" for path, children in pairs for name in children or ()]
            level = [path for path in level if self._within(path)]
            if not level:
                break
        return found

    def _read(self, paths: list[str]) -> dict[str, NodeData]:
        denied: set[str] = set()
        nodes = self._client.multi_read(paths, denied=denied)[1]
        return {path: node for path, node in zip(paths, nodes, strict=True) if node is not None}


def parent_of(path: str) -> str:
    """Return the node above."""
    return path.rpartition("/")[0] or "/"


# --- showing --------------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> tuple[str, Any]:
    """Return the form of a node's bytes (empty, json, properties, text, bytes) and what they say."""
    if not data:
        return "empty", ""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes", data[:_SHOWN].hex(" ")
    if text.lstrip()[:1] in {"{", "["}:
        try:
            return "json", json.loads(text)
        except ValueError:
            return "text", text
    if "=" in text and data.isascii():
        try:
            return "properties", properties.loads(data)
        except properties.PropertiesError:
            return "text", text
    return "text", text


def _lines(node: NodeData | None) -> list[str]:
    form, value = decode(node.data if node is not None else b"")
    if form == "properties":
        return [f"{key}={text}" for key, text in value.items()]
    if form == "json":
        if isinstance(value, dict):
            return [f"{key}: {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()]
        return json.dumps(value, ensure_ascii=False, indent=2).splitlines()
    return str(value).splitlines()


def _difference(before: NodeData | None, now: NodeData | None) -> list[str]:
    """Return the lines that are different, each with - or +."""
    lines = difflib.ndiff(_lines(before), _lines(now))
    return [line[0] + " " + line[2:] for line in lines if line[:1] in {"-", "+"}]


def _print(session: Session, change: Change) -> None:
    output = session.output
    if output.json:
        output.line(_document(change))
        return
    stat = change.node.stat if change.node is not None else change.before.stat if change.before is not None else None
    about = []
    if change.kind == "changed" and change.before is not None and change.node is not None:
        steps = change.node.stat.version - change.before.stat.version
        about.append(f"version {change.node.stat.version}" + (f", {steps} changes at once" if steps > 1 else ""))
    elif stat is not None and change.kind != "deleted":
        about.append(f"version {stat.version}")
    if stat is not None and stat.ephemeralOwner:
        about.append(f"ephemeral, session {stat.ephemeralOwner:#x}")
    if change.children is not None:
        about.append(f"{change.children} children of {change.parent}")
    styles = {"created": "bold green", "deleted": "bold red", "changed": "bold yellow", "missing": "bold yellow", "exists": "bold"}
    words = "is not there yet" if change.kind == "missing" else change.kind
    when = change.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    output.say(f"{when}  {words:8} {change.path}" + (f"  ({', '.join(about)})" if about else ""), style=styles[change.kind])
    if change.kind == "changed":
        for line in _difference(change.before, change.node) or ["  (set again to the same bytes)"]:
            output.say(f"    {line}", style={"-": "red", "+": "green"}.get(line[0], "dim"))
    elif change.kind in {"created", "exists"}:
        for line in _lines(change.node):
            output.say(f"    {line}")


def _document(change: Change) -> dict[str, Any]:
    """Return a change for a program; `before` and `now` are decoded."""
    document: dict[str, Any] = {"at": change.at.isoformat(timespec="milliseconds"), "event": change.kind, "path": change.path}
    if change.children is not None:
        document["parent"] = {"path": change.parent, "children": change.children}
    for name, node in (("before", change.before), ("now", change.node)):
        if node is not None:
            form, value = decode(node.data)
            document[name] = {"format": form, "value": value, "stat": _stat(node.stat)}
    if change.kind == "changed":
        document["diff"] = _difference(change.before, change.node)
    return document


def _stat(stat: ZnodeStat) -> dict[str, Any]:
    owner = f"{stat.ephemeralOwner:#x}" if stat.ephemeralOwner else None
    return {"version": stat.version, "czxid": stat.czxid, "mzxid": stat.mzxid, "ephemeral_owner": owner, "children": stat.numChildren}
