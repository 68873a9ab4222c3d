"""The overview: what needs a human now, worst first, in real numbers; everything is read from Postgres, no broker is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Count, Max, Min, Q
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from clusters.models import Cluster
from consumers.models import ConsumerGroup, ShadowTask
from core.approvals import kinds
from core.approvals.models import Request, State
from core.audit.models import AuditEntry
from core.audit.reading import changes
from core.console import slots
from core.console.counting import count_all
from core.console.pages import Page, person
from core.console.templatetags.console import span
from core.scope import Reach
from messages import services as store
from messages.types import Lag, StoreHealth
from registry.health import PublicationHealth, publication, registrars, said
from registry.models import Instance, Publication, RegistrarHeartbeat
from registry.status import statuses
from topics.models import Topic

BEHIND = 60.0  # seconds: older than that a waiting message means that its group is behind
STRAGGLER = timedelta(seconds=30)  # an instance that still runs an older generation after so long is one
STALE = 10.0  # seconds without a tick after which the storekeeper is away
ROWS = 8
TODOS = 12  # of each kind; the page says how many more there are


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
        groups = _Groups.of(user) if sees_groups else _Groups()
        health = _health()
        clusters = list(Cluster.objects.restrict(user)) if user.has_perm("clusters.view_cluster") else []
        slots.fill("clusters", clusters)
        published = statuses([cluster.zookeeper_path for cluster in clusters])
        for cluster in clusters:
            cluster.publication = published.get(cluster.zookeeper_path)  # type: ignore[attr-defined]
        numbers = count_all(
            {
                "topics": Topic.objects.restrict(user).filter(state=State.ACTIVE),
                "not_out": Publication.objects.restrict(user).dirty(),
                "drift": Publication.objects.restrict(user).filter(drifted_at__isnull=False),
                "nodes": Publication.objects.restrict(user).live(),
                "online": Instance.objects.restrict(user).online(),
                "silent": Instance.objects.restrict(user).online().filter(Q(plain=True) | Q(applied_generation=None)),
                "requests": Request.objects.restrict(user).pending(),
                "overdue": Request.objects.restrict(user).overdue(),
                "watching": RegistrarHeartbeat.objects.watching(),
                "registrars": RegistrarHeartbeat.objects.alive(),
            }
        )
        found = [*_processes(health, numbers), *_todo(user, groups, numbers)]
        todo = sorted(found, key=lambda item: (item.rank, -item.weight))
        entries = list(AuditEntry.objects.restrict(user).order_by("-id")[:ROWS]) if user.has_perm("audit.view_auditentry") else []
        for entry in entries:
            entry.change_text = changes(entry)  # type: ignore[attr-defined]
        return self.show(
            {
                "numbers": numbers,
                "totals": groups.totals,
                "lag": groups.totals["waiting"],
                "worst": span(timedelta(seconds=max((lag.seconds for lag in groups.lags.values()), default=0.0))),
                "groups_count": groups.number,
                "behind_count": sum(lag.seconds > BEHIND for lag in groups.lags.values()),
                "dead_groups": groups.totals["dead_groups"],
                "suspended_count": len(groups.suspended),
                "pending": numbers["requests"],
                "todo": todo[:TODOS],
                "todo_count": len(todo) + groups.left_out,
                "todo_more": len(todo[TODOS:]) + groups.left_out,
                "todo_hot": any(item.status in {"dead", "failed", "down"} for item in todo),
                "behind": groups.furthest(),
                "clusters": clusters[:ROWS],
                "clusters_count": len(clusters),
                "cluster_columns": slots.columns_of("clusters"),
                "entries": entries,
                "sees_groups": sees_groups,
                "sees_nodes": sees_nodes,
                "health": health,
                "publication_health": publication_health(user),
                "registrars": [said(row) for row in registrars()] if user.has_perm("registry.view_registrarheartbeat") else None,
                "dead_url": _url("messages_dead"),
                "fresh": not numbers["topics"] and not numbers["requests"],
            }
        )


def publication_health(user: Any) -> PublicationHealth | None:
    """For those who see all of it; of somebody's own nodes the list tells."""
    return publication() if user.reach("registry.view_publication") is Reach.ALL else None


