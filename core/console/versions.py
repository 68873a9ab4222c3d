"""What a form was filled in against travels with it, signed: of two people who edit the same row, the second is told what changed.

    class Edit(FormPage):
        def versioned(self):          # the row that the form changes; the same object is handed to the service
            return self.topic

Every page of Django's own admin has it as well (`VersionedAdmin`, which the site mixes into each).
The form keeps what the person typed, shows what differs, and counts as seen from then on: sending it again is their decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core import signing
from django.db import models, transaction
from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext as _

from core.errors import Problem, conflict

if TYPE_CHECKING:
    from django import forms
    from django.contrib.admin import ModelAdmin

    _Base = ModelAdmin[Any]
else:
    _Base = object

SHOWN = 200  # letters of a value
# Not told, though a form may set it; nor what changes by itself.
LEFT_OUT = {"password", "digest", "secret", "last_login", "last_used_at", "version", "changed_at"}


def facts_of(thing: Model, names: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Each field's digest and its beginning as people read it; without names all that is kept of the row."""
    fields = {field.name: field for field in thing._meta.get_fields() if not field.auto_created}  # noqa: SLF001 - Django's public API
    wanted = fields if names is None else [name for name in names if name in fields]
    facts = {}
    for name in wanted:
        field = fields[name]
        if name in LEFT_OUT or isinstance(field, models.BinaryField) or (names is None and field.many_to_many):
            continue
        if field.many_to_many:
            text = ", ".join(sorted(str(item) for item in getattr(thing, name).all()))
        elif getattr(field, "choices", None):
            text = str(getattr(thing, f"get_{name}_display")())
        else:
            found = getattr(thing, name, None)
            text = "" if found is None else str(found)
        raw = text if field.many_to_many else str(getattr(thing, getattr(field, "attname", name), ""))
        facts[name] = [hashlib.sha256(raw.encode()).hexdigest()[:12], text[:SHOWN]]
    return facts


def _salt(thing: Model) -> str:
    return f"seen:{thing._meta.label}:{thing.pk}"  # noqa: SLF001 - Django's public API


def token(thing: Model, names: Iterable[str] | None = None) -> str:
    """The row as it is now, for the hidden field `seen`."""
    return signing.dumps([getattr(thing, "version", None), facts_of(thing, names)], salt=_salt(thing), compress=True)


def check(thing: Model, seen: str, names: Iterable[str] | None = None) -> None:
    """Raise a Problem with what changed since `seen` was made. An empty `seen` claims nothing; a forged one was never seen."""
    if not seen:
        return
    try:
        version, before = signing.loads(seen, salt=_salt(thing))
    except (signing.BadSignature, ValueError):
        version, before = -1, {}
    now = facts_of(thing, names)
    fields = {field.name: field for field in thing._meta.get_fields() if not field.auto_created}  # noqa: SLF001 - Django's public API
    differing = [
        {"label": str(getattr(fields[name], "verbose_name", name)), "before": was[1], "after": now[name][1]}
        for name, was in before.items()
        if name in now and now[name][0] != was[0]
    ]
    if version != getattr(thing, "version", None) or differing:
        raise conflict(
            "state_changed",
            _("Somebody else changed this in the meantime."),
            hint=_("What you typed is still here. Look at what changed; sending the form again means that you want it anyway."),
            extra={"changed": differing},
        )


class VersionedAdmin(_Base):
    """Django's change form with the row as it was seen."""

    def _seen_names(self, request: HttpRequest, obj: Any) -> list[str]:
        """The fields of the form, and nothing that it does not show."""
        return list(self.get_form(request, obj, change=True).base_fields)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Locked while a change of it is being saved: what was compared is what is overwritten."""
        found = super().get_object(request, object_id, from_field)
        if found is not None and request.method == "POST" and transaction.get_connection().in_atomic_block:
            type(found)._default_manager.select_for_update().filter(pk=found.pk).first()  # noqa: SLF001 - Django's public API
            found.refresh_from_db()
        return found

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """A form that refuses, once, to overwrite what its person has not seen."""
        made = super().get_form(request, obj, change=change, **kwargs)
        seen = request.POST.get("seen", "") if request.method == "POST" and obj is not None else ""
        if not seen:
            return made
        names = list(made.base_fields)

        class Checked(made):  # type: ignore[misc,valid-type]
            def __init__(self, *args: Any, **arguments: Any) -> None:
                super().__init__(*args, **arguments)
                self.problem: Problem | None = None
                if self.is_bound and self.instance.pk is not None:
                    try:
                        check(self.instance, seen, names)  # before the form writes its own values into the row
                    except Problem as problem:
                        self.problem = problem

            def clean(self) -> Any:
                cleaned = super().clean()
                if self.problem is not None:
                    self.add_error(None, str(self.problem.detail))
                return cleaned

        return Checked

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The hidden field, and what changed if something did."""
        obj = kwargs.get("obj")
        form: forms.BaseForm | None = getattr(context.get("adminform"), "form", None)
        problem = getattr(form, "problem", None)
        if obj is not None:
            posted = request.POST.get("seen", "")
            if posted and problem is None:
                context["seen"] = posted  # wrong input is no reason to forget what was seen
            else:
                fresh = type(obj)._default_manager.filter(pk=obj.pk).first()  # noqa: SLF001 - without what the form wrote into it
                context["seen"] = token(fresh, self._seen_names(request, obj)) if fresh else ""
        context["problem"] = problem
        return super().render_change_form(request, context, *args, **kwargs)
