"""Edit on redrive: a dead letter goes on as a person has corrected it, to its topic, another one, or to its group alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from accounts.models import User
from core.errors import not_found
from messages.db import fetch
from messages.models import Redrive
from messages.names import group_names, topic_name, topic_of
from messages.querysets import message
from messages.redrives import Plan, check_plan, open_topics, refusal, topic_not_active
from messages.sending import check_message, headers_text
from messages.types import NewMessage

KEEP: Any = object()  # as it is in the original


@dataclass(frozen=True, slots=True)
class Edit:
    """What is different; what is not given stays as it was."""

    body: bytes = KEEP
    tag: str = KEEP
    key: str | None = KEEP
    sharding_key: str | None = KEEP
    headers: Mapping[str, str] = KEEP


def redrive_edited(*, group_id: int, message_id: int, edit: Edit, plan: Plan | None = None, actor: User | None = None) -> Redrive:
    """Send a dead letter on, edited; its headers name the original, which is closed as failed. Must come last in a transaction.

    To the group it is handed out to that group alone. Problems: not_found (the message), not_dead, not_subscribed, group_retired,
    topic_not_active, invalid_redrive, and those of `send`.
    """
    plan = plan or Plan()
    check_plan(plan)
    original = message(message_id=message_id)
    was = {"body": original.body, "tag": original.tag, "key": original.key, "sharding_key": original.sharding_key}
    given = {name: getattr(edit, name) for name in (*was, "headers") if getattr(edit, name) is not KEEP}
    headers = {**given.pop("headers", original.headers), "mq-redriven-from": str(original.id)}
    headers["mq-redriven-group"] = group_names([group_id])[group_id]
    new = NewMessage(**{**was, **given, "headers": headers})
    check_message(new)
    topic_id = None
    if plan.to == "topic":
        topic_id = plan.topic_id or topic_of(original.topic_id)
        if topic_id not in open_topics(actor, [topic_id]):
            raise topic_not_active(topic_name(topic_id))
    with transaction.atomic():
        if not fetch("SELECT 1 FROM mq_group WHERE group_id = %s::bigint", (group_id,)):
            raise not_found("consumer group", group_id)
        code, redriven_id = fetch(
            "SELECT refusal, redriven_id FROM mq_redrive_edited("
            "%s::bigint, %s::bigint, %s::bigint, %s::text, %s::text, %s::text, %s::text, %s::bytea, %s::bigint)",
            (
                *(group_id, original.id, topic_id, new.tag, new.key, new.sharding_key, headers_text(new.headers), new.body),
                actor.pk if actor else None,
            ),
        )[0]
        if (problem := refusal(code)) is not None:
            raise problem
        return Redrive.objects.get(pk=redriven_id)
