"""A live look into ZooKeeper for people: one node with its children, read-only, within seconds or not at all.

Asked by web processes, each of which keeps one session of its own for it. No transaction is open meanwhile, and no database connection
is kept: what Postgres wants is read afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.utils.translation import gettext as _
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

from core.errors import Problem, conflict
from core.errors import not_found as missing
from mqadmin_sdk.zk import NodeData, PerProcess
from registry import ensemble, rendering
from registry.models import Publication
from registry.repairs import moment
from registry.roots import is_place_of_ours

if TYPE_CHECKING:
    from datetime import datetime

    from kazoo.protocol.states import ZnodeStat

    from mqadmin_sdk.zk import Client

#: Seconds for everything that is asked of ZooKeeper for one page.
LIMIT = 4.0
#: Children on a page; ZooKeeper itself hands out all names at once.
PAGE = 200
#: Bytes of a node that are shown.
SHOWN = 64 * 1024
MAX_PATH = 1000


@dataclass(frozen=True, slots=True)
class Child:
    """A node below, without its data; `publication` is what Postgres wants there."""

    name: str
    path: str
    stat: ZnodeStat
    publication: Publication | None

    @property
    def owner(self) -> str:
        """The session that an ephemeral node lives as long as; empty for a persistent one."""
        return session_of(self.stat)

    @property
    def changed_at(self) -> datetime | None:
        """When its data was last set."""
        return moment(self.stat.mtime)

    @property
    def state(self) -> str:
        """The publication's state; `unknown` for a node that stands where one of ours would; empty where none of ours belongs."""
        if self.publication is not None:
            return self.publication.state
        return "unknown" if is_place_of_ours(self.path) else ""


@dataclass(frozen=True, slots=True)
class Look:
    """A node as it stands in ZooKeeper just now, beside what Postgres wants there."""

    path: str
    node: NodeData | None  # None: the root of a tree that is not there yet
    total: int
    children: list[Child]
    next: str
    publication: Publication | None
    format: str = field(init=False)

    def __post_init__(self) -> None:
        """Its format, by what it is to be, or by what it looks like."""
        data = self.node.data if self.node else b""
        format_ = self.publication.format if self.publication else format_of(self.path, data)
        object.__setattr__(self, "format", format_)

    @property
    def pairs(self) -> dict[str, str]:
        """Its keys and values, if it is properties or JSON."""
        found = rendering.pairs_of(self.format, self.node.data) if self.node and self.format else {}
        return {} if "" in found else found

    @property
    def text(self) -> str | None:
        """Its data as text, as far as it is shown; None: it is none."""
        try:
            shown = self.node.data[:SHOWN] if self.node else b""
            # A sign that the limit cut in two is no reason to call the whole binary.
            return shown.decode("utf-8", "strict" if len(shown) < SHOWN else "ignore")
        except UnicodeDecodeError:
            return None

    @property
    def hexadecimal(self) -> str:
        """The first bytes of data that is no text."""
        return (self.node.data[:1024] if self.node else b"").hex(" ")

    @property
    def matches(self) -> bool | None:
        """Whether it holds what Postgres wants; None: Postgres wants nothing here, nor ever did."""
        if self.publication is None:
            return None
        wanted = None if self.publication.deleted else bytes(self.publication.data)
        return (self.node.data if self.node else None) == wanted

    @property
    def differences(self) -> list[rendering.Difference]:
        """Key by key against what Postgres wants."""
        if self.publication is None:
            return []
        wanted = None if self.publication.deleted else bytes(self.publication.data)
        return rendering.differences(self.publication.format, wanted, self.node.data if self.node else None)

    @property
    def owner(self) -> str:
        """As of a child."""
        return session_of(self.node.stat) if self.node else ""

    @property
    def times(self) -> tuple[datetime | None, datetime | None]:
        """When it was created, and when its data was last set."""
        return (moment(self.node.stat.ctime), moment(self.node.stat.mtime)) if self.node else (None, None)


def session_of(stat: ZnodeStat) -> str:
    """The session of an ephemeral node in hexadecimal; empty for others."""
    return f"0x{stat.ephemeralOwner:x}" if stat.ephemeralOwner else ""


def format_of(path: str, data: bytes) -> str:
    """`properties` or `json` by where a node stands and what it begins with; empty: something else."""
    if data[:1] in {b"{", b"["}:
        return rendering.JSON
    return rendering.PROPERTIES if is_place_of_ours(path) and data else ""


