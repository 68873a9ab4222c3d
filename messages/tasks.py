"""Wake-up calls: the work to do is rows in Postgres, so a lost or doubled task changes nothing."""

from celery import current_app, shared_task

from messages import services

#: Of a worker of its own (-Q push): receivers that do not answer keep its threads busy, and nothing else.
PUSH_QUEUE = "push"
MAX_QUEUED = 64  # calls that nobody has taken yet: without such a worker they must not fill the broker


@shared_task(name="messages.promote_delayed")
def promote_delayed() -> int:
    """Move the delayed messages that are due into the log."""
    return services.promote()


@shared_task(name="messages.expire_leases")
def expire_leases() -> int:
    """Take back what expired leases hold, and give the keys of workers that have left to the others."""
    return services.expire() + services.drop_silent_workers()


@shared_task(name="messages.enforce_limits")
def enforce_limits() -> int:
    """Make dead letters of what has expired or is crowded out."""
    return services.enforce()


@shared_task(name="messages.retain")
def retain() -> int:
    """Let go what topics keep no longer."""
    return services.retain()


@shared_task(name="messages.give_up_instances")
def give_up_instances() -> int:
    """Give up the instances of broadcast groups that were not seen for as long as their group says."""
    return services.sweep_instances()


@shared_task(name="messages.check_back")
def check_back() -> int:
    """Ask applications about the half messages that they left undecided."""
    return services.check_back()


@shared_task(name="messages.push")
def push() -> int:
    """Call for a round for each group whose webhook has something to get."""
    from messages import pushing

    due = pushing.due()
    called = due[: max(0, MAX_QUEUED - _queued())] if due else []
    for group_id in called:
        push_group.apply_async((group_id,), queue=PUSH_QUEUE, expires=5)
    return len(called)


@shared_task(name="messages.push_group")
def push_group(group_id: int) -> int:
    """Deliver to one group's webhook for some seconds. Whose turn it is stands in Postgres, so a call too many does nothing."""
    from messages import pushing

    return pushing.deliver(group_id=group_id)


def _queued() -> int:
    with current_app.connection_or_acquire() as broker:
        try:
            return int(broker.default_channel.queue_declare(queue=PUSH_QUEUE, passive=True).message_count)
        except broker.channel_errors:
            return 0
