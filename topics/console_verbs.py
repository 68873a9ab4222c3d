"""What can be done with a topic in the console: one page with one form for each verb."""

from typing import Any, ClassVar

from django import forms
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import choices
from accounts.models import Application
from clusters.drivers import builtin
from clusters.models import Cluster
from core.approvals.models import State
from core.approvals.services import check_seen, require_state
from core.console.pages import ApprovalForm, ConsoleForm, FormPage, ReasonForm, TypedNameForm, get, person
from registry.console import instances_at, publication_of
from registry.services import instances_known
from topics import moving, services
from topics.models import OrderScope, Retention, Topic

LIMITS = ("max_backlog", "ttl_seconds", "max_length")  # 0: none
KEPT = ("retention", "retention_hours", "retention_mib")

LIVE = [State.PENDING, State.REJECTED, State.ACTIVE]


def load(name: str, user: Any, permission: str = "view") -> Topic:
    """A topic by name, with what its head shows; one with which the person may not do this is not there."""
    topics = Topic.objects.select_related("application", "owner", "cluster", "requested_by", "decided_by")
    return get(topics.restrict(user, permission), name=name)


def kept(data: dict[str, Any]) -> dict[str, Any]:
    """How long messages are kept; empty: as the store keeps them, no age, any size."""
    return {"retention": data.get("retention") or Retention.STORE.value, **{name: data.get(name) or 0 for name in KEPT[1:]}}


class WithLimits(forms.BaseForm):
    """A form with the fields of LIMITS and KEPT."""

    def clean(self) -> Any:
        """Empty: no limit, kept as the store keeps."""
        cleaned = super().clean()
        self.cleaned_data |= {name: self.cleaned_data.get(name) or 0 for name in LIMITS} | kept(self.cleaned_data)
        return cleaned


class RequestForm(WithLimits, forms.ModelForm[Topic]):
    """What is applied for; names, limits and states are checked by the service."""

    use_required_attribute = False

    class Meta:
        model = Topic
        fields = [
            "application",
            "owner",
            "expected_rate",
            "message_bytes",
            "partitions",
            "ordered",
            "order_scope",
            *LIMITS,
            *KEPT,
            "reason",
        ]
        widgets = {"reason": forms.Textarea(attrs={"rows": 4})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        self.fields["order_scope"].required = self.fields["retention"].required = False
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]

    def clean_order_scope(self) -> str:
        """Not said: by sharding key."""
        return self.cleaned_data["order_scope"] or OrderScope.KEY.value

    def _post_clean(self) -> None:
        """The service checks the model; two judges would say two things."""


class ApplyForm(RequestForm):
    """With the name, which cannot be changed later."""

    # Not the model's field: a wrong name is the service's to refuse, with its hint.
    name = forms.CharField(
        max_length=200,
        label=gettext_lazy("Name"),
        help_text=gettext_lazy("Letters, digits and _ . % -, at most 120. It cannot be changed."),
    )
    field_order = ["name"]