def look(*, path: str, after: str = "", limit: int = PAGE) -> Look:
    """Read a node and a page of its children, whose names come after `after`.

    Problems: invalid_path, not_found, zookeeper_away, zookeeper_denies.
    """
    _check(path)
    if not connection.in_atomic_block:
        connection.close()  # ZooKeeper may let us wait: another request can have it meanwhile
    until = time.monotonic() + LIMIT
    try:
        client = _connected(until)
        node, names, stats = _read(client, path, after, limit, until)
    except NoAuthError:
        detail = _("ZooKeeper does not let mqadmin read {path}: the ACL of the node does not allow it.").format(path=path)
        raise conflict("zookeeper_denies", detail, hint=_("Look with the credentials of its owner.")) from None
    except (KazooException, KazooTimeoutError) as error:
        raise ensemble.away(repr(error)) from None
    shown = [name for name, stat in zip(names[:limit], stats, strict=True) if stat is not None]
    paths = [child_of(path, name) for name in shown]
    wanted = {row.path: row for row in Publication.objects.filter(path__in=[path, *paths]).defer("foreign_keys", "requires")}
    publication = wanted.get(path)
    if node is None and publication is None and path != "/":
        raise missing(_("node"), path)
    stat_of = dict(zip(names[:limit], stats, strict=True))
    children = [Child(name, child_of(path, name), stat_of[name], wanted.get(child_of(path, name))) for name in shown]
    total = node.stat.numChildren if node else 0
    return Look(path, node, total, children, names[limit - 1] if len(names) > limit else "", publication)


def child_of(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}/{name}" if path != "/" else f"/{name}"


def _read(client: Client, path: str, after: str, limit: int, until: float) -> tuple[NodeData | None, list[str], list[ZnodeStat | None]]:
    """The node, the names of its children from `after` on, and the stats of the first `limit` of them; all requests at once."""
    data, below = client.get_async(path), client.get_children_async(path)
    try:
        node = NodeData(*data.get(timeout=_left(until)))
        names = sorted(name for name in below.get(timeout=_left(until)) if name > after)
    except NoNodeError:
        return None, [], []
    asked = [client.exists_async(child_of(path, name)) for name in names[:limit]]
    return node, names, [one.get(timeout=_left(until)) for one in asked]


def _left(until: float) -> float:
    return max(0.01, until - time.monotonic())


def _connected(until: float) -> Client:
    client = _client(settings.ZOOKEEPER_HOSTS).get()
    while not client.connected:
        if time.monotonic() > until:
            raise ensemble.away(_("no connection within {n} s").format(n=f"{LIMIT:.0f}"))
        time.sleep(0.02)
    return client


@cache
def _client(hosts: str) -> PerProcess:
    """A session for this process and its threads; a forked child makes one of its own."""
    return PerProcess(hosts, timeout=settings.ZOOKEEPER_SESSION_TIMEOUT, access=ensemble.access())


def _check(path: str) -> None:
    parts = path.split("/")[1:] if path != "/" else []
    wrong = not path.startswith("/") or any(not part or part in {".", ".."} for part in parts) or not path.isprintable()
    if wrong or len(path) > MAX_PATH:
        detail = _("“{path}” is not a path in ZooKeeper.").format(path=path[:200])
        raise Problem("invalid_path", detail, hint=_("It begins with a slash, ends with none and has no empty part."))


def describe(found: Look) -> dict[str, Any]:
    """The document of REST."""
    stat = found.node.stat if found.node else None
    created, changed = found.times
    publication = found.publication
    return {
        "path": found.path,
        "stat": None
        if stat is None
        else {
            "version": stat.version,
            "cversion": stat.cversion,
            "aversion": stat.aversion,
            "czxid": stat.czxid,
            "mzxid": stat.mzxid,
            "pzxid": stat.pzxid,
            "created_at": created,
            "changed_at": changed,
            "ephemeral_owner": found.owner or None,
            "data_length": stat.dataLength,
            "children": stat.numChildren,
        },
        "format": found.format or None,
        "content": found.text if found.node else None,
        "hexadecimal": found.hexadecimal if found.node and found.text is None else None,
        "values": found.pairs or None,
        "publication": None
        if publication is None
        else {"id": publication.pk, "state": publication.state, "generation": publication.generation},
        "matches": found.matches,
        "differences": [{"key": d.key, "wanted": d.wanted, "found": d.found, "kind": d.kind} for d in found.differences],
        "children": [
            {
                "name": child.name,
                "path": child.path,
                "version": child.stat.version,
                "changed_at": child.changed_at,
                "ephemeral_owner": child.owner or None,
                "data_length": child.stat.dataLength,
                "children": child.stat.numChildren,
                "state": child.state or None,
            }
            for child in found.children
        ],
        "next": found.next or None,
    }
