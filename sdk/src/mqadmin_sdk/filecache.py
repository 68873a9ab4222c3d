"""A file that remembers what was read from ZooKeeper, for a start without it; the processes of an application share it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

_FORMAT = 1


def default_directory() -> Path | None:
    """Where MQADMIN_CACHE_DIR says, or `mqadmin` in the user's directory for caches; None: nowhere, MQADMIN_CACHE_DIR is set and empty."""
    named = os.environ.get("MQADMIN_CACHE_DIR")
    if named is not None:
        return Path(named) if named else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mqadmin"
    except RuntimeError:  # a user without a home
        return None


class FileCache:
    """Values by name, as JSON has them, in one file for an application and an ensemble.

    `put` remembers, `flush` writes: what other processes have written stays, but for the same names. A file is replaced as a whole, so that
    nobody reads half of one; it can be read by its owner only. Whatever goes wrong with files is logged once and otherwise ignored: then
    nothing is remembered. Values must hold no secrets. Use it from any thread.
    """

    def __init__(self, directory: Path, *, app: str, ensemble: str, kind: str = "metadata") -> None:
        hosts, slash, chroot = ensemble.partition("/")
        self._whose = {"format": _FORMAT, "app": app, "ensemble": ",".join(sorted(hosts.split(","))) + slash + chroot, "kind": kind}
        digest = hashlib.sha256(json.dumps(self._whose, sort_keys=True).encode()).hexdigest()[:16]
        self.path = directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', app)[:64]}-{kind}-{digest}.json"
        self._lock = threading.Lock()
        self._changed: dict[str, Any] = {}  # not yet written; None: to be removed
        self._put: dict[str, int] = {}  # hashes of what this process has put
        self._complained = ""

    def renew(self) -> None:
        """Begin anew in a forked child, whose parent may have held the lock."""
        self._lock, self._changed, self._put = threading.Lock(), {}, {}

    def read(self) -> dict[str, Any]:
        """Return what was remembered, also by earlier processes; empty if there is nothing, or nothing that can be trusted."""
        with self._lock:
            found = self._load()
            self._apply(found)
            return found

    def put(self, values: Mapping[str, Any]) -> None:
        """Remember these values; None forgets. What this process has put already is no news."""
        with self._lock:
            for name, value in values.items():
                digest = hash(json.dumps(value, sort_keys=True))
                if self._put.get(name) != digest:
                    self._put[name], self._changed[name] = digest, value

    @property
    def dirty(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._changed)

    def flush(self, *, wait: float = 0.0) -> bool:
        """Write what was put; False if another process was writing for `wait` seconds, so that it has to be tried again."""
        with self._lock:
            if not self._changed:
                return True
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._alone(wait) as alone:
                    if not alone:
                        return False
                    before = self._load()
                    after = dict(before)
                    self._apply(after)
                    if after != before:
                        self._write(after)
            except OSError as error:
                self._complain(f"cannot be written: {error.strerror or error}")
                for name in self._changed:
                    self._put.pop(name, None)  # when it is put again, it is tried again
            self._changed.clear()
            return True

    def _apply(self, values: dict[str, Any]) -> None:
        for name, value in self._changed.items():
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value

    def _load(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():
                    self._complain("belongs to somebody else")
                    return {}
                document: Any = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._complain(f"cannot be read: {error}")
            return {}
        if not isinstance(document, dict) or not isinstance(values := document.pop("values", None), dict) or document != self._whose:
            self._complain("is not what this version writes")
            return {}
        return values

    def _write(self, values: dict[str, Any]) -> None:
        # Renamed without fsync: what a power cut spoils is no JSON, and then there is no cache. mkstemp makes it readable to us alone.
        prefix = f".{self.path.name}."
        for left in self.path.parent.glob(f"{prefix}*"):  # by one that was killed: nobody else writes now
            left.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=prefix)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump({**self._whose, "values": values}, file, separators=(",", ":"))
            Path(name).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    @contextlib.contextmanager
    def _alone(self, wait: float) -> Iterator[bool]:
        until = time.monotonic() + wait
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        yield False
                        return
                    time.sleep(0.02)
            try:
                yield True
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # said, not left to close: a child forked meanwhile has the descriptor, too
        finally:
            os.close(descriptor)

    def _complain(self, what: str) -> None:
        if what != self._complained:
            self._complained = what
            log.warning("The cache %s %s", self.path, what)
