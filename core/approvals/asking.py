"""The page on which somebody asks for something, or edits what they asked for: a room derives it for its kinds."""

from typing import Any, ClassVar

from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from core.approvals import kinds, policies, workflow
from core.approvals.models import Request, Standing
from core.console.pages import FormPage, attach, get, person
from core.errors import Problem


class AskPage(FormPage):
    """Ask for `kind` about the thing of the address; with ?request=N edit that request.

    A room gives `payload(form)`, `now()` (the target's values) and `thing()`; the button “preview” says what would happen.
    """

    kind: ClassVar[str] = ""
    template_name = "approvals/ask.html"
    own_choices: ClassVar[tuple[str, ...]] = ()

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._edited: Request | None = None
        self.preview: dict[str, Any] | None = None

    @property
    def edited(self) -> Request | None:
        """The request that is edited, if one is; somebody else's does not exist here."""
        number = self.request.GET.get("request", "")
        if self._edited is None and number:
            if not (number.isascii() and number.isdigit() and len(number) < 19):
                number = "0"
            own = Request.objects.filter(kind=self.kind, target=self.target, requested_by=self.request.user.pk)
            self._edited = get(own, pk=number)
        return self._edited

    @property
    def target(self) -> str:
        """The name of the thing."""
        return str(self.kwargs["name"])

    def versioned(self) -> Any:
        """The request that is edited, else the thing itself."""
        return self.edited or self.thing()

    def thing(self) -> Any:
        """The thing of the address."""
        raise NotImplementedError

    def now(self) -> dict[str, Any]:
        """Its present values by the payload's names."""
        return {}

    def initial(self) -> dict[str, Any]:
        """As it is, with what is asked for already."""
        return {**self.now(), **(self.edited.payload if self.edited else {}), "reason": self.edited.reason if self.edited else ""}

    def payload(self, form: Any) -> dict[str, Any]:  # noqa: ARG002
        """What is asked for: everything that differs from now."""
        return {}

    def wanted(self, form: Any) -> dict[str, Any]:
        """The payload; when a request is edited, what is as it is now is taken back from it."""
        values, now = self.payload(form), self.now()
        asked = {key: value for key, value in values.items() if value != now.get(key)}
        if self.edited:
            asked |= {key: None for key in self.edited.payload if key not in asked}
        return asked

    def check(self) -> None:
        """A decided request is not edited."""
        if self.edited and self.edited.state not in workflow.OPEN:
            raise Problem(
                "wrong_state", _("This cannot be done: it is {state}.").format(state=Standing(self.edited.state).label), status=409
            )
        if not self.edited:
            waiting = Request.objects.pending().filter(kind=self.kind, target=self.target).first()
            if waiting:
                self.waiting = waiting

    waiting: Request | None = None

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Ask, or with the button “preview” only say what would happen."""
        if "preview" not in request.POST:
            return super().post(request, *args, **kwargs)
        form = self.narrowed(self.form_class(request.POST, initial=self.initial(), **self.form_arguments()))
        if form.is_valid():
            try:
                asked = {key: value for key, value in self.payload(form).items() if value != self.now().get(key)}
                found = policies.preview(actor=person(request), kind=self.kind, target=self.target, payload=asked, request=self.edited)
                self.preview = {"policy": found}
            except Problem as problem:
                attach(form, problem)
        return self.page(form)

    def context(self) -> dict[str, Any]:
        """What is asked for already, and what a preview found."""
        return {"edited": self.edited, "waiting": self.waiting, "preview": self.preview}

    def perform(self, form: Any) -> str:
        """Submit or edit."""
        actor, reason = person(self.request), form.cleaned_data["reason"]
        kinds.get(self.kind).look_up(self.wanted(form))
        if self.edited:
            made = workflow.edit(actor=actor, request=self.edited, payload=self.wanted(form), reason=reason, version=self.edited.version)
        else:
            made = workflow.submit(actor=actor, kind=self.kind, target=self.target, payload=self.wanted(form), reason=reason)
        self.made = made
        return reverse("admin:request_detail", args=[made.pk])

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """What comes next."""
        if self.made.state == Standing.APPROVED:
            return _("{number} is approved by the policy “{policy}” and done.").format(number=self.made, policy=self.made.policy)
        return _("{number} waits for another person's decision.").format(number=self.made)
