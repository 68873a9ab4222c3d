"""Django's admin as the operator's console."""

from importlib import import_module
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.module_loading import module_has_submodule
from django.utils.translation import gettext_lazy as _

from core.console.admin import ConsoleAdmin


class OpsAdminSite(admin.AdminSite):
    """The console's site: Django's own pages in our theme, the rooms' pages (their `console.py`), the overview as its index."""

    site_title = "mqadmin"
    site_header = "mqadmin"
    site_url = None
    index_title = _("Overview")
    enable_nav_sidebar = False  # the frame has its own

    def __init__(self, name: str = "admin") -> None:
        super().__init__(name)
        self.disable_action("delete_selected")  # deleting is done one by one: the name is typed, and a reason given

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Each of Django's pages has what ours have, also those that we did not write."""
        base = admin_class or admin.ModelAdmin
        super().register(model_or_iterable, type(base.__name__, (ConsoleAdmin, base), {"__module__": base.__module__}), **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """The rooms' pages behind the login, then Django's own."""
        from mqadmin import counts, palette  # noqa: F401 - counts fills its slots

        ours: list[URLPattern] = [path("find/", palette.find, name="find")]
        for config in apps.get_app_configs():
            if config.module is not None and module_has_submodule(config.module, "console") and config.name != "core":
                ours += import_module(f"{config.name}.console").urlpatterns
        for pattern in ours:
            pattern.callback = self.admin_view(pattern.callback)
        return [*ours, *super().get_urls()]

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """A new password ends one's other sessions, and stands in the audit."""
        from accounts import people
        from core.console.pages import person

        with transaction.atomic():
            response = super().password_change(request, extra_context)
            if request.method == "POST" and response.status_code == 302:
                people.password_changed(actor=person(request), person=person(request), keep=request.session.session_key)
        return response

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:  # noqa: ARG002
        """What needs a human now."""
        from mqadmin.overview import overview

        return overview(request)
