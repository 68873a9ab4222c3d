"""Applications and oneself over REST."""

from typing import Any, ClassVar

from django.db import IntegrityError, transaction
from django.urls import path
from django.utils.translation import gettext as _
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter
from rest_framework.views import APIView

from accounts.fields import owner_field
from accounts.models import Application
from core.api.views import NamedViewSet, actor, extend, validated
from core.audit.services import record
from core.errors import conflict
from core.names import check_name


class ApplicationSerializer(serializers.ModelSerializer[Application]):
    """A program that produces or consumes messages."""

    owner = serializers.CharField(source="owner.username")

    class Meta:
        model = Application
        fields = ["name", "owner", "description", "created_at"]


class NewApplicationSerializer(serializers.Serializer[Any]):
    """An application to add; the owner is the person who asks unless another is named."""

    name = serializers.CharField(trim_whitespace=False)
    owner = owner_field(required=False)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ApplicationViewSet(NamedViewSet):
    """List, read and add applications."""

    queryset = Application.objects.select_related("owner")
    serializer_class = ApplicationSerializer
    permissions_by_action: ClassVar[dict[str, str]] = {
        "list": "accounts.view_application",
        "retrieve": "accounts.view_application",
        "create": "accounts.add_application",
    }

    @extend(NewApplicationSerializer, ApplicationSerializer, status.HTTP_201_CREATED)
    def create(self, request: Request) -> Response:
        """Add an application."""
        fields = validated(NewApplicationSerializer, request)
        name = check_name(fields["name"])
        try:
            with transaction.atomic():
                application = Application.objects.create(**{"owner": actor(request), **fields})
                record(
                    actor=actor(request), action="create", kind="application", name=name, after={"owner": application.owner.get_username()}
                )
        except IntegrityError:
            raise conflict("duplicate_name", _("There is an application “{name}” already.").format(name=name)) from None
        return Response(ApplicationSerializer(application).data, status=status.HTTP_201_CREATED)


class MeSerializer(serializers.Serializer[Any]):
    """Who the credential belongs to and what it may."""

    username = serializers.CharField()
    permissions = serializers.ListField(child=serializers.CharField())


class MeView(APIView):
    """Whose credential this is."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": ""}

    @extend(None, MeSerializer)
    def get(self, request: Request) -> Response:
        """The person behind the credential."""
        person = actor(request)
        return Response({"username": person.get_username(), "permissions": sorted(person.get_all_permissions())})


def register(router: BaseRouter) -> None:
    """Add these resources."""
    router.register("applications", ApplicationViewSet, basename="application")


urlpatterns = [path("me", MeView.as_view(), name="me")]
