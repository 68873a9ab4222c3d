"""What the console's frame needs on every page: the sidebar with its counts, the palette, the keys, who is signed in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import SimpleLazyObject
from django.utils.translation import get_language_info, gettext_lazy, pgettext
from django.utils.translation import gettext as _

from accounts.models import Application
from accounts.rolesync import roles_of
from clusters.models import Cluster
from consumers.models import ConsumerGroup, ShadowTask
from core.approvals.models import Request, State
from core.console.counting import count_all
from core.operations.models import Operation
from registry.discovery_models import Service
from registry.models import Drift, Gate, Instance, Publication, RegistrarHeartbeat
from topics.models import Topic


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the sidebar; left out for those without its permission and while its page does not exist."""

    id: str
    icon: str
    label: Any
    url: str  # name within the namespace admin
    key: str = ""  # after g
    permission: str = ""
    heat: str = ""
    count: Callable[[Any], QuerySet[Any, Any]] | None = None  # of what the person sees


SECTIONS: list[tuple[Any, list[Entry]]] = [
    (
        gettext_lazy("Traffic"),
        [
            Entry("overview", "overview", gettext_lazy("Overview"), "index", "o"),
            Entry(
                "topics",
                "topic",
                gettext_lazy("Topics"),
                "topics_list",
                "t",
                "topics.view_topic",
                count=lambda user: Topic.objects.restrict(user).exclude(state=State.RETIRED),
            ),
            Entry(
                "groups",
                "group",
                gettext_lazy("Consumer groups"),
                "consumers_list",
                "c",
                "consumers.view_consumergroup",
                count=lambda user: ConsumerGroup.objects.restrict(user).exclude(state=State.RETIRED),
            ),
            Entry("messages", "message", gettext_lazy("Messages"), "messages_list", "m", "mq_messages.view_message"),
            Entry("dead", "dead", gettext_lazy("Dead letters"), "messages_dead", "d", "mq_messages.view_message", heat="hot"),
            Entry("delayed", "clock", gettext_lazy("Delayed"), "messages_delayed", "l", "mq_messages.view_message"),
            Entry("half", "branch", gettext_lazy("Half messages"), "messages_half", "h", "mq_messages.view_message", heat="hot"),
        ],
    ),
    (
        gettext_lazy("Change"),
        [
            Entry(
                "requests",
                "request",
                gettext_lazy("Requests"),
                "requests",
                "q",
                "approvals.view_request",
                heat="warm",
                count=lambda user: Request.objects.restrict(user).pending(),
            ),
            Entry(
                "operations",
                "operation",
                gettext_lazy("Operations"),
                "operations_list",
                "j",
                "operations.view_operation",
                heat="warm",
                count=lambda user: Operation.objects.restrict(user).unfinished(),
            ),
            Entry("import", "download", gettext_lazy("Import"), "consumers_import", "y", "consumers.import_consumergroup"),
            Entry(
                "shadow",
                "shadow",
                gettext_lazy("Shadow groups"),
                "consumers_shadow",
                "s",
                "consumers.view_shadowtask",
                count=lambda user: ShadowTask.objects.restrict(user).filter(enabled=True),
            ),
        ],
    ),
    (
        gettext_lazy("Infrastructure"),
        [
            Entry(
                "clusters",
                "cluster",
                gettext_lazy("Clusters"),
                "clusters_list",
                "k",
                "clusters.view_cluster",
                count=Cluster.objects.restrict,
            ),
            Entry(
                "instances",
                "instance",
                gettext_lazy("Instances"),
                "registry_instances",
                "i",
                "registry.view_instance",
                count=lambda user: Instance.objects.restrict(user).online(),
            ),
            Entry(
                "publications",
                "tree",
                gettext_lazy("Publications"),
                "registry_publications",
                "p",
                "registry.view_publication",
                heat="warm",
                count=lambda user: Publication.objects.restrict(user).dirty(),
            ),
            Entry("releases", "release", gettext_lazy("Releases"), "registry_releases", "e", "registry.view_release"),
            Entry("zookeeper", "folder", gettext_lazy("ZooKeeper tree"), "registry_zookeeper", "z", "registry.view_zookeeper"),
            Entry(
                "drift",
                "flag",
                gettext_lazy("Drift"),
                "registry_drifts",
                "f",
                "registry.view_drift",
                heat="hot",
                count=lambda user: Drift.objects.restrict(user).waiting(),
            ),
            Entry(
                "gates",
                "filter",
                gettext_lazy("Gated releases"),
                "registry_gates",
                "v",
                "registry.view_gate",
                heat="warm",
                count=lambda user: Gate.objects.restrict(user).standing(),
            ),
            Entry("storage", "folder", gettext_lazy("Storage"), "messages_storage", "b", "mq_messages.view_storage"),
        ],
    ),
    (
        gettext_lazy("Registry"),
        [
            Entry(
                "services",
                "branch",
                gettext_lazy("Services"),
                "registry_services",
                "r",
                "registry.view_service",
                count=lambda user: Service.objects.restrict(user).laid_out("dubbo"),
            ),
            Entry(
                "producers",
                "send",
                gettext_lazy("Messaging apps"),
                "registry_producers",
                "u",
                "registry.view_service",
                count=lambda user: Service.objects.restrict(user).laid_out("messages"),
            ),
            Entry(
                "jobs",
                "operation",
                gettext_lazy("Jobs and leaders"),
                "registry_jobs",
                "x",
                "registry.view_service",
                count=lambda user: Service.objects.restrict(user).laid_out("jobs"),
            ),
            Entry(
                "registrations",
                "instance",
                gettext_lazy("Registrations"),
                "registry_registrations",
                "n",
                "registry.view_registration",
            ),
            Entry("worker-ids", "key", gettext_lazy("Worker ids"), "registry_worker_ids", "w", "registry.view_workerid"),
        ],
    ),
    (
        gettext_lazy("Oversight"),
        [
            Entry("audit", "audit", gettext_lazy("Audit"), "audit_list", "a", "audit.view_auditentry"),
            Entry(
                "applications",
                "branch",
                gettext_lazy("Applications"),
                "accounts_application_changelist",
                "",
                "accounts.view_application",
                count=Application.objects.restrict,
            ),
            Entry("users", "user", gettext_lazy("People"), "accounts_user_changelist", "", "accounts.view_user"),
            Entry("roles", "lock", gettext_lazy("Roles"), "auth_group_changelist", "", "auth.view_group"),
            Entry("tokens", "key", gettext_lazy("API tokens"), "accounts_tokens", "", "accounts.view_apitoken"),
            Entry("keys", "key", gettext_lazy("Application keys"), "accounts_keys", "", "accounts.view_applicationkey"),
            Entry("sessions", "user", gettext_lazy("Sessions"), "accounts_sessions"),
        ],
    ),
]


