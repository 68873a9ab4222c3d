"""Operations in the console: the list, and a page that lives while the operation runs."""

import json
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.bulk.console import urlpatterns as bulk_patterns
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage, View
from core.console.pages import FormPage, OptionalReasonForm, Page, get, person
from core.console.slots import Column
from core.operations import kinds, services, streams
from core.operations.models import OPEN, ItemState, Operation, OperationItem, State, Wanted

ROWS = 50


def _kinds(_request: HttpRequest) -> list[tuple[str, str]]:
    return [(name, kinds.label(name)) for name in kinds.names()]


class Operations(ListPage[Operation]):
    """All operations that the person may see, newest first."""

    permission = "operations.view_operation"
    here = "operations"
    title = gettext_lazy("Operations")
    model = Operation
    template_name = "operations/list.html"
    columns = [
        Column("title", gettext_lazy("Operation"), sort=("title",), value="title"),
        Column("state", gettext_lazy("Status"), sort=("state", "id"), value="shown_state"),
        Column("progress", gettext_lazy("Progress")),
        Column("done", gettext_lazy("Done"), sort=("done",), css="num", value="done"),
        Column("failed", gettext_lazy("Failed"), sort=("failed",), css="num", value="failed"),
        Column("total", gettext_lazy("Items"), sort=("total",), css="num hide-s", value="total"),
        Column("rate", gettext_lazy("Rate"), css="num hide-s", title=gettext_lazy("Items per second over the last ten to twenty seconds")),
        Column("eta", gettext_lazy("Time left"), css="num hide-m"),
        Column("by", gettext_lazy("Started by"), sort=("started_by__username", "id"), css="hide-m", value="starter_name"),
        Column("created", gettext_lazy("Started"), sort=("id",), css="num", value="created_at"),
    ]
    search_fields = ("title", "kind", "started_by__username", "reason")
    default_sort = "-created"
    views = [
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
        View("open", gettext_lazy("Not finished"), lambda rows, _request: rows.unfinished(), tone="warm"),
        View("mine", gettext_lazy("Mine"), lambda rows, request: rows.filter(started_by=request.user.pk)),
        View(
            "failed", gettext_lazy("With failures"), lambda rows, _request: rows.filter(state__in=[State.PARTIAL, State.FAILED]), tone="hot"
        ),
    ]
    filters = [
        Filter("status", gettext_lazy("Status"), lambda _request: State.choices, lambda rows, value: rows.in_state(value)),
        Filter("kind", gettext_lazy("Kind"), _kinds, lambda rows, value: rows.filter(kind=value)),
    ]

    def annotated(self, queryset: QuerySet[Operation, Operation]) -> QuerySet[Operation, Operation]:
        """With who started it."""
        return queryset.select_related("started_by")

    def context(self) -> dict[str, Any]:
        """Where the list hears of news."""
        return {"live": reverse("admin:operations_news")}


def load(request: HttpRequest, uid: Any, action: str = "view") -> Operation:
    """The operation of an address, if the person may view or change it."""
    return get(Operation.objects.restrict(request.user, action).select_related("started_by"), uid=uid)


def actions(request: HttpRequest, operation: Operation) -> list[Action]:
    """The buttons; those that make no sense in its state are left out."""
    may = Operation.objects.restrict(request.user, "change").filter(pk=operation.pk).exists()
    why: Any = "" if may else NOT_ALLOWED
    if not why and operation.wanted:
        why = _("It is being done: {what}.").format(what=Wanted(operation.wanted).label)

    def url(page: str) -> str:
        return reverse(f"admin:operations_{page}", args=[operation.uid])

    buttons: list[Action] = []
    if operation.state in {State.PARTIAL, State.FAILED} and operation.failed:
        buttons.append(Action(_("Retry failed"), url("retry"), "refresh", "primary", why=why))
    if operation.state == State.PAUSED:
        buttons.append(Action(_("Resume"), url("resume"), "play", "primary", why=why))
    if operation.state in {State.QUEUED, State.RUNNING}:
        buttons.append(Action(_("Pause"), url("pause"), "pause", why=why))
    if operation.state in OPEN:
        buttons.append(Action(_("Cancel"), url("cancel"), "stop", "danger", why=why))
    return buttons


