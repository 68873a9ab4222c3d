"""Writes the tree as Postgres wants it, a line of JSON for each node."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from registry.exporting import lines


class Command(BaseCommand):
    help = "Write what should stand in ZooKeeper as lines of JSON: path, data (or base64), generation. ZooKeeper need not be there."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--output", type=Path, help="the file to write; without it, standard output")

    def handle(self, *_args: Any, output: Path | None = None, **_options: Any) -> None:
        number = 0
        out = output.open("w", encoding="utf-8") if output else sys.stdout
        try:
            for number, line in enumerate(lines(), 1):  # noqa: B007 - the last is how many
                out.write(line)
        finally:
            if output:
                out.close()
        self.stderr.write(f"{number} nodes")
