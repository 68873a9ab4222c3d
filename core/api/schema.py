"""OpenAPI: what each endpoint answers besides success is the same everywhere, so it is said here."""

from typing import Any, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema as Base
from rest_framework import serializers
from rest_framework.generics import GenericAPIView

from core.api.conditional import REQUIRED
from core.api.conventions import View
from core.api.problems import TITLES


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


class ChangeSerializer(serializers.Serializer[Any]):
    """One audit entry that would be written."""

    action = serializers.CharField()
    kind = serializers.CharField()
    name = serializers.CharField()
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class WarningSerializer(serializers.Serializer[Any]):
    """What may go wrong although nothing forbids it."""

    code = serializers.CharField(help_text="Stable, never translated.")
    detail = serializers.CharField()
    pointer = serializers.CharField(allow_blank=True)


class DryRunSerializer(serializers.Serializer[Any]):
    """What a dry run answers: nothing was changed."""

    dry_run = serializers.BooleanField()
    status = serializers.IntegerField(help_text="The status that it would have.")
    result = serializers.JSONField(allow_null=True, help_text="The document that it would answer with.")
    changes = ChangeSerializer(many=True)
    warnings = WarningSerializer(many=True)


PARAMETERS: dict[str, Any] = {
    "DryRun": {
        "name": "dry_run",
        "in": "query",
        "description": "Do all of it in a transaction that is rolled back, and say what it would do.",
        "schema": {"type": "boolean", "default": False},
    },
    "Fields": {
        "name": "fields",
        "in": "query",
        "description": "Only these fields of the document, separated by commas; those that are left out are missing, required or not.",
        "schema": {"type": "string"},
    },
    "ChangeMessage": {
        "name": "change_message",
        "in": "query",
        "description": "Why; kept in the audit.",
        "schema": {"type": "string", "maxLength": 2000, "minLength": 1},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters. The same request with the same key gets the first answer for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": True,
        "description": "The ETag of the version that is changed, or *.",
        "schema": {"type": "string", "example": '"3"'},
    },
    "IfMatchOptional": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of the version that was looked at: refused if it has been changed since. A PUT of what exists needs it.",
        "schema": {"type": "string", "example": '"3"'},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "An ETag that is there already: 304 if it is still the one. With PUT, *: only if nothing is there.",
        "schema": {"type": "string", "example": '"3"'},
    },
}
HEADERS: dict[str, Any] = {
    "ETag": {"description": "The version, for If-Match.", "schema": {"type": "string"}},
    "Location": {"description": "The address of what was made.", "schema": {"type": "string", "format": "uri"}},
    "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer"}},
    "IdempotencyReplayed": {
        "description": "true: this is the answer to an earlier request with the same Idempotency-Key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RequestID": {"description": "Under which the logs and the audit have this request.", "schema": {"type": "string"}},
}
CHANGE_MESSAGE = {"type": "string", "maxLength": 2000, "description": "Why; kept in the audit."}


