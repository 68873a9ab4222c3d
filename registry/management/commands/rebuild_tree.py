"""Lets registrars look at every node that should stand and write again what is missing; follows it to its end."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.operations import driving
from core.operations.models import OPEN, Operation, State
from registry import rebuilding


class Command(BaseCommand):
    help = "Rebuild ZooKeeper from Postgres: what is missing is written by the registrars, clusters first. Needs no Celery worker."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", required=True, help="kept in the audit")

    def handle(self, *_args: Any, reason: str, **_options: Any) -> None:
        operation = rebuilding.start(actor=None, reason=reason)
        self.stdout.write(f"operation {operation.uid}: {operation.total // 2} nodes")
        said = ""
        while operation.state in OPEN:
            if not driving.take_on(operation.pk):
                time.sleep(0.2)
            operation = Operation.objects.get(pk=operation.pk)
            now = operation.error or f"{operation.settled} of {operation.total} steps"
            if now != said:
                self.stdout.write(now)
                said = now
        for item in operation.items.filter(state="failed").order_by("index")[:50]:
            self.stderr.write(f"{item.key}: {item.detail}")
        if operation.state != State.SUCCEEDED:
            raise CommandError(f"{operation.failed} nodes do not stand; see above, and the operation {operation.uid}.")
        self.stdout.write("Everything stands.")
