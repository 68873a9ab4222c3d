"""The guard: a small process that ends what a killed supervisor left behind, then gives the home free.

Run as a script with the supervisor's pipe as standard input. The supervisor tells it each session that it starts
(`+<session> <start time>`), each that ended (`-<session>`), the title of its Postgres (`postgres <title>`), and `quit`
at an orderly end. When the pipe closes without `quit`, the supervisor is dead, by `kill -9` too: everything in those
sessions is killed. Postgres is asked for an immediate shutdown first; its backends have sessions of their own and are
known by their title, which carries the home's tag. PR_SET_PDEATHSIG hits the leaders already; the guard is for their
children (web and pool workers), which it does not reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

POSTGRES_PATIENCE = 4.0  # seconds that an immediate shutdown of Postgres may take
PATIENCE = 12.0


def processes() -> dict[int, tuple[int, int, str]]:
    """Return {pid: (session, start time in ticks, state)} of all processes."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  no pathlib: the guard stays small
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as source:  # noqa: PTH123
                    fields = source.read().rpartition(b")")[2].split()
                found[int(name)] = (int(fields[3]), int(fields[19]), fields[0].decode())
    return found


def title(pid: int) -> str:
    """Return the command line of a process, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as source:  # noqa: PTH123
            return source.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def remaining(sessions: dict[int, int], postgres: str) -> list[int]:
    """Return the live processes of these sessions and of this Postgres."""
    found = []
    for pid, (session, started, state) in processes().items():
        if pid == os.getpid() or state in "ZX":
            continue
        mine = session in sessions and started >= sessions[session]
        if mine or (postgres and title(pid).startswith(f"postgres: {postgres}: ")):
            found.append(pid)
    return found


def sweep(sessions: dict[int, int], postgres: str, postmaster: int) -> None:
    """Kill them all, Postgres last and softly first."""
    started = time.monotonic()
    if postmaster in sessions:
        with contextlib.suppress(OSError):
            os.kill(postmaster, signal.SIGQUIT)
    while time.monotonic() - started < PATIENCE:
        left = remaining(sessions, postgres)
        if not left:
            return
        patient = time.monotonic() - started < POSTGRES_PATIENCE
        for pid in left:
            if patient and (pid == postmaster or title(pid).startswith("postgres: ")):
                continue
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def main() -> None:
    """Read until the supervisor says quit or is dead."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    sessions: dict[int, int] = {}
    postgres, postmaster = "", 0
    for line in sys.stdin:
        words = line.split()
        if words[0] == "quit":
            return
        if words[0] == "postgres":
            postgres, postmaster = words[1], int(words[2])
        elif words[0].startswith("+"):
            sessions[int(words[0][1:])] = int(words[1])
        else:
            sessions.pop(int(words[0][1:]), None)
    sweep(sessions, postgres, postmaster)


if __name__ == "__main__":
    main()