def live(request: HttpRequest, operation: Operation) -> dict[str, Any]:
    """What the living parts of the page show."""
    total = operation.total
    return {
        "operation": operation,
        "steps": [step for step in operation.steps.all() if step.total],  # a part of which there is nothing was left out
        "actions": actions(request, operation),
        "percent": round(100 * (operation.done + operation.failed) / total, 1) if total else 100.0 * bool(operation.finished_at),
        "good": round(100 * operation.done / total, 2) if total else 0,
        "bad": round(100 * operation.failed / total, 2) if total else 0,
    }


class Detail(Page):
    """One operation: how far it is, its steps, what failed and why."""

    permission = "operations.view_operation"
    here = "operations"
    template_name = "operations/detail.html"

    def get(self, request: HttpRequest, uid: Any) -> HttpResponse:
        """Failed items are the ones that somebody looks for, so they are shown first."""
        operation = load(request, uid)
        state = request.GET.get("state", "")
        if state not in {*ItemState.values, "all"}:
            state = ItemState.FAILED if operation.failed else "all"
        items = OperationItem.objects.filter(operation=operation).order_by("index")
        if state != "all":
            items = items.filter(state=state)
        after = request.GET.get("after", "")
        if after.isascii() and after.isdigit() and len(after) <= 9:
            items = items.filter(index__gt=int(after))
        found = list(items[: ROWS + 1])
        tabs = [
            (ItemState.FAILED, _("Failed"), operation.failed, "hot"),
            (ItemState.PENDING, _("To do"), operation.left, ""),
            (ItemState.DONE, _("Done"), operation.done, ""),
            (ItemState.SKIPPED, _("Skipped"), operation.skipped, ""),
            ("all", _("All"), operation.total, ""),
        ]
        return self.show(
            {
                "title": operation.title,
                "crumbs": [(_("Operations"), reverse("admin:operations_list"))],
                **live(request, operation),
                "rows": found[:ROWS],
                "next": found[ROWS - 1].index if len(found) > ROWS else None,
                "first_page": not after,
                "item_state": state,
                "tabs": [
                    {"key": key, "label": label, "count": count, "tone": tone, "on": key == state} for key, label, count, tone in tabs
                ],
            }
        )


class Part(Page):
    """The living parts alone: for a browser that polls."""

    permission = "operations.view_operation"

    def get(self, request: HttpRequest, uid: Any) -> HttpResponseBase:
        """As the stream sends them."""
        response = HttpResponse(_parts(request, load(request, uid)))
        response["Cache-Control"] = "no-store"
        return response


class Events(Page):
    """The living parts whenever they are different."""

    permission = "operations.view_operation"

    def get(self, request: HttpRequest, uid: Any) -> HttpResponseBase:
        """An event stream."""
        operation = load(request, uid)

        def look() -> tuple[str, bool]:
            seen = Operation.objects.restrict(request.user).select_related("started_by").filter(pk=operation.pk).first()
            return ("", True) if seen is None else (_parts(request, seen), seen.state not in OPEN)

        return streams.stream(look)


class News(Page):
    """That something in the list is different: which rows the list shows, it reads itself."""

    permission = "operations.view_operation"

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """An event stream."""

        def look() -> tuple[str, bool]:
            rows = Operation.objects.restrict(request.user).order_by("-id")[:200]
            return json.dumps([[row.pk, row.shown_state, row.wanted, row.settled] for row in rows]), False

        return streams.stream(look)


def _parts(request: HttpRequest, operation: Operation) -> str:
    return render_to_string("operations/_live.html", live(request, operation), request=request)


