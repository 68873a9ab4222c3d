"""The verbs of people: end sessions, tell of a new password."""

from django.db import transaction

from accounts.models import PersonSession, User
from core.audit.services import record


def end_session(*, actor: User, session: PersonSession) -> None:
    """End one session of a browser."""
    with transaction.atomic():
        owner = session.user
        before = {"address": session.address, "browser": session.agent[:120]}
        record(actor=actor, action="end session", kind="person", name=owner.get_username() if owner else "", before=before)
        session.delete()


def end_sessions(*, actor: User, person: User, keep: str | None = None) -> int:
    """End all sessions of a person, but the one with this key; returns how many."""
    with transaction.atomic():
        ended, _by_model = PersonSession.objects.filter(user=person).exclude(pk=keep or "").delete()
        if ended:
            record(actor=actor, action="end sessions", kind="person", name=person.get_username(), after={"ended": ended})
    return ended


def password_changed(*, actor: User, person: User, keep: str | None = None) -> None:
    """Tell the audit, never the password; whoever knew the old one is signed out."""
    record(actor=actor, action="change password", kind="person", name=person.get_username())
    end_sessions(actor=actor, person=person, keep=keep)
