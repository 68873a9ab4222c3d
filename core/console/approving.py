"""What pages of topics and groups share: who may do what now, and why not."""

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from core.approvals.models import Approvable, State
from core.audit.models import AuditEntry
from core.audit.reading import changes
from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import person
from core.scope import may


def why_not(user: Any, permission: str, thing: Approvable, states: Sequence[State], *, four_eyes: bool = False, own: bool = False) -> Any:
    """The reason for which a person cannot do it now, empty if they can; the services check it again."""
    if not user.has_perm(permission):
        return NOT_ALLOWED
    if thing.state not in states:
        return _("Possible while it is {states}; it is {state}.").format(
            states=", ".join(str(state.label) for state in states), state=State(thing.state).label
        )
    if four_eyes and thing.requested_by_id == user.pk:
        return _("You applied for this yourself; another person decides.")
    if own and thing.requested_by_id != user.pk:
        return _("Only the person who applied edits the request.")
    return ""


def ask(user: Any, label: Any, url: str, permission: str, thing: Any) -> Action:
    """The button with which somebody asks for something about a thing; another person decides."""
    return Action(label, url, "request", why="" if may(user, permission, thing) else NOT_ALLOWED)


def retire(user: Any, thing: Any, *, room: str, ask: str, why: Any) -> Action:
    """Retire at once if one may (`why` is empty), else ask for it if one may do that."""
    if why and may(user, ask, thing):
        return Action(_("Ask for retirement"), reverse(f"admin:{room}_ask_retire", args=[thing.name]), "request")
    return Action(_("Retire"), reverse(f"admin:{room}_retire", args=[thing.name]), "stop", "danger", why=why)


def decisions(request: HttpRequest, thing: Any, *, room: str, model: str, app: str) -> list[Action]:
    """The buttons of a request that is not active yet; those that make no sense in its state are left out."""
    user = person(request)

    def url(page: str) -> str:
        return reverse(f"admin:{room}_{page}", args=[thing.name])

    approve, change = f"{app}.approve_{model}", f"{app}.add_{model}"
    if thing.state == State.PENDING:
        why = why_not(user, approve, thing, [State.PENDING], four_eyes=True)
        return [
            Action(_("Edit"), url("edit"), "edit", why=why_not(user, change, thing, [State.PENDING], own=True)),
            Action(_("Reject"), url("reject"), "close", "danger", why=why),
            Action(_("Approve"), url("approve"), "check", "primary", why=why),
        ]
    if thing.state == State.REJECTED:
        why = why_not(user, change, thing, [State.REJECTED], own=True)
        return [Action(_("Edit"), url("edit"), "edit", why=why), Action(_("Send again"), url("resubmit"), "send", "primary", why=why)]
    return []


def history(kind: str, name: str, limit: int = 100) -> list[AuditEntry]:
    """The audit of one thing, newest first, each entry with its `change_text`."""
    entries = list(AuditEntry.objects.filter(kind=kind, name=name).order_by("-id")[:limit])
    for entry in entries:
        entry.change_text = changes(entry)  # type: ignore[attr-defined]
    return entries
