"""Requests with their thread, policies that decide some of them, notifications about them, and what a thing that was asked for carries."""

import uuid
from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.encryption import EncryptedTextField
from core.scope import Principal, ScopedQuerySet


class State(models.TextChoices):
    """Where an application for a topic or a group stands."""

    PENDING = "pending", _("Pending")
    REJECTED = "rejected", _("Rejected")
    ACTIVE = "active", _("Active")
    RETIRED = "retired", _("Retired")


class Approvable(models.Model):
    """A thing that one person applies for and another decides: its state, and who brought it there. The request has the rest."""

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


class Standing(models.TextChoices):
    """Where a request stands; what it asks for is decided once."""

    PENDING = "pending", _("Pending")
    APPROVED = "approved", _("Approved")
    DECLINED = "declined", _("Declined")
    WITHDRAWN = "withdrawn", _("Withdrawn")


class RequestQuerySet(ScopedQuerySet["Request"]):
    """Requests as sets."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications, and what the person asked for."""
        return Q(application__in=user.own_applications()) | Q(requested_by=getattr(user, "pk", None))

    def pending(self) -> Self:
        """What waits for a decision."""
        return self.filter(state=Standing.PENDING)

    def overdue(self) -> Self:
        """What has waited longer than it should."""
        return self.pending().filter(requested_at__lt=timezone.now() - timedelta(hours=settings.REQUEST_OVERDUE_HOURS))


class Request(models.Model):
    """What one person asks for and another decides; `kind` says what it is and how it is applied (see `kinds`)."""

    kind = models.CharField(_("kind"), max_length=40)
    target = models.CharField(_("name"), max_length=250)
    application = models.ForeignKey(
        "accounts.Application", models.PROTECT, null=True, related_name="requests", verbose_name=_("application")
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("owner"))
    payload: Any = models.JSONField(_("asked for"), default=dict)
    before: Any = models.JSONField(default=dict)  # of a change: the values that the requester saw
    facts: Any = models.JSONField(default=dict)  # what policies look at: rate, message_bytes, partitions
    base_version = models.PositiveIntegerField(null=True)  # of the target; what it was when the change was asked for
    reason = models.TextField(_("reason"), max_length=2000)
    state = models.CharField(_("status"), max_length=10, choices=Standing, default=Standing.PENDING)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", verbose_name=_("requested by"))
    requested_at = models.DateTimeField(_("requested"), db_default=Now())
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("decided by"))
    decided_at = models.DateTimeField(_("decided"), null=True)
    decision_reason = models.TextField(_("reason of the decision"), blank=True)
    # Kept by name: a policy may be deleted, what it decided stays.
    policy = models.CharField(_("policy"), max_length=120, blank=True)
    outcome: Any = models.JSONField(default=dict)  # what the decision added, such as the cluster
    reminded_at = models.DateTimeField(null=True)
    version = models.PositiveIntegerField(default=1)
    changed_at = models.DateTimeField(_("changed"), db_default=Now())

    objects = RequestQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        default_permissions = ("view",)
        constraints = [
            # Two changes of one thing at once would each be decided without the other.
            models.UniqueConstraint(fields=["kind", "target"], condition=Q(state="pending"), name="one_pending_request")
        ]
        indexes = [
            models.Index(fields=["target", "kind", "-id"], name="request_target"),  # the requests of one thing, newest first
            models.Index(fields=["requested_at"], condition=Q(state="pending"), name="request_waiting"),  # what waits, oldest first
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def is_overdue(self) -> bool:
        """Whether it has waited longer than it should."""
        return self.state == Standing.PENDING and timezone.now() - self.requested_at > timedelta(hours=settings.REQUEST_OVERDUE_HOURS)


class Event(models.TextChoices):
    """What happened to a request; its thread is made of these."""

    SUBMITTED = "submitted", _("Asked for")
    EDITED = "edited", _("Edited")
    COMMENTED = "commented", _("Commented")
    APPROVED = "approved", _("Approved")
    DECLINED = "declined", _("Declined")
    WITHDRAWN = "withdrawn", _("Withdrawn")
    OVERDUE = "overdue", _("Overdue")


class Comment(models.Model):
    """A line of a request's thread: what somebody wrote, or did with it. Nobody: mqadmin itself, or a policy."""

    request = models.ForeignKey(Request, models.CASCADE, related_name="comments")
    event = models.CharField(max_length=10, choices=Event, default=Event.COMMENTED)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("who"))
    at = models.DateTimeField(_("at"), db_default=Now())
    text = models.TextField(_("comment"), max_length=4000, blank=True)

    class Meta:
        ordering = ["pk"]
        default_permissions = ()
        verbose_name = _("comment")
        verbose_name_plural = _("comments")


