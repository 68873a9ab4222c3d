"""`manage.py registrar`: publish to ZooKeeper and watch it, until SIGTERM or SIGINT."""

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from registry.registrar import Registrar


class Command(BaseCommand):
    help = "Publishes what is due to ZooKeeper and records instances, until SIGTERM. Any number may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--take-over", action="store_true", help="write into a tree that belongs to another deployment, and own it from then on"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        registrar = Registrar(
            hosts=settings.ZOOKEEPER_HOSTS,
            session_timeout=settings.ZOOKEEPER_SESSION_TIMEOUT,
            take_over=options["take_over"],
        )
        for name in (signal.SIGTERM, signal.SIGINT):
            # In a thread: a handler runs inside the main thread, which may hold the very lock that `stop` takes.
            signal.signal(name, lambda *_: threading.Thread(target=registrar.stop).start())
        registrar.run()
