"""What commands have in common: options that may stand anywhere, kinds of values, waiting, completion of names."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import click

from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from click.shell_completion import CompletionItem

    from mqadmin_sdk.cli.output import Output

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).given[str(param.name)] = value


def _common() -> list[click.Parameter]:
    """Build the options of every command, so that they may stand behind it as well as before."""
    return [
        click.Option(
            ["-o", "--output"], type=click.Choice(["table", "json"]), expose_value=False, callback=_keep, help="How to print. [table]"
        ),
        click.Option(["-p", "--profile"], expose_value=False, callback=_keep, help="A profile of the configuration file."),
        click.Option(["--url"], expose_value=False, callback=_keep, help="Address of mqadmin. [MQADMIN_URL]"),
        click.Option(["-z", "--zookeeper"], expose_value=False, callback=_keep, help="host:port,…/chroot [MQADMIN_ZOOKEEPER]"),
    ]


class Command(click.Command):
    """A command with the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common()


class Group(click.Group):
    """Commands under one word, with the common options."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common()


class Duration(click.ParamType[float]):
    """Seconds, given as 90, 90s, 15m, 2h, 1d or 300ms."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, (int, float)):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration: 90s, 15m, 2h, 1d.", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


class Moment(click.ParamType[str]):
    """A time: of RFC 3339, in the zone of this machine without one, or so long ago (15m)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it; the result is what the API takes."""
        if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|d)", str(value)):
            moment = datetime.now(timezone.utc) - timedelta(seconds=Duration().convert(value, param, ctx))
        else:
            try:
                moment = datetime.fromisoformat(str(value).replace("Z", "+00:00")).astimezone()
            except ValueError:
                self.fail(f"{value!r} is no time: 2026-11-21T14:00:00Z, or 15m for a quarter of an hour ago.", param, ctx)
        return moment.isoformat(timespec="milliseconds")


def names(collection: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete names of a collection from what the server has; says nothing rather than to fail or to take long."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        session = ctx.ensure_object(Session)
        try:
            params = {"name_contains": incomplete} if incomplete and collection != "clusters" else {}
            found = session.plane.ask("GET", collection, params={"fields": "name", "limit": 100, **params}, timeout=2.0)[0]["results"]
        except Exception:  # noqa: BLE001 - a shell that waits for its completion is no place for errors
            return []
        return [CompletionItem(row["name"]) for row in found if row["name"].startswith(incomplete)]

    return complete


def topic_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the name of a topic."""
    return click.argument("topic", shell_complete=names("topics"))(function)


def group_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the name of a consumer group."""
    return click.argument("group", shell_complete=names("consumer-groups"))(function)


def limit_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take how many rows are wanted."""
    return click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows at most.")(function)


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take why: it stands in the audit."""
    return click.option("-r", "--reason", required=True, help="Why; it is kept in the audit.")(function)


def yes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the answer to what would be asked."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def wait_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take whether to wait until a change has reached ZooKeeper or the instances."""
    wait = click.option(
        "-w", "--wait", type=click.Choice(["published", "applied"]), help="Wait until it stands in ZooKeeper, or all instances run it."
    )
    return wait(click.option("--timeout", type=Duration(), default="30s", show_default=True, help="How long, at most 5m.")(function))


def as_it_is_now(session: Session, path: str, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the thing as it is after waiting for its change; the answer of the write is of the moment before."""
    return {**session.get(path), "waited": answer["waited"]} if answer.get("waited") else answer


def waited(output: Output, document: Mapping[str, Any]) -> None:
    """Tell what waiting came to. Raises CommandError (unfinished) if it has not come true."""
    found = document.get("waited")
    if not found:
        return
    change = found.get("change") or {}
    if found["outcome"] in {"reached", "nothing_to_wait_for"}:
        words = {"reached": f"{found['goal']} after {found['seconds']:.1f} s", "nothing_to_wait_for": "nothing was published by this"}
        output.note(f"{words[found['outcome']]}.")
        return
    late = tuple(
        f"{one['app'] or one['node']} at {one['ip']} runs generation {one['applied_generation']}"
        + (f": {one['error']}" if one.get("error") else "")
        for one in change.get("stragglers") or ()
    )
    if change.get("last_error"):
        late += (f"not published: {change['last_error']}",)
    raise CommandError(
        f"The change is done, but not {found['goal']} after {found['seconds']:.1f} s ({found['outcome']}).",
        code=Exit.UNFINISHED,
        details=late,
    )
