"""Imports and the manifest over REST."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.fields import application_field, owner_field
from consumers import imports, manifests
from consumers.imports_known import Owners
from consumers.manifests import Entry
from core.api.conventions import View
from core.api.fields import ReasonSerializer
from core.api.views import actor, validated
from core.errors import FieldError, Problem
from core.operations.api import OperationSerializer, operation_url
from registry import trees

SOURCES = ["manifest", "tree", "export"]


class ImportSerializer(ReasonSerializer):
    """What is imported, and whose it is."""

    source = serializers.ChoiceField(  # type: ignore[assignment]  # a field of the document, not DRF's own
        choices=SOURCES, help_text="manifest, export: what the body holds. tree: what stands in our own ZooKeeper."
    )
    manifest = serializers.JSONField(required=False, help_text="As GET /manifest gives it, or a string with it in YAML or JSON.")
    export = serializers.CharField(
        required=False, trim_whitespace=False, help_text="A tree as GET /zookeeper/export gives it: a line of JSON for each node."
    )
    application = application_field(required=False)
    applications = serializers.DictField(
        child=serializers.CharField(max_length=250), required=False, help_text="Application by prefix of a name; the longest counts."
    )
    owner = owner_field(required=False)
    accept_warnings = serializers.BooleanField(
        default=False, help_text="Do also what confirmation_needed speaks against: limits of a cluster, messages that are lost."
    )


class PlannedSerializer(serializers.Serializer[Any]):
    """What becomes of one item."""

    kind = serializers.CharField(help_text="clusters, topics or consumer_groups; lines for what of an export could not be read")
    name = serializers.CharField()
    action = serializers.CharField(help_text="create, differs or refused; what is the same is only counted")
    changes = serializers.DictField(help_text="Of what differs: field, and its value now and then.")
    warnings = serializers.ListField(child=serializers.CharField())
    code = serializers.CharField(help_text="Of what is refused.")
    detail = serializers.CharField()


class ImportPlanSerializer(serializers.Serializer[Any]):
    """What the import does, as it was told before it began."""

    create = serializers.IntegerField()  # type: ignore[assignment]  # the same
    differs = serializers.IntegerField()
    same = serializers.IntegerField()
    refused = serializers.IntegerField()
    items = PlannedSerializer(
        many=True, help_text=f"The first {imports.SHOWN} that are not the same, those that are refused before others."
    )


class ImportAnswerSerializer(serializers.Serializer[Any]):
    """The plan, and the operation that carries it out."""

    plan = ImportPlanSerializer()
    operation = OperationSerializer()


class ManifestSerializer(serializers.Serializer[Any]):
    """What clusters, topics and groups there are, apart from any deployment."""

    clusters = serializers.ListField(child=serializers.DictField())
    topics = serializers.ListField(child=serializers.DictField())
    consumer_groups = serializers.ListField(child=serializers.DictField())


class ImportsView(View):
    """Adopt what exists."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": imports.PERMISSION}
    versioned: ClassVar[bool] = False
    entries: Sequence[Entry] = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """A tree is read before any transaction begins."""
        super().initial(request, *args, **kwargs)
        if isinstance(request.data, dict) and request.data.get("source") == "tree":
            self.entries = manifests.from_nodes(trees.read(settings.ZOOKEEPER_HOSTS))

    @extend_schema(
        operation_id="imports_create",
        request=ImportSerializer,
        responses={202: OpenApiResponse(ImportAnswerSerializer, "An operation does it; Location names it.")},
    )
    def post(self, request: Request) -> Response:
        """Import clusters, topics and groups. With dry_run only the plan; nothing is written that is so already."""
        fields = validated(ImportSerializer, request)
        entries = self._entries(fields)
        owners = Owners(
            application=fields["application"].name if "application" in fields else "",
            prefixes=fields.get("applications", {}),
            owner=fields["owner"].get_username() if "owner" in fields else "",
        )
        accept = fields["accept_warnings"]
        planned = imports.plan(entries, owners, accept_warnings=accept)
        operation = imports.start(
            actor=actor(request),
            planned=planned,
            owners=owners,
            source=fields["source"],
            reason=fields["reason"],
            accept_warnings=accept,
        )
        document = {"plan": document_of(planned), "operation": OperationSerializer(operation, context={"request": request}).data}
        return Response(document, status=202, headers={"Location": operation_url(request, operation)})

    def _entries(self, fields: Mapping[str, Any]) -> Sequence[Entry]:
        for name in ("manifest", "export"):
            if (fields["source"] == name) != (name in fields):
                detail = _("“{name}” goes with the source “{name}”, and only with it.").format(name=name)
                raise Problem("invalid", detail, errors=[FieldError(f"/{name}", detail)])
        if fields["source"] == "tree":
            return self.entries
        if fields["source"] == "export":
            return manifests.from_export(fields["export"])
        given = fields["manifest"]
        return manifests.from_text(given) if isinstance(given, str) else manifests.from_document(given)


def document_of(planned: Sequence[imports.Planned]) -> dict[str, Any]:
    """A plan as it is told."""
    return {**imports.counts(planned), "items": [_item(one) for one in imports.telling(planned)]}


def _item(one: imports.Planned) -> dict[str, Any]:
    return {
        "kind": one.entry.kind,
        "name": one.entry.name,
        "action": one.action,
        "changes": {name: {"before": before, "after": after} for name, (before, after) in one.changes.items()},
        "warnings": [*one.warnings],
        "code": one.problem.code if one.problem else "",
        "detail": str(one.problem.detail) if one.problem else "",
    }


class ManifestView(View):
    """The manifest of all that one may see."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "topics.view_topic"}
    versioned: ClassVar[bool] = False
    document = ManifestSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [OpenApiParameter("as", OpenApiTypes.STR, enum=["json", "yaml"], description="json if not given")]
    }

    @extend_schema(operation_id="manifest_retrieve", responses={200: ManifestSerializer})
    def get(self, request: Request) -> Response | HttpResponse:
        """Clusters, active topics and active groups, in the form that an import takes."""
        shape = request.query_params.get("as", "json")
        if shape not in {"json", "yaml"}:
            detail = _("Choose json or yaml.")
            raise Problem("invalid", detail, errors=[FieldError("/as", detail)])
        document = manifests.document_of(actor(request))
        if shape == "json":
            return Response(document)
        return HttpResponse(manifests.to_yaml(document), content_type="application/yaml; charset=utf-8")
