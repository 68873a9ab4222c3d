"""What the command palette finds besides the pages themselves."""

from django.http import HttpRequest
from django.http.response import HttpResponse
from django.shortcuts import render

from core.console import slots
from core.console.pages import person


def find(request: HttpRequest) -> HttpResponse:
    """Names that contain the words, as lines of the palette."""
    words = request.GET.get("q", "").replace("\x00", "").strip()[:100]
    return render(request, "console/_hits.html", {"hits": slots.found(person(request), words)[:20] if words else []})
