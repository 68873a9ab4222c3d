"""The moves of things between states, once for topics and groups; requests and their verbs are in `workflow`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals.models import Approvable, State
from core.errors import FieldError, Problem, conflict

if TYPE_CHECKING:
    from accounts.models import User

Thing = TypeVar("Thing", bound=Approvable)


def require_reason(reason: str) -> str:
    """A decision against somebody says why."""
    if not reason.strip():
        detail = _("Give a reason; the person who applied reads it.")
        raise Problem("reason_required", detail, errors=[FieldError("/reason", detail)])
    return reason.strip()


def move(*, thing: Thing, expected: State, to: State, values: Mapping[str, Any] | None = None) -> Thing:
    """Compare-and-set of the state: of two people who decide at once, one wins and the other is told."""
    values = {**(values or {}), "state": to, "changed_at": timezone.now()}
    manager = type(thing)._default_manager  # noqa: SLF001 - Django's public name for it
    if manager.filter(pk=thing.pk, state=expected, version=thing.version).update(version=F("version") + 1, **values) != 1:
        raise changed(expected)
    thing.refresh_from_db()
    return thing


def check_seen(*, thing: Approvable, version: int | None) -> None:
    """Refuse a decision on something else than what the person had before their eyes; None: nobody says what they saw."""
    if version is not None and version != thing.version:
        raise changed(State(thing.state))


def changed(expected: State) -> Problem:
    """Somebody was quicker."""
    return conflict(
        "state_changed",
        _("Somebody else changed this in the meantime, or it is no longer {state}.").format(state=State(expected).label),
        hint=_("Read it again and decide anew."),
    )


def require_state(*, thing: Approvable, allowed: tuple[State, ...], what: str) -> None:
    """Refuse what does not fit the present state, and say which state it is."""
    if thing.state not in allowed:
        raise conflict(
            "wrong_state",
            _("This cannot be done: it is {state}.").format(state=State(thing.state).label),
            hint=_("Possible while: {states}.").format(states=", ".join(str(state.label) for state in allowed)),
            extra={"state": thing.state, "action": what},
        )


def decision(*, actor: User | None, reason: str = "") -> dict[str, Any]:
    """The columns that a decision sets; actor None: a policy decided."""
    return {"decided_by_id": actor.pk if actor else None, "decided_at": timezone.now(), "decision_reason": reason}
