"""What a person does with views of a list: one address, POST only; then back to the list."""

from typing import Any

from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import NoReverseMatch, path, resolve, reverse
from django.utils.translation import gettext as _

from core.console import saved
from core.console.lists import ListPage
from core.console.pages import Page, person
from core.errors import Problem


def list_at(page: str) -> tuple[str, type[ListPage[Any]]]:
    """The address and the class of a list by the name of its address; a page that is no list is not there."""
    try:
        url = reverse(f"admin:{page}")
    except NoReverseMatch as error:
        raise Http404 from error
    view = getattr(resolve(url).func, "view_class", None)
    if view is None or not issubclass(view, ListPage):
        raise Http404
    return url, view


class Views(Page):
    """Save, update, share, make the default, forget."""

    http_method_names = ["post"]

    def post(self, request: HttpRequest, page: str) -> HttpResponse:
        """`do` says what; a refusal is said above the list."""
        url, view = list_at(page)
        if not request.user.has_perm(view.permission):
            raise PermissionDenied
        query = saved.canonical(view.parameters(), QueryDict(request.POST.get("query", "")[:4000]))
        try:
            return HttpResponseRedirect(self._do(request, page, url, query))
        except Problem as problem:
            flash.error(request, f"{problem.detail} {problem.hint or ''}".strip())
            return HttpResponseRedirect(f"{url}?{query}" if query else f"{url}?view=")

    def _do(self, request: HttpRequest, page: str, url: str, query: str) -> str:
        actor, given = person(request), request.POST
        number = int(given["pk"]) if given.get("pk", "").isascii() and given.get("pk", "").isdigit() and len(given["pk"]) < 18 else 0
        match given.get("do"):
            case "save":
                kept = saved.save(
                    actor=actor, page=page, name=given.get("name", ""), query=query, shared="shared" in given, default="default" in given
                )
                flash.success(request, _("The view “{name}” is saved.").format(name=kept.name))
                return kept.address
            case "update":
                kept = saved.update(actor=actor, pk=number, query=query)
                flash.success(request, _("The view “{name}” is saved.").format(name=kept.name))
                return kept.address
            case "share" | "unshare":
                kept = saved.share(actor=actor, pk=number, shared=given["do"] == "share")
                said = _("Everybody sees “{name}” now.") if kept.shared else _("Only its owner sees “{name}” now.")
                flash.success(request, said.format(name=kept.name))
                return kept.address
            case "default" | "no-default":
                chosen = next((item for item in saved.views_of(actor, page) if item.pk == number), None)
                saved.make_default(actor=actor, page=page, view=chosen if given["do"] == "default" else None)
                said = _("The list opens with “{name}” now.").format(name=chosen) if chosen and given["do"] == "default" else ""
                flash.success(request, said or _("The list opens as it comes now."))
                return chosen.address if chosen else f"{url}?view="
            case "forget":
                gone = saved.forget(actor=actor, pk=number)
                flash.success(request, _("The view “{name}” is deleted.").format(name=gone.name))
                return f"{url}?view="
        raise Problem("invalid", _("There is no such action."))


urlpatterns = [path("views/<slug:page>/", Views.as_view(), name="list_views")]
