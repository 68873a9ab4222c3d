"""REST that shows or waits for how far a change is: `status` in documents, `?wait=applied&timeout=30s` on writes, `GET …/applied`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast, get_args

from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import parameters
from core.errors import Problem
from registry import convergence
from registry.convergence import Convergence, Goal
from registry.models import Publication
from registry.status import AppliedChangeSerializer, ConvergenceSerializer, statuses

DEFAULT_TIMEOUT = 30.0
READS = frozenset({"list", "retrieve", "applied"})
WAIT = OpenApiParameter(
    "wait",
    str,
    enum=list(get_args(Goal)),
    description="Answer when the change is published in ZooKeeper, or applied by all that are online and tell what they run.",
)
TIMEOUT = OpenApiParameter(
    "timeout", str, description="How long to wait at most, such as 500ms, 30s or 5m, which is the most; 30s if not given."
)
GENERATION = OpenApiParameter("generation", int, description="Of which change; the newest if not given.")
_TIMEOUT = re.compile(r"(\d{1,6})(ms|s|m)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


class Waiting(NamedTuple):
    """What a request asks to wait for."""

    goal: Goal
    timeout: float


def asked(request: Request) -> Waiting | None:
    """What the parameters say. Problem: invalid_parameter."""
    goal, timeout = request.query_params.get("wait"), request.query_params.get("timeout")
    if goal is None:
        if timeout is not None:
            raise parameters.invalid("timeout", _("“timeout” needs “wait”."))
        return None
    if goal not in get_args(Goal):
        raise parameters.invalid("wait", _("“{name}” must be {kind}.").format(name="wait", kind="published, applied"))
    if timeout is None:
        return Waiting(cast("Goal", goal), DEFAULT_TIMEOUT)
    found = _TIMEOUT.fullmatch(timeout)
    seconds = int(found[1]) * _SECONDS[found[2]] if found and timeout.isascii() else 0.0
    if not 0 < seconds <= convergence.MAX_TIMEOUT:
        detail = _("“timeout” is a time such as 500ms, 30s or 5m, and at most 5m.")
        raise parameters.invalid("timeout", detail)
    return Waiting(cast("Goal", goal), seconds)


def show(request: Request, publication: Publication) -> dict[str, Any]:
    """The document of `GET …/applied`. Problems: invalid_parameter, too_many_waiting."""
    waiting = asked(request)
    generation = parameters.limit(request, default=publication.generation, highest=max(1, publication.generation), name="generation")
    if waiting is None:
        return {**_document(request, publication.path, generation), "waited": None}
    with convergence.place():
        waited = _wait(waiting, publication.path, generation)
    return {**_document(request, publication.path, generation), "waited": waited}


class WithPublication:
    """A view whose objects have a `zookeeper_path`: documents show its `status`, writes can wait, and `GET …/applied` tells more.

    The serializer finds the publications in its context, by one statement a page. Waiting begins when the change is committed, holds no
    connection to the database, and what it comes to is no failure of the change: the answer has it as `waited`.
    """

    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {}
    waits_not: ClassVar[frozenset[str]] = frozenset()  # writes that publish nothing of the thing that they answer with
    permissions_by_action: ClassVar[dict[str, str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The writes take the parameters; whoever may read may look."""
        super().__init_subclass__(**kwargs)
        writes = [name for name in cls.permissions_by_action if name not in READS | cls.waits_not]
        cls.permissions_by_action = {**cls.permissions_by_action, "applied": cls.permissions_by_action["retrieve"]}
        cls.query = {
            **cls.query,
            **{name: [*cls.query.get(name, ()), WAIT, TIMEOUT] for name in writes},
            "applied": (GENERATION, WAIT, TIMEOUT),
        }

    @extend_schema(responses=AppliedChangeSerializer)
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def applied(self, request: Request, **_name: str) -> Response:
        """Who runs the newest change, or the one of `generation`, and who does not; `wait` until they do."""
        thing = self.get_object()  # type: ignore[attr-defined]
        self.seen = None  # the version is the thing's, not that of this document
        publication = Publication.objects.filter(path=thing.zookeeper_path).only("path", "generation").first()
        if publication is None:
            hint = _("It is when the request is approved.")
            raise Problem("not_published", _("Nothing has been published for this yet."), status=404, hint=hint)
        return Response(show(request, publication))

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the publications of the page to the serializer."""
        things = args[0] if args else []
        selected = getattr(self, "selected", None)
        if selected is not None and "status" not in selected:
            return super().get_serializer(*args, **kwargs)  # type: ignore[misc]
        things = things if isinstance(things, list) else [things]
        context = {**self.get_serializer_context(), "publications": statuses(thing.zookeeper_path for thing in things)}  # type: ignore[attr-defined]
        return super().get_serializer(*args, **{**kwargs, "context": context})  # type: ignore[misc]

    def _write(self, request: Request, handle: Any) -> Any:
        """The write, and after its commit the waiting; a dry run waits for nothing."""
        waiting = asked(request) if "wait" in self.parameters_of(str(request.method).lower()) else None  # type: ignore[attr-defined]
        if waiting is None or parameters.boolean(request, "dry_run"):
            return super()._write(request, handle)  # type: ignore[misc]
        with convergence.place():
            response = super()._write(request, handle)  # type: ignore[misc]
            if response.status_code >= 400:
                return response
            return _with_outcome(request, response, waiting)


def _with_outcome(request: Request, response: Any, waiting: Waiting) -> Any:
    repeated = type(response) is HttpResponse  # the answer that was kept under an Idempotency-Key
    document = (json.loads(response.content) if response.content else None) if repeated else response.data
    if not isinstance(document, dict):
        return response
    status = document.get("status")
    if not isinstance(status, dict):
        waited: dict[str, Any] = {"goal": waiting.goal, "outcome": "nothing_to_wait_for", "seconds": 0.0, "change": None}
    else:
        path, generation = status["path"], status["generation"]
        waited = {**_wait(waiting, path, generation), "change": _document(request, path, generation)}
    if repeated:
        response.content = json.dumps({**document, "waited": waited}, ensure_ascii=False, separators=(",", ":"))
    else:
        response.data = {**document, "waited": waited}
    return response


def _wait(waiting: Waiting, path: str, generation: int) -> dict[str, Any]:
    began = time.monotonic()
    outcome = convergence.wait(path=path, generation=generation, goal=waiting.goal, timeout=waiting.timeout)
    return {"goal": waiting.goal, "outcome": outcome, "seconds": round(time.monotonic() - began, 3)}


def _document(request: Request, path: str, generation: int) -> dict[str, Any]:
    found: Convergence = convergence.look(path, generation, user=request.user)
    return dict(ConvergenceSerializer(found).data)
