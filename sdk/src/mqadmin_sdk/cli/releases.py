"""Releases: what was published when, by whom and why, and wanting an earlier one again."""

from __future__ import annotations

from typing import Any

import click

from mqadmin_sdk.cli.common import Group, Moment, limit_option, names, reason_option, yes_option
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, confirm

RELEASES: list[Column] = [
    ("ID", "id"),
    ("NODE", "path"),
    ("GENERATION", "generation"),
    ("KIND", "kind"),
    ("STATE", "state"),
    ("BY", "author"),
    ("AT", "created_at"),
    ("MESSAGE", "message"),
]
RELEASE: list[Column] = [
    ("Id", "id"),
    ("Node", "path"),
    ("Generation", lambda row: f"{row['generation']}{', the latest' if row['latest'] else ''}{', retired' if row['retired'] else ''}"),
    ("Kind", "kind"),
    ("State", "state"),
    ("By", "author"),
    ("Message", "message"),
    ("Created", "created_at"),
    ("Published", "published_at"),
]


@click.group("releases", cls=Group)
def releases() -> None:
    """Releases: list, show, rollback."""


@releases.command("list")
@click.option("-t", "--topic", shell_complete=names("topics"))
@click.option("-g", "--group", shell_complete=names("consumer-groups"))
@click.option("-c", "--cluster", shell_complete=names("clusters"))
@click.option("--path", help="Of this node.")
@click.option("-k", "--kind", type=click.Choice(["normal", "rollback", "gated", "emergency", "repair"]))
@click.option("--author")
@click.option("--since", type=Moment(), help="15m (ago), or a time.")
@click.option("--until", type=Moment())
@limit_option
@click.pass_obj
def list_releases(session: Session, /, limit: int, **filters: Any) -> None:
    """List releases, the newest first."""
    session.output.rows(list(session.rows("releases", limit=limit, **filters)), RELEASES)


@releases.command("show")
@click.argument("release", type=int)
@click.pass_obj
def show_release(session: Session, /, release: int) -> None:
    """Show a release: what it changed, key by key, and the whole node."""
    document = session.get(f"releases/{release}")
    output = session.output
    output.fields(document, RELEASE)
    if output.json:
        return
    output.say("")
    differences(session, document["differences"])
    output.say("")
    output.say(document["content"].rstrip("\n"), style="dim")


def differences(session: Session, rows: list[dict[str, Any]]) -> None:
    """Print keys before and after."""
    for row in rows:
        if row.get("before") is not None:
            session.output.say(f"- {row['key']}={row['before']}", style="red")
        if row.get("after") is not None:
            session.output.say(f"+ {row['key']}={row['after']}", style="green")


@releases.command("rollback")
@click.argument("release", type=int)
@click.option("--accept-warnings", is_flag=True, help="What speaks against it is known: all the same.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@reason_option
@yes_option
@click.pass_obj
def rollback(session: Session, /, release: int, *, accept_warnings: bool, dry_run: bool, reason: str, yes: bool) -> None:
    """Want again what stood in a release. Shows first what would change; what changes meanwhile is not overwritten."""
    output = session.output
    path = session.get(f"releases/{release}", fields="path")["path"]
    latest = next(row for row in session.rows("releases", path=path, limit=1))
    body = {"base": latest["generation"], "reason": reason, **({"accept_warnings": True} if accept_warnings else {})}
    planned = session.post(f"releases/{release}/rollback", body, dry_run=True)
    if output.json and dry_run:
        output.document(planned)
        return
    if not output.json:
        output.say(f"{path}: from generation {latest['generation']}")
        differences(session, planned["result"].get("differences") or [])
        for warning in planned["warnings"]:
            output.note(f"warning: {warning['detail']} [{warning['code']}]", style="yellow")
    if dry_run:
        return
    confirm("Roll back?", yes=yes)
    output.fields(session.post(f"releases/{release}/rollback", body), RELEASE)


def add_to(root: click.Group) -> None:
    """Add the commands."""
    root.add_command(releases)
