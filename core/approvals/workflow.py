"""The verbs of requests, for every kind: submit, edit, withdraw, comment, approve, decline, rebase; each is one transaction.

Order of locks: the request's row, then what the kind touches (thing, clusters, publications). Nobody decides on their own request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from core.api.permissions import require
from core.approvals import kinds, outbox, policies
from core.approvals.kinds import Ask, Decision, Draft, Kind
from core.approvals.models import Comment, Event, Request, Standing
from core.approvals.services import require_reason
from core.audit.services import forgotten_with_it, record
from core.errors import FieldError, Problem, conflict
from core.retrying import repeated
from core.scope import may

if TYPE_CHECKING:
    from accounts.models import User

#: States in which the person who asked may still change what they ask for.
OPEN = (Standing.PENDING, Standing.DECLINED)


@repeated
def submit(*, actor: User, kind: str, target: str, payload: Mapping[str, Any], reason: str) -> Request:
    """Ask for something; the first policy that fits approves it at once, in the same transaction, otherwise another person decides.

    Problems: `unknown_kind`, `forbidden`, `duplicate_request`, and what the kind finds wrong (pointers relative to the payload).
    """
    what = kinds.get(kind)
    require(actor, what.ask)
    reason = require_reason(reason)
    with transaction.atomic():
        draft = what.draft(Ask(actor, target, what.checked(payload), reason))
        request = Request(kind=kind, target=target, reason=reason, requested_by_id=actor.pk)
        _fill(request, draft)
        _check_reach(actor, what.ask, request)
        try:
            with transaction.atomic():
                request.save(force_insert=True)
        except IntegrityError:
            raise _duplicate(request) from None
        request.refresh_from_db()
        _record(what, request, what.submitted_word, actor, after=_audited(request))
        _happened(request, Event.SUBMITTED, actor, reason)
        _by_policy(what, request)
    request.refresh_from_db()
    return request


@repeated
def edit(
    *,
    actor: User,
    request: Request,
    payload: Mapping[str, Any] | None = None,
    reason: str | None = None,
    version: int | None = None,
    send: bool = True,
) -> Request:
    """Change what is asked for, until it is decided; after a decline that sends it again (unless `send` is false).

    A key with the value None is taken back from a change. Also rebases a change on what its target is now.
    """
    with transaction.atomic():
        request = _locked(request, version)
        what = kinds.get(request.kind)
        _require_state(request, OPEN, "edit")
        _require_own(request, actor)
        require(actor, what.ask)
        sent = {key: value for key, value in (payload or {}).items() if value is not None}
        what.checked(sent)
        dropped = {key for key, value in (payload or {}).items() if value is None}
        if dropped and request.base_version is None:
            errors = [FieldError(f"/{key}", _("It cannot be empty.")) for key in sorted(dropped)]
            raise Problem("invalid", _("Some fields are not right."), errors=errors)
        if unknown := dropped - set(what.fields):
            what.checked(dict.fromkeys(unknown))
        wanted = {key: value for key, value in {**request.payload, **sent}.items() if key not in dropped}
        reason = request.reason if reason is None else require_reason(reason)
        draft = what.draft(Ask(actor, request.target, wanted, reason, request))
        was, seen = _audited(request), (request.base_version, request.before)
        _fill(request, draft)
        request.reason = reason
        again = send and request.state == Standing.DECLINED
        different = was != _audited(request) or seen != (request.base_version, request.before)
        if not different and not again:
            return request
        _check_reach(actor, what.ask, request)
        if different:  # else the version stays in step with that of the thing, which was not written either
            _store(request, _DRAFTED)
            _record(what, request, "edit", actor, before=was, after=_audited(request))
            _happened(request, Event.EDITED, actor, "")
        if again:
            _send_again(what, request, actor)
        elif request.state == Standing.PENDING:
            _by_policy(what, request)
    request.refresh_from_db()
    return request


@repeated
def resubmit(*, actor: User, request: Request, version: int | None = None) -> Request:
    """Send a declined request again, as it is."""
    with transaction.atomic():
        request = _locked(request, version)
        what = kinds.get(request.kind)
        _require_state(request, (Standing.DECLINED,), "submission")
        _require_own(request, actor)
        require(actor, what.ask)
        _check_reach(actor, what.ask, request)
        if request.base_version is not None:  # the target may have changed since
            _fill(request, what.draft(Ask(actor, request.target, request.payload, request.reason, request)))
            _store(request, _DRAFTED, bump=False)
        _send_again(what, request, actor)
    request.refresh_from_db()
    return request


@repeated
def withdraw(*, actor: User, request: Request, reason: str = "", version: int | None = None) -> Request:
    """Take a request back, and give back what it reserved. What was declined may also be put away by whoever may decide."""
    with transaction.atomic():
        request = _locked(request, version)
        what = kinds.get(request.kind)
        _require_state(request, OPEN, "withdrawal")
        if request.state == Standing.PENDING or not may(actor, what.decide, request):
            require(actor, what.ask)
            _require_own(request, actor)
        was = request.state
        request.state = Standing.WITHDRAWN
        request.decided_at = timezone.now()
        _store(request, ("state", "decided_at"))
        what.withdrawn(request)
        _record(what, request, "withdraw", actor, reason=reason)
        _happened(request, Event.WITHDRAWN, actor, reason, quiet=was == Standing.DECLINED)
    return request


def comment(*, actor: User, request: Request, text: str) -> Comment:
    """Say something in the thread: whoever may ask for such a thing or decide it."""
    what = kinds.get(request.kind)
    if not may(actor, what.decide, request):  # who sees all may still write about their own only
        require(actor, what.ask)
        _check_reach(actor, what.ask, request)
    text = text.strip()
    if not text:
        detail = _("Write something.")
        raise Problem("invalid", detail, errors=[FieldError("/text", detail)])
    with transaction.atomic():
        _record(what, request, "comment", actor, after={"request": request.pk, "comment": text})
        return _happened(request, Event.COMMENTED, actor, text)


@repeated
def approve(
    *,
    actor: User,
    request: Request,
    version: int | None = None,
    reason: str = "",
    values: Mapping[str, Any] | None = None,
    accept_warnings: bool = False,
    suggest: bool = False,
) -> Request:
    """Approve and apply, or refuse: what cannot be applied is not approved.

    `version` is what the approver had before their eyes, `values` what the kind wants of them (a cluster); with `suggest` what it
    suggests itself. Problems: `wrong_state`, `state_changed`, `four_eyes`, `target_changed`, `confirmation_needed` (its `warnings` are
    to be accepted), and what applying raises.
    """
    with transaction.atomic():
        request = _locked(request, version)
        what = kinds.get(request.kind)
        _check_decision(what, request, actor, "approval")
        _check_base(what, request)
        # Looked for under the request's lock: before it the thing may be gone, or locked by somebody who waits for the request.
        values = {**(what.suggested(request) if suggest else {}), **(values or {})}
        warnings = what.warnings(request, values)
        if not accept_warnings:
            confirm(warnings)
        _apply(what, request, Decision(actor, reason, values, forced=bool(warnings)))
    return request


def confirm(warnings: Sequence[str]) -> None:
    """Refuse what has not been accepted expressly. Problem: confirmation_needed, with its `warnings`."""
    if warnings:
        hint = _("Accept it expressly, or decide otherwise.")
        raise conflict("confirmation_needed", " ".join(warnings), hint=hint, extra={"warnings": [*warnings]})


@repeated
def decline(*, actor: User, request: Request, reason: str, version: int | None = None) -> Request:
    """Decline with a reason; the request can be edited and sent again."""
    reason = require_reason(reason)
    with transaction.atomic():
        request = _locked(request, version)
        what = kinds.get(request.kind)
        _check_decision(what, request, actor, "rejection")
        decision = Decision(actor, reason)
        _decided(request, Standing.DECLINED, decision)
        what.declined(request, decision)
        _record(what, request, "reject", actor, reason=reason)
        _happened(request, Event.DECLINED, actor, reason)
    return request


def is_stale(request: Request) -> bool:
    """Whether the target of a change is no longer what the requester saw."""
    if request.base_version is None or request.state != Standing.PENDING:
        return False
    now = kinds.of(request).current(request)
    return now is None or now[0] != request.base_version


def remind() -> int:
    """Tell once of each request that has waited too long; returns how many."""
    count = 0
    for pk in Request.objects.overdue().filter(reminded_at=None).order_by("requested_at").values_list("pk", flat=True)[:200]:
        with transaction.atomic():
            # Of two workers one wins; a request that was decided meanwhile needs no reminder.
            if Request.objects.overdue().filter(pk=pk, reminded_at=None).update(reminded_at=timezone.now()) == 1:
                _happened(Request.objects.get(pk=pk), Event.OVERDUE, None, "")
                count += 1
    return count


_DRAFTED = ("payload", "before", "facts", "base_version", "application", "owner", "reason")


def _fill(request: Request, draft: Draft) -> None:
    for name in ("payload", "before", "facts", "base_version", "application_id", "owner_id"):
        setattr(request, name, getattr(draft, name))


def _store(request: Request, names: tuple[str, ...], *, bump: bool = True) -> None:
    """Write columns of a row that is locked."""
    request.changed_at = timezone.now()
    if bump:
        request.version += 1
    try:
        with transaction.atomic():
            request.save(update_fields=[*names, "version", "changed_at"])
    except IntegrityError:
        raise _duplicate(request) from None


def _locked(request: Request, version: int | None) -> Request:
    """The row, locked: who decides and who edits at once come one after the other, and the second sees what the first did."""
    row = Request.objects.select_for_update(of=("self",)).select_related("application", "requested_by", "owner").get(pk=request.pk)
    if version is not None and version != row.version:
        raise conflict(
            "state_changed",
            _("Somebody else changed this in the meantime, or it is no longer {state}.").format(state=Standing(request.state).label),
            hint=_("Read it again and decide anew."),
            extra={"version": row.version, "state": row.state},
        )
    return row


def _by_policy(what: Kind, request: Request) -> None:
    """Approve in the name of the first policy that fits, unless a person has declined it before: their word stands."""
    if request.comments.filter(event=Event.DECLINED).exists():
        return
    found = policies.find(what, request)
    if found is None:
        return
    policy, values = found
    reason = _("Approved by the policy “{name}”.").format(name=policy.name)
    try:
        with transaction.atomic(), forgotten_with_it():
            _apply(what, request, Decision(None, reason, values, policy.name))
    except Problem as problem:  # it fits and still cannot be done now: a person looks at it
        request.refresh_from_db()
        _happened(request, Event.COMMENTED, None, f"{policy.name}: {problem}", quiet=True)


def _apply(what: Kind, request: Request, decision: Decision) -> None:
    request.outcome = what.apply(request, decision)
    _decided(request, Standing.APPROVED, decision)
    _happened(request, Event.APPROVED, decision.actor, decision.reason)


def _decided(request: Request, state: Standing, decision: Decision) -> None:
    request.state = state
    request.decided_by = decision.actor
    request.decided_at = timezone.now()
    request.decision_reason = decision.reason
    request.policy = decision.policy
    _store(request, ("state", "decided_by", "decided_at", "decision_reason", "policy", "outcome"))


def _send_again(what: Kind, request: Request, actor: User) -> None:
    request.state = Standing.PENDING
    request.requested_at = timezone.now()
    request.reminded_at = None
    _store(request, ("state", "requested_at", "reminded_at"))
    what.reopened(request)
    _record(what, request, "submit again", actor)
    _happened(request, Event.SUBMITTED, actor, "")


def _check_decision(what: Kind, request: Request, actor: User, word: str) -> None:
    _require_state(request, (Standing.PENDING,), word)
    require(actor, what.decide)
    _check_reach(actor, what.decide, request)
    if request.requested_by_id == actor.pk:
        raise Problem("four_eyes", _("You applied for this yourself."), status=403, hint=_("Ask another person to approve or reject it."))


def _check_base(what: Kind, request: Request) -> None:
    if is_stale(request):
        now = what.current(request)
        raise conflict(
            "target_changed",
            _("“{name}” was changed after this was asked for.").format(name=request.target),
            hint=_("The person who asked looks at it as it is now and edits the request, or sends it as it is."),
            extra={"base_version": request.base_version, "version": now[0] if now else None},
        )


def _check_reach(actor: User, permission: str, request: Request) -> None:
    """A developer asks for things of their own applications."""
    if not may(actor, permission, request):
        raise Problem(
            "forbidden",
            _("This belongs to an application that is not yours."),
            status=403,
            hint=_("Ask its owner, or an operator."),
        )


def _require_state(request: Request, allowed: tuple[Standing, ...], word: str) -> None:
    if request.state not in allowed:
        raise conflict(
            "wrong_state",
            _("This cannot be done: it is {state}.").format(state=Standing(request.state).label),
            hint=_("Possible while: {states}.").format(states=", ".join(str(state.label) for state in allowed)),
            extra={"state": request.state, "action": word},
        )


def _require_own(request: Request, actor: User) -> None:
    if request.requested_by_id != actor.pk:
        raise Problem(
            "not_yours",
            _("Only the person who applied edits the request."),
            status=403,
            hint=_("Reject it with a reason, or ask that person."),
        )


def _duplicate(request: Request) -> Problem:
    other = Request.objects.pending().filter(kind=request.kind, target=request.target).exclude(pk=request.pk).first()
    return conflict(
        "duplicate_request",
        _("Somebody asks for this already: {number}.").format(number=other or "#"),
        hint=_("Comment on that request, or wait until it is decided."),
        extra={"request": other.pk if other else None},
    )


def _audited(request: Request) -> dict[str, Any]:
    return {**request.payload, "reason": request.reason}


def _record(what: Kind, request: Request, action: str, actor: User, **more: Any) -> None:
    after = more.pop("after", None)
    if after is None or "before" in more:
        record(actor=actor, action=action, kind=what.subject, name=request.target, after=after, **more)
    else:
        record(actor=actor, action=action, kind=what.subject, name=request.target, after={"request": request.pk, **after}, **more)


def _happened(request: Request, event: Event, author: User | None, text: str, *, quiet: bool = False) -> Comment:
    line = Comment.objects.create(request=request, event=event, author=author, text=text)
    if not quiet:
        outbox.tell(request=request, event=event, author=author, text=text)
    return line