class Policy(models.Model):
    """What is approved without a person: all that is filled in must fit. The first one by position that fits decides."""

    name = models.CharField(_("name"), max_length=120, unique=True)
    enabled = models.BooleanField(_("in force"), default=True)
    position = models.PositiveSmallIntegerField(
        _("position"), default=100, validators=[MaxValueValidator(9999)], help_text=_("The smallest one that fits decides.")
    )
    kinds: Any = models.JSONField(_("kinds of requests"), default=list)
    name_pattern = models.CharField(
        _("names"), max_length=120, default="*", help_text=_("* stands for any signs, ? for one: order_* or dev.*")
    )
    applications = models.ManyToManyField("accounts.Application", blank=True, related_name="+", verbose_name=_("applications"))
    environment = models.CharField(
        _("environment"), max_length=40, blank=True, help_text=_("In force only where mqadmin runs as this one; empty: everywhere.")
    )
    max_rate = models.PositiveIntegerField(_("messages per second at most"), null=True, blank=True)
    max_message_bytes = models.PositiveIntegerField(_("message size at most (bytes)"), null=True, blank=True)
    max_partitions = models.PositiveIntegerField(_("partitions at most"), null=True, blank=True)
    cluster = models.CharField(
        _("cluster"), max_length=120, blank=True, help_text=_("Where new topics go; empty: the recommended one, if one is recommended.")
    )
    retirement = models.BooleanField(
        _("also retires"), default=False, help_text=_("Without this it never approves a retirement, whatever its kinds.")
    )
    note = models.TextField(_("note"), max_length=2000, blank=True)
    changed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", editable=False, verbose_name=_("changed by"))
    version = models.PositiveIntegerField(default=1, editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    class Meta:
        ordering = ["position", "name"]
        verbose_name = _("policy")
        verbose_name_plural = _("policies")

    def __str__(self) -> str:
        return self.name


class Channel(models.TextChoices):
    """How a notification travels."""

    MAIL = "mail", _("Mail")
    WEBHOOK = "webhook", _("Webhook")


class NotificationTarget(models.Model):
    """Where notifications go besides the people concerned: a mail address of a team, or a URL."""

    name = models.CharField(_("name"), max_length=120, unique=True)
    channel = models.CharField(_("channel"), max_length=10, choices=Channel)
    address = models.CharField(_("address"), max_length=500, help_text=_("A mail address, or an https:// URL."))
    secret = EncryptedTextField(_("secret"), blank=True)
    events: Any = models.JSONField(_("events"), default=list)  # empty: all
    enabled = models.BooleanField(_("on"), default=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("notification target")
        verbose_name_plural = _("notification targets")

    def __str__(self) -> str:
        return self.name


class NotificationDelivery(models.Model):
    """One notification to one place, made in the transaction of what it tells; sent afterwards, at least once."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", _("Waiting")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)  # the receiver's means against doubles
    request = models.ForeignKey(Request, models.CASCADE, related_name="deliveries")
    event = models.CharField(_("event"), max_length=10, choices=Event)
    channel = models.CharField(_("channel"), max_length=10, choices=Channel)
    target = models.ForeignKey(NotificationTarget, models.CASCADE, null=True, related_name="deliveries")
    address = models.CharField(_("address"), max_length=500)
    body: Any = models.JSONField(default=dict)
    state = models.CharField(_("status"), max_length=10, choices=State, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    next_attempt_at = models.DateTimeField(_("next attempt"), db_default=Now())
    last_error = models.CharField(_("last error"), max_length=500, blank=True)
    created_at = models.DateTimeField(_("created"), db_default=Now())
    sent_at = models.DateTimeField(_("sent"), null=True)

    class Meta:
        ordering = ["-created_at"]
        default_permissions = ("view",)
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        indexes = [models.Index(fields=["next_attempt_at"], condition=Q(state="waiting"), name="notification_due")]  # the sender's


class MailOptOut(models.Model):
    """Somebody who wants no mails about requests."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+")

    class Meta:
        default_permissions = ()
