"""Clients without ZooKeeper: register, heartbeat, leave. Plain views like the rest of the data plane, since each client beats every 5 s."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from accounts.authentication import authenticate
from accounts.models import User
from core.api.permissions import require
from core.errors import Problem
from core.request_context import address_of
from messages import broadcast, services
from messages.api import documents, wire
from messages.api.lookup import CONSUME, SEND, Followed, followed
from registry import clients
from registry.clients import Report, Wanted
from registry.models import Instance

_REPORT = frozenset({"generation", "state", "error"})
_CLIENT = _REPORT | {"id", "role", "topic", "group", "name", "sdk", "pid"}
_MAX_NUMBER = 2**62 - 1  # of a generation or a process
#: What a producer may is needed for producers, and likewise for consumers.
_PERMISSION = {Instance.Role.PRODUCER: SEND, Instance.Role.CONSUMER: CONSUME}
_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
Handler = Callable[..., HttpResponse]


def _view(method: str, documentation: type) -> Callable[[Handler], Handler]:
    """One method of JSON by a token or a key; which permission it needs depends on what is asked, so the handler sees to that."""

    def decorate(handler: Handler) -> Handler:
        @csrf_exempt  # a token is asked for; a browser's cookies are not looked at
        def view(request: HttpRequest, **arguments: str) -> HttpResponse:
            if request.method != method:
                detail = _("Only {method} is possible here.").format(method=method)
                raise Problem("method_not_allowed", detail, status=405, headers={"Allow": method})
            return handler(request, authenticate(request), **arguments)

        vars(view).update(cls=documentation, initkwargs={})  # where drf-spectacular looks for what to say of a view
        return view

    return decorate


@_view("POST", documents.RegisterDocs)
def register(request: HttpRequest, user: User) -> HttpResponse:
    """Make a client known under an id of its own; again is harmless."""
    _require_any(user)
    fields = wire.read_object(request)
    wire.only(fields, _CLIENT)
    role = wire.typed(fields, "role", str)
    if role not in _PERMISSION:
        raise wire.invalid("/role", _("The role is producer or consumer."))
    require(user, _PERMISSION[Instance.Role(role)])
    follows = _followed(user, role, fields)
    number = _uuid(fields)
    address = (address_of(request) or "")[:255]
    name = _text(fields, "name", 255)
    if follows.broadcast_group is not None:
        broadcast.check_name(name or "", "/name")
    sdk, pid, report = _text(fields, "sdk", 120) or "", _number(fields, "pid"), _report(fields)
    with transaction.atomic():
        made, wanted = clients.register(
            client=number,
            path=follows.path,
            role=role,
            app=follows.application,
            ip=address,
            name=name or f"{address} {number}".strip(),
            sdk=sdk,
            pid=pid,
            report=report,
        )
        if follows.broadcast_group is not None:  # its position is kept from now on, not only from its first pull
            broadcast.join(group_id=follows.broadcast_group, name=name or "")
    document = {
        "id": str(number),
        "heartbeat_seconds": int(clients.HEARTBEAT.total_seconds()),
        "evict_after_seconds": int(clients.EVICT_AFTER.total_seconds()),
        **_wanted(wanted, follows),
    }
    return wire.respond(document, status=201 if made else 200)


@_view("POST", documents.HeartbeatDocs)
def heartbeat(request: HttpRequest, user: User, client: str) -> HttpResponse:
    """Say that a client lives and what it runs; the answer says what it should run."""
    instance, follows = _own(user, client)
    fields = wire.read_object(request)
    wire.only(fields, _REPORT)
    wanted = clients.beat(instance=instance, report=_report(fields))
    if follows.broadcast_group is not None:
        broadcast.join(group_id=follows.broadcast_group, name=instance.node)
    return wire.respond({"id": client, **_wanted(wanted, follows)})


@_view("DELETE", documents.LeaveDocs)
def leave(request: HttpRequest, user: User, client: str) -> HttpResponse:  # noqa: ARG001
    """Say goodbye; again is harmless. A worker of a sticky group gives its keys to the others, unless another client goes by its name."""
    instance, follows = _own(user, client, ended=True)
    clients.leave(instance=instance)
    if follows.sticky_group is not None and not Instance.objects.online().filter(path=instance.path, node=instance.node).exists():
        services.leave_group(group_id=follows.sticky_group, name=instance.node)
    return HttpResponse(status=204)


def _require_any(user: User) -> None:
    """Whoever may neither send nor consume learns nothing."""
    if not user.has_perm(CONSUME):
        require(user, SEND)


def _followed(user: User, role: str, fields: dict[str, Any]) -> Followed:
    """What the client follows."""
    wanted, other = ("topic", "group") if role == Instance.Role.PRODUCER else ("group", "topic")
    name = wire.typed(fields, wanted, str)
    if not name or fields.get(other) is not None:
        detail = _("A producer names a topic, a consumer names a group.")
        raise wire.invalid(f"/{wanted}" if not name else f"/{other}", detail)
    return followed(user, wanted, name)


def _own(user: User, client: str, *, ended: bool = False) -> tuple[Instance, Followed]:
    """The client of an address, if who asks may follow what it follows; `ended`: which may have been retired. Problem: not_found."""
    _require_any(user)
    found = clients.find(UUID(client))
    unknown = Problem("not_found", _("There is no client “{name}”.").format(name=client), status=404, hint=_("Register it: POST clients."))
    if found is None:
        raise unknown
    require(user, _PERMISSION[Instance.Role(found.role)])
    kind = "topic" if found.role == Instance.Role.PRODUCER else "group"
    try:
        return found, followed(user, kind, found.path.rpartition("/")[2], any_state=ended)
    except Problem as problem:
        if problem.code == "not_found":
            raise unknown from None
        raise


def _uuid(fields: dict[str, Any]) -> UUID:
    value = wire.typed(fields, "id", str)
    if value is None:
        return uuid4()
    try:
        return UUID(value)
    except ValueError:
        raise wire.invalid("/id", _("“id” must be a UUID.")) from None


def _report(fields: dict[str, Any]) -> Report:
    return Report(_number(fields, "generation"), _text(fields, "state", 32), _text(fields, "error", 4000))


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = wire.typed(fields, name, int)
    return None if value is None else wire.integer(fields, name, default=0, low=0, high=_MAX_NUMBER)


def _text(fields: dict[str, Any], name: str, longest: int) -> str | None:
    """A string that Postgres stores."""
    value = wire.typed(fields, name, str)
    if value is None:
        return None
    text = wire.text(fields, name, "", longest)
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def _wanted(wanted: Wanted, follows: Followed) -> dict[str, Any]:
    return {
        "generation": wanted.generation,
        "configuration": wanted.configuration,
        "clusters": wanted.clusters,
        "suspended": follows.suspended,
    }


urlpatterns = [
    re_path(r"^clients$", register, name="clients"),
    re_path(rf"^clients/(?P<client>{_ID})$", leave, name="client"),
    re_path(rf"^clients/(?P<client>{_ID})/heartbeat$", heartbeat, name="client-heartbeat"),
]
