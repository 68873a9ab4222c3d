"""Throwing away what has ended: nonces, sessions."""

from datetime import timedelta

from celery import shared_task
from django.db import connection
from django.utils import timezone

from accounts.models import PersonSession
from accounts.signing import WINDOW

CHUNK = 5000  # rows per statement


@shared_task(name="accounts.clean")
def clean(chunks: int = 200) -> int:
    """Delete old nonces and ended sessions in chunks; returns how many rows went."""
    gone = 0
    before = timezone.now() - timedelta(seconds=2 * WINDOW + 60)  # a signature of a clock that is ahead stays good for twice the window
    for _chunk in range(chunks):
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM accounts_keynonce WHERE ctid = ANY (ARRAY(SELECT ctid FROM accounts_keynonce WHERE at < %s LIMIT %s))",
                [before, CHUNK],
            )
            gone += cursor.rowcount
            if cursor.rowcount < CHUNK:
                break
    for _chunk in range(chunks):
        ended = PersonSession.objects.filter(expire_date__lt=timezone.now()).values("pk")[:CHUNK]
        deleted, _by_model = PersonSession.objects.filter(pk__in=list(ended.values_list("pk", flat=True))).delete()
        gone += deleted
        if deleted < CHUNK:
            break
    return gone
