"""Tokens and application keys over REST; a secret stands in the answer that makes it, once."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from accounts import credentials
from accounts.models import ApiToken, Application, ApplicationKey
from accounts.roles import SCOPES
from core.api.conventions import View
from core.api.views import ReadViewSet, actor, extend, validated
from core.errors import not_found
from core.names import PATTERN


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    """A token without its secret, which nobody has any more."""

    user = serializers.CharField(source="user.username")
    scopes = serializers.ListField(child=serializers.ChoiceField(list(SCOPES)))

    class Meta:
        model = ApiToken
        fields = ["id", "name", "user", "scopes", "hint", "created_at", "expires_at", "last_used_at"]


class NewTokenSerializer(serializers.Serializer[Any]):
    """A token of one's own."""

    name = serializers.CharField(max_length=120, help_text="What uses it.")
    scopes = serializers.ListField(child=serializers.ChoiceField(list(SCOPES)), min_length=1, max_length=len(SCOPES))
    expires_at = serializers.DateTimeField(help_text="At most a year from now, unless the deployment says otherwise.")


class MadeTokenSerializer(TokenSerializer):
    """The token with its secret: keep it, it is not shown again."""

    secret = serializers.CharField(allow_null=True, help_text="Null when the answer is repeated under an Idempotency-Key.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "secret"]


class TokenViewSet(ReadViewSet):
    """One's own tokens; administrators and auditors see those of all."""

    queryset = ApiToken.objects.select_related("user")
    serializer_class = TokenSerializer
    lookup_value_regex = r"[0-9]{1,18}"
    page_order: ClassVar[str] = "-pk"
    secret_fields: ClassVar[frozenset[str]] = frozenset({"secret"})
    versioned: ClassVar[bool] = False
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "accounts.view_apitoken",
        "retrieve": "accounts.view_apitoken",
        "create": "accounts.add_apitoken",
        "destroy": "accounts.delete_apitoken",
    }

    @extend(NewTokenSerializer, MadeTokenSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Make a token; with a token only one that is no wider than it."""
        token, secret = credentials.make_token(actor=actor(request), **validated(NewTokenSerializer, request))
        body = {**TokenSerializer(token).data, "secret": secret}
        return Response(
            body, status=status.HTTP_201_CREATED, headers={"Location": f"{request.build_absolute_uri(request.path)}/{token.pk}"}
        )

    @extend(None, None, status.HTTP_204_NO_CONTENT)
    def destroy(self, request: Request, pk: str) -> Response:  # noqa: ARG002
        """Revoke it, and those that were made with it; takes effect within five seconds."""
        credentials.revoke_token(actor=actor(request), token=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class KeySerializer(serializers.ModelSerializer[ApplicationKey]):
    """A key without its secret."""

    application = serializers.CharField(source="application.name")
    created_by = serializers.CharField(source="created_by.username", default=None, allow_null=True)

    class Meta:
        model = ApplicationKey
        fields = ["key_id", "application", "name", "created_by", "created_at", "expires_at", "last_used_at", "revoked_at"]


class NewKeySerializer(serializers.Serializer[Any]):
    """A key to make."""

    name = serializers.CharField(max_length=120, required=False, allow_blank=True, default="", help_text="What uses it.")
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None, help_text="Null: until it is revoked.")


class MadeKeySerializer(KeySerializer):
    """The key with its secret: keep it, it is not shown again."""

    secret = serializers.CharField(allow_null=True, help_text="Null when the answer is repeated under an Idempotency-Key.")

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "secret"]


class KeyPageSerializer(serializers.Serializer[Any]):
    """All keys of an application, newest first, revoked ones too."""

    results = KeySerializer(many=True)


_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH, description="of the application")
_KEY = OpenApiParameter("key_id", OpenApiTypes.STR, OpenApiParameter.PATH)


class _OfApplication(View):
    """Below one application."""

    versioned: ClassVar[bool] = False
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {}

    def application(self, name: str) -> Application:
        """The application of the address, if the person may do this with its keys. Problem: not_found."""
        permission = self.permissions_by_action[str(self.request.method).lower().replace("head", "get")]
        found = Application.objects.restrict(self.request.user, permission).filter(name=name).first()
        if found is None:
            raise not_found("application", name)
        return found


class KeysView(_OfApplication):
    """The keys of an application."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"secret"})
    permissions_by_action: ClassVar[dict[str, str]] = {"get": "accounts.view_applicationkey", "post": "accounts.add_applicationkey"}

    @extend_schema(operation_id="list_application_keys", parameters=[_NAME], responses=KeyPageSerializer)
    def get(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Newest first."""
        keys = self.application(name).keys.select_related("application", "created_by")[:500]
        return Response({"results": KeySerializer(keys, many=True).data})

    @extend_schema(operation_id="make_application_key", parameters=[_NAME], request=NewKeySerializer, responses={201: MadeKeySerializer})
    def post(self, request: Request, name: str) -> Response:
        """Make a key; its secret is in this answer only."""
        application = self.application(name)
        key, secret = credentials.make_key(actor=actor(request), application=application, **validated(NewKeySerializer, request))
        return Response({**KeySerializer(key).data, "secret": secret}, status=status.HTTP_201_CREATED)


class KeyView(_OfApplication):
    """One key."""

    document = KeySerializer
    permissions_by_action: ClassVar[dict[str, str]] = {"get": "accounts.view_applicationkey", "delete": "accounts.delete_applicationkey"}

    def _key(self, name: str, key_id: str) -> ApplicationKey:
        key = self.application(name).keys.select_related("application", "created_by").filter(key_id=key_id).first()
        if key is None:
            raise not_found("key", key_id)
        return key

    @extend_schema(operation_id="retrieve_application_key", parameters=[_NAME, _KEY], responses=KeySerializer)
    def get(self, request: Request, name: str, key_id: str) -> Response:  # noqa: ARG002
        """Whether it is in use."""
        return Response(KeySerializer(self._key(name, key_id)).data)

    @extend_schema(operation_id="revoke_application_key", parameters=[_NAME, _KEY], responses={204: None})
    def delete(self, request: Request, name: str, key_id: str) -> Response:
        """Revoke it; takes effect within five seconds."""
        credentials.revoke_key(actor=actor(request), key=self._key(name, key_id))
        return Response(status=status.HTTP_204_NO_CONTENT)


_KEYS = rf"^applications/(?P<name>{PATTERN})/keys"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_KEYS}$", KeysView.as_view(), name="application-keys"),
    re_path(rf"{_KEYS}/(?P<key_id>[A-Za-z0-9_]{{1,24}})$", KeyView.as_view(), name="application-key"),
]


def register(router: BaseRouter) -> None:
    """Add tokens."""
    router.register("tokens", TokenViewSet, basename="token")
