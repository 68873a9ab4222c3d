"""Query parameters, read strictly: what is misspelt or malformed is refused, never ignored."""

from collections.abc import Collection, Iterable
from typing import Any

from django.utils.translation import gettext as _
from rest_framework.request import Request

from core.errors import FieldError, Problem

FIELDS = "fields"


def invalid(name: str, detail: Any) -> Problem:
    """What is wrong with one parameter."""
    return Problem("invalid_parameter", detail, errors=[FieldError(f"/{name}", str(detail))])


def check_known(request: Request, known: Collection[str], repeatable: Collection[str] = ()) -> None:
    """Refuse parameters that do not exist, stand there twice or say nothing. Problems: unknown_parameter, invalid_parameter."""
    if unknown := sorted(set(request.query_params) - set(known)):
        hint = _("Known are: {names}.").format(names=", ".join(known))
        if "wait" in unknown:
            hint = _(
                "Here nothing waits: a write of one topic, consumer group or shadow group does. Leave it away, and ask afterwards:"
                " GET …/applied?wait=… of each, or the operation."
            )
        raise Problem("unknown_parameter", _("Unknown parameters: {names}.").format(names=", ".join(unknown)[:400]), hint=hint)
    for name in request.query_params:
        if name not in repeatable and len(request.query_params.getlist(name)) > 1:
            raise invalid(name, _("“{name}” is there more than once.").format(name=name))
        if request.query_params[name] == "" and name != "cursor":  # which is refused as no cursor of ours
            raise invalid(name, _("“{name}” is empty.").format(name=name))


def boolean(request: Request, name: str) -> bool:
    """`true` or `false`, false if it is missing. Problem: invalid_parameter."""
    value = request.query_params.get(name, "false")
    if value not in {"true", "false"}:
        raise invalid(name, _("“{name}” must be {kind}.").format(name=name, kind="true or false"))
    return value == "true"


def limit(request: Request, *, default: int, highest: int, name: str = "limit") -> int:
    """How many on a page. Problem: invalid_parameter."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and 1 <= int(value) <= highest):
        raise invalid(name, _("“{name}” must be {low} to {high}.").format(name=name, low=1, high=highest))
    return int(value)


def selected(request: Request) -> list[str] | None:
    """The fields that `?fields=` names; None for all."""
    value = request.query_params.get(FIELDS)
    return None if value is None else [name.strip() for name in value.split(",")]


def check_selection(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse fields that the document does not have. Problem: unknown_field."""
    if unknown := sorted(set(names) - set(known)):
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)[:400]),
            hint=_("Known are: {names}.").format(names=", ".join(known)),
            errors=[FieldError("/fields", _("There is no such field."))],
        )


def select(document: Any, names: Collection[str]) -> Any:
    """The document, or each of a page, with these fields only."""
    if not isinstance(document, dict):
        return document
    rows = document.get("results")
    if isinstance(rows, list):
        return {**document, "results": [_only(row, names) for row in rows]}
    return _only(document, names)


def _only(document: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    if document:
        check_selection(names, document)
    return {key: value for key, value in document.items() if key in names}
