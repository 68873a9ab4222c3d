"""Nodes that have to stand: made again whatever takes them away, and taken back with a goodbye."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError, NotEmptyError, RolledBackError, RuntimeInconsistency

from mqadmin_sdk.registry.contract import RegistryError
from mqadmin_sdk.registry.keeper import DISCONNECTED, Part
from mqadmin_sdk.version import SDK

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)

#: How often it is looked whether the nodes stand, as a part of the session time-out; it has to be less than half.
RENEWAL: Final = 1 / 3
_RACED: Final = (NoNodeError, NodeExistsError, BadVersionError, RolledBackError, RuntimeInconsistency)
_LONGEST_PAUSE: Final = 30.0  # seconds between attempts at a node that the server refuses


class Leaf:
    """One node. `standing` is done when it stands for the first time, or fails when it was refused then."""

    def __init__(self, path: str, data: bytes, *, ephemeral: bool, asked: object) -> None:
        self.path, self.data, self.ephemeral, self.asked = path, data, ephemeral, asked
        self.standing: Future[None] = Future()
        self.session = 0  # in which it was made, or found
        self.failures = 0
        self.again_at = 0.0
        self.watcher: Callable[[object], None] | None = None


class Leaves(Part):
    """The nodes of one user of a keeper."""

    def __init__(self, enqueue: Callable[[Callable[[], object]], object]) -> None:
        self._enqueue = enqueue
        self._leaves: dict[str, Leaf] = {}
        self._dirty: dict[str, Leaf] = {}
        self._withdrawn: dict[str, tuple[bool, Future[None]]] = {}  # path: whether it was ephemeral, and who waits
        self._renew_at: float | None = None

    def add(self, path: str, data: bytes, *, ephemeral: bool, asked: object = None) -> Leaf:
        """Keep a node standing; the same again for one that is kept already. `asked` is who asked first, for `give_up`."""
        leaf = self._leaves.get(path)
        if leaf is None:
            leaf = self._leaves[path] = self._dirty[path] = Leaf(path, data, ephemeral=ephemeral, asked=asked)
            if path in self._withdrawn:
                self._withdrawn.pop(path)[1].set_result(None)
        return leaf

    def drop(self, path: str, *, ephemeral: bool = True) -> Future[None]:
        """Take a node back, now or when there is a connection, also one that was never kept here; done when it is gone."""
        leaf = self._leaves.pop(path, None)
        self._dirty.pop(path, None)
        gone: Future[None] = self._withdrawn[path][1] if path in self._withdrawn else Future()
        self._withdrawn[path] = (leaf.ephemeral if leaf is not None else ephemeral, gone)
        if leaf is not None and not leaf.standing.done():
            leaf.standing.set_exception(RegistryError(f"{path} was taken back before it was made"))
        return gone

    def give_up(self, path: str, asked: object) -> None:
        """Take a node back if it was kept because of this call, which failed: even if it stands by now."""
        leaf = self._leaves.get(path)
        if leaf is not None and leaf.asked is asked:
            self.drop(path)

    def __len__(self) -> int:
        return len(self._leaves)

    # --- Part -------------------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Look at all of them: the session may be a new one."""
        for leaf in self._leaves.values():
            leaf.again_at = 0.0
        self._dirty.update(self._leaves)

    def forked(self) -> None:
        """What stands belongs to the parent's session, and is the parent's to offer."""
        self._leaves, self._dirty, self._withdrawn = {}, {}, {}

    def due(self) -> float | None:
        """The next renewal, or an attempt at what was refused."""
        times = [leaf.again_at for leaf in self._dirty.values()]
        if self._withdrawn:
            times.append(0.0)
        if self._leaves and self._renew_at is not None:
            times.append(self._renew_at)
        return min(times) if times else None

    def catch_up(self, client: ZooKeeper) -> None:
        """Take back what was withdrawn, make what is missing."""
        self._take_back(client)
        now = time.monotonic()
        if self._renew_at is None or self._renew_at <= now:
            if self._renew_at is not None and self._leaves:
                self._renew(client)
            self._renew_at = now + client.session_timeout * RENEWAL
        self._make(client, [leaf for leaf in self._dirty.values() if leaf.again_at <= now])

    def leave(self, client: ZooKeeper) -> None:
        """Take back what would not outlive the session."""
        for leaf in list(self._leaves.values()):
            if leaf.ephemeral:
                self.drop(leaf.path)
        self._leaves, self._dirty = {}, {}
        self._take_back(client)

    # --- nodes ------------------------------------------------------------------------------------------------------------

    def _take_back(self, client: ZooKeeper) -> None:
        while self._withdrawn:
            path, (ephemeral, gone) = next(iter(self._withdrawn.items()))
            try:
                withdraw(client, path, ephemeral=ephemeral)
            except DISCONNECTED:
                raise
            except Exception as error:  # noqa: BLE001 - the server refuses it, and would again
                log.warning("%s cannot be taken back: %s: %s", path, type(error).__name__, error)
            self._withdrawn.pop(path, None)
            gone.set_result(None)

    def _renew(self, client: ZooKeeper) -> None:
        leaves = list(self._leaves.values())
        for leaf, node in zip(leaves, client.multi_read([leaf.path for leaf in leaves])[1], strict=True):
            if node is None or leaf.session != client.session:
                self._dirty[leaf.path] = leaf

    def _make(self, client: ZooKeeper, leaves: list[Leaf]) -> None:
        # All requests are on their way before the first answer is waited for: after a new session a thousand are back within a second.
        session = client.session
        created = [client.create_async(leaf.path, leaf.data, ephemeral=leaf.ephemeral) for leaf in leaves]
        watched = [client.exists_async(leaf.path, watch=self._watcher(leaf)) for leaf in leaves]
        for leaf, made, seen in zip(leaves, created, watched, strict=True):
            try:
                try:
                    made.get()
                except NoNodeError:
                    client.ensure_path(leaf.path.rpartition("/")[0])
                    self._settle(client, leaf)
                except NodeExistsError:
                    self._settle(client, leaf)
                seen.get()
            except DISCONNECTED:
                raise
            except Exception as error:  # noqa: BLE001 - the server refuses it: rights, a quota, a parent that is ephemeral
                self._refused(leaf, error)
            else:
                leaf.session, leaf.failures = session, 0
                self._dirty.pop(leaf.path, None)
                if not leaf.standing.done():
                    leaf.standing.set_result(None)

    def _settle(self, client: ZooKeeper, leaf: Leaf) -> None:
        """Make a node where there may be one already."""
        while True:
            stat = client.exists(leaf.path, watch=self._watcher(leaf))
            transaction = client.transaction()
            if stat is not None:
                if stat.ephemeralOwner == (client.session if leaf.ephemeral else 0):
                    return
                if stat.ephemeralOwner == 0:
                    if leaf.session != client.session:
                        log.warning("%s is there and persistent: it is kept, and stays when this process goes", leaf.path)
                    return
                if leaf.session == client.session:
                    return  # another process has taken it over since: the last one has it, and two must not fight
                # Of a session that is about to end, or of another process with the same URL: left alone it would vanish with that.
                transaction.delete(leaf.path, version=stat.version)
            transaction.create(leaf.path, leaf.data, ephemeral=leaf.ephemeral)
            if commit(transaction):
                client.exists(leaf.path, watch=self._watcher(leaf))
                return
            if stat is None:
                client.ensure_path(leaf.path.rpartition("/")[0])

    def _refused(self, leaf: Leaf, error: Exception) -> None:
        leaf.failures += 1
        leaf.again_at = time.monotonic() + min(_LONGEST_PAUSE, 0.5 * 2 ** min(leaf.failures, 10))
        log.warning("%s cannot be made: %s: %s", leaf.path, type(error).__name__, error)
        if not leaf.standing.done():
            leaf.standing.set_exception(RegistryError(f"{leaf.path} cannot be made: {type(error).__name__}: {error}"))

    def _watcher(self, leaf: Leaf) -> Callable[[object], None]:
        # One function a leaf: kazoo keeps watchers in a set, and asking twice must not set two.
        if leaf.watcher is None:

            def look() -> None:
                if self._leaves.get(leaf.path) is leaf:
                    self._dirty[leaf.path] = leaf

            def hear(_event: object) -> None:
                self._enqueue(look)

            leaf.watcher = hear
        return leaf.watcher


