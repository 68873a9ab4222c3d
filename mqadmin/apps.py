"""The roof as a Django application, and the admin site as the console."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class MqadminConfig(AppConfig):
    """Overview, health and system checks."""

    name = "mqadmin"

    def ready(self) -> None:
        """Register the system checks, and the Celery application as the one that tasks belong to."""
        from mqadmin import checks, service_checks  # noqa: F401
        from mqadmin.celery import app

        app.set_default()


class ConsoleConfig(AdminConfig):
    """Django's admin with our site as the default one."""

    default_site = "mqadmin.site.OpsAdminSite"
