"""Requests in the console: the list, a request with its difference and thread, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.approvals import console_policies, console_targets, kinds, showing, workflow
from core.approvals.bulk import why_not
from core.approvals.models import Request, Standing
from core.console import slots
from core.console.actions import Action
from core.console.lists import BulkAction, Filter, ListPage, View, names_in
from core.console.pages import ApprovalForm, ConsoleForm, FormPage, OptionalReasonForm, ReasonForm, get, person
from core.console.slots import Column

STANDINGS = {"pending": "pending", "approved": "succeeded", "declined": "rejected", "withdrawn": "cancelled"}


@dataclass(frozen=True)
class Extra:
    """What a kind adds to the console: the approver's form, a picture beside it, and the page on which the requester edits."""

    form: type[ApprovalForm] = ApprovalForm
    values: Callable[[Any], dict[str, Any]] = lambda _form: {}
    initial: Callable[[Request], dict[str, Any]] = lambda _request: {}
    picture: Callable[[HttpRequest, Request], str] = lambda _http, _request: ""
    edit: Callable[[Request], str] = lambda _request: ""


_extras: dict[str, Extra] = {}


def dress(kind: str, item: Extra) -> None:
    """Say what a kind adds; rooms do it in their console modules."""
    _extras[kind] = item


def extra_of(request: Request) -> Extra:
    """What the kind of a request adds."""
    return _extras.get(request.kind, Extra())


def _kinds(_request: HttpRequest) -> list[tuple[str, Any]]:
    return kinds.choices()


def _applications(request: HttpRequest) -> list[tuple[str, str]]:
    return names_in(Request.objects.restrict(request.user), "application", "name")


def _decidable(user: Any) -> Q:
    """Pending requests of kinds that this person may decide, but not their own."""
    mine = [kind.name for kind in kinds.every() if user.has_perm(kind.decide)]
    return Q(state=Standing.PENDING, kind__in=mine) & ~Q(requested_by=user.pk)


class Requests(ListPage[Request]):
    """All requests that somebody may see."""

    permission = "approvals.view_request"
    here = "requests"
    title = gettext_lazy("Requests")
    model = Request
    template_name = "approvals/list.html"
    columns = [
        Column("number", gettext_lazy("Number"), sort=("-pk",), value="pk"),
        Column("target", gettext_lazy("Name"), sort=("target", "pk"), value="target"),
        Column("kind", gettext_lazy("Kind"), sort=("kind", "pk"), value="kind"),
        Column("status", gettext_lazy("Status"), sort=("state", "pk"), value="get_state_display"),
        Column("application", gettext_lazy("Application"), sort=("application__name", "pk"), css="hide-m", value="application.name"),
        Column("requested_by", gettext_lazy("Requested by"), sort=("requested_by__username", "pk"), value="requested_by.username"),
        Column("age", gettext_lazy("Waits"), sort=("requested_at", "pk"), css="num", value="requested_at"),
        Column("asks", gettext_lazy("Asks for"), css="max", value=showing.summary),
        Column("decided_by", gettext_lazy("Decided by"), css="hide-m", value="decided_by.username"),
    ]
    search_fields = ("target", "requested_by__username", "application__name", "reason")
    default_sort = "age"
    bulk = "requests"
    bulk_actions = [
        BulkAction("approve", gettext_lazy("Approve"), permission="topics.approve_topic", tone="primary"),
        BulkAction("decline", gettext_lazy("Decline"), permission="topics.approve_topic"),
    ]
    views = [
        View("todo", gettext_lazy("To decide"), lambda rows, request: rows.filter(_decidable(request.user)), tone="warm"),
        View(
            "mine",
            gettext_lazy("Mine"),
            lambda rows, request: rows.filter(Q(requested_by=request.user.pk) | Q(owner=request.user.pk)).exclude(state=Standing.WITHDRAWN),
        ),
        View("pending", gettext_lazy("Waiting"), lambda rows, _request: rows.filter(state=Standing.PENDING)),
        View("declined", gettext_lazy("Declined"), lambda rows, _request: rows.filter(state=Standing.DECLINED)),
        View("decided", gettext_lazy("Decided"), lambda rows, _request: rows.exclude(state=Standing.PENDING)),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]
    filters = [
        Filter("kind", gettext_lazy("Kind"), _kinds, lambda rows, value: rows.filter(kind=value)),
        Filter("application", gettext_lazy("Application"), _applications, lambda rows, value: rows.filter(application__name=value)),
        Filter(
            "overdue",
            gettext_lazy("Overdue"),
            lambda _request: [("yes", gettext_lazy("Yes"))],
            lambda rows, _value: rows.filter(pk__in=Request.objects.overdue().values("pk")),
        ),
    ]

    def annotated(self, queryset: QuerySet[Request, Request]) -> QuerySet[Request, Request]:
        """Joins."""
        return queryset.select_related("application", "requested_by", "decided_by")

    def decorate(self, rows: list[Request]) -> None:
        """What is asked for, in one line."""
        for row in rows:
            row.shown = showing.summary(row)  # type: ignore[attr-defined]
            row.what = kinds.of(row)  # type: ignore[attr-defined]
            row.pill = STANDINGS[row.state]  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """What else there is."""
        user = self.request.user
        links = [
            Action(_("Policies"), reverse("admin:policies"), "flag") if user.has_perm("approvals.view_policy") else None,
            Action(_("Notifications"), reverse("admin:notification_targets"), "send")
            if user.has_perm("approvals.view_notificationtarget")
            else None,
        ]
        return {"links": [link for link in links if link], "may_apply": user.has_perm("topics.add_topic")}