def withdraw(client: ZooKeeper, path: str, *, ephemeral: bool) -> None:
    """Delete a node if it is there and ours to delete; an ephemeral one says goodbye in the same transaction."""
    while True:
        stat = client.exists(path)
        if stat is None or stat.ephemeralOwner != (client.session if ephemeral else 0):
            return
        if not ephemeral:
            with contextlib.suppress(NoNodeError, NotEmptyError):
                client.delete(path)
            return
        transaction = client.transaction()
        transaction.set_data(path, json.dumps({"leaving": now()}, separators=(",", ":")).encode(), version=stat.version)
        transaction.delete(path, version=stat.version + 1)
        if commit(transaction):
            return


def commit(transaction: Any) -> bool:
    """Commit a kazoo transaction: False if what stands is not what it was made for. Raises what the server refuses for another reason."""
    failed = [result for result in transaction.commit() if isinstance(result, Exception)]
    for error in failed:
        if not isinstance(error, _RACED):
            raise error
    return not failed


def introduction(host: str, app: str = "") -> bytes:
    """Return the data of a node that says who registered, and when; `app` where neither the node's name nor its place says it."""
    said = {"sdk": SDK, "host": host, "pid": os.getpid(), "registeredAt": now()}
    if app:
        said["app"] = app
    return json.dumps(said, separators=(",", ":")).encode()


def now() -> str:
    """Return the time as it stands in nodes."""
    moment = datetime.now(timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
