"""Requests about consumer groups in the console: the forms on which they are asked for."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import choices
from consumers import requests
from consumers.console_verbs import SubscriptionForm, load
from consumers.models import Balance, ConsumeFrom, ConsumerGroup, OnExhausted
from core.approvals import console as requests_console
from core.approvals.asking import AskPage
from core.approvals.console import Extra
from core.approvals.models import State
from core.approvals.services import require_state
from core.errors import FieldError
from topics.console_requests import ReasonedForm
from topics.models import Topic

PUSH_URL_HELP, PUSH_CONCURRENCY_HELP, INSTANCE_TTL_HELP, ON_EXHAUSTED_HELP, BALANCE_HELP = (
    ConsumerGroup._meta.get_field(name).help_text  # type: ignore[union-attr]  # noqa: SLF001 - Django's public API
    for name in ("push_url", "push_concurrency", "instance_ttl_hours", "on_exhausted", "balance")
)
COLUMNS = (
    *("instance_ttl_hours", "consume_from", "max_attempts", "backoff_ms", "backoff_max_ms"),
    *("push_url", "push_concurrency", "push_timeout_ms", "max_outstanding", "on_exhausted", "balance", "purpose"),
)


class ChangeForm(ReasonedForm):
    """A group as it shall be, with a row for each topic."""

    application: Any = forms.ModelChoiceField(queryset=None, to_field_name="name", label=gettext_lazy("Application"))
    owner: Any = forms.ModelChoiceField(queryset=None, to_field_name="username", label=gettext_lazy("Owner"))
    consume_from = forms.ChoiceField(
        choices=ConsumeFrom.choices,
        label=gettext_lazy("Consume from"),
        help_text=gettext_lazy("Where it begins on topics that are new to it; on those that it has it goes on where it is."),
    )
    instance_ttl_hours = forms.IntegerField(
        required=False, label=gettext_lazy("Instance is given up after (hours)"), help_text=INSTANCE_TTL_HELP
    )
    max_attempts = forms.IntegerField(label=gettext_lazy("Attempts at most"))
    backoff_ms = forms.IntegerField(label=gettext_lazy("First retry after (ms)"))
    backoff_max_ms = forms.IntegerField(label=gettext_lazy("Longest wait (ms)"))
    push_url = forms.CharField(max_length=500, required=False, label=gettext_lazy("Webhook"), help_text=PUSH_URL_HELP)
    push_concurrency = forms.IntegerField(label=gettext_lazy("Deliveries at once"), help_text=PUSH_CONCURRENCY_HELP)
    push_timeout_ms = forms.IntegerField(label=gettext_lazy("Answer within (ms)"))
    max_outstanding = forms.IntegerField(
        label=gettext_lazy("Outstanding at most"),
        required=False,
        help_text=gettext_lazy("So many messages may be in the workers' hands at once; 0: no ceiling."),
    )
    on_exhausted = forms.ChoiceField(
        choices=OnExhausted.choices, required=False, label=gettext_lazy("Out of attempts"), help_text=ON_EXHAUSTED_HELP
    )
    balance = forms.ChoiceField(choices=Balance.choices, required=False, label=gettext_lazy("Load balance"), help_text=BALANCE_HELP)
    purpose = forms.CharField(max_length=2000, label=gettext_lazy("Purpose"), widget=forms.Textarea(attrs={"rows": 2}))

    def __init__(self, data: Any = None, *args: Any, subscriptions: list[dict[str, str]], **kwargs: Any) -> None:
        super().__init__(data, *args, **kwargs)
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]
        rows: Any = forms.formset_factory(SubscriptionForm, extra=0, can_delete=True, max_num=50, absolute_max=60)
        names = list(Topic.objects.filter(state=State.ACTIVE).order_by("name").values_list("name", flat=True)[:2000])
        self.rows = rows(data, prefix="subscriptions", initial=subscriptions, form_kwargs={"topics": names})

    def clean_on_exhausted(self) -> str:
        """Not said: a dead letter."""
        return self.cleaned_data["on_exhausted"] or OnExhausted.DEAD_LETTER.value

    def clean_balance(self) -> str:
        """Not said: shared."""
        return self.cleaned_data["balance"] or Balance.SHARED.value

    def clean_max_outstanding(self) -> int:
        """Empty: no ceiling."""
        return self.cleaned_data["max_outstanding"] or 0

    def is_valid(self) -> bool:
        """Both parts."""
        both = [super().is_valid(), self.rows.is_valid()]
        return all(both)

    @property
    def wanted(self) -> list[dict[str, str]]:
        """The subscriptions as requests keep them."""
        filled = [row.cleaned_data for row in self.rows.forms if row.cleaned_data.get("topic") and not row.cleaned_data.get("DELETE")]
        return [{"topic": row["topic"], "tags": row["tags"] or "*"} for row in filled]

    def attach_error(self, error: FieldError) -> bool:
        """An error of the subscriptions stands above their rows."""
        if not error.pointer.startswith("/subscriptions"):
            return False
        self.rows_error = error.detail
        return True


class AskGroup(AskPage):
    """Something about an active group."""

    permission = "consumers.add_consumergroup"
    here = "groups"
    submit_label = gettext_lazy("Ask")

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Nothing is read yet: the permission comes first."""
        super().setup(request, *args, **kwargs)
        self._group: ConsumerGroup | None = None

    def thing(self) -> ConsumerGroup:
        """The group of the address."""
        if self._group is None:
            self._group = load(self.target, self.request.user, self.permission)
        return self._group

    def check(self) -> None:
        """Only of an active group."""
        super().check()
        require_state(thing=self.thing(), allowed=(State.ACTIVE,), what=self.kind)

    def context(self) -> dict[str, Any]:
        """The group beside the form."""
        back = reverse("admin:consumers_detail", args=[self.target])
        return {
            **super().context(),
            "title": str(self.title).format(name=self.target),
            "crumbs": [(_("Consumer groups"), reverse("admin:consumers_list")), (self.target, back)],
            "back": back,
        }


class Change(AskGroup):
    """Ask for a change."""

    kind = "group.change"
    title = gettext_lazy("Ask for a change of {name}")
    template_name = "consumers/ask_change.html"
    form_class = ChangeForm
    own_choices = ("application",)

    def now(self) -> dict[str, Any]:
        """Its values."""
        return requests.values_of(self.thing())

    def form_arguments(self) -> dict[str, Any]:
        """A row for each topic that it has, or is asked for."""
        return {"subscriptions": self.initial()["subscriptions"]}

    def payload(self, form: Any) -> dict[str, Any]:
        """All of the form, references by name."""
        data = form.cleaned_data
        return {
            **{key: data[key] for key in COLUMNS if data[key] is not None},  # an empty number stays as it is
            "application": data["application"].name,
            "owner": data["owner"].get_username(),
            "subscriptions": form.wanted,
        }


class Retire(AskGroup):
    """Ask for the retirement."""

    kind = "group.retire"
    title = gettext_lazy("Ask for the retirement of {name}")
    form_class = ReasonedForm


requests_console.dress("group.create", Extra(edit=lambda request: reverse("admin:consumers_edit", args=[request.target])))
for _kind, _page in (("group.change", "consumers_ask_change"), ("group.retire", "consumers_ask_retire")):
    requests_console.dress(
        _kind,
        Extra(edit=lambda request, page=_page: reverse(f"admin:{page}", args=[request.target]) + f"?request={request.pk}"),  # type: ignore[misc]
    )
