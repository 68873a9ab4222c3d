"""What instances count of their work, shown to people; observing.py keeps it as they tell it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from registry.querysets import InstanceQuerySet

#: Those of our SDK's consumers, the most telling first; an application's own are shown by the name that it gave them.
NAMES = {
    "succeeded": gettext_lazy("succeeded"),
    "failed": gettext_lazy("failed"),
    "later": gettext_lazy("later"),
    "dead": gettext_lazy("dead"),
    "leaked": gettext_lazy("leaked"),
    "in_hand": gettext_lazy("in hand"),
    "running": gettext_lazy("being handled"),
    "received": gettext_lazy("received"),
    "given_back": gettext_lazy("given back"),
    "given_up": gettext_lazy("given up"),
    "thrown_away": gettext_lazy("handled too late"),
    "refused": gettext_lazy("not taken by the broker"),
    "expired": gettext_lazy("lease ended"),
    "lost": gettext_lazy("taken away"),
    "held_back": gettext_lazy("behind a failed one"),
    "moved": gettext_lazy("position moved"),
}
_PLACES = {name: place for place, name in enumerate(NAMES)}
_BAD = frozenset({"failed", "dead", "leaked"})
_BRIEF = 3


@dataclass(frozen=True, slots=True)
class Count:
    """One number, for people."""

    name: str
    label: Any
    value: float

    @property
    def is_bad(self) -> bool:
        """Whether somebody may want to look."""
        return self.name in _BAD and self.value > 0


@dataclass(frozen=True, slots=True)
class Sum:
    """What the online instances of a path count together; `tell` of `online` say it, none of it is older than `oldest`."""

    counts: list[Count]
    tell: int
    online: int
    oldest: datetime | None


def shown(counts: Mapping[str, float]) -> list[Count]:
    """All of them, the most telling first."""
    names = sorted(counts, key=lambda name: (_PLACES.get(name, len(_PLACES)), name))
    return [Count(name, NAMES.get(name, name), counts[name]) for name in names]


def brief(counts: Mapping[str, float]) -> list[Count]:
    """The few that a row of a list has room for: what is zero only if nothing else is there."""
    every = shown(counts)
    return ([one for one in every if one.value] or every)[:_BRIEF]


def summed(instances: InstanceQuerySet) -> Sum:
    """What those of them that are online count together."""
    total: Counter[str] = Counter()
    told = list(instances.online().values_list("counts", "counted_at"))
    times = []
    for counts, counted_at in told:
        if counts and counted_at:
            total.update(counts)
            times.append(counted_at)
    return Sum(shown(total), len(times), len(told), min(times, default=None))
