"""Clusters that topics have left, on the pages of topics, groups and clusters; and the page on which a person ends it."""

from typing import Any

from django.db.models import Count, Max, Min, Q
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.drivers import builtin
from clusters.models import Cluster, Kind
from core.approvals.models import State
from core.console import approving, slots
from core.console.actions import Action
from core.console.pages import ReasonForm, person
from core.errors import conflict
from topics import draining, moving
from topics.console_verbs import ClusterChoice, TopicAction
from topics.models import Draining, Topic


class EndForm(ReasonForm):
    """The cluster that holds nothing more of the topic, and how one knows."""

    cluster = ClusterChoice(
        queryset=Cluster.objects.none(),
        to_field_name="name",
        label=gettext_lazy("Drained cluster"),
        help_text=gettext_lazy("Groups let go of it. What is left there all the same is not received any more."),
    )
    field_order = ["cluster", "reason"]

    def __init__(self, *args: Any, topic: Topic, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["cluster"].queryset = Cluster.objects.filter(draining__topic=topic).order_by("name")  # type: ignore[attr-defined]


class End(TopicAction):
    """Say that a cluster which the topic has left is drained."""

    permission = "topics.move_topic"
    title = gettext_lazy("End draining of {name}")
    form_class = EndForm
    submit_label = gettext_lazy("End draining")
    said = gettext_lazy("Groups of {name} let go of the cluster when they see it.")

    def check(self) -> None:
        """There is something to end."""
        super().check()
        if not self.topic.draining.exists():
            raise conflict("not_draining", _("No cluster is being drained of “{topic}”.").format(topic=self.topic.name))

    def form_arguments(self) -> dict[str, Any]:
        """Only what is being drained."""
        return {"topic": self.topic}

    def initial(self) -> dict[str, Any]:
        """The one whose button was pressed."""
        return {"cluster": self.request.GET.get("cluster", "")}

    def run(self, form: EndForm) -> None:
        """End it."""
        draining.end(actor=person(self.request), topic=self.topic, **{name: form.cleaned_data[name] for name in ("cluster", "reason")})


def _of_topic(request: HttpRequest, topic: Topic) -> str:
    rows = list(topic.draining.select_related("cluster"))
    if not rows:
        return ""
    why = approving.why_not(person(request), "topics.move_topic", topic, [State.ACTIVE])
    address = reverse("admin:topics_end_draining", args=[topic.name])
    stored = next((row for row in rows if row.cluster.kind == Kind.BUILTIN), None)
    context = {
        "rows": [
            (row, Action(_("End draining"), f"{address}?{urlencode({'cluster': row.cluster.name})}", "check", "s", why=why)) for row in rows
        ],
        "left": builtin.backlog(topic_id=topic.pk) if stored else None,
    }
    return render_to_string("topics/_draining.html", context, request)


def of_group(_request: HttpRequest, group: Any) -> str:
    """The panel of a consumer group."""
    rows = (
        Draining.objects.filter(topic__subscriptions__group=group)
        .select_related("cluster", "topic")
        .order_by("topic__name", "cluster__name")
    )
    return render_to_string("topics/_draining_group.html", {"rows": rows}) if rows else ""


def _of_cluster(_request: HttpRequest, cluster: Cluster) -> str:
    rows = Draining.objects.filter(cluster=cluster)
    counted = rows.order_by().aggregate(
        topics=Count("pk"), since=Min("left_at"), latest=Max("until"), endless=Count("pk", filter=Q(until=None))
    )
    if not counted["topics"]:
        return ""
    groups = len(moving.touched(rows.order_by().values_list("topic", flat=True)))
    listed = f"{reverse('admin:topics_list')}?{urlencode({'draining': cluster.name})}"
    return render_to_string("topics/_draining_cluster.html", {**counted, "groups": groups, "listed": listed, "cluster": cluster})


slots.panel("topic", _of_topic)
slots.panel("cluster", _of_cluster)

urlpatterns = [path("topics/<str:name>/end-draining/", End.as_view(), name="topics_end_draining")]
