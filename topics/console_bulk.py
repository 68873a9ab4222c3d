"""What the console asks for before something is done with many topics or groups."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy

from accounts import choices
from accounts.models import User
from clusters.models import Cluster
from core.console.pages import OptionalReasonForm, ReasonForm
from topics.console_verbs import ClusterChoice


class AllocateManyForm(OptionalReasonForm):
    """Where the topics go, and a remark."""

    cluster = ClusterChoice(
        queryset=Cluster.objects.order_by("name"),
        to_field_name="name",
        label=gettext_lazy("Cluster"),
        help_text=gettext_lazy("SDKs connect there; it can be changed later."),
    )
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Approve in spite of warnings"),
        help_text=gettext_lazy("Otherwise those that the cluster may be too small for are left out, with the reason."),
    )
    field_order = ["cluster", "accept_warnings", "reason"]


class MoveManyForm(ReasonForm):
    """Another cluster, and why."""

    cluster = ClusterChoice(queryset=Cluster.objects.order_by("name"), to_field_name="name", label=gettext_lazy("To the cluster"))
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Move in spite of warnings"),
        help_text=gettext_lazy("Otherwise those that the cluster is too small for, or does not know enough, are left out, with why."),
    )
    field_order = ["cluster", "accept_warnings", "reason"]


class DrainedManyForm(ReasonForm):
    """The cluster that they have left and that holds nothing more of them, and why."""

    cluster = ClusterChoice(
        queryset=Cluster.objects.filter(draining__isnull=False).distinct().order_by("name"),
        to_field_name="name",
        label=gettext_lazy("Drained cluster"),
        help_text=gettext_lazy("Groups let go of it. What is left there all the same is not received any more."),
    )
    field_order = ["cluster", "reason"]


class OwnerForm(ReasonForm):
    """Who answers for them from now on, and why."""

    owner = forms.ModelChoiceField(
        queryset=User.objects.none(),
        to_field_name="username",
        label=gettext_lazy("New owner"),
        help_text=gettext_lazy("Is asked when something is wrong with it."),
    )
    field_order = ["owner", "reason"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]
