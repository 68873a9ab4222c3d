"""Dead letters: which there are and why, and sending them on again."""

from __future__ import annotations

from typing import Any

import click

from mqadmin_sdk.cli import operations
from mqadmin_sdk.cli.common import Group, Moment, group_argument, limit_option, reason_option, yes_option
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, confirm, part

DEAD: list[Column] = [
    ("ID", "id"),
    ("TOPIC", "topic"),
    ("KEY", "key"),
    ("TAG", "tag"),
    ("ATTEMPTS", "attempts"),
    ("REDRIVEN", "redrives"),
    ("DIED", "last_failed_at"),
    ("REASON", "reason"),
]
CAUSES: list[Column] = [("MESSAGES", "messages"), ("OLDEST", "oldest"), ("NEWEST", "newest"), ("CAUSE", "cause")]


def _filters(function: Any) -> Any:
    """Take which dead letters are meant."""
    for option in (
        click.option("--before", type=Moment(), help="Died before: 15m (ago), or a time."),
        click.option("--after", type=Moment(), help="Died after."),
        click.option("--cause", help="Of this cause, as `dead causes` writes it."),
        click.option("--reason-contains", help="With this in the reason."),
        click.option("--tag", help="With this tag."),
        click.option("-k", "--key", help="With this key."),
        click.option("-t", "--topic", help="Of this topic."),
    ):
        function = option(function)
    return click.option("--instance", help="Of a broadcast group: whose.")(function)


@click.group("dead", cls=Group)
def dead() -> None:
    """Dead letters: list, causes, redrive."""


@dead.command("list")
@group_argument
@_filters
@limit_option
@click.pass_obj
def list_dead(session: Session, /, group: str, limit: int, **filters: Any) -> None:
    """List the dead letters of a group, the newest message first."""
    rows = list(session.rows(f"consumer-groups/{part(group)}/dead-letters", limit=limit, **filters))
    session.output.rows(rows, DEAD, nothing="No dead letters.")


@dead.command("causes")
@group_argument
@click.option("--instance", help="Of a broadcast group: whose.")
@click.pass_obj
def causes(session: Session, /, group: str, instance: str | None) -> None:
    """Count the dead letters of a group by cause: reasons that differ only in numbers and ids are one."""
    document = session.get(f"consumer-groups/{part(group)}/dead-letters/causes", instance=instance)
    session.output.rows(document["results"], CAUSES, nothing="No dead letters.")
    if not document["complete"]:
        session.output.note(f"Only the newest {document['looked_at']:,} were looked at.", style="yellow")


@dead.command("redrive")
@group_argument
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@_filters
@click.option("--all", "everything", is_flag=True, help="All of the group.")
@click.option("--to", type=click.Choice(["group", "topic"]), help="To this group alone, or to the topic and so to all its groups. [group]")
@click.option("--rate", type=float, help="Messages a second at most.")
@click.option("--canary", type=int, help="Try so many first; the rest goes only when all of them have succeeded.")
@click.option("--stop-at", type=click.FloatRange(0, 1), help="Pause when this share of them fails again: 0.1.")
@click.option("--dry-run", is_flag=True, help="Only say how many are meant.")
@reason_option
@yes_option
@click.pass_obj
def redrive(
    session: Session, /, group: str, ids: tuple[int, ...], *, everything: bool, dry_run: bool, reason: str, yes: bool, instance: str | None,
    to: str | None, rate: float | None, canary: int | None, stop_at: float | None, **filters: Any,
) -> None:  # fmt: skip
    """Redrive dead letters: those with these IDS, those that match, or --all. Shows the progress, and how each failure was."""
    only = {name: value for name, value in filters.items() if value is not None}
    if bool(ids) + bool(only) + everything != 1:
        raise click.UsageError("Give ids, or a filter, or --all.")
    chosen: dict[str, Any] = {"ids": list(ids)} if ids else {"all": True, "filter": only} if only else {"all": True}
    plan = {"instance": instance, "to": to, "rate": rate, "canary": canary, "stop_at": stop_at}
    body = {**chosen, "reason": reason, **{name: value for name, value in plan.items() if value is not None}}
    path = f"consumer-groups/{part(group)}/redrives"
    planned = session.post(path, body, dry_run=True)["result"]
    if dry_run:
        session.output.fields(planned, operations.OPERATION) if not session.output.json else session.output.document(planned)
        return
    total = planned["progress"]["total"]
    confirm(f"Redrive {total:,} dead letters of {group}?", yes=yes or bool(ids))
    operations.follow(session, session.post(path, body))


def add_to(root: click.Group) -> None:
    """Add the commands."""
    root.add_command(dead)
