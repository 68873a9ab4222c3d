"""A message sent by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Kind
from core.approvals.models import State
from core.console.pages import ConsoleForm, FormPage, person
from core.tags import spelt
from messages import operating, reading, scope
from messages.api.wire import invalid
from messages.console.browsing import load
from messages.types import Accepted, NewMessage
from topics.models import Topic

MAX_SECONDS = 3650 * 86_400


class SendForm(ConsoleForm):
    """What its values may be is the store's business; here are the types."""

    topic = forms.ModelChoiceField(
        Topic.objects.filter(state=State.ACTIVE, cluster__kind=Kind.BUILTIN).order_by("name"),
        to_field_name="name",
        label=gettext_lazy("Topic"),
        help_text=gettext_lazy("Active topics of the built-in store."),
    )
    body = forms.CharField(
        label=gettext_lazy("Body"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10, "class": "mono", "spellcheck": "false"}),
    )
    key = forms.CharField(
        label=gettext_lazy("Key"),
        required=False,
        max_length=255,
        help_text=gettext_lazy("For finding it again, for example the number of the order."),
    )
    tag = forms.CharField(
        label=gettext_lazy("Tag"),
        required=False,
        max_length=500,
        help_text=gettext_lazy("Groups subscribe to tags; several: paid || urgent."),
    )
    sharding_key = forms.CharField(
        label=gettext_lazy("Sharding key"),
        required=False,
        max_length=255,
        help_text=gettext_lazy("On an ordered topic messages with the same one keep their order; one without is in no order."),
    )
    delay = forms.IntegerField(
        label=gettext_lazy("Delay in seconds"),
        required=False,
        min_value=0,
        max_value=MAX_SECONDS,
        help_text=gettext_lazy("Empty: at once. At most ten years."),
    )


class Send(FormPage):
    """Send one message."""

    permission = "mq_messages.send_message"
    here = "messages"
    title = gettext_lazy("Send a message")
    template_name = "messages/send.html"
    form_class = SendForm
    own_choices = ("topic",)
    submit_label = gettext_lazy("Send")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is sent yet."""
        super().setup(request, *args, **kwargs)
        self.accepted: Accepted | None = None

    def initial(self) -> dict[str, Any]:
        """The topic of the address; or all of another message, to be edited, for who may read it."""
        number = self.request.GET.get("like", "")
        if number.isascii() and number.isdigit() and len(number) <= 19 and self.request.user.has_perm(scope.BODY):
            like = load(self.request.user, int(number))
            if like is not None and scope.may_read_body(self.request.user, like.topic_id):
                return {"topic": like.topic, "body": reading.as_text(like.body) or "", "key": like.key or "", "tag": like.tag} | {
                    "sharding_key": like.sharding_key or ""
                }
        return {"topic": self.request.GET.get("topic", "").replace("\x00", "")}

    def context(self) -> dict[str, Any]:
        """The way back."""
        return {"crumbs": [(_("Messages"), reverse("admin:messages_list"))], "back": reverse("admin:messages_list")}

    def perform(self, form: SendForm) -> str:
        """Send, then show the message."""
        data = form.cleaned_data
        try:
            body = data["body"].encode()
        except UnicodeEncodeError:
            raise invalid("/body", _("The body holds half of a surrogate pair.")) from None
        due = datetime.now(UTC) + timedelta(seconds=data["delay"]) if data["delay"] else None
        message = NewMessage(
            body=body, key=data["key"] or None, tag=spelt(data["tag"]), sharding_key=data["sharding_key"] or None, deliver_at=due
        )
        try:
            self.accepted = operating.send(actor=person(self.request), topic_id=data["topic"].pk, message=message)
        except Exception as problem:
            _strip_pointers(problem)
            raise
        return reverse("admin:messages_detail", args=[self.accepted.id])

    def success(self, form: SendForm) -> Any:
        """With its id."""
        accepted = self.accepted
        said = (
            _("{id} is stored; it goes to {topic} when it is due.")
            if accepted and accepted.state == "delayed"
            else _("{id} is stored in {topic}.")
        )
        return said.format(id=accepted.id if accepted else "", topic=form.cleaned_data["topic"].name)


def _strip_pointers(problem: Exception) -> None:
    """The store speaks of the first of a list; this form sent one."""
    from core.errors import FieldError, Problem

    if isinstance(problem, Problem):
        problem.errors = tuple(FieldError(error.pointer.removeprefix("/messages/0"), error.detail) for error in problem.errors)
