"""Clusters in the console: the list, adding one, changing its address."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from clusters import services
from clusters.console_limits import ClusterPage, Limits
from clusters.models import Cluster, Kind
from core.console import approving, slots
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import SLOT, Filter, ListPage
from core.console.pages import ConsoleForm, FormPage, Page, get, person
from core.console.slots import Column
from registry.console import publication_of
from registry.console_releases import releases_of
from registry.status import statuses


class Clusters(ListPage[Cluster]):
    """All clusters."""

    permission = "clusters.view_cluster"
    here = "clusters"
    title = gettext_lazy("Clusters")
    model = Cluster
    template_name = "clusters/list.html"
    slot = "clusters"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",), value="name"),
        Column("kind", gettext_lazy("Kind"), sort=("kind", "name"), value="get_kind_display"),
        Column("address", gettext_lazy("Address"), css="max", value="address"),
        SLOT,
        Column("state", gettext_lazy("In ZooKeeper"), value="publication.state"),
        Column("changed", gettext_lazy("Changed"), sort=("changed_at", "name"), css="num", value="changed_at"),
    ]
    search_fields = ("name", "address", "description")
    default_sort = "name"
    filters = [Filter("kind", gettext_lazy("Kind"), lambda _request: Kind.choices, lambda rows, value: rows.filter(kind=value))]

    def decorate(self, rows: list[Cluster]) -> None:
        """The publication of each, in one statement."""
        published = statuses([row.zookeeper_path for row in rows])
        for row in rows:
            row.publication = published.get(row.zookeeper_path)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may add one."""
        why = "" if self.request.user.has_perm("clusters.add_cluster") else NOT_ALLOWED
        return {"add": Action(_("Add a cluster"), reverse("admin:clusters_add"), "plus", "primary", why=why)}


class Detail(Page):
    """A cluster: what SDKs are told, and what depends on it."""

    permission = "clusters.view_cluster"
    here = "clusters"
    template_name = "clusters/detail.html"

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """The cluster."""
        cluster = get(Cluster.objects.all(), name=name)
        why: Any = "" if request.user.has_perm("clusters.change_cluster") else NOT_ALLOWED
        if not why and cluster.kind == Kind.BUILTIN:
            why = _("The built-in store has no address.")
        paths = services.dependent_paths(cluster)
        return self.show(
            {
                "title": cluster.name,
                "crumbs": [(_("Clusters"), reverse("admin:clusters_list"))],
                "cluster": cluster,
                "edit": Action(_("Edit"), reverse("admin:clusters_edit", args=[name]), "edit", why=why),
                "limits": Action(
                    _("Limits"),
                    reverse("admin:clusters_limits", args=[name]),
                    "settings",
                    why="" if request.user.has_perm("clusters.change_cluster") else NOT_ALLOWED,
                ),
                "publication": publication_of(cluster.zookeeper_path) if request.user.has_perm("registry.view_publication") else None,
                "dependants": sorted(statuses(sorted(paths)[:200], request.user).values(), key=lambda row: row.path),
                "dependants_count": len(paths),
                "actions": slots.actions_of("cluster", request, cluster),
                "panels": slots.panels_of("cluster", request, cluster),
                "releases": releases_of(request.user, cluster.zookeeper_path),
                "entries": approving.history("cluster", cluster.name) if request.user.has_perm("audit.view_auditentry") else None,
            }
        )


class AddressForm(ConsoleForm):
    """What can be changed."""

    address = forms.CharField(
        max_length=2000,
        label=gettext_lazy("Address"),
        help_text=gettext_lazy("Kafka and RabbitMQ: host:port,host:port. RocketMQ name servers: host:port;host:port."),
    )
    proxy_address = forms.CharField(
        max_length=2000,
        required=False,
        label=gettext_lazy("Proxy address"),
        help_text=gettext_lazy("RocketMQ only: the gRPC proxies, host:port;host:port. Python applications need them; Java clients do not."),
    )
    description = forms.CharField(max_length=500, required=False, label=gettext_lazy("Description"))