def load(user: Any, number: str) -> Request:
    """A request that somebody may see."""
    rows = Request.objects.restrict(user).select_related("application", "owner", "requested_by", "decided_by")
    # An address holds anything; what is no number of a request is no request.
    return get(rows, pk=number if number.isascii() and number.isdigit() and len(number) < 19 else 0)


def _buttons(user: Any, request: Request, *, stale: bool) -> list[Action]:
    def url(page: str) -> str:
        return reverse(f"admin:request_{page}", args=[request.pk])

    own = request.requested_by_id == user.pk
    why_edit = "" if own else _("Only the person who applied edits the request.")
    buttons = []
    if request.state in workflow.OPEN:
        edit = extra_of(request).edit(request)
        if edit:
            buttons.append(Action(_("Edit"), edit, "edit", why=why_edit))
        if stale:
            buttons.append(Action(_("Base it on the present state"), url("rebase"), "refresh", why=why_edit))
        if request.state == Standing.DECLINED:
            buttons.append(Action(_("Send again"), url("resubmit"), "send", "primary", why=why_edit))
        withdraw = why_edit if request.state == Standing.PENDING or not user.has_perm(kinds.of(request).decide) else ""
        buttons.append(Action(_("Withdraw"), url("withdraw"), "undo", why=withdraw))
    if request.state == Standing.PENDING:
        why = why_not(user, request)
        buttons.append(Action(_("Decline"), url("decline"), "close", "danger", why=why))
        stopped = why or (_("What it changes was changed since; the person who asked looks at it again first.") if stale else "")
        buttons.append(Action(_("Approve"), url("approve"), "check", "primary", why=stopped))
    return buttons


def describe(http: HttpRequest, request: Request) -> dict[str, Any]:
    """What every page of a request shows."""
    what = kinds.of(request)
    return {
        "asked": request,
        "what": what,
        "pill": STANDINGS[request.state],
        "target_url": what.url(request),
        "differences": showing.differences(request),
        "is_change": request.base_version is not None,
        "picture": extra_of(request).picture(http, request) if request.state == Standing.PENDING else "",
        "crumbs": [(_("Requests"), reverse("admin:requests"))],
    }


class CommentForm(ConsoleForm):
    """Something to say."""

    text = forms.CharField(max_length=4000, label=gettext_lazy("Comment"), widget=forms.Textarea(attrs={"rows": 3}))


class Detail(FormPage):
    """A request: what it asks for, who decides, what was said."""

    permission = "approvals.view_request"
    here = "requests"
    template_name = "approvals/detail.html"
    form_class = CommentForm
    submit_label = gettext_lazy("Comment")

    def asked(self) -> Request:
        """The request of the address."""
        return load(self.request.user, self.kwargs["number"])

    def context(self) -> dict[str, Any]:
        """All of it."""
        request, user = self.asked(), person(self.request)
        what = kinds.of(request)
        stale = workflow.is_stale(request)
        now = what.current(request) if stale else None
        return {
            **describe(self.request, request),
            "title": f"{request} · {request.target}",
            "actions": _buttons(user, request, stale=stale),
            "stale": stale,
            "present": [(row["label"], showing.text(now[1].get(row["field"]), "")) for row in what.diff(request)] if now else [],
            "thread": request.comments.select_related("author"),
            "may_comment": user.has_perm(what.ask) or user.has_perm(what.decide),
            "age": 0,
        }

    def perform(self, form: CommentForm) -> str:
        """Say it."""
        request = self.asked()
        workflow.comment(actor=person(self.request), request=request, text=form.cleaned_data["text"])
        return reverse("admin:request_detail", args=[request.pk])

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """It stands in the thread."""
        return ""


