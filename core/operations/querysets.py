"""Set-based reads of operations."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Self

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from core.scope import Principal, ScopedQuerySet

if TYPE_CHECKING:
    from core.operations.models import Operation  # noqa: F401 - for the quoted name below

#: A running operation of which nobody has heard for so long is told as unknown: no worker, or one that hangs.
SILENT_AFTER = timedelta(seconds=60)


class OperationQuerySet(ScopedQuerySet["Operation"]):
    """Operations."""

    def own(self, user: Principal) -> Q:
        """What the person has started."""
        return Q(started_by=pk) if (pk := getattr(user, "pk", None)) else Q(pk__in=[])

    def in_state(self, state: str) -> Self:
        """By the state that people are told, `unknown` included."""
        silent = Q(heard_at__lt=timezone.now() - SILENT_AFTER)
        rows = self.annotate(heard_at=Coalesce("heartbeat_at", "started_at"))
        if state == "unknown":
            return rows.filter(silent, state="running")
        return rows.filter(state="running").exclude(silent) if state == "running" else self.filter(state=state)

    def unfinished(self) -> Self:
        """Queued, running and paused ones."""
        return self.filter(state__in=["queued", "running", "paused"])

    def wished(self) -> Self:
        """Paused ones that somebody has cancelled while a worker still held them: nothing else takes them on."""
        return self.filter(state="paused").exclude(wanted="").order_by("id")

    def workable(self, kinds: list[str]) -> Self:
        """What a worker that knows these kinds can take on now, least recently served first."""
        due = Q(not_before__isnull=True) | Q(not_before__lte=timezone.now())
        return self.filter(due, state__in=["queued", "running"], kind__in=kinds).order_by(
            models.F("heartbeat_at").asc(nulls_first=True), "id"
        )
