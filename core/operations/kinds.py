"""What kinds of operations there are: a room registers each with the function that does one item.

    kinds.register(Kind(name="topics.tidy", label=_("Tidy topics"), permission="topics.change_topic", perform=tidy))

`perform(actor, item, params)` runs inside the transaction that also marks the item done: it writes to Postgres, through services,
and to nothing else (what must reach ZooKeeper or a broker is a row there: a publication, a message). It returns, or raises Problem,
which becomes the item's reason. Whatever it raises, the other items go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _

from core.errors import Problem

if TYPE_CHECKING:
    from accounts.models import User
    from core.operations.models import Operation

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do: `key` names it for people, `input` is what `start` was given with it, `step` the step that it belongs to."""

    index: int
    key: str
    input: Mapping[str, Any]
    step: str
    operation_id: int = 0


Perform = Callable[["User | None", Item, Params], None]
PerformMany = Callable[["User | None", Sequence[Item], Params], "Sequence[Problem | None]"]


@dataclass(frozen=True, slots=True)
class Step:
    """A part of an operation: it begins when no item of the part before is open; a failed item of a `required` one ends the operation."""

    name: str
    label: Any
    required: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """What a guard answers when the time has not come: why, for people; it is asked again after `seconds`."""

    detail: str
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of operation.

    `permission` is what the person who starts it needs, now and at each chunk; empty for none. `perform_many` does all items of a
    chunk with few statements and answers for each, None for done, or only for the first of them when it has had enough; when it raises,
    nothing of it stays and `perform` is asked for each. `chunk` is the number of items per transaction.

    `pace` tells from the parameters how many items are done per second at most; None: as fast as it goes. `guard(operation, between)`
    looks whether the operation may go on, before each chunk and, with `between`, before the next step begins: None for yes, `Wait`, or a
    Problem that pauses it; when a person resumes it all the same, `resumed` is told in the same transaction.
    """

    name: str
    label: Any
    permission: str
    perform: Perform
    perform_many: PerformMany | None = None
    steps: Sequence[Step] = (Step("items", _("Items")),)
    chunk: int = 200
    pace: Callable[[Params], float | None] | None = None
    guard: Callable[[Operation, bool], Problem | Wait | None] | None = None
    resumed: Callable[[Operation], None] | None = None

    def step(self, number: int) -> Step:
        """The step of this number; one that this version does not know has only its number."""
        return self.steps[number] if number < len(self.steps) else Step(str(number), str(number))


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known; the same name twice is a mistake in the code."""
    if kind.name in _kinds:
        raise ValueError(f"the kind {kind.name} is registered twice")
    _kinds[kind.name] = kind
    return kind


@cache
def discover() -> dict[str, Kind]:
    """Import each room's `bulk` module when somebody first asks: it brings REST along, which most processes never need."""
    autodiscover_modules("bulk")
    return _kinds


def get(name: str) -> Kind | None:
    """The kind of this name; None when this version of mqadmin does not know it."""
    return discover().get(name)


def names() -> list[str]:
    """All that are known."""
    return sorted(discover())


def label(name: str) -> str:
    """The kind in the reader's language; one that we do not know stays as it is."""
    kind = discover().get(name)
    return str(kind.label) if kind else name
