"""What to do about one node: compares the desired state with what stands there. Pure; znodes.md, part 5, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from registry import rendering

if TYPE_CHECKING:
    from mqadmin_sdk.zk import NodeData
    from registry.models import Publication

Verdict = Literal["published", "write", "repair", "absorb", "behind"]


@dataclass(frozen=True)
class Decision:
    """A verdict on one row after its node was read.

    published: the node holds it already. write: set it on top of what is there, which is ours. repair: the same over a foreign edit.
    absorb: others changed only their own keys, keep them. behind: the node carries a generation that this row does not have yet.
    """

    verdict: Verdict
    version: int | None = None  # of the node as read; None: there is none
    foreign_edit: str = ""  # one of models.Edit
    foreign_data: bytes | None = None
    foreign_keys: tuple[tuple[str, str], ...] = ()
    generation: int | None = None  # embedded in the node


def decide(row: Publication, node: NodeData | None) -> Decision:
    """Say what the row asks for, given its node as it was just read."""
    if row.deleted:
        return _decide_retired(row, node)
    if node is None:
        # Gone although it was published: deleted by others, or the server's data was wiped.
        return (
            Decision("repair", foreign_edit="deleted")
            if (row.published_generation or not row.generation) and row.node_version is not None
            else Decision("write")
        )
    data, version, desired = node.data, node.stat.version, bytes(row.data)
    if data == desired:
        return Decision("published", version)
    generation = rendering.generation_in(row.format, data)
    if generation is not None and generation > row.generation:
        return Decision("behind", version, "changed", data, generation=generation)
    in_flight = generation is not None and row.published_generation < generation < row.generation
    ours = in_flight or rendering.digest(data) == row.published_digest
    # One that was adopted stands although we have published no generation yet.
    edit = "" if ours else ("changed" if row.published_generation or not row.generation else "found")
    keys = rendering.foreign_in(row.format, data, desired, row.foreign_keys)
    if not ours and keys != [list(pair) for pair in row.foreign_keys]:
        return Decision("absorb", version, edit, data, tuple((key, value) for key, value in keys), generation)
    if ours:
        return Decision("write", version, generation=generation)
    return Decision("repair", version, edit, data, generation=generation)


def _decide_retired(row: Publication, node: NodeData | None) -> Decision:
    if node is None:
        return Decision("published")
    recreated = row.published_generation == row.generation
    return Decision("repair" if recreated else "write", node.stat.version, "created" if recreated else "", node.data if recreated else None)
