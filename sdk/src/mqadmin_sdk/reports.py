"""The ephemeral node of an instance: who runs here, and which generation it has applied."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from mqadmin_sdk.version import SDK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mqadmin_sdk.zk import Client


class Report:
    """One instance node. It is used from one thread; `path` stays the same over sessions, its owner changes."""

    def __init__(self, path: str, *, app: str, make_parents: bool = False, labels: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._make_parents = make_parents
        self._said: dict[str, Any] = {
            "sdk": SDK,
            "app": app,
            "pid": os.getpid(),
            "generation": 0,
            "appliedAt": None,
            "state": "starting",
            "cluster": None,
            "error": None,
        }
        if labels:
            self._said["labels"] = dict(labels)
        self._sent: bytes | None = None
        self._session = 0

    def applied(self, *, generation: int | None, cluster: str | None, state: str) -> None:
        """Say that a change was applied now."""
        self._said.update(generation=generation or 0, cluster=cluster, state=state, error=None, appliedAt=_now())

    def failed(self, error: BaseException) -> None:
        """Say that a change could not be applied; the generation stays the one that runs."""
        self._said.update(state="failed", error=f"{type(error).__name__}: {error}"[:1000])

    def publish(self, client: Client) -> int | None:
        """Make the node say it, owned by this session. Returns the server's clock in ms if the node was created, or None.

        A node of an older session is taken over: left alone it would vanish with that session. Raises kazoo's exceptions; call again then.
        """
        data = json.dumps(self._said, separators=(",", ":")).encode()
        if self._session == client.session:
            if data == self._sent:
                return None
            try:
                client.set(self.path, data)
            except NoNodeError:
                pass  # taken away by hand: create it again
            else:
                self._sent = data
                return None
        created = self._create(client, data)
        self._session, self._sent = client.session, data
        return created

    def stands(self, client: Client) -> bool:
        """Whether the node was made in this session."""
        return self._session == client.session

    def lost(self) -> None:
        """Note that the node is gone together with its parent."""
        self._session, self._sent = 0, None

    def withdraw(self, client: Client) -> None:
        """Remove the node."""
        self._session, self._sent = 0, None
        with contextlib.suppress(NoNodeError):
            client.delete(self.path)

    def _create(self, client: Client, data: bytes) -> int | None:
        while True:
            try:
                _path, stat = client.create(self.path, data, ephemeral=True, makepath=self._make_parents, include_data=True)
            except NodeExistsError:
                stat = client.exists(self.path)
                if stat is None:
                    continue
                if stat.ephemeralOwner == client.session:
                    client.set(self.path, data)
                    return None
                with contextlib.suppress(NoNodeError, BadVersionError):
                    client.delete(self.path, version=stat.version)
            else:
                return int(stat.ctime)


def _now() -> str:
    now = datetime.now(timezone.utc)  # noqa: UP017 - Python 3.10
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
