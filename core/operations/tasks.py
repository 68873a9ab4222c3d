"""Wake-up calls: the work to do is rows in Postgres, so a lost or doubled task changes nothing."""

from celery import shared_task

from core.operations import driving, services

CHUNK = 5000


@shared_task(name="operations.drive")
def drive() -> int:
    """Take operations on for a moment; returns how many chunks were done."""
    return driving.drive()


@shared_task(name="operations.forget", ignore_result=True)
def forget() -> None:
    """Delete what ended long ago, in bounded chunks, each in a transaction of its own."""
    while services.forget(limit=CHUNK) == CHUNK:
        pass
