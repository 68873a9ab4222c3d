"""The ephemeral node of an instance: who runs here, and which generation it has applied."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from mqadmin_sdk.version import SDK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mqadmin_sdk.zk import Client


class Report:
    """One instance node; `path` stays the same over sessions, its owner changes. What it says may be changed from any thread."""

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
        self._lock = threading.Lock()
        self._sent: bytes | None = None
        self._session = 0

    def applied(self, *, generation: int | None, cluster: str | None, state: str) -> None:
        """Say that a change was applied now."""
        self.say(generation=generation or 0, cluster=cluster, state=state, error=None, appliedAt=_now())

    def reached(self, *, generation: int | None) -> None:
        """Say that a change was applied now, and of the state nothing new."""
        self.say(generation=generation or 0, appliedAt=_now())

    def failed(self, error: BaseException) -> None:
        """Say that a change could not be applied; the generation stays the one that runs."""
        self.say(state="failed", error=f"{type(error).__name__}: {error}"[:1000])

    def say(self, **what: Any) -> bool:
        """Change what the node will say when it is published next; False if it says that already."""
        with self._lock:
            said = {**self._said, **what}
            changed, self._said = said != self._said, said
            return changed

    def publish(self, client: Client) -> int | None:
        """Make the node say it, owned by this session. Returns the server's clock in ms if the node was created, or None.

        A node of an older session is taken over: left alone it would vanish with that session. Raises kazoo's exceptions; call again then.
        """
        return self.publish_later(client)()

    def publish_later(self, client: Client) -> Callable[[], int | None]:
        """Ask the server, and return what waits for its answer as `publish` does: many can be on their way at once."""
        data = json.dumps(self._said, separators=(",", ":")).encode()
        session = client.session
        ours = self._session == session
        if ours and data == self._sent:
            return lambda: None
        result = client.set_async(self.path, data) if ours else self._create_later(client, data)

        def answer() -> int | None:
            created = None
            try:
                stat = result.get()
                if not ours:
                    created = int(stat[1].ctime)
            except NoNodeError:
                if not ours:
                    raise
                created = self._create(client, data)  # taken away by hand
            except NodeExistsError:
                created = self._create(client, data)
            self._session, self._sent = session, data
            return created

        return answer

    def stands(self, client: Client) -> bool:
        """Whether the node was made in this session."""
        return self._session == client.session

    def lost(self) -> None:
        """Note that the node is gone together with its parent."""
        self._session, self._sent = 0, None

    def withdraw_later(self, client: Client) -> Callable[[], None]:
        """Ask the server to remove the node, and return what waits for it."""
        result = client.delete_async(self.path)

        def answer() -> None:
            with contextlib.suppress(NoNodeError):
                result.get()
            self._session, self._sent = 0, None

        return answer

    def _create_later(self, client: Client, data: bytes) -> Any:
        return client.create_async(self.path, data, ephemeral=True, makepath=self._make_parents, include_data=True)

    def _create(self, client: Client, data: bytes) -> int | None:
        while True:
            try:
                stat = self._create_later(client, data).get()[1]
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
    now = datetime.now(timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
