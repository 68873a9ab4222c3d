"""Operations, their steps and their items; all progress is told from these rows, none from a process's memory."""

from __future__ import annotations

import secrets
import time
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from core.operations import kinds
from core.operations.querysets import SILENT_AFTER, OperationQuerySet


def new_uid() -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): sorts by the millisecond of its making, tells nothing else."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


class State(models.TextChoices):
    """Where an operation stands; `unknown` is never stored: it is a running one of which nobody has heard for a while."""

    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    PAUSED = "paused", _("Paused")
    SUCCEEDED = "succeeded", _("Succeeded")
    PARTIAL = "partial", _("Partly done")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")
    UNKNOWN = "unknown", _("Unknown")


OPEN = (State.QUEUED, State.RUNNING, State.PAUSED)


class Wanted(models.TextChoices):
    """What a person has asked for and the chunks in flight have not yet allowed."""

    PAUSE = "pause", _("Pausing")
    CANCEL = "cancel", _("Cancelling")


class Operation(models.Model):
    """Long work: who started it and why, how far it is, and what it still has to do (its items)."""

    uid = models.UUIDField(_("id"), unique=True, default=new_uid, editable=False)
    kind = models.CharField(_("kind"), max_length=80)
    title = models.CharField(_("title"), max_length=250)
    params: Any = models.JSONField(_("parameters"), default=dict)
    state = models.CharField(_("status"), max_length=10, choices=[(s.value, s.label) for s in State if s != State.UNKNOWN])
    wanted = models.CharField(max_length=10, choices=Wanted, blank=True)
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="operations", verbose_name=_("started by")
    )
    reason = models.TextField(_("reason"), blank=True)
    # As whom the worker writes: what the audit kept of the request that started it.
    credential = models.CharField(max_length=150, blank=True)
    application = models.CharField(max_length=150, blank=True)
    address = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    scopes: Any = models.JSONField(null=True)  # of the token that started it, which narrow the worker too; null: a session, or the system
    language = models.CharField(max_length=10, blank=True)  # in which the reasons of what fails are written

    total = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    step = models.PositiveSmallIntegerField(default=0)  # the one that is being done

    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    error_code = models.CharField(max_length=60, blank=True)  # why it stands still, or ended without doing everything
    error = models.TextField(blank=True)

    worker = models.CharField(_("worker"), max_length=120, blank=True)
    heartbeat_at = models.DateTimeField(null=True)
    # Two marks at least ten seconds apart, from which the rate is told.
    mark_at = models.DateTimeField(null=True)
    mark_settled = models.PositiveIntegerField(default=0)
    before_at = models.DateTimeField(null=True)
    before_settled = models.PositiveIntegerField(default=0)
    # After the database or a worker has failed us: not before, how often in a row, and how many items are then taken one by one.
    not_before = models.DateTimeField(null=True)
    begun = models.PositiveSmallIntegerField(default=0)  # chunks begun since the last one that was committed
    stumbles = models.PositiveSmallIntegerField(default=0)
    careful = models.PositiveIntegerField(default=0)

    objects = OperationQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = _("operation")
        verbose_name_plural = _("operations")
        default_permissions = ("view", "change")
        indexes = [
            # the driver's question: what is there to do, least recently served first
            models.Index(fields=["heartbeat_at"], name="operations_open", condition=models.Q(state__in=["queued", "running"])),
            models.Index(fields=["started_by", "-id"], name="operations_of_person"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def shown_state(self) -> State:
        """The state that people are told: a running one without a sign of life is `unknown`."""
        heard = self.heartbeat_at or self.started_at
        if self.state == State.RUNNING and heard is not None and timezone.now() - heard > SILENT_AFTER:
            return State.UNKNOWN
        return State(self.state)

    @property
    def mark(self) -> str:
        """The console's shape for its state."""
        return {"partial": "later", "paused": "suspended"}.get(self.shown_state, self.shown_state)

    @property
    def said_state(self) -> str:
        """What it is, or what it is about to be, in the reader's language."""
        return str(Wanted(self.wanted).label if self.wanted else self.shown_state.label)

    @property
    def starter_name(self) -> str:
        """Who started it; the system has no account."""
        return self.started_by.get_username() if self.started_by else "system"

    @property
    def wanted_or_none(self) -> str | None:
        """What was asked for and is not done yet."""
        return self.wanted or None

    @property
    def kind_known(self) -> bool:
        """Whether this version of mqadmin can do it."""
        return kinds.get(self.kind) is not None

    @property
    def kind_label(self) -> str:
        """The kind in the reader's language."""
        return kinds.label(self.kind)

    @property
    def settled(self) -> int:
        """Items of which the end is known."""
        return self.done + self.failed + self.skipped

    @property
    def left(self) -> int:
        """Items that are still to be done."""
        return max(0, self.total - self.settled)

    @property
    def rate(self) -> float | None:
        """Items per second over the last ten to twenty seconds; None while it is not running or nothing has been measured."""
        if self.shown_state != State.RUNNING or self.before_at is None:
            return None
        seconds = (timezone.now() - self.before_at).total_seconds()
        return max(0.0, (self.settled - self.before_settled) / seconds) if seconds >= 0.5 else None

    @property
    def eta(self) -> timedelta | None:
        """How long it takes from now at this rate; None when nobody knows."""
        rate = self.rate
        return timedelta(seconds=self.left / rate) if rate else None


class OperationStep(models.Model):
    """A step with its own counters; its state follows from them."""

    operation = models.ForeignKey(Operation, models.CASCADE, db_index=False, related_name="steps")
    number = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=60)
    total = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["number"]
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["operation", "number"], name="one_step_of_a_number")]

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `partial`, `failed` or `cancelled`."""
        if self.finished_at is None:
            return "running" if self.started_at else "queued"
        if self.skipped == self.total and self.total:
            return "cancelled"
        if self.failed or self.skipped:
            return "partial" if self.done else "failed"
        return "succeeded"

    @property
    def mark(self) -> str:
        """The console's shape for its state."""
        return {"partial": "later"}.get(self.state, self.state)

    @property
    def said_state(self) -> str:
        """The state in the reader's language."""
        return str(State(self.state).label)

    @property
    def label(self) -> str:
        """The step in the reader's language."""
        kind = kinds.get(self.operation.kind)
        return str(kind.step(self.number).label) if kind else self.name


class ItemState(models.TextChoices):
    """What became of an item."""

    PENDING = "pending", _("Pending")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    SKIPPED = "skipped", _("Skipped")


class OperationItem(models.Model):
    """One thing to do; frozen when the operation starts, marked in the transaction that does it."""

    operation = models.ForeignKey(Operation, models.CASCADE, db_index=False, related_name="items")
    step = models.PositiveSmallIntegerField(default=0)
    index = models.PositiveIntegerField()
    key = models.CharField(max_length=250)
    input: Any = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=ItemState, default=ItemState.PENDING)
    code = models.CharField(max_length=60, blank=True)
    detail = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    tried_at = models.DateTimeField(null=True)  # only while items are taken one by one
    done_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["index"]
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["operation", "index"], name="one_item_of_an_index")]
        indexes = [
            # what a chunk claims next
            models.Index(fields=["operation", "step", "index"], name="operations_pending", condition=models.Q(state="pending")),
            # the page of failures
            models.Index(fields=["operation", "index"], name="operations_failed", condition=models.Q(state="failed")),
        ]
