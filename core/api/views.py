"""Bases of the API's views: natural keys in paths, permissions by action, pages in a unique order."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request

from accounts.models import User
from core.errors import FieldError, Problem
from core.names import PATTERN

Method = TypeVar("Method", bound=Callable[..., Any])


class ReadViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """List and detail; `permissions_by_action` names the permission that each action needs."""

    permissions_by_action: ClassVar[dict[str, str]] = {}
    page_order: ClassVar[str] = "pk"


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
    unknown = sorted(set(request.data) - {name for name, field in checked.fields.items() if not field.read_only})
    if unknown:
        known = ", ".join(name for name, field in checked.fields.items() if not field.read_only)
        errors = [FieldError(f"/{name}", _("There is no such field.")) for name in unknown]
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)),
            hint=_("Known are: {names}.").format(names=known),
            errors=errors,
        )
    checked.is_valid(raise_exception=True)
    # Of a partial body only what was sent: defaults are for what is made anew.
    return {key: value for key, value in checked.validated_data.items() if not partial or key in request.data}


def extend(body: type[serializers.Serializer[Any]] | None, response: Any, status: int = 200) -> Callable[[Method], Method]:
    """What an action takes and answers, for OpenAPI."""
    return extend_schema(request=body, responses={status: response})
