"""Reading JSON bodies: what cannot be read is the caller's fault, never ours."""

from typing import Any

from django.utils.http import parse_header_parameters
from django.utils.translation import gettext as _
from rest_framework import exceptions, parsers


class JSONParser(parsers.JSONParser):
    """DRF's, which answers brackets within brackets without end with an internal error."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """The value, or a ParseError. Problem: unsupported_media_type (JSON is UTF-8, RFC 8259)."""
        charset = parse_header_parameters(media_type or "")[1].get("charset", "utf-8")
        if charset.lower() not in {"utf-8", "utf8"}:
            raise exceptions.UnsupportedMediaType(media_type or "", detail=_("JSON is sent in UTF-8."))
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise exceptions.ParseError("JSON parse error - nested too deeply") from None
