"""The virtual environment in the checkout, with the pinned requirements; skipped when nothing changed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mqadmin.supervisor import packages
from mqadmin.supervisor.home import CHECKOUT, CannotContinueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mqadmin.supervisor.output import Output

VENV = packages.VENV
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "mqadmin-stamp.json"


def fingerprint(*, tools: bool) -> str:
    """Return what the content of the environment depends on, as one hash."""
    files = [CHECKOUT / "requirements.txt", CHECKOUT / "sdk" / "pyproject.toml", *([CHECKOUT / "requirements-dev.txt"] if tools else [])]
    parts = [str(CHECKOUT), sys.version, *(path.read_text() for path in files if path.exists())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _stamps() -> dict[str, str]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep `make run` and `make test` of one checkout from installing at the same time."""
    handle = os.open(CHECKOUT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def ensure_python(output: Output, log: Path, *, tools: bool) -> None:
    """Make the virtual environment and install what the requirements name, with the tools for tests and lint if wanted."""
    if _is_current(tools=tools):
        return
    with _alone():
        if _is_current(tools=tools):  # somebody else just did it
            return
        _check_venv_module(output, log)
        if not _is_usable():
            output.run("Making the virtual environment .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], log=log, cwd=CHECKOUT)
        name = "requirements-dev.txt" if tools else "requirements.txt"
        pip_install(output, log, "Installing Python packages" + (" and the tools for tests" if tools else ""), name)
        stamps = {**_stamps(), "run": fingerprint(tools=False)}
        if tools:
            stamps["test"] = fingerprint(tools=True)
        STAMP.write_text(json.dumps(stamps, indent=2) + "\n")


def pip_install(output: Output, log: Path, label: str, requirements: str) -> None:
    """Install a requirements file of the checkout into the virtual environment."""
    output.run(
        label,
        [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-r", requirements],
        log=log,
        cwd=CHECKOUT,  # requirements name local packages relative to it
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
    )


def _is_current(*, tools: bool) -> bool:
    return PYTHON.exists() and _stamps().get("test" if tools else "run") == fingerprint(tools=tools)


def _is_usable() -> bool:
    """Tell whether .venv is an environment of this Python in this place (a copied or moved checkout has an unusable one)."""
    if not PYTHON.exists():
        return False
    code = "import sys, pip; print(sys.prefix); print(sys.version)"
    done = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    lines = done.stdout.split("\n", 1)
    return done.returncode == 0 and Path(lines[0]).resolve() == VENV.resolve() and lines[1].strip() == sys.version.strip()


def _check_venv_module(output: Output, log: Path) -> None:
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        return
    package = f"python3.{sys.version_info.minor}-venv"
    problem = packages.install_packages([package], "Python's venv module", output, log)
    if problem:
        raise CannotContinueError(f"Python's venv module is missing. {problem}. Have an administrator run: apt-get install python3-venv")
