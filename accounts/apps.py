"""The room as a Django application."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    """People and access."""

    name = "accounts"
    verbose_name = _("People and access")

    def ready(self) -> None:
        """The roles' groups follow the table of roles; the audit and the nodes in ZooKeeper learn what belongs to whom."""
        from accounts.models import Application
        from accounts.rolesync import after_migrate
        from core.scope import own_names

        post_migrate.connect(after_migrate, dispatch_uid="accounts.roles")
        own_names["application"] = lambda user: Application.objects.filter(pk__in=user.own_applications()).values_list("name", flat=True)
