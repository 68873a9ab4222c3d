"""All addresses under /api/v1/: each room brings its own views, the roof puts them together."""

from importlib import import_module
from importlib.util import find_spec

from django.urls import URLPattern, URLResolver, include, path
from rest_framework.routers import SimpleRouter

router = SimpleRouter(trailing_slash=False)
urls: list[URLPattern | URLResolver] = []
for room in (
    "accounts",
    "core.audit",
    "core.approvals",
    "core.operations",
    "core.bulk",
    "clusters",
    "topics",
    "consumers",
    "registry",
    "messages",
):
    if find_spec(f"{room}.api") is None:
        continue
    api = import_module(f"{room}.api")
    api.register(router)
    urls += getattr(api, "urlpatterns", [])
urls.append(path("", include(router.urls)))
