"""Time to live and maximum length of topics: what is beyond becomes dead letters of the groups that have not taken it."""

import structlog
from django.db import DatabaseError, connection

from messages.db import fetch

log = structlog.get_logger(__name__)

CHUNK = 1000  # messages of a topic in one transaction, with the group's verbs waiting
CHUNKS = 50  # for one group in a call: others get their turn


def enforce(*, chunk: int = CHUNK) -> int:
    """Look how far the topics have aged, then take out what has expired or is crowded out, group by group; returns how many steps did.

    A group for which it fails holds up no other: it is logged and tried again at the next call.
    """
    fetch("SELECT mq_age()")
    steps = 0
    for (group_id,) in fetch("SELECT * FROM mq_limited_groups()"):
        try:
            for _chunk in range(CHUNKS):
                if not fetch("SELECT mq_enforce(%s::bigint, %s::int)", (group_id, chunk))[0][0]:
                    break
                steps += 1
        except DatabaseError:
            if connection.in_atomic_block or not connection.is_usable():
                raise
            log.exception("limits_not_enforced", group_id=group_id)
    return steps
