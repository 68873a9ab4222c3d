"""Send, pull, ack, next: plain Django views, since a DRF view costs more than the store's own work."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from rest_framework.exceptions import AuthenticationFailed

from accounts.authentication import CACHE_SECONDS, authenticate, still_holds
from accounts.models import User
from core.api.permissions import require
from core.errors import FieldError, Problem
from core.names import PATTERN
from core.short_way import takes_short_way
from messages import backpressure, balancing, broadcast, services, waiting
from messages.api import documents, wire
from messages.api.lookup import Pulling, active_group, active_topic, pulling_group, topic_lately, topic_now
from messages.consuming import MAX_PULL, MAX_VISIBILITY_MS, NOBODY
from messages.sending import TopicChangedError
from messages.types import Accepted, Batch, NewMessage, Outcome, Settled

MAX_WAIT_MS = 30_000
RETRY_AFTER = "2"  # seconds
PARKED = "parked"  # what comes next waits for other workers
OUTSTANDING = "outstanding"  # why a pull hands out nothing: the group is at its ceiling
DEFAULT_PULL = 10
DEFAULT_VISIBILITY_MS = 60_000
MAX_CONSUMER = 255
_PULL = frozenset({"max", "wait_ms", "visibility_ms", "consumer"})
_NEXT = _PULL | {"lease", "acks"}
_ACKS = frozenset({"acks"})
_ACK = frozenset({"lease", "id", "status", "delay_ms", "error"})
_EXTENSION = frozenset({"visibility_ms"})
_DEPARTURE = frozenset({"consumer"})
View = Callable[..., HttpResponse]
Handler = Callable[..., HttpResponse]  # (user, name, fields, what else is in the address)


def data_plane(permission: str, documentation: type) -> Callable[[Handler], View]:
    """A POST of JSON with a token: method, credential, permission and body are checked before the handler sees them."""

    def decorate(handler: Handler) -> View:
        @takes_short_way
        @csrf_exempt  # a token is asked for; a browser's cookies are not looked at
        @wraps(handler)
        def view(request: HttpRequest, **named: str) -> HttpResponse:
            if request.method != "POST":
                raise Problem("method_not_allowed", _("Only POST is possible here."), status=405, headers={"Allow": "POST"})
            user = authenticate(request)
            require(user, permission)
            name, *further = named.values() or ("",)  # of the topic, the group or the application, and a lease; of a half message its id
            return handler(user, name, wire.read_object(request), *further)

        vars(view).update(cls=documentation, initkwargs={})  # where drf-spectacular looks for what to say of a view
        return view

    return decorate


@data_plane("mq_messages.send_message", documents.SendDocs)
def send(user: User, topic: str, fields: dict[str, Any]) -> HttpResponse:
    """Send one message or a batch; all or nothing."""
    messages, is_batch = wire.new_messages(fields)
    if is_batch:
        topic_id, ceiling = active_topic(user, topic)
        backpressure.admit(topic_id=topic_id, ceiling=ceiling, messages=sum(message.deliver_at is None for message in messages))
        accepted = services.send(topic_id=topic_id, messages=messages)
    else:
        accepted = [_send_one(user, topic, messages[0])]
    return wire.respond({"messages": [wire.accepted(a) for a in accepted]}, status=201)


def _send_one(user: User, topic: str, message: NewMessage) -> Accepted:
    """To a topic that may have been looked up some seconds ago: the statement that stores the message looks whether it is still so."""
    seen = topic_lately(user, topic)
    now = int(message.deliver_at is None)
    try:
        try:
            backpressure.admit(topic_id=seen.topic_id, ceiling=seen.max_backlog, messages=now)
            return services.send_one(topic=seen, message=message)
        except TopicChangedError:
            seen = topic_now(user, topic)
            backpressure.admit(topic_id=seen.topic_id, ceiling=seen.max_backlog, messages=now)
            return services.send_one(topic=seen.topic_id, message=message)
    except Problem as problem:  # the store speaks of the first of a list; this caller sent no list
        problem.errors = tuple(FieldError(error.pointer.removeprefix("/messages/0"), error.detail) for error in problem.errors)
        raise


@data_plane("mq_messages.consume_message", documents.PullDocs)
def pull(user: User, group: str, fields: dict[str, Any]) -> HttpResponse:
    """Hand out messages under a lease; wait for some if there are none."""
    wire.only(fields, _PULL)
    pulling, take = _take(user, group, fields)
    group_id = pulling.group_id
    found = services.pull(group_id=group_id, **take)
    try:
        found = _wait(user, found, group_id, fields, take)
    except waiting.FullError:
        # Nothing was done, so the request can be refused: an empty answer at once would have the caller ask again at once.
        raise Problem(
            "too_many_waiting",
            _("{n} long polls wait at this web process already.").format(n=settings.MAX_WAITING_PULLS),
            status=429,
            hint=_("Ask again later, add a web process, or raise MQADMIN_MAX_WAITING_PULLS."),
            headers={"Retry-After": RETRY_AFTER},
        ) from None
    if found.reason == OUTSTANDING:
        raise backpressure.too_many_outstanding(group_id=group_id)
    response = wire.respond({**wire.batch(found), "moved_at": pulling.moved_at, "sticky": pulling.sticky})
    if found.reason == PARKED:
        response["Retry-After"] = RETRY_AFTER
    return response


@data_plane("mq_messages.consume_message", documents.AcksDocs)
def acks(user: User, group: str, fields: dict[str, Any]) -> HttpResponse:
    """Settle messages of one or more leases, each lease in a commit of its own; one result per ack."""
    wire.only(fields, _ACKS)
    items = wire.acks_of(fields)
    if not items:
        raise wire.invalid("/acks", _("Give at least one ack."))
    by_lease: dict[str, list[tuple[int, Outcome]]] = {}
    for i, item in enumerate(items):
        outcome = wire.outcome(item, i, _ACK)
        lease = wire.lease_of(item, f"/acks/{i}")
        if lease is None:
            raise wire.no_lease(f"/acks/{i}/lease")
        by_lease.setdefault(lease, []).append((i, outcome))
    group_id = active_group(user, group)
    results: list[Settled | None] = [None] * len(items)
    for lease, numbered in by_lease.items():
        settled = services.settle(group_id=group_id, lease=lease, outcomes=[outcome for _i, outcome in numbered])
        for (i, _outcome), result in zip(numbered, settled, strict=True):
            results[i] = result
    return wire.respond({"acks": wire.settled(results)})


@data_plane("mq_messages.consume_message", documents.NextDocs)
def next_(user: User, group: str, fields: dict[str, Any]) -> HttpResponse:
    """Settle the previous lease and pull the next batch in one commit; wait if there is nothing."""
    wire.only(fields, _NEXT)
    lease = wire.lease_of(fields)
    outcomes = [wire.outcome(item, i) for i, item in enumerate(wire.acks_of(fields))]
    if outcomes and lease is None:
        raise wire.no_lease("/lease")
    pulling, take = _take(user, group, fields)
    group_id = pulling.group_id
    settled, found = services.next(group_id=group_id, lease=lease, outcomes=outcomes, **take)
    try:
        found = _wait(user, found, group_id, fields, take)
    except waiting.FullError:  # what was settled is committed: the caller must learn of it
        found = replace(found, reason="crowded")
    response = wire.respond({"acks": wire.settled(settled), **wire.batch(found), "moved_at": pulling.moved_at, "sticky": pulling.sticky})
    if found.reason in {"crowded", PARKED, OUTSTANDING, *NOBODY}:
        response["Retry-After"] = RETRY_AFTER
    return response


@data_plane("mq_messages.consume_message", documents.ExtensionDocs)
def extension(user: User, group: str, fields: dict[str, Any], lease: str) -> HttpResponse:
    """Hold a lease for longer."""
    wire.only(fields, _EXTENSION)
    visibility_ms = _visibility(fields)
    until = services.extend(group_id=active_group(user, group), lease=lease, visibility_ms=visibility_ms)
    return wire.respond({"lease": lease, "lease_until": until})


@data_plane("mq_messages.consume_message", documents.DepartureDocs)
def departure(user: User, group: str, fields: dict[str, Any]) -> HttpResponse:
    """A worker of a sticky group will not ask again: its keys go to the others at once."""
    wire.only(fields, _DEPARTURE)
    name = wire.text(fields, "consumer", "", MAX_CONSUMER)
    group_id = active_group(user, group)
    if not name:
        raise balancing.consumer_required()
    return wire.respond({"left": services.leave_group(group_id=group_id, name=name)})


def _visibility(fields: dict[str, Any]) -> int:
    return wire.integer(fields, "visibility_ms", default=DEFAULT_VISIBILITY_MS, low=1, high=MAX_VISIBILITY_MS)


def _take(user: User, group: str, fields: dict[str, Any]) -> tuple[Pulling, dict[str, Any]]:
    """The group and what it is asked for. Problems: those of active_group, consumer_required."""
    wire.integer(fields, "wait_ms", default=0, low=0, high=MAX_WAIT_MS)
    take = {
        "limit": wire.integer(fields, "max", default=DEFAULT_PULL, low=1, high=MAX_PULL),
        "visibility_ms": _visibility(fields),
        "consumer": wire.text(fields, "consumer", "", MAX_CONSUMER),
    }
    pulling = pulling_group(user, group)
    take["broadcast"] = pulling.broadcast
    if fields.get("consumer") is None and not pulling.broadcast and not pulling.sticky:
        take["consumer"] = user.get_username()  # who does not say who it is would share its position, or its keys, with others
    if pulling.sticky and not take["consumer"]:
        raise balancing.consumer_required()
    return pulling, take


def _wait(user: User, found: Batch, group_id: int, fields: dict[str, Any], take: dict[str, Any]) -> Batch:
    """Long poll: park until something is there; meanwhile this thread has no connection to the database.

    Raises AuthenticationFailed when the credential was revoked meanwhile.
    """
    wait_ms = fields.get("wait_ms") or 0
    waits_for = broadcast.join(group_id=group_id, name=take["consumer"]) if wait_ms and take["broadcast"] else group_id
    began = monotonic()
    end = began + wait_ms / 1000
    while found.lease is None and found.reason in {"empty", PARKED, OUTSTANDING} and (left := end - monotonic()) > 0:
        if not connection.in_atomic_block:
            connection.close()  # back to the pool
        woken = waiting.wait(waits_for if found.worker is None else waiting.Worker(found.worker), left)
        if monotonic() - began > CACHE_SECONDS and not still_holds(user):
            raise AuthenticationFailed
        found = services.pull(group_id=group_id, **take)
        if not woken:
            break
    return found


urlpatterns = [
    re_path(rf"^topics/(?P<name>{PATTERN})/messages$", send, name="send"),
    re_path(rf"^consumer-groups/(?P<name>{PATTERN})/pull$", pull, name="pull"),
    re_path(rf"^consumer-groups/(?P<name>{PATTERN})/acks$", acks, name="acks"),
    re_path(rf"^consumer-groups/(?P<name>{PATTERN})/next$", next_, name="next"),
    re_path(rf"^consumer-groups/(?P<name>{PATTERN})/departures$", departure, name="departure"),
    re_path(
        rf"^consumer-groups/(?P<name>{PATTERN})/leases/(?P<lease>[0-9]{{1,19}}(?:-[0-9]{{1,18}})?)/extension$", extension, name="extension"
    ),
]
