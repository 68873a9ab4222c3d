"""The verbs of the store, in one place for its callers; docs/message-store.md tells how they fit together."""

from messages.checking import check_back
from messages.consuming import expire, next, pull, settle, tick  # noqa: A004 - the verb of the API
from messages.delayed import cancel_delayed, hold_delayed, promote, reschedule_delayed
from messages.delayed_many import count_delayed, per_hour, start_cancelling, start_rescheduling
from messages.editing import Edit, redrive_edited
from messages.exporting import export_dead
from messages.half import ask_for_open, half_message, half_messages
from messages.half import decide as decide_half
from messages.half import prepare as prepare_half
from messages.purges import start_purge
from messages.querysets import (
    behind,
    counts,
    counts_by_topic,
    dead_causes,
    dead_letters,
    delayed_messages,
    health,
    lag,
    message,
    message_status,
    most_dead,
    search,
    totals,
)
from messages.redrives import Plan, run_at_once, start_redrive
from messages.sending import send
from messages.tracing import trace
from messages.transactions import commit as commit_transaction
from messages.transactions import open_epoch

__all__ = [
    "Edit",
    "Plan",
    "ask_for_open",
    "behind",
    "cancel_delayed",
    "check_back",
    "commit_transaction",
    "count_delayed",
    "counts",
    "counts_by_topic",
    "dead_causes",
    "dead_letters",
    "decide_half",
    "delayed_messages",
    "expire",
    "export_dead",
    "half_message",
    "half_messages",
    "health",
    "hold_delayed",
    "lag",
    "message",
    "message_status",
    "most_dead",
    "next",
    "open_epoch",
    "per_hour",
    "prepare_half",
    "promote",
    "pull",
    "redrive_edited",
    "reschedule_delayed",
    "run_at_once",
    "search",
    "send",
    "settle",
    "start_cancelling",
    "start_purge",
    "start_redrive",
    "start_rescheduling",
    "tick",
    "totals",
    "trace",
]
