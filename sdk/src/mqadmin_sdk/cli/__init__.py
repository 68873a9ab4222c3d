"""mqctl: topics, groups, messages and releases from a terminal or a pipeline."""

from __future__ import annotations

import sys

_EXTRA = {"click", "rich", "yaml", "tomli"}


def main() -> None:
    """Run mqctl; the exit code says how it went (docs/mqctl.md)."""
    try:
        from mqadmin_sdk.cli.app import run

        code = run()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"mqctl needs {error.name}: pip install 'mqadmin-sdk[cli]'\n")
        sys.exit(2)
    sys.exit(code)
