"""One message and its handler."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mqadmin_sdk.consuming.context import CURRENT
from mqadmin_sdk.message import Dead, Later

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.consuming.core import Status
    from mqadmin_sdk.message import Message

log = logging.getLogger(__name__)


def handle(group: str, handler: Callable[[Message], object], message: Message) -> tuple[Status, float | None, str | None]:
    """Have a message handled; returns what became of it, in how many seconds it comes again if the handler says so, and the error."""
    CURRENT.set(message)
    try:
        handler(message)
    except Later as order:
        return "later", order.delay, order.reason or None
    except Dead as order:
        log.warning("Group %s: message %s of %s is given up: %s", group, message.id, message.topic, order.reason)
        return "dead", None, order.reason
    except BaseException as error:  # SystemExit, too: it would end a thread, not the process
        log.exception("Group %s: the handler failed on message %s of %s, attempt %d", group, message.id, message.topic, message.attempt)
        return "failed", None, f"{type(error).__name__}: {error}"
    return "succeeded", None, None
