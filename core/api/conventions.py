"""What every endpoint of the control plane does alike: conditions, idempotency keys, dry runs, strict parameters, change messages.

A view that derives from `View` gets all of it; the data plane, which has ways of its own to be repeated safely, does without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.encoding import escape_uri_path
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import dry_run, idempotency, parameters
from core.api.conditional import REQUIRED, Preconditions, etag, stale
from core.api.problems import CONTENT_TYPE
from core.errors import FieldError, Problem
from core.request_context import current
from core.retrying import again

if TYPE_CHECKING:
    from drf_spectacular.utils import OpenApiParameter

READS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_CHANGE_MESSAGE = 2000


def address(request: Request, *parts: object) -> str:
    """The address of a request, or of what is below it; names may have a %, which is not written as it is."""
    return request.build_absolute_uri("/".join([escape_uri_path(request.path), *(quote(str(part), safe="") for part in parts)]))


class View(APIView):
    """A view of the control plane.

    `query` names the parameters of each method (of a view set: of each action) besides those that all have; they are documented and
    anything else is refused. `document` is the serializer of what a GET shows, for `?fields=`. `secret_fields` are null in what is kept
    under an Idempotency-Key. `versioned` says that the things here have a `version`: changing them needs If-Match.
    """

    permissions_by_action: ClassVar[dict[str, str]] = {}
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {}
    document: ClassVar[type[serializers.BaseSerializer[Any]] | None] = None
    secret_fields: ClassVar[frozenset[str]] = frozenset()
    versioned: ClassVar[bool] = True
    # Of a document that shows these the ETag does not tell whether it is the same: they change without a new version.
    observed: ClassVar[frozenset[str]] = frozenset({"status"})

    preconditions = Preconditions()
    selected: list[str] | None = None
    seen: Any = None  # the object or the version that If-Match was held against

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """DRF's, with the conventions around the handler."""
        self.args, self.kwargs = args, kwargs
        self.request = self.initialize_request(request, *args, **kwargs)
        self.headers = self.default_response_headers
        response: HttpResponseBase
        try:
            self.initial(self.request, *args, **kwargs)
            handler = getattr(self, str(self.request.method).lower(), None) or self.http_method_not_allowed
            response = self._carry_out(self.request, lambda: handler(self.request, *args, **kwargs))
        except Exception as error:  # noqa: BLE001 - what it is, the exception handler says
            response = self.handle_exception(self._as_stale(error))
        self.response = self.finalize_response(self.request, response, *args, **kwargs)
        return self.response

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:  # noqa: ARG002
        """Which methods there are: in the header Allow."""
        return Response(status=204)

    def probe(self, request: Request) -> Iterable[dry_run.Warn]:  # noqa: ARG002
        """What can only be found out over the network, as warnings of a dry run; before its transaction."""
        return ()

    def etag_of(self, document: Mapping[str, Any]) -> str | None:
        """The ETag of a document; None: it has none."""
        version = document.get("version", getattr(self.seen, "version", None) if self.request.method in {"GET", "HEAD"} else None)
        return etag(version) if type(version) is int else None

    def check_version(self, seen: Any) -> None:
        """Hold what was found, which has a `version`, or is one, against If-Match. Problems: precondition_required, stale."""
        self.seen = seen
        if self.request.method not in READS:
            self.preconditions.check(getattr(seen, "version", seen))

    def parameters_of(self, method: str) -> list[str]:
        """The names of the query parameters that are possible."""
        action = getattr(self, "action", None) or {"head": "get"}.get(method, method)
        own = [parameter.name for parameter in self.query.get(action, ())]
        if method in {"get", "head"}:
            return [*own, parameters.FIELDS]
        return [*own, "dry_run", *(["change_message"] if method == "delete" else [])]

    def known_fields(self) -> list[str]:
        """The fields of the document; empty when only the document itself can tell."""
        return list(self.document().fields) if self.document else []  # type: ignore[attr-defined]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Problems are JSON, whatever else the view can render."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(response, Response) and response.content_type == CONTENT_TYPE:
            response.accepted_renderer, response.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return response

    def _carry_out(self, request: Request, handle: Callable[[], Any]) -> Any:
        method = str(request.method)
        if method == "OPTIONS":
            return handle()
        # A method that is not there is said to be so, whatever else may be wrong.
        if hasattr(self, method.lower()):
            parameters.check_known(request, self.parameters_of(method.lower()), self.repeatable())
        self.preconditions = Preconditions.of(method, request.headers)
        return self._read(request, handle) if method in READS else self._write(request, handle)

    def repeatable(self) -> list[str]:
        """Query parameters that may stand there more than once."""
        return [parameter.name for parameter in self.query.get(getattr(self, "action", None) or "get", ()) if parameter.many]

    def _read(self, request: Request, handle: Callable[[], Any]) -> Any:
        self.selected = parameters.selected(request)
        if self.selected is not None and (known := self.known_fields()):
            parameters.check_selection(self.selected, known)
        response = handle()
        if not isinstance(response, Response):
            return response
        self._tag(response)
        if self.selected is not None:
            response.data = parameters.select(response.data, self.selected)
        if (
            response.has_header("ETag")
            and self.preconditions.not_modified(response["ETag"])
            and isinstance(response.data, dict)
            and not self.observed & response.data.keys()
        ):
            return Response(status=304, headers={"ETag": response["ETag"]})
        return response

    def _write(self, request: Request, handle: Callable[[], Any]) -> Any:
        self._check_size(request)
        self._take_change_message(request)
        rehearsing = parameters.boolean(request, "dry_run")
        key = idempotency.key_of(request) if request.method == "POST" else None

        def work() -> Any:
            response = handle()
            self._insist(response)
            self._tag(response)
            if isinstance(response, Response) and response.status_code == 201 and not response.has_header("Location"):
                self._locate(request, response)
            return response

        if rehearsing:
            if key is not None:
                detail = _("A dry run does nothing that could be repeated: leave the Idempotency-Key away.")
                raise Problem("idempotency_key_in_dry_run", detail)
            warnings = [*self.probe(request)]
            return again(lambda: dry_run.rehearse(work, warnings=warnings, secret_fields=self.secret_fields))
        if key is not None:
            return again(lambda: idempotency.once(request, key, work, secret_fields=self.secret_fields))

        def at_once() -> Any:
            with transaction.atomic():  # so that nothing is done by a view that forgot to look at the version, and that all can be repeated
                return work()

        return again(at_once)

    def _check_size(self, request: Request) -> None:
        length = request.headers.get("Content-Length")
        if not length and "chunked" in request.headers.get("Transfer-Encoding", "").lower():  # WSGI knows no end of such a body
            raise Problem(
                "length_required", _("The length of the body is not known."), status=411, hint=_("Send Content-Length, not chunks.")
            )
        if length and int(length) > settings.MAX_REQUEST_BYTES:
            detail = _("The request is larger than {n} bytes.").format(n=settings.MAX_REQUEST_BYTES)
            raise Problem("too_large", detail, status=413, hint=_("Send fewer or smaller things at once."))

    def _take_change_message(self, request: Request) -> None:
        """Out of the body, or of the address of a DELETE, into the context, where the audit finds it."""
        if request.method == "DELETE":
            message: Any = request.query_params.get("change_message", "")
        else:
            body = request._request.body and request.data  # noqa: SLF001 - read as a whole first: its digest is wanted later
            message = body.pop("change_message", "") if isinstance(body, dict) else ""
        if not isinstance(message, str) or len(message) > MAX_CHANGE_MESSAGE or "\x00" in message:
            detail = _("“change_message” is a string of at most {n} characters.").format(n=MAX_CHANGE_MESSAGE)
            raise Problem("invalid", detail, errors=[FieldError("/change_message", detail)])
        if message:
            current.set(replace(current.get(), change_message=message))

    def _insist(self, response: Any) -> None:
        """Nobody's condition is left unlooked at."""
        if self.preconditions.checked:
            return
        if self.preconditions.match is not None:
            detail = _("There is no version here that If-Match could name.")
            raise Problem("if_match_not_supported", detail, hint=_("Leave the header away."))
        if self.versioned and self.request.method in REQUIRED and response.status_code not in {201, 202}:
            raise RuntimeError(f"{type(self).__name__} changed something without check_version(); is it versioned?")

    def _tag(self, response: Any) -> None:
        if self.versioned and isinstance(response, Response) and response.status_code in {200, 201} and isinstance(response.data, dict):
            tag = self.etag_of(response.data)
            if tag is not None:
                response["ETag"] = tag

    def _locate(self, request: Request, response: Response) -> None:
        """Where what was made in a collection stands from now on."""
        field = getattr(self, "lookup_field", "id")
        key = response.data.get("id" if field == "pk" else field) if isinstance(response.data, dict) else None
        if key is not None and getattr(self, "action", None) == "create":
            response["Location"] = address(request, key)

    def version_now(self) -> object | None:
        """The version of what was seen, read anew; None: it is gone."""
        rows = getattr(type(self.seen), "_base_manager", None)
        return None if rows is None else rows.filter(pk=self.seen.pk).values_list("version", flat=True).first()

    def _as_stale(self, error: Exception) -> Exception:
        """Who lost the race after having shown the right version is told so in the same words as who came late."""
        if isinstance(error, Problem) and error.code == "state_changed" and self.preconditions.match is not None:
            version = self.version_now()
            return stale(None if version is None else etag(version))
        return error
