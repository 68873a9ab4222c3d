"""Requests and decisions as a Django application."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ApprovalsConfig(AppConfig):
    """Requests."""

    name = "core.approvals"
    label = "approvals"
    verbose_name = _("Requests")
