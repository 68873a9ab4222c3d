"""`POST /api/v1/bulk/{resource}`: a verb for many things, named one by one or by a filter."""

from typing import Any, ClassVar

from django.urls import path
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import BaseRouter

from core import bulk
from core.api.conventions import View
from core.api.permissions import require
from core.api.problems import document
from core.api.schema import ProblemSerializer
from core.api.views import actor, validated
from core.errors import FieldError, Problem
from core.operations.api import OperationSerializer, operation_url

MODES = ["best_effort", "atomic"]


def rate_field() -> serializers.FloatField:
    """How fast an operation may be."""
    text = "Items per second at most, kept by all workers together; without it as fast as it goes."
    return serializers.FloatField(required=False, min_value=bulk.MIN_RATE, max_value=bulk.MAX_RATE, help_text=text)


class BulkSerializer(serializers.Serializer[Any]):
    """What to do with what: give `items` or `select`."""

    action = serializers.CharField(max_length=60, help_text="As in the name of the single endpoint: approve, retire, change-owner, …")
    mode = serializers.ChoiceField(choices=MODES, default="best_effort", help_text="atomic: all or nothing, for 100 items at most.")
    items = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        allow_empty=False,
        max_length=bulk.MAX_ITEMS,
        help_text="Each with `name`, perhaps `if_match` (an ETag), and values of its own. More than 100 become an operation.",
    )
    select = serializers.DictField(
        required=False, help_text="The filters of the list endpoint instead; what matches now is frozen. {} is everything."
    )
    rate = rate_field()
    values = serializers.DictField(required=False, default=dict, help_text="What the action needs, for all: reason, cluster, owner, …")


class BulkResultSerializer(serializers.Serializer[Any]):
    """What became of one item."""

    index = serializers.IntegerField()
    id = serializers.CharField()
    status = serializers.IntegerField(help_text="200, or the status of the problem.")
    problem = ProblemSerializer(allow_null=True)


class BulkAnswerSerializer(serializers.Serializer[Any]):
    """What became of all."""

    action = serializers.CharField()
    mode = serializers.ChoiceField(choices=MODES)
    done = serializers.IntegerField()
    failed = serializers.IntegerField()
    results = BulkResultSerializer(many=True)


class BulkView(View):
    """Do it to many."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": ""}  # each action has its own
    versioned: ClassVar[bool] = False

    @extend_schema(
        operation_id="bulk",
        request=BulkSerializer,
        responses={
            200: OpenApiResponse(BulkAnswerSerializer, "All done."),
            202: OpenApiResponse(OperationSerializer, "More than 100: an operation does it; Location names it."),
            207: OpenApiResponse(BulkAnswerSerializer, "Each item has its own status, and not all are done."),
        },
    )
    def post(self, request: Request, resource: str) -> Response:
        """Run a verb on up to 100 things at once, or start an operation that does it to more."""
        bulk.resource_of(resource)
        fields = validated(BulkSerializer, request)
        verb = bulk.verb_of(resource, fields["action"])
        person = actor(request)
        require(person, verb.permission)
        if ("items" in fields) == ("select" in fields):
            detail = _("Give either items or select.")
            raise Problem("invalid", detail, errors=[FieldError("/items", detail)])
        values, atomic, rate = fields["values"], fields["mode"] == "atomic", fields.get("rate")
        if "items" in fields:
            items, select = _wanted(fields["items"]), None
            many = len(items) > bulk.AT_ONCE
        else:
            select = bulk.selected(verb, person, fields["select"])
            key = bulk.resource_of(resource).key
            names = list(select.order_by(key).values_list(key, flat=True).distinct()[: bulk.AT_ONCE + 1])
            items, many = [bulk.Wanted(str(name)) for name in names], len(names) > bulk.AT_ONCE
        if not many and (rate is None or not items):
            if not items:
                bulk.check(verb, values)
            results = bulk.run(actor=person, bulk=verb, items=items, values=values, atomic=atomic) if items else []
            return _answer(fields, results)
        if atomic:
            detail = _("All or nothing is possible for {n} items at most.").format(n=bulk.AT_ONCE)
            hint = _("Use mode best_effort: an operation does it, and lists what fails.")
            raise Problem("atomic_too_large", detail, status=422, hint=hint, errors=[FieldError("/mode", detail)])
        started = bulk.begin(actor=person, bulk=verb, values=values, items=items if select is None else None, select=select, rate=rate)
        return Response(
            OperationSerializer(started, context={"request": request}).data,
            status=202,
            headers={"Location": operation_url(request, started)},
        )


def _wanted(given: list[dict[str, Any]]) -> list[bulk.Wanted]:
    items: list[bulk.Wanted] = []
    seen: set[str] = set()
    for index, one in enumerate(given):
        name, if_match = one.get("name"), one.get("if_match", "")
        if not isinstance(name, str) or not name or len(name) > 250:
            detail = _("Name what it is to be done to.")
            raise Problem("invalid", detail, errors=[FieldError(f"/items/{index}/name", detail)])
        if not isinstance(if_match, str):
            detail = _("“{name}” must be {kind}.").format(name="if_match", kind="a string")
            raise Problem("invalid", detail, errors=[FieldError(f"/items/{index}/if_match", detail)])
        if name in seen:
            detail = _("“{name}” is there twice.").format(name=name)
            raise Problem("duplicate_item", detail, errors=[FieldError(f"/items/{index}/name", detail)])
        seen.add(name)
        own = {key: value for key, value in one.items() if key not in {"name", "if_match"}}
        items.append(bulk.Wanted(name, own, if_match))
    return items


def _answer(fields: dict[str, Any], results: list[bulk.Result]) -> Response:
    failed = sum(1 for result in results if result.problem is not None)
    body = {
        "action": fields["action"],
        "mode": fields["mode"],
        "done": len(results) - failed,
        "failed": failed,
        "results": [_document(result) for result in results],
    }
    return Response(body, status=207 if failed else 200)


def _document(result: bulk.Result) -> dict[str, Any]:
    problem = result.problem
    if problem is None:
        return {"index": result.index, "id": result.name, "status": 200, "problem": None}
    told = document(
        status=problem.status, code=problem.code, detail=problem.detail, hint=problem.hint, errors=problem.errors, extra=problem.extra
    )
    return {"index": result.index, "id": result.name, "status": problem.status, "problem": told}


def register(router: BaseRouter) -> None:
    """No resource of its own: one address for all."""


urlpatterns = [path("bulk/<str:resource>", BulkView.as_view(), name="bulk")]
