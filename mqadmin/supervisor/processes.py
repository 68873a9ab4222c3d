"""Child processes: each a session of its own, dead when the supervisor is, known again by start time and session."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mqadmin.supervisor import guard
from mqadmin.supervisor.home import CannotContinueError, Home, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_PATIENCE = 15.0  # seconds that the previous run's remains may take to vanish

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Account:
    """The system user that a child runs as when we are root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Program:
    """One process to keep running."""

    name: str
    argv: Sequence[str]
    cwd: Path
    env: dict[str, str]
    account: Account | None = None
    log: Path | None = None  # a service's file; None = the log stream
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL  # what the kernel sends it when the supervisor dies
    ready: Callable[[], bool] | None = None
    before_start: Callable[[], None] | None = None
    title: str = ""  # how processes of it that leave its session name themselves (Postgres)


def become_reaper() -> None:
    """Have orphaned grandchildren handed to us, so that nothing stays a zombie, as process 1 or not."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel signal this process when its parent dies."""
    _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def spawn(program: Program, *, stdout: int, inherit_stdin: bool = False) -> subprocess.Popen[bytes]:
    """Start it in a session of its own; called from the main thread only: the kernel ties the death signal to the thread.

    Popen changes user first and calls `tie` after: a change of user would clear the death signal again.
    """
    supervisor = os.getpid()

    def tie() -> None:
        die_with_parent(program.death_signal)
        if os.getppid() != supervisor:
            os._exit(1)

    account = program.account
    process = subprocess.Popen(  # noqa: S603
        list(program.argv),
        cwd=program.cwd,
        env=program.env,
        stdin=None if inherit_stdin else subprocess.DEVNULL,
        stdout=stdout,
        stderr=stdout,
        start_new_session=True,
        preexec_fn=tie,  # noqa: PLW1509  one thread only
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    watch(process)
    return process


def start_time(pid: int) -> int | None:
    """Return the process' start in clock ticks since boot, None when there is none: with the pid it names a process for good."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def kill_session(session: int, started: int, *, title: str = "", number: signal.Signals = signal.SIGKILL, but: int = 0) -> int:
    """Signal what still runs in a session (or carries the title); return how many that were."""
    left = [pid for pid in guard.remaining({session: started}, title) if pid != but]
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return len(left)


def kill_session_fully(session: int, started: int, *, title: str = "", patience: float = 3.0) -> None:
    """Kill what still runs in a session and wait until it is gone, for `patience` seconds at most."""
    until = time.monotonic() + patience
    while kill_session(session, started, title=title) and time.monotonic() < until:
        reap_orphans()
        time.sleep(0.02)


_statuses: dict[int, int | None] = {}


def watch(process: subprocess.Popen[bytes]) -> None:
    """Keep the exit status of this child for `collected` when `reap_orphans` comes across it."""
    _statuses[process.pid] = None


def reap_orphans() -> None:
    """Collect every child that ended; the status of those that are watched is kept."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in _statuses:
            _statuses[pid] = os.waitstatus_to_exitcode(status)


def collected(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status of a watched child, None while it runs."""
    reap_orphans()
    if process.returncode is None and _statuses.get(process.pid) is not None:
        process.returncode = _statuses.pop(process.pid)
    return process.returncode


class Guard:
    """The supervisor's end of guard.py: what is registered here does not outlive us."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, tuple[str, int]] = {}
        self._postgres = ""

    def start(self, say: Callable[[str], None]) -> None:
        """Wait until the guard of a killed predecessor is through, then start ours."""
        lock = os.open(self._home.path / "guard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + LEFTOVER_PATIENCE
        said = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise CannotContinueError(
                        f"The guard of a killed mqadmin still works on {self._home.path}. Try again in some seconds."
                    ) from None
                if not said:
                    say("  waiting until the remains of the previous run are gone …")
                    said = True
                time.sleep(0.05)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=[lock],
        )
        watch(self._process)
        os.close(lock)
        for session, (_name, started) in self._known.items():
            self._tell(f"+{session} {started}")
        if self._postgres:
            self._tell(self._postgres)

    def check(self, say: Callable[[str], None]) -> None:
        """Start the guard again if somebody killed it."""
        if self._process is not None and collected(self._process) is not None:
            self.start(say)

    def add(self, program: Program, process: subprocess.Popen[bytes]) -> int:
        """Register a child; return its start time."""
        started = start_time(process.pid) or 0
        self._known[process.pid] = (program.name, started)
        self._tell(f"+{process.pid} {started}")
        if program.title:
            self._postgres = f"postgres {program.title} {process.pid}"
            self._tell(self._postgres)
        self._write()
        return started

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a child that is gone with all its session."""
        self._known.pop(process.pid, None)
        self._tell(f"-{process.pid}")
        self._write()

    def quit(self) -> None:
        """Send the guard home: everything was ended in order."""
        self._tell("quit")
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            until = time.monotonic() + 1
            while collected(self._process) is None and time.monotonic() < until:
                time.sleep(0.01)
            self._process = None

    def _tell(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(text.encode() + b"\n")
                self._process.stdin.flush()

    def _write(self) -> None:
        rows = [{"name": name, "pid": pid, "start_time": started} for pid, (name, started) in self._known.items()]
        write_private(self._home.children_file, json.dumps(rows, indent=2) + "\n")


def end_leftovers(home: Home, title: str, say: Callable[[str], None]) -> None:
    """End what a run left behind whose supervisor and guard were both killed; only processes that are provably ours."""
    try:
        rows = json.loads(home.children_file.read_text())
    except (OSError, ValueError):
        return
    for row in rows:
        pid, started = int(row["pid"]), int(row["start_time"])
        if not guard.remaining({pid: started}, title if row["name"] == "postgres" else ""):
            continue
        say(f"  ending {row['name']} of the previous run (process {pid})")
        if row["name"] == "postgres" and start_time(pid) == started:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGQUIT)
            until = time.monotonic() + guard.POSTGRES_PATIENCE
            while guard.remaining({pid: started}, title) and time.monotonic() < until:
                time.sleep(0.05)
        kill_session_fully(pid, started, title=title if row["name"] == "postgres" else "")
    with contextlib.suppress(FileNotFoundError):
        home.children_file.unlink()
