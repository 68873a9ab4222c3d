"""Requests about topics in the console: the forms on which they are asked for, and what an approver sees beside them."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import choices
from clusters.models import Cluster
from core.approvals import console as requests_console
from core.approvals.asking import AskPage
from core.approvals.console import Extra
from core.approvals.models import Request, State
from core.approvals.services import require_state
from core.console import slots
from core.console.pages import ConsoleForm
from topics import placement, requests
from topics.console_verbs import KEPT, LIMITS, AllocateForm, WithLimits, load
from topics.models import Retention, Topic


class ReasonedForm(ConsoleForm):
    """Why it is asked for."""

    reason = forms.CharField(
        max_length=2000,
        label=gettext_lazy("Reason"),
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=gettext_lazy("Who decides reads it."),
    )


class ChangeForm(WithLimits, ReasonedForm):
    """A topic as it shall be."""

    application: Any = forms.ModelChoiceField(queryset=None, to_field_name="name", label=gettext_lazy("Application"))
    owner: Any = forms.ModelChoiceField(queryset=None, to_field_name="username", label=gettext_lazy("Owner"))
    expected_rate = forms.IntegerField(label=gettext_lazy("Expected messages per second"))
    message_bytes = forms.IntegerField(label=gettext_lazy("Typical message size in bytes"))
    partitions = forms.IntegerField(label=gettext_lazy("Partitions"))
    max_backlog = forms.IntegerField(
        label=gettext_lazy("Backlog at most"),
        required=False,
        help_text=gettext_lazy("When so many messages wait for one of its groups, the built-in store takes no more; 0: no ceiling."),
    )
    ttl_seconds = forms.IntegerField(
        label=gettext_lazy("Time to live (s)"),
        required=False,
        help_text=gettext_lazy("What a group has not taken by then becomes a dead letter of it, in the built-in store; 0: no limit."),
    )
    max_length = forms.IntegerField(
        label=gettext_lazy("Length at most"),
        required=False,
        help_text=gettext_lazy(
            "When more messages wait for a group, the oldest become dead letters of it, in the built-in store; 0: no limit."
        ),
    )
    retention = forms.ChoiceField(
        label=gettext_lazy("Messages go"),
        choices=Retention.choices,
        required=False,
        help_text=Topic._meta.get_field("retention").help_text,  # noqa: SLF001 - Django's public API
    )
    retention_hours = forms.IntegerField(
        label=gettext_lazy("Kept for (hours)"),
        required=False,
        help_text=Topic._meta.get_field("retention_hours").help_text,  # noqa: SLF001
    )
    retention_mib = forms.IntegerField(
        label=gettext_lazy("Size at most (MiB)"),
        required=False,
        help_text=Topic._meta.get_field("retention_mib").help_text,  # noqa: SLF001
    )
    purpose = forms.CharField(max_length=2000, label=gettext_lazy("Purpose"), widget=forms.Textarea(attrs={"rows": 2}))
    field_order = ["application", "owner", "expected_rate", "message_bytes", "partitions", *LIMITS, *KEPT, "purpose", "reason"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]


class AskTopic(AskPage):
    """Something about an active topic."""

    permission = "topics.add_topic"
    here = "topics"
    submit_label = gettext_lazy("Ask")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._topic: Topic | None = None

    def thing(self) -> Topic:
        """The topic of the address."""
        if self._topic is None:
            self._topic = load(self.target, self.request.user, self.permission)
        return self._topic

    def check(self) -> None:
        """Only of an active topic."""
        super().check()
        require_state(thing=self.thing(), allowed=(State.ACTIVE,), what=self.kind)

    def context(self) -> dict[str, Any]:
        """The topic beside the form."""
        back = reverse("admin:topics_detail", args=[self.target])
        return {
            **super().context(),
            "title": str(self.title).format(name=self.target),
            "crumbs": [(_("Topics"), reverse("admin:topics_list")), (self.target, back)],
            "back": back,
        }


class Change(AskTopic):
    """Ask for a change."""

    kind = "topic.change"
    title = gettext_lazy("Ask for a change of {name}")
    template_name = "topics/ask_change.html"
    form_class = ChangeForm
    own_choices = ("application",)

    def now(self) -> dict[str, Any]:
        """Its values."""
        return requests.values_of(self.thing())

    def payload(self, form: Any) -> dict[str, Any]:
        """All of the form, references by name."""
        data = form.cleaned_data
        return {
            **{key: data[key] for key in ("expected_rate", "message_bytes", "partitions", *LIMITS, *KEPT, "purpose")},
            "application": data["application"].name,
            "owner": data["owner"].get_username(),
        }


class Retire(AskTopic):
    """Ask for the retirement."""

    kind = "topic.retire"
    title = gettext_lazy("Ask for the retirement of {name}")
    form_class = ReasonedForm


def picture(_http: HttpRequest, request: Request) -> str:
    """What each cluster has promised, and what it takes."""
    topic = requests.CreateTopic().wanted(request)
    if topic is None:
        return ""
    places = placement.places(topic) if topic.cluster is None else [placement.place(topic, topic.cluster)]
    return render_to_string("topics/_places.html", {"places": places, "choosing": topic.cluster is None})


def _initial(request: Request) -> dict[str, Any]:
    topic = requests.CreateTopic().wanted(request)
    best = placement.recommended(topic) if topic else None
    return {"cluster": best.cluster if best else None}


def _promised(_http: HttpRequest, cluster: Cluster) -> str:
    """What a cluster has promised already, on its page."""
    nothing = Topic(expected_rate=0, message_bytes=0, partitions=0)
    place = placement.place(nothing, cluster, added=False)
    return render_to_string("topics/_promised.html", {"place": place})


slots.panel("cluster", _promised)
requests_console.dress(
    "topic.create",
    Extra(
        form=AllocateForm,
        values=lambda form: {"cluster": form.cleaned_data["cluster"].name},
        initial=_initial,
        picture=picture,
        edit=lambda request: reverse("admin:topics_edit", args=[request.target]),
    ),
)
requests_console.dress(
    "topic.change",
    Extra(picture=picture, edit=lambda request: reverse("admin:topics_ask_change", args=[request.target]) + f"?request={request.pk}"),
)
requests_console.dress(
    "topic.retire", Extra(edit=lambda request: reverse("admin:topics_ask_retire", args=[request.target]) + f"?request={request.pk}")
)
