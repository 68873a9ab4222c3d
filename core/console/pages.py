"""Bases of the console's pages: permission, the frame's context, refusals as pages, forms that run a service.

A room's `console.py` has `urlpatterns` (relative to /admin/, names `<room>_<page>` without the namespace), which
`mqadmin.site.OpsAdminSite` mounts behind the login. Its pages derive from `Page`, `FormPage`, or `lists.ListPage`:

    class Detail(Page):
        permission = "topics.view_topic"      # refused with 403 otherwise
        here = "topics"                       # the sidebar's entry
        template_name = "topics/detail.html"  # extends console/base.html

        def get(self, request, name):
            topic = get(Topic.objects.all(), name=name)     # 404 as a page; NUL-safe
            return self.show({"title": topic.name, "crumbs": [(_("Topics"), reverse("admin:topics_list"))], "topic": topic})

A `Problem` that a service raises becomes a page with its hint (GET) or stands in the form at the field that its pointer
names (FormPage); it is never a 500. Add messages with `django.contrib.messages as flash`; never name a context key `messages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from django import forms
from django.contrib import admin
from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.http.response import HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.views import View

from core.api.problems import to_problem
from core.console import versions
from core.errors import FieldError, Problem
from core.retrying import is_deadlock

if TYPE_CHECKING:
    from accounts.models import User

Thing = TypeVar("Thing", bound=Model)


def person(request: HttpRequest) -> User:
    """The signed-in person; pages are behind the login."""
    return cast("User", request.user)


def get(queryset: QuerySet[Thing, Thing], **lookup: Any) -> Thing:
    """One row, or the page “there is no such thing”; a NUL in the address is no such thing either."""
    if any("\x00" in str(value) for value in lookup.values()):
        raise Http404
    found = queryset.filter(**lookup).first()
    if found is None:
        kind = queryset.model._meta.verbose_name  # noqa: SLF001 - Django's public API
        raise Http404(_("There is no {kind} “{name}”.").format(kind=kind, name=" ".join(str(value) for value in lookup.values())))
    return found


class Page(View):
    """A page of the console; `permission` (app.codename) is needed to see it."""

    permission: ClassVar[str] = ""
    template_name: ClassVar[str] = ""
    title: Any = ""
    here: ClassVar[str] = ""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Check the permission; turn refusals into pages."""
        try:
            if self.permission and not request.user.has_perm(self.permission):
                raise PermissionDenied  # noqa: TRY301 - one way out for every refusal
            return super().dispatch(request, *args, **kwargs)
        except Problem as problem:
            return self.refused(problem)
        except OperationalError as error:
            if not is_deadlock(error):
                raise
            return self.refused(to_problem(error))
        except PermissionDenied:
            permission = self.permission or _("to see any of it")
            return self.refused(
                Problem(
                    "forbidden",
                    _("You may not see or do this."),
                    status=403,
                    hint=_("It needs the permission {permission}. An administrator can grant it.").format(permission=permission),
                )
            )
        except Http404 as missing:
            return self.refused(
                Problem(
                    "not_found",
                    str(missing) or _("There is no such page."),
                    status=404,
                    hint=_("Check the address, or search with Ctrl-K."),
                )
            )

    def show(self, context: dict[str, Any], *, status: int = 200, template: str = "") -> TemplateResponse:
        """Render the page in the console's frame."""
        frame = {**admin.site.each_context(self.request), "title": self.title, "here": self.here, "crumbs": [], "age": 0}
        response = TemplateResponse(self.request, template or self.template_name, {**frame, **context}, status=status)
        response["Cache-Control"] = "no-store"  # Back shows how it is now, and a shared computer keeps nothing
        return response

    def refused(self, problem: Problem) -> HttpResponseBase:
        """A problem as a page of its own."""
        return self.show(
            {"title": _("Not possible"), "problem": problem, "age": None}, status=problem.status, template="console/refused.html"
        ).render()


class ConsoleForm(forms.Form):
    """A form of the console: no colon after labels, HTML's own checks left to the server so that both say the same."""

    use_required_attribute = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)


