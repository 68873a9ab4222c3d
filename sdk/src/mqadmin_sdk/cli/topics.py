"""Topics and consumer groups: list, look, apply for, move, suspend and resume."""

from __future__ import annotations

from typing import Any

import click

from mqadmin_sdk.cli.common import (
    Group,
    as_it_is_now,
    group_argument,
    limit_option,
    names,
    reason_option,
    topic_argument,
    wait_options,
    waited,
)
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, part
from mqadmin_sdk.errors import ConflictError, ForbiddenError, NotFoundError

STATES = click.Choice(["pending", "rejected", "active", "retired"])


def applied(row: Any) -> str | None:
    """How many of the online instances run the newest change; None where nobody knows."""
    counts = (row.get("status") or {}).get("applied")
    if not counts:
        return None
    unknown = f" (+{counts['unknown']} unknown)" if counts["unknown"] else ""
    return f"{counts['applied']}/{counts['online'] - counts['unknown']}{unknown}"


def subscriptions(row: Any) -> str:
    """Show the topics of a group, each with its filter."""
    return ", ".join(one["topic"] + ("" if one["tags"] == "*" else f" [{one['tags']}]") for one in row["subscriptions"])


def draining(row: Any) -> str | None:
    """Clusters that topics have left and groups still pull from; a mqadmin that does not know of it says nothing."""
    found = [f"{one['cluster']} ({one['topic']}, {_until(one)})" for one in row.get("draining") or ()]
    return ", ".join(found) or None


def _until(one: Any) -> str:
    return f"until {one['until']}" if one["until"] else "until it is empty, or somebody says so"


def _published(row: Any) -> str | None:
    status = row.get("status")
    if not status:
        return None
    late = f", wanted is {status['generation']}" if status["generation"] != status["published_generation"] else ""
    error = f": {status['last_error']}" if status["last_error"] else ""
    return f"{status['state']}, generation {status['published_generation']}{late}{error}"


TOPICS: list[Column] = [
    ("NAME", "name"),
    ("APPLICATION", "application"),
    ("CLUSTER", "cluster"),
    ("STATE", "state"),
    ("GENERATION", "status.generation"),
    ("PUBLISHED", "status.state"),
    ("APPLIED", applied),
]
TOPIC: list[Column] = [
    ("Name", "name"),
    ("Application", "application"),
    ("Owner", "owner"),
    ("Cluster", "cluster"),
    ("Drained from", draining),
    ("State", "state"),
    ("Expected", lambda row: f"{row['expected_rate']} messages/s of {row['message_bytes']} bytes, {row['partitions']} partitions"),
    ("Ordered", "ordered"),
    ("Published", _published),
    ("Applied", applied),
    ("Purpose", "reason"),
    ("Changed", "changed_at"),
]
GROUPS: list[Column] = [
    ("NAME", "name"),
    ("APPLICATION", "application"),
    ("TOPICS", subscriptions),
    ("STATE", lambda row: "suspended" if row["suspended"] and row["state"] == "active" else row["state"]),
    ("MODE", "mode"),
    ("GENERATION", "status.generation"),
    ("APPLIED", applied),
]
GROUP: list[Column] = [
    ("Name", "name"),
    ("Application", "application"),
    ("Owner", "owner"),
    ("Topics", subscriptions),
    ("Drains", draining),
    ("State", "state"),
    ("Suspended", lambda row: f"yes: {row['suspend_reason']}" if row["suspended"] else False),
    ("Mode", lambda row: f"{row['mode']}, {row['balance']}"),
    ("Attempts", lambda row: f"{row['max_attempts']}, then {row['on_exhausted']}; {row['backoff_ms']} to {row['backoff_max_ms']} ms apart"),
    ("Webhook", "push_url"),
    ("Published", _published),
    ("Applied", applied),
    ("Purpose", "reason"),
    ("Changed", "changed_at"),
]


@click.group("topics", cls=Group)
def topics() -> None:
    """Topics: list, show, create, move, say what is drained."""


@topics.command("list")
@click.option("-a", "--application", help="Of this application.")
@click.option("-c", "--cluster", shell_complete=names("clusters"), help="On this cluster.")
@click.option("-s", "--state", type=STATES)
@click.option("--name", "name_contains", help="Part of the name.")
@limit_option
@click.pass_obj
def list_topics(session: Session, /, limit: int, **filters: Any) -> None:
    """List topics, each with its cluster and how many instances run its newest change."""
    session.output.rows(list(session.rows("topics", limit=limit, **filters)), TOPICS)


