"""Messages: send, follow as they come, search, and what became of one in every group."""

from __future__ import annotations

import base64
import contextlib
import itertools
import sys
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from mqadmin_sdk.cli.common import Duration, Group, Moment, limit_option, topic_argument
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Column, clean, local, shown
from mqadmin_sdk.cli.session import Session, cursor_of, part
from mqadmin_sdk.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_BATCH = 500  # messages sent at once
_BATCH_BYTES = 4 * 1024 * 1024
_PAGES = 4  # pages of 500 that one look of `tail` reads at most
_BODIES = 100  # bodies that one look of `tail` fetches at most
_SETTLED = 5.0  # seconds after which no message with an older id is expected any more


@click.command("send", cls=Group.command_class)
@topic_argument
@click.argument("body", required=False)
@click.option("-f", "--file", type=click.File("rb"), help="The body is in this file; - is standard input.")
@click.option("--lines", is_flag=True, help="Each line of the file, or of standard input, is a message.")
@click.option("-k", "--key", help="For finding it again, such as the number of an order.")
@click.option("--tag", help="Groups choose by tags; several: paid || urgent.")
@click.option("--sharding-key", help="Messages with the same one stay in order.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("-d", "--delay", type=Duration(), help="Deliver it so much later: 30s, 15m, 2h.")
@click.option("--id", "own_id", help="An id of your own: what was sent under it before is not stored again.")
@click.pass_obj
def send(
    session: Session, /, topic: str, body: str | None, *, file: BinaryIO | None, lines: bool, own_id: str | None, **fields: Any
) -> None:
    """Send a message, or one for each line, to a topic on the built-in store.

    A send whose answer is lost is repeated under the same id, so nothing is stored twice.
    """
    common = _common_fields(**fields)
    if lines:
        if body is not None or own_id:
            raise click.UsageError("--lines takes the bodies from standard input or --file, and ids of its own.")
        _send_lines(session, topic, file or sys.stdin.buffer, common)
        return
    if (body is None) == (file is None):
        raise click.UsageError("Give the body, or --file with it.")
    content = body.encode("utf-8", "surrogateescape") if body is not None else file.read() if file is not None else b""
    message = {**_body(content), **common, "id": own_id or str(uuid.uuid4())}
    accepted = _send(session, topic, message)["messages"][0]
    columns: list[Column] = [("Id", "id"), ("State", "state"), ("Due", "deliver_at"), ("Sent before", "duplicate")]
    session.output.fields(accepted, [column for column in columns if column[0] in {"Id", "State"} or accepted.get(str(column[1]))])


def _common_fields(
    *, key: str | None, tag: str | None, sharding_key: str | None, headers: tuple[str, ...], delay: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"key": key, "tag": tag, "sharding_key": sharding_key}
    if headers:
        pairs = [header.partition("=") for header in headers]
        if not all(name and equals for name, equals, _value in pairs):
            raise click.UsageError("A header is NAME=VALUE.")
        found["headers"] = {name: value for name, _equals, value in pairs}
    if delay is not None:
        found["delay_ms"] = round(delay * 1000)
    return {name: value for name, value in found.items() if value is not None}


def _body(content: bytes) -> dict[str, str]:
    try:
        return {"body": content.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(content).decode()}


def _send(session: Session, topic: str, body: dict[str, Any]) -> Any:
    return session.send(f"topics/{part(topic)}/messages", body)


def _send_lines(session: Session, topic: str, file: Iterable[bytes], common: dict[str, Any]) -> None:
    sent = 0
    numbers = itertools.count(1)
    run = uuid.uuid4()
    try:
        for batch in _batches(file):
            messages = [{**_body(line), **common, "id": f"{run}-{next(numbers)}"} for line in batch]
            accepted = _send(session, topic, {"messages": messages})["messages"]
            sent += len(accepted)
            if session.output.json:
                for one in accepted:
                    session.output.line(one)
    finally:
        session.output.note(f"{sent:,} sent to {topic}.")


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Divide lines into what one request takes."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        body = line.rstrip(b"\r\n")
        if batch and (len(batch) >= _BATCH or size + len(body) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


# --- tail ---------------------------------------------------------------------------------------------------------------


@click.command("tail", cls=Group.command_class)
@topic_argument
@click.option("-n", "--last", type=click.IntRange(0, 500), default=10, show_default=True, help="Begin with so many that are there.")
@click.option("-k", "--key", help="Only those with this key.")
@click.option("--tag", help="Only those with this tag.")
@click.option("--bodies/--no-bodies", default=True, show_default=True, help="Show bodies, as far as the credential may read them.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on with what comes.")
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="Between two looks.")
@click.option("--for", "seconds", type=Duration(), help="End after so long.")
@click.pass_obj
def tail(
    session: Session,
    /,
    topic: str,
    *,
    last: int,
    key: str | None,
    tag: str | None,
    bodies: bool,
    follow: bool,
    interval: float,
    seconds: float | None,
) -> None:
    """Show the messages of a topic as they come, until Ctrl-C. Nothing is consumed: no group notices."""
    look = Tail(session, topic, key=key, tag=tag)
    ends = None if seconds is None else time.monotonic() + seconds
    found = look.first(last)
    while True:
        for number, row in enumerate(found):
            _print(session, row, with_body=bodies and number < _BODIES)
        if look.missed:
            session.output.note("More came than could be shown; some were left out.", style="yellow")
        if not follow or (ends is not None and time.monotonic() >= ends):
            return
        time.sleep(interval if ends is None else max(0.0, min(interval, ends - time.monotonic())))
        found = look.more()


class Tail:
    """What is new in a topic. Ids are given before messages are committed, so that one may appear behind a later one."""

    def __init__(self, session: Session, topic: str, *, key: str | None, tag: str | None) -> None:
        self._session, self._topic = session, topic
        self._filters: dict[str, Any] = {"key": key, "tag": tag}
        self._seen: set[int] = set()
        self._newest: deque[tuple[float, int]] = deque()  # (when, the topic's newest id then)
        self._settled = 0  # nothing at or below it is new
        self.missed = False  # whether the last look could not reach back to the one before

    def first(self, last: int) -> list[dict[str, Any]]:
        """Return the newest ones that are there already, oldest first; of rare ones not all that far back."""
        top = self._top()
        rows, self._settled, _whole = self._search(enough=max(last, 1))
        self._note(rows, top)
        return rows[:last][::-1]

    def more(self) -> list[dict[str, Any]]:
        """Return what has come since, oldest first."""
        newest, top = (self._newest[-1][1] if self._newest else self._settled), self._top()
        rows, reached, whole = self._search()
        self.missed = not whole and reached > newest
        found = [row for row in rows if row["id"] > self._settled and row["id"] not in self._seen]
        self._note(found, top)
        return found[::-1]

    def _top(self) -> int:
        rows = self._session.get("messages", topic=self._topic, limit=1, fields="id")["results"]
        return int(rows[0]["id"]) if rows else 0

    def _search(self, enough: int = 500 * _PAGES) -> tuple[list[dict[str, Any]], int, bool]:
        """Look back from now, bounded: (what fits, down to which id all was looked at, whether that is all that is wanted)."""
        rows: list[dict[str, Any]] = []
        cursor = None
        for _page in range(_PAGES):
            page = self._session.get("messages", topic=self._topic, limit=min(enough, 500), cursor=cursor, **self._filters)
            rows += page["results"]
            cursor = cursor_of(page.get("next"))
            if cursor is None:
                return rows, self._settled, True
            if int(cursor) <= self._settled or len(rows) >= enough:
                return rows, int(cursor) - 1, True
        return rows, int(cursor or 0) - 1, False

    def _note(self, rows: list[dict[str, Any]], top: int) -> None:
        now = time.monotonic()
        self._seen.update(row["id"] for row in rows)
        self._newest.append((now, top))
        while len(self._newest) > 1 and now - self._newest[0][0] > _SETTLED:
            self._settled = max(self._settled, self._newest.popleft()[1])
        self._seen = {one for one in self._seen if one > self._settled}


def _print(session: Session, row: dict[str, Any], *, with_body: bool) -> None:
    output = session.output
    if with_body:
        with contextlib.suppress(NotFoundError):  # its time was over just now
            row = {name: value for name, value in session.get(f"messages/{row['id']}").items() if name != "groups"}
    if output.json:
        output.line(row)
        return
    about = "  ".join(f"{name}={shown(row[name])}" for name in ("key", "tag", "sharding_key") if row.get(name))
    headers = " ".join(f"{name}: {value}" for name, value in (row.get("headers") or {}).items())
    text = body_text(row) if with_body else f"({row['body_bytes']} bytes)"
    cells = (local(row["sent_at"]), str(row["id"]), about, f"{{{headers}}}" if headers else "", text)
    output.say("  ".join(cell for cell in cells if cell))


def body_text(document: Mapping[str, Any]) -> str:
    """Return a body for a terminal; bytes that are no text in base64."""
    if document.get("body_base64"):
        return f"base64:{document['body_base64']}"
    if "body" not in document or document["body"] is None:
        return f"({document['body_bytes']} bytes, not for this credential)"
    return clean(str(document["body"]))


# --- search and status ----------------------------------------------------------------------------------------------------

MESSAGES: list[Column] = [
    ("ID", "id"),
    ("SENT", "sent_at"),
    ("STATE", "state"),
    ("KEY", "key"),
    ("TAG", "tag"),
    ("SHARDING KEY", "sharding_key"),
    ("BYTES", "body_bytes"),
    ("DUE", "deliver_at"),
]
STATUSES: list[Column] = [
    ("GROUP", lambda row: row["group"] + (f" / {row['instance']}" if row.get("instance") else "")),
    ("STATUS", "status"),
    ("ATTEMPTS", "attempts"),
    ("CONSUMER", "consumer"),
    ("PULLED", "pulled_at"),
    ("SETTLED", "settled_at"),
    ("NEXT TRY", "next_retry_at"),
    ("ERROR", "last_error"),
]
EVENTS: list[Column] = [
    ("AT", "at"),
    ("EVENT", "event"),
    ("GROUP", lambda row: (row["group"] or "") + (f" / {row['instance']}" if row.get("instance") else "")),
    ("ATTEMPT", "attempt"),
    ("CONSUMER", "consumer"),
    ("BY", "by"),
    ("DETAIL", "detail"),
]


@click.group("messages", cls=Group)
def messages() -> None:
    """Messages: search, and what became of one."""


@messages.command("list")
@topic_argument
@click.option("-k", "--key", help="With this key.")
@click.option("--tag", help="With this tag.")
@click.option("--since", "from", type=Moment(), help="Sent since: 15m (ago), or a time.")
@click.option("--until", "to", type=Moment(), help="Sent until.")
@limit_option
@click.pass_obj
def list_messages(session: Session, /, topic: str, limit: int, **filters: Any) -> None:
    """Search the messages of a topic, newest first."""
    session.output.rows(list(session.rows("messages", limit=limit, topic=topic, **filters)), MESSAGES)


@messages.command("show")
@click.argument("message_id", type=click.IntRange(1))
@click.option("--body", "only_body", is_flag=True, help="Write the body and nothing else, byte by byte.")
@click.pass_obj
def show_message(session: Session, /, message_id: int, *, only_body: bool) -> None:
    """Show a message and its status in every group."""
    document = session.get(f"messages/{message_id}")
    if only_body:
        _write_body(document)
        return
    output = session.output
    columns: list[Column] = [
        ("Id", "id"),
        ("Topic", "topic"),
        ("State", "state"),
        ("Key", "key"),
        ("Tag", "tag"),
        ("Sharding key", "sharding_key"),
        ("Headers", lambda row: ", ".join(f"{name}: {value}" for name, value in row["headers"].items())),
        ("Sent", "sent_at"),
        ("Due", "deliver_at"),
        ("Body", body_text),
    ]
    output.fields(document, columns)
    if not output.json:
        output.say("")
        output.rows(document["groups"], STATUSES, nothing="No group subscribes to it.")


def _write_body(document: dict[str, Any]) -> None:
    if document.get("body_base64"):
        content = base64.b64decode(document["body_base64"])
    elif document.get("body") is not None:
        content = str(document["body"]).encode()
    else:
        raise CommandError("This credential may not read bodies.", code=Exit.CREDENTIALS)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


@messages.command("trace")
@click.argument("message_id", type=click.IntRange(1))
@click.pass_obj
def trace(session: Session, /, message_id: int) -> None:
    """Tell the life of a message: sent, handed out, failed, dead, redriven, succeeded."""
    rows = session.get(f"messages/{message_id}/trace")["results"]
    session.output.rows(rows, EVENTS)


def add_to(root: click.Group) -> None:
    """Add the commands."""
    for command in (send, tail, messages):
        root.add_command(command)
