"""A manifest of clusters, topics and groups: what it would change, how, and doing it; and writing one of what is there."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, TextIO

import click

from mqadmin_sdk.cli import operations
from mqadmin_sdk.cli.common import Group, reason_option, yes_option
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Column
from mqadmin_sdk.cli.session import Session, confirm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAN: list[Column] = [
    ("ACTION", "action"),
    ("KIND", "kind"),
    ("NAME", "name"),
    ("WHAT", lambda item: f"{item['detail']} [{item['code']}]" if item["code"] else ", ".join(item["changes"])),
]
KINDS = ("clusters", "topics", "consumer_groups")


def _files(function: Any) -> Any:
    """Take the manifest, and whose the things are that do not say it."""
    function = click.option("--owner", help="Who answers for what does not say it. [the application's owner]")(function)
    function = click.option("-a", "--application", help="Of what does not say it.")(function)
    return click.argument("files", nargs=-1, required=True, type=click.File("r", encoding="utf-8"))(function)


def _accept(function: Any) -> Any:
    """Take the answer to what would be warned of."""
    return click.option("--accept-warnings", is_flag=True, help="What speaks against a change is known: all the same.")(function)


@click.command("plan", cls=Group.command_class)
@_files
@_accept
@click.option("--exit-code", is_flag=True, help="Exit with 3 if something would change.")
@click.pass_obj
def plan(
    session: Session, /, *, files: Sequence[TextIO], application: str | None, owner: str | None, accept_warnings: bool, exit_code: bool
) -> None:
    """Say what `apply` would do with the manifest in FILES (YAML or JSON, - is standard input): create, change, refuse."""
    found = _plan(session, _request(files, application, owner, "a plan", accept_warnings=accept_warnings))
    _show(session, found)
    _check_refused(found)
    if exit_code and found["create"] + found["differs"]:
        raise CommandError(f"{found['create'] + found['differs']:,} would change.", code=Exit.FINDING)


@click.command("diff", cls=Group.command_class)
@_files
@click.pass_obj
def diff(session: Session, /, *, files: Sequence[TextIO], application: str | None, owner: str | None) -> None:
    """Show how what is there differs from the manifest in FILES, line by line. Exits with 3 if it does."""
    request = _request(files, application, owner, "a comparison")
    found = _plan(session, request)
    output = session.output
    if output.json:
        output.document(found)
    else:
        said = {(kind, row.get("name")): row for kind in KINDS for row in request["manifest"].get(kind) or () if isinstance(row, dict)}
        for item in found["items"]:
            for line in _difference(item, said.get((item["kind"], item["name"]), {})):
                output.say(line, style="green" if line.startswith("+") else "red" if line.startswith("-") else "bold")
        _more(session, found)
    _check_refused(found)
    if found["create"] + found["differs"]:
        raise CommandError(f"{found['create'] + found['differs']:,} differ, {found['same']:,} are the same.", code=Exit.FINDING)


@click.command("apply", cls=Group.command_class)
@_files
@_accept
@click.option("--skip-refused", is_flag=True, help="Apply the rest when some items are refused.")
@reason_option
@yes_option
@click.pass_obj
def apply(
    session: Session,
    /,
    *,
    files: Sequence[TextIO],
    application: str | None,
    owner: str | None,
    accept_warnings: bool,
    skip_refused: bool,
    reason: str,
    yes: bool,
) -> None:
    """Make what the manifest in FILES says so: shows the plan, asks, and shows the progress.

    What is not there is made, what differs is changed, what is left out stays as it is, nothing is ever removed. Applied again, nothing
    changes. It takes the permission to import.
    """
    request = _request(files, application, owner, reason, accept_warnings=accept_warnings)
    found = _plan(session, request)
    if not session.output.json:
        _show(session, found)
    if not skip_refused:
        _check_refused(found)
    if not found["create"] + found["differs"]:
        session.output.note(f"Nothing to do: {found['same']:,} are the same.", style="green")
        if session.output.json:
            session.output.document({"plan": found, "operation": None})
        return
    confirm(f"Create {found['create']:,} and change {found['differs']:,}?", yes=yes)
    answer = session.post("imports", request)
    if answer["plan"] != found:
        session.output.note("Things have changed since the plan was shown; what is done is judged anew for each item.", style="yellow")
    operations.follow(session, answer["operation"])


@click.command("export", cls=Group.command_class)
@click.pass_obj
def export(session: Session) -> None:
    """Write the manifest of all that you may see: clusters, active topics, active groups. YAML, or JSON with -o json."""
    document = session.get("manifest", request_timeout=300.0)
    if session.output.json:
        session.output.document(document)
        return
    click.echo(_dump(document), nl=False)


def _request(
    files: Sequence[TextIO], application: str | None, owner: str | None, reason: str, *, accept_warnings: bool = False
) -> dict[str, Any]:
    manifest: dict[str, Any] = {}
    for file in files:
        for document in _documents(file):
            for kind, rows in document.items():
                if kind in manifest and isinstance(rows, list) and isinstance(manifest[kind], list):
                    manifest[kind] = manifest[kind] + rows
                else:
                    manifest[kind] = rows
    given = {"application": application, "owner": owner, "accept_warnings": accept_warnings}
    return {"source": "manifest", "manifest": manifest, "reason": reason, **{name: value for name, value in given.items() if value}}


def _documents(file: TextIO) -> Iterator[dict[str, Any]]:
    """Read the documents of a file; several are separated by --- lines. A time is text, as JSON has it."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    name = getattr(file, "name", "standard input")
    try:
        documents = list(yaml.load_all(file.read(), Loader))
        json.dumps(documents)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise CommandError(f"{name} is neither YAML nor JSON: {' '.join(str(error).split())}", code=Exit.USAGE) from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
            raise CommandError(f"{name}: a manifest is an object with {', '.join(KINDS)}.", code=Exit.USAGE)
        yield document


