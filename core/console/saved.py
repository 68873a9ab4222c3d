"""Saved views: keep, rename, share, open a list with one, forget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q
from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext as _

from core.audit.services import record
from core.console.models import DefaultView, SavedView
from core.errors import FieldError, Problem

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

    from accounts.models import User

#: Views of one person for one list at most.
MOST = 30


def canonical(parameters: Iterable[str], query: QueryDict) -> str:
    """The part of an address that describes the list, in one order, so that two can be compared."""
    kept = QueryDict(mutable=True)
    for key in parameters:
        values = [str(value).replace("\x00", "").strip() for value in query.getlist(key)]
        if values := [value for value in (values if key == "col" else values[-1:]) if value]:
            kept.setlist(key, values)
    return kept.urlencode()


class Opens(TypedDict):
    """What is added to a view: whether the list opens with it."""

    is_default: bool


def views_of(user: User, page: str) -> list[WithAnnotations[SavedView, Opens]]:
    """One's own views of a list and those shared with everybody, by name, each with `is_default`."""
    default = DefaultView.objects.filter(owner=user.pk, page=page, view=OuterRef("pk"))
    seen = SavedView.objects.filter(Q(owner=user.pk) | Q(shared=True), page=page)
    return list(seen.annotate(is_default=Exists(default)).select_related("owner").order_by("name", "pk")[:100])


def _seen(actor: User, pk: int) -> SavedView:
    found = SavedView.objects.filter(Q(owner=actor.pk) | Q(shared=True), pk=pk).first()
    if found is None:
        raise Problem("not_found", _("There is no such view any more."), status=404, hint=_("Somebody may have deleted it."))
    return found


def _may_change(actor: User, view: SavedView) -> None:
    if view.owner_id != actor.pk and not actor.has_perm("console.share_savedview"):
        raise Problem("forbidden", _("The view is somebody else's."), status=403, hint=_("Save it under a name of your own."))


def _may_share(actor: User) -> None:
    if not actor.has_perm("console.share_savedview"):
        hint = _("It needs the permission {permission}. An administrator can grant it.").format(permission="console.share_savedview")
        raise Problem("forbidden", _("You may not share views."), status=403, hint=hint)


def save(*, actor: User, page: str, name: str, query: str, shared: bool = False, default: bool = False) -> SavedView:
    """Keep a view under a name; one's own view of the same name is replaced."""
    name = " ".join(name.replace("\x00", "").split())
    if not name or len(name) > 60:
        detail = _("Give it a name of 1 to 60 letters.")
        raise Problem("invalid_name", detail, errors=[FieldError("/name", detail)])
    if len(query) > 2000:
        raise Problem("too_long", _("The filter is too long to be kept."), hint=_("Choose fewer columns or shorter words."))
    if shared:
        _may_share(actor)
    own = SavedView.objects.filter(owner=actor.pk, page=page)
    old = own.filter(name=name).first()
    if old is None and own.count() >= MOST:
        raise Problem("too_many", _("You have {n} views of this list already.").format(n=MOST), status=409, hint=_("Delete one first."))
    try:
        with transaction.atomic():
            view, _created = SavedView.objects.update_or_create(
                owner_id=actor.pk, page=page, name=name, defaults={"query": query, "shared": shared, "changed_at": timezone.now()}
            )
            record(
                actor=actor,
                action="save",
                kind="view",
                name=f"{page}/{name}",
                before={"filter": old.query, "shared": old.shared} if old else None,
                after={"filter": query, "shared": shared},
            )
            if default:
                make_default(actor=actor, page=page, view=view)
    except IntegrityError as error:
        raise Problem("conflict", _("The view was saved twice at once."), status=409, hint=_("Try again.")) from error
    return view


def update(*, actor: User, pk: int, query: str) -> SavedView:
    """Let a view mean what the list shows now."""
    view = _seen(actor, pk)
    _may_change(actor, view)
    with transaction.atomic():
        SavedView.objects.filter(pk=view.pk).update(query=query, changed_at=timezone.now())
        record(actor=actor, action="save", kind="view", name=f"{view.page}/{view}", before={"filter": view.query}, after={"filter": query})
    view.query = query
    return view


def share(*, actor: User, pk: int, shared: bool) -> SavedView:
    """Show a view to everybody, or to its owner only again."""
    view = _seen(actor, pk)
    _may_share(actor)
    with transaction.atomic():
        SavedView.objects.filter(pk=view.pk).update(shared=shared, changed_at=timezone.now())
        if not shared:
            DefaultView.objects.filter(view=view).exclude(owner=view.owner_id).delete()
        name = f"{view.page}/{view}"
        record(actor=actor, action="share", kind="view", name=name, before={"shared": view.shared}, after={"shared": shared})
    view.shared = shared
    return view


def make_default(*, actor: User, page: str, view: SavedView | None) -> None:
    """Open the list with this view from now on; None: as it comes."""
    with transaction.atomic():
        old = DefaultView.objects.filter(owner=actor.pk, page=page).select_related("view").first()
        if view is None:
            DefaultView.objects.filter(owner=actor.pk, page=page).delete()
        else:
            DefaultView.objects.update_or_create(owner_id=actor.pk, page=page, defaults={"view": view})
        record(
            actor=actor,
            action="default",
            kind="view",
            name=page,
            before={"view": old.view.name if old else None},
            after={"view": view.name if view else None},
        )


def forget(*, actor: User, pk: int) -> SavedView:
    """Delete a view: one's own, or a shared one with the permission to share."""
    view = _seen(actor, pk)
    _may_change(actor, view)
    with transaction.atomic():
        SavedView.objects.filter(pk=view.pk).delete()
        record(actor=actor, action="delete", kind="view", name=f"{view.page}/{view}", before={"filter": view.query, "shared": view.shared})
    return view
