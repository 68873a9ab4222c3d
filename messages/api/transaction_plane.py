"""Transactions over REST: a producer opens an epoch, then sends and acks in one commit; plain views, as sends are."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _

from accounts.models import Application, User
from core.api.permissions import require
from core.errors import not_found
from core.names import PATTERN
from core.scope import Reach
from messages import services
from messages.api import documents, wire
from messages.api.data_plane import data_plane
from messages.api.lookup import CONSUME, SEND, active_group, active_topic
from messages.transactions import Acks, Send

_EPOCH = frozenset({"producer"})
_TRANSACTION = frozenset({"application", "producer", "epoch", "id", "sends", "acks"})
_SEND = frozenset({"topic", "messages"})
_ACKS = frozenset({"group", "lease", "acks"})
_MAX = 2**63 - 1


@data_plane(SEND, documents.EpochDocs)
def open_epoch(user: User, application: str, fields: dict[str, Any]) -> HttpResponse:
    """Begin a producer's next epoch."""
    wire.only(fields, _EPOCH)
    producer = _required(fields, "producer")
    epoch = services.open_epoch(application_id=_application(user, application), producer=producer)
    return wire.respond({"application": application, "producer": producer, "epoch": epoch}, status=201)


@data_plane(SEND, documents.TransactionDocs)
def commit(user: User, _name: str, fields: dict[str, Any]) -> HttpResponse:
    """Send and ack in one commit."""
    wire.only(fields, _TRANSACTION)
    application, producer, transaction_id = (_required(fields, name) for name in ("application", "producer", "id"))
    epoch = wire.typed(fields, "epoch", int)
    if epoch is None or not 0 < epoch <= _MAX:
        raise wire.invalid("/epoch", _("“epoch” is the number that opening one has returned."))
    application_id = _application(user, application)
    sends = [_send(user, part, f"/sends/{i}") for i, part in enumerate(wire.typed(fields, "sends", list) or [])]
    acks = [_acks(user, part, f"/acks/{i}") for i, part in enumerate(wire.typed(fields, "acks", list) or [])]
    done = services.commit_transaction(
        application_id=application_id,
        producer=producer,
        epoch=epoch,
        transaction_id=transaction_id,
        sends=[part for _topic, part in sends],
        acks=[part for _group, part in acks],
    )
    sent = [{"topic": name, "messages": [wire.accepted(a) for a in part]} for (name, _asked), part in zip(sends, done.sends, strict=True)]
    settled = [
        {"group": name, "lease": asked.lease, "acks": wire.settled(part)} for (name, asked), part in zip(acks, done.acks, strict=True)
    ]
    return wire.respond({"id": transaction_id, "duplicate": done.duplicate, "sends": sent, "acks": settled})


def _required(fields: Mapping[str, Any], name: str, at: str = "") -> str:
    value = wire.typed(fields, name, str, at)
    if value is None:
        raise wire.invalid(f"{at}/{name}", _("“{name}” is needed.").format(name=name))
    return value


def _application(user: User, name: str) -> int:
    """The id of an application in whose name somebody may send. Problem: not_found."""
    found = None if "\x00" in name else Application.objects.filter(name=name).values_list("pk", flat=True).first()
    reach = user.reach(SEND)
    if found is None or not (reach is Reach.ALL or (reach is Reach.OWN and found in user.own_application_ids())):
        raise not_found(_("application"), name)
    return found


def _send(user: User, part: Any, at: str) -> tuple[str, Send]:
    if type(part) is not dict:
        raise wire.invalid(at, _("It must be an object with a topic and its messages."))
    wire.only(part, _SEND, at)
    topic, items = _required(part, "topic", at), wire.typed(part, "messages", list, at) or []
    messages = []
    for i, item in enumerate(items):
        if type(item) is not dict:
            raise wire.invalid(f"{at}/messages/{i}", _("A message must be an object."))
        messages.append(wire.new_message(item, f"{at}/messages/{i}"))
    topic_id, ceiling = active_topic(user, topic)
    return topic, Send(topic_id, messages, ceiling)


def _acks(user: User, part: Any, at: str) -> tuple[str, Acks]:
    if type(part) is not dict:
        raise wire.invalid(at, _("It must be an object with a group, a lease and its acks."))
    wire.only(part, _ACKS, at)
    require(user, CONSUME)
    group, lease = _required(part, "group", at), wire.lease_of(part, at)
    if lease is None:
        raise wire.no_lease(f"{at}/lease")
    outcomes = [wire.outcome(item, i, at=f"{at}/acks") for i, item in enumerate(wire.typed(part, "acks", list, at) or [])]
    return group, Acks(active_group(user, group), lease, outcomes)


urlpatterns: list[URLPattern] = [
    re_path(rf"^applications/(?P<name>{PATTERN})/epochs$", open_epoch, name="epochs"),
    re_path(r"^transactions$", commit, name="transactions"),
]