@topics.command("show")
@topic_argument
@click.pass_obj
def show_topic(session: Session, /, topic: str) -> None:
    """Show a topic, and the groups that read it."""
    document = session.get(f"topics/{part(topic)}")
    groups = list(session.rows("consumer-groups", topic=topic, state="active", fields="name"))
    names_ = [row["name"] for row in groups]
    session.output.fields({**document, "groups": names_}, [*TOPIC, ("Groups", "groups")])


@topics.command("create")
@click.argument("topic")
@click.option("-a", "--application", required=True)
@click.option("--rate", "expected_rate", type=int, required=True, help="Messages a second that are expected.")
@click.option("--bytes", "message_bytes", type=int, required=True, help="Size of a message that is expected.")
@click.option("--partitions", type=int, default=1, show_default=True)
@click.option("--ordered", is_flag=True, help="In order by sharding key.")
@click.option("--dry-run", is_flag=True, help="Only say what would be answered.")
@reason_option
@wait_options
@click.pass_obj
def create_topic(session: Session, /, topic: str, *, wait: str | None, timeout: float, dry_run: bool, **fields: Any) -> None:
    """Apply for a topic. Another person decides, or a policy at once: see the state that is answered."""
    answer = session.post("topics", {"name": topic, **fields}, wait=wait, timeout=timeout, dry_run=dry_run or None)
    _changed(session, f"topics/{part(topic)}", answer, TOPIC)


@topics.command("move")
@topic_argument
@click.argument("cluster", shell_complete=names("clusters"))
@click.option("--accept-warnings", is_flag=True, help="Over its limits, or another kind of broker: all the same.")
@click.option("--dry-run", is_flag=True, help="Only say what would be answered.")
@reason_option
@wait_options
@click.pass_obj
def move_topic(
    session: Session, /, topic: str, cluster: str, *, wait: str | None, timeout: float, dry_run: bool, accept_warnings: bool, reason: str
) -> None:
    """Assign a topic to another cluster; applications follow while they run."""
    body = {"cluster": cluster, "reason": reason, **({"accept_warnings": True} if accept_warnings else {})}
    answer = session.post(f"topics/{part(topic)}/moves", body, wait=wait, timeout=timeout, dry_run=dry_run or None)
    _changed(session, f"topics/{part(topic)}", answer, TOPIC)


@topics.command("drained")
@topic_argument
@click.argument("cluster", shell_complete=names("clusters"))
@click.option("--dry-run", is_flag=True, help="Only say what would be answered.")
@reason_option
@wait_options
@click.pass_obj
def drained_topic(session: Session, /, topic: str, cluster: str, *, wait: str | None, timeout: float, dry_run: bool, reason: str) -> None:
    """Say that a cluster which a topic has left holds nothing more of it: its groups let go of that cluster."""
    body = {"cluster": cluster, "reason": reason}
    answer = session.post(f"topics/{part(topic)}/drained-clusters", body, wait=wait, timeout=timeout, dry_run=dry_run or None)
    _changed(session, f"topics/{part(topic)}", answer, TOPIC)


@click.group("groups", cls=Group)
def groups() -> None:
    """Consumer groups: list, show, suspend, resume."""


@groups.command("list")
@click.option("-a", "--application", help="Of this application.")
@click.option("-t", "--topic", shell_complete=names("topics"), help="That read this topic.")
@click.option("-s", "--state", type=STATES)
@click.option("--suspended/--running", default=None, help="Only these.")
@click.option("--name", "name_contains", help="Part of the name.")
@limit_option
@click.pass_obj
def list_groups(session: Session, /, limit: int, **filters: Any) -> None:
    """List consumer groups with their topics."""
    session.output.rows(list(session.rows("consumer-groups", limit=limit, **filters)), GROUPS)


@groups.command("show")
@group_argument
@click.pass_obj
def show_group(session: Session, /, group: str) -> None:
    """Show a consumer group, what became of its messages, and how far behind it is."""
    document = session.get(f"consumer-groups/{part(group)}")
    columns = list(GROUP)
    try:
        counts = session.get(f"consumer-groups/{part(group)}/status") if document["state"] == "active" else {}
    except (NotFoundError, ForbiddenError, ConflictError):
        counts = {}  # its messages are elsewhere, or not for this credential
    if counts:
        document = {**document, "counts": counts["counts"], "lag": counts["lag"]}
        columns += [
            ("Messages", lambda row: ", ".join(f"{number:,} {name}" for name, number in row["counts"].items() if number) or "none yet"),
            ("Lag", lambda row: lag_of(row["lag"])),
        ]
    session.output.fields(document, columns)


