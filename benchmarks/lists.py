"""Every list of the console and of the API, found by looking at the addresses themselves, each with its variants.

A page or endpoint that is added tomorrow is measured, and counted by the tests of query counts, without a line here, as long as the
parameters of its address stand for something that `Examples` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from django.db import connection
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

#: Pages and endpoints without a list in them, or none of our making: sign-in, passwords, translations of Django's scripts, one message's
#: body as a file, and what waits for events.
NO_LIST = {
    "login",
    "logout",
    "password_change",
    "password_change_done",
    "jsi18n",
    "autocomplete",
    "view_on_site",
    "messages_body",
    "operations_events",
    "operations_news",
}
#: Django's own pages of one object.
NO_LIST_ENDINGS = ("_add", "_change", "_delete", "_history")


@dataclass(frozen=True)
class Address:
    """A list with the variants that are looked at: (what, path and query)."""

    name: str
    kind: str  # console or api
    variants: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Examples:
    """What parameters of addresses stand for: the busiest topic, the group with most dead letters, …"""

    values: dict[str, Any]
    missing: list[str] = field(default_factory=list)

    @classmethod
    def of_database(cls) -> Examples:
        """The heaviest of each kind in this database; kinds that have none are left out."""
        asked = {
            "topic": "SELECT t.name FROM topics_topic t LEFT JOIN mq_cursor c ON c.topic_id = t.id WHERE t.state = 'active'"
            " GROUP BY t.id ORDER BY count(c.group_id) DESC, t.id LIMIT 1",
            "group": "SELECT g.name FROM consumers_consumergroup g LEFT JOIN mq_cursor c ON c.group_id = g.id WHERE g.state = 'active'"
            " GROUP BY g.id ORDER BY coalesce(sum(c.dead), 0) DESC, g.id LIMIT 1",
            "cluster": "SELECT name FROM clusters_cluster ORDER BY kind <> 'builtin', name LIMIT 1",
            "application": "SELECT name FROM accounts_application ORDER BY name LIMIT 1",
            "owner": "SELECT username FROM accounts_user ORDER BY id DESC LIMIT 1",
            "publication": "SELECT id FROM registry_publication ORDER BY id LIMIT 1",
            "gate": "SELECT id FROM registry_gate ORDER BY id LIMIT 1",
            "release": "SELECT id FROM registry_release ORDER BY id DESC LIMIT 1",
            "drift": "SELECT id FROM registry_drift ORDER BY id LIMIT 1",
            "tree": "SELECT name FROM registry_driftpolicy ORDER BY id LIMIT 1",
            "registrar": "SELECT id FROM registry_registrarheartbeat LIMIT 1",
            "instance": "SELECT id FROM registry_instance ORDER BY id LIMIT 1",
            "service": "SELECT id FROM registry_service ORDER BY layout = 'jobs' DESC, id LIMIT 1",
            "registration": "SELECT id FROM registry_registration ORDER BY id LIMIT 1",
            "worker": "SELECT id FROM registry_workerid ORDER BY id LIMIT 1",
            "message": "SELECT id FROM mq_message WHERE topic_id = (SELECT min(t.id) FROM topics_topic t WHERE EXISTS"
            " (SELECT 1 FROM mq_message m WHERE m.topic_id = t.id)) ORDER BY id DESC LIMIT 1",
            "delayed": "SELECT d.id FROM mq_delayed d JOIN topics_topic t ON t.id = d.topic_id ORDER BY d.deliver_at, d.id LIMIT 1",
            "shadow": "SELECT id FROM consumers_shadowtask ORDER BY id LIMIT 1",
            "user": "SELECT id FROM accounts_user ORDER BY id LIMIT 1",
            "token": "SELECT id FROM accounts_apitoken ORDER BY id LIMIT 1",
            "operation": "SELECT uid FROM operations_operation ORDER BY failed DESC, id LIMIT 1",
            "request": "SELECT id FROM approvals_request ORDER BY id LIMIT 1",
            "policy": "SELECT id FROM approvals_policy ORDER BY id LIMIT 1",
            "target": "SELECT id FROM approvals_notificationtarget ORDER BY id LIMIT 1",
            "audit": "SELECT id FROM audit_auditentry ORDER BY id LIMIT 1",
            "key": "SELECT m.key FROM topics_topic t JOIN mq_message m ON m.topic_id = t.id WHERE m.key IS NOT NULL LIMIT 1",
            "path": "SELECT path FROM registry_publication WHERE root = '/zms/topic' ORDER BY id LIMIT 1",
        }
        values: dict[str, Any] = {"tag": "created", "words": "order"}
        for name, sql in asked.items():
            with connection.cursor() as cursor:
                cursor.execute(sql)
                row = cursor.fetchone()
            if row is not None:
                values[name] = row[0]
        return cls(values)

    def get(self, name: str) -> Any:
        """The value, None if this database has none."""
        return self.values.get(name)


# What the first part of a path means for the parameter that follows it, in the console and in the API.
_MEANS = {
    "topics": "topic",
    "groups": "group",
    "consumer-groups": "group",
    "clusters": "cluster",
    "applications": "application",
    "application": "application",
    "publications": "publication",
    "gates": "gate",
    "releases": "release",
    "drift": "drift",
    "registrars": "registrar",
    "drift-policies": "tree",
    "instances": "instance",
    "services": "service",
    "registrations": "registration",
    "worker-ids": "worker",
    "messages": "message",
    "delayed": "delayed",
    "delayed-messages": "delayed",
    "shadow": "shadow",
    "shadow-tasks": "shadow",
    "users": "user",
    "people": "user",
    "tokens": "token",
    "operations": "operation",
    "requests": "request",
    "policies": "policy",
    "notification-targets": "target",
    "targets": "target",
    "audit": "audit",
    "audit-entries": "audit",
}


def _filled(parts: list[str], examples: Examples) -> str | None:
    """A path with its parameters replaced; None when one has no example."""
    filled: list[str] = []
    means = ""
    for part in parts:
        if "<" in part or "{" in part or "(" in part:
            value = examples.get(means) if means else None
            if value is None:
                return None
            filled.append(quote(str(value), safe=""))
        else:
            filled.append(part)
            means = _MEANS.get(part, means if not part else "")
    return "/".join(filled)


# --- the console ------------------------------------------------------------------------------------------------------------


def _patterns(resolver: Any, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for item in resolver.url_patterns:
        route = prefix + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from _patterns(item, route)
        else:
            yield route, item


def console(examples: Examples, user: Any) -> list[Address]:
    """Every page of the console that shows a list, for this person; those whose address has no example go to `examples.missing`."""
    from core.console.pages import FormPage

    found = []
    for route, pattern in _patterns(get_resolver()):
        name = pattern.name or ""
        if not route.startswith("admin/") or not name or name in NO_LIST or name.endswith(NO_LIST_ENDINGS):
            continue
        view = getattr(pattern.callback, "view_class", None)
        if view is not None and (issubclass(view, FormPage) or not hasattr(view, "get")):
            continue
        if view is None and name.startswith("auth_user_password"):
            continue
        path = _filled(route.split("/"), examples)
        if path is None or re.search(r"[<(\\]", path):
            examples.missing.append(route)
            continue
        found.append(
            Address(name, "console", list(_console_variants(name, "/" + path.replace("^", "").replace("$", ""), view, examples, user)))
        )
    return found


def _console_variants(name: str, path: str, view: Any, examples: Examples, user: Any) -> Iterator[tuple[str, str]]:
    from core.console.lists import SLOT, ListPage

    yield "as it comes", path
    words = examples.get("words")
    if view is not None and issubclass(view, ListPage):
        from core.console import slots

        columns = [column for item in view.columns for column in (slots.columns_of(view.slot) if item is SLOT else [item])]
        for column in columns:
            if column.sort:
                yield f"sort={column.key}", f"{path}?sort={column.key}"
                yield f"sort=-{column.key}", f"{path}?sort=-{column.key}"
        for item in view.views:
            yield f"view={item.key}", f"{path}?view={item.key}"
        for item in view.filters:
            options = list(item.options(_request(path, user)))
            if options:
                yield f"{item.key}=…", f"{path}?{urlencode({item.key: options[len(options) // 2][0]})}"
        yield "search", f"{path}?q={words}"
        yield "search of two words", f"{path}?q={words}+0"
        yield "search without a match", f"{path}?q=nothing-is-called-so"
        yield "rows=100", f"{path}?rows=100"
        yield "a page far on", f"{path}?page=100"
        yield "the last page", f"{path}?page=9999999"
    elif name.endswith("_changelist"):
        yield "search", f"{path}?q={words}"
        yield "the last page", f"{path}?p=1"
    for what, query in _PAGE_VARIANTS.get(name, []):
        values = {key: examples.get(value) if value else "" for key, value in query.items()}
        if None not in values.values():
            yield what, f"{path}?{urlencode(values)}"


def _request(path: str, user: Any) -> Any:
    from django.test import RequestFactory

    request = RequestFactory().get(path)
    request.user = user
    return request


# Pages that are no ListPage: the parameters that they know. Values are names of examples.
_PAGE_VARIANTS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "find": [("a word", {"q": "words"}), ("a message's id", {"q": "message"}), ("a topic's name", {"q": "topic"})],
    "messages_list": [
        ("a topic", {"topic": "topic"}),
        ("a key", {"topic": "topic", "q": "key"}),
        ("an id", {"topic": "topic", "q": "message"}),
        ("an open message", {"topic": "topic", "id": "message"}),
    ],
    "messages_dead": [("a group", {"group": "group"}), ("a group, a word", {"group": "group", "reason": "words"})],
    "messages_delayed": [("a topic", {"topic": "topic"})],
}


# --- the API ----------------------------------------------------------------------------------------------------------------


@cache
def schema() -> dict[str, Any]:
    """The OpenAPI document; making it takes seconds."""
    from drf_spectacular.generators import SchemaGenerator

    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-any-return,no-untyped-call]


def api(examples: Examples, document: dict[str, Any] | None = None) -> list[Address]:
    """Every GET of the API that answers with a list, with its filters, a page of 500, and the exact count."""
    document = document or schema()
    found = []
    for path, methods in document["paths"].items():
        operation = methods.get("get")
        if operation is None or not _is_list(operation, document):
            continue
        filled = _filled(path.split("/"), examples)
        if filled is None:
            examples.missing.append(path)
            continue
        found.append(Address(f"GET {path.removeprefix('/api/v1')}", "api", list(_api_variants(filled, operation, examples, document))))
    return found


def _resolved(part: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def _is_list(operation: dict[str, Any], document: dict[str, Any]) -> bool:
    answer = _resolved(operation["responses"].get("200", {}), document)
    body = _resolved(answer.get("content", {}).get("application/json", {}).get("schema", {}), document)
    return body.get("type") == "array" or "results" in body.get("properties", {})


def _api_variants(path: str, operation: dict[str, Any], examples: Examples, document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known = [_resolved(parameter, document) for parameter in operation.get("parameters", [])]
    parameters = {p["name"]: _resolved(p["schema"], document) for p in known if p["in"] == "query"}
    needed = {p["name"]: _value(p["name"], parameters[p["name"]], examples) for p in known if p["in"] == "query" and p.get("required")}
    if None in needed.values():
        examples.missing.append(path)
        return

    def query(**more: Any) -> str:
        asked = {**needed, **{key: value for key, value in more.items() if value is not None}}
        return f"{path}?{urlencode(asked)}" if asked else path

    yield "as it comes", query()
    for name, kind in parameters.items():
        if name in needed or name == "cursor":
            continue
        if name == "limit":
            yield "limit=500", query(limit=500)
        elif (value := _value(name, kind, examples)) is not None:
            yield f"{name}=…", query(**{name: value})


def _value(name: str, kind: dict[str, Any], examples: Examples) -> Any:
    """A value of a query parameter; None when nobody knows one."""
    if name in {"fields", "exclude", "format", "dry_run"}:
        return None
    if kind.get("enum"):
        return kind["enum"][0]
    if kind.get("type") == "boolean":
        return "true"
    if kind.get("format") == "date-time":
        ago = timedelta(hours=2) if name in {"from", "after", "since"} or name.endswith(("_from", "_after", "_gte")) else timedelta()
        return (timezone.now() - ago).isoformat(timespec="seconds")
    if name == "id":
        return examples.get("message")
    if name == "path_prefix":
        return "/zms/topic/order"
    if name == "root":
        return "/zms/topic"
    if kind.get("type") == "integer":
        return 1
    if (known := examples.get(name)) is not None:
        return known
    return examples.get("words") if kind.get("type") == "string" else None


def floors() -> dict[str, str]:
    """What costs no list: a framed page of the console, one small row over the API, and the health probe."""
    return {"console": reverse("admin:password_change"), "api": "/api/v1/clusters/builtin", "probe": reverse("healthz")}


def meaning(part: str) -> str:
    """What the parameter behind this part of a path stands for; empty if nobody knows."""
    return _MEANS.get(part, "")
