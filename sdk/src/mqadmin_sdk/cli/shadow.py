"""Shadow groups: which there are, and switching them on for a stress test and off again."""

from __future__ import annotations

from typing import Any

import click

from mqadmin_sdk.cli.common import Duration, Group, as_it_is_now, limit_option, reason_option, wait_options, waited, yes_option
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, confirm
from mqadmin_sdk.cli.topics import applied

SHADOWS: list[Column] = [
    ("ID", "id"),
    ("APPLICATION", "application"),
    ("TASK", "task"),
    ("GROUP", "group"),
    ("TOPIC", "topic"),
    ("ON", "enabled"),
    ("UNTIL", lambda row: row["lease_until"] if row["enabled"] else None),
    ("APPLIED", applied),
]
SHADOW: list[Column] = [
    ("Id", "id"),
    ("Application", "application"),
    ("Task", "task"),
    ("Group", "group"),
    ("Topic", "topic"),
    ("On", "enabled"),
    ("Until", lambda row: row["lease_until"] if row["enabled"] else None),
    ("Reason", "reason"),
    ("Applied", applied),
]


def _find(session: Session, shadow: str) -> int:
    """Return the number of a shadow group that is given by it, or as TASK/GROUP."""
    if shadow.isdigit():
        return int(shadow)
    task, slash, group = shadow.partition("/")
    if not (task and slash and group):
        raise click.UsageError("A shadow group is its number, or TASK/GROUP.")
    rows = list(session.rows("shadow-tasks", task=task, group=group, limit=2))
    if len(rows) != 1:
        many = f"Several applications have a shadow group {shadow}: give its number." if rows else f"There is no shadow group {shadow}."
        raise CommandError(many, code=Exit.NOT_FOUND if not rows else Exit.USAGE)
    return int(rows[0]["id"])


@click.group("shadow", cls=Group)
def shadow() -> None:
    """Shadow groups: list, create, on, off."""


@shadow.command("list")
@click.option("-a", "--application")
@click.option("--task", help="Of this stress test.")
@click.option("-g", "--group")
@click.option("--on/--off", "enabled", default=None, help="Only these.")
@limit_option
@click.pass_obj
def list_shadows(session: Session, /, limit: int, **filters: Any) -> None:
    """List shadow groups."""
    session.output.rows(list(session.rows("shadow-tasks", limit=limit, **filters)), SHADOWS)


@shadow.command("create")
@click.argument("task")
@click.argument("group")
@click.argument("topic")
@click.option("-a", "--application", required=True)
@click.pass_obj
def create(session: Session, /, task: str, group: str, topic: str, *, application: str) -> None:
    """Add a shadow group of the stress test TASK for GROUP, reading TOPIC; it is off."""
    body = {"application": application, "task": task, "group": group, "topic": topic}
    session.output.fields(session.post("shadow-tasks", body), SHADOW)


@shadow.command("on")
@click.argument("shadow_group", metavar="NUMBER|TASK/GROUP")
@click.option("-l", "--lease", type=Duration(), default="30m", show_default=True, help="It ends by itself after so long.")
@reason_option
@wait_options
@click.pass_obj
def on(session: Session, /, shadow_group: str, *, lease: float, reason: str, wait: str | None, timeout: float) -> None:
    """Switch a shadow group on."""
    body = {"minutes": max(1, round(lease / 60)), "reason": reason}
    answer = session.post(f"shadow-tasks/{_find(session, shadow_group)}/start", body, wait=wait, timeout=timeout)
    session.output.fields(as_it_is_now(session, f"shadow-tasks/{answer['id']}", answer), SHADOW)
    waited(session.output, answer)


@shadow.command("off")
@click.argument("shadow_group", metavar="[NUMBER|TASK/GROUP]", required=False)
@click.option("--all", "everything", is_flag=True, help="All that are within your reach.")
@click.option("-a", "--application", help="All of an application.")
@click.option("--task", help="All of a stress test.")
@reason_option
@yes_option
@wait_options
@click.pass_obj
def off(
    session: Session, /, shadow_group: str | None, *, everything: bool, application: str | None, task: str | None, reason: str, yes: bool,
    wait: str | None, timeout: float,
) -> None:  # fmt: skip
    """Switch a shadow group off, or many at once."""
    many = {name: value for name, value in (("application", application), ("task", task)) if value}
    if bool(shadow_group) + everything + bool(many) != 1:
        raise click.UsageError("Give one shadow group, or --application or --task, or --all.")
    if shadow_group:
        path = f"shadow-tasks/{_find(session, shadow_group)}/stop"
        answer = session.post(path, {"reason": reason}, wait=wait, timeout=timeout)
        session.output.fields(as_it_is_now(session, f"shadow-tasks/{answer['id']}", answer), SHADOW)
        waited(session.output, answer)
        return
    confirm(f"Switch off all shadow groups{' of ' + ', '.join(many.values()) if many else ''}?", yes=yes)
    answer = session.post("shadow-tasks/stop-all", {"reason": reason, **many})
    session.output.document(answer)


def add_to(root: click.Group) -> None:
    """Add the commands."""
    root.add_command(shadow)
