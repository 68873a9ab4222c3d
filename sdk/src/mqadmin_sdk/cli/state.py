"""How things stand: the lag of groups, and which instances run what."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from mqadmin_sdk.cli.common import Duration, Group, limit_option, names
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, part
from mqadmin_sdk.errors import ConflictError, NotFoundError

_AT_ONCE = 8  # groups that are asked for at the same time

LAG: list[Column] = [
    ("GROUP", "group"),
    ("LAG", "lag.messages"),
    ("SECONDS", "lag.seconds"),
    ("WAITING", "counts.waiting"),
    ("PROCESSING", "counts.processing"),
    ("LATER", "counts.later"),
    ("DEAD", "counts.dead"),
    ("SUCCEEDED", "counts.succeeded"),
    ("STATE", lambda row: row.get("error") or ("suspended" if row["suspended"] else "running")),
]
INSTANCES: list[Column] = [
    ("ID", "id"),
    ("NODE", "path"),
    ("APP", "app"),
    ("ROLE", "role"),
    ("IP", "ip"),
    ("PID", "pid"),
    ("SDK", "sdk"),
    ("STATE", lambda row: row["state"] if row["online"] else "offline"),
    ("GENERATION", "applied_generation"),
    ("APPLIED", "applied"),
    ("SINCE", lambda row: row["online_since"] if row["online"] else row["offline_at"]),
    ("ERROR", "error"),
]
INSTANCE: list[Column] = [
    *((head.capitalize(), of) for head, of in INSTANCES),
    ("Labels", lambda row: ", ".join(f"{name}={value}" for name, value in (row["labels"] or {}).items())),
    ("Counts", lambda row: ", ".join(f"{name} {number}" for name, number in (row.get("counts") or {}).items())),
    ("Counted", "counted_at"),
    ("Cluster", "cluster"),
    ("Wanted", "published_generation"),
    ("Latency", lambda row: None if row["latency_ms"] is None else f"{row['latency_ms']} ms"),
    ("Source", "source"),
    ("First seen", "first_seen"),
]
EVENTS: list[Column] = [("AT", "at"), ("EVENT", "kind"), ("GENERATION", "generation"), ("DETAIL", "detail")]


@click.command("lag", cls=Group.command_class)
@click.argument("groups", nargs=-1, shell_complete=names("consumer-groups"))
@click.option("-t", "--topic", help="Of all groups that read this topic.")
@click.option("-a", "--application", help="Of all groups of this application.")
@click.option("--max-messages", type=click.IntRange(0), help="Exit with 3 if a group is further behind.")
@click.option("--max-seconds", type=Duration(), help="Exit with 3 if a group is further behind: 30s, 5m.")
@click.option("--max-dead", type=click.IntRange(0), help="Exit with 3 if a group has more dead letters.")
@click.option("-i", "--interval", type=Duration(), help="Show it again and again, so far apart.")
@click.pass_obj
def lag(
    session: Session,
    /,
    groups: tuple[str, ...],
    *,
    topic: str | None,
    application: str | None,
    interval: float | None,
    **limits: float | None,
) -> None:
    """Show how far behind groups are: those named, those of a topic or application, or all active ones."""
    while True:
        chosen = groups or [
            row["name"] for row in session.rows("consumer-groups", topic=topic, application=application, state="active", fields="name")
        ]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            rows = list(threads.map(lambda name: _status(session, name, named=bool(groups)), chosen))
        if interval is not None and session.output.console.is_terminal:
            session.output.console.clear()
        session.output.rows(rows, LAG, nothing="No groups.")
        if interval is None:
            break
        time.sleep(interval)
    over = [line for row in rows for line in _over(row, **limits)]
    if over:
        raise CommandError("Too far behind.", code=Exit.FINDING, details=tuple(over))


def _status(session: Session, name: str, *, named: bool) -> dict[str, Any]:
    try:
        found: dict[str, Any] = session.get(f"consumer-groups/{part(name)}/status")
    except (NotFoundError, ConflictError) as error:
        if named:
            raise
        return {"group": name, "error": error.code, "suspended": None, "counts": {}, "lag": {}}  # nobody knows: its messages are elsewhere
    return found


def _over(row: dict[str, Any], *, max_messages: float | None, max_seconds: float | None, max_dead: float | None) -> list[str]:
    found = []
    for words, value, limit in (
        ("messages behind", row["lag"].get("messages"), max_messages),
        ("seconds behind", row["lag"].get("seconds"), max_seconds),
        ("dead letters", row["counts"].get("dead"), max_dead),
    ):
        if limit is not None and value is None:
            found.append(f"{row['group']}: {words}: unknown")
        elif limit is not None and value > limit:
            found.append(f"{row['group']}: {value:,.0f} {words}, more than {limit:,.0f}")
    return found


@click.group("instances", cls=Group)
def instances() -> None:
    """Instances: list, show."""


@instances.command("list")
@click.option("-t", "--topic", shell_complete=names("topics"), help="Producers of this topic.")
@click.option("-g", "--group", shell_complete=names("consumer-groups"), help="Consumers of this group.")
@click.option("-a", "--app", help="Of this application.")
@click.option("--path", help="Of this node.")
@click.option("--ip")
@click.option("--online/--offline", default=True, show_default=True)
@click.option("--applied", type=click.Choice(["applied", "outdated", "unknown"]), help="Whether they run the newest change.")
@limit_option
@click.pass_obj
def list_instances(session: Session, /, *, limit: int, topic: str | None, group: str | None, path: str | None, **filters: Any) -> None:
    """List who runs, and which generation each one has applied."""
    if sum(map(bool, (topic, group, path))) > 1:
        raise click.UsageError("Give one of --topic, --group, --path.")
    if topic or group:
        path = f"/zms/topic/{topic}" if topic else f"/zms/consumergroup/{group}"
    session.output.rows(list(session.rows("instances", limit=limit, path=path, **filters)), INSTANCES, nothing="No instances.")


@instances.command("show")
@click.argument("instance", type=int)
@click.pass_obj
def show_instance(session: Session, /, instance: int) -> None:
    """Show an instance and what it did in the last week."""
    document = session.get(f"instances/{instance}")
    session.output.fields(document, INSTANCE)
    if not session.output.json:
        session.output.say("")
        session.output.rows(document["events"], EVENTS)


def add_to(root: click.Group) -> None:
    """Add the commands."""
    for command in (lag, instances):
        root.add_command(command)
