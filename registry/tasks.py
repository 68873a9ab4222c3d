"""Wake-up calls of the registry; the work to do is in Postgres."""

import contextlib

from celery import shared_task

from registry import clients, gates, releases, repairs

CHUNK = 5000


@shared_task(name="registry.evict_clients", ignore_result=True)
def evict_clients() -> int:
    """Mark as gone the clients without ZooKeeper that have been silent for too long."""
    return clients.evict()


@shared_task(name="registry.forget_releases", ignore_result=True)
def forget_releases() -> None:
    """Delete releases that are older than they are kept, in bounded chunks, each in a transaction of its own."""
    while releases.forget(limit=CHUNK) == CHUNK:
        pass


@shared_task(name="registry.forget_drift", ignore_result=True)
def forget_drift() -> int:
    """Delete what is known of edits by others that were settled long ago."""
    return repairs.forget_old()


@shared_task(name="registry.prove_gates", ignore_result=True)
def prove_gates() -> int:
    """End the gates that were abandoned and whose clients are known to be back."""
    return gates.prove()


@shared_task(name="registry.start_check", ignore_result=True)
def start_check() -> None:
    """Begin a full check by the clock, unless one is running; workers and registrars do it."""
    from core.errors import Problem
    from registry import checks

    with contextlib.suppress(Problem):
        checks.start(actor=None)