class RequestAction(FormPage):
    """A page that does one thing with one request."""

    permission = "approvals.view_request"
    here = "requests"
    template_name = "approvals/action.html"
    said: ClassVar[Any] = ""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._asked: Request | None = None

    @property
    def asked(self) -> Request:
        """The request of the address."""
        if self._asked is None:
            self._asked = load(self.request.user, self.kwargs["number"])
        return self._asked

    def versioned(self) -> Request:
        """What the page showed."""
        return self.asked

    def context(self) -> dict[str, Any]:
        """The request beside the form."""
        back = reverse("admin:request_detail", args=[self.asked.pk])
        shown = describe(self.request, self.asked)
        shown["crumbs"] = [*shown["crumbs"], (f"{self.asked} {self.asked.target}", back)]
        return {**shown, "title": str(self.title).format(number=self.asked, name=self.asked.target), "back": back}

    def perform(self, form: Any) -> str:
        """Run the verb, then show the request."""
        self.run(form)
        return reverse("admin:request_detail", args=[self.asked.pk])

    def run(self, form: Any) -> None:
        """The verb."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return str(self.said).format(number=self.asked, name=self.asked.target)


class Approve(RequestAction):
    """Approve and apply."""

    title = gettext_lazy("Approve {number} {name}")
    submit_label = gettext_lazy("Approve")
    said = gettext_lazy("{number} is approved and done.")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """The form of the kind."""
        self._choose()
        return super().get(request, *args, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """With the kind's form; what it warns of is accepted with a box that appears then."""
        self._choose()
        return super().post(request, *args, **kwargs)

    def _choose(self) -> None:
        self.form_class = extra_of(self.asked).form  # type: ignore[misc]

    def initial(self) -> dict[str, Any]:
        """What is approved is what the page shows."""
        return {"version": self.asked.version, **extra_of(self.asked).initial(self.asked)}

    def context(self) -> dict[str, Any]:
        """What is to be accepted expressly."""
        return {**super().context(), "accepting": True}

    def run(self, form: Any) -> None:
        """Approve what was shown."""
        workflow.approve(
            actor=person(self.request),
            request=self.asked,
            version=form.cleaned_data["version"] or self.asked.version,
            reason=form.cleaned_data["reason"],
            values=extra_of(self.asked).values(form),
            accept_warnings=self.request.POST.get("accept_warnings") == "on",
        )


class Decline(RequestAction):
    """Decline with a reason."""

    title = gettext_lazy("Decline {number} {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Decline")
    tone = "danger solid"
    said = gettext_lazy("{number} is declined; the person who asked can edit it and send it again.")

    def run(self, form: ReasonForm) -> None:
        """Decline."""
        reason = form.cleaned_data["reason"]
        workflow.decline(actor=person(self.request), request=self.asked, reason=reason, version=self.asked.version)


class Withdraw(RequestAction):
    """Take it back."""

    title = gettext_lazy("Withdraw {number} {name}")
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Withdraw")
    said = gettext_lazy("{number} is withdrawn.")

    def run(self, form: OptionalReasonForm) -> None:
        """Withdraw."""
        reason = form.cleaned_data["reason"]
        workflow.withdraw(actor=person(self.request), request=self.asked, reason=reason, version=self.asked.version)


class Resubmit(RequestAction):
    """Send a declined request again."""

    title = gettext_lazy("Send {number} {name} again")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Send again")
    said = gettext_lazy("{number} waits for a decision again.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Back to pending."""
        workflow.resubmit(actor=person(self.request), request=self.asked, version=self.asked.version)


class Rebase(RequestAction):
    """Base a change on what its target is now."""

    title = gettext_lazy("Base {number} {name} on the present state")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Still ask for this")
    said = gettext_lazy("{number} is based on the present state and can be decided.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """The same ask, looked at anew."""
        workflow.edit(actor=person(self.request), request=self.asked, version=self.asked.version)


def requests_of(user: Any, subject: str, name: str, limit: int = 5) -> list[Request]:
    """The requests about one thing that somebody may see, newest first."""
    mine = [kind.name for kind in kinds.every() if kind.subject == subject]
    rows = list(
        Request.objects.restrict(user)
        .filter(target=name, kind__in=mine)
        .select_related("requested_by", "decided_by")
        .order_by("-pk")[:limit]
    )
    for row in rows:
        row.shown, row.what, row.pill = showing.summary(row), kinds.of(row), STANDINGS[row.state]  # type: ignore[attr-defined]
    return rows


def _find(user: Any, words: str) -> list[slots.Hit]:
    number = words.strip().lstrip("#")
    if not user.has_perm("approvals.view_request") or not (number.isascii() and number.isdigit() and len(number) < 18):
        return []
    rows = Request.objects.restrict(user).filter(pk=number)
    return [
        slots.Hit("request", f"{row} {row.target}", kinds.of(row).label, reverse("admin:request_detail", args=[row.pk])) for row in rows
    ]


def _panel(subject: str) -> Callable[[HttpRequest, Any], str]:
    """The newest requests about a thing, on its page."""

    def draw(http: HttpRequest, thing: Any) -> str:
        found = requests_of(http.user, subject, thing.name) if http.user.has_perm("approvals.view_request") else []
        return render_to_string("approvals/_of_thing.html", {"requests": found}) if found else ""

    return draw


slots.search(_find)
slots.panel("topic", _panel("topic"))
slots.panel("group", _panel("consumer group"))


urlpatterns = [
    path("requests/", Requests.as_view(), name="requests"),
    path("requests/<str:number>/", Detail.as_view(), name="request_detail"),
    path("requests/<str:number>/approve/", Approve.as_view(), name="request_approve"),
    path("requests/<str:number>/decline/", Decline.as_view(), name="request_decline"),
    path("requests/<str:number>/withdraw/", Withdraw.as_view(), name="request_withdraw"),
    path("requests/<str:number>/resubmit/", Resubmit.as_view(), name="request_resubmit"),
    path("requests/<str:number>/rebase/", Rebase.as_view(), name="request_rebase"),
    *console_policies.urlpatterns,
    *console_targets.urlpatterns,
]
