"""Notifications about requests: rows made in the transaction of what they tell, sent afterwards by a worker, at least once each.

A delivery is claimed in a short transaction (its next attempt moves ahead), sent with no transaction open, then marked. A worker that
is killed in between leaves a row that is due again: the receiver sees the same delivery id twice and drops the second.

One process at a time sends, for some seconds: receivers that do not answer must not keep all workers from the message store's work.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import time
from datetime import timedelta
from smtplib import SMTPException
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals import kinds
from core.approvals.models import Channel, Event, MailOptOut, NotificationDelivery, NotificationTarget, Request
from core.audit.services import record
from core.errors import Problem, conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import httpx

    from accounts.models import User

log = structlog.get_logger(__name__)
MAX_ATTEMPTS = 10
CLAIM = timedelta(minutes=2)  # longer than any attempt takes: nobody else tries meanwhile
WAITS = (10, 30, 60, 300, 900, 3600)  # seconds before the 2nd, 3rd, … attempt
MAX_APPROVERS = 50
BUDGET = 10.0  # seconds after which one call begins no further attempt
SILENCE = timedelta(seconds=60)  # at most so long nothing else is tried at an address where nobody answers
LOCK = 7_310_020  # of the advisory locks of sessions, the sender's own number
State = NotificationDelivery.State
KEEP = timedelta(days=90)  # of what was sent, or given up


def mail_is_on() -> bool:
    """Whether a mail server is configured."""
    return bool(settings.EMAIL_HOST)


def tell(*, request: Request, event: Event, author: User | None, text: str) -> None:
    """Note down whom to tell; in the caller's transaction. Nobody is told what they did themselves."""
    if event == Event.EDITED:
        return
    rows = [
        NotificationDelivery(channel=target.channel, target=target, address=target.address)
        for target in NotificationTarget.objects.filter(enabled=True)
        if (not target.events or event in target.events) and (target.channel != Channel.MAIL or mail_is_on())
    ]
    if mail_is_on():
        known = {row.address for row in rows if row.channel == Channel.MAIL}
        addresses = [address for address in _people(request, event, author) if address not in known]
        rows += [NotificationDelivery(channel=Channel.MAIL, address=address) for address in addresses]
    if not rows:
        return
    body = document(request, event, author, text)
    for row in rows:
        row.request, row.event, row.body = request, event, body
    NotificationDelivery.objects.bulk_create(rows)


def document(request: Request, event: Event, author: User | None, text: str) -> dict[str, Any]:
    """What a webhook gets, and what mails are written from: as it was when it happened."""
    return {
        "event": str(event),
        "at": timezone.now().isoformat(),
        "by": author.get_username() if author else None,
        "text": text,
        "environment": settings.ENVIRONMENT,
        "url": settings.PUBLIC_URL.rstrip("/") + reverse("admin:request_detail", args=[request.pk]) if settings.PUBLIC_URL else None,
        "request": {
            "number": request.pk,
            "kind": request.kind,
            "target": request.target,
            "application": request.application.name if request.application else None,
            "owner": request.owner.get_username() if request.owner else None,
            "state": str(request.state),
            "reason": request.reason,
            "requested_by": request.requested_by.get_username(),
            "requested_at": request.requested_at.isoformat(),
            "policy": request.policy or None,
            "version": request.version,
        },
    }


def _people(request: Request, event: Event, author: User | None) -> list[str]:
    """The mail addresses of whom it concerns: the requester and the owner; approvers of what waits for them."""
    people: Iterable[Any] = [request.requested_by, *([request.owner] if request.owner else [])]
    if event in {Event.SUBMITTED, Event.OVERDUE} or (event == Event.COMMENTED and author and author.pk == request.requested_by_id):
        users: Any = get_user_model().objects
        approvers = users.with_perm(kinds.of(request).decide, backend="django.contrib.auth.backends.ModelBackend")
        people = [*people, *approvers.exclude(email="").order_by("pk")[:MAX_APPROVERS]]
    silent = set(MailOptOut.objects.values_list("user", flat=True))
    told = {author.pk if author else None, *silent}
    chosen = [person.email for person in people if person.email and person.is_active and person.pk not in told]
    return list(dict.fromkeys(chosen))


def _client() -> httpx.Client:
    """Addresses that people entered are checked when they are used, whatever they resolve to by then."""
    from core import outbound  # the HTTP client is of use to the worker that sends, and to no other process

    return outbound.client(purpose=_("the webhook"))


def send_due(*, limit: int = 100, client: Callable[[], httpx.Client] | None = None) -> int:
    """Send what is due, one after the other; returns how many were tried: none while another process sends. Never within a transaction."""
    if not _locks("pg_try_advisory_lock"):
        return 0
    try:
        return _send_all(limit, client or _client)
    finally:
        if connection.connection is not None and connection.is_usable():  # else the lock went with the connection
            _locks("pg_advisory_unlock")


def _locks(function: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s)", [LOCK])
        row = cursor.fetchone()
    return bool(row and row[0])


