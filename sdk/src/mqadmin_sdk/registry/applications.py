"""The reliable-message registry: which applications are online as producers and consumers, and the worker id of each host.

Layout and ids are those of paascloud's registry (Java), which may use the same tree.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from mqadmin_sdk.registry import keeper as keepers
from mqadmin_sdk.registry.contract import Closing, RegistryClosedError, RegistryError, RegistryUnavailableError
from mqadmin_sdk.registry.keeper import DISCONNECTED
from mqadmin_sdk.registry.leaves import Leaves, commit, now
from mqadmin_sdk.registry.nodes import Nodes, Tree
from mqadmin_sdk.registry.telling import Teller
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.zk import Access, NodeData
    from mqadmin_sdk.zk import Client as ZooKeeper

Role = Literal["producer", "consumer"]
_ROLES: Final[tuple[Role, ...]] = ("producer", "consumer")
_LARGEST: Final = 2**31 - 1  # the counter of the Java registry has four bytes


@dataclass(frozen=True)
class Application:
    """One application in one role; online while one of its hosts is."""

    name: str
    role: Role
    hosts: tuple[str, ...]
    group: str = ""
    namesrv_addr: str = ""

    @property
    def online(self) -> bool:
        """Whether any host is there."""
        return bool(self.hosts)


class Applications(Closing):
    """A process in the reliable-message registry, until it is closed; a context manager, thread-safe.

    `zookeeper` is `host:port[,host:port…][/chroot]`; `host` names this host in the tree, by default its address. Calls wait `timeout`
    seconds at most for a connection and then raise RegistryUnavailableError; after `close` they raise RegistryClosedError.
    """

    def __init__(
        self,
        zookeeper: str,
        *,
        host: str | None = None,
        root: str = "/paascloud",
        session_timeout: float = 10.0,
        timeout: float = 5.0,
        access: Access | None = None,
    ) -> None:
        self.host, self.timeout = host or paths.local_ip(), timeout
        if "/" in self.host or "/" in root.strip("/"):
            raise ValueError("host and root are names without a slash")
        self._root = f"/{root.strip('/')}"
        self._closed = False
        self._keeper = keepers.acquire(zookeeper, session_timeout=session_timeout, access=access)
        self._nodes, self._leaves = Nodes(), Leaves(self._keeper.post)
        self._following: list[_Following] = []
        self._keeper.add(self._nodes)
        self._keeper.add(self._leaves)

    def register(self, app: str, role: Role, *, group: str, namesrv_addr: str = "") -> None:
        """Put this host online for an application; it stays so until `unregister`, `close`, or the end of the process."""
        path = self._path(role, app)
        key = "producerGroup" if role == "producer" else "consumerGroup"
        settings = json.dumps({key: group, "namesrvAddr": namesrv_addr}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

        asked = object()

        def add() -> Any:
            self._nodes.add(path, settings.encode())
            return self._leaves.add(f"{path}/{self.host}", now().encode(), ephemeral=True, asked=asked)

        leaf = self._keeper.call(add)
        until = time.monotonic() + self.timeout
        try:
            self._keeper.reached(self.timeout)
            leaf.result(max(0.0, until - time.monotonic())).standing.result(max(0.0, until - time.monotonic()))
        except (FutureTimeout, RegistryError) as error:
            self._keeper.post(lambda: self._leaves.give_up(f"{path}/{self.host}", asked))
            if isinstance(error, RegistryError):
                raise
            raise RegistryUnavailableError(f"ZooKeeper did not answer within {self.timeout:g} s") from error

    def unregister(self, app: str, role: Role) -> None:
        """Take this host offline for an application, at once or as soon as there is a connection."""
        path = self._path(role, app)

        def drop() -> Any:
            self._nodes.drop(path)
            return self._leaves.drop(f"{path}/{self.host}")

        dropping = self._keeper.call(drop)
        with contextlib.suppress(FutureTimeout):
            if self._keeper.is_connected():
                dropping.result(self.timeout).result(self.timeout)

    def watch(self, listener: Callable[[Application], object]) -> None:
        """Tell a listener of every application, now and whenever its hosts or settings change; offline is one without hosts.

        Returns after it was told what there is; later calls come one after another on a thread of the registry's own.
        """
        self._usable()
        following = _Following(self._keeper, self._root, listener)
        self._following.append(following)
        self._keeper.add(following)
        try:
            self._keeper.reached(self.timeout)
            following.teller.first.result(self.timeout)
        except (FutureTimeout, RegistryError) as error:
            self._keeper.remove(following)
            raise RegistryUnavailableError(f"ZooKeeper was not reached within {self.timeout:g} s") from error
        following.teller.deliver()

    def applications(self) -> list[Application]:
        """Read every application, by role and name."""
        self._usable()
        client = self._keeper.reached(self.timeout)
        try:
            return list(_read(client, self._root).values())
        except DISCONNECTED as error:
            raise RegistryUnavailableError("the connection to ZooKeeper was lost") from error

    def worker_id(self, app: str, *, timeout: float = 30.0) -> int:
        """Return the number of this host for an application: the same after every restart, and no other host's, whatever its application.

        Raises RegistryUnavailableError after `timeout` seconds, RegistryError if the counter cannot be understood.
        """
        path, counter = f"{self._root}/registry/id/{_name(app)}/{self.host}", f"{self._root}/seq"
        until = time.monotonic() + timeout
        pause = 0.002
        self._usable()
        while True:
            client = self._keeper.reached(max(0.1, until - time.monotonic()))
            with contextlib.suppress(*DISCONNECTED):
                taken = self._take_id(client, path, counter)
                if taken is not None:
                    return taken
            if time.monotonic() > until:
                raise RegistryUnavailableError(f"no worker id could be taken within {timeout:g} s")
            time.sleep(random.uniform(0, pause))  # noqa: S311 - to let others pass
            pause = min(1.0, pause * 2)

    def close(self) -> None:
        """Take this host offline everywhere."""
        if self._closed:
            return
        self._closed = True
        for part in [self._leaves, self._nodes, *self._following]:
            self._keeper.remove(part)
        keepers.release(self._keeper)

    def _take_id(self, client: ZooKeeper, path: str, counter: str) -> int | None:
        folder = path.rpartition("/")[0]
        own, last, parent = client.multi_read([path, counter, folder])[1]
        if own is not None and own.data:
            if not own.data.isdigit():
                raise RegistryError(f"{path} holds {own.data[:40]!r}, no worker id")
            return int(own.data)
        number = 1 + (_number(last) if last is not None else self._largest(client))
        if number > _LARGEST:
            raise RegistryError(f"{counter} has no number left")
        width = len(last.data) if last is not None and len(last.data) == 8 else 4
        if parent is None:  # asked for beforehand: the longer it takes from reading to writing, the more often another was first
            client.ensure_path(folder)
        transaction = client.transaction()
        if last is None:
            transaction.create(counter, number.to_bytes(width, "big"))
        else:
            transaction.set_data(counter, number.to_bytes(width, "big"), version=last.stat.version)
        if own is None:
            transaction.create(path, str(number).encode())
        else:  # the Java registry makes the node first and sets it then, and may have died between the two
            transaction.set_data(path, str(number).encode(), version=own.stat.version)
        return number if commit(transaction) else None

    def _largest(self, client: ZooKeeper) -> int:
        """Return the largest id in use, for a counter that was deleted."""
        base = f"{self._root}/registry/id"
        apps = client.multi_children([base])[1][0] or []
        hosts = client.multi_children([f"{base}/{app}" for app in apps])[1]
        ids = client.multi_read([f"{base}/{app}/{host}" for app, names in zip(apps, hosts, strict=True) for host in names or ()])[1]
        return max((int(node.data) for node in ids if node is not None and node.data.isdigit()), default=0)

    def _path(self, role: Role, app: str) -> str:
        self._usable()
        if role not in _ROLES:
            raise ValueError("role is producer or consumer")
        return f"{self._root}/registry/{role}/{_name(app)}"

    def _usable(self) -> None:
        if self._closed or self._keeper.closed:
            raise RegistryClosedError("the registry is closed")


class _Following(Tree):
    """What a listener knows of the applications."""

    def __init__(self, keeper: keepers.Keeper, root: str, listener: Callable[[Application], object]) -> None:
        super().__init__(keeper, *(f"{root}/registry/{role}" for role in _ROLES))
        self._root = root
        self.teller: Teller[tuple[Role, str], Application] = Teller(listener, "applications")

    def read(self, client: ZooKeeper) -> None:
        found = _read(client, self._root)
        for role, name in self.teller.state().keys() - found.keys():
            found[role, name] = Application(name, role, ())
        changed = [key for key, one in found.items() if self.teller.put(key, one)]
        if not self.teller.first.done():
            self.teller.first.set_result(None)
        if changed:
            self.keeper.later(self.teller.deliver)

    def forked(self) -> None:
        super().forked()
        self.teller.begin_anew()

    def leave(self, client: ZooKeeper) -> None:
        self.teller.closed = True
        super().leave(client)


def _read(client: ZooKeeper, root: str) -> dict[tuple[Role, str], Application]:
    roots = [f"{root}/registry/{role}" for role in _ROLES]
    listed = client.multi_children(roots)[1]
    keys = [(role, name) for role, names in zip(_ROLES, listed, strict=True) for name in sorted(names or ())]
    found = [f"{root}/registry/{role}/{name}" for role, name in keys]
    hosts, nodes = client.multi_children(found)[1], client.multi_read(found)[1]
    return {
        (role, name): _application(role, name, there or [], node)
        for (role, name), there, node in zip(keys, hosts, nodes, strict=True)
        if node is not None
    }


def _application(role: Role, name: str, hosts: list[str], node: NodeData) -> Application:
    settings: Any = {}
    with contextlib.suppress(ValueError):
        settings = json.loads(node.data or b"{}")
    if not isinstance(settings, dict):
        settings = {}
    group = settings.get("producerGroup" if role == "producer" else "consumerGroup")
    return Application(name, role, tuple(sorted(hosts)), str(group or ""), str(settings.get("namesrvAddr") or ""))


def _number(node: NodeData) -> int:
    """Read a counter of Curator, four or eight bytes; an empty one stands at 0."""
    if len(node.data) not in (0, 4, 8):
        raise RegistryError(f"the counter of worker ids holds {node.data[:40]!r}, not four or eight bytes")
    return int.from_bytes(node.data, "big", signed=True)


def _name(app: str) -> str:
    if not app or "/" in app or app in {".", ".."}:
        raise ValueError("an application has a name without a slash")
    return app
