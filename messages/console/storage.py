"""The store's partitions and who needs them; on a topic's page what is kept of it."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy

from clusters.models import Kind
from core.approvals.models import State
from core.console.pages import Page
from messages import retention, scope, services
from topics.models import Topic

PERMISSION = "mq_messages.view_storage"
NAMED = 5  # groups on a topic's page


class Storage(Page):
    """All partitions: of the log, then of the delayed messages."""

    permission = PERMISSION
    here = "storage"
    title = gettext_lazy("Storage")
    template_name = "messages/storage.html"

    def get(self, request: HttpRequest) -> HttpResponse:  # noqa: ARG002
        """Oldest first; those of the log that are needed with who needs them."""
        rows = services.partitions()
        log = [one for one in rows if one.kind == "log"]
        ahead = [one for one in log if one.state == "ahead"]
        return self.show(
            {
                "age": None,  # what is folded out stays so
                "log": [{"p": one, "groups": [_shown(need) for need in one.groups]} for one in log if one.state != "ahead"],
                "ahead_from": ahead[0].begins_at if ahead else None,
                "ahead_to": ahead[-1].ends_at if ahead else None,
                "ahead_bytes": sum(one.bytes for one in ahead),
                "delayed": [one for one in rows if one.kind == "delayed" and (one.topics_total or one.state != "ahead")],
                "delayed_empty": sum(one.kind == "delayed" and not one.topics_total and one.state == "ahead" for one in rows),
                "bytes": sum(one.bytes for one in rows),
                "behind": sum(one.state == "behind" for one in log),
                "ahead": len(ahead),
                "named": retention.SHOWN,
            }
        )


def _shown(need: retention.GroupNeed) -> dict[str, Any]:
    """With where a person does something about it: dead letters are redriven or purged, of the rest the group's page tells."""
    url = reverse("admin:consumers_detail", args=[need.group])
    if need.status == "dead":
        about = {"group": need.group, "topic": need.topic, **({"instance": need.instance} if need.instance else {})}
        url = f"{reverse('admin:messages_dead')}?{urlencode(about)}"
    return {"need": need, "url": url}


def panel(request: HttpRequest, topic: Topic) -> str:
    """What the built-in store keeps of an active topic, how far back a rewind can go, and for whom messages wait."""
    if topic.state != State.ACTIVE or topic.cluster is None or topic.cluster.kind != Kind.BUILTIN:
        return ""
    kept = services.retention(topic_id=topic.pk)
    seen = scope.visible_groups(request.user, [holder.group_id for holder in kept.holders])
    holders = [holder for holder in kept.holders if holder.group_id in seen][:NAMED]
    context = {
        "topic": topic,
        "kept": kept,
        "holders": holders,
        "more": kept.holders_total - len(holders),
        "may_see_storage": request.user.has_perm(PERMISSION),
    }
    return render_to_string("messages/_retention.html", context)
