"""Wake-up calls of the topics room; the work to do is in Postgres."""

from celery import shared_task

from topics import draining


@shared_task(name="topics.end_draining", ignore_result=True)
def end_draining() -> int:
    """End the draining of clusters that hold nothing more of topics that have left them."""
    return draining.end_due()