def _url(name: str, *args: Any, query: str = "") -> str:
    try:
        return reverse(f"admin:{name}", args=args) + query
    except NoReverseMatch:
        return ""


class _Groups:
    """The active groups in numbers, and the few of them that the page shows: there may be ten thousand."""

    def __init__(self) -> None:
        self.number = 0
        self.suspended: list[int] = []
        self.lags: dict[int, Lag] = {}
        self.late: list[int] = []  # behind and not suspended, worst first
        self.dead: dict[int, int] = {}
        self.totals = dict.fromkeys(("waiting", "processing", "succeeded", "later", "dead", "dead_groups"), 0)
        self.rows: dict[int, ConsumerGroup] = {}

    @classmethod
    def of(cls, user: Any) -> "_Groups":
        """Those that the person may see; a fixed number of statements."""
        self = cls()
        active = ConsumerGroup.objects.restrict(user).filter(state=State.ACTIVE)
        ids = list(active.values_list("pk", flat=True))
        if not ids:
            return self
        self.number = len(ids)
        self.suspended = list(active.filter(suspended=True).order_by("-changed_at").values_list("pk", flat=True))
        self.lags = store.behind(group_ids=ids)
        late = set(self.lags) - set(self.suspended)
        self.late = sorted((pk for pk in late if self.lags[pk].seconds > BEHIND), key=lambda pk: -self.lags[pk].seconds)
        self.dead = store.most_dead(group_ids=ids, limit=TODOS)
        self.totals |= store.totals(group_ids=ids)
        self.totals["waiting"] = sum(lag.messages for lag in self.lags.values())
        shown = {*self._furthest(), *self.late[:TODOS], *self.dead, *self.suspended[:TODOS]}
        self.rows = ConsumerGroup.objects.prefetch_related("subscriptions__topic").in_bulk(shown)
        return self

    @property
    def left_out(self) -> int:
        """How many groups need somebody and are not among the rows."""
        return sum(max(0, n - TODOS) for n in (self.totals["dead_groups"], len(self.late), len(self.suspended)))

    def _furthest(self) -> list[int]:
        return sorted(self.lags, key=lambda pk: -self.lags[pk].seconds)[:ROWS]

    def furthest(self) -> list[ConsumerGroup]:
        """The groups furthest behind with their numbers."""
        ids = [pk for pk in self._furthest() if pk in self.rows]
        counts = store.counts(group_ids=ids) if ids else {}
        for pk in ids:
            row: Any = self.rows[pk]
            row.lag, row.behind, row.counts = self.lags[pk], timedelta(seconds=self.lags[pk].seconds), counts[pk]
        return [self.rows[pk] for pk in ids]


def _health() -> StoreHealth | None:
    """None while the storekeeper has never run; the page must come up all the same."""
    try:
        with transaction.atomic():
            return store.health()
    except (DatabaseError, IndexError, TypeError):
        return None


def _todo(user: Any, groups: _Groups, numbers: dict[str, int]) -> Iterator[Todo]:
    if user.has_perm("registry.view_publication"):
        yield from _nodes(user)
    if user.has_perm("registry.view_instance"):
        yield from _stragglers(user)
    yield from _groups(groups)
    yield from _requests(user, numbers)
    if user.has_perm("consumers.view_shadowtask"):
        on = ShadowTask.objects.restrict(user).filter(enabled=True).aggregate(first=Min("lease_until"), last=Max("changed_at"))
        number = ShadowTask.objects.restrict(user).filter(enabled=True).count() if on["first"] else 0
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


