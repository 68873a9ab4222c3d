"""What `make test` and `make lint` do: every check in turn, all of them even when one fails, then the tests."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mqadmin.supervisor import provision

if TYPE_CHECKING:
    from pathlib import Path

    from mqadmin.supervisor.output import Output

Execute = Callable[[Sequence[str], dict[str, str]], int]  # arguments, further environment -> exit status

NO_TESTS = 5  # pytest's exit status when it collected nothing: a failure here


def _tool(name: str, *arguments: str) -> list[str]:
    return [str(provision.PYTHON), "-m", name, *arguments]


def production() -> dict[str, str]:
    """Return the environment of a production deployment, for Django's --deploy checks."""
    return {
        "MQADMIN_DEBUG": "false",
        "MQADMIN_SECRET_KEY": secrets.token_urlsafe(64),
        "MQADMIN_ALLOWED_HOSTS": "mqadmin.example.com",
        "MQADMIN_LOG_FORMAT": "json",
    }


def static() -> list[tuple[str, list[str], dict[str, str]]]:
    """Return the checks that need no service: (name, command, further environment)."""
    return [
        ("ruff check", _tool("ruff", "check", "."), {}),
        ("ruff format", _tool("ruff", "format", "--check", "."), {}),
        ("mypy", _tool("mypy"), {}),
        ("mypy, the SDK on Python 3.10", _tool("mypy", "--python-version", "3.10", "sdk/src"), {}),
        (
            "import-linter",
            [str(provision.VENV / "bin" / "python"), "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
            {},
        ),
    ]


def django() -> list[tuple[str, list[str], dict[str, str]]]:
    """Return the checks of the project itself, with a database at hand."""
    manage = [str(provision.PYTHON), "manage.py"]
    return [
        ("Django checks", [*manage, "check", "--fail-level", "WARNING"], {}),
        ("Django checks on production settings", [*manage, "check", "--deploy", "--fail-level", "WARNING"], production()),
        ("migrations complete", [*manage, "makemigrations", "--check", "--dry-run"], {}),
    ]


def _run_all(output: Output, execute: Execute, checks: Sequence[tuple[str, list[str], dict[str, str]]]) -> list[str]:
    failed = []
    for name, argv, extra in checks:
        output.say(f"\n── {name}")
        began = time.monotonic()
        status = execute(argv, extra)
        output.say(f"── {name}: {'ok' if status == 0 else f'FAILED (exit status {status})'}, {time.monotonic() - began:.1f} s")
        if status != 0:
            failed.append(name)
    return failed


def lint(output: Output, execute: Execute) -> int:
    """Run the static checks; return the exit status."""
    failed = _run_all(output, execute, static())
    output.say(f"\n{'Failed: ' + ', '.join(failed) if failed else 'All checks passed.'}")
    return 1 if failed else 0


def test(output: Output, execute: Execute, report: Path, arguments: list[str]) -> int:
    """Run everything, or only pytest with the given arguments; return the exit status."""
    report.unlink(missing_ok=True)
    # More workers than cores, since tests also wait for processes and leases; modules in the order of tests/conftest.py.
    chosen = arguments or ["-n", str((os.cpu_count() or 1) + 2), "--dist", "loadscope", "--no-loadscope-reorder"]
    failed = [] if arguments else _run_all(output, execute, [*static(), *django()])
    output.say("\n── tests")
    status = execute(_tool("pytest", *chosen, f"--junit-xml={report}"), {})
    if failed:
        output.say(f"Failed checks: {', '.join(failed)}")
    if status == NO_TESTS:
        output.say("No test was executed.")
    elif report.exists():
        output.say(summary(report, len(failed)))
    return status or (1 if failed else 0)


def summary(report: Path, failed_checks: int) -> str:
    """Return the closing line: how many tests passed, failed (checks count as one each) and were skipped."""
    suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314  pytest wrote it

    def total(name: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    passed = total("tests") - failed - skipped
    line = f"{passed} passed, {failed + failed_checks} failed"
    return f"{line}, {skipped} skipped" if skipped else line
