"""The limits of a cluster in the console: what an operator says that it takes."""

from functools import cached_property
from typing import Any

from django import forms
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters import services
from clusters.models import Cluster
from core.console.pages import ConsoleForm, FormPage, get, person


class LimitsForm(ConsoleForm):
    """Empty is not known, which is not the same as no end."""

    max_topics = forms.IntegerField(required=False, label=gettext_lazy("Topics at most"))
    max_rate = forms.IntegerField(required=False, label=gettext_lazy("Messages per second at most"))
    max_bytes_per_second = forms.IntegerField(required=False, label=gettext_lazy("Bytes per second at most"))
    max_partitions = forms.IntegerField(required=False, label=gettext_lazy("Partitions at most"))


class ClusterPage(FormPage):
    """A form that changes one cluster."""

    permission = "clusters.change_cluster"
    here = "clusters"

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster of the address; not read before the permission is known."""
        return get(Cluster.objects.all(), name=self.kwargs["name"])

    def versioned(self) -> Cluster:
        """As it was when the page was opened."""
        return self.cluster


class Limits(ClusterPage):
    """Say what a cluster takes."""

    template_name = "clusters/limits.html"
    form_class = LimitsForm
    submit_label = gettext_lazy("Save")

    def initial(self) -> dict[str, Any]:
        """As it is."""
        return {name: getattr(self.cluster, name) for name in services.LIMITS}

    def context(self) -> dict[str, Any]:
        """Where to go back to."""
        cluster = self.cluster
        back = reverse("admin:clusters_detail", args=[cluster.name])
        return {
            "title": _("Limits of {name}").format(name=cluster.name),
            "crumbs": [(_("Clusters"), reverse("admin:clusters_list")), (cluster.name, back)],
            "back": back,
        }

    def perform(self, form: LimitsForm) -> str:
        """Change it."""
        cluster = self.cluster
        limits = {name: form.cleaned_data[name] for name in services.LIMITS}
        services.change(actor=person(self.request), cluster=cluster, address=cluster.address, description=cluster.description, **limits)
        return reverse("admin:clusters_detail", args=[cluster.name])

    def success(self, form: LimitsForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("Saved; new topics are measured against it.")