def lag_of(lag: Any) -> str | None:
    """How far behind, in words."""
    if not lag or lag["messages"] is None:
        return None
    seconds = "" if lag["seconds"] is None else f", {lag['seconds']:.1f} s"
    return f"{lag['messages']:,} messages{seconds}"


def _switch(session: Session, group: str, verb: str, reason: str, *, wait: str | None, timeout: float) -> None:
    body = {"reason": reason} if reason else {}
    answer = session.post(f"consumer-groups/{part(group)}/{verb}", body, wait=wait, timeout=timeout)
    _changed(session, f"consumer-groups/{part(group)}", answer, GROUP)


@groups.command("suspend")
@group_argument
@reason_option
@wait_options
@click.pass_obj
def suspend(session: Session, /, group: str, *, reason: str, wait: str | None, timeout: float) -> None:
    """Hand out nothing more to a group."""
    _switch(session, group, "suspension", reason, wait=wait, timeout=timeout)


@groups.command("resume")
@group_argument
@click.option("-r", "--reason", default="", help="Why; it is kept in the audit.")
@wait_options
@click.pass_obj
def resume(session: Session, /, group: str, *, reason: str, wait: str | None, timeout: float) -> None:
    """Go on with a group where it stopped."""
    _switch(session, group, "resumption", reason, wait=wait, timeout=timeout)


@click.command("applied", cls=Group.command_class)
@click.argument("kind", type=click.Choice(["topic", "group"]))
@click.argument("name")
@click.option("-g", "--generation", type=int, help="A change; the newest if not given.")
@wait_options
@click.pass_obj
def applied_(session: Session, /, kind: str, name: str, *, generation: int | None, wait: str | None, timeout: float) -> None:
    """Say who runs the newest change of a topic or group, and who does not; with --wait, until they do."""
    collection = "topics" if kind == "topic" else "consumer-groups"
    limits = {"wait": wait, "timeout": f"{timeout * 1000:.0f}ms"} if wait else {}
    params = {"generation": generation, **limits}
    document = session.get(f"{collection}/{part(name)}/applied", request_timeout=timeout + 30.0, **params)
    columns: list[Column] = [
        ("Node", "path"),
        ("Generation", "generation"),
        ("Published", lambda row: row["published_at"] if row["published"] else row["last_error"] or "not yet"),
        ("Applied", lambda row: row["applied"] if row["known"] else None),
        ("Instances", lambda row: ", ".join(f"{number} {word}" for word, number in row["instances"].items() if number) or "none"),
        ("Latency", lambda row: _latency(row["latency"])),
        ("Behind", lambda row: ", ".join(f"{one['app'] or one['node']} at {one['ip']}" for one in row["stragglers"])),
    ]
    session.output.fields(document, columns)
    if wait and (document.get("waited") or {}).get("outcome") not in {"reached", "nothing_to_wait_for"}:
        raise CommandError(f"Not {wait} within {timeout:g} s.", code=Exit.UNFINISHED)


def _latency(latency: Any) -> str | None:
    if not latency or not latency["count"]:
        return None
    return f"p50 {latency['p50_ms']} ms, p95 {latency['p95_ms']} ms, max {latency['max_ms']} ms"


def _changed(session: Session, path: str, answer: Any, columns: list[Column]) -> None:
    """Show what a change came to, or would."""
    if answer.get("dry_run"):
        dry(session, answer)
        return
    session.output.fields(as_it_is_now(session, path, answer), columns)
    waited(session.output, answer)


def dry(session: Session, answer: Any) -> None:
    """Show what a dry run would have changed, and its warnings."""
    output = session.output
    if output.json:
        output.document(answer)
        return
    columns: list[Column] = [("WOULD", "action"), ("KIND", "kind"), ("NAME", "name"), ("FROM", "before"), ("TO", "after")]
    output.rows(answer["changes"], columns, nothing="Nothing would change.")
    for warning in answer["warnings"]:
        output.note(f"warning: {warning['detail']} [{warning['code']}]", style="yellow")


def add_to(root: click.Group) -> None:
    """Add the commands."""
    for command in (topics, groups, applied_):
        root.add_command(command)
