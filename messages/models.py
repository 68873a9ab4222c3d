"""Redriven messages, moves of positions, check-backs of applications; the store's hot tables are written in sql/ and have no models."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from accounts.models import Application
from core.encryption import EncryptedTextField
from core.operations.models import Operation
from core.scope import Principal, ScopedQuerySet


class Redrive(models.Model):
    """A dead letter that went back to its group, or on to a topic as a new message; written by the store's functions."""

    group_id = models.BigIntegerField(_("consumer group"), editable=False)  # plain: the store refers to no other room's tables
    message_id = models.BigIntegerField(_("message"), editable=False)
    new_topic_id = models.BigIntegerField(null=True, editable=False)  # null: it went back to its group
    new_id = models.BigIntegerField(_("new message"), null=True, editable=False)
    at = models.DateTimeField(_("redriven"), db_default=Now(), editable=False)
    # no constraints: a chunk of an operation is not to wait for its own row, nor a person's removal for these
    operation = models.ForeignKey(
        Operation, models.SET_NULL, null=True, editable=False, related_name="+", db_constraint=False, db_index=False
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        db_constraint=False,
        verbose_name=_("redriven by"),
    )
    watched = models.BooleanField(default=False, editable=False)  # what becomes of it decides whether its operation goes on

    class Meta:
        db_table = "mq_redriven"
        ordering = ["-id"]
        verbose_name = _("redrive")
        verbose_name_plural = _("redrives")
        permissions = [
            ("send_message", _("Can send messages")),
            ("consume_message", _("Can pull and settle messages")),
            ("view_message", _("Can read messages")),
            ("view_body", _("Can read the bodies of messages")),
            ("change_delayed", _("Can cancel and reschedule delayed messages")),
            ("purge_dead", _("Can purge dead letters")),
            ("decide_stopped", _("Can decide on stopped keys")),
            ("view_storage", _("Can see the storage of messages")),
        ]
        indexes = [
            models.Index(fields=["group_id", "message_id"], name="mq_redriven_message"),  # where a dead letter went
            models.Index(fields=["group_id", "-id"], name="mq_redriven_group"),  # redrives of a group, newest first
            models.Index(fields=["new_id"], name="mq_redriven_new", condition=Q(new_id__isnull=False)),  # where a message came from
            models.Index(fields=["operation", "-id"], name="mq_redriven_watched", condition=Q(watched=True)),
        ]

    def __str__(self) -> str:
        return f"{self.message_id}"


class CheckBackQuerySet(ScopedQuerySet["CheckBack"]):
    """Check-backs."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications."""
        return Q(application__in=user.own_applications())


class CheckBack(models.Model):
    """Where an application is asked what became of the half messages that it left undecided."""

    application = models.OneToOneField(Application, models.CASCADE, related_name="check_back", verbose_name=_("application"))
    url = models.CharField(_("address"), max_length=500, help_text=_("An https:// URL of the application."))
    secret = EncryptedTextField(editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)
    asked_at = models.DateTimeField(_("last asked"), null=True, editable=False)
    answered_at = models.DateTimeField(_("last answer"), null=True, editable=False)
    quiet_until = models.DateTimeField(null=True, editable=False)  # nobody answered there: not asked again before
    last_error = models.CharField(_("last error"), max_length=500, blank=True, editable=False)

    objects = CheckBackQuerySet.as_manager()

    class Meta:
        db_table = "mq_check_back"
        ordering = ["application__name"]
        verbose_name = _("check-back")
        verbose_name_plural = _("check-backs")
        permissions = [("decide_half", _("Can commit and roll back half messages"))]

    def __str__(self) -> str:
        return str(self.application)

    def audited(self) -> dict[str, Any]:
        """What the audit keeps of it."""
        return {"url": self.url}


class Reset(models.Model):
    """A move of a group's position on one topic by a person: a rewind or a skip, and whether it was taken back."""

    class Kind(models.TextChoices):
        REWIND = "rewind", _("Rewind")
        SKIP = "skip", _("Skip")

    class State(models.TextChoices):
        DONE = "done", _("Done")
        UNDONE = "undone", _("Undone")

    group_id = models.BigIntegerField(_("consumer group"), editable=False)  # plain, as above
    topic_id = models.BigIntegerField(_("topic"), editable=False)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind, editable=False)
    state = models.CharField(_("status"), max_length=10, choices=State, default=State.DONE, editable=False)
    position_before = models.BigIntegerField(_("from"), editable=False)
    position = models.BigIntegerField(_("to"), editable=False)
    era = models.PositiveIntegerField(editable=False)  # of the position afterwards: whether it is still the newest move
    eras = models.JSONField(null=True, editable=False)  # of a broadcast group in its place: the era of each instance that was moved
    repeated = models.BigIntegerField(_("repeated"), editable=False)
    first_time = models.BigIntegerField(_("delivered for the first time"), editable=False)
    skipped = models.BigIntegerField(_("skipped"), editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+", verbose_name=_("done by")
    )
    reason = models.CharField(_("reason"), max_length=500, blank=True, editable=False)
    created_at = models.DateTimeField(_("done"), db_default=Now(), editable=False)
    restored = models.BigIntegerField(_("taken back"), null=True, editable=False)
    undone_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+", verbose_name=_("undone by")
    )
    undone_at = models.DateTimeField(_("undone"), null=True, editable=False)

    class Meta:
        db_table = "mq_reset"
        ordering = ["-id"]
        verbose_name = _("move of a position")
        verbose_name_plural = _("moves of positions")
        indexes = [models.Index(fields=["group_id", "-id"], name="mq_reset_group")]  # those of a group, newest first

    def __str__(self) -> str:
        return f"{self.pk}"
