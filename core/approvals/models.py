"""What a thing carries that one person applies for and another decides."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class State(models.TextChoices):
    """Where an application for a topic or a group stands."""

    PENDING = "pending", _("Pending")
    REJECTED = "rejected", _("Rejected")
    ACTIVE = "active", _("Active")
    RETIRED = "retired", _("Retired")


class Approvable(models.Model):
    """Applied for by one person, decided by another; editable until it is decided."""

    state = models.CharField(_("status"), max_length=10, choices=State, default=State.PENDING, editable=False)
    reason = models.TextField(_("reason"), max_length=2000, help_text=_("What it is for; the person who approves reads this."))
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", editable=False, verbose_name=_("requested by")
    )
    requested_at = models.DateTimeField(_("requested"), db_default=Now(), editable=False)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", editable=False, verbose_name=_("decided by")
    )
    decided_at = models.DateTimeField(_("decided"), null=True, editable=False)
    decision_reason = models.TextField(_("reason of the decision"), blank=True, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)  # of the row; every change adds one
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    class Meta:
        abstract = True
