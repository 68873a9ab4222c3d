"""What has to be thrown away from time to time: answers that were kept under idempotency keys."""

from celery import shared_task

from core.api import idempotency

CHUNK = 5000


@shared_task(name="core.clean_idempotency_keys", ignore_result=True)
def clean_idempotency_keys() -> None:
    """In bounded chunks, each in a transaction of its own."""
    while idempotency.clean(limit=CHUNK) == CHUNK:
        pass
