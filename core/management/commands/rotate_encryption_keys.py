"""`manage.py rotate_encryption_keys`: seal every stored credential anew with the first key of MQADMIN_ENCRYPTION_KEYS."""

from argparse import ArgumentParser
from typing import Any

from cryptography.fernet import Fernet
from django.core.management.base import BaseCommand, CommandError

from core.rotation import rotate


class Command(BaseCommand):
    help = (
        "Seals every stored credential anew with the first key of MQADMIN_ENCRYPTION_KEYS. Put the new key first and keep the old "
        "ones behind it, restart mqadmin, run this, then take the old keys away. May be interrupted and run again at any time."
    )

    requires_system_checks = ()  # it makes the key that a check asks for

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--chunk", type=int, default=200, help="rows a statement (default 200)")
        parser.add_argument("--new-key", action="store_true", help="only print a new key for the setting")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["new_key"]:
            self.stdout.write(Fernet.generate_key().decode())
            return
        if options["chunk"] < 1:
            raise CommandError("--chunk is a number of rows, at least 1.")
        unreadable = 0
        for counts in rotate(chunk=options["chunk"]):
            unreadable += counts.unreadable
            self.stdout.write(
                f"{counts.label}: {counts.rotated} sealed anew, {counts.newest} already were, "
                f"{counts.changed} changed meanwhile, {counts.unreadable} that no key opens"
            )
        if unreadable:
            raise CommandError(
                f"{unreadable} values were sealed with a key that is not in MQADMIN_ENCRYPTION_KEYS: add that key, or enter them again."
            )
        self.stdout.write("Every stored credential is sealed with the first key; the others can be taken away.")
