"""The overview: what needs a human now, worst first, in real numbers; everything is read from Postgres, no broker is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Max, Min, Q
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from clusters.models import Cluster
from consumers.models import ConsumerGroup, ShadowTask
from core.approvals.models import State
from core.audit.models import AuditEntry
from core.audit.reading import changes
from core.console import slots
from core.console.counting import count_all
from core.console.pages import Page, person
from core.console.templatetags.console import span
from messages import services as store
from messages.types import Counts, Lag, StoreHealth
from registry.models import Instance, Publication, RegistrarHeartbeat
from registry.status import statuses
from topics.models import Topic

BEHIND = 60.0  # seconds: older than that a waiting message means that its group is behind
STRAGGLER = timedelta(seconds=30)  # an instance that still runs an older generation after so long is one
STALE = 10.0  # seconds without a tick after which the storekeeper is away
ROWS = 8


@dataclass(frozen=True, slots=True)
class Todo:
    """One thing that needs somebody; `rank` orders them, worst first, and `weight` those of one rank, heaviest first."""

    rank: int
    status: str
    what: Any
    why: Any
    since: datetime | None
    url: str
    action: Any
    weight: float = 0.0


class Overview(Page):
    """The index of the console."""

    here = "overview"
    title = gettext_lazy("Overview")
    template_name = "mqadmin/overview.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """All of it; each part only for those who may see it."""
        user = person(request)
        sees_groups, sees_nodes = user.has_perm("consumers.view_consumergroup"), user.has_perm("registry.view_publication")
        groups = list(ConsumerGroup.objects.filter(state=State.ACTIVE).prefetch_related("subscriptions__topic")) if sees_groups else []
        counts, lags = _store_numbers([group.pk for group in groups])
        health = _health()
        clusters = list(Cluster.objects.all()) if user.has_perm("clusters.view_cluster") else []
        slots.fill("clusters", clusters)
        published = statuses([cluster.zookeeper_path for cluster in clusters])
        for cluster in clusters:
            cluster.publication = published.get(cluster.zookeeper_path)  # type: ignore[attr-defined]
        numbers = count_all(
            {
                "topics": Topic.objects.filter(state=State.ACTIVE),
                "not_out": Publication.objects.dirty(),
                "drift": Publication.objects.filter(drifted_at__isnull=False),
                "nodes": Publication.objects.live(),
                "online": Instance.objects.online(),
                "silent": Instance.objects.online().filter(Q(plain=True) | Q(applied_generation=None)),
                "pending_topics": Topic.objects.filter(state=State.PENDING),
                "pending_groups": ConsumerGroup.objects.filter(state=State.PENDING),
                "watching": RegistrarHeartbeat.objects.watching(),
                "registrars": RegistrarHeartbeat.objects.alive(),
            }
        )
        found = [*_processes(health, numbers), *_todo(user, groups, counts, lags, numbers)]
        todo = sorted(found, key=lambda item: (item.rank, -item.weight))
        behind = sorted((group for group in groups if _lag(lags, group).messages), key=lambda group: -_lag(lags, group).seconds)
        for group in behind[:ROWS]:
            group.lag = _lag(lags, group)  # type: ignore[attr-defined]
            group.behind = timedelta(seconds=group.lag.seconds)  # type: ignore[attr-defined]
            group.counts = counts.get(group.pk)  # type: ignore[attr-defined]
        entries = list(AuditEntry.objects.order_by("-id")[:ROWS]) if user.has_perm("audit.view_auditentry") else []
        for entry in entries:
            entry.change_text = changes(entry)  # type: ignore[attr-defined]
        return self.show(
            {
                "numbers": numbers,
                "totals": _totals(counts.values()),
                "lag": sum(lag.messages for lag in lags.values()),
                "worst": span(timedelta(seconds=max((lag.seconds for lag in lags.values()), default=0.0))),
                "groups_count": len(groups),
                "behind_count": sum(_lag(lags, group).seconds > BEHIND for group in groups),
                "dead_groups": sum(bool(c.dead) for c in counts.values()),
                "suspended_count": sum(group.suspended for group in groups),
                "pending": numbers["pending_topics"] + numbers["pending_groups"],
                "todo": todo,
                "todo_hot": any(item.status in {"dead", "failed", "down"} for item in todo),
                "behind": behind[:ROWS],
                "clusters": clusters[:ROWS],
                "clusters_count": len(clusters),
                "cluster_columns": slots.columns_of("clusters"),
                "entries": entries,
                "sees_groups": sees_groups,
                "sees_nodes": sees_nodes,
                "health": health,
                "dead_url": _url("messages_dead"),
                "fresh": not numbers["topics"] and not numbers["pending_topics"],
            }
        )


def _url(name: str, *args: Any, query: str = "") -> str:
    try:
        return reverse(f"admin:{name}", args=args) + query
    except NoReverseMatch:
        return ""


def _store_numbers(ids: list[int]) -> tuple[dict[int, Counts], dict[int, Lag]]:
    return (store.counts(group_ids=ids), store.lag(group_ids=ids)) if ids else ({}, {})


def _lag(lags: dict[int, Lag], group: ConsumerGroup) -> Lag:
    return lags.get(group.pk) or Lag(group.pk)


def _totals(all_counts: Any) -> dict[str, int]:
    totals = dict.fromkeys(("waiting", "processing", "succeeded", "later", "dead"), 0)
    for counts in all_counts:
        for key in totals:
            totals[key] += getattr(counts, key)
    return totals


def _health() -> StoreHealth | None:
    """None while the storekeeper has never run; the page must come up all the same."""
    try:
        with transaction.atomic():
            return store.health()
    except (DatabaseError, IndexError, TypeError):
        return None


def _todo(
    user: Any, groups: list[ConsumerGroup], counts: dict[int, Counts], lags: dict[int, Lag], numbers: dict[str, int]
) -> Iterator[Todo]:
    if user.has_perm("registry.view_publication"):
        yield from _nodes()
    if user.has_perm("registry.view_instance"):
        yield from _stragglers()
    for group in groups:
        dead, lag = counts[group.pk].dead if group.pk in counts else 0, _lag(lags, group)
        page = _url("consumers_detail", group.name)
        if dead:
            what = ngettext("{n} dead letter", "{n} dead letters", dead).format(n=f"{dead:,}")
            url = _url("messages_dead", query=f"?group={group.name}") or page
            yield Todo(40, "dead", what, _("in {group}").format(group=group.name), None, url, _("Look"), weight=dead)
        if lag.seconds > BEHIND and not group.suspended:
            what = _("{group} is {time} behind").format(group=group.name, time=span(timedelta(seconds=lag.seconds)))
            why = ngettext("{n} message waits", "{n} messages wait", lag.messages).format(n=f"{lag.messages:,}")
            yield Todo(30, "behind", what, why, timezone.now() - timedelta(seconds=lag.seconds), page, _("Open"), weight=lag.seconds)
        if group.suspended:
            yield Todo(
                70, "suspended", _("{group} is suspended").format(group=group.name), group.suspend_reason, group.changed_at, page, _("Open")
            )
    yield from _requests(user, numbers)
    if user.has_perm("consumers.view_shadowtask"):
        on = ShadowTask.objects.filter(enabled=True).aggregate(first=Min("lease_until"), last=Max("changed_at"))
        number = ShadowTask.objects.filter(enabled=True).count() if on["first"] else 0
        if number:
            what = ngettext("{n} shadow group is on", "{n} shadow groups are on", number).format(n=number)
            left = on["first"] - timezone.now()
            yield Todo(
                80,
                "shadow",
                what,
                _("the first ends in {time}").format(time=span(left)),
                on["last"],
                _url("consumers_shadow", query="?view=on"),
                _("Open"),
            )


def _processes(health: StoreHealth | None, numbers: dict[str, int]) -> Iterator[Todo]:
    publications = _url("registry_publications", query="?view=waiting")
    if not numbers["registrars"]:
        newest = RegistrarHeartbeat.objects.aggregate(at=Max("beat_at"))["at"]
        why = ngettext("{n} change waits in Postgres", "{n} changes wait in Postgres", numbers["not_out"]).format(n=numbers["not_out"])
        yield Todo(0, "down", _("No registrar is running"), why, newest, publications, _("See"))
    elif not numbers["watching"]:
        yield Todo(
            0,
            "down",
            _("ZooKeeper does not answer the registrars"),
            _("changes wait; who is online is unknown"),
            None,
            publications,
            _("See"),
        )
    if health is None or health.horizon_age > STALE:
        age = timezone.now() - timedelta(seconds=health.horizon_age) if health and health.horizon_age < 10**9 else None
        yield Todo(0, "down", _("The storekeeper is away"), _("new messages are kept, but not handed out"), age, "", "")
    elif health.clock_refused:
        yield Todo(5, "failed", _("The clock of the database jumped ahead"), _("message ids do not follow it; set it right"), None, "", "")


def _nodes() -> Iterator[Todo]:
    wrong = Publication.objects.failing() | Publication.objects.filter(drifted_at__isnull=False)
    for row in wrong.distinct().defer("data", "last_foreign_data").order_by("changed_at")[:5]:
        url = _url("registry_publication", row.pk)
        if row.state == "drifted":
            yield Todo(
                10,
                "drift",
                row.path,
                _("differs in ZooKeeper: {edit}").format(edit=row.get_last_foreign_edit_display()),
                row.drifted_at,
                url,
                _("Compare"),
            )
        else:
            yield Todo(15, "failed", row.path, row.last_error, row.changed_at, url, _("See"))


def _stragglers() -> Iterator[Todo]:
    late = Instance.objects.with_applied().filter(Q(applied="outdated"))
    paths = dict(late.order_by("path").values_list("path", "app")[:200])
    if paths:
        for row in Publication.objects.filter(path__in=paths, published_at__lt=timezone.now() - STRAGGLER).only(
            "pk", "path", "published_at"
        )[:5]:
            what = _("{path} is not applied everywhere").format(path=row.path)
            yield Todo(20, "outdated", what, paths[row.path], row.published_at, _url("registry_publication", row.pk), _("Who"))


def _requests(user: Any, numbers: dict[str, int]) -> Iterator[Todo]:
    topics = numbers["pending_topics"] if user.has_perm("topics.view_topic") else 0
    groups = numbers["pending_groups"] if user.has_perm("consumers.view_consumergroup") else 0
    if not topics + groups:
        return
    oldest = [model.objects.filter(state=State.PENDING).aggregate(at=Min("requested_at"))["at"] for model in (Topic, ConsumerGroup)]
    what = ngettext("{n} request waits for approval", "{n} requests wait for approval", topics + groups).format(n=topics + groups)
    parts = [
        ngettext("{n} topic", "{n} topics", topics).format(n=topics) if topics else "",
        ngettext("{n} consumer group", "{n} consumer groups", groups).format(n=groups) if groups else "",
    ]
    yield Todo(60, "pending", what, ", ".join(filter(None, parts)), min(filter(None, oldest)), _url("requests"), _("Review"))


def overview(request: HttpRequest) -> TemplateResponse:
    """The page behind the site's index."""
    return Overview.as_view()(request)  # type: ignore[return-value]
