"""Wake-up calls of requests; the work to do is rows in Postgres."""

from celery import shared_task

from core.approvals import outbox, workflow

CHUNK = 5000


@shared_task(name="approvals.send_notifications", ignore_result=True)
def send_notifications() -> int:
    """Send the notifications that are due."""
    return outbox.send_due()


@shared_task(name="approvals.remind", ignore_result=True)
def remind() -> int:
    """Tell of requests that have waited too long."""
    return workflow.remind()


@shared_task(name="approvals.forget_notifications", ignore_result=True)
def forget_notifications() -> None:
    """Delete what was sent long ago, in bounded chunks."""
    while outbox.forget(limit=CHUNK) == CHUNK:
        pass
