"""Dead letters as a file: CSV or JSON lines, read page by page, so that nothing is held open while a slow client reads."""

import base64
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Literal

from django.db import connection

from core.console.exports import FORMULA
from messages.db import fetch
from messages.names import topic_of
from messages.querysets import dead_letters
from messages.types import DeadFilter, DeadLetter

Form = Literal["csv", "jsonl"]
FORMS: tuple[Form, ...] = ("csv", "jsonl")
CONTENT_TYPES: dict[Form, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
PAGE = 500  # dead letters that are listed by one statement
BYTES = 4 * 1024 * 1024  # of bodies that are read by one
FIELDS = (
    *("id", "topic", "key", "tag", "sharding_key", "headers", "sent_at", "attempts", "redrives", "reason", "first_failed_at"),
    *("last_failed_at", "consumer", "body_bytes"),
)
BODY = ("body", "body_base64")


def export_dead(*, group_id: int, only: DeadFilter, form: Form, bodies: Sequence[int] | None) -> Iterator[bytes]:
    """All that match and are dead now, newest message first; bodies of the topics named in `bodies`, None: of all topics.

    Between two pages there is neither a transaction nor a connection. JSON lines tell the values exactly; in CSV a text that a
    spreadsheet would run as a formula begins with an apostrophe.
    """
    only = replace(only, failed_to=min(filter(None, (only.failed_to, datetime.now(UTC)))))
    fields = FIELDS if bodies is not None and not bodies else FIELDS + BODY
    if form == "csv":
        yield "\ufeff".encode() + _csv(fields)
    cursor: str | None = None
    while True:
        page = dead_letters(group_id=group_id, only=only, limit=PAGE, cursor=cursor)
        for part in _parts(page.items):
            found = _contents(part, bodies)
            _let_go()
            for letter in part:
                document = _document(letter, found.get(letter.id))
                yield _csv(document.get(name) for name in fields) if form == "csv" else (json.dumps(document) + "\n").encode()
        if page.next is None:
            return
        cursor = page.next


def _let_go() -> None:
    if not connection.in_atomic_block:
        connection.close()


def _parts(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """So many at once that their bodies fit into BYTES; at least one."""
    part: list[DeadLetter] = []
    for letter in letters:
        if part and sum(one.body_bytes for one in part) + letter.body_bytes > BYTES:
            yield part
            part = []
        part.append(letter)
    if part:
        yield part


def _contents(part: Sequence[DeadLetter], bodies: Sequence[int] | None) -> dict[int, tuple[str | None, str | None, bytes | None]]:
    readable = [bodies is None or topic_of(letter.topic_id) in bodies for letter in part]
    rows = fetch(
        "SELECT m.id, m.skey, m.headers, CASE WHEN u.readable THEN m.body END"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::boolean[]) u(topic_id, id, readable)"
        " CROSS JOIN LATERAL (SELECT mm.* FROM mq_message mm WHERE mm.topic_id = u.topic_id AND mm.id = u.id OFFSET 0) m",
        ([letter.topic_id for letter in part], [letter.id for letter in part], readable),
    )
    return {row[0]: row[1:] for row in rows}


def _document(letter: DeadLetter, content: tuple[str | None, str | None, bytes | None] | None) -> dict[str, Any]:
    skey, headers, body = content or (None, None, None)
    given = asdict(letter)
    document = {name: given[name] for name in FIELDS if name in given}
    for name in ("sent_at", "first_failed_at", "last_failed_at"):
        document[name] = given[name].isoformat()
    document |= {"sharding_key": skey, "headers": json.loads(headers) if headers else {}}
    if body is not None:
        try:
            document["body"] = body.decode()
        except UnicodeDecodeError:
            document["body_base64"] = base64.b64encode(body).decode()
    return document


class _Echo:
    """A file that returns what is written."""

    def write(self, line: str) -> str:
        return line


def _csv(cells: Iterable[Any]) -> bytes:
    writer: Any = csv.writer(_Echo())
    line: str = writer.writerow([_cell(cell) for cell in cells])
    return line.encode()


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    text = "" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
