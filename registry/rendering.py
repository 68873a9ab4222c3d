"""The bytes of a node: pure functions between what the rooms above decide and what ZooKeeper holds."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk.zk import properties

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROPERTIES = "properties"
JSON = "json"
GENERATION = properties.GENERATION
JSON_GENERATION = "generation"

Pairs = list[tuple[str, str]]
_NOT_KEPT = re.compile("[\0\ud800-\udfff]")


def render_properties(*, zms: Mapping[str, str], own: Mapping[str, str], foreign: Sequence[Sequence[str]], generation: int) -> bytes:
    """Render the keys of ZMS in their order, our generation, our other keys, then what others have put there."""
    pairs: Pairs = [*zms.items(), (GENERATION, str(generation)), *own.items()]
    taken = {key for key, _ in pairs}
    pairs += [(key, value) for key, value in foreign if key not in taken]
    return properties.dumps(pairs)


def render_json(document: Mapping[str, object], generation: int) -> bytes:
    """Render UTF-8 JSON with the generation as its last key."""
    return json.dumps({**document, JSON_GENERATION: generation}, ensure_ascii=False, separators=(",", ":")).encode()


def with_generation(
    kind: str, data: bytes, generation: int, foreign: Sequence[Sequence[str]] | None = None, was_foreign: Sequence[Sequence[str]] = ()
) -> bytes:
    """Render the same content with another generation, and with other foreign keys if any are given."""
    if kind == JSON:
        return render_json(json.loads(data), generation)
    pairs = properties.loads(data)
    pairs[GENERATION] = str(generation)
    if foreign is not None:
        for key, _ in was_foreign:
            pairs.pop(key, None)
        for key, value in foreign:
            pairs.setdefault(key, value)
    return properties.dumps(pairs)


def generation_in(kind: str, data: bytes | None) -> int | None:
    """Return the generation embedded in a node, or None: not ours, broken, or not there."""
    if data is None:
        return None
    try:
        if kind == PROPERTIES:
            return properties.generation_of(properties.loads(data))
        document: Any = json.loads(data)
        found = document.get(JSON_GENERATION) if isinstance(document, dict) else None
        return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**62 else None
    except (ValueError, RecursionError):  # PropertiesError, JSONDecodeError and UnicodeDecodeError are ValueErrors
        return None


def foreign_in(kind: str, node: bytes, desired: bytes, known: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the keys of unknown origin in a node, in its order: neither ours nor of the layout that we write there.

    What neither Postgres nor a node of ours can carry (NUL, half of a surrogate pair) is not kept.
    """
    if kind != PROPERTIES:
        return []
    try:
        found = properties.loads(node)
    except properties.PropertiesError:
        return [list(pair) for pair in known]
    ours = set(properties.loads(desired)) - {key for key, _ in known}
    theirs = ((key, value) for key, value in found.items() if key and key not in ours and not key.startswith(properties.OWN_PREFIX))
    return [[key, value] for key, value in theirs if not _NOT_KEPT.search(key + value)]


def values_in(kind: str, data: bytes) -> dict[str, str]:
    """The keys of a node with their values as text, without our generation; what cannot be read is one value under no name."""
    found = pairs_of(kind, data)
    found.pop(JSON_GENERATION if kind == JSON else GENERATION, None)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of a node: the values wanted and found, None where it is not there."""

    key: str
    wanted: str | None
    found: str | None

    @property
    def kind(self) -> Literal["same", "changed", "missing", "added"]:
        """How the node differs from what is wanted."""
        if self.wanted == self.found:
            return "same"
        return "missing" if self.found is None else "added" if self.wanted is None else "changed"

    @property
    def own(self) -> bool:
        """Whether it is a key that mqadmin adds to those of ZMS."""
        return self.key.startswith(properties.OWN_PREFIX)


def pairs_of(kind: str, data: bytes | None) -> dict[str, str]:
    """The keys and values of a node, as text, in its order. Bytes that are neither properties nor JSON are one value without a key."""
    if data is None:
        return {}
    try:
        found = json.loads(data) if kind == JSON else properties.loads(data)
        items = found.items()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {"": data.decode("utf-8", "replace")}
    return {str(key): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in items}


def differences(kind: str, wanted: bytes | None, found: bytes | None) -> list[Difference]:
    """What is wanted and what was found, key by key: in the order of what is wanted, then what was added."""
    ours, theirs = pairs_of(kind, wanted), pairs_of(kind, found)
    return [Difference(key, ours.get(key), theirs.get(key)) for key in [*ours, *(key for key in theirs if key not in ours)]]


def digest(data: bytes) -> str:
    """Name these bytes."""
    return hashlib.sha256(data).hexdigest()
