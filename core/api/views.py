"""Bases of the API's views: natural keys in paths, permissions by action, pages in a unique order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import django_filters
from django.utils.translation import gettext as _
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.conventions import View, address
from core.api.fields import replaced
from core.api.parameters import boolean
from core.errors import FieldError, Problem
from core.names import PATTERN

if TYPE_CHECKING:
    from accounts.models import User

Method = TypeVar("Method", bound=Callable[..., Any])


class ReadViewSet(View, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """List and detail; `permissions_by_action` names the permission that each action needs."""

    page_order: ClassVar[str] = "pk"

    def get_queryset(self) -> Any:
        """What the person may do this with; the rest does not exist for them."""
        return self.restricted(super().get_queryset())

    def restricted(self, rows: Any) -> Any:
        """Cut down to the reach of the permission that the action needs."""
        permission = self.permissions_by_action.get(self.action or "")
        return rows.restrict(self.request.user, permission) if permission and hasattr(rows, "restrict") else rows

    def parameters_of(self, method: str) -> list[str]:
        """Of a list its filters and the page too."""
        names = super().parameters_of(method)
        return [*self._filters(), "limit", "cursor", "count", *names] if self.action == "list" else names

    def repeatable(self) -> list[str]:
        """Filters that take several values."""
        several = [name for name, one in self._filters().items() if isinstance(one, django_filters.MultipleChoiceFilter)]
        return [*super().repeatable(), *several]

    def known_fields(self) -> list[str]:
        """Those of the serializer."""
        if self.action not in {"list", "retrieve"}:
            return super().known_fields()
        serializer: Any = self.get_serializer_class()()
        return [*serializer.fields]

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A filter's value that is none is an error: ignored, it would show everything as if it matched."""
        for name, one in self._filters().items():
            if isinstance(one, django_filters.BooleanFilter):
                boolean(request, name)
        return super().list(request, *args, **kwargs)

    def get_object(self) -> Any:
        """The thing of the address; a change or an action is held against If-Match. Problems: not_found, precondition_required, stale."""
        found = super().get_object()
        if self.versioned:
            self.check_version(found)
        return found

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        """With the fields only that are asked for."""
        serializer: Any = super().get_serializer(*args, **kwargs)
        if self.selected is not None:
            fields = getattr(serializer, "child", serializer).fields
            for name in set(fields) - set(self.selected):
                fields.pop(name)
        return serializer

    def _filters(self) -> dict[str, Any]:
        backend = DjangoFilterBackend()
        rows = cast("Any", self).queryset
        filterset = backend.get_filterset_class(self, rows)
        return dict(filterset.base_filters) if filterset else {}


class NamedViewSet(ReadViewSet):
    """A resource that is found by its name, which may contain `.` and `%`."""

    lookup_field = "name"
    lookup_value_regex = PATTERN
    page_order: ClassVar[str] = "name"

    def to_replace(self, name: str) -> Any:
        """What a PUT replaces, held against If-Match; None: it is to be made. Problems: precondition_required, stale."""
        found = self.get_queryset().filter(name=name).first()
        if found is None:
            self.preconditions.check_absent()
        else:
            self.check_version(found)
        return found

    def put_answer(self, document: Mapping[str, Any], *, made: bool, changed: bool) -> Response:
        """201 for what was made, 200 for the rest, and whether anything is different now."""
        code = status.HTTP_201_CREATED if made else status.HTTP_200_OK
        return Response({**document, "changed": changed}, status=code, headers=self.location() if made else None)

    def asked_answer(self, request: Any) -> Response:
        """202: what was asked for waits for another person."""
        document = {"request": request.pk, "state": request.state, "changed": False}
        address = self.request.build_absolute_uri(f"/api/v1/requests/{request.pk}")
        return Response(document, status=status.HTTP_202_ACCEPTED, headers={"Location": address})

    def location(self) -> dict[str, str]:
        """The header that names what was made."""
        return {"Location": address(self.request)}


def actor(request: Request) -> User:
    """The person of a request; permissions have been checked before."""
    return cast("User", request.user)


def validated(serializer: type[serializers.Serializer[Any]], request: Request, *, partial: bool = False) -> dict[str, Any]:
    """The body, checked; a field that does not exist is an error, not ignored. Of a partial body only what was sent: no defaults."""
    if not isinstance(request.data, dict):
        raise Problem("invalid", _("The body must be a JSON object."), hint=_("Send Content-Type: application/json."))
    checked = serializer(data=request.data, context={"request": request})
    _refuse_unknown(checked, request.data, "")
    if partial:  # by hand: DRF's would let things within the fields be incomplete too
        for name in set(checked.fields) - set(request.data):
            checked.fields.pop(name)
    if errors := _mistyped(checked, request.data):
        raise Problem("invalid", errors[0].detail if len(errors) == 1 else _("Some fields are not right."), errors=errors)
    checked.is_valid(raise_exception=True)
    return dict(checked.validated_data)


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


def extend_put(
    body: type[serializers.Serializer[Any]], document: type[serializers.Serializer[Any]], asked: Any = None
) -> Callable[[Method], Method]:
    """What a PUT takes and answers, for OpenAPI: made, changed, or as it was; `asked` (202): it waits for a decision."""
    answer = replaced(document)
    responses: dict[int, Any] = {status.HTTP_200_OK: answer, status.HTTP_201_CREATED: answer}
    return extend_schema(request=body, responses={**responses, status.HTTP_202_ACCEPTED: asked} if asked else responses)
