"""What the console reads beside the store's verbs: a page of statuses, previews; and how a body is shown."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from messages.db import fetch
from messages.names import group_names
from messages.querysets import DEAD_FROM, DEAD_WHERE
from messages.types import STATUS_WORDS, DeadFilter, Page, StoredMessage

PREVIEW = 160  # bytes of a body in a list
SHOWN = 64 * 1024  # bytes of a body on a page
HEX = 4096
INSTANCES = 20  # of a broadcast group, whose statuses are looked at for each message of a list
#: Which status needs a person first.
BY_URGENCY = ("dead", "failed", "later", "processing", "waiting", "succeeded", "skipped", "not_subscribed")
COUNTED = 100_000  # an exact count ends here


def statuses_of(
    *, topic_id: int, message_ids: Sequence[int], visible: Callable[[Sequence[int]], set[int]], groups: int = 8
) -> tuple[list[str], dict[int, list[tuple[str, str]]]]:
    """Names of the topic's first `visible` groups, and per message pairs (group, status) in their order; one statement for all.

    Of a broadcast group the status that needs a person first; one with more than INSTANCES instances is left out, as groups beyond the
    first are.
    """
    known: dict[int, list[int]] = {}  # group -> its groups in the store
    sql = (
        "SELECT c.group_id, coalesce(i.group_id, c.group_id) FROM mq_cursor c LEFT JOIN mq_instance i ON i.instance_id = c.group_id"
        " WHERE c.topic_id = %s::bigint AND i.gone_at IS NULL"
    )
    for store_id, group_id in fetch(sql, (topic_id,)):
        known.setdefault(group_id, []).append(store_id)
    few = [group_id for group_id, store_ids in known.items() if len(store_ids) <= INSTANCES]
    names = group_names(visible(few)) if few else {}
    shown = sorted(names, key=lambda group_id: names[group_id])[:groups]
    owner = {store_id: group_id for group_id in shown for store_id in known[group_id]}
    rows = fetch(  # a busy topic has hundreds of groups, the page has room for some
        "SELECT x.id, s.group_id, s.status FROM unnest(%s::bigint[]) x(id) CROSS JOIN LATERAL mq_status(%s::bigint, x.id) s"
        " WHERE s.group_id = ANY (%s::bigint[])",
        (list(message_ids), topic_id, list(owner)),
    )
    by_message: dict[int, dict[int, str]] = {message_id: {} for message_id in message_ids}
    for message_id, store_id, letter in rows:
        found = by_message[message_id]
        found[owner[store_id]] = min(found.get(owner[store_id], STATUS_WORDS[letter]), STATUS_WORDS[letter], key=BY_URGENCY.index)
    pairs = {
        message_id: [(names[group_id], found[group_id]) for group_id in shown if group_id in found]
        for message_id, found in by_message.items()
    }
    return [names[group_id] for group_id in shown], pairs


def short_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (two letters, name) for the narrow heads: of the first part of each name that it does not share with another."""
    parts = [[part for part in re.split(r"[_.%-]+", name) if part] or [name] for name in names]
    shown = []
    for own in parts:
        others = [other for other in parts if other is not own]
        depth = 0
        while depth + 1 < len(own) and any(other[: depth + 1] == own[: depth + 1] for other in others):
            depth += 1
        shown.append(own[depth][:2])
    return list(zip(shown, names, strict=True))


def searched_to(page: Page[StoredMessage]) -> datetime | None:
    """How far back a page of a search got; None when it searched all."""
    if page.next is None:
        return None
    if page.items and page.next == str(page.items[-1].id):
        return page.items[-1].sent_at
    at: datetime = fetch("SELECT mq_time_of(%s::bigint)", (int(page.next),))[0][0]
    return at


def previews(*, topic_id: int, message_ids: Sequence[int]) -> dict[int, str]:
    """The beginnings of bodies, in one line each; bytes that are no text are said to be so."""
    rows = fetch(
        "SELECT m.id, substring(m.body FROM 1 FOR %s::int) FROM mq_message m WHERE m.topic_id = %s::bigint AND m.id = ANY (%s::bigint[])",
        (PREVIEW, topic_id, list(message_ids)),
    )
    return {message_id: one_line(body) for message_id, body in rows}


def delayed_previews(message_ids: Sequence[int]) -> dict[int, str]:
    """The same for messages that are not delivered yet."""
    sql = "SELECT d.id, substring(d.body FROM 1 FOR %s::int) FROM mq_delayed d WHERE d.id = ANY (%s::bigint[])"
    return {message_id: one_line(body) for message_id, body in fetch(sql, (PREVIEW, list(message_ids)))}


def half_previews(message_ids: Sequence[int]) -> dict[int, str]:
    """The same for half messages; the body of a decided one is not kept here."""
    sql = "SELECT h.id, substring(h.body FROM 1 FOR %s::int) FROM mq_half h WHERE h.id = ANY (%s::bigint[])"
    return {message_id: one_line(body) for message_id, body in fetch(sql, (PREVIEW, list(message_ids)))}


def one_line(body: bytes) -> str:
    """A preview: text without line breaks, or hexadecimal digits. The last character may be cut in the middle."""
    text = (
        as_text(body) if len(body) < PREVIEW else next((t for cut in range(4) if (t := as_text(body[: PREVIEW - cut])) is not None), None)
    )
    return body[:24].hex(" ") if text is None else " ".join(text.split())


def as_text(body: bytes) -> str | None:
    """The body if it is printable text in UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if any(c < " " and c not in "\t\r\n" for c in text) else text


def count_dead(*, group_id: int, only: DeadFilter) -> int:
    """How many dead letters match, counted up to a limit."""
    rows: list[tuple[int]] = fetch(
        f"SELECT count(*) FROM (SELECT 1 FROM {DEAD_FROM} WHERE {DEAD_WHERE} LIMIT %(most)s::int) x",  # noqa: S608 - constants
        {**asdict(only), "group": group_id, "most": COUNTED},
    )
    return rows[0][0]


_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[{}\[\],:]')


def pretty(text: str) -> SafeString | None:
    """JSON indented and coloured, its numbers and escapes as they were sent; None for what is no JSON object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return mark_safe("".join(_indented(_TOKEN.findall(text))))  # noqa: S308 - each part of it is escaped


def _indented(parts: list[str]) -> Iterator[str]:
    depth = 0
    for i, part in enumerate(parts):
        following = parts[i + 1] if i + 1 < len(parts) else ""
        if part in "{[":
            yield part
            if following not in {"}", "]"}:
                depth += 1
                yield "\n" + "  " * depth
        elif part in "}]":
            if parts[i - 1] not in {"{", "["}:
                depth -= 1
                yield "\n" + "  " * depth
            yield part
        elif part == ",":
            yield ",\n" + "  " * depth
        elif part == ":":
            yield ": "
        else:
            css = "jl" if part[0] in "tfn" else "jn" if part[0] != '"' else "jk" if following == ":" else "js"
            yield f'<span class="{css}">{escape(part)}</span>'


def hex_dump(body: bytes) -> str:
    """Offset, bytes, characters, of the beginning."""
    lines = []
    for at in range(0, min(len(body), HEX), 16):
        part = body[at : at + 16]
        lines.append(f"{at:06x}  {part.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in part)}")
    return "\n".join(lines)
