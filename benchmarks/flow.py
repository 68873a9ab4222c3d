"""A queue at work: a sender and each group's consumers in processes of their own, and how much they get done.

It also runs in the peers' environment, so it needs nothing but Python.
"""

import contextlib
import multiprocessing
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

BODY = secrets.token_hex(100)
BATCH, PRODUCERS, AHEAD = 1000, 256, 20_000
PROCESSES, SHARED_BATCH = 4, 50  # where many workers share a group: of how many processes they are threads, and how much each takes
AT_WORK = 256  # jobs that a worker has in hand at once, where it takes them one by one
WARM = 1.5  # seconds
PAUSE, SAMPLE = 0.002, 0.2
_processes = multiprocessing.get_context("spawn")


class Side(Protocol):
    """One queue, as it is sent to and taken from; it is handed to processes of its own, so it holds nothing but settings."""

    def send(self, flow: "Flow") -> None:
        """Send batches to all groups until it is over, and say how many."""

    def take(self, flow: "Flow", group: int) -> None:
        """Take and settle what comes for a group until it is over, and say how many."""


class Flow:
    """Processes at work and how much they did; the sender waits while it is too far ahead of the slowest group.

    `failing`: every second message fails when it is tried first, and is tried again at once.
    """

    def __init__(self, groups: int, seconds: float, *, workers: int = 1, failing: bool = False, ahead: int = AHEAD) -> None:
        self.groups, self.seconds, self.failing, self._limit = groups, seconds, failing, ahead
        self.processes = min(workers, PROCESSES)
        self.each = workers // self.processes
        self.batch = BATCH if workers == 1 else SHARED_BATCH
        self.over, self._go = _processes.Event(), _processes.Event()
        self._connected, self._sent = _processes.Value("i", 0), _processes.RawValue("q", 0)
        self._done = _processes.Array("q", groups)

    @property
    def at_work(self) -> int:
        """How many jobs a worker's process has in hand at once, where the queue hands them over one by one."""
        return AT_WORK if self.processes == 1 else self.each

    def begin(self) -> None:
        """Said by each process when it is connected; it goes on when all are."""
        with self._connected.get_lock():
            self._connected.value += 1
        self._go.wait(120)

    def sent(self, number: int) -> None:
        """The sender has sent so many to each group."""
        self._sent.value += number

    def done(self, group: int, number: int) -> None:
        """A consumer of the group is done with so many."""
        with self._done.get_lock():
            self._done[group] += number

    @property
    def ahead(self) -> bool:
        """Whether the sender has to wait."""
        return bool(self._sent.value - min(self._done[:]) >= self._limit)

    @property
    def all_done(self) -> int:
        return int(sum(self._done[:]))

    @contextlib.contextmanager
    def running(self, side: Side, *, taking: bool = True) -> Iterator[None]:
        """The processes: they are at work when the block begins."""
        processes = [_processes.Process(target=side.send, args=(self,))]
        for group in range(self.groups) if taking else ():
            processes += [_processes.Process(target=side.take, args=(self, group)) for _ in range(self.processes)]
        for process in processes:
            process.start()
        try:
            patience = time.monotonic() + 120
            while self._connected.value < len(processes):
                if time.monotonic() > patience or any(process.exitcode is not None for process in processes):
                    raise RuntimeError("a process did not come up")
                time.sleep(0.01)
            self._go.set()
            yield
            if any(process.exitcode is not None for process in processes):
                raise RuntimeError("a process has ended in the middle")
        finally:
            self.over.set()
            self._go.set()
            for process in processes:
                process.join(30)
                if process.exitcode is None:
                    process.kill()

    def micros(self, side: Side) -> float:
        """The time a message takes, over all groups."""
        with self.running(side):
            time.sleep(WARM)
            began, before = time.perf_counter(), self.all_done
            time.sleep(self.seconds)
            spent, done = time.perf_counter() - began, self.all_done - before
        if not done:
            raise RuntimeError("nothing was done")
        return float(spent / done * 1e6)

    def watch(self, side: Side, begun: Callable[[], None]) -> list[tuple[float, int]]:
        """How much was done by when (the system's monotonic clock, the same in all processes); `begun` is called after the warm-up."""
        series = []
        with self.running(side):
            time.sleep(WARM)
            begun()
            end = time.monotonic() + self.seconds
            while (now := time.monotonic()) < end:
                series.append((now, self.all_done))
                time.sleep(SAMPLE)
        return series

    def store(self, side: Side) -> int:
        """Send until so many wait as the sender may be ahead."""
        with self.running(side, taking=False):
            while not self.ahead:
                time.sleep(PAUSE)
        return int(self._sent.value)

    def sustain(self, side: Side, messages: int) -> int:
        """Send and take so many, or what comes in the time; how many."""
        with self.running(side):
            end = time.monotonic() + self.seconds
            while self.all_done < messages and time.monotonic() < end:
                time.sleep(0.05)
        return self.all_done


def in_threads(work: Callable[[], None], number: int) -> None:
    """As many at once, until all are through."""
    threads = [threading.Thread(target=work) for _ in range(number - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
