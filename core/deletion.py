"""Deleting a row that nothing refers to; what does is listed."""

from django.db import models
from django.db.models import ProtectedError
from django.utils.translation import gettext as _

from core.errors import changed_meanwhile, conflict

LISTED = 100


def delete(thing: models.Model) -> None:
    """Delete the version of the row that was read; within a transaction. Problems: in_use (with `used_by`), state_changed."""
    kind = type(thing)
    version = vars(thing)["version"]
    # Locked: whoever adds something to it now waits, and is told that it is gone.
    if not kind._base_manager.select_for_update().filter(pk=thing.pk, version=version).exists():  # noqa: SLF001 - Django's public name
        raise changed_meanwhile()
    try:
        thing.delete()
    except ProtectedError as error:
        things = sorted((type(one)._meta.model_name or "", str(one)) for one in error.protected_objects)  # noqa: SLF001
        raise conflict(
            "in_use",
            _("“{name}” is in use by {count} other things.").format(name=thing, count=len(things)),
            hint=_("First are: {names}. Retired ones count too.").format(names=", ".join(name for _kind, name in things[:10])),
            extra={"used_by": [{"kind": word, "name": name} for word, name in things[:LISTED]]},
        ) from None
