"""What a person sees: steps with progress while something is prepared, then one log stream with each process named."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from mqadmin.supervisor.home import CannotContinueError
from mqadmin.supervisor.processes import collected, die_with_parent, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAME_WIDTH = 12
COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95")
QUIET_SECONDS = 10  # without a terminal: how often a long step says that it is still at it
PIPE_CHUNK = 4096  # PIPE_BUF: after POLLOUT a write of this size does not block


class Output:
    """Writes to standard output; never blocks for long, whatever became of the reader."""

    def __init__(self) -> None:
        self.descriptor = sys.stdout.fileno()
        self.terminal = os.isatty(self.descriptor)
        self._colour = self.terminal and "NO_COLOR" not in os.environ
        self._palette: dict[str, str] = {}
        self._broken = self._stuck = False
        self._poll = select.poll()
        self._poll.register(self.descriptor, select.POLLOUT)
        self.patience = 1.0  # seconds that one write may wait for a slow reader

    def write(self, text: str) -> None:
        """Write as it is; what a reader that is gone or stuck does not take is dropped."""
        data = text.encode(errors="replace")
        while data and not self._broken:
            if not self._poll.poll(0 if self._stuck else self.patience * 1000):
                self._stuck = True  # from here on nothing is waited for until the reader is back
                return
            self._stuck = False
            try:
                data = data[os.write(self.descriptor, data[:PIPE_CHUNK]) :]
            except OSError:
                self._broken = True

    def say(self, text: str = "") -> None:
        """Write one line of the supervisor itself, before the log stream starts."""
        self.write(text + "\n")

    def line(self, name: str, text: str) -> None:
        """Write one line of the log stream."""
        label = f"{name:<{NAME_WIDTH}}│"
        if self._colour:
            colour = self._palette.setdefault(name, COLOURS[len(self._palette) % len(COLOURS)])
            label = f"\x1b[{colour}m{label}\x1b[0m"
        self.write(f"{label} {text}\n")

    def run(
        self,
        label: str,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: dict[str, str] | None = None,
        own_session: bool = True,
        finish: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a command that takes a while: its output goes to the log file, progress to the person.

        Raises CannotContinueError with the last lines of the log when it fails. `tick` is called several times a second. A command
        that must `finish` goes on when this process is killed.
        """
        started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            sink.write(f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} {label}\n".encode())
            sink.flush()
            begin = sink.tell()
            self.write(f"  {label} …" + ("" if self.terminal else "\n"))
            process = subprocess.Popen(  # noqa: S603
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=own_session,
                preexec_fn=None if finish else lambda: die_with_parent(signal.SIGKILL),  # noqa: PLW1509  one thread only
            )
            watch(process)
            try:
                self._watch(process, label, log, started, tick)
            except BaseException:
                self.write("\n")
                _end(process, own_session=own_session)
                raise
        seconds = time.monotonic() - started
        if self.terminal:
            self.write("\r\x1b[K")
        if process.returncode != 0:
            self.say(f"  {label}: failed after {seconds:.0f} s")
            with log.open("rb") as source:
                source.seek(begin)
                tail = source.read().decode(errors="replace").strip().splitlines()[-12:]
            shown = "\n".join("    " + line for line in tail)
            raise CannotContinueError(f"{label} failed (exit status {process.returncode}). The end of {log}:\n{shown}")
        self.say(f"  {label}: done in {seconds:.1f} s")

    def _watch(self, process: subprocess.Popen[bytes], label: str, log: Path, started: float, tick: Callable[[], None]) -> None:
        said = started
        while collected(process) is None:
            time.sleep(0.1)
            tick()
            now = time.monotonic()
            if self.terminal:
                width = os.get_terminal_size(self.descriptor).columns or 80
                text = f"  {label} … {now - started:.0f} s  {last_line(log)}"
                self.write("\r\x1b[K" + text[: max(width - 1, 20)])
            elif now - said >= QUIET_SECONDS:
                said = now
                self.say(f"  {label} … {now - started:.0f} s ({last_line(log)[:100]})")


def _end(process: subprocess.Popen[bytes], *, own_session: bool) -> None:
    """End an interrupted step; a package manager gets the time to finish the package in hand."""
    try:
        if own_session:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
    except (ProcessLookupError, PermissionError):
        return
    until = time.monotonic() + 8
    while collected(process) is None and time.monotonic() < until:
        time.sleep(0.05)


def last_line(path: Path) -> str:
    """Return the last line of a file that somebody else is writing, without control characters."""
    try:
        with path.open("rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 2000))
            lines = source.read().decode(errors="replace").replace("\r", "\n").strip().splitlines()
    except OSError:
        return ""
    return "".join(character for character in lines[-1] if character.isprintable()).strip() if lines else ""
