"""Topics and groups by name for the hot path: one statement each, a fifth of what the ORM's query costs."""

from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from django.utils.translation import gettext as _

from accounts.models import Application
from clusters.models import Cluster, Kind
from consumers.models import Balance, ConsumerGroup
from core.approvals.models import State
from core.errors import Problem, conflict, not_found
from core.scope import Principal, Reach
from messages.db import fetch
from messages.types import SeenTopic
from topics.models import Topic

_TOPIC = (
    f"SELECT t.id, t.state, c.kind, c.name, t.application_id, t.max_backlog, t.cluster_id FROM {Topic._meta.db_table} t"  # noqa: S608, SLF001 - the models' own names of their tables
    f" LEFT JOIN {Cluster._meta.db_table} c ON c.id = t.cluster_id WHERE t.name = %s"  # noqa: SLF001
)
_GROUP = (
    "SELECT g.id, g.state, g.application_id, g.mode, g.balance,"  # noqa: S608
    " (SELECT greatest(max(r.created_at), max(r.undone_at)) FROM mq_reset r WHERE r.group_id = g.id)"
    f" FROM {ConsumerGroup._meta.db_table} g WHERE g.name = %s"  # noqa: SLF001
)
_FOLLOWED = {  # who follows one need not be served by the built-in store
    "topic": (
        f"SELECT t.state, t.application_id, a.name, false, NULL, NULL FROM {Topic._meta.db_table} t"  # noqa: S608, SLF001
        f" JOIN {Application._meta.db_table} a ON a.id = t.application_id WHERE t.name = %s"  # noqa: SLF001
    ),
    "group": (
        "SELECT g.state, g.application_id, a.name, g.suspended, CASE g.mode WHEN 'broadcast' THEN g.id END,"  # noqa: S608
        " CASE g.balance WHEN 'sticky' THEN g.id END"
        f" FROM {ConsumerGroup._meta.db_table} g"  # noqa: SLF001
        f" JOIN {Application._meta.db_table} a ON a.id = g.application_id WHERE g.name = %s"  # noqa: SLF001
    ),
}
# Groups that were active: a name never gets another id, and the store itself refuses a group that was retired or suspended since.
# The time bound is for a database that was put in the place of another one.
CACHE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Pulling:
    """A group that may pull: of a broadcast group an instance does, of a sticky one a worker that says who it is.

    `moved_at`: when a person has moved its position last, by a rewind, a skip, or the undo of one.
    """

    group_id: int
    broadcast: bool
    sticky: bool
    moved_at: datetime | None = None


_groups: dict[str, tuple[float, int, Pulling]] = {}
_topics: dict[str, tuple[float, SeenTopic]] = {}  # for what is refused if they are not so any more
SEND, CONSUME = "mq_messages.send_message", "mq_messages.consume_message"


@dataclass(frozen=True, slots=True)
class Followed:
    """What a client follows: a topic or a group."""

    path: str
    application: str
    suspended: bool
    broadcast_group: int | None = None  # each instance of it has a position of its own
    sticky_group: int | None = None  # each worker of it has keys of its own


def followed(user: Principal, kind: str, name: str, *, any_state: bool = False) -> Followed:
    """The topic or group that a client of who asks may follow. Problems: not_found, topic_not_active, group_not_active."""
    permission, word, model = (SEND, _("topic"), Topic) if kind == "topic" else (CONSUME, _("consumer group"), ConsumerGroup)
    rows = fetch(_FOLLOWED[kind], (name,)) if "\x00" not in name else []
    if not rows or not _within(user, permission, rows[0][1]):
        raise not_found(word, name)
    state, _application_id, application, suspended, broadcast_group, sticky_group = rows[0]
    if state != State.ACTIVE and not any_state:
        raise _not_active(kind, name, state)
    return Followed(model.path_of(name), application, suspended, broadcast_group, sticky_group)


def _not_active(kind: str, name: str, state: str) -> Problem:
    if kind == "topic":
        return conflict(
            "topic_not_active",
            _("The topic “{name}” is {state}.").format(name=name, state=State(state).label),
            hint=_("Only an approved topic takes messages."),
        )
    return conflict(
        "group_not_active",
        _("The consumer group “{name}” is {state}.").format(name=name, state=State(state).label),
        hint=_("Only an approved group takes messages."),
    )


def active_topic(user: Principal, name: str) -> tuple[int, int]:
    """Id and ceiling of the backlog of a topic that takes messages here, from who asks, now. Problems: as of `topic_now`."""
    seen = topic_now(user, name)
    return seen.topic_id, seen.max_backlog


def topic_lately(user: Principal, name: str) -> SeenTopic:
    """The same as it was some seconds ago at most: for a send that is refused if it is not so any more. Problems: as of `topic_now`."""
    cached = _topics.get(name)
    if cached is not None and cached[0] > monotonic() and _within(user, SEND, cached[1].application_id):
        return cached[1]
    return topic_now(user, name)


def topic_now(user: Principal, name: str) -> SeenTopic:
    """A topic that takes messages here, from who asks. Problems: not_found, topic_not_active, not_on_builtin_store."""
    rows = fetch(_TOPIC, (name,))
    if not rows or not _within(user, SEND, rows[0][4]):
        raise not_found(_("topic"), name)
    topic_id, state, kind, cluster, application_id, max_backlog, cluster_id = rows[0]
    if state != State.ACTIVE:
        raise _not_active("topic", name, state)
    if kind != Kind.BUILTIN:
        raise conflict(
            "not_on_builtin_store",
            _("The topic “{name}” is on the cluster “{cluster}”, not in the built-in store.").format(name=name, cluster=cluster),
            hint=_("Send to that cluster; the SDK does it by itself."),
            extra={"cluster": cluster},
        )
    if len(_topics) > 10_000:
        _topics.clear()
    seen = SeenTopic(topic_id, application_id, cluster_id, max_backlog)
    _topics[name] = (monotonic() + CACHE_SECONDS, seen)
    return seen


def active_group(user: Principal, name: str) -> int:
    """The id of a group that may pull, for who asks. Problems: not_found, group_not_active."""
    return pulling_group(user, name).group_id


def pulling_group(user: Principal, name: str) -> Pulling:
    """The same, with who pulls."""
    now = monotonic()
    cached = _groups.get(name)
    if cached is not None and cached[0] > now and _within(user, CONSUME, cached[1]):
        return cached[2]
    rows = fetch(_GROUP, (name,))
    if not rows or not _within(user, CONSUME, rows[0][2]):
        raise not_found(_("consumer group"), name)
    if rows[0][1] != State.ACTIVE:
        raise _not_active("group", name, rows[0][1])
    if len(_groups) > 10_000:
        _groups.clear()
    group_id, _state, application_id, mode, balance, moved_at = rows[0]
    found = Pulling(group_id, mode == ConsumerGroup.Mode.BROADCAST, balance == Balance.STICKY, moved_at)
    _groups[name] = (now + CACHE_SECONDS, application_id, found)
    return found


def _within(user: Principal, permission: str, application_id: int) -> bool:
    """Whether it belongs to whom the permission reaches; what does not is not there."""
    reach = user.reach(permission)
    return reach is Reach.ALL or (reach is Reach.OWN and application_id in user.own_application_ids())
