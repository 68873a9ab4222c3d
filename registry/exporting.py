"""The tree as Postgres wants it, as lines of JSON: to keep, to compare, to import elsewhere. ZooKeeper is not asked."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from registry.models import Publication

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 500


def lines(rows: Any = None) -> Iterator[str]:
    """A line for each node that should stand, in the order of the paths; in steps, so that no transaction is open for long.

    `rows`: only of these publications.
    """
    wanted = (Publication.objects.all() if rows is None else rows).filter(deleted=False, generation__gt=0).order_by("path")
    last = ""
    while True:
        chunk = list(wanted.filter(path__gt=last).only("path", "data", "generation")[:CHUNK])
        for row in chunk:
            yield json.dumps(line_of(row), ensure_ascii=False) + "\n"
        if len(chunk) < CHUNK:
            return
        last = chunk[-1].path


def line_of(row: Publication) -> dict[str, Any]:
    """Its path, its bytes as text or, if they are none, in base64, and the generation that stands in them."""
    data = bytes(row.data)
    try:
        content = {"data": data.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(data).decode()}
    return {"path": row.path, **content, "generation": row.generation}
