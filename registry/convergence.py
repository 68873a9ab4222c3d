"""Who runs a change: applied, outdated, unknown or offline, how long it took them, and waiting until all that are online run it.

A thread that waits has no connection to the database: it takes one for each look. How many may wait in a process is capped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists
from django.utils.translation import gettext as _

from core.errors import Problem
from registry.models import Instance, Publication, RegistrarHeartbeat, Release

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

Goal = Literal["published", "applied"]
Outcome = Literal["reached", "timed_out", "interrupted", "nothing_to_wait_for"]

MAX_TIMEOUT = 300.0  # seconds
NAMED = 100  # so many of each kind are named; the list of instances has the rest
FIRST_LOOK, LONGEST_PAUSE = 0.1, 0.5  # seconds between two looks: soon at first, since most changes are applied at once

_closing = threading.Event()
_lock = threading.Lock()
_waiting = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """From the publication of a change until it was seen to be applied, of those who were there before it; in milliseconds."""

    count: int
    p50_ms: int
    p95_ms: int
    max_ms: int


@dataclass(frozen=True)
class Convergence:
    """How far a change is: `generation` of a path, or a later one, with which it is superseded."""

    path: str
    generation: int
    published: bool
    published_at: datetime | None  # of this generation; None: not yet, or it is not known any more
    known: bool  # whether a registrar watches: if not, nobody knows who is online
    last_error: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    latency: Latency | None = None
    stragglers: Sequence[Instance] = ()
    silent: Sequence[Instance] = ()

    @property
    def online(self) -> int:
        """All that follow it now."""
        return self.counts["applied"] + self.counts["outdated"] + self.counts["unknown"]

    @property
    def applied(self) -> bool:
        """Whether all that are online and tell what they run run it; those that do not tell are listed apart and held against nobody."""
        return self.published and self.known and not self.counts["outdated"]


def converged(path: str, generation: int) -> bool:
    """Whether a change is published and nobody who is online runs an older one: a gate for what comes next. One statement.

    It is no fence: producers without a session are not counted. Who must be sure lets the broker refuse the old side.
    """
    watched = Exists(RegistrarHeartbeat.objects.watching())
    return bool(_published(path, generation).filter(~Exists(_outdated(path, generation)), watched).exists())


def look(path: str, generation: int, *, user: Any = None) -> Convergence:
    """How far a change is, with the names of those that the person may see; without a person all."""
    row = Publication.objects.filter(path=path).only("published_generation", "published_at", "last_error").first()
    published, since = row is not None and row.published_generation >= generation, published_at(path, generation)
    at: Any = Instance.objects.at([path]).with_applied_to(generation, since)  # its annotations are no fields to mypy
    counts = Counter(dict(at.order_by().values_list("applied").annotate(n=Count("pk"))))
    shown = at if user is None else at.restrict(user)
    return Convergence(
        path=path,
        generation=generation,
        published=published,
        published_at=since,
        known=RegistrarHeartbeat.objects.watching().exists(),
        last_error="" if row is None or published else row.last_error,
        counts={state: counts[state] for state in Instance.Applied.values},
        latency=summary(at.exclude(latency=None).order_by().values_list("latency", flat=True)),
        stragglers=list(shown.filter(applied="outdated").order_by("app", "node")[:NAMED]) if counts["outdated"] else [],
        silent=list(shown.filter(applied="unknown").order_by("app", "node")[:NAMED]) if counts["unknown"] else [],
    )


def published_at(path: str, generation: int) -> datetime | None:
    """When a generation came out; None: not yet, or it is not known any more."""
    return Release.objects.filter(publication__path=path, generation=generation).values_list("published_at", flat=True).first()


def summary(latencies: Any) -> Latency | None:
    """Median, 95th percentile and longest; None of none."""
    found: list[timedelta] = sorted(latencies)
    if not found:
        return None

    def at(share: float) -> int:
        return round(found[max(0, math.ceil(share * len(found)) - 1)].total_seconds() * 1000)

    return Latency(count=len(found), p50_ms=at(0.5), p95_ms=at(0.95), max_ms=at(1.0))


@contextmanager
def place() -> Iterator[None]:
    """Take one of the places of those who wait, before the change itself: who gets none has changed nothing. Problem: too_many_waiting."""
    global _waiting  # noqa: PLW0603 - one count per process
    with _lock:
        full = _waiting >= settings.MAX_WAITING_CHANGES
        _waiting += not full
    if full:
        raise Problem(
            "too_many_waiting",
            _("Too many wait for changes already."),
            status=429,
            hint=_("Nothing was done. Try again in a moment, or without “wait” and ask for the outcome later."),
            headers={"Retry-After": "5"},
        )
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1


def wait(*, path: str, generation: int, goal: Goal, timeout: float) -> Outcome:
    """Wait until the change is published, or until all that are online run it; `reached`, `timed_out`, or `interrupted`: the process ends.

    Not in a transaction: what it waits for would never be seen.
    """
    until, pause = time.monotonic() + timeout, FIRST_LOOK
    while True:
        if converged(path, generation) if goal == "applied" else _published(path, generation).exists():
            return "reached"
        if not connection.in_atomic_block:  # only in tests
            connection.close()  # back to the pool
        left = until - time.monotonic()
        if left <= 0:
            return "timed_out"
        if _closing.wait(min(pause, left)):
            return "interrupted"
        pause = min(LONGEST_PAUSE, pause * 1.5)


def close() -> None:
    """Let all that wait in this process go, for good; safe in a signal handler."""
    _closing.set()


def _published(path: str, generation: int) -> Any:
    return Publication.objects.filter(path=path, published_generation__gte=generation)


def _outdated(path: str, generation: int) -> Any:
    return Instance.objects.online().filter(path=path, plain=False, applied_generation__lt=generation)
