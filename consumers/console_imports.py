"""Importing in the console: what and whose, then the plan, then the operation."""

from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import choices
from accounts.models import Application, User
from consumers import imports, manifests
from consumers.imports_known import Owners
from consumers.manifests import Entry
from core.console.pages import FormPage, ReasonForm, attach, person
from core.errors import Problem
from registry import trees

MANIFEST, TREE, EXPORT = "manifest", "tree", "export"


class ImportForm(ReasonForm):
    """What is imported, and whose it is."""

    source = forms.ChoiceField(
        choices=[
            (TREE, gettext_lazy("The tree in ZooKeeper, as ZMS has left it")),
            (MANIFEST, gettext_lazy("A manifest")),
            (EXPORT, gettext_lazy("An exported tree")),
        ],
        label=gettext_lazy("Source"),
    )
    manifest = forms.CharField(
        required=False,
        strip=False,
        max_length=2_000_000,
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "false", "class": "mono"}),
        label=gettext_lazy("Manifest or exported tree"),
        help_text=gettext_lazy(
            "YAML or JSON with clusters, topics and consumer_groups, as “Export” above gives it; or the lines that “Export” of the"
            " ZooKeeper tree gives."
        ),
    )
    application = forms.ModelChoiceField(
        queryset=Application.objects.none(),
        to_field_name="name",
        required=False,
        label=gettext_lazy("Application"),
        help_text=gettext_lazy("Of what does not say its own."),
    )
    applications = forms.CharField(
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "class": "mono"}),
        label=gettext_lazy("Applications by prefix"),
        help_text=gettext_lazy("A line for each: prefix=application. The longest prefix of a name counts."),
    )
    owner = forms.ModelChoiceField(
        queryset=User.objects.none(),
        to_field_name="username",
        required=False,
        label=gettext_lazy("Owner"),
        help_text=gettext_lazy("Empty: the owner of the application."),
    )
    accept_warnings = forms.BooleanField(
        required=False,
        label=gettext_lazy("Do it in spite of the warnings"),
        help_text=gettext_lazy("Limits of clusters, what they do not know, messages that groups lose with a topic."),
    )
    field_order = ["source", "manifest", "application", "applications", "owner", "accept_warnings", "reason"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["application"].queryset = choices.applications()  # type: ignore[attr-defined]
        self.fields["owner"].queryset = choices.people()  # type: ignore[attr-defined]

    def clean_applications(self) -> dict[str, str]:
        """Applications by prefix."""
        found: dict[str, str] = {}
        for line in self.cleaned_data["applications"].splitlines():
            if not line.strip():
                continue
            prefix, separator, application = (part.strip() for part in line.partition("="))
            if not (prefix and separator and application):
                raise forms.ValidationError(_("“{line}” is not prefix=application.").format(line=line[:80]))
            found[prefix] = application
        return found

    def clean(self) -> Any:
        """A manifest where one is meant."""
        cleaned = super().clean()
        source, text = self.cleaned_data.get("source"), self.cleaned_data.get("manifest", "").strip()
        if source == MANIFEST and not text:
            self.add_error("manifest", _("Paste the manifest."))
        if source == EXPORT and not text:
            self.add_error("manifest", _("Paste the lines of the exported tree."))
        return cleaned


class Import(FormPage):
    """Import clusters, topics and groups; what it would do is shown before."""

    permission = imports.PERMISSION
    here = "import"
    title = gettext_lazy("Import")
    template_name = "consumers/import.html"
    form_class = ImportForm
    submit_label = gettext_lazy("Show what it would do")
    planned: list[imports.Planned] | None = None
    own_choices = ()

    def context(self) -> dict[str, Any]:
        """The plan, if there is one."""
        if self.planned is None:
            return {"manifest_url": "/api/v1/manifest?as=yaml"}
        counts = imports.counts(self.planned)
        return {
            "manifest_url": "/api/v1/manifest?as=yaml",
            "plan": counts,
            "to_do": counts["create"] + counts["differs"],
            "told": imports.telling(self.planned),
            "shown": imports.digest(self.planned),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """First the plan; what was shown is what may be confirmed."""
        form = self.form_class(request.POST)
        if not form.is_valid():
            return self.page(form)
        try:
            self.planned = imports.plan(_entries(form), _owners(form), accept_warnings=form.cleaned_data["accept_warnings"])
        except Problem as problem:
            attach(form, problem)
            return self.page(form)
        if "confirm" in request.POST and request.POST.get("shown") == imports.digest(self.planned):
            return super().post(request, *args, **kwargs)
        return self.page(form)

    def perform(self, form: ImportForm) -> str:
        """Start it and show how far it is."""
        data = form.cleaned_data
        started = imports.start(
            actor=person(self.request),
            planned=self.planned or [],
            owners=_owners(form),
            source=data["source"],
            reason=data["reason"],
            accept_warnings=data["accept_warnings"],
        )
        return reverse("admin:operations_detail", args=[started.uid])

    def success(self, form: ImportForm) -> Any:  # noqa: ARG002
        """The operation's page says it."""
        return ""


def _entries(form: ImportForm) -> list[Entry]:
    if form.cleaned_data["source"] == TREE:
        return manifests.from_nodes(trees.read(settings.ZOOKEEPER_HOSTS))
    if form.cleaned_data["source"] == EXPORT:
        return manifests.from_export(form.cleaned_data["manifest"])
    return manifests.from_text(form.cleaned_data["manifest"])


def _owners(form: ImportForm) -> Owners:
    application, owner = form.cleaned_data["application"], form.cleaned_data["owner"]
    return Owners(
        application=application.name if application else "",
        prefixes=form.cleaned_data["applications"],
        owner=owner.get_username() if owner else "",
    )


urlpatterns = [path("import/", Import.as_view(), name="consumers_import")]
