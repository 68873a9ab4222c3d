"""Kafka's jars, which only tests need: Maven fetches them once, and the home keeps them."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from mqadmin.supervisor.home import CHECKOUT, CannotContinueError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mqadmin.supervisor.output import Output

POM = CHECKOUT / "tests" / "java" / "kafka.xml"
GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"


def kafka(home: Path) -> Path:
    """Return the directory of the jars; it is there when all of them are."""
    return home / "jars" / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def fetch(output: Output, home: Path, maven: str, log: Path, *, tick: Callable[[], None] = lambda: None) -> None:
    """Fetch what is missing. Where that is not possible, say so: the tests that need Kafka fail, and nothing else does."""
    directory = kafka(home)
    if directory.exists():
        return
    if not maven:
        output.say("  Maven is missing: the tests that need Kafka will fail")
        return
    partial = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    goal = [maven, "-B", "-q", "-Dstyle.color=never", "-f", str(POM), GOAL, "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    try:
        output.run("Fetching Kafka for the tests", goal, log=log, cwd=CHECKOUT, tick=tick)
    except CannotContinueError as error:
        output.say(f"  The tests that need Kafka will fail: {error}")
        return
    partial.rename(directory)
