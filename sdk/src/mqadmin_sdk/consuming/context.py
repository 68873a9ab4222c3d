"""What is being handled now, for logs and for what a handler sends."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqadmin_sdk.message import Message

CURRENT: ContextVar[Message | None] = ContextVar("mqadmin_message", default=None)  # the message that is being handled


class LogContext(logging.Filter):
    """Adds `mq_group`, `mq_topic`, `mq_message` and `mq_attempt` to each record: of the message that is being handled, else empty.

    Put it on a handler: `handler.addFilter(LogContext())`, and `%(mq_message)s` into its format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them; every record passes."""
        message = CURRENT.get()
        record.mq_group = message.group if message else ""
        record.mq_topic = message.topic if message else ""
        record.mq_message = message.id if message else ""
        record.mq_attempt = message.attempt if message else ""
        return True
