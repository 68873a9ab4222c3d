"""Check-backs: applications are asked what became of the half messages that they left undecided.

What is due is claimed and counted in a short transaction, asked with none open, and decided in a transaction for each message. So a
worker that is killed anywhere has changed nothing but a count, and an answer that is none changes nothing at all. One process at a
time asks, many applications at once: one that is silent holds up neither the others nor the workers, and is left alone for a while.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django.db import connection
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals.outbox import signature
from core.errors import Problem
from messages.db import fetch
from messages.half import Decision, decide, of_ids
from messages.models import CheckBack
from messages.types import HalfMessage
from topics.models import Topic

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger(__name__)

AT_ONCE = 100  # half messages in one question
PARALLEL = 16  # applications that are asked at the same time
TIMEOUT = 5.0  # seconds for an answer
BUDGET = 5.0  # seconds after which one call asks nobody any more
CLAIM = timedelta(seconds=30)  # longer than any question takes: nobody else asks meanwhile
QUIET = timedelta(seconds=30)  # for which an application that did not answer is left alone
POLL = 0.2  # seconds between looks at what has become due while others are being asked
MAX_ERROR = 500
BY = "check-back"  # who decided, in the row
LOCK = 7_310_030  # of the advisory locks of sessions
_DECISIONS: dict[Any, Decision | None] = {"commit": "commit", "rollback": "rollback", "unknown": None}


@dataclass(frozen=True, slots=True)
class _Question:
    callback: CheckBack
    messages: list[HalfMessage]


class _NoAnswerError(Exception):
    """What came back is no answer; in words for people."""


def check_back(*, client: Callable[[], "httpx.Client"] | None = None) -> int:
    """Ask about what is due; returns how many half messages were asked about: none while another process asks. Never in a transaction."""
    if not _lock("pg_try_advisory_lock"):
        return 0
    try:
        return _ask_all(client or _client)
    finally:
        if connection.connection is not None and connection.is_usable():  # else the lock went with the connection
            _lock("pg_advisory_unlock")


def _lock(function: str) -> bool:
    return bool(fetch(f"SELECT {function}(%s::bigint)", (LOCK,))[0][0])


def _client() -> "httpx.Client":
    from core import outbound  # of use to the worker that asks only

    return outbound.client(purpose=_("the check-back"), timeout=TIMEOUT, redirects=0)


def _ask_all(client: Callable[[], "httpx.Client"]) -> int:
    asked, until = 0, time.monotonic() + BUDGET
    flying: dict[Future[Any], _Question] = {}
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="check-back") as pool:
        while True:
            if time.monotonic() < until:
                for question in _questions({q.callback.pk for q in flying.values()}, PARALLEL - len(flying)):
                    asked += len(question.messages)
                    flying[pool.submit(_ask, question, client)] = question
            if not flying:
                return asked
            for done in wait(flying, timeout=POLL, return_when=FIRST_COMPLETED).done:
                _take(flying.pop(done), done)


def _questions(busy: set[int], room: int) -> list[_Question]:
    """What is due, by application; what belongs to nobody who could be asked is counted all the same, so that it comes to an end."""
    most = settings.HALF_CHECKS
    due = [row[0] for row in fetch("SELECT * FROM mq_half_due(%s::int)", (most,))]
    if not due:
        return []
    by_callback: dict[int, list[int]] = {}
    topics = dict(Topic.objects.filter(pk__in=due).values_list("pk", "application"))
    callbacks = {c.application_id: c for c in CheckBack.objects.select_related("application").filter(application__in={*topics.values()})}
    nowhere = [pk for pk in due if topics.get(pk, 0) not in callbacks]
    if nowhere:
        _begin(nowhere, _("The application has no address to be asked at."))
    for pk in due:
        if topics.get(pk, 0) in callbacks:
            by_callback.setdefault(topics[pk], []).append(pk)
    questions: list[_Question] = []
    for application, its_topics in by_callback.items():
        callback = callbacks[application]
        quiet = callback.quiet_until is not None and callback.quiet_until > timezone.now()
        if callback.pk in busy or quiet or len(questions) >= room:
            continue
        ids = _begin(its_topics, _("It was not known what became of the question."))
        if ids:
            questions.append(_Question(callback, of_ids(ids)))
    return questions


def _begin(topics: Sequence[int], error: str) -> list[int]:
    sql = "SELECT id FROM mq_half_check(%s::bigint[], %s::int, %s::int, %s::interval, %s::text)"
    return [row[0] for row in fetch(sql, (list(topics), settings.HALF_CHECKS, AT_ONCE, CLAIM, error))]


def document(question_messages: Sequence[HalfMessage], application: str) -> dict[str, Any]:
    """What the application is asked."""
    return {
        "application": application,
        "environment": settings.ENVIRONMENT,
        "half_messages": [
            {
                "id": m.id,
                "topic": m.topic,
                "producer_id": m.producer_id,
                "key": m.key,
                "tag": m.tag,
                "sharding_key": m.sharding_key,
                "headers": dict(m.headers),
                "prepared_at": m.prepared_at.isoformat(),
                "check": m.checks,
            }
            for m in question_messages
        ],
    }


def _ask(question: _Question, client: Callable[[], "httpx.Client"]) -> dict[int, Decision]:
    """In a thread of its own, without the database."""
    timestamp = str(int(timezone.now().timestamp()))
    body = json.dumps(document(question.messages, question.callback.application.name), ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Mqadmin-Event": "half.check",
        "X-Mqadmin-Timestamp": timestamp,
        "X-Mqadmin-Signature": "sha256=" + signature(question.callback.secret.reveal(), timestamp, body),
    }
    with client() as http:
        answer = http.post(question.callback.url, content=body, headers=headers)
    if not answer.is_success:
        raise _NoAnswerError(_("The application answered {status}.").format(status=answer.status_code))
    return decisions(answer.content, {m.id for m in question.messages})


def decisions(content: bytes, asked: set[int]) -> dict[int, Decision]:
    """What an answer decides of what was asked. All of it must be right, or nothing of it counts."""
    found: dict[int, Decision | None] = {}
    try:
        for item in json.loads(content)["decisions"]:
            message_id, decision = item["id"], _DECISIONS[item["decision"]]
            if type(message_id) is not int or message_id not in asked or found.get(message_id, decision) != decision:
                raise ValueError("not asked about, or decided in two ways")  # noqa: TRY301 - one way out
            found[message_id] = decision
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _NoAnswerError(_("The answer is not what a check-back answers.")) from None
    return {message_id: decision for message_id, decision in found.items() if decision is not None}


def _take(question: _Question, done: "Future[dict[int, Decision]]") -> None:
    """Carry out what an application has answered."""
    callback, now = CheckBack.objects.filter(pk=question.callback.pk), timezone.now()
    try:
        answered = done.result()
    except Exception as error:  # noqa: BLE001 - whatever one application does, the others are asked
        text = " ".join(str(error).split())[:MAX_ERROR] or type(error).__name__
        log.warning("check_back_failed", application=question.callback.application.name, error=text, messages=len(question.messages))
        silent = not isinstance(error, _NoAnswerError)
        callback.update(asked_at=now, last_error=text, quiet_until=now + QUIET if silent else None)
        _note({m.id: text for m in question.messages})
        return
    callback.update(asked_at=now, answered_at=now, last_error="", quiet_until=None)
    notes = {m.id: _("The application does not know yet.") for m in question.messages if m.id not in answered}
    for message_id, decision in answered.items():
        try:
            decide(message_id=message_id, decision=decision, by=BY)
        except Problem as problem:  # decided otherwise meanwhile, or its topic is retired
            notes[message_id] = str(problem)
            log.warning("check_back_refused", half_message=message_id, decision=decision, code=problem.code)
    _note(notes)


def _note(errors: dict[int, str]) -> None:
    """Why these are still open, if they are."""
    if errors:
        fetch(
            "WITH u AS (UPDATE mq_half h SET error = e.error FROM unnest(%s::bigint[], %s::text[]) e(id, error)"
            " WHERE h.id = e.id AND h.state IN ('O', 'U') RETURNING 1) SELECT count(*) FROM u",
            (list(errors), list(errors.values())),
        )
