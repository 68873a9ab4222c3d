"""Celery beat, any number of it: one holds a Postgres advisory lock and sends, the others wait for it."""

import signal
import threading
import time
from types import FrameType
from typing import Any

import structlog
from celery.beat import Scheduler
from django.conf import settings
from django.core.management.base import BaseCommand
from psycopg import Connection, OperationalError, connect

from mqadmin.celery import app

log = structlog.get_logger(__name__)
LOCK = 7_310_010  # of the advisory locks, beat's own number
RETRY = 1.0  # seconds


class Command(BaseCommand):
    help = "Send the periodic wake-up calls; of several beats one is active, by a Postgres advisory lock."

    def handle(self, *_args: Any, **_options: Any) -> None:
        stop = threading.Event()

        def leave(_signal: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)
        while not stop.is_set():
            try:
                with self._connect() as lock:
                    self._lead(lock, stop)
            except OperationalError as error:
                log.warning("beat_without_postgres", error=str(error).strip())
                stop.wait(RETRY)

    def _connect(self) -> Connection[Any]:
        from django.db import connection

        parameters = connection.get_connection_params()
        for ours in ("pool", "cursor_factory", "context", "assume_role", "server_side_binding", "isolation_level"):
            parameters.pop(ours, None)
        parameters["application_name"] = "mqadmin-beat"
        return connect(**parameters, autocommit=True)

    def _lead(self, lock: Connection[Any], stop: threading.Event) -> None:
        """Wait for the lock, then send until it or we are gone; the lock lives as long as its connection."""
        while not stop.is_set():
            row = lock.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone()
            if row and row[0]:
                break
            stop.wait(RETRY)
        else:
            return
        log.info("beat_active", entries=len(settings.CELERY_BEAT_SCHEDULE))
        scheduler = Scheduler(app=app, lazy=True)
        scheduler.setup_schedule()
        checked = time.monotonic()
        while not stop.is_set():
            try:
                pause = scheduler.tick()
            except Exception as error:  # noqa: BLE001 - the broker is away: the next round tries again, nothing is lost
                log.warning("beat_cannot_send", error=f"{type(error).__name__}: {error}")
                pause = RETRY
            stop.wait(min(max(float(pause or 0), 0.02), RETRY))
            if time.monotonic() - checked > RETRY:
                lock.execute("SELECT 1")  # raises when the connection, and with it the lock, is gone
                checked = time.monotonic()
