"""The message store's numbers on the pages of topics and groups: filled in from the roof, since those rooms lie below the store."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Kind
from consumers.models import ConsumerGroup, Subscription
from core.approvals.models import State
from core.console import slots
from core.console.slots import Column
from core.console.templatetags.console import dash, span, z
from core.scope import Reach, reach_of
from messages import backpressure, half, scope
from messages import services as store
from messages.db import fetch
from messages.scope import groups
from mqadmin import shell
from topics.models import Topic


def _elsewhere() -> SafeString:
    return dash(_("Its messages are on a broker cluster; what waits there is not read yet"))


def _idle() -> SafeString:
    return dash(_("Nothing flows unless it is active"))


def _kinds(ids: Sequence[int], field: str) -> dict[int, set[str]]:
    """The broker kinds behind each group (field group_id) or topic (field topic_id), in one statement."""
    found: dict[int, set[str]] = {}
    for pk, kind in Subscription.objects.filter(**{f"{field}__in": ids}).values_list(field, "topic__cluster__kind"):
        found.setdefault(pk, set()).add(kind)
    return found


def _known(waiting: int, kinds: set[str]) -> bool:
    """Zero is only told of what the store itself keeps; what waits on Kafka is unknown, not nothing."""
    return bool(waiting) or kinds <= {Kind.BUILTIN.value}


def group_cells(rows: Sequence[Any]) -> dict[int, list[Any]]:
    """Waiting, behind, later and dead of groups."""
    ids = [row.pk for row in rows if row.state == State.ACTIVE]
    cells: dict[int, list[Any]] = {row.pk: [_idle()] * 4 for row in rows}
    if not ids:
        return cells
    counts, lags, kinds = store.counts(group_ids=ids), store.lag(group_ids=ids), _kinds(ids, "group_id")
    for pk in ids:
        count, lag = counts[pk], lags[pk]
        if _known(lag.messages, kinds.get(pk, set())):
            waiting: list[Any] = [lag.messages, span(timedelta(seconds=lag.seconds)) if lag.messages else 0]
        else:
            waiting = [_elsewhere(), _elsewhere()]
        cells[pk] = [*waiting, count.later, _dead(count.dead)]
    return cells


def topic_cells(rows: Sequence[Any]) -> dict[int, list[Any]]:
    """The worst lag of a topic's groups and their dead letters together."""
    ids = [row.pk for row in rows if row.state == State.ACTIVE]
    groups = list(Subscription.objects.filter(topic__in=ids, group__state=State.ACTIVE).values_list("group_id", flat=True).distinct())
    cells: dict[int, list[Any]] = {row.pk: [_idle()] * 2 for row in rows}
    sql = "SELECT topic_id, max(waiting), sum(dead)::bigint FROM mq_counts(mq_members(%s::bigint[])) GROUP BY 1"
    found = {topic_id: (waiting, dead) for topic_id, waiting, dead in fetch(sql, (groups,))} if groups else {}
    kinds = {row.pk: {row.cluster.kind} if row.cluster else set() for row in rows}
    for pk in ids:
        waiting, dead = found.get(pk, (0, 0))
        cells[pk] = [waiting if _known(waiting, kinds[pk]) else _elsewhere(), _dead(dead)]
    return cells


def _dead(number: int) -> Any:
    return SafeString(f'<span class="t-dead strong">{number:,}</span>') if number else z(0)


def group_panel(_request: HttpRequest, group: ConsumerGroup) -> str:
    """A group's messages by status, in all and by topic."""
    by_topic = store.counts_by_topic(group_id=group.pk)
    lag = store.lag(group_ids=[group.pk])[group.pk]
    topics = [(row.topic, by_topic[row.topic_id]) for row in group.subscriptions.all() if row.topic_id in by_topic]
    keys = ("waiting", "processing", "succeeded", "later", "dead")
    totals = {key: sum(getattr(count, key) for _topic, count in topics) for key in keys}
    kinds = {row.topic.cluster.kind for row in group.subscriptions.all() if row.topic.cluster}
    context = {
        "group": group,
        "totals": totals,
        "full": bool(group.max_outstanding) and sum(count.processing for count in by_topic.values()) >= group.max_outstanding,
        "topics": topics,
        "lag": lag,
        "behind": timedelta(seconds=lag.seconds),
        "elsewhere": kinds - {Kind.BUILTIN.value},
    }
    return render_to_string("mqadmin/_group_counts.html", context)


def dead_letters(user: Any) -> int:
    """Dead letters of the active groups that somebody sees, from the store's own counters: cheap enough for every page."""
    params: tuple[Any, ...] = ()
    if reach_of(user, "mq_messages.view_message") is Reach.ALL:
        active = "SELECT id FROM consumers_consumergroup WHERE state = 'active'"
    else:
        ids = groups(user).filter(state=State.ACTIVE).values_list("pk", flat=True)
        active, params = "SELECT unnest(%s::bigint[])", (list(ids),)
    sql = (
        "SELECT coalesce(sum(c.dead), 0)::bigint FROM mq_cursor c"  # noqa: S608 - constants
        " LEFT JOIN mq_instance i ON i.instance_id = c.group_id AND i.gone_at IS NULL"
        f" WHERE c.dead > 0 AND coalesce(i.group_id, c.group_id) IN ({active})"
    )
    return int(fetch(sql, params)[0][0])


def undecided_half_messages(user: Any) -> int:
    """Half messages that wait for a person: hardly ever one, so whose they are is asked only then."""
    found = half.undecided()
    return half.undecided(topic_ids=scope.topic_ids(user)) if found else 0


shell.extra_counts["dead"] = dead_letters
shell.extra_counts["half"] = undecided_half_messages

GROUP_COLUMNS = [
    Column("waiting", gettext_lazy("Waiting"), css="num", title=gettext_lazy("Messages that nobody has taken yet")),
    Column("behind", gettext_lazy("Behind"), css="num hide-s", title=gettext_lazy("Age of the oldest waiting message")),
    Column("later", gettext_lazy("Later"), css="num hide-m", title=gettext_lazy("Failed, tried again later")),
    Column("dead", gettext_lazy("Dead"), css="num"),
]
slots.columns("groups", GROUP_COLUMNS, group_cells)
slots.columns("topic.groups", GROUP_COLUMNS, group_cells)
slots.columns(
    "topics",
    [
        Column("lag", gettext_lazy("Worst lag"), css="num", title=gettext_lazy("Messages that wait for the group that is furthest behind")),
        Column("dead", gettext_lazy("Dead"), css="num", title=gettext_lazy("Dead letters of all its groups")),
    ],
    topic_cells,
)


def topic_panel(_request: HttpRequest, topic: Topic) -> str:
    """A topic's backlog beside its ceiling, if it has one."""
    if not topic.max_backlog or topic.state != State.ACTIVE:
        return ""
    waiting = backpressure.backlog(topic_id=topic.pk)
    return render_to_string("mqadmin/_topic_backlog.html", {"topic": topic, "waiting": waiting, "full": waiting >= topic.max_backlog})


slots.panel("group", group_panel)
slots.panel("topic", topic_panel)
