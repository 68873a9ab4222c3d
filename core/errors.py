"""One error type for what a caller did wrong: services raise it, the API turns it into a problem document, the console into a message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; `pointer` is a JSON pointer into the request's body."""

    pointer: str
    detail: str


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """A refused request: `code` is stable and never translated, `detail` and `hint` are for people, `status` is HTTP's."""

    def __init__(
        self,
        code: str,
        detail: Any,
        *,
        status: int = 400,
        hint: Any = "",
        errors: Sequence[FieldError] = (),
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.hint = hint
        self.errors = tuple(errors)
        self.extra = extra or {}
        self.headers = headers or {}

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}".strip()


def not_found(kind: Any, name: object) -> Problem:
    """No such thing, or none that this person may see."""
    from django.utils.translation import gettext as _

    return Problem("not_found", _("There is no {kind} “{name}”.").format(kind=kind, name=name), status=404)


def conflict(code: str, detail: Any, *, hint: Any = "", extra: dict[str, Any] | None = None) -> Problem:
    """The thing is in a state in which this cannot be done."""
    return Problem(code, detail, status=409, hint=hint, extra=extra)


def changed_meanwhile() -> Problem:
    """The row is not the one that was read: the loser of a compare-and-set."""
    from django.utils.translation import gettext as _

    return conflict("state_changed", _("Somebody else changed this in the meantime."), hint=_("Read it again and decide anew."))
