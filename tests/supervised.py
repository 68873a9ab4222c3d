"""A supervisor in a process of its own, as the tests of `make run` need it: started, listened to, looked for in /proc."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mqadmin.supervisor import guard
from mqadmin.supervisor.home import CHECKOUT, Home, port_is_free
from mqadmin.supervisor.services import DATA_ELSEWHERE

OWN_SERVICES = ("DATABASE_URL", "ZOOKEEPER_HOSTS", "CELERY_BROKER_URL")


def environment(home: Path, port: int | None = None, **further: str) -> dict[str, str]:
    """What a person's shell would hand over: none of the variables that this test run was given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MQADMIN_", "PYTEST_", "COV_")) and name not in OWN_SERVICES
    }
    kept["MQADMIN_HOME"] = str(home)
    if port:
        kept["MQADMIN_PORT"] = str(port)
    return kept | further


def free_port() -> int:
    return next(port for port in range(18000 + os.getpid() % 1000, 19999) if port_is_free(port))


def processes_of(home: Path) -> dict[int, str]:
    """Every live process that belongs to this home: by environment, command line or, for Postgres, by title."""
    needle, title = os.fsencode(home), f"postgres: mqadmin-{Home(home).tag}"
    titles = [title, *(f"postgres: mqadmin-{Home(home / sub).tag}" for sub in ("services", "test"))]
    found = {}
    for pid, (_session, _started, state) in guard.processes().items():
        if state in "ZX" or pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = guard.title(pid)
            # Redis overwrites both with its title: there the working directory tells.
            about = b"\0".join(
                [*(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline")), bytes(Path(f"/proc/{pid}/cwd").readlink())]
            )
            if needle in about or command.startswith(tuple(titles)):
                found[pid] = command
    return found


def wait_for(condition, seconds: float, what: str = "the condition"):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def forget(home: Path) -> None:
    """Remove the Postgres data that a home keeps elsewhere because Postgres' user cannot enter pytest's directories."""
    for one in (home, home / "services", home / "test"):
        shutil.rmtree(DATA_ELSEWHERE / Home(one).tag, ignore_errors=True)


class Supervisor:
    """One started supervisor; what it says is collected."""

    def __init__(self, *arguments: str, env: dict[str, str], cwd: Path = CHECKOUT) -> None:
        self.lines: list[str] = []
        self.home = Path(env["MQADMIN_HOME"])
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mqadmin.supervisor", *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if match := re.search(pattern, self.said):
                return match
            if self.process.poll() is not None:
                self._reader.join(2)
                if match := re.search(pattern, self.said):
                    return match
                break
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} was not said within {seconds} s; it said:\n{self.said}")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15) -> float:
        """Send the signal and return how many seconds the end took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(seconds)
        self._reader.join(2)
        return time.monotonic() - began

    def end(self, *, keep: bool = False) -> None:
        """Whatever happened in the test: nothing stays behind, but for the data if it is to be kept for another start."""
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        if not keep:
            forget(self.home)
