"""Java `.properties` text as ZooKeeper nodes carry it: ASCII, key order kept, read by `java.util.Properties` and by us."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GENERATION = "mqadmin.generation"
OWN_PREFIX = "mqadmin."
# Nothing escaped, no comment, no blank that would not count: nearly every node, and read at a tenth of the cost.
_PLAIN = re.compile(rb"(?:[A-Za-z0-9_.-]+=(?:[!-\[\]-~][ -\[\]-~]*)?\n)*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class PropertiesError(ValueError):
    """The text is not Java properties, or a value cannot be carried by them."""


def dumps(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    r"""Render the pairs in their order, one `key=value` a line, ended by `\n`, ASCII with `\uXXXX`, no comment.

    Blanks at the end of a value are written as `\u0020`, so that no line ends in a blank that an editor or a trimming reader would lose.
    """
    import javaproperties  # here, as it loads all that reads XML

    items = pairs.items() if hasattr(pairs, "items") else pairs
    lines = []
    for key, value in items:
        if not isinstance(key, str) or not isinstance(value, str):
            raise PropertiesError(f"{key!r}: keys and values are text")
        if _LONE_SURROGATE.search(key) or _LONE_SURROGATE.search(value):
            raise PropertiesError(f"{key!r}: half of a surrogate pair is no text")
        if not key:
            raise PropertiesError("a property has a name")
        head = value.rstrip(" ")
        lines.append(javaproperties.join_key_value(key, head, ensure_ascii=True) + "\\u0020" * (len(value) - len(head)))
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def loads(data: bytes | None) -> dict[str, str]:
    """Read what `Properties.load(InputStream)` would: Latin-1 bytes; of a key given twice the last value counts, at the first place."""
    if not data:
        return {}
    if _PLAIN.fullmatch(data):
        return {sys.intern(key): value for key, _, value in (line.partition("=") for line in data.decode("ascii").splitlines())}
    import javaproperties

    try:
        return dict(javaproperties.loads(data))
    except ValueError as error:
        raise PropertiesError(str(error)) from error


def generation_of(pairs: Mapping[str, str]) -> int | None:
    """Return the generation that mqadmin embedded, or None where there is none or it is no number."""
    text = pairs.get(GENERATION, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
