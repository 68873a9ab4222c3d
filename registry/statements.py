"""The room's named SQL, one statement a file in `sql/`."""

from functools import cache
from pathlib import Path


@cache
def sql(name: str) -> str:
    """Return the statement of a file."""
    return (Path(__file__).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")
