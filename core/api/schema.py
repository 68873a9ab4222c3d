"""OpenAPI: what each endpoint answers besides success is the same everywhere, so it is said here."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema as Base
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers


class FieldErrorSerializer(serializers.Serializer[Any]):
    """One wrong field."""

    pointer = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """An RFC 9457 problem document."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField(help_text="Stable, never translated.")
    detail = serializers.CharField()
    instance = serializers.CharField()
    request_id = serializers.CharField()
    hint = serializers.CharField(required=False)
    errors = FieldErrorSerializer(many=True, required=False)  # type: ignore[assignment]


class AutoSchema(Base):
    """Adds the problem documents that any endpoint may answer with."""

    def _get_response_bodies(self, *args: Any, **kwargs: Any) -> Any:
        bodies = super()._get_response_bodies(*args, **kwargs)
        problem = OpenApiResponse(ProblemSerializer)
        codes = ["401", "403", "503"]
        if "{" in self.path:
            codes.append("404")
        if self.method != "GET":
            codes += ["400", "409", "413", "415"]
        elif "404" not in codes:
            codes.append("404")
        for code in codes:
            bodies.setdefault(code, self._get_response_for_code(problem, code, media_types=["application/problem+json"]))  # type: ignore[no-untyped-call]
        return bodies


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The token in OpenAPI."""

    target_class = "accounts.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:  # noqa: ARG002
        """An API key in the Authorization header."""
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token mq_…"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The browser's session in OpenAPI."""

    target_class = "accounts.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:  # noqa: ARG002
        """A cookie."""
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}
