"""Keeps what was read before a retirement from being written after it.

A node's version says nothing about the node that stood there before: a registrar that was held up could create a retired topic again, in an
older generation, or set a new node whose version happens to be the old one's. So every retirement also sets the node's root, whose version
thereby counts retirements, and every write is made on the condition that nobody else has retired anything below the root since its row was
read. docs/znodes.md tells it to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kazoo.exceptions import NoNodeError

from registry.roots import PATHS, root_path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kazoo.client import TransactionRequest
    from kazoo.security import ACL

    from mqadmin_sdk.zk import Client


@dataclass(slots=True)
class _Known:
    data: bytes
    version: int  # of the root, as far as we know
    since: int  # from here up to the version all retirements were our own


class Guards:
    """The version of each root, as one registrar knows it. `forget` may be called by any thread."""

    def __init__(self, zookeeper: Client, acl: Callable[[str], list[ACL] | None]) -> None:
        self._zookeeper, self._acl = zookeeper, acl
        self._known: dict[str, _Known] = {}

    def forget(self) -> None:
        """Another connection, perhaps to a server whose data was wiped: versions may count from 0 again."""
        self._known = {}

    def learn(self) -> None:
        """Know all of them."""
        for root in PATHS:
            if root not in self._known:
                self.refresh(root)

    def refresh(self, root: str) -> None:
        """Read one anew: somebody else has retired something below it. What was read before is to be read again."""
        known = self._known
        try:
            data, stat = self._zookeeper.get(root)
        except NoNodeError:
            self._zookeeper.ensure_path(root, acl=self._acl(root))
            data, stat = self._zookeeper.get(root)
        known[root] = _Known(data, stat.version, stat.version)

    def versions(self) -> dict[str, int]:
        """Version by root; to be asked for before rows are read, and kept with them."""
        return {root: known.version for root, known in self._known.items()}

    def holds(self, path: str, versions: Mapping[str, int]) -> bool:
        """Whether nobody else is known to have retired anything in the path's tree since these versions stood."""
        root = root_path_of(path)
        if root is None:
            return True
        known = self._known.get(root)
        return known is not None and known.since <= versions.get(root, -1) <= known.version

    def add(self, transaction: TransactionRequest, retires: Mapping[str, bool]) -> list[str]:
        """Put the conditions in front of a transaction, for trees and whether it retires something there. Returns the roots, in order."""
        for root, gone in retires.items():
            known = self._known.get(root) or _Known(b"", -2, -2)  # forgotten this moment: no version is -2, so it comes to nothing
            if gone:
                transaction.set_data(root, known.data, known.version)
            else:
                transaction.check(root, known.version)
        return list(retires)

    def retired(self, root: str) -> None:
        """A retirement of our own is done."""
        if (known := self._known.get(root)) is not None:
            known.version += 1
