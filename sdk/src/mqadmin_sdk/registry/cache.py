"""The last lists that listeners were told, in a file: for a start while the registry cannot be reached."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Lists = dict[str, dict[str, list[str]]]


class FileCache:
    """A JSON file: service key → service → category → URLs. Processes may share it: each replaces only the keys that it knows.

    It is written beside itself and moved into place, under a lock (`<file>.lock`), readable by its owner only.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def read(self, key: str) -> Lists:
        """Return the lists kept under a service key; empty if there is no file, or none that can be read."""
        lists = self._load().get(key)
        if not isinstance(lists, dict):
            return {}
        return {
            str(service): {str(category): [str(url) for url in urls] for category, urls in categories.items() if isinstance(urls, list)}
            for service, categories in lists.items()
            if isinstance(categories, dict)
        }

    def write(self, lists: dict[str, Lists]) -> None:
        """Keep these lists, and those of other keys that are there. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            content = json.dumps({**self._load(), **lists}, ensure_ascii=False, indent=1, sort_keys=True)
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
