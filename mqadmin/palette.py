"""What the command palette finds besides the pages themselves: things by name, a message by its id, an instance by its address."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from django.db import models
from django.db.models import Q
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Application
from core.approvals.models import Request
from core.console import slots
from core.console.pages import person
from core.console.slots import Hit
from core.errors import Problem
from core.operations.models import Operation
from core.scope import ScopedQuerySet
from messages import services as store
from registry.models import Instance
from topics.models import Topic

# In this order, each under its head; a find of another icon stands at the end.
SECTIONS = {
    "message": gettext_lazy("Messages"),
    "topic": gettext_lazy("Topics"),
    "group": gettext_lazy("Consumer groups"),
    "request": gettext_lazy("Requests"),
    "operation": gettext_lazy("Operations"),
    "branch": gettext_lazy("Applications"),
    "cluster": gettext_lazy("Clusters"),
    "instance": gettext_lazy("Instances"),
    "tree": gettext_lazy("Publications"),
    "user": gettext_lazy("People"),
}
MOST = 24


def find(request: HttpRequest) -> HttpResponse:
    """What the words mean, as lines of the palette, grouped by what it is."""
    words = request.GET.get("q", "").replace("\x00", "").strip()[:100]
    order = list(SECTIONS)
    hits = slots.found(person(request), words) if words else []
    hits.sort(key=lambda hit: order.index(hit.icon) if hit.icon in SECTIONS else len(order))
    sections = [(SECTIONS.get(icon, _("Found")), list(found)) for icon, found in groupby(hits[:MOST], key=lambda hit: hit.icon)]
    return render(request, "console/_hits.html", {"sections": sections, "asked": bool(words)})


def seen(queryset: models.QuerySet[Any, Any], user: Any) -> models.QuerySet[Any, Any]:
    """Of the rows those that the person may see."""
    return queryset.restrict(user) if isinstance(queryset, ScopedQuerySet) else queryset


def _url(name: str, *args: Any) -> str:
    try:
        return reverse(f"admin:{name}", args=args)
    except NoReverseMatch:
        return ""


def _number(words: str, most: int = 19) -> int | None:
    digits = words.removeprefix("#")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < most else None


def _messages(user: Any, words: str) -> Iterator[Hit]:
    """A message by its whole id; keys are looked for in a topic, on the messages' own page."""
    number = _number(words, 20)
    if number is None or len(words) < 6 or not user.has_perm("mq_messages.view_message"):
        return
    try:
        message = store.message(message_id=number)
    except Problem:
        return
    if not Topic.objects.restrict(user, "mq_messages.view_message").filter(name=message.topic).exists():
        return
    yield Hit("message", str(message.id), message.topic, reverse("admin:messages_detail", args=[message.id]))


def _requests(user: Any, words: str) -> Iterator[Hit]:
    """A request by its number, and the newest about what is named so."""
    if not user.has_perm("approvals.view_request"):
        return
    number = _number(words, 10)
    which = Q(pk=number) if number is not None else Q(target__icontains=words, state="pending")
    for row in seen(Request.objects.all(), user).filter(which).order_by("-pk")[:3]:
        if url := _url("request_detail", row.pk):
            yield Hit("request", f"{row} {row.target}", row.get_state_display(), url)


def _operations(user: Any, words: str) -> Iterator[Hit]:
    """Operations that are called so, newest first."""
    if len(words) < 3 or not user.has_perm("operations.view_operation"):
        return
    for row in seen(Operation.objects.all(), user).filter(title__icontains=words).order_by("-pk")[:3]:
        if url := _url("operations_detail", row.uid):
            yield Hit("operation", row.title, row.get_state_display(), url)


def _applications(user: Any, words: str) -> Iterator[Hit]:
    """Applications by name: their topics."""
    if not user.has_perm("accounts.view_application"):
        return
    for pk, name in seen(Application.objects.all(), user).filter(name__icontains=words).order_by("name").values_list("pk", "name")[:5]:
        url = _url("accounts_application_detail", name) or _url("accounts_application_change", pk)
        if url:
            yield Hit("branch", name, _("Application"), url)


def _instances(user: Any, words: str) -> Iterator[Hit]:
    """One instance by its address or node."""
    if len(words) < 3 or not user.has_perm("registry.view_instance"):
        return
    found = seen(Instance.objects.all(), user).filter(Q(ip__startswith=words) | Q(node=words)).order_by("-online", "ip", "pk")
    for row in found.only("ip", "node", "app", "online")[:5]:
        hint = row.app or _("plain ZMS client")
        yield Hit("instance", f"{row.ip or row.node}", hint, f"{reverse('admin:registry_instances')}?{urlencode({'q': row.node})}")


for search in (_messages, _requests, _operations, _applications, _instances):
    slots.search(search)
