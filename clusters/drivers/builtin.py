"""The built-in store as seen from below: what a group or topic is, told to the store's SQL functions in the caller's transaction."""

from collections.abc import Sequence

from django.db import connection

from core import tags


def _call(statement: str, parameters: list[object]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def create_group(*, group_id: int, max_attempts: int, backoff_ms: Sequence[int], suspended: bool) -> None:
    """Make the store's row of a group."""
    _call("SELECT mq_group_put(%s, %s, %s::bigint[], %s)", [group_id, max_attempts, list(backoff_ms), suspended])


def update_group(*, group_id: int, max_attempts: int, backoff_ms: Sequence[int], suspended: bool) -> None:
    """Change it."""
    create_group(group_id=group_id, max_attempts=max_attempts, backoff_ms=backoff_ms, suspended=suspended)


def subscribe(*, group_id: int, topic_id: int, tag_expression: str, consume_from: str) -> None:
    """Bind a group to a topic, from the beginning or from now on."""
    _call("SELECT mq_subscribe(%s, %s, %s::text[], %s)", [group_id, topic_id, tags.parse(tag_expression) or None, consume_from == "latest"])


def unsubscribe(*, group_id: int, topic_id: int) -> None:
    """Unbind."""
    _call("SELECT mq_unsubscribe(%s, %s)", [group_id, topic_id])


def retire_group(*, group_id: int) -> None:
    """Forget where the group stands."""
    _call("SELECT mq_group_retire(%s)", [group_id])
