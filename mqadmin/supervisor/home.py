"""The data directory of one instance: its ports, secrets, lock and the files that other tools read."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import secrets
import shlex
import socket
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
# Below Linux' ephemeral range (32768 and up): a remembered port must not be the source port of a stranger's connection.
PORT_RANGE = (20000, 32000)


class CannotContinueError(Exception):
    """The text says what is wrong and what to do; it is shown to a person as it stands."""


class Home:
    """One data directory; everything in it belongs to one supervisor at a time (`lock`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "log"
        self.credentials = path / "credentials.env"
        self.env_file = path / "env"
        self.secret_key = path / "secret_key"
        self.encryption_keys = path / "encryption_keys"
        self.children_file = path / "processes.json"
        self._state_file = path / "state.json"
        self._lock_file: int | None = None
        self._state: dict[str, Any] = {}

    @classmethod
    def from_environment(cls) -> Home:
        """Return the home that MQADMIN_HOME names, `.mqadmin` in the checkout by default."""
        given = os.environ.get("MQADMIN_HOME", "").strip()
        return cls(Path(os.path.abspath(Path(given).expanduser())) if given else CHECKOUT / ".mqadmin")  # noqa: PTH100  keeps symbolic links

    def sub(self, name: str) -> Home:
        """Return a home of its own inside this one (`make test` has one), with its own lock, ports and data."""
        return Home(self.path / name)

    @property
    def tag(self) -> str:
        """Twelve characters that stand for this directory in names of processes and of directories elsewhere."""
        return hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]

    def open(self) -> None:
        """Create what is missing and take the lock; raise CannotContinueError when another supervisor has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Passable, not readable: the Postgres user has to get to its directory, and every secret in here is 0600 by itself.
            self.path.chmod(0o711)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotContinueError(
                f"The data directory {self.path} cannot be used: {error.strerror}. Set MQADMIN_HOME to a directory that you may write to."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "?"
            os.close(handle)
            raise CannotContinueError(
                f"mqadmin already runs on {self.path} (process {holder}). Stop it first,\n"
                "or run a second copy beside it: MQADMIN_HOME=another/directory MQADMIN_PORT=8090 make run"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        self._lock_file = handle
        if self._state_file.exists():
            try:
                self._state = json.loads(self._state_file.read_text())
            except ValueError as error:
                raise CannotContinueError(
                    f"{self._state_file} is damaged ({error}). Restore it, or move {self.path} away to start afresh."
                ) from error

    def close(self) -> None:
        """Give the lock back and take away what describes a running instance."""
        with contextlib.suppress(FileNotFoundError):
            self.env_file.unlink()
        with contextlib.suppress(FileNotFoundError):
            self.children_file.unlink()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def remembered(self, key: str) -> Any:
        """Return what was stored under the key, None when nothing was."""
        return self._state.get(key)

    def remember(self, key: str, value: Any) -> None:
        """Store a JSON value under the key, durably, readable by the owner only."""
        self._state[key] = value
        write_private(self._state_file, json.dumps(self._state, indent=2, sort_keys=True) + "\n")

    def secret(self, key: str) -> str:
        """Return a random password that stays the same for this home."""
        value = self.remembered(key)
        if not value:
            value = secrets.token_urlsafe(24)
            self.remember(key, value)
        return str(value)

    def port(self, service: str) -> tuple[int, int | None]:
        """Return the service's port on 127.0.0.1, and the remembered one if that had to be given up because somebody else has it now."""
        ports: dict[str, int] = dict(self.remembered("ports") or {})
        old = ports.get(service)
        if old is not None and port_is_free(old):
            return old, None
        for _attempt in range(500):
            candidate = random.randrange(*PORT_RANGE)  # noqa: S311  a port, not a secret
            if candidate not in ports.values() and port_is_free(candidate):
                ports[service] = candidate
                self.remember("ports", ports)
                return candidate, old
        raise CannotContinueError(f"No free port on 127.0.0.1 between {PORT_RANGE[0]} and {PORT_RANGE[1]} for {service}.")

    def write_env(self, values: dict[str, str]) -> None:
        """Write the file that gives other tools the running instance's environment (`. "$MQADMIN_HOME/env"`)."""
        write_private(self.env_file, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))


def read_env(path: Path) -> dict[str, str]:
    """Return the NAME=value pairs of a shell-sourceable file (`export` allowed)."""
    values = {}
    for line in path.read_text().splitlines():
        words = shlex.split(line, comments=True)
        for word in words[1:] if words[:1] == ["export"] else words:
            name, separator, value = word.partition("=")
            if separator:
                values[name] = value
    return values


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step; only its owner can read it, at no moment anybody else."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def port_is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
