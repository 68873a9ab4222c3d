"""Tools: watch, doctor, any request, completion, and the profile of a newcomer."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from mqadmin_sdk.cli import settings as configuration
from mqadmin_sdk.cli.common import Group
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("api", cls=Group.command_class)
@click.argument("method", type=click.Choice(["GET", "POST", "PUT", "PATCH", "DELETE"], case_sensitive=False))
@click.argument("path")
@click.option("-d", "--data", help="The body as JSON.")
@click.option("-f", "--file", type=click.File("r", encoding="utf-8"), help="The body is in this file; - is standard input.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="Such as If-Match='\"3\"'.")
@click.pass_obj
def api(session: Session, /, method: str, path: str, *, data: str | None, file: TextIO | None, headers: Sequence[str]) -> None:
    """Ask the REST API anything: mqctl api GET 'topics?state=active'. Prints the JSON of the answer."""
    if data is not None and file is not None:
        raise click.UsageError("Give --data or --file.")
    text = file.read() if file is not None else data
    try:
        body = None if text is None else json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The body is no JSON: {error}") from error
    given = dict(header.partition("=")[::2] for header in headers)
    target = path.removeprefix("/").removeprefix("api/v1/")
    try:
        answer, _headers = session.plane.ask(method.upper(), target, body, headers=given, timeout=310.0, repeat=method.upper() == "GET")
    except UnicodeEncodeError:
        raise click.UsageError("The path has to be percent-encoded.") from None
    except ValueError as error:
        raise CommandError(f"The answer is no JSON: {error}") from error
    if answer is not None:
        session.output.document(answer)


@click.command("completion", cls=Group.command_class)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell: eval "$(mqctl completion bash)" in ~/.bashrc."""
    from click.shell_completion import get_completion_class

    from mqadmin_sdk.cli.app import root

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "mqctl", "_MQCTL_COMPLETE").source())


@click.command("login", cls=Group.command_class)
@click.argument("address")
@click.option("--name", default="default", show_default=True, help="The profile's name.")
@click.pass_obj
def login(session: Session, /, address: str, *, name: str) -> None:
    """Make a profile: asks for a token (console: API tokens) or reads it from a pipe, tries it, and writes the configuration file."""
    from mqadmin_sdk.http import ControlPlane, Token

    file = configuration.path_of_file()
    text = file.read_text("utf-8") if file.exists() else ""
    if file.exists() and name in configuration.profiles_of(file):
        raise CommandError(f"{file} has a profile {name} already.", code=Exit.USAGE, hint="Give another --name, or edit the file.")
    token = (click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token:
        raise CommandError("There is no token.", code=Exit.USAGE)
    try:
        plane = ControlPlane(address, credential=Token(token), timeout=30.0)
        me: Any = plane.get("me")
    except ValueError as error:
        raise CommandError(str(error), code=Exit.USAGE) from error
    lines = [f"[profiles.{json.dumps(name)}]", f"url = {json.dumps(address)}", f"token = {json.dumps(token)}"]
    if given := session.given.get("zookeeper"):
        lines.append(f"zookeeper = {json.dumps(given)}")
    _write_private(file, (text.rstrip("\n") + "\n\n" if text.strip() else "") + "\n".join(lines) + "\n")
    session.output.note(f"{me['username']} at {address}: profile {name} is in {file}.", style="green")


def _write_private(file: Path, text: str) -> None:
    """Put the file in its place at once, readable by nobody else at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=file.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def add_to(root: click.Group) -> None:
    """Add the commands."""
    from mqadmin_sdk.cli.doctor import doctor
    from mqadmin_sdk.cli.watching import watch

    for command in (watch, doctor, api, completion, login):
        root.add_command(command)