class EditForm(AddressForm):
    """What can be changed; only RocketMQ has proxies."""

    def __init__(self, *args: Any, kind: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if kind != Kind.ROCKETMQ:
            del self.fields["proxy_address"]


class AddForm(AddressForm):
    """A new cluster."""

    name = forms.CharField(
        max_length=200, label=gettext_lazy("Name"), help_text=gettext_lazy("Becomes the node /zms/cluster/NAME and cannot be changed.")
    )
    kind = forms.ChoiceField(choices=[choice for choice in Kind.choices if choice[0] != Kind.BUILTIN], label=gettext_lazy("Kind"))
    field_order = ["name", "kind", "address", "proxy_address", "description"]


class Add(FormPage):
    """Add a cluster."""

    permission = "clusters.add_cluster"
    here = "clusters"
    title = gettext_lazy("Add a cluster")
    template_name = "clusters/form.html"
    form_class = AddForm
    submit_label = gettext_lazy("Add")

    def context(self) -> dict[str, Any]:
        """Where to go back to."""
        return {"crumbs": [(_("Clusters"), reverse("admin:clusters_list"))], "back": reverse("admin:clusters_list")}

    def perform(self, form: AddForm) -> str:
        """Add it."""
        cluster = services.create(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:clusters_detail", args=[cluster.name])

    def success(self, form: AddForm) -> Any:
        """What comes next."""
        return _("{name} is added; topics can be allocated to it.").format(name=form.cleaned_data["name"])


class Edit(ClusterPage):
    """Change the address; every node that depends on it is set again."""

    template_name = "clusters/form.html"
    form_class = EditForm
    submit_label = gettext_lazy("Save and publish")

    def form_arguments(self) -> dict[str, Any]:
        """What its kind has."""
        return {"kind": self.cluster.kind}

    def initial(self) -> dict[str, Any]:
        """As it is."""
        cluster = self.cluster
        return {"address": cluster.address, "proxy_address": cluster.proxy_address, "description": cluster.description}

    def context(self) -> dict[str, Any]:
        """How many nodes will be set again."""
        cluster = self.cluster
        back = reverse("admin:clusters_detail", args=[cluster.name])
        paths = services.dependent_paths(cluster)
        topics = sum(path.startswith("/zms/topic/") for path in paths)
        return {
            "title": _("Edit {name}").format(name=cluster.name),
            "crumbs": [(_("Clusters"), reverse("admin:clusters_list")), (cluster.name, back)],
            "back": back,
            "cluster": cluster,
            "dependants_count": len(paths),
            "topics_text": ngettext("{n} topic", "{n} topics", topics).format(n=f"{topics:,}"),
            "groups_text": ngettext("{n} consumer group", "{n} consumer groups", len(paths) - topics).format(n=f"{len(paths) - topics:,}"),
        }

    def perform(self, form: AddressForm) -> str:
        """Change it."""
        cluster = services.change(actor=person(self.request), cluster=self.cluster, **form.cleaned_data)
        return reverse("admin:clusters_detail", args=[cluster.name])

    def success(self, form: AddressForm) -> Any:
        """Said plainly."""
        if {"address", "proxy_address"} & set(form.changed_data):
            return _("Saved; the nodes that depend on it are set again.")
        return _("Saved.")


def _find(user: Any, words: str) -> list[slots.Hit]:
    if not user.has_perm("clusters.view_cluster"):
        return []
    rows = Cluster.objects.filter(name__icontains=words)[:5]
    return [slots.Hit("cluster", row.name, row.get_kind_display(), reverse("admin:clusters_detail", args=[row.name])) for row in rows]


slots.search(_find)

urlpatterns = [
    path("clusters/", Clusters.as_view(), name="clusters_list"),
    path("clusters/add/", Add.as_view(), name="clusters_add"),
    path("clusters/<str:name>/", Detail.as_view(), name="clusters_detail"),
    path("clusters/<str:name>/edit/", Edit.as_view(), name="clusters_edit"),
    path("clusters/<str:name>/limits/", Limits.as_view(), name="clusters_limits"),
]
