"""Persistent nodes with data that have to be there; and a tree that is read again when something in it changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kazoo.exceptions import NodeExistsError, NoNodeError

from mqadmin_sdk.registry.keeper import Keeper, Part
from mqadmin_sdk.registry.leaves import RENEWAL

if TYPE_CHECKING:
    from mqadmin_sdk.zk import Client as ZooKeeper
    from mqadmin_sdk.zk import TreeEvent, TreeWatch


class Nodes(Part):
    """Persistent nodes: set when they are added, and made again when they are missing. What others set them to later is left."""

    def __init__(self) -> None:
        self._wanted: dict[str, bytes] = {}
        self._new: dict[str, bytes] = {}
        self._look = True
        self._look_at: float | None = None

    def add(self, path: str, data: bytes) -> None:
        """Set a node now, or as soon as there is a connection."""
        self._wanted[path] = self._new[path] = data

    def drop(self, path: str) -> None:
        """Leave it as it is from now on."""
        self._wanted.pop(path, None)
        self._new.pop(path, None)

    def connected(self) -> None:
        """The server's data may have been wiped."""
        self._look = True

    def forked(self) -> None:
        """They are the parent's."""
        self._wanted, self._new = {}, {}

    def due(self) -> float | None:
        """When something is to be set, or looked at."""
        if self._new or (self._look and self._wanted):
            return 0.0
        return self._look_at if self._wanted else None

    def catch_up(self, client: ZooKeeper) -> None:
        """Set what is new, make what is missing."""
        for path, data in list(self._new.items()):
            put(client, path, data)
            if self._new.get(path) is data:
                del self._new[path]
        if self._wanted and (self._look or self._look_at is None or self._look_at <= time.monotonic()):
            wanted = list(self._wanted.items())
            for (path, data), node in zip(wanted, client.multi_read([path for path, _ in wanted])[1], strict=True):
                if node is None or (data and not node.data):
                    put(client, path, data)
            self._look = False
            self._look_at = time.monotonic() + client.session_timeout * RENEWAL


class Tree(Part):
    """A part that reads a tree whenever something in it may have changed. Derive from it, with `read`."""

    def __init__(self, keeper: Keeper, *roots: str) -> None:
        self.keeper, self.roots = keeper, roots
        self._watches: list[TreeWatch] = []
        self.dirty = True

    def read(self, client: ZooKeeper) -> None:
        """Read it; what a lost connection interrupts is begun again."""
        raise NotImplementedError

    def hears(self, _event: TreeEvent) -> bool:
        """Whether an event means that something changed; on kazoo's thread."""
        return True

    def touch(self) -> None:
        """Read it again."""
        self.dirty = True

    def connected(self) -> None:
        """Whatever was missed, read it."""
        self.dirty = True

    def forked(self) -> None:
        """Watch anew in the child."""
        self._watches, self.dirty = [], True

    def due(self) -> float | None:
        """At once if something changed."""
        return 0.0 if self.dirty else None

    def catch_up(self, client: ZooKeeper) -> None:
        """Watch, and then read."""
        if not self._watches:
            self._watches = [client.watch_tree(root, self._hear) for root in self.roots]
        if self.dirty:
            self.read(client)
            self.dirty = False

    def leave(self, _client: ZooKeeper) -> None:
        """Watch no more."""
        for watch in self._watches:
            watch.close()
        self._watches = []

    def _hear(self, event: TreeEvent) -> None:
        if event.kind != "interrupted" and self.hears(event):
            self.keeper.post(self.touch)


def put(client: ZooKeeper, path: str, data: bytes) -> None:
    """Have a persistent node with this data, whoever makes it; one that has it is not set."""
    while True:
        node = client.multi_read([path])[1][0]
        try:
            if node is None:
                client.create(path, data, makepath=True)
            elif node.data != data:
                client.set(path, data)
        except (NodeExistsError, NoNodeError):
            continue
        return
