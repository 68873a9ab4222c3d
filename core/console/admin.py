"""What Django's own admin pages have in the console: the row as it was seen, deleting by typing the name, labels for every field."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as flash
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import AdminSplitDateTime
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _

from core.console.versions import VersionedAdmin


class ConsoleAdmin(VersionedAdmin):
    """Mixed into each ModelAdmin by the site."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Date and time of a moment are two inputs: each says what it is."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, AdminSplitDateTime):
            for widget, part in zip(field.widget.widgets, (_("date"), _("time")), strict=True):
                widget.attrs["aria-label"] = f"{field.label}: {part}"
        return field

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:  # noqa: ARG002
        """What is not there, or not within reach, is 404 as everywhere; Django would lead to the overview, with a message."""
        raise Http404

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The browser asks for the name and a reason; only this counts."""
        thing = self.get_object(request, unquote(object_id)) if request.method == "POST" else None
        if thing is not None and self.has_delete_permission(request, thing):
            name, reason = request.POST.get("confirm_name", "").strip(), request.POST.get("change_message", "").strip()
            if name != str(thing) or not reason:
                flash.error(request, _("Nothing is deleted: type the name as it is, and give a reason."))
                return HttpResponseRedirect(request.get_full_path())
        return super().delete_view(request, object_id, extra_context)
