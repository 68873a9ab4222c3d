"""Event streams (text/event-stream): a thread looks once a second and parks in between without a database connection.

The number of streams of a process is capped; over it the page polls. A stream ends by itself after a minute, so that nobody's rights
are older than that, and at once when the process is asked to end: the browser opens another.
"""

import threading
import time
from collections.abc import Callable, Iterator

from django.conf import settings
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import get_language, override

LOOK = 1.0  # seconds between two looks
LASTS = 60.0  # seconds until a stream ends and the browser opens the next one
QUIET = 15.0  # seconds without news after which a comment shows that the connection lives

_closing = threading.Event()
_lock = threading.Lock()
_open = 0

#: What there is to tell now, and whether there will never be anything more.
Look = Callable[[], tuple[str, bool]]


def is_open() -> int:
    """How many streams this process serves."""
    return _open


def close() -> None:
    """End all streams of this process, for good; safe in a signal handler."""
    _closing.set()


def stream(look: Look) -> HttpResponseBase:
    """Answer with what `look` tells, whenever it is different; 503 when too many streams are open, so that the page polls."""
    if _open >= settings.MAX_EVENT_STREAMS or _closing.is_set():
        return HttpResponse(status=503, headers={"Retry-After": "5"})
    response = StreamingHttpResponse(_events(look, get_language() or settings.LANGUAGE_CODE), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # a proxy in front hands each event on at once
    return response


def _events(look: Look, language: str) -> Iterator[str]:
    if not _enter():
        yield "event: full\ndata:\n\n"
        return
    try:
        yield "retry: 2000\n\n"
        told, until, spoke = None, time.monotonic() + LASTS, time.monotonic()
        while not _closing.is_set() and time.monotonic() < until:
            with override(language):
                text, ended = look()
            if not connection.in_atomic_block:
                connection.close()  # back to the pool while we wait
            if text != told:
                told, spoke = text, time.monotonic()
                yield event(text)
            elif time.monotonic() - spoke > QUIET:
                spoke = time.monotonic()
                yield ":\n\n"
            if ended:
                yield "event: end\ndata:\n\n"
                return
            _closing.wait(LOOK)
    finally:
        _leave()


def event(text: str) -> str:
    """One event; its data may have several lines."""
    return "".join(f"data: {line}\n" for line in text.splitlines() or [""]) + "\n"


def _enter() -> bool:
    global _open  # noqa: PLW0603 - one count per process is the point
    with _lock:
        if _open >= settings.MAX_EVENT_STREAMS:
            return False
        _open += 1
    return True


def _leave() -> None:
    global _open  # noqa: PLW0603 - one count per process is the point
    with _lock:
        _open -= 1
