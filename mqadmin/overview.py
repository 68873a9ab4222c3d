"""The overview: what needs a human now, worst first, in real numbers."""

from django.http import HttpRequest
from django.http.response import HttpResponse

from core.console.pages import Page


class Overview(Page):
    """The index of the console."""

    here = "overview"
    template_name = "mqadmin/overview.html"

    def get(self, request: HttpRequest) -> HttpResponse:  # noqa: ARG002
        """All of it."""
        return self.show({"title": "Overview"})


def overview(request: HttpRequest) -> HttpResponse:
    """The page behind the site's index."""
    return Overview.as_view()(request)  # type: ignore[return-value]
