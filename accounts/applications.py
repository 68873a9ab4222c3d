"""The verbs of applications: add, change, delete; each is one transaction with its audit entry."""

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import Application, User
from core import deletion
from core.audit.services import record
from core.errors import FieldError, Problem, changed_meanwhile, conflict
from core.names import check_name
from core.scope import Reach

EDITABLE = ("owner", "description")


def require_application(actor: User, permission: str, application: Application) -> None:
    """Refuse what is done in the name of an application that is not the person's own. Problem: not_your_application."""
    reach = actor.reach(permission)
    if reach is Reach.ALL or (reach is Reach.OWN and actor.owns(application.pk)):
        return
    detail = _("The application “{name}” is not yours.").format(name=application.name)
    hint = _("Ask its owner, or an operator.")
    raise Problem("not_your_application", detail, status=403, hint=hint, errors=[FieldError("/application", detail)])


def create(*, actor: User, name: str, owner: User, description: str = "") -> Application:
    """Add an application. Problems: invalid_name, reserved_name, duplicate_name."""
    check_name(name)
    try:
        with transaction.atomic():
            application = Application.objects.create(name=name, owner=owner, description=description)
            record(actor=actor, action="create", kind="application", name=name, after=_audited(application))
    except IntegrityError:
        detail = _("There is an application “{name}” already.").format(name=name)
        raise conflict("duplicate_name", detail, hint=_("Choose another name.")) from None
    application.refresh_from_db()
    return application


def change(*, actor: User, application: Application, changes: Mapping[str, Any]) -> Application:
    """Change owner or description of the version at hand; nothing is written when nothing differs.

    Who may not change all applications gives none away, and makes none their own. Problems: forbidden, state_changed.
    """
    if changes.get("owner", application.owner) != application.owner and actor.reach("accounts.change_application") is not Reach.ALL:
        detail = _("Only who may change all applications changes an owner.")
        hint = _("Ask an operator.")
        raise Problem("forbidden", detail, status=403, hint=hint, errors=[FieldError("/owner", detail)])
    before = _audited(application)
    for field in EDITABLE:
        if field in changes:
            setattr(application, field, changes[field])
    after = _audited(application)
    if before == after:
        return application
    with transaction.atomic():
        same = Application.objects.filter(pk=application.pk, version=application.version)
        values = {"owner_id": application.owner_id, "description": application.description}
        if same.update(version=F("version") + 1, changed_at=timezone.now(), **values) != 1:
            raise changed_meanwhile()
        record(actor=actor, action="change", kind="application", name=application.name, before=before, after=after)
    application.refresh_from_db()
    return application


def delete(*, actor: User, application: Application) -> None:
    """Delete what nothing belongs to. Problems: in_use (listing what does), state_changed."""
    before = _audited(application)
    with transaction.atomic():
        deletion.delete(application)
        record(actor=actor, action="delete", kind="application", name=application.name, before=before)


def _audited(application: Application) -> dict[str, Any]:
    return {"owner": application.owner.get_username(), "description": application.description}
