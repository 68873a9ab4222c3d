"""The verbs of the store, in one place for its callers; docs/message-store.md tells how they fit together."""

from messages.checking import check_back
from messages.consuming import expire, extend, next, pull, settle, tick  # noqa: A004 - the verb of the API
from messages.delayed import cancel_delayed, hold_delayed, promote, reschedule_delayed
from messages.half import ask_for_open, half_message, half_messages
from messages.half import decide as decide_half
from messages.half import prepare as prepare_half
from messages.positions import positions, preview_reset, reset, undo_reset, undoable
from messages.querysets import (
    behind,
    counts,
    counts_by_topic,
    dead_letters,
    delayed_messages,
    health,
    lag,
    lag_by_topic,
    message,
    message_status,
    most_dead,
    search,
    totals,
)
from messages.redrives import redrive_results, redrive_step, run_redrives, start_redrive
from messages.sending import send

__all__ = [
    "ask_for_open",
    "behind",
    "cancel_delayed",
    "check_back",
    "counts",
    "counts_by_topic",
    "dead_letters",
    "decide_half",
    "delayed_messages",
    "expire",
    "extend",
    "half_message",
    "half_messages",
    "health",
    "hold_delayed",
    "lag",
    "lag_by_topic",
    "message",
    "message_status",
    "most_dead",
    "next",
    "positions",
    "prepare_half",
    "preview_reset",
    "promote",
    "pull",
    "redrive_results",
    "redrive_step",
    "reschedule_delayed",
    "reset",
    "run_redrives",
    "search",
    "send",
    "settle",
    "start_redrive",
    "tick",
    "totals",
    "undo_reset",
    "undoable",
]
