"""Something for many rows of a list: what it will be done to and what not, and why; then it is done, or an operation begins."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect, QueryDict
from django.http.response import HttpResponseBase
from django.urls import path, reverse
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from core import bulk
from core.console.pages import Page, attach, person
from core.errors import Problem

LOOKED_AT = 2000  # of more things it is not told beforehand which of them cannot be done
LISTED = 200


class BulkPage(Page):
    """The preview with its form (POST from the list), and the doing (POST from the preview). What is selected is in the form."""

    template_name = "bulk/confirm.html"
    http_method_names = ["post", "get"]

    def get(self, request: HttpRequest, resource: str) -> HttpResponseBase:  # noqa: ARG002
        """Reloading loses the selection: back to the list."""
        return HttpResponseRedirect(reverse(f"admin:{_list_of(bulk.resource_of(resource))}"))

    def post(self, request: HttpRequest, resource: str) -> HttpResponseBase:
        """Show what will happen, or let it happen."""
        what = bulk.resource_of(resource)
        verb = bulk.verb_of(resource, request.POST.get("action", ""))
        if not request.user.has_perm(verb.permission):
            raise PermissionDenied
        self.here = what.here  # type: ignore[misc]
        things, total = self._selected(verb)
        if "confirm" in request.POST and (versions := self._versions()):  # nobody has looked at what matches only since then
            things = things.filter(**{f"{what.key}__in": versions})
            total = things.count()
        back = _inside(request.POST.get("next", "")) or reverse(f"admin:{_list_of(what)}")
        if not total:
            flash.error(request, _("Nothing is selected: tick some rows, or choose all that match."))
            return HttpResponseRedirect(back)
        form = import_string(verb.form)(request.POST if "confirm" in request.POST else None)
        problem = None
        if "confirm" in request.POST and form.is_valid():
            try:
                self._check_number(total)
                return HttpResponseRedirect(self._do(verb, things, total, form, back))
            except Problem as refused:
                attach(form, refused)
                problem = getattr(form, "problem", None)
        return self._preview(verb, things, total, {"form": form, "back": back, "problem": problem})

    def _versions(self) -> dict[str, str]:
        """What the preview showed, each with the version that it had."""
        return dict(pair.rsplit("=", 1) for pair in self.request.POST.getlist("seen") if "=" in pair)

    def _check_number(self, total: int) -> None:
        """Of too many to be shown one by one the number was shown. Problem: `state_changed`."""
        shown = self.request.POST.get("shown", "")
        if shown.isascii() and shown.isdigit() and len(shown) < 10 and total > int(shown):
            detail = _("It would be more than you were shown: now these are {n}.").format(n=f"{total:,}")
            raise Problem("state_changed", detail, status=409, hint=_("Look at them again; sending the form again means that you want it."))

    def _selected(self, verb: bulk.Bulk) -> tuple[QuerySet[Any, Any], int]:
        """Rows named, or all that match the list's filter, cut down to what the person may do it to."""
        what, post = bulk.resource_of(verb.resource), self.request.POST
        reachable = bulk.reachable(verb, self.request.user)
        if post.get("matching"):
            page = import_string(what.lists)()
            page.setup(self.request)
            asked = page.read(self.request, QueryDict(post.get("query", "")[:4000]))
            rows = reachable.filter(pk__in=asked.rows.order_by().values("pk"))
        else:
            names = [name for name in post.getlist("names") if "\x00" not in name][: bulk.MAX_ITEMS]
            rows = reachable.filter(**{f"{what.key}__in": names})
        return rows.order_by(what.key), rows.count()

    def _values(self, verb: bulk.Bulk, form: Any) -> dict[str, Any]:
        """What the form holds, as the API takes it: references by name."""
        known = verb.serializer().fields
        values = {}
        for name, value in form.cleaned_data.items():
            if name in known:
                values[name] = form[name].value() if isinstance(value, models.Model) else value
        return values

    def _do(self, verb: bulk.Bulk, things: QuerySet[Any, Any], total: int, form: Any, back: str) -> str:
        values, actor = self._values(verb, form), person(self.request)
        key = bulk.resource_of(verb.resource).key
        if total > bulk.AT_ONCE:
            started = bulk.begin(actor=actor, bulk=verb, values=values, select=things)
            return reverse("admin:operations_detail", args=[started.uid])
        seen = {str(getattr(thing, key)): thing for thing in things}
        versions = self._versions()
        items = [bulk.Wanted(name, {}, f'"{versions[name]}"' if name in versions else "") for name in seen]
        results = bulk.run(actor=actor, bulk=verb, items=items, values=values, atomic=False)
        done = sum(1 for result in results if result.problem is None)
        if done:
            said = ngettext("{action}: done for {n}.", "{action}: done for {n}.", done).format(action=verb.label, n=done)
            flash.success(self.request, said)
        for result in [result for result in results if result.problem is not None][:20]:
            flash.error(self.request, f"{result.name}: {result.problem}")
        if (rest := len(results) - done - 20) > 0:
            flash.error(self.request, ngettext("{n} more failed.", "{n} more failed.", rest).format(n=rest))
        return back

    def _preview(self, verb: bulk.Bulk, things: QuerySet[Any, Any], total: int, context: dict[str, Any]) -> HttpResponseBase:
        what, looked_at = bulk.resource_of(verb.resource), list(things[: LOOKED_AT + 1])
        known = len(looked_at) <= LOOKED_AT
        told = [(thing, str(verb.why_not(person(self.request), thing))) for thing in looked_at[:LOOKED_AT]]
        possible: Sequence[Any] = [thing for thing, why in told if not why]
        refused = [(thing, why) for thing, why in told if why]
        post = self.request.POST
        kept = [
            ("action", verb.action),
            ("next", context["back"]),
            ("query", post.get("query", "")),
            ("matching", post.get("matching", "")),
        ]
        if not post.get("matching"):
            kept += [("names", getattr(thing, what.key)) for thing in looked_at]
        if total <= bulk.AT_ONCE:  # what was shown is what is decided on
            kept += [("seen", f"{getattr(thing, what.key)}={thing.version}") for thing in looked_at]
        else:
            kept.append(("shown", str(total)))
        return self.show(
            {
                "title": _("{action}: {resource}").format(action=verb.label, resource=what.label),
                "crumbs": [(what.label, reverse(f"admin:{_list_of(what)}"))],
                "verb": verb,
                "total": total,
                "possible": len(possible),
                "refused": len(refused),
                "known": known,
                "possible_rows": possible[:LISTED],
                "refused_rows": refused[:LISTED],
                "listed": LISTED,
                "operation": total > bulk.AT_ONCE,
                "kept": kept,
                "tone": "danger solid" if verb.tone == "danger" else "primary",
                "age": None,
                **context,
            }
        )


def _list_of(resource: bulk.Resource) -> str:
    return resource.list_url or f"{resource.lists.split('.', 1)[0]}_list"


def _inside(address: str) -> str:
    """The address if it is a path of our own, else nothing."""
    parts = urlsplit(address)
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme else ""


urlpatterns = [path("bulk/<str:resource>/", BulkPage.as_view(), name="bulk")]
