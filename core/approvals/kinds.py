"""Kinds of requests: a room says what can be asked for, how it is checked, applied and shown; the workflow is the same for all.

class Reset(Kind):
    name = "group.reset"; label = _("Reset of a group"); subject = "consumer group"
    ask = "consumers.add_consumergroup"; decide = "consumers.approve_consumergroup"
    fields = {"to": Field(_("To"), str)}

    def draft(self, ask: Ask) -> Draft: …         # check it, in the transaction of submit and edit
    def apply(self, request, decision) -> dict: …  # do it, in the transaction of the approval

register(Reset())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from django.utils.translation import gettext as _

from core.errors import FieldError, Problem, conflict

if TYPE_CHECKING:
    from accounts.models import User
    from core.approvals.models import Policy, Request


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be asked for: its label, its JSON type, and the unit it is shown with."""

    label: Any
    type: type
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody asks for: before it is a request, or when a request is edited (`request`)."""

    actor: User
    target: str
    payload: dict[str, Any]
    reason: str
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """An ask that has been checked: what the request will hold."""

    payload: dict[str, Any]
    application_id: int | None
    owner_id: int | None = None
    before: dict[str, Any] = field(default_factory=dict)
    base_version: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # rate (messages/s), message_bytes, partitions: what policies limit


@dataclass(frozen=True, slots=True)
class Decision:
    """An approval: by whom (None: a policy), why, what the approver added, such as the cluster, and whether warnings were accepted."""

    actor: User | None
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    policy: str = ""
    forced: bool = False


class Kind:
    """A kind of request; derive, and `register` an instance."""

    name: ClassVar[str]
    label: Any
    subject: ClassVar[str]  # the audit's word for the target
    icon: ClassVar[str] = "request"
    ask: ClassVar[str]  # permission to ask for it
    decide: ClassVar[str]  # permission to approve and decline it
    retires: ClassVar[bool] = False
    fields: ClassVar[Mapping[str, Field]] = {}
    wants: ClassVar[Sequence[str]] = ()  # what an approver adds
    submitted_word: ClassVar[str] = "ask for"  # what the audit says

    def look_up(self, payload: Mapping[str, Any]) -> None:
        """Ask the network about what somebody asks for, such as the name in an address; raises Problems. Before any transaction."""

    def draft(self, ask: Ask) -> Draft:
        """Check what is asked for; raises Problems whose pointers are relative to the payload. In the caller's transaction."""
        raise NotImplementedError

    def apply(self, request: Request, decision: Decision) -> dict[str, Any]:
        """Do it, with its audit entry, in the caller's transaction; returns what the request keeps as its outcome."""
        raise NotImplementedError

    def warnings(self, request: Request, values: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """What the approver has to accept expressly."""
        return []

    def suggested(self, request: Request) -> Mapping[str, Any]:  # noqa: ARG002
        """What an approver who approves many at once adds to this one."""
        return {}

    def policy_values(self, request: Request, policy: Policy) -> Mapping[str, Any] | None:  # noqa: ARG002
        """What a policy adds in an approver's place; None: it cannot approve this one."""
        return {}

    def declined(self, request: Request, decision: Decision) -> None:
        """What becomes of a thing that was reserved."""

    def reopened(self, request: Request) -> None:
        """Sent again after a decline."""

    def withdrawn(self, request: Request) -> None:
        """Give back what was reserved."""

    def current(self, request: Request) -> tuple[int, dict[str, Any]] | None:  # noqa: ARG002
        """The target's version and its values of the payload's fields now, of a change; None if there is nothing to compare."""
        return None

    def places(self, request: Request) -> list[dict[str, Any]] | None:  # noqa: ARG002
        """Where it could go, as the API's placement shows it; None: it goes nowhere."""
        return None

    def url(self, request: Request) -> str:  # noqa: ARG002
        """The target's page, empty if it has none."""
        return ""

    def diff(self, request: Request) -> list[dict[str, Any]]:
        """What is asked for, field by field: `field`, `label`, `old` (None for a new thing), `new`, `unit`."""
        return [
            {
                "field": name,
                "label": known.label,
                "old": request.before.get(name),
                "new": request.payload[name],
                "unit": known.unit,
            }
            for name, known in self.fields.items()
            if name in request.payload and (request.base_version is None or request.payload[name] != request.before.get(name))
        ]

    def checked(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The payload if all of its fields exist and have the right JSON type. Problems: `unknown_field`, `invalid`."""
        unknown = sorted(set(payload) - set(self.fields))
        if unknown:
            raise Problem(
                "unknown_field",
                _("Unknown fields: {names}.").format(names=", ".join(unknown)),
                hint=_("Known are: {names}.").format(names=", ".join(self.fields)),
                errors=[FieldError(f"/{name}", _("There is no such field.")) for name in unknown],
            )
        wrong = [
            FieldError(f"/{name}", _("“{name}” must be {kind}.").format(name=name, kind=_TYPES[self.fields[name].type]))
            for name, value in payload.items()
            if type(value) is not self.fields[name].type
        ]
        wrong += [
            FieldError(f"/{name}", _("Null characters are not allowed."))
            for name, value in payload.items()
            if isinstance(value, str) and "\x00" in value
        ]
        if wrong:
            raise Problem("invalid", wrong[0].detail if len(wrong) == 1 else _("Some fields are not right."), errors=wrong)
        return dict(payload)


_TYPES: dict[type, str] = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}
_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind known; rooms do it when they are ready."""
    _kinds[kind.name] = kind


def get(name: str) -> Kind:
    """The kind of this name. Problem: `unknown_kind`."""
    if name not in _kinds:
        detail = _("There is no kind of request “{name}”.").format(name=name)
        hint = _("Known are: {names}.").format(names=", ".join(sorted(_kinds)))
        raise Problem("unknown_kind", detail, hint=hint, errors=[FieldError("/kind", detail)])
    return _kinds[name]


class Unknown(Kind):
    """What another version of mqadmin knows how to do: here it can be read, and neither decided nor edited."""

    subject = "request"
    ask = decide = "approvals.unknown_kind"  # nobody's

    def __init__(self, name: str) -> None:
        self.name = self.label = name  # type: ignore[misc]

    def current(self, request: Request) -> tuple[int, dict[str, Any]] | None:
        """Nobody here knows: it is not said to have changed."""
        return (request.base_version or 0, request.before)

    def diff(self, request: Request) -> list[dict[str, Any]]:
        """As it stands there."""
        return [
            {"field": name, "label": name, "old": request.before.get(name), "new": value, "unit": ""}
            for name, value in request.payload.items()
        ]


def of(request: Request) -> Kind:
    """The kind of a request that is only looked at: one that this version does not know must not hide the others."""
    return _kinds.get(request.kind) or Unknown(request.kind)


def label(name: str) -> Any:
    """The kind in words; one that this version does not know stays as it is."""
    return _kinds[name].label if name in _kinds else name


def every() -> list[Kind]:
    """All kinds, in the order in which the rooms registered them."""
    return list(_kinds.values())


def choices() -> list[tuple[str, Any]]:
    """Names and labels, for filters and forms."""
    return [(kind.name, kind.label) for kind in _kinds.values()]


def nothing_changes() -> Problem:
    """A change that changes nothing."""
    return conflict("nothing_changes", _("Nothing would change."), hint=_("Ask for at least one value that differs from the present one."))
