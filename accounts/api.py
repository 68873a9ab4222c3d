"""Applications and oneself over REST."""

from typing import Any, ClassVar

from django.urls import path
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from accounts import api_credentials, applications
from accounts.fields import owner_field
from accounts.models import Application
from core.api.conventions import View
from core.api.permissions import require
from core.api.views import NamedViewSet, actor, extend, extend_put, validated


class ApplicationSerializer(serializers.ModelSerializer[Application]):
    """A program that produces or consumes messages."""

    owner = serializers.CharField(source="owner.username")

    class Meta:
        model = Application
        fields = ["name", "owner", "description", "version", "created_at", "changed_at"]


class ApplicationChangeSerializer(serializers.Serializer[Any]):
    """What can be changed; the owner is the person who asks unless another is named, and stays who it is in a change."""

    owner = owner_field(required=False)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class NewApplicationSerializer(ApplicationChangeSerializer):
    """An application to add."""

    name = serializers.CharField(trim_whitespace=False)


class ApplicationViewSet(NamedViewSet):
    """List, read, add, change and delete applications."""

    queryset = Application.objects.select_related("owner")
    serializer_class = ApplicationSerializer
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "accounts.view_application",
        "retrieve": "accounts.view_application",
        "create": "accounts.add_application",
        "update": "accounts.add_application",
        "partial_update": "accounts.change_application",
        "destroy": "accounts.delete_application",
    }

    @extend(NewApplicationSerializer, ApplicationSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Add an application."""
        fields = validated(NewApplicationSerializer, request)
        made = applications.create(actor=actor(request), **{"owner": actor(request), **fields})
        return Response(ApplicationSerializer(made).data, status=status.HTTP_201_CREATED)

    @extend_put(ApplicationChangeSerializer, ApplicationSerializer)
    def update(self, request: Request, name: str) -> Response:
        """Make the application, or change it to be so."""
        found, fields = self.to_replace(name), validated(ApplicationChangeSerializer, request)
        if found is None:
            made = applications.create(actor=actor(request), name=name, **{"owner": actor(request), **fields})
            return self.put_answer(ApplicationSerializer(made).data, made=True, changed=True)
        require(request.user, "accounts.change_application")
        before = found.version
        changed = applications.change(actor=actor(request), application=found, changes=fields)
        return self.put_answer(ApplicationSerializer(changed).data, made=False, changed=changed.version != before)

    @extend(ApplicationChangeSerializer, ApplicationSerializer)
    def partial_update(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Change owner or description."""
        found, fields = self.get_object(), validated(ApplicationChangeSerializer, request, partial=True)
        return Response(ApplicationSerializer(applications.change(actor=actor(request), application=found, changes=fields)).data)

    @extend(None, None, status.HTTP_204_NO_CONTENT)
    def destroy(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Delete an application that has nothing; what it has is listed otherwise."""
        applications.delete(actor=actor(request), application=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class MeSerializer(serializers.Serializer[Any]):
    """Who the credential belongs to and what it may."""

    username = serializers.CharField()
    permissions = serializers.ListField(child=serializers.CharField())
    scopes = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="Of the token; null without one.")


class MeView(View):
    """Whose credential this is."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": ""}
    document = MeSerializer

    @extend(None, MeSerializer)
    def get(self, request: Request) -> Response:
        """The person behind the credential."""
        person = actor(request)
        scopes = person.token.scopes if person.token else None
        return Response({"username": person.get_username(), "permissions": sorted(person.get_all_permissions()), "scopes": scopes})


def register(router: BaseRouter) -> None:
    """Add these resources."""
    router.register("applications", ApplicationViewSet, basename="application")
    api_credentials.register(router)


urlpatterns = [path("me", MeView.as_view(), name="me"), *api_credentials.urlpatterns]
