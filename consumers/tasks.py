"""Wake-up calls of the consumers room; the work to do is in Postgres."""

from celery import shared_task

from consumers import shadow


@shared_task(name="consumers.end_expired_shadows", ignore_result=True)
def end_expired_shadows() -> int:
    """Switch off the shadow groups whose lease has passed."""
    return shadow.end_expired()
