"""Jars of brokers, which only tests need: Maven fetches them once, and the home keeps them."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from mqadmin.supervisor.home import CHECKOUT, CannotContinueError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mqadmin.supervisor.output import Output

BROKERS = {"kafka": "Kafka", "rocketmq": "RocketMQ"}  # each with tests/java/NAME.xml
GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"


def directory_of(home: Path, broker: str) -> Path:
    """Return the directory of a broker's jars; it is there when all of them are."""
    return home / "jars" / f"{broker}-{hashlib.sha256(_pom(broker).read_bytes()).hexdigest()[:12]}"


def fetch(output: Output, home: Path, maven: str, log: Path, *, tick: Callable[[], None] = lambda: None) -> None:
    """Fetch what is missing. Where that is not possible, say so: the tests that need it fail, and nothing else does."""
    for broker, title in BROKERS.items():
        directory = directory_of(home, broker)
        if directory.exists():
            continue
        if not maven:
            output.say(f"  Maven is missing: the tests that need {title} will fail")
            continue
        partial = directory.with_name(f".{directory.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        pom = str(_pom(broker))
        goal = [maven, "-B", "-q", "-Dstyle.color=never", "-f", pom, GOAL, "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
        try:
            output.run(f"Fetching {title} for the tests", goal, log=log, cwd=CHECKOUT, tick=tick)
        except CannotContinueError as error:
            output.say(f"  The tests that need {title} will fail: {error}")
            continue
        partial.rename(directory)


def _pom(broker: str) -> Path:
    return CHECKOUT / "tests" / "java" / f"{broker}.xml"
