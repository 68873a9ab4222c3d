"""What the console's frame needs on every page."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def shell(request: HttpRequest) -> dict[str, Any]:  # noqa: ARG001
    """Environment for the coloured line and the badge."""
    return {"env": {"kind": settings.ENVIRONMENT, "name": settings.ENVIRONMENT.upper()}}
