"""The audit entry; a trigger of the first migration refuses UPDATE and DELETE in the database itself."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class AuditEntry(models.Model):
    """One write: who did what to what, before and after, and why."""

    at = models.DateTimeField(_("at"), db_default=Now(), editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False, related_name="+", verbose_name=_("person")
    )
    actor_name = models.CharField(_("who"), max_length=150, help_text=_("“system” is a worker of mqadmin."))
    credential = models.CharField(_("credential"), max_length=150, blank=True)
    action = models.CharField(_("action"), max_length=60)
    kind = models.CharField(_("kind"), max_length=60)
    name = models.CharField(_("name"), max_length=250)
    before: Any = models.JSONField(_("before"), null=True)
    after: Any = models.JSONField(_("after"), null=True)
    reason = models.TextField(_("reason"), blank=True)
    request_id = models.CharField(_("request id"), max_length=64, blank=True)
    address = models.CharField(_("address"), max_length=64, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        indexes = [models.Index(fields=["kind", "name", "-id"], name="audit_target")]  # the history of one thing
        default_permissions = ("view",)
