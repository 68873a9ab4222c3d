"""Cursor pagination: `limit` and an opaque `cursor`; an exact count only when it is asked for."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework import pagination
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.parameters import boolean, limit
from core.errors import Problem


def _invalid_cursor() -> Problem:
    return Problem("invalid_cursor", _("This cursor is not one of ours."), hint=_("Begin again without a cursor."))


class CursorPagination(pagination.CursorPagination):
    """`?limit=` up to 500; `next` is the address of the next page, null at the end; `?count=true` adds `count`."""

    page_size = 50
    max_page_size = 500
    page_size_query_param = "limit"
    ordering = "pk"
    count: int | None = None

    def decode_cursor(self, request: Request) -> Any:
        """A cursor of ours, or the problem `invalid_cursor`: a made-up one would begin anew, or make the database stumble."""
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise _invalid_cursor() from None
        if cursor is not None and not self._possible(cursor.position):
            raise _invalid_cursor()
        return cursor

    def get_page_size(self, request: Request) -> int:
        """`limit`. Problem: invalid_parameter."""
        return limit(request, default=self.page_size, highest=self.max_page_size)

    def _possible(self, position: Any) -> bool:
        if not position or "\x00" in position:
            return False
        return self.ordering[0].lstrip("-") != "pk" or (position.isascii() and position.isdigit())

    def get_ordering(self, request: Request, queryset: QuerySet[Any], view: Any) -> tuple[str, ...]:
        """A view names a unique order in `page_order`."""
        order = getattr(view, "page_order", None)
        return (order,) if order else tuple(super().get_ordering(request, queryset, view))

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        """Count only on request: COUNT(*) reads the whole table."""
        if boolean(request, "count"):
            self.count = queryset.count()
        return super().paginate_queryset(queryset, request, view)

    def get_paginated_response(self, data: Any) -> Response:
        """`results`, `next`, and `count` if asked for."""
        body = {"results": data, "next": self.get_next_link()}
        if self.count is not None:
            body["count"] = self.count
        return Response(body)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The page in OpenAPI."""
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {
                "results": schema,
                "next": {"type": "string", "format": "uri", "nullable": True},
                "count": {"type": "integer", "description": "only with ?count=true"},
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """The parameters in OpenAPI."""
        return [
            *super().get_schema_operation_parameters(view),
            {"name": "count", "required": False, "in": "query", "description": "Also count exactly.", "schema": {"type": "boolean"}},
        ]