class Apply(FormPage):
    """Apply for a topic."""

    permission = "topics.add_topic"
    here = "topics"
    title = gettext_lazy("Apply for a topic")
    template_name = "topics/apply.html"
    form_class = ApplyForm
    submit_label = gettext_lazy("Apply")

    def initial(self) -> dict[str, Any]:
        """The person who applies owns it, unless they say otherwise."""
        return {"owner": self.request.user.pk, "expected_rate": 100, "message_bytes": 1000}

    def context(self) -> dict[str, Any]:
        """Where to go from here."""
        return {
            "crumbs": [(_("Topics"), reverse("admin:topics_list"))],
            "back": reverse("admin:topics_list"),
            "no_applications": not Application.objects.exists(),
            "may_add_application": self.request.user.has_perm("accounts.add_application"),
        }

    def perform(self, form: ApplyForm) -> str:
        """Apply."""
        topic = services.apply(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:topics_detail", args=[topic.name])

    def success(self, form: ApplyForm) -> Any:
        """What comes next."""
        return _("Applied for {name}. Another person approves it and allocates a cluster.").format(name=form.cleaned_data["name"])


class TopicAction(FormPage):
    """A page that does one thing with one topic."""

    here = "topics"
    template_name = "topics/action.html"
    states: ClassVar[list[State]] = [State.ACTIVE]
    said: Any = ""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._topic: Topic | None = None

    @property
    def topic(self) -> Topic:
        """The topic of the address."""
        if self._topic is None:
            self._topic = load(self.kwargs["name"], self.request.user, self.permission)
        return self._topic

    def versioned(self) -> Topic:
        """What the page showed is what is decided on."""
        return self.topic

    def check(self) -> None:
        """Refuse before anything is filled in if the state does not allow it."""
        require_state(thing=self.topic, allowed=tuple(self.states), what=type(self).__name__.lower())

    def context(self) -> dict[str, Any]:
        """The topic beside the form."""
        return {
            "title": str(self.title).format(name=self.topic.name),
            "crumbs": [
                (_("Topics"), reverse("admin:topics_list")),
                (self.topic.name, reverse("admin:topics_detail", args=[self.topic.name])),
            ],
            "back": reverse("admin:topics_detail", args=[self.topic.name]),
            "topic": self.topic,
        }

    def perform(self, form: Any) -> str:
        """Run the verb, then show the topic."""
        self.run(form)
        return reverse("admin:topics_detail", args=[self.topic.name])

    def run(self, form: Any) -> None:
        """The service."""
        raise NotImplementedError

    def success(self, form: Any) -> Any:  # noqa: ARG002
        """In one sentence."""
        return str(self.said).format(name=self.topic.name)


class Edit(TopicAction):
    """Edit a request that is not decided, or was rejected."""

    permission = "topics.add_topic"
    title = gettext_lazy("Edit {name}")
    template_name = "topics/edit.html"
    form_class = RequestForm
    submit_label = gettext_lazy("Save")
    states = [State.PENDING, State.REJECTED]
    said = gettext_lazy("{name} is changed.")

    def form_arguments(self) -> dict[str, Any]:
        """Begin with what was applied for; a copy, so that a refused edit leaves the page's facts alone."""
        return {"instance": load(self.kwargs["name"], self.request.user, self.permission)}

    def run(self, form: RequestForm) -> None:
        """Store it."""
        services.edit(actor=person(self.request), topic=self.topic, changes=form.cleaned_data)


class Resubmit(TopicAction):
    """Send a rejected request again."""

    permission = "topics.add_topic"
    title = gettext_lazy("Send {name} again")
    form_class = ConsoleForm
    submit_label = gettext_lazy("Send again")
    states = [State.REJECTED]
    said = gettext_lazy("{name} waits for approval again.")

    def run(self, form: ConsoleForm) -> None:  # noqa: ARG002
        """Back to pending."""
        services.resubmit(actor=person(self.request), topic=self.topic)


class ClusterChoice(forms.ModelChoiceField[Cluster]):
    """Clusters with their kind."""

    def label_from_instance(self, obj: Any) -> str:
        """Name and kind."""
        return f"{obj.name} · {obj.get_kind_display()}"


class AllocateForm(ApprovalForm):
    """Where the topic goes, and a remark."""

    cluster = ClusterChoice(
        queryset=Cluster.objects.order_by("name"),
        label=gettext_lazy("Cluster"),
        help_text=gettext_lazy("SDKs connect there; it can be changed later."),
    )
    field_order = ["cluster", "reason"]


class Approve(TopicAction):
    """Approve and allocate."""

    permission = "topics.approve_topic"
    title = gettext_lazy("Approve {name}")
    form_class = AllocateForm
    submit_label = gettext_lazy("Approve and publish")
    states = [State.PENDING]
    said = gettext_lazy("{name} is approved; a registrar publishes it now.")

    def initial(self) -> dict[str, Any]:
        """The built-in store."""
        builtin = Cluster.objects.filter(kind="builtin").first()
        return {"cluster": builtin or Cluster.objects.order_by("-kind").first(), "version": self.topic.version}

    def run(self, form: AllocateForm) -> None:
        """Approve what was shown."""
        check_seen(thing=self.topic, version=form.cleaned_data["version"])
        services.approve(
            actor=person(self.request), topic=self.topic, cluster=form.cleaned_data["cluster"], reason=form.cleaned_data["reason"]
        )


class Reject(TopicAction):
    """Reject with a reason."""

    permission = "topics.approve_topic"
    title = gettext_lazy("Reject {name}")
    form_class = ReasonForm
    submit_label = gettext_lazy("Reject")
    tone = "danger solid"
    states = [State.PENDING]
    said = gettext_lazy("{name} is rejected; the person who applied can edit it and send it again.")

    def run(self, form: ReasonForm) -> None:
        """Reject."""
        services.reject(actor=person(self.request), topic=self.topic, reason=form.cleaned_data["reason"])


def _others(topic: Topic) -> QuerySet[Cluster, Cluster]:
    return Cluster.objects.exclude(topics=topic).order_by("name")


class MoveForm(ReasonForm):
    """Another cluster, and why."""

    cluster = ClusterChoice(queryset=Cluster.objects.order_by("name"), label=gettext_lazy("To the cluster"))
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Move in spite of warnings"),
        help_text=gettext_lazy("Otherwise you are told first what the cluster is too small for, or does not know."),
    )
    field_order = ["cluster", "accept_warnings", "reason"]

    def __init__(self, *args: Any, topic: Topic, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cluster"].queryset = _others(topic)  # type: ignore[attr-defined]


class Move(TopicAction):
    """Assign it to another cluster."""

    permission = "topics.move_topic"
    title = gettext_lazy("Move {name}")
    template_name = "topics/move.html"
    form_class = MoveForm
    submit_label = gettext_lazy("Move")
    said = gettext_lazy("{name} is assigned to the other cluster; SDKs rebuild their clients when they see it.")

    def form_arguments(self) -> dict[str, Any]:
        """Not to where it is."""
        return {"topic": self.topic}

    def context(self) -> dict[str, Any]:
        """Who will notice."""
        return {
            **super().context(),
            "publication": publication_of(self.topic.zookeeper_path),
            "groups": [
                row.group
                for row in self.topic.subscriptions.select_related("group")
                .exclude(group__state=State.RETIRED)
                .order_by("group__name")[:200]
            ],
            "other_clusters": _others(self.topic).exists(),
        }

    def run(self, form: MoveForm) -> None:
        """Move."""
        fields = {name: form.cleaned_data[name] for name in ("cluster", "accept_warnings", "reason")}
        moving.move(actor=person(self.request), topic=self.topic, **fields)


class RetireForm(TypedNameForm):
    """The decision, and that delayed messages may go with the topic."""

    cancel_delayed = forms.BooleanField(label=gettext_lazy("Cancel the delayed messages that wait, for good"), required=False)


class Retire(TopicAction):
    """Retire: by typing the name, after a list of who still uses it."""

    permission = "topics.retire_topic"
    title = gettext_lazy("Retire {name}")
    template_name = "topics/retire.html"
    form_class = RetireForm
    submit_label = gettext_lazy("Retire")
    tone = "danger solid"
    said = gettext_lazy("{name} is retired; its node goes from ZooKeeper.")

    def form_arguments(self) -> dict[str, Any]:
        """The name to type."""
        return {"expected": self.topic.name}

    def context(self) -> dict[str, Any]:
        """What is alive on it."""
        return {
            **super().context(),
            "confirm_name": self.topic.name,
            "instances": instances_at(self.topic.zookeeper_path).filter(online=True)[:200],
            "known": instances_known(),
            "delayed": builtin.backlog(topic_id=self.topic.pk).delayed,
            "groups": [
                row.group
                for row in self.topic.subscriptions.select_related("group")
                .exclude(group__state=State.RETIRED)
                .order_by("group__name")[:200]
            ],
        }

    def run(self, form: RetireForm) -> None:
        """Retire."""
        fields = {name: form.cleaned_data[name] for name in ("reason", "cancel_delayed")}
        services.retire(actor=person(self.request), topic=self.topic, **fields)