class AutoSchema(Base):
    """Adds what every endpoint has: parameters, headers, dry runs, and the problem documents that it may answer with."""

    def get_override_parameters(self) -> list[Any]:
        """The query parameters that the view names for this method."""
        query = getattr(self.view, "query", {})
        return list(query.get(getattr(self.view, "action", None) or self.method.lower(), ()))

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        """The operation with the conventions of core/api/conventions.py."""
        operation = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        controlled = isinstance(self.view, View)
        names = self._parameters() if controlled else []
        if names:
            operation["parameters"] = [*operation.get("parameters", []), *({"$ref": f"#/components/parameters/{name}"} for name in names)]
        if controlled and self.method in {"POST", "PUT", "PATCH"}:
            self._take_change_message(operation)
        responses = operation["responses"]
        if controlled and self.method != "GET":
            self._add_dry_run(responses)
        if "IfNoneMatch" in names and self.method == "GET":
            responses["304"] = {"description": "It is the one that you have."}
        problem = self.resolve_serializer(ProblemSerializer, "response").ref
        for code in self._problems(names, controlled=controlled):
            responses.setdefault(code, {"content": {"application/problem+json": {"schema": problem}}, "description": TITLES[int(code)]})
        for code, response in responses.items():
            headers = ["RequestID", *self._headers(code, names)]
            if code in {"200", "201", "202"} and controlled and self.method == "POST":
                headers.append("IdempotencyReplayed")
            response["headers"] = {_NAMES.get(name, name): {"$ref": f"#/components/headers/{name}"} for name in headers}
        operation["responses"] = dict(sorted(responses.items()))
        return operation

    def _has_etag(self) -> bool:
        if not isinstance(self.view, View) or not self.view.versioned or self._is_list_view():
            return False
        if type(self.view).etag_of is not View.etag_of:
            return True
        document = self.get_response_serializers()
        if isinstance(document, dict):
            document = next(iter(document.values()), None)
        document = document() if isinstance(document, type) else document
        return "version" in getattr(document, "fields", {})

    def _parameters(self) -> list[str]:
        view, tagged = cast("View", self.view), self._has_etag()
        if self.method == "GET":
            shows = isinstance(view, GenericAPIView) or view.document is not None
            return [*(["Fields"] if shows else []), *(["IfNoneMatch"] if tagged else [])]
        names = ["DryRun"]
        if self.method == "POST":
            names.append("IdempotencyKey")
            if tagged and getattr(view, "detail", False):
                names.append("IfMatchOptional")
        elif view.versioned:
            names += ["IfMatchOptional", "IfNoneMatch"] if self.method == "PUT" else ["IfMatch"]
        return [*names, "ChangeMessage"] if self.method == "DELETE" else names

    def _problems(self, names: list[str], *, controlled: bool) -> list[str]:
        codes = ["400", "401", "403", "404", "429", "500", "503"]
        if controlled:
            codes.append("406")
        if self.method != "GET":
            codes += ["409", "411", "413", "415"]
        if "IdempotencyKey" in names:
            codes.append("422")
        if {"IfMatch", "IfMatchOptional"} & set(names):
            codes.append("412")
        if self.method in REQUIRED and {"IfMatch", "IfMatchOptional"} & set(names):
            codes.append("428")
        return codes

    def _headers(self, code: str, names: list[str]) -> list[str]:
        match code:
            case "201" | "202":
                return [*(["ETag"] if self._has_etag() else []), "Location"]
            case "200" if self._has_etag() and {"IfMatch", "IfMatchOptional", "IfNoneMatch"} & set(names):
                return ["ETag"]
            case "304" | "412" | "428":
                return ["ETag"]
            case "409" if "IdempotencyKey" in names:
                return ["RetryAfter"]
            case "429" | "503":
                return ["RetryAfter"]
        return []

    def _take_change_message(self, operation: dict[str, Any]) -> None:
        if "requestBody" not in operation:
            schema = {"$ref": "#/components/schemas/OnlyChangeMessage"}
            operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
            return
        for media in operation["requestBody"]["content"].values():
            name = media["schema"].get("$ref", "").rpartition("/")[2]
            for component in self.registry._components.values():  # noqa: SLF001 - it has no other way in
                if component.name == name and component.schema is not None and component.schema.get("type") == "object":
                    component.schema.setdefault("properties", {})["change_message"] = CHANGE_MESSAGE

    def _add_dry_run(self, responses: dict[str, Any]) -> None:
        rehearsal = self.resolve_serializer(DryRunSerializer, "response").ref
        usual = responses.get("200")
        if usual is None:
            responses["200"] = {"content": {"application/json": {"schema": rehearsal}}, "description": "What a dry run found."}
            return
        for media in usual.get("content", {}).values():
            media["schema"] = {"oneOf": [media["schema"], rehearsal]}


def add_components(result: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    """The parameters and headers that operations refer to; a hook of drf-spectacular."""
    components = result.setdefault("components", {})
    components.update(parameters=PARAMETERS, headers=HEADERS)
    components.setdefault("schemas", {})["OnlyChangeMessage"] = {
        "type": "object",
        "description": "An action without fields of its own.",
        "properties": {"change_message": CHANGE_MESSAGE},
    }
    return result


_NAMES = {"RetryAfter": "Retry-After", "IdempotencyReplayed": "Idempotency-Replayed", "RequestID": "X-Request-ID"}


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
