"""ZooKeeper itself in the console: a node with its children, live, decoded, beside what Postgres wants there. Read-only."""

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from core.console.actions import NOT_ALLOWED, Action
from core.console.pages import FormPage, OptionalReasonForm, Page, ReasonForm, person
from registry import checks, rebuilding, tree
from registry.api_tree import tree_file


def address(node: str, **more: str) -> str:
    """The page of a node."""
    return f"{reverse('admin:registry_zookeeper')}?{urlencode({'path': node, **more}, safe='/')}"


class ZooKeeperTree(Page):
    """One node with a page of its children."""

    permission = "registry.view_zookeeper"
    here = "zookeeper"
    title = gettext_lazy("ZooKeeper tree")
    template_name = "registry/zookeeper.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """As it stands now; a ZooKeeper that is away is said to be so within seconds."""
        asked = request.GET.get("path", "").strip() or "/"
        asked = asked.rstrip("/") or "/"
        after = request.GET.get("after", "")
        found = tree.look(path=asked, after=after)
        names = found.path.strip("/").split("/") if found.path != "/" else []
        steps = [(name, address("/" + "/".join(names[: position + 1]))) for position, name in enumerate(names)]
        return self.show(
            {
                "title": names[-1] if names else _("ZooKeeper tree"),
                "crumbs": [(_("ZooKeeper tree"), address("/")), *steps[:-1]] if names else [],
                "look": found,
                "rows": [(child, address(child.path)) for child in found.children],
                "up": address(found.path.rpartition("/")[0] or "/") if names else "",
                "next_url": address(found.path, after=found.next) if found.next else "",
                "first_url": address(found.path) if after else "",
                "shown": tree.SHOWN,
                "actions": _actions(request.user) if not names else [],
            }
        )


class Rebuild(FormPage):
    """Have what is missing written again."""

    permission = rebuilding.PERMISSION
    here = "zookeeper"
    title = gettext_lazy("Rebuild ZooKeeper")
    template_name = "registry/zookeeper_form.html"
    form_class = ReasonForm
    submit_label = gettext_lazy("Rebuild")

    def context(self) -> dict[str, Any]:
        """What it does."""
        said = [
            _("Registrars look at every node that should stand; what is missing is written again, clusters before what depends on them."),
            _("It does so whatever the policy of the tree. What others have changed goes by the policy, as always."),
        ]
        return {**_way_back(), "said": said}

    def perform(self, form: ReasonForm) -> str:
        """Start it, and show how far it is."""
        operation = rebuilding.start(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:operations_detail", args=[operation.uid])

    def success(self, form: ReasonForm) -> Any:  # noqa: ARG002
        """The page tells."""
        return ""


class Check(Rebuild):
    """Compare everything."""

    permission = checks.PERMISSION
    title = gettext_lazy("Full check")
    form_class = OptionalReasonForm
    submit_label = gettext_lazy("Compare")

    def context(self) -> dict[str, Any]:
        """What it does."""
        said = [
            _("Every node is compared: what Postgres wants, what ZooKeeper holds, what the brokers know."),
            _("Each difference becomes a failed item of the operation, with what to do. The check repairs nothing by itself."),
        ]
        return {**_way_back(), "said": said}

    def perform(self, form: ReasonForm) -> str:
        """Start it, and show how far it is."""
        operation = checks.start(actor=person(self.request), **form.cleaned_data)
        return reverse("admin:operations_detail", args=[operation.uid])


class Export(Page):
    """The tree as a file."""

    permission = "registry.view_publication"
    here = "zookeeper"

    def get(self, request: HttpRequest) -> StreamingHttpResponse:
        """As Postgres wants it, of what the person may see."""
        return tree_file(request.user)


def _way_back() -> dict[str, Any]:
    return {"crumbs": [(_("ZooKeeper tree"), address("/"))], "back": address("/")}


def _actions(user: Any) -> list[Action]:
    def why(permission: str) -> Any:
        return "" if user.has_perm(permission) else NOT_ALLOWED

    return [
        Action(_("Export"), reverse("admin:registry_export"), "download", why=why(Export.permission)),
        Action(_("Full check"), reverse("admin:registry_check"), "check", why=why(checks.PERMISSION)),
        Action(_("Rebuild"), reverse("admin:registry_rebuild"), "refresh", why=why(rebuilding.PERMISSION)),
    ]


urlpatterns = [
    path("zookeeper/", ZooKeeperTree.as_view(), name="registry_zookeeper"),
    path("zookeeper/rebuild/", Rebuild.as_view(), name="registry_rebuild"),
    path("zookeeper/check/", Check.as_view(), name="registry_check"),
    path("zookeeper/export/", Export.as_view(), name="registry_export"),
]
