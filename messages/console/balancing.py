"""The workers of a sticky group, on its page and beside its instances."""

from datetime import timedelta

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone

from consumers.models import ConsumerGroup
from core.approvals.models import State
from messages import balancing, services

ROWS = 100  # REST lists all
NOW = timedelta(seconds=35)  # a long poll may last 30


def panel(_request: HttpRequest, group: ConsumerGroup) -> str:
    """By name, with their shares; nothing for a group whose messages go to whoever asks first."""
    if not balancing.is_sticky(group) or group.state != State.ACTIVE:
        return ""
    rows, now = services.workers(group_id=group.pk, limit=ROWS).items, timezone.now()
    shown = [{"w": w, "percent": 100 * w.share, "online": w.processing > 0 or now - w.last_seen_at < NOW} for w in rows]
    total = balancing.count_workers(group_id=group.pk) if len(rows) == ROWS else len(rows)
    context = {"rows": shown, "total": total, "more": total - len(rows), "silence": int(balancing.SILENCE.total_seconds())}
    return render_to_string("messages/_workers.html", context)
