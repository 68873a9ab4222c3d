"""Probes: is the process alive, and is each part that it needs there."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone

# Probes run here, so that a part that hangs cannot hang the answer. One probe a part: while it hangs, later questions wait for
# the same one, so that it takes no thread from the others.
_probes = ThreadPoolExecutor(max_workers=8, thread_name_prefix="probe")
_running: dict[str, Future[Any]] = {}
_starting = threading.Lock()
LIMIT = 2.0  # seconds for all parts together
STALE = 10.0  # seconds after which a heartbeat proves nothing


def healthz(_request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


def readyz(_request: HttpRequest) -> HttpResponse:
    """Every part by name; 503 when one is missing, saying which and why."""
    deadline = time.monotonic() + LIMIT
    running = {name: _ask(name, probe) for name, probe in PARTS.items()}
    parts = {}
    for name, future in running.items():
        try:
            parts[name] = future.result(timeout=max(0.0, deadline - time.monotonic())) or "ok"
        except FutureTimeout:
            parts[name] = f"no answer within {LIMIT:.0f} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, this part is not ready
            parts[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    missing = [name for name, said in parts.items() if said != "ok"]
    status = {"status": "ok" if not missing else "not ready", "missing": missing, "parts": parts}
    return JsonResponse({**status, "publication": _publication(deadline)}, status=503 if missing else 200)


def _publication(deadline: float) -> dict[str, Any] | None:
    """How far behind publication is; null: nobody knows.

    It says nothing about readiness: to take a web process out of service because a node cannot be written, or because a registrar sets
    its watch anew, would take the console and the message store away from those who need them, and publish nothing any sooner.
    """
    from registry.health import details

    try:
        found: dict[str, Any] = _ask("publication", details).result(timeout=max(0.0, deadline - time.monotonic()))
    except Exception:  # noqa: BLE001 - the parts say what is missing
        return None
    return found


def _ask(name: str, probe: Callable[[], Any]) -> Future[Any]:
    with _starting:
        if name not in _running or _running[name].done():
            _running[name] = _probes.submit(_closing_connection, probe)
        return _running[name]


def _closing_connection(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    finally:
        connection.close()


def _postgres() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _celery_broker() -> None:
    from mqadmin.celery import app

    with app.connection_for_read(connect_timeout=1) as broker:
        broker.ensure_connection(max_retries=1, timeout=1)


def _registrar() -> str | None:
    from registry.models import RegistrarHeartbeat

    newest = RegistrarHeartbeat.objects.order_by("-beat_at").first()
    if newest is None:
        return "no registrar has ever started"
    age = (timezone.now() - newest.beat_at).total_seconds()
    return None if age <= STALE else f"last heartbeat {age:.0f} s ago"


def _zookeeper() -> str | None:
    """As the registrars see it: the web process itself has no session."""
    from registry.models import RegistrarHeartbeat

    newest = RegistrarHeartbeat.objects.order_by("-beat_at")[:8]
    fresh = [beat for beat in newest if (timezone.now() - beat.beat_at).total_seconds() <= STALE]
    if not fresh:
        return f"unknown: no registrar reports on {settings.ZOOKEEPER_HOSTS}"
    if any(beat.zookeeper == "connected" for beat in fresh):
        return None
    why = f": {fresh[0].error}" if fresh[0].error else ""
    return f"the registrar's session is {fresh[0].zookeeper or 'not made yet'}{why}"


def _storekeeper() -> str | None:
    """Whether it ticks, and whether the ticks get anywhere: a sender that keeps its transaction open holds up all topics."""
    with connection.cursor() as cursor:
        # The horizon's own time is no sign of the storekeeper's life: a pull ticks too. The upper bits of an id are seconds.
        cursor.execute(
            "SELECT (SELECT extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM mq_storekeeper),"
            " (s.last_value - h.closed_id) >> 20 FROM mq_horizon h, mq_id_seq s"
        )
        row = cursor.fetchone()
    if row is None or row[0] is None:
        return "no storekeeper has ever run"
    age, behind = row
    if age > STALE:
        return f"last sign of life {age:.0f} s ago"
    return None if behind <= STALE else f"messages of {behind} s are held back by a transaction that has sent and is still open"


PARTS: dict[str, Callable[[], str | None]] = {
    "postgres": _postgres,
    "zookeeper": _zookeeper,
    "celery_broker": _celery_broker,
    "registrar": _registrar,
    "storekeeper": _storekeeper,
}
