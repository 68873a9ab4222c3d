"""What can be done with a consumer group in the console: one page with one form for each verb."""

from typing import Any, ClassVar

from django import forms
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import choices
from accounts.models import Application
from consumers import push, services
from consumers.models import Balance, ConsumerGroup, OnExhausted
from core.approvals.models import State
from core.approvals.services import check_seen, require_state
from core.console.pages import ApprovalForm, ConsoleForm, FormPage, OptionalReasonForm, ReasonForm, TypedNameForm, get, person
from core.errors import FieldError
from registry.console import instances_at
from registry.services import instances_known
from topics.models import Topic


def load(name: str, user: Any, permission: str = "view") -> ConsumerGroup:
    """A group by name, with what its head shows; one with which the person may not do this is not there."""
    groups = ConsumerGroup.objects.restrict(user, permission).select_related("application", "owner", "requested_by", "decided_by")
    return get(groups.prefetch_related("subscriptions__topic__cluster"), name=name)


class SubscriptionForm(ConsoleForm):
    """A topic with its tag expression; whether they can be used is the service's to say."""

    topic = forms.CharField(max_length=200, required=False, label=gettext_lazy("Topic"))
    tags = forms.CharField(max_length=500, required=False, label=gettext_lazy("Tags"), initial="*")

    def __init__(self, *args: Any, topics: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        asked = self.data.get(self.add_prefix("topic")) or self.initial.get("topic")
        names = [*topics, asked] if asked and asked not in topics else topics
        self.fields["topic"].widget = forms.Select(choices=[("", "—"), *((name, name) for name in names)])


class GroupForm(forms.ModelForm[ConsumerGroup]):
    """What is applied for, with a row for each topic; names, limits and states are checked by the service."""

    use_required_attribute = False

    class Meta:
        model = ConsumerGroup
        fields = [
            *("application", "owner", "mode", "instance_ttl_hours", "consume_from", "max_attempts", "backoff_ms", "backoff_max_ms"),
            *("push_url", "push_concurrency", "push_timeout_ms", "max_outstanding", "on_exhausted", "balance", "reason"),
        ]
        widgets = {"reason": forms.Textarea(attrs={"rows": 4})}

    def __init__(self, data: Any = None, *args: Any, subscriptions: list[dict[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(data, *args, **{"label_suffix": "", **kwargs})
        self.fields["on_exhausted"].required = self.fields["balance"].required = False
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]
        self.fields["mode"].required = self.fields["instance_ttl_hours"].required = False
        initial = subscriptions or []
        rows: Any = forms.formset_factory(SubscriptionForm, extra=0 if initial else 1, can_delete=True, max_num=50, absolute_max=60)
        names = list(Topic.objects.filter(state=State.ACTIVE).order_by("name").values_list("name", flat=True))
        self.rows = rows(data, prefix="subscriptions", initial=initial, form_kwargs={"topics": names})

    def clean_on_exhausted(self) -> str:
        """Not said: a dead letter."""
        return self.cleaned_data["on_exhausted"] or OnExhausted.DEAD_LETTER.value

    def clean_balance(self) -> str:
        """Not said: shared."""
        return self.cleaned_data["balance"] or Balance.SHARED.value

    def clean_max_outstanding(self) -> int:
        """Empty: no ceiling."""
        return self.cleaned_data["max_outstanding"] or 0

    def clean_mode(self) -> str:
        """Not chosen: the workers share the messages."""
        return self.cleaned_data["mode"] or ConsumerGroup.Mode.CLUSTERING.value

    def clean_instance_ttl_hours(self) -> int:
        """Empty: a week."""
        return self.cleaned_data["instance_ttl_hours"] or 168

    def _post_clean(self) -> None:
        """The service checks the model; two judges would say two things."""

    def is_valid(self) -> bool:
        """Both parts."""
        both = [super().is_valid(), self.rows.is_valid()]
        return all(both)

    def _filled(self) -> list[SubscriptionForm]:
        return [row for row in self.rows.forms if row.cleaned_data.get("topic") and not row.cleaned_data.get("DELETE")]

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """The subscriptions as the service takes them."""
        return [(row.cleaned_data["topic"], row.cleaned_data["tags"] or "*") for row in self._filled()]

    def attach_error(self, error: FieldError) -> bool:
        """An error of a row belongs to that row, one of the whole list above them."""
        parts = error.pointer.strip("/").split("/")
        if parts[0] != "subscriptions":
            return False
        filled = self._filled()
        if len(parts) == 3 and parts[1].isdigit() and int(parts[1]) < len(filled) and parts[2] in filled[int(parts[1])].fields:
            filled[int(parts[1])].add_error(parts[2], error.detail)
        else:
            self.rows_error = error.detail
        return True


class ApplyForm(GroupForm):
    """With the name, which cannot be changed later."""

    name = forms.CharField(
        max_length=200,
        label=gettext_lazy("Name"),
        help_text=gettext_lazy("Letters, digits and _ . % -, at most 120. It cannot be changed."),
    )


class Apply(FormPage):
    """Apply for a consumer group."""

    permission = "consumers.add_consumergroup"
    here = "groups"
    title = gettext_lazy("Apply for a consumer group")
    template_name = "consumers/apply.html"
    form_class = ApplyForm
    submit_label = gettext_lazy("Apply")

    def initial(self) -> dict[str, Any]:
        """The person who applies owns it, unless they say otherwise."""
        return {"owner": self.request.user.pk}

    def form_arguments(self) -> dict[str, Any]:
        """From a topic's page the topic is filled in."""
        name = self.request.GET.get("topic", "").replace("\x00", "")[:120]
        return {"subscriptions": [{"topic": name, "tags": "*"}]} if name else {}

    def context(self) -> dict[str, Any]:
        """Where to go from here."""
        return {
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list"))],
            "back": reverse("admin:consumers_list"),
            "no_applications": not Application.objects.exists(),
            "no_topics": not Topic.objects.filter(state=State.ACTIVE).exists(),
            "may_add_application": self.request.user.has_perm("accounts.add_application"),
        }

    def perform(self, form: ApplyForm) -> str:
        """Apply."""
        push.look_up(form.cleaned_data)
        group = services.apply(actor=person(self.request), subscriptions=form.wanted, **form.cleaned_data)
        return reverse("admin:consumers_detail", args=[group.name])

    def success(self, form: ApplyForm) -> Any:
        """What comes next."""
        return _("Applied for {name}. Another person approves it.").format(name=form.cleaned_data["name"])


class GroupAction(FormPage):
    """A page that does one thing with one group."""

    here = "groups"
    template_name = "consumers/action.html"
    states: ClassVar[list[State]] = [State.ACTIVE]
    said: Any = ""
    note: Any = ""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._group: ConsumerGroup | None = None

    @property
    def group(self) -> ConsumerGroup:
        """The group of the address."""
        if self._group is None:
            self._group = load(self.kwargs["name"], self.request.user, self.permission)
        return self._group

    def versioned(self) -> ConsumerGroup:
        """What the page showed is what is decided on."""
        return self.group

    def check(self) -> None:
        """Refuse before anything is filled in if the state does not allow it."""
        require_state(thing=self.group, allowed=tuple(self.states), what=type(self).__name__.lower())

    def context(self) -> dict[str, Any]:
        """The group beside the form."""
        back = reverse("admin:consumers_detail", args=[self.group.name])
        return {
            "title": str(self.title).format(name=self.group.name),
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list")), (self.group.name, back)],
            "back": back,
            "group": self.group,
            "note": self.note,
        }

    def perform(self, form: Any) -> str:
        """Run the verb, then show the group."""
        self.run(form)
        return reverse("admin:consumers_detail", args=[self.group.name])

    def run(self, form: Any) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return str(self.said).format(name=self.group.name)


class Edit(GroupAction):
    """Edit a request that is not decided, or was rejected."""

    permission = "consumers.add_consumergroup"
    title = gettext_lazy("Edit {name}")
    template_name = "consumers/edit.html"
    form_class = GroupForm
    submit_label = gettext_lazy("Save")
    states = [State.PENDING, State.REJECTED]
    said = gettext_lazy("{name} is changed.")

    def form_arguments(self) -> dict[str, Any]:
        """Begin with what was applied for; a copy, so that a refused edit leaves the page's facts alone."""
        group = load(self.kwargs["name"], self.request.user, self.permission)
        return {"instance": group, "subscriptions": [{"topic": row.topic.name, "tags": row.tags} for row in group.subscriptions.all()]}

    def run(self, form: GroupForm) -> None:
        """Store it."""
        push.look_up(form.cleaned_data)
        services.edit(actor=person(self.request), group=self.group, changes=form.cleaned_data, subscriptions=form.wanted)


class Resubmit(GroupAction):
    """Send a rejected request again."""

    permission = "consumers.add_consumergroup"
    title = gettext_lazy("Send {name} again")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Send again")
    states = [State.REJECTED]
    said = gettext_lazy("{name} waits for approval again.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Back to pending."""
        services.resubmit(actor=person(self.request), group=self.group)


class Approve(GroupAction):
    """Approve."""

    permission = "consumers.approve_consumergroup"
    title = gettext_lazy("Approve {name}")
    form_class = ApprovalForm
    submit_label = gettext_lazy("Approve and publish")
    states = [State.PENDING]
    said = gettext_lazy("{name} is approved; a registrar publishes it now.")

    def initial(self) -> dict[str, Any]:
        """What is approved is what the page shows."""
        return {"version": self.group.version}

    def run(self, form: ApprovalForm) -> None:
        """Approve what was shown."""
        check_seen(thing=self.group, version=form.cleaned_data["version"])
        services.approve(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Reject(GroupAction):
    """Reject with a reason."""

    permission = "consumers.approve_consumergroup"
    title = gettext_lazy("Reject {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Reject")
    tone = "danger solid"
    states = [State.PENDING]
    said = gettext_lazy("{name} is rejected; the person who applied can edit it and send it again.")

    def run(self, form: ReasonForm) -> None:
        """Reject."""
        services.reject(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Suspend(GroupAction):
    """Hand out nothing more."""

    permission = "consumers.suspend_consumergroup"
    title = gettext_lazy("Suspend {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Suspend")
    said = gettext_lazy("{name} is suspended; it gets no more messages.")
    note = gettext_lazy(
        "It gets no more messages until it is resumed. What its workers have in hand can still be acknowledged; new messages wait."
    )

    def run(self, form: ReasonForm) -> None:
        """Suspend."""
        services.suspend(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class Resume(GroupAction):
    """Go on."""

    permission = "consumers.suspend_consumergroup"
    title = gettext_lazy("Resume {name}")
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Resume")
    said = gettext_lazy("{name} goes on where it stopped.")
    note = gettext_lazy("It goes on where it stopped; everything that waited meanwhile is handed out.")

    def run(self, form: OptionalReasonForm) -> None:
        """Resume."""
        services.resume(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])


class RenewSecret(GroupAction):
    """A new secret for the webhook, shown once."""

    permission = "consumers.change_consumergroup"
    title = gettext_lazy("A new secret for the webhook of {name}")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Make a new secret")
    note = gettext_lazy("It signs what the webhook gets. The one before signs as well for 24 hours, so that nothing is refused meanwhile.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Make it."""
        self.secret = push.renew_secret(actor=person(self.request), group=self.group)

    def success(self, form: ConsoleForm) -> Any:  # noqa: ARG002
        """The secret, once."""
        return _("The secret of {name}, which signs what it gets; it is not shown again: {secret}").format(
            name=self.group.name, secret=self.secret
        )


class Retire(GroupAction):
    """Retire: by typing the name, after a list of who still uses it."""

    permission = "consumers.retire_consumergroup"
    title = gettext_lazy("Retire {name}")
    template_name = "consumers/retire.html"
    form_class = TypedNameForm
    submit_label = gettext_lazy("Retire")
    tone = "danger solid"
    said = gettext_lazy("{name} is retired; its node goes from ZooKeeper.")

    def form_arguments(self) -> dict[str, Any]:
        """The name to type."""
        return {"expected": self.group.name}

    def context(self) -> dict[str, Any]:
        """What is alive on it."""
        return {
            **super().context(),
            "confirm_name": self.group.name,
            "instances": instances_at(self.group.zookeeper_path).filter(online=True)[:200],
            "known": instances_known(),
            "shadows": list(self.group.shadow_tasks.filter(enabled=True).select_related("application", "group")),
        }

    def run(self, form: TypedNameForm) -> None:
        """Retire."""
        services.retire(actor=person(self.request), group=self.group, reason=form.cleaned_data["reason"])
