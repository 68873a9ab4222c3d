"""The loop: start the services, then the programs, keep them running, show what they say, stop them in order."""

from __future__ import annotations

import contextlib
import http.client
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mqadmin.supervisor import processes
from mqadmin.supervisor.home import CannotContinueError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mqadmin.supervisor.home import Home
    from mqadmin.supervisor.output import Output
    from mqadmin.supervisor.processes import Program

NAME = "mqadmin"
BACKOFF = (0.5, 30.0)  # seconds before the first restart, and at most
STEADY = 30.0  # seconds that a child must live for its failures to be forgotten
SERVICE_START = 60.0
# Together below the ten seconds that a stop may take.
PROGRAM_STOP, SERVICE_STOP, SERVICE_QUIT = 4.5, 2.5, 1.0
LONGEST_LINE = 65536


@dataclass
class Child:
    """A program with its running process, if any."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_ticks: int = 0
    started: float = 0.0
    failures: int = 0
    start_at: float | None = None
    pipe: int | None = None
    pending: bytes = b""


@dataclass
class Runner:
    """Supervises the children of one home; single-threaded, as the death signal and `preexec_fn` demand."""

    home: Home
    output: Output
    guard: processes.Guard
    services: list[Child] = field(default_factory=list)
    programs: list[Child] = field(default_factory=list)
    stop_signals: list[int] = field(default_factory=list)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def take_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP ask for a stop instead of raising KeyboardInterrupt."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _frame: self.stop_signals.append(got))

    def log(self, text: str) -> None:
        """Say something as the supervisor within the log stream."""
        self.output.line(NAME, text)

    # --- one turn ---------------------------------------------------------------------------------------------------

    def turn(self, timeout: float) -> None:
        """Wait for an event, `timeout` seconds at most; then read, reap and restart what is due."""
        due = [child.start_at for child in self._all() if child.start_at is not None]
        if due and not self._stopping:
            timeout = max(0.0, min(timeout, min(due) - time.monotonic()))
        for key, _events in self._selector.select(timeout):
            if key.fileobj is self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    while self._wake_read.recv(4096):
                        pass
            else:
                self._read(key.data)
        processes.reap_orphans()
        for child in self._all():
            if child.process is not None and (status := processes.collected(child.process)) is not None:
                self._ended(child, status)
            if child.start_at is not None and child.start_at <= time.monotonic() and not self._stopping:
                self._start(child)
        if not self._stopping:
            self.guard.check(self.log)

    def tick(self) -> None:
        """Take a turn without waiting during a step of preparation; raise KeyboardInterrupt when a stop was asked for."""
        self.turn(0)
        if self.stop_signals:
            raise KeyboardInterrupt

    def _all(self) -> list[Child]:
        return self.services + self.programs

    def _start(self, child: Child) -> None:
        program = child.program
        if program.before_start:
            program.before_start()
        child.start_at = None
        if program.log is not None:
            with program.log.open("ab") as sink:
                child.process = processes.spawn(program, stdout=sink.fileno())
        else:
            read_end, write_end = os.pipe()
            os.set_blocking(read_end, False)
            child.process = processes.spawn(program, stdout=write_end)
            os.close(write_end)
            child.pipe = read_end
            self._selector.register(read_end, selectors.EVENT_READ, child)
        child.started = time.monotonic()
        child.started_ticks = self.guard.add(program, child.process)

    def _read(self, child: Child) -> None:
        if child.pipe is None:
            return
        try:
            data = os.read(child.pipe, 65536)
        except BlockingIOError:
            return
        *lines, child.pending = (child.pending + data).split(b"\n")
        if not data or len(child.pending) > LONGEST_LINE:
            lines, child.pending = [*lines, child.pending], b""
        for line in lines:
            if line.strip():
                self.output.line(child.program.name, line.decode(errors="replace").rstrip())
        if not data:
            self._close_pipe(child)

    def _close_pipe(self, child: Child) -> None:
        if child.pipe is not None:
            self._selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = None

    def _ended(self, child: Child, status: int) -> None:
        process = child.process
        if process is None:
            return
        child.process = None
        # Its own children (web and pool workers) must not live beside those of its successor.
        processes.kill_session_fully(process.pid, child.started_ticks, title=child.program.title)
        self.guard.remove(process)
        for _chunk in range(64):
            if child.pipe is None:
                break
            before = child.pending
            self._read(child)
            if child.pipe is not None and child.pending == before:
                break
        self._close_pipe(child)
        if self._stopping:
            return
        if time.monotonic() - child.started > STEADY:
            child.failures = 0
        delay = min(BACKOFF[0] * 2**child.failures, BACKOFF[1])
        child.failures += 1
        child.start_at = time.monotonic() + delay
        self.log(f"{child.program.name} {ending(status)}; starting it again in {delay:g} s")
        if child.program.log is not None:
            self.log(f"its log: {child.program.log}")

    # --- services ---------------------------------------------------------------------------------------------------

    def start_services(self, programs: Sequence[Program]) -> None:
        """Start the private services side by side and wait until all of them answer."""
        for program in programs:
            child = Child(program)
            self.services.append(child)
            self._start(child)
        waiting = list(self.services)
        until = time.monotonic() + SERVICE_START
        while waiting:
            if self.stop_signals:
                raise KeyboardInterrupt
            for child in list(waiting):
                program = child.program
                if child.process is None or processes.collected(child.process) is not None:
                    raise CannotContinueError(f"{program.name} does not start. The end of {program.log}:\n{_tail(program.log)}")
                if program.ready is None or program.ready():
                    waiting.remove(child)
            if waiting and time.monotonic() > until:
                names = ", ".join(child.program.name for child in waiting)
                raise CannotContinueError(f"{names}: no answer after {SERVICE_START:.0f} s. See the logs in {self.home.logs}.")
            if waiting:
                time.sleep(0.03)

    # --- programs ---------------------------------------------------------------------------------------------------

    def start_programs(self, programs: Sequence[Program]) -> None:
        """Start the product's own processes."""
        for program in programs:
            child = Child(program)
            self.programs.append(child)
            self._start(child)

    def wait_until_ready(self, port: int, patience: float) -> str:
        """Take turns until /readyz says 200; return what it said last when `patience` seconds pass first, empty otherwise."""
        until = time.monotonic() + patience
        answer = "no answer"
        while time.monotonic() < until:
            self.turn(0.3)
            if self.stop_signals:
                raise KeyboardInterrupt
            ready, answer = probe(port)
            if ready:
                return ""
        return answer

    def run_until_stopped(self) -> None:
        """Take turns until a signal asks for a stop."""
        while not self.stop_signals:
            self.turn(5)
        with contextlib.suppress(ValueError):
            self.log(f"{signal.Signals(self.stop_signals[0]).name}: stopping")

    def run_task(self, program: Program) -> int:
        """Run one command on our own standard output and input beside the services; return its exit status."""
        process = processes.spawn(program, stdout=self.output.descriptor, inherit_stdin=True)
        ticks = self.guard.add(program, process)
        stop_at = None
        while processes.collected(process) is None:
            self.turn(0.5)
            if self.stop_signals and stop_at is None:
                stop_at = time.monotonic() + PROGRAM_STOP
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGINT)
            if stop_at is not None and time.monotonic() > stop_at:
                break
        processes.kill_session_fully(process.pid, ticks)
        self.guard.remove(process)
        if self.stop_signals:
            raise KeyboardInterrupt
        return int(process.returncode)

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the programs, then the services; what does not heed the signal is killed."""
        self._stopping = True
        self.output.patience = 0.05
        asked = self.stop_signals.count(signal.SIGINT)

        def impatient() -> bool:
            """Tell whether Ctrl-C was pressed again (SIGTERM comes twice by itself: from whoever sent it, and from make)."""
            return self.stop_signals.count(signal.SIGINT) > max(asked, 1)

        self._end(self.programs, lambda child: child.program.stop_signal, PROGRAM_STOP, impatient)
        self._kill(self.programs)
        self._end(self.services, lambda child: child.program.stop_signal, SERVICE_STOP, impatient)
        self._end(self.services, lambda child: child.program.death_signal, SERVICE_QUIT, impatient)
        self._kill(self.services)
        self.guard.quit()

    def _end(
        self, children: list[Child], number: Callable[[Child], signal.Signals], patience: float, impatient: Callable[[], bool]
    ) -> None:
        for child in children:
            if child.process is not None:
                with contextlib.suppress(OSError):
                    os.kill(child.process.pid, number(child))
        until = time.monotonic() + patience
        while any(child.process for child in children) and time.monotonic() < until and not impatient():
            self.turn(0.1)

    def _kill(self, children: list[Child]) -> None:
        for child in children:
            if child.process is not None:
                self.log(f"{child.program.name} does not stop; killing it")
                processes.kill_session_fully(child.process.pid, child.started_ticks, title=child.program.title, patience=1.0)
        self.turn(0)


def ending(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def probe(port: int) -> tuple[bool, str]:
    """Ask /readyz; return whether all is ready, and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status == 200, response.read(2000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer ({error})"
    finally:
        connection.close()


def _tail(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as source:
        source.seek(max(0, path.stat().st_size - 4000))
        return "\n".join("    " + line for line in source.read().decode(errors="replace").splitlines()[-8:])