def _groups(groups: _Groups) -> Iterator[Todo]:
    for pk, dead in groups.dead.items():
        if group := groups.rows.get(pk):
            what = ngettext("{n} dead letter", "{n} dead letters", dead).format(n=f"{dead:,}")
            url = _url("messages_dead", query=f"?group={group.name}") or _url("consumers_detail", group.name)
            yield Todo(40, "dead", what, _("in {group}").format(group=group.name), None, url, _("Look"), weight=dead)
    for group in filter(None, map(groups.rows.get, groups.late[:TODOS])):
        lag = groups.lags[group.pk]
        what = _("{group} is {time} behind").format(group=group.name, time=span(timedelta(seconds=lag.seconds)))
        why = ngettext("{n} message waits", "{n} messages wait", lag.messages).format(n=f"{lag.messages:,}")
        since = timezone.now() - timedelta(seconds=lag.seconds)
        yield Todo(30, "behind", what, why, since, _url("consumers_detail", group.name), _("Open"), weight=lag.seconds)
    for group in filter(None, map(groups.rows.get, groups.suspended[:TODOS])):
        what = _("{group} is suspended").format(group=group.name)
        yield Todo(70, "suspended", what, group.suspend_reason, group.changed_at, _url("consumers_detail", group.name), _("Open"))


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
    if health is None or health.storekeeper_age is None or health.storekeeper_age > STALE:
        age = timezone.now() - timedelta(seconds=health.storekeeper_age) if health and health.storekeeper_age is not None else None
        yield Todo(0, "down", _("The storekeeper is away"), _("new messages are kept, but not handed out"), age, "", "")
    elif health.held_back > STALE:
        since = timezone.now() - timedelta(seconds=health.held_back)
        why = _("somebody has sent in a transaction that is still open")
        yield Todo(0, "down", _("New messages are held back"), why, since, "", "")
    elif health.clock_refused:
        yield Todo(5, "failed", _("The clock of the database jumped ahead"), _("message ids do not follow it; set it right"), None, "", "")


def _nodes(user: Any) -> Iterator[Todo]:
    seen = Publication.objects.restrict(user)
    wrong = seen.failing() | seen.filter(drifted_at__isnull=False)
    for row in wrong.distinct().defer("data").order_by("changed_at")[:5]:
        url = _url("registry_publication", row.pk)
        if row.state in {"drifted", "held"}:
            text = _("waits for a person: {edit}") if row.is_held else _("differs in ZooKeeper: {edit}")
            yield Todo(
                10,
                "drift",
                row.path,
                text.format(edit=row.get_last_foreign_edit_display()),
                row.last_foreign_edit_at or row.drifted_at,
                url,
                _("Compare"),
            )
        else:
            yield Todo(15, "failed", row.path, row.last_error, row.changed_at, url, _("See"))


def _stragglers(user: Any) -> Iterator[Todo]:
    late = Instance.objects.restrict(user).with_applied().filter(Q(applied="outdated"))
    paths = dict(late.order_by("path").values_list("path", "app")[:200])
    if paths:
        for row in Publication.objects.filter(path__in=paths, published_at__lt=timezone.now() - STRAGGLER).only(
            "pk", "path", "published_at"
        )[:5]:
            what = _("{path} is not applied everywhere").format(path=row.path)
            yield Todo(20, "outdated", what, paths[row.path], row.published_at, _url("registry_publication", row.pk), _("Who"))


def _requests(user: Any, numbers: dict[str, int]) -> Iterator[Todo]:
    waiting, late = numbers["requests"], numbers["overdue"]
    if not waiting:
        return
    rows = Request.objects.restrict(user).pending()
    labels = dict(kinds.choices())
    parts = [f"{labels.get(kind, kind)}: {n}" for kind, n in rows.order_by("kind").values_list("kind").annotate(n=Count("pk"))]
    oldest = rows.aggregate(at=Min("requested_at"))["at"]
    if late:
        what = ngettext("{n} request is overdue", "{n} requests are overdue", late).format(n=f"{late:,}")
        yield Todo(
            25, "later", what, ", ".join(parts), oldest, _url("requests", query="?view=pending&overdue=yes"), _("Review"), weight=late
        )
    else:
        what = ngettext("{n} request waits for approval", "{n} requests wait for approval", waiting).format(n=f"{waiting:,}")
        yield Todo(60, "pending", what, ", ".join(parts), oldest, _url("requests", query="?view=pending"), _("Review"))


def overview(request: HttpRequest) -> TemplateResponse:
    """The page behind the site's index."""
    return Overview.as_view()(request)  # type: ignore[return-value]
