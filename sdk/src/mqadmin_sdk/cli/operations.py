"""Long work of the server: list it, look at it, wait for its end with a progress bar, stop it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mqadmin_sdk.cli.common import Group, limit_option
from mqadmin_sdk.cli.outcomes import CommandError, Exit, of_error
from mqadmin_sdk.cli.output import Column, shown
from mqadmin_sdk.cli.session import Session, part
from mqadmin_sdk.errors import MqadminError

if TYPE_CHECKING:
    from rich.progress import TaskID

OVER = ("succeeded", "partial", "failed", "cancelled")
OPERATIONS: list[Column] = [
    ("ID", "id"),
    ("TITLE", "title"),
    ("STATE", "state"),
    ("DONE", lambda row: f"{row['progress']['done']}/{row['progress']['total']}"),
    ("FAILED", "progress.failed"),
    ("BY", "started_by"),
    ("CREATED", "created_at"),
]
OPERATION: list[Column] = [
    ("Id", "id"),
    ("Title", "title"),
    ("Kind", "kind"),
    ("State", "state"),
    ("Done", lambda row: f"{row['progress']['done']:,} of {row['progress']['total']:,}"),
    ("Failed", "progress.failed"),
    ("Skipped", "progress.skipped"),
    ("Reason", "reason"),
    ("By", "started_by"),
    ("Created", "created_at"),
    ("Finished", "finished_at"),
    ("Error", lambda row: f"{row['error']['detail']} [{row['error']['code']}]" if row["error"] else None),
]
_SHOWN = 20  # failures that are told


@click.group("operations", cls=Group)
def operations() -> None:
    """Long work: list, show, wait, pause, resume, cancel, retry."""


@operations.command("list")
@click.option("-s", "--state", type=click.Choice(["queued", "running", "paused", *OVER]))
@click.option("-k", "--kind")
@limit_option
@click.pass_obj
def list_operations(session: Session, /, limit: int, **filters: Any) -> None:
    """List operations, the newest first."""
    session.output.rows(list(session.rows("operations", limit=limit, **filters)), OPERATIONS)


@operations.command("show")
@click.argument("operation")
@click.pass_obj
def show_operation(session: Session, /, operation: str) -> None:
    """Show an operation, and what failed of it."""
    document = session.get(f"operations/{part(operation)}")
    if session.output.json:
        session.output.document(document)
        return
    session.output.fields(document, OPERATION)
    for line in failures(session, operation) if document["progress"]["failed"] else ():
        session.output.say(f"  {line}")


@operations.command("wait")
@click.argument("operation")
@click.pass_obj
def wait_operation(session: Session, /, operation: str) -> None:
    """Wait for the end of an operation; the exit code says how it ended."""
    follow(session, session.get(f"operations/{part(operation)}"))


def _verb(name: str, noun: str, summary: str) -> None:
    @operations.command(name, help=summary)
    @click.argument("operation")
    @click.option("-r", "--reason", default="", help="Why; it is kept in the audit.")
    @click.pass_obj
    def command(session: Session, operation: str, reason: str) -> None:
        body = {"change_message": reason} if reason else {}
        session.output.fields(session.post(f"operations/{part(operation)}/{noun}", body), OPERATION)


_verb("pause", "pause", "Pause an operation: what is in hand is finished.")
_verb("resume", "resume", "Go on with a paused operation.")
_verb("cancel", "cancellation", "End an operation; what is done stays done.")
_verb("retry", "retries", "Do again what failed.")


def failures(session: Session, operation: str) -> list[str]:
    """Return the first failures of an operation, each in a line."""
    rows = list(session.rows(f"operations/{part(operation)}/failures", limit=_SHOWN + 1))
    lines = [f"{row['id']}: {row['detail']} [{row['code']}]" for row in rows[:_SHOWN]]
    return [*lines, "…"] if len(rows) > _SHOWN else lines


def follow(session: Session, operation: dict[str, Any]) -> None:
    """Show the progress of an operation until its end. Raises CommandError if it did not succeed; Ctrl-C leaves it running."""
    try:
        operation = _to_its_end(session, operation)
    except KeyboardInterrupt:
        session.output.note(f"It goes on without you: mqctl operations wait {operation['id']}, or operations cancel.")
        raise
    except MqadminError as lost:
        hint = f"The operation goes on: mqctl operations wait {operation['id']}"
        raise CommandError(of_error(lost).message, code=of_error(lost).code, hint=hint) from lost
    if session.output.json:
        session.output.document(operation)
    progress = operation["progress"]
    summary = f"{progress['done']:,} of {progress['total']:,} done, {progress['failed']:,} failed, {progress['skipped']:,} skipped"
    if operation["state"] == "succeeded":
        session.output.note(f"{operation['title']}: {summary}.", style="green")
        return
    error = operation["error"]
    if operation["state"] == "paused":
        why = f" ({error['detail']})" if error else ""
        hint = f"Look, then mqctl operations resume {operation['id']}, or cancel."
        raise CommandError(f"The operation is paused{why}: {summary}.", code=Exit.UNFINISHED, hint=hint)
    lines = tuple(failures(session, operation["id"])) if progress["failed"] else ()
    why = f" {error['detail']} [{error['code']}]" if error else ""
    hint = f"Do again what failed: mqctl operations retry {operation['id']}" if progress["failed"] else ""
    raise CommandError(f"{operation['title']} {operation['state']}: {summary}.{why}", details=lines, hint=hint)


def _to_its_end(session: Session, operation: dict[str, Any]) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    pause = 0.1
    title, more_ = TextColumn("{task.description}"), TextColumn("{task.fields[more]}")
    columns = (title, BarColumn(), MofNCompleteColumn(), more_, TimeRemainingColumn())
    console = session.output.errors
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task: TaskID = bar.add_task(operation["title"], total=operation["progress"]["total"], more="")
        while True:
            progress = operation["progress"]
            over = progress["done"] + progress["failed"] + progress["skipped"]
            failed = f"{progress['failed']} failed" if progress["failed"] else ""
            more = "  ".join(one for one in (failed, "" if operation["state"] == "running" else shown(operation["state"])) if one)
            bar.update(task, completed=over, total=progress["total"], more=more)
            if operation["state"] in OVER or operation["state"] == "paused":
                return operation
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            operation = session.get(f"operations/{part(operation['id'])}")


def add_to(root: click.Group) -> None:
    """Add the commands."""
    root.add_command(operations)
