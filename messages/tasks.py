"""Wake-up calls: the work to do is rows in Postgres, so a lost or doubled task changes nothing."""

from celery import shared_task

from messages import services


@shared_task(name="messages.promote_delayed")
def promote_delayed() -> int:
    """Move the delayed messages that are due into the log."""
    return services.promote()


@shared_task(name="messages.expire_leases")
def expire_leases() -> int:
    """Take back what expired leases hold."""
    return services.expire()


@shared_task(name="messages.check_back")
def check_back() -> int:
    """Ask applications about the half messages that they left undecided."""
    return services.check_back()
