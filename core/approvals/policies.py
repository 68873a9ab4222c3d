"""Policies: which requests are approved without a person, and who makes the rules.

A policy decides for nobody who wrote it: whoever changed it last asks other people, or the four-eyes rule would be worth nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from core.approvals import kinds
from core.approvals.kinds import Ask, Kind
from core.approvals.models import Event, Policy, Request
from core.audit.services import record
from core.errors import FieldError, Problem, conflict

if TYPE_CHECKING:
    from accounts.models import User

FIELDS = (
    "name", "enabled", "position", "kinds", "name_pattern", "environment", "max_rate", "max_message_bytes", "max_partitions", "cluster",
    "retirement", "note",
)  # fmt: skip
#: Which limit looks at which fact of a request.
LIMITS = {"max_rate": "rate", "max_message_bytes": "message_bytes", "max_partitions": "partitions"}


def find(what: Kind, request: Request) -> tuple[Policy, Mapping[str, Any]] | None:
    """The first policy that approves this request, with what it adds in an approver's place. In the caller's transaction."""
    for candidate in Policy.objects.filter(enabled=True, kinds__contains=[what.name]).order_by("position", "name"):
        if refusal(candidate, what, request) is not None:
            continue
        # Locked and looked at again: who changes the policy now either waits for this decision, or it goes by the new rule.
        policy = Policy.objects.select_for_update(no_key=True).filter(pk=candidate.pk).first()
        if policy is None or refusal(policy, what, request) is not None:
            continue
        values = what.policy_values(request, policy)
        if values is not None:
            return policy, values
    return None


def refusal(policy: Policy, what: Kind, request: Request, *, applications: Collection[str] | None = None) -> str | None:
    """Why a policy does not approve a request, or None if it does as far as the rule goes.

    `applications` by name stand for those of a policy that is not stored yet.
    """
    if not policy.enabled:
        return _("The policy is not in force.")
    if what.name not in policy.kinds:
        return _("It is not for this kind of request.")
    if what.retires and not policy.retirement:
        return _("It approves no retirement.")
    if policy.environment and policy.environment != settings.ENVIRONMENT:
        return _("It is for another environment.")
    if request.requested_by_id == policy.changed_by_id:
        return _("Who asks wrote the policy.")
    if not matches(policy.name_pattern, request.target):
        return _("The name does not fit.")
    allowed = {row.name for row in policy.applications.all()} if applications is None else set(applications)
    # Neither for a thing of another application nor for handing one over to it.
    if allowed and (request.application is None or not {request.application.name, request.payload.get("application")} <= {*allowed, None}):
        return _("It is for other applications.")
    for limit, fact in LIMITS.items():
        most, asked = getattr(policy, limit), request.facts.get(fact)
        if most is not None and asked is not None and asked > most:
            return _("{label}: {asked} is more than {most}.").format(
                label=Policy._meta.get_field(limit).verbose_name,  # type: ignore[union-attr]  # noqa: SLF001 - Django's public API
                asked=f"{asked:,}",
                most=f"{most:,}",
            )
    return None


def matches(pattern: str, name: str) -> bool:
    """`*` stands for any signs, `?` for one; everything else for itself. Never slower than pattern times name, unlike an expression."""
    at = seen = 0
    star, since = -1, 0
    while seen < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, since, at = at, seen, at + 1
        elif at < len(pattern) and pattern[at] in {"?", name[seen]}:
            at, seen = at + 1, seen + 1
        elif star >= 0:  # the last star takes one sign more
            at, since = star + 1, since + 1
            seen = since
        else:
            return False
    return not pattern[at:].strip("*")


def preview(
    *, actor: User, kind: str, target: str, payload: Mapping[str, Any], request: Request | None = None, reason: str = ""
) -> Policy | None:
    """The policy that would approve this at once; checks what is asked for as `submit` does, and changes nothing."""
    what = kinds.get(kind)
    with transaction.atomic():
        draft = what.draft(Ask(actor, target, what.checked(payload), reason or "?", request))
        if request is not None and request.comments.filter(event=Event.DECLINED).exists():
            transaction.set_rollback(True)
            return None
        request = Request(kind=kind, target=target, requested_by_id=actor.pk, application_id=draft.application_id)
        request.payload, request.facts, request.before, request.base_version = draft.payload, draft.facts, draft.before, draft.base_version
        found = find(what, request)
        transaction.set_rollback(True)
    return found[0] if found else None


def create(*, actor: User, applications: Iterable[str] = (), **fields: Any) -> Policy:
    """Add a policy; applications by name. Problems: `invalid`, `duplicate_name`."""
    policy = Policy(**fields, changed_by_id=actor.pk)
    _check(policy)
    chosen = _applications(applications)
    try:
        with transaction.atomic():
            policy.save(force_insert=True)
            policy.applications.set(chosen)
            record(actor=actor, action="create", kind="policy", name=policy.name, after=_audited(policy))
    except IntegrityError:
        raise _taken(policy.name) from None
    policy.refresh_from_db()
    return policy


def change(*, actor: User, policy: Policy, version: int | None = None, applications: Iterable[str] | None = None, **fields: Any) -> Policy:
    """Change a policy; requests that are submitted from then on go by it. Problems: `invalid`, `duplicate_name`, `state_changed`."""
    with transaction.atomic():
        policy = _locked(policy, version)
        before = _audited(policy)
        for name, value in fields.items():
            setattr(policy, name, value)
        _check(policy)
        if applications is not None:
            policy.applications.set(_applications(applications))
        if _audited(policy) == before:
            return policy
        policy.changed_by_id, policy.changed_at, policy.version = actor.pk, timezone.now(), policy.version + 1
        try:
            with transaction.atomic():
                policy.save()
        except IntegrityError:
            raise _taken(policy.name) from None
        record(actor=actor, action="change", kind="policy", name=policy.name, before=before, after=_audited(policy))
    policy.refresh_from_db()
    return policy


def delete(*, actor: User, policy: Policy, version: int | None = None, reason: str = "") -> None:
    """Take a policy away; what it has approved stays approved."""
    with transaction.atomic():
        policy = _locked(policy, version)
        record(actor=actor, action="delete", kind="policy", name=policy.name, before=_audited(policy), reason=reason)
        policy.delete()


def _locked(policy: Policy, version: int | None) -> Policy:
    row = Policy.objects.select_for_update().get(pk=policy.pk)
    if version is not None and version != row.version:
        raise conflict(
            "state_changed",
            _("Somebody else changed this in the meantime."),
            hint=_("Read it again and decide anew."),
            extra={"version": row.version},
        )
    return row


def _check(policy: Policy) -> None:
    from django.core.exceptions import ValidationError

    errors = []
    known = {kind.name: kind for kind in kinds.every()}
    try:
        policy.clean_fields(exclude=["kinds", "changed_by"])
    except ValidationError as error:
        errors = [FieldError(f"/{field}", " ".join(texts)) for field, texts in error.message_dict.items()]
    if not policy.kinds:
        errors.append(FieldError("/kinds", _("Choose at least one kind of request.")))
    elif unknown := [str(kind) for kind in policy.kinds if kind not in known]:
        errors.append(FieldError("/kinds", _("There is no kind of request “{name}”.").format(name=", ".join(unknown))))
    elif not policy.retirement and any(known[kind].retires for kind in policy.kinds):
        errors.append(FieldError("/retirement", _("Say expressly that it also retires, or take the retirements out of its kinds.")))
    if errors:
        raise Problem("invalid", errors[0].detail if len(errors) == 1 else _("Some fields are not right."), errors=errors)


def _applications(names: Iterable[str]) -> list[Any]:
    wanted = list(dict.fromkeys(names))
    rows: Any = Policy.applications.rel.model._default_manager.all()  # noqa: SLF001 - core names no model of a room above
    found = {row.name: row for row in rows.filter(name__in=[name for name in wanted if "\x00" not in name])}
    if missing := [name for name in wanted if name not in found]:
        detail = _("There is no application “{value}”; make it first.").format(value=", ".join(missing))
        raise Problem("invalid", detail, errors=[FieldError("/applications", detail)])
    return list(found.values())


def _taken(name: str) -> Problem:
    return conflict("duplicate_name", _("There is a policy “{name}” already.").format(name=name), hint=_("Choose another name."))


def _audited(policy: Policy) -> dict[str, Any]:
    chosen = sorted(policy.applications.values_list("name", flat=True)) if policy.pk else []
    return {**{name: getattr(policy, name) for name in FIELDS}, "applications": chosen}
