"""Bases of the API's views: natural keys in paths, permissions by action, pages in a unique order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import FieldError, Problem
from core.names import PATTERN

if TYPE_CHECKING:
    from accounts.models import User

Method = TypeVar("Method", bound=Callable[..., Any])


class ReadViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """List and detail; `permissions_by_action` names the permission that each action needs."""

    permissions_by_action: ClassVar[dict[str, str]] = {}
    page_order: ClassVar[str] = "pk"

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A filter that does not exist is an error: ignored, it would show everything as if it matched."""
        filterset = getattr(self, "filterset_class", None)
        named = list(filterset.base_filters) if filterset else list(getattr(self, "filterset_fields", ()))
        known = [*named, "limit", "cursor", "count", "format"]
        if unknown := sorted(set(request.query_params) - set(known)):
            detail = _("Unknown fields: {names}.").format(names=", ".join(unknown))
            raise Problem("unknown_parameter", detail, hint=_("Known are: {names}.").format(names=", ".join(known)))
        return super().list(request, *args, **kwargs)


class NamedViewSet(ReadViewSet):
    """A resource that is found by its name, which may contain `.` and `%`."""

    lookup_field = "name"
    lookup_value_regex = PATTERN
    page_order: ClassVar[str] = "name"


def actor(request: Request) -> User:
    """The person of a request; permissions have been checked before."""
    return cast("User", request.user)


def validated(serializer: type[serializers.Serializer[Any]], request: Request, *, partial: bool = False) -> dict[str, Any]:
    """The body, checked; a field that does not exist is an error, not ignored."""
    if not isinstance(request.data, dict):
        raise Problem("invalid", _("The body must be a JSON object."), hint=_("Send Content-Type: application/json."))
    checked = serializer(data=request.data, partial=partial)
    _refuse_unknown(checked, request.data, "")
    if errors := _mistyped(checked, request.data):
        raise Problem("invalid", errors[0].detail if len(errors) == 1 else _("Some fields are not right."), errors=errors)
    checked.is_valid(raise_exception=True)
    # Of a partial body only what was sent: defaults are for what is made anew.
    return {key: value for key, value in checked.validated_data.items() if not partial or key in request.data}


def _refuse_unknown(checked: serializers.Serializer[Any], body: dict[str, Any], pointer: str) -> None:
    known = [name for name, field in checked.fields.items() if not field.read_only]
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)),
            hint=_("Known are: {names}.").format(names=", ".join(known)),
            errors=[FieldError(f"{pointer}/{name}", _("There is no such field.")) for name in unknown],
        )


# DRF would take 12 for a name, "12" for a number and "yes" for true: a client's mistake goes unnoticed until it hurts.
_KINDS: list[tuple[type[serializers.Field[Any, Any, Any, Any]], type, str]] = [
    (serializers.CharField, str, "a string"),
    (serializers.ChoiceField, str, "a string"),
    (serializers.SlugRelatedField, str, "a string"),
    (serializers.IntegerField, int, "an integer"),
    (serializers.BooleanField, bool, "true or false"),
]


def _mistyped(field: Any, value: Any, pointer: str = "") -> list[FieldError]:
    """Values of another JSON type than their field's; null is left to the field. Problem: unknown_field."""
    if isinstance(field, serializers.BaseSerializer | serializers.ListField) and (child := getattr(field, "child", None)) is not None:
        return [e for i, item in enumerate(value) for e in _mistyped(child, item, f"{pointer}/{i}")] if isinstance(value, list) else []
    if isinstance(field, serializers.Serializer):
        if not isinstance(value, dict):
            return []
        _refuse_unknown(field, value, pointer)
        inside = ((name, inner) for name, inner in field.fields.items() if name in value)
        return [e for name, inner in inside for e in _mistyped(inner, value[name], f"{pointer}/{name}")]
    for kind, wanted, word in _KINDS:
        if isinstance(field, kind) and value is not None and type(value) is not wanted:
            return [FieldError(pointer, _("“{name}” must be {kind}.").format(name=pointer.rpartition("/")[2], kind=word))]
    return []


def extend(body: type[serializers.Serializer[Any]] | None, response: Any, status: int = 200) -> Callable[[Method], Method]:
    """What an action takes and answers, for OpenAPI."""
    return extend_schema(request=body, responses={status: response})