def _plan(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = session.post("imports", request, timeout=270.0, dry_run=True)["result"]["plan"]
    return found


def _show(session: Session, found: dict[str, Any]) -> None:
    output = session.output
    if output.json:
        output.document(found)
        return
    output.rows(found["items"], PLAN, nothing="Nothing differs.")
    for item in found["items"]:
        for warning in item["warnings"]:
            output.note(f"warning: {item['kind']}/{item['name']}: {warning}", style="yellow")
    _more(session, found)
    output.note(", ".join(f"{found[action]:,} {word}" for action, word in _COUNTS) + ".")


_COUNTS = (("create", "to create"), ("differs", "to change"), ("same", "the same"), ("refused", "refused"))


def _more(session: Session, found: dict[str, Any]) -> None:
    left = found["create"] + found["differs"] + found["refused"] - len(found["items"])
    if left > 0:
        session.output.note(f"… and {left:,} more.")


def _check_refused(found: dict[str, Any]) -> None:
    if found["refused"]:
        items = [
            f"{item['kind']}/{item['name']}: {item['detail']} [{item['code']}]" for item in found["items"] if item["action"] == "refused"
        ]
        raise CommandError(f"{found['refused']:,} items are refused.", details=tuple(items[:20]))


def _difference(item: dict[str, Any], said: dict[str, Any]) -> Iterator[str]:
    """Yield an item's lines in the form of diff -u."""
    if item["action"] == "refused":
        return
    if item["action"] == "create":
        before: dict[str, Any] = {}
        after = {name: value for name, value in said.items() if name != "name"}
    else:
        before = {name: change["before"] for name, change in item["changes"].items()}
        after = {name: change["after"] for name, change in item["changes"].items()}
    path = f"{item['kind']}/{item['name']}"
    old = _dump(before).splitlines() if before else []
    yield from difflib.unified_diff(old, _dump(after).splitlines(), path if old else "/dev/null", path, lineterm="", n=10)


def _dump(document: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=140)
    return text


def add_to(root: click.Group) -> None:
    """Add the commands."""
    for command in (plan, diff, apply, export):
        root.add_command(command)
