"""The schema of the API, and a page that shows it: from local files, under the same Content-Security-Policy as every page."""

from functools import cache
from typing import Any

from csp.decorators import csp_update
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.problems import CONTENT_TYPE

_FORMATS: dict[str, type[BaseRenderer]] = {"json": OpenApiJsonRenderer, "yaml": OpenApiYamlRenderer}


@cache
def schema(language: str) -> Any:  # noqa: ARG001 - descriptions are in it
    """The schema, made once a process: it takes seconds, and every page of documentation asks for it."""
    generator: Any = SchemaGenerator
    return generator().get_schema(public=True)


class SchemaView(SpectacularAPIView):
    """OpenAPI as YAML or JSON, by Accept or `?format=`; what goes wrong is a problem document."""

    def get_renderers(self) -> list[BaseRenderer]:
        """The one that is asked for."""
        wanted = _FORMATS.get(self.request.GET.get("format", ""))
        return [wanted()] if wanted else super().get_renderers()

    def _get_schema_response(self, request: Request) -> Response:  # noqa: ARG002
        return Response(schema(get_language() or ""))

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Problems are JSON."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(response, Response) and response.content_type == CONTENT_TYPE:
            response.accepted_renderer, response.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return response


@login_required
@csp_update({"img-src": ["'self'", "data:"]})  # its style sheet has its icons in it
def api_docs(request: HttpRequest) -> HttpResponse:
    """Every operation, and a form to try it in one's own name."""
    return render(request, "api_docs.html")
