"""Half messages: prepared outside the log, then committed into it or rolled back. The id that the producer got stays good."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from django.conf import settings
from django.utils.translation import gettext as _

from core.approvals.models import State
from core.errors import FieldError, Problem, conflict, not_found
from messages.db import fetch
from messages.names import topic_name, topic_names
from messages.querysets import int_cursor, page_size
from messages.sending import as_now, check, headers_text
from messages.types import NO_HEADERS, Accepted, HalfMessage, HalfState, NewMessage, Page
from topics.models import Topic

MIN_CHECK_MS = 1000
MAX_CHECK_MS = 86_400_000
Decision = Literal["commit", "rollback"]
_WORDS: dict[str, HalfState] = {"O": "open", "U": "undecided", "C": "committed", "R": "rolled_back"}
_LETTERS: dict[str, list[str]] = {word: [letter] for letter, word in _WORDS.items()}
_HALF = (
    "SELECT h.id, h.topic_id, h.state::text, h.key, h.tag, h.skey, h.headers, h.producer_id, h.prepared_at, h.deliver_at, h.checks,"
    " CASE WHEN h.state = 'O' THEN h.check_at END, h.error, h.decided_at, h.decided_by, h.message_id FROM mq_half h"
)


def prepare(*, topic_id: int, message: NewMessage, check_after_ms: int | None = None) -> Accepted:
    """Store a message that no group sees until it is committed, and return its id.

    When nobody has decided after `check_after_ms` (MQADMIN_HALF_CHECK_SECONDS), its application is asked, and again each time it has
    passed. A `producer_id` seen within a day returns the first result with what has become of it. With `deliver_at` the message is
    delayed from its commit on.
    Problems: those of send, and invalid_check.
    """
    check([message])
    wait = int(settings.HALF_CHECK_SECONDS * 1000) if check_after_ms is None else check_after_ms
    if not MIN_CHECK_MS <= wait <= MAX_CHECK_MS:
        detail = _("The time before a check-back is {low} to {high} milliseconds.").format(low=MIN_CHECK_MS, high=MAX_CHECK_MS)
        raise Problem("invalid_check", detail, errors=[FieldError("/check_after_ms", detail)])
    m = message
    (row,) = fetch(
        "SELECT id, duplicate FROM mq_half_prepare("
        "%s::bigint, %s::text, %s::timestamptz, %s::bigint, %s::text, %s::text, %s::text, %s::text, %b::bytea)",
        (topic_id, m.producer_id, m.deliver_at, wait, m.tag, m.key, m.sharding_key, headers_text(m.headers), m.body),
    )
    if not row[1]:
        return Accepted(row[0], "half", deliver_at=m.deliver_at)
    return as_now([Accepted(row[0], "accepted", duplicate=True)])[0]


def decide(*, message_id: int, decision: Decision, by: str) -> tuple[HalfMessage, bool]:
    """Commit a half message into the log, or roll it back; in one commit, and for good.

    Returns it, and whether this has decided it: the same decision again changes nothing and gets the same answer.
    Must come last in a surrounding transaction, as a send.
    Problems: not_found, already_committed, already_rolled_back, topic_not_active (nobody would get it).
    """
    found = half_message(message_id=message_id)
    if decision == "commit" and found.state in {"open", "undecided"}:
        state = Topic.objects.filter(pk=found.topic_id).values_list("state", flat=True).first()
        if state not in {State.ACTIVE, None}:  # None: the store alone, as in benchmarks
            raise conflict(
                "topic_not_active",
                _("The topic “{name}” is {state}.").format(name=found.topic, state=State(state).label),
                hint=_("Roll the half message back: nobody would get it."),
            )
    rows = fetch("SELECT state, changed FROM mq_half_decide(%s::bigint, %s, %s::text)", (message_id, decision == "commit", by[:255]))
    if not rows:
        raise not_found(_("half message"), message_id)
    if rows[0][0] != ("C" if decision == "commit" else "R"):
        raise _decided_otherwise(message_id, rows[0][0])
    return half_message(message_id=message_id), rows[0][1]


def _decided_otherwise(message_id: int, state: str) -> Problem:
    hint = _("A decision is for good; nothing was changed.")
    if state == "C":
        return conflict("already_committed", _("The half message {id} is committed.").format(id=message_id), hint=hint)
    return conflict("already_rolled_back", _("The half message {id} is rolled back.").format(id=message_id), hint=hint)


def ask_for_open(*, topic_id: int, limit: int) -> list[HalfMessage]:
    """What the producer of a topic has to decide: open for longer than their time, each handed out once in that time."""
    ids = [row[0] for row in fetch("SELECT * FROM mq_half_ask(%s::bigint, %s::int)", (topic_id, limit))]
    return of_ids(ids)


def of_ids(ids: Sequence[int]) -> list[HalfMessage]:
    """These half messages, oldest first."""
    return _half_messages(fetch(f"{_HALF} WHERE h.id = ANY (%s::bigint[]) ORDER BY h.id", (list(ids),))) if ids else []


def half_message(*, message_id: int) -> HalfMessage:
    """One half message, decided ones for a week. Problem: not_found."""
    found = of_ids([message_id]) if 0 < message_id < 2**63 else []
    if not found:
        raise not_found(_("half message"), message_id)
    return found[0]


def half_messages(
    *,
    topic_id: int | None = None,
    topic_ids: Sequence[int] | None = None,
    state: HalfState | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[HalfMessage]:
    """Half messages, newest first; of one topic, or of some; what is None matches all, but decided ones are shown only when asked for."""
    limit = page_size(limit)
    rows = fetch(
        f"""
        {_HALF} WHERE h.id < %(upper)s::bigint AND h.state::text = ANY (%(states)s::text[])
           AND (%(topic)s::bigint IS NULL OR h.topic_id = %(topic)s::bigint)
           AND (%(topics)s::bigint[] IS NULL OR h.topic_id = ANY (%(topics)s::bigint[]))
         ORDER BY h.id DESC LIMIT %(limit)s::int
        """,
        {
            "upper": int_cursor(cursor) or 2**63 - 1,
            "states": _LETTERS[state] if state else ["O", "U"],
            "topic": topic_id,
            "topics": None if topic_ids is None else list(topic_ids),
            "limit": limit + 1,
        },
    )
    items = _half_messages(rows[:limit])
    return Page(items, str(items[-1].id) if len(rows) > limit else None)


def undecided(*, topic_ids: Sequence[int] | None = None) -> int:
    """How many wait for a person; of some topics, or of all."""
    rows = fetch(
        "SELECT count(*) FROM mq_half WHERE state = 'U' AND (%(topics)s::bigint[] IS NULL OR topic_id = ANY (%(topics)s::bigint[]))",
        {"topics": None if topic_ids is None else list(topic_ids)},
    )
    return int(rows[0][0])


def _half_messages(rows: Sequence[Any]) -> list[HalfMessage]:
    topic_names(r[1] for r in rows)
    return [
        HalfMessage(
            id=r[0],
            topic_id=r[1],
            topic=topic_name(r[1]),
            state=_WORDS[r[2]],
            key=r[3],
            tag=r[4],
            sharding_key=r[5],
            headers=json.loads(r[6]) if r[6] else NO_HEADERS,
            producer_id=r[7],
            prepared_at=r[8],
            deliver_at=r[9],
            checks=r[10],
            next_check_at=r[11],
            last_error=r[12],
            decided_at=r[13],
            decided_by=r[14],
            message_id=r[15],
        )
        for r in rows
    ]
