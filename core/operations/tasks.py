"""Wake-up calls: the work to do is rows in Postgres, so a lost or doubled task changes nothing."""

from celery import shared_task

from core.operations import driving


@shared_task(name="operations.drive")
def drive() -> int:
    """Take operations on for a moment; returns how many chunks were done."""
    return driving.drive()