def shell(request: HttpRequest) -> dict[str, Any]:
    """Environment, and the frame, which costs its queries only on pages that draw it."""
    return {
        "env": {"kind": settings.ENVIRONMENT, "name": settings.ENVIRONMENT.upper()},
        "frame": SimpleLazyObject(lambda: _frame(request)),
        "languages": [{"code": code, "name": get_language_info(code)["name_local"]} for code, _name in settings.LANGUAGES],
    }


def _frame(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    shown = []
    for title, entries in SECTIONS:
        allowed = [
            (entry, url) for entry in entries if (not entry.permission or user.has_perm(entry.permission)) and (url := _url(entry.url))
        ]
        if allowed:
            shown.append((title, allowed))
    every = [entry for _title, entries in shown for entry, _url in entries]
    asked = {entry.id: entry.count(user) for entry in every if entry.count}
    counts: dict[str, int | None] = dict(
        count_all(
            {**asked, "registrar:alive": RegistrarHeartbeat.objects.alive(), "registrar:watching": RegistrarHeartbeat.objects.watching()}
        )
    )
    counts.update({key: value(user) for key, value in extra_counts.items() if any(entry.id == key for entry in every)})
    sections = [
        {
            "title": title,
            "entries": [{"entry": entry, "url": url, "count": counts.get(entry.id), "heat": entry.heat} for entry, url in entries],
        }
        for title, entries in shown
    ]
    return {
        "sections": sections,
        "initials": _initials(user),
        "role": _role(user),
        "registrar": _registrar(counts),
        "keys": _keys(every),
        "version": settings.VERSION,
    }


# Counts that no queryset gives, by the id of their entry; a room of the data plane adds its own (None: unknown).
extra_counts: dict[str, Callable[[Any], int | None]] = {}


def _url(name: str) -> str:
    try:
        return reverse(f"admin:{name}")
    except NoReverseMatch:
        return ""


def _registrar(counts: dict[str, int | None]) -> dict[str, str]:
    alive, watching = counts["registrar:alive"] or 0, counts["registrar:watching"] or 0
    if not alive:
        return {"tone": "bad", "text": _("No registrar"), "title": _("Changes wait in Postgres until a registrar publishes them.")}
    if not watching:
        return {
            "tone": "warm",
            "text": _("Registrar waits for ZooKeeper"),
            "title": _("Changes are published when the connection is back."),
        }
    return {
        "tone": "",
        "text": _("Registrar {n} of {m}").format(n=watching, m=alive),
        "title": _("Connected to ZooKeeper and watching instances."),
    }


def _initials(user: Any) -> str:
    name = user.get_full_name() or user.get_username()
    parts = [part for part in name.replace(".", " ").replace("-", " ").replace("_", " ").split() if part]
    return ("".join(part[0] for part in parts[:2]) if len(parts) > 1 else name[:2]).upper()


def _role(user: Any) -> str:
    held = [role.label for role in roles_of(user)]
    return " · ".join(str(label) for label in held) or _("No role")


def _keys(entries: list[Entry]) -> list[dict[str, Any]]:
    go = [(entry.label, ["g", entry.key]) for entry in entries if entry.key]
    everywhere = [
        (_("Search or jump to"), ["Ctrl", "K"]),
        (_("Search this list"), ["/"]),
        (_("Next or previous row"), ["j", "k"]),
        (pgettext("key", "Open the row"), ["Enter"]),
        (_("Select the row"), ["x"]),
        (_("Refresh now"), ["r"]),
        (_("Fold the sidebar"), ["["]),
        (_("Close"), ["Esc"]),
        (_("This help"), ["?"]),
    ]
    return [{"title": _("Everywhere"), "keys": everywhere}, {"title": _("Go to"), "keys": go}]
