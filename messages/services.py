"""The verbs of the store, in one place for its callers; docs/message-store.md tells how they fit together."""

from messages.balancing import drop_silent as drop_silent_workers
from messages.balancing import leave as leave_group
from messages.balancing import workers
from messages.broadcast import furthest_behind, instances
from messages.broadcast import sweep as sweep_instances
from messages.checking import check_back
from messages.consuming import expire, extend, next, pull, settle, tick  # noqa: A004 - the verb of the API
from messages.delayed import cancel_delayed, hold_delayed, promote, reschedule_delayed
from messages.delayed_many import count_delayed, per_hour, start_cancelling, start_rescheduling
from messages.editing import Edit, redrive_edited
from messages.exporting import export_dead
from messages.half import ask_for_open, half_message, half_messages
from messages.half import decide as decide_half
from messages.half import prepare as prepare_half
from messages.limits import enforce
from messages.ordering import decide_stopped, stopped_keys
from messages.positions import positions, preview_reset, reset, undo_reset, undoable
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
    lag_by_topic,
    message,
    message_status,
    most_dead,
    search,
    totals,
)
from messages.redrives import Plan, run_at_once, start_redrive
from messages.retention import partitions, retain, retention
from messages.sending import send, send_one
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
    "decide_stopped",
    "delayed_messages",
    "drop_silent_workers",
    "enforce",
    "expire",
    "export_dead",
    "extend",
    "furthest_behind",
    "half_message",
    "half_messages",
    "health",
    "hold_delayed",
    "instances",
    "lag",
    "lag_by_topic",
    "leave_group",
    "message",
    "message_status",
    "most_dead",
    "next",
    "open_epoch",
    "partitions",
    "per_hour",
    "positions",
    "prepare_half",
    "preview_reset",
    "promote",
    "pull",
    "redrive_edited",
    "reschedule_delayed",
    "reset",
    "retain",
    "retention",
    "run_at_once",
    "search",
    "send",
    "send_one",
    "settle",
    "start_cancelling",
    "start_purge",
    "start_redrive",
    "start_rescheduling",
    "stopped_keys",
    "sweep_instances",
    "tick",
    "totals",
    "trace",
    "undo_reset",
    "undoable",
    "workers",
]
