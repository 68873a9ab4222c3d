"""The name of an instance of a broadcast group: its position is kept under it, so it has to be the same after a restart."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 1000  # instances that a broadcast group may have


class Names:
    """Hands out names of this host: the host's own to the first process of a group, then with -2, -3 and so on.

    A lock on a file of the user's says which are taken; it ends with the process. MQADMIN_INSTANCE is another base than the host's name,
    for containers whose host names change.
    """

    def __init__(self, app: str, environ: Mapping[str, str] = os.environ, directory: str | None = None) -> None:
        self.app = app
        self.base = environ.get("MQADMIN_INSTANCE") or socket.gethostname()
        self._directory = Path(directory or tempfile.gettempdir()) / f"mqadmin-sdk-{os.getuid() if hasattr(os, 'getuid') else 0}"
        self._held: dict[str, tuple[str, IO[str]]] = {}

    def of(self, group: str) -> str:
        """Return the name that this process has in the group; the same one for its whole life. Raises OSError."""
        if group not in self._held:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for number in range(1, _MOST + 1):
                name = self.base if number == 1 else f"{self.base}-{number}"
                file = (self._directory / (quote(f"{self.app}/{group}/{name}", safe="") + ".lock")).open("a")
                if _lock(file):
                    self._held[group] = name, file
                    break
                file.close()
            else:
                raise OSError(f"{_MOST} processes of this host consume group {group} already")
        return self._held[group][0]

    def release(self) -> None:
        """Hold no name any more; in a forked child the parent still holds them."""
        for _name, file in self._held.values():
            file.close()
        self._held.clear()


def _lock(file: IO[str]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
