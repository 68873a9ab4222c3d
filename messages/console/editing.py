"""A dead letter corrected by hand and sent on: to its group alone, or to a topic."""

import json
from typing import Any

from django import forms
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Kind
from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.pages import FormPage, OptionalReasonForm, get, person
from core.errors import conflict
from core.tags import spelt
from messages import broadcast, operating, reading, scope, services
from messages.api.wire import invalid
from messages.types import StoredMessage
from topics.models import Topic

SEND = "mq_messages.send_message"


class EditForm(OptionalReasonForm):
    """The message as it is to go on."""

    to = forms.ChoiceField(
        label=gettext_lazy("To"),
        choices=[
            ("group", gettext_lazy("This group alone")),
            ("topic", gettext_lazy("All groups of its topic")),
            ("other", gettext_lazy("All groups of another topic")),
        ],
    )
    other = forms.ModelChoiceField(
        Topic.objects.filter(state=State.ACTIVE, cluster__kind=Kind.BUILTIN).order_by("name"),
        to_field_name="name",
        required=False,
        label=gettext_lazy("The other topic"),
    )
    body = forms.CharField(
        label=gettext_lazy("Body"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10, "class": "mono", "spellcheck": "false"}),
    )
    key = forms.CharField(label=gettext_lazy("Key"), required=False, max_length=255)
    tag = forms.CharField(label=gettext_lazy("Tag"), required=False, max_length=500)
    headers = forms.JSONField(
        label=gettext_lazy("Headers"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono", "spellcheck": "false"}),
        help_text=gettext_lazy("A JSON object of texts; the link to the original is added."),
    )
    field_order = ["to", "other", "body", "key", "tag", "headers", "reason"]


class Edit(FormPage):
    """Correct a dead letter and send it on."""

    permission = "mq_messages.add_redrive"
    here = "dead"
    title = gettext_lazy("Edit and redrive")
    template_name = "messages/edit.html"
    form_class = EditForm
    submit_label = gettext_lazy("Send on")

    def group(self) -> ConsumerGroup:
        """The group of the address."""
        return get(scope.groups(self.request.user, self.permission), name=self.kwargs["group"])

    def instance(self) -> str | None:
        """Of a broadcast group: whose dead letter it is."""
        return self.request.GET.get("instance", "") or None

    def message(self) -> StoredMessage:
        """The message of the address. Problem: not_found."""
        return scope.message(self.request.user, self.kwargs["message_id"], scope.VIEW)

    def check(self) -> None:
        """Refuse before anything is filled in."""
        group, message = self.group(), self.message()
        store_id = broadcast.find(group=group, name=self.instance())
        if not any(s.store_id == store_id and s.status == "dead" for s in services.message_status(message_id=message.id)):
            raise conflict("not_dead", _("It is no longer a dead letter."))

    def readable(self) -> str | None:
        """The body, if this person may read it and it is text; else it stays as it is."""
        message = self.message()
        return reading.as_text(message.body) if scope.may_read_body(self.request.user, message.topic_id) else None

    def initial(self) -> dict[str, Any]:
        """As it was."""
        message = self.message()
        return {"body": self.readable(), "key": message.key or "", "tag": message.tag, "headers": dict(message.headers)}

    def narrowed(self, form: Any) -> Any:
        """Topics that the person may send to; without the body where it cannot be edited as text."""
        form = super().narrowed(form)
        form.fields["other"].queryset = form.fields["other"].queryset.restrict(self.request.user, SEND)
        if self.readable() is None:
            del form.fields["body"]
        return form

    def context(self) -> dict[str, Any]:
        """The message beside the form."""
        group = self.group()
        instance = self.instance()
        whose = {"group": group.name, **({"instance": instance} if instance else {})}
        back = f"{reverse('admin:messages_dead')}?{urlencode(whose)}"
        crumbs = [(_("Dead letters"), reverse("admin:messages_dead")), (group.name, back)]
        return {
            "crumbs": crumbs,
            "back": back,
            "m": self.message(),
            "group": group,
            "instance": instance,
            "with_body": self.readable() is not None,
        }

    def perform(self, form: EditForm) -> str:
        """Send it on, then show the new message."""
        data = form.cleaned_data
        if data["to"] == "other" and data["other"] is None:
            raise invalid("/other", _("Choose the topic."))
        headers = data["headers"] or {}
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise invalid("/headers", _("Give a JSON object whose values are texts: {example}").format(example=json.dumps({"a": "b"})))
        edit = services.Edit(key=data["key"] or None, tag=spelt(data["tag"]), headers=headers)
        if "body" in data and data["body"].replace("\r\n", "\n") != (self.readable() or "").replace("\r\n", "\n"):
            try:
                edit = services.Edit(key=edit.key, tag=edit.tag, headers=headers, body=data["body"].encode())
            except UnicodeEncodeError:
                raise invalid("/body", _("The body holds half of a surrogate pair.")) from None
        plan = services.Plan(to="group" if data["to"] == "group" else "topic", topic_id=data["other"].pk if data["to"] == "other" else None)
        done = operating.redrive_edited(
            actor=person(self.request),
            group=self.group(),
            message_id=self.kwargs["message_id"],
            edit=edit,
            plan=plan,
            reason=data["reason"],
            instance=self.instance(),
        )
        return reverse("admin:messages_detail", args=[done.new_id])

    def success(self, form: EditForm) -> Any:  # noqa: ARG002
        """In one sentence."""
        return _("It is sent on as this message; the original is closed as failed.")
