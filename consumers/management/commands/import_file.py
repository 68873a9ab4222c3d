"""Imports a file that is too large for a request: an exported tree, or a manifest; follows it to its end."""

import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from consumers import imports, manifests
from consumers.imports_known import Owners
from core.errors import Problem
from core.operations import driving
from core.operations.models import OPEN, Operation, State


class Command(BaseCommand):
    help = "Import an exported tree or a manifest from a file of any size. Shows the plan first. Needs no Celery worker."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--source", required=True, choices=["export", "manifest"], help="what the file holds")
        parser.add_argument("--as", dest="person", required=True, help="user name of the person who imports, as the audit has it")
        parser.add_argument("--reason", required=True, help="kept in the audit")
        parser.add_argument("--application", default="", help="of what does not say its own")
        parser.add_argument("--prefix", action="append", default=[], metavar="PREFIX=APPLICATION", help="application by prefix of a name")
        parser.add_argument("--owner", default="", help="user name; without it the owner of the application")
        parser.add_argument("--accept-warnings", action="store_true", help="do also what confirmation_needed speaks against")
        parser.add_argument("--dry-run", action="store_true", help="only the plan")

    def handle(self, *_args: Any, file: Path, person: str, **options: Any) -> None:
        actor = User.objects.filter(username=person, is_active=True).first()
        if actor is None:
            raise CommandError(f"There is no active person “{person}”.")
        prefixes = dict(pair.split("=", 1) for pair in options["prefix"] if "=" in pair)
        if len(prefixes) != len(options["prefix"]):
            raise CommandError("A prefix is given as PREFIX=APPLICATION, each once.")
        owners, accept = Owners(options["application"], prefixes, options["owner"]), options["accept_warnings"]
        try:
            text = file.read_text(encoding="utf-8")
            entries = manifests.from_export(text) if options["source"] == "export" else manifests.from_text(text)
            planned = imports.plan(entries, owners, accept_warnings=accept)
            self._tell(planned)
            if options["dry_run"]:
                return
            operation = imports.start(
                actor=actor, planned=planned, owners=owners, source=file.name, reason=options["reason"], accept_warnings=accept
            )
        except (OSError, UnicodeDecodeError, Problem) as error:
            raise CommandError(str(error)) from error
        self._follow(operation)

    def _tell(self, planned: list[imports.Planned]) -> None:
        for one in imports.telling(planned):
            said = one.problem.detail if one.problem else " ".join([*one.changes, *one.warnings])
            self.stdout.write(f"{one.action}: {one.entry.key} {said}".rstrip())
        self.stdout.write(", ".join(f"{action} {number}" for action, number in imports.counts(planned).items()))

    def _follow(self, operation: Operation) -> None:
        self.stdout.write(f"operation {operation.uid}: {operation.total} items")
        while operation.state in OPEN:
            if not driving.take_on(operation.pk):
                time.sleep(0.2)
            operation = Operation.objects.get(pk=operation.pk)
        for item in operation.items.filter(state="failed").order_by("index")[:50]:
            self.stderr.write(f"{item.key}: {item.detail}")
        if operation.state != State.SUCCEEDED:
            raise CommandError(f"{operation.failed} items are not imported; see above, and the operation {operation.uid}.")
        self.stdout.write("Everything is imported.")
