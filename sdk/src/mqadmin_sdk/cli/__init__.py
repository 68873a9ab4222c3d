"""mqctl: topics, groups, messages and releases from a terminal or a pipeline."""

from __future__ import annotations

import os
import signal
import sys

_EXTRA = {"click", "rich", "yaml", "tomli"}
_ENDING = 3.0  # seconds


def _interrupt(*_: object) -> None:
    """End in order, or after some seconds in any case: whoever is interrupted within a call may wait for itself when it is closed."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, lambda *_: os._exit(130))
        signal.setitimer(signal.ITIMER_REAL, _ENDING)
    raise KeyboardInterrupt


def main() -> None:
    """Run mqctl; the exit code says how it went (docs/mqctl.md)."""
    try:
        from mqadmin_sdk.cli.app import run

        signal.signal(signal.SIGINT, _interrupt)
        code = run()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"mqctl needs {error.name}: pip install 'mqadmin-sdk[cli]'\n")
        sys.exit(2)
    sys.exit(code)