class Verb(FormPage):
    """Pause, resume, cancel or retry, after a page that says what it means."""

    permission = "operations.change_operation"
    here = "operations"
    template_name = "operations/action.html"
    form_class = OptionalReasonForm
    states: ClassVar[tuple[State, ...]] = ()
    meaning: Any = ""
    said: Any = ""

    def context(self) -> dict[str, Any]:
        """The operation beside the form."""
        operation = load(self.request, self.kwargs["uid"], "change")
        return {
            "crumbs": [
                (_("Operations"), reverse("admin:operations_list")),
                (operation.title, reverse("admin:operations_detail", args=[operation.uid])),
            ],
            "back": reverse("admin:operations_detail", args=[operation.uid]),
            "meaning": self.meaning,
            **live(self.request, operation),
        }

    def check(self) -> None:
        """Refuse what does not fit its state before a reason is written."""
        operation = load(self.request, self.kwargs["uid"], "change")
        if operation.state not in self.states:
            raise services.wrong_state(operation, type(self).__name__.lower(), self.states)

    def perform(self, form: Any) -> str:
        """Call the service."""
        operation = load(self.request, self.kwargs["uid"], "change")
        self.run(operation, form.cleaned_data["reason"])
        return reverse("admin:operations_detail", args=[operation.uid])

    def run(self, operation: Operation, reason: str) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return self.said


class Pause(Verb):
    """Take no more items on."""

    title = gettext_lazy("Pause this operation")
    submit_label = gettext_lazy("Pause")
    states = (State.QUEUED, State.RUNNING)
    meaning = gettext_lazy("What is in hand is finished, nothing more is begun. It can be resumed.")
    said = gettext_lazy("It pauses as soon as nothing is in hand.")

    def run(self, operation: Operation, reason: str) -> None:
        """Pause."""
        services.pause(actor=person(self.request), operation=operation, reason=reason)


class Resume(Verb):
    """Go on."""

    title = gettext_lazy("Resume this operation")
    submit_label = gettext_lazy("Resume")
    tone = "primary"
    states = (State.PAUSED,)
    meaning = gettext_lazy("It goes on with what is left, in the name of the person who started it.")
    said = gettext_lazy("It goes on.")

    def run(self, operation: Operation, reason: str) -> None:
        """Resume."""
        services.resume(actor=person(self.request), operation=operation, reason=reason)


class Cancel(Verb):
    """End it."""

    title = gettext_lazy("Cancel this operation")
    submit_label = gettext_lazy("Cancel the operation")
    tone = "danger solid"
    states = OPEN
    meaning = gettext_lazy("What is done stays done, what is left is skipped. It cannot be resumed afterwards.")
    said = gettext_lazy("It ends as soon as nothing is in hand.")

    def run(self, operation: Operation, reason: str) -> None:
        """Cancel."""
        services.cancel(actor=person(self.request), operation=operation, reason=reason)


class Retry(Verb):
    """Do again what failed."""

    title = gettext_lazy("Retry what failed")
    submit_label = gettext_lazy("Retry failed")
    tone = "primary"
    states = (State.PARTIAL, State.FAILED)
    meaning = gettext_lazy("Only what failed is tried again; what is done is left alone.")
    said = gettext_lazy("What failed is tried again.")

    def run(self, operation: Operation, reason: str) -> None:
        """Retry."""
        services.retry_failed(actor=person(self.request), operation=operation, reason=reason)


urlpatterns = [
    *bulk_patterns,
    path("operations/", Operations.as_view(), name="operations_list"),
    path("operations/news/", News.as_view(), name="operations_news"),
    path("operations/<uuid:uid>/", Detail.as_view(), name="operations_detail"),
    path("operations/<uuid:uid>/part/", Part.as_view(), name="operations_part"),
    path("operations/<uuid:uid>/events/", Events.as_view(), name="operations_events"),
    path("operations/<uuid:uid>/pause/", Pause.as_view(), name="operations_pause"),
    path("operations/<uuid:uid>/resume/", Resume.as_view(), name="operations_resume"),
    path("operations/<uuid:uid>/cancel/", Cancel.as_view(), name="operations_cancel"),
    path("operations/<uuid:uid>/retry/", Retry.as_view(), name="operations_retry"),
]
