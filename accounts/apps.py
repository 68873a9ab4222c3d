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
        from axes.signals import user_locked_out
        from django.contrib.auth.signals import user_logged_in, user_login_failed

        from accounts import lockout
        from accounts.models import Application
        from accounts.rolesync import after_migrate
        from core.scope import own_names

        user_login_failed.connect(lockout.heard_failure, dispatch_uid="accounts.failure")
        user_logged_in.connect(lockout.heard_login, dispatch_uid="accounts.login")
        user_locked_out.connect(lockout.heard_lockout, dispatch_uid="accounts.lockout")
        post_migrate.connect(after_migrate, dispatch_uid="accounts.roles")
        own_names["application"] = lambda user: Application.objects.filter(pk__in=user.own_applications()).values_list("name", flat=True)
