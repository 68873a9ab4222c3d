"""Wake-up calls of the registry; the work to do is in Postgres."""

from celery import shared_task

from registry import clients


@shared_task(name="registry.evict_clients", ignore_result=True)
def evict_clients() -> int:
    """Mark as gone the clients without ZooKeeper that have been silent for too long."""
    return clients.evict()