def _send_all(limit: int, client: Callable[[], httpx.Client]) -> int:
    tried, until = 0, time.monotonic() + BUDGET
    while tried < limit and (not tried or time.monotonic() < until) and (delivery := _claim()) is not None:
        tried += 1
        try:
            if delivery.attempts > MAX_ATTEMPTS:
                raise RuntimeError(_("Each attempt ended before it was known what became of it."))  # noqa: TRY301
            _send(delivery, client)
        except Exception as error:  # noqa: BLE001 - whatever one receiver does, the others get theirs
            _failed(delivery, error)
        else:
            NotificationDelivery.objects.filter(pk=delivery.pk).update(state=State.SENT, sent_at=timezone.now(), last_error="")
    return tried


def _claim() -> NotificationDelivery | None:
    with transaction.atomic():
        row = (
            NotificationDelivery.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(state=State.WAITING, next_attempt_at__lte=timezone.now())
            .order_by("next_attempt_at")
            .first()
        )
        if row is not None:
            row.attempts += 1
            row.next_attempt_at = timezone.now() + CLAIM
            row.save(update_fields=["attempts", "next_attempt_at"])
    return row


def _failed(delivery: NotificationDelivery, error: Exception) -> None:
    # What a person can put right (an address that is not allowed) is tried again as well: they may put it right.
    text = " ".join(str(error).split())[:450] or type(error).__name__
    final = delivery.attempts >= MAX_ATTEMPTS
    wait = WAITS[min(delivery.attempts - 1, len(WAITS) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - so that they do not come at once
    log.warning("notification_failed", delivery=str(delivery.pk), channel=delivery.channel, attempts=delivery.attempts, error=text)
    later = timezone.now() + timedelta(seconds=wait)
    same = NotificationDelivery.objects.filter(state=State.WAITING)
    same.filter(pk=delivery.pk, attempts=delivery.attempts).update(
        state=State.FAILED if final else State.WAITING, next_attempt_at=later, last_error=text
    )
    import httpx

    silent = isinstance(error, httpx.TransportError) or (isinstance(error, OSError) and not isinstance(error, SMTPException))
    if silent:  # nobody is there: what else waits for it would only hold up the others
        soon = min(later, timezone.now() + SILENCE)
        same = same.filter(channel=delivery.channel, next_attempt_at__lt=soon)
        if delivery.channel == Channel.WEBHOOK:
            same = same.filter(address=delivery.address)
        same.update(next_attempt_at=soon)


def retry(*, actor: User, delivery: NotificationDelivery) -> None:
    """Try a notification that was given up once more from the beginning. Problem: `wrong_state`."""
    again = {"state": State.WAITING, "attempts": 0, "next_attempt_at": timezone.now()}
    with transaction.atomic():
        if NotificationDelivery.objects.filter(pk=delivery.pk, state=State.FAILED).update(**again) != 1:
            raise conflict("wrong_state", _("It is not given up."), extra={"state": delivery.state})
        record(actor=actor, action="retry", kind="notification", name=str(delivery.pk))


def _send(delivery: NotificationDelivery, client: Callable[[], httpx.Client]) -> None:
    if delivery.channel == Channel.WEBHOOK:
        _post(delivery, client)
    else:
        _mail(delivery)


def _post(delivery: NotificationDelivery, client: Callable[[], httpx.Client]) -> None:
    target = delivery.target
    if target is None:
        raise Problem("target_gone", _("The notification target was taken away."))
    timestamp = str(int(timezone.now().timestamp()))
    body = json.dumps({"delivery": str(delivery.pk), **delivery.body}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Mqadmin-Event": f"request.{delivery.event}",
        "X-Mqadmin-Delivery": str(delivery.pk),
        "X-Mqadmin-Timestamp": timestamp,
    }
    if target.secret:
        headers["X-Mqadmin-Signature"] = "sha256=" + signature(target.secret.reveal(), timestamp, body)
    with client() as http:
        answer = http.post(delivery.address, content=body, headers=headers)
    if not answer.is_success:
        raise Problem("receiver_refused", _("The receiver answered {status}.").format(status=answer.status_code))


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 in hex of `TIMESTAMP.BODY`: a receiver refuses what is old, so that nothing can be sent to it again."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _mail(delivery: NotificationDelivery) -> None:
    body, about = delivery.body, delivery.body["request"]
    label = str(kinds.label(about["kind"]))
    word = str(Event(delivery.event).label)
    lines = [
        f"{label}: {about['target']}",
        "",
        _("{event}: {who}").format(event=word, who=body["by"] or about["policy"] or "mqadmin"),
        *([body["text"]] if body["text"] else []),
        "",
        _("Requested by {who}: {reason}").format(who=about["requested_by"], reason=about["reason"]),
        *([_("Application: {name}").format(name=about["application"])] if about["application"] else []),
        "",
        body["url"] or "",
    ]
    subject = f"[mqadmin {body['environment']}] #{about['number']} {about['target']}: {word}"
    domain = (settings.DEFAULT_FROM_EMAIL.rpartition("@")[2] or "mqadmin").strip("> ")
    headers = {"Message-ID": f"<{delivery.pk}@{domain}>", "Auto-Submitted": "auto-generated"}
    EmailMessage(" ".join(subject.split()), "\n".join(lines).rstrip() + "\n", to=[delivery.address], headers=headers).send()


def forget(*, limit: int) -> int:
    """Delete some of the deliveries that were sent, or given up, and are older than `KEEP`; returns how many."""
    old = NotificationDelivery.objects.exclude(state=State.WAITING).filter(created_at__lt=timezone.now() - KEEP).order_by()
    gone: int = NotificationDelivery.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:limit])).delete()[0]
    return gone