class ReasonForm(ConsoleForm):
    """A decision that says why."""

    reason = forms.CharField(max_length=2000, widget=forms.Textarea(attrs={"rows": 3, "data-reason": True}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].label = _("Reason, kept in the audit")


class OptionalReasonForm(ReasonForm):
    """A decision that may say why."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = False
        self.fields["reason"].label = _("Remark, kept in the audit (optional)")


class ApprovalForm(OptionalReasonForm):
    """An approval, of the version that the page showed."""

    version = forms.IntegerField(required=False, widget=forms.HiddenInput)


class TypedNameForm(ReasonForm):
    """A dangerous decision: the name is typed, and a reason given. Hand the name over as `expected`."""

    confirm_name = forms.CharField(
        max_length=250, strip=True, widget=forms.TextInput(attrs={"data-name": True, "autocomplete": "off", "spellcheck": "false"})
    )

    def __init__(self, *args: Any, expected: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.expected = expected
        self.fields["confirm_name"].label = _("Type {name}").format(name=expected)

    def clean_confirm_name(self) -> str:
        """The browser checks it too, but only this counts."""
        if self.cleaned_data["confirm_name"] != self.expected:
            raise forms.ValidationError(_("This is not the name."))
        return self.expected


def attach(form: forms.BaseForm, problem: Problem) -> None:
    """Put a problem into a form: at the fields that its pointers name, the rest above the form with its hint."""
    placed = False
    for error in problem.errors:
        placed = _attach_one(form, error) or placed
    if not placed:
        form.add_error(None, str(problem.detail))
    form.problem = problem  # type: ignore[attr-defined]


def _attach_one(form: forms.BaseForm, error: FieldError) -> bool:
    own = getattr(form, "attach_error", None)  # a form with rows knows where they are
    if own is not None and own(error):
        return True
    name = error.pointer.strip("/").split("/")[0]
    if name in form.fields and not form.fields[name].widget.is_hidden:
        form.add_error(name, error.detail)
        return True
    return False


class FormPage(Page):
    """A page with one form that runs one service; POST only, then a redirect.

    Give `form_class`, `submit_label`, `tone`, and `perform(form)`, which calls the service and returns the address to go to;
    a `Problem` from it is shown in the form. `versioned()` names the row that the form
    was filled in against. `context()` adds what stands beside the form; `check()` may raise before it is shown.
    """

    template_name = "console/form.html"
    form_class: ClassVar[type[forms.BaseForm]]
    submit_label: Any = ""
    tone: ClassVar[str] = "primary"
    http_method_names = ["get", "post", "head", "options"]
    own_choices: ClassVar[tuple[str, ...]] = ("application",)  # fields that offer only what is within the person's reach

    def narrowed(self, form: Any) -> Any:
        """The choices of `own_choices` cut down to those with which the person may do this."""
        for name in self.own_choices:
            rows = getattr(form.fields.get(name), "queryset", None)
            if rows is not None and hasattr(rows, "restrict") and self.permission:
                form.fields[name].queryset = rows.restrict(self.request.user, self.permission)
        return form

    def initial(self) -> dict[str, Any]:
        """What the form begins with."""
        return {}

    def form_arguments(self) -> dict[str, Any]:
        """Further arguments of the form's class."""
        return {}

    def check(self) -> None:
        """Raise a Problem if the form makes no sense now."""

    def versioned(self) -> Model | None:
        """The row that the form changes, the same object each time: who sends the form is told if it is no longer what they saw."""
        return None

    def context(self) -> dict[str, Any]:
        """What the template needs besides the form."""
        return {}

    def perform(self, form: Any) -> str:
        """Call the service; return where to go."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:
        """What is said afterwards."""
        raise NotImplementedError

    def get(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:  # noqa: ARG002
        """Show the empty form."""
        self.check()
        return self.page(self.narrowed(self.form_class(initial=self.initial(), **self.form_arguments())))

    def post(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
        """Run the service, or show what is wrong."""
        form = self.narrowed(self.form_class(request.POST, initial=self.initial(), **self.form_arguments()))
        if not form.is_valid():
            return self.page(form)
        try:
            if (thing := self.versioned()) is not None:
                versions.check(thing, request.POST.get("seen", ""))
            url = self.perform(form)
        except Problem as problem:
            attach(form, problem)
            return self.page(form)
        except OperationalError as error:
            if not is_deadlock(error):
                raise
            attach(form, to_problem(error))
            return self.page(form)
        said = self.success(form)
        if said:
            flash.success(request, said)
        return HttpResponseRedirect(url)

    def page(self, form: Any) -> TemplateResponse:
        """The form with its problem, if there is one."""
        problem, thing = getattr(form, "problem", None), self.versioned()
        seen = self.request.POST.get("seen", "")
        if thing is not None and (not seen or (problem is not None and problem.code == "state_changed")):
            if problem is not None:
                thing.refresh_from_db()
            seen = versions.token(thing)  # from here on the change counts as seen
            if "version" in form.fields and form.is_bound:
                form.data = {**form.data.dict(), "version": str(getattr(thing, "version", ""))}
        return self.show(
            {
                "form": form,
                "problem": problem,
                "seen": seen if thing is not None else "",
                "submit_label": self.submit_label,
                "tone": self.tone,
                "age": None,
                **self.context(),
            }
        )
