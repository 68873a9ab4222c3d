"""Messages and delayed messages as resources: find, read, cancel, reschedule."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from core.api.conditional import etag
from core.api.conventions import View
from core.api.views import actor, validated
from core.errors import Problem, not_found
from core.operations.api import OperationSerializer, operation_url
from core.operations.models import Operation
from messages import operating, reading, scope, services
from messages.api import wire
from messages.api.control_documents import (
    DelayedPageSerializer,
    DueInHoursSerializer,
    FoundSerializer,
    ManyDelayedSerializer,
    ManyRescheduledSerializer,
    MessageSerializer,
    RescheduleSerializer,
    SearchPageSerializer,
    TraceSerializer,
)
from messages.types import DelayedFilter, Page, StoredMessage

ID = r"(?P<message_id>[0-9]{1,19})"
MAX_HOURS = 168
_DELAYED = frozenset({"topic", "key", "tag", "due_from", "due_to"})
_RESCHEDULE = frozenset({"deliver_at", "delay_ms", "reason"})


def parameter(name: str, description: str = "", kind: Any = OpenApiTypes.STR, *, required: bool = False) -> OpenApiParameter:
    """A query parameter in OpenAPI."""
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, required=required, description=description)


PAGE = [parameter("limit", "1 to 500, 50 if not given", OpenApiTypes.INT), parameter("cursor")]
RANGE = [parameter("from", "RFC 3339", OpenApiTypes.DATETIME), parameter("to", "RFC 3339", OpenApiTypes.DATETIME)]


class Query:
    """The query parameters of a request, read strictly."""

    def __init__(self, request: Request) -> None:
        self.given = request.query_params
        self.request = request

    def text(self, name: str) -> str | None:
        """A value; None when it is missing or empty. What the database cannot hold is found nowhere."""
        value = self.given.get(name) or None
        if value is not None and "\x00" in value:
            raise wire.invalid(f"/{name}", _("“{name}” has a character that cannot be stored.").format(name=name))
        return value

    def moment(self, name: str) -> datetime | None:
        """A time; a + that became a blank on the way is taken as +."""
        value = self.text(name)
        return None if value is None else wire.moment(value[:19] + value[19:].replace(" ", "+"), f"/{name}")

    def number(self, name: str, highest: int = 2**63 - 1) -> int | None:
        """A positive number."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 19 and 0 < int(value) <= highest):
            raise wire.invalid(f"/{name}", _("“{name}” must be {low} to {high}.").format(name=name, low=1, high=highest))
        return int(value)

    def page(self) -> dict[str, Any]:
        """`limit` and `cursor`."""
        return {"limit": self.number("limit", 500) or 50, "cursor": self.text("cursor")}

    def topic_id(self) -> int | None:
        """The id of the topic that is named. Problem: not_found."""
        name = self.text("topic")
        return None if name is None else topic_id_of(self.request.user, name)

    def answer(self, page: Page[Any], results: Any, **more: Any) -> Response:
        """A page with the address of the next one."""
        address = self.request.build_absolute_uri()
        following = replace_query_param(remove_query_param(address, "cursor"), "cursor", page.next) if page.next else None
        return Response({"results": results, "next": following, **more})


def topic_id_of(user: Any, name: str) -> int:
    """The id of a topic whose messages the person may see. Problem: not_found."""
    found = scope.topic_id(user, name)
    if found is None:
        raise not_found(_("topic"), name)
    return found


class MessagesView(View):
    """Search the messages of a topic."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = FoundSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("topic", required=True),
            parameter("key"),
            parameter("tag"),
            parameter("id", "of the message", OpenApiTypes.INT64),
            *RANGE,
            *PAGE,
        ]
    }

    @extend_schema(operation_id="search_messages", responses=SearchPageSerializer)
    def get(self, request: Request) -> Response:
        """Newest first; each page looks at a bounded number of messages and says how far back it got."""
        query = Query(request)
        topic_id = query.topic_id()
        if topic_id is None:
            raise wire.invalid("/topic", _("Name the topic to search: ?topic=…"))
        page = services.search(
            topic_id=topic_id,
            sent_from=query.moment("from"),
            sent_to=query.moment("to"),
            message_id=query.number("id"),
            key=query.text("key"),
            tag=query.text("tag"),
            **query.page(),
        )
        return query.answer(page, FoundSerializer(page.items, many=True).data, searched_to=reading.searched_to(page))


class MessageView(View):
    """One message."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = MessageSerializer

    @extend_schema(operation_id="retrieve_message", responses=MessageSerializer)
    def get(self, request: Request, message_id: str) -> Response:
        """With its body and its status in every group; the id of a delayed message finds it before and after its delivery."""
        message = scope.message(request.user, int(message_id))
        groups = scope.message_status(request.user, message.id)
        with_body = scope.may_read_body(request.user, message.topic_id)
        return Response(MessageSerializer(message, context={"groups": groups, "body": with_body}).data)


class TraceView(View):
    """The life of one message."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = TraceSerializer

    @extend_schema(operation_id="trace_message", responses=TraceSerializer)
    def get(self, request: Request, message_id: str) -> Response:
        """Sent, delayed, handed out, failed, dead, redriven, succeeded: what the store keeps of it, in the groups that one may see."""
        events = scope.trace(request.user, scope.message(request.user, int(message_id)))
        return Response(TraceSerializer({"results": events, "next": None}).data)


class DelayedMessagesView(View):
    """Delayed messages."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = FoundSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [parameter("topic"), parameter("key"), parameter("tag"), *RANGE, *PAGE]
    }

    @extend_schema(operation_id="list_delayed_messages", responses=DelayedPageSerializer)
    def get(self, request: Request) -> Response:
        """Next due first; `from` and `to` bound the delivery time."""
        query = Query(request)
        only = DelayedFilter(
            topic_id=query.topic_id(),
            key=query.text("key"),
            tag=query.text("tag"),
            due_from=query.moment("from"),
            due_to=query.moment("to"),
        )
        page = services.delayed_messages(only=only, topic_ids=scope.topic_ids(request.user), **query.page())
        return query.answer(page, FoundSerializer(page.items, many=True).data)


class DelayedHoursView(View):
    """When delayed messages are due."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = DueInHoursSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("topic"),
            parameter("from", "RFC 3339; now if not given", OpenApiTypes.DATETIME),
            parameter("hours", "1 to 168, 48 if not given", OpenApiTypes.INT),
        ]
    }

    @extend_schema(operation_id="count_delayed_messages", responses=DueInHoursSerializer)
    def get(self, request: Request) -> Response:
        """How many are due in each hour."""
        query = Query(request)
        topic_id = query.topic_id()
        topics = scope.topic_ids(request.user) if topic_id is None else [topic_id]
        start, hours = query.moment("from") or datetime.now(UTC), query.number("hours", MAX_HOURS) or 48
        if not datetime(2000, 1, 1, tzinfo=UTC) <= start <= datetime(2200, 1, 1, tzinfo=UTC):
            raise wire.invalid("/from", _("Give a time between the years {first} and {last}.").format(first=2000, last=2200))
        found = services.per_hour(start=start, hours=hours, topic_ids=topics)
        rows = [{"hour": hour, "messages": number} for hour, number in found]
        return Response(DueInHoursSerializer({"results": rows, "next": None}).data)


def delayed_filter(user: Any, fields: Mapping[str, Any]) -> DelayedFilter:
    """The filter of a body; what is sent from now on is not meant. Problems: unknown_field, invalid, invalid_time, not_found."""
    given = wire.typed(fields, "filter", dict) or {}
    wire.only(given, _DELAYED, "/filter")
    topic, key, tag, due_from, due_to = (wire.typed(given, name, str, "/filter") for name in ("topic", "key", "tag", "due_from", "due_to"))
    if any("\x00" in value for value in (key or "", tag or "")):
        raise wire.invalid("/filter", _("“{name}” has a character that cannot be stored.").format(name="filter"))
    return DelayedFilter(
        topic_id=topic_id_of(user, topic) if topic else None,
        key=key,
        tag=tag,
        due_from=wire.moment(due_from, "/filter/due_from") if due_from else None,
        due_to=wire.moment(due_to, "/filter/due_to") if due_to else None,
        sent_to=datetime.now(UTC),
    )


class ManyDelayedView(View):
    """What is done to all delayed messages that match."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.change_delayed"}

    def chosen(self, request: Request, serializer: type[ManyDelayedSerializer]) -> tuple[DelayedFilter, dict[str, Any]]:
        """The filter and the checked fields. Problem: invalid (not “all”: true)."""
        fields = json_object(request)
        checked = validated(serializer, request)
        if not checked["all"]:
            raise wire.invalid("/all", _("Give “all”: true."))
        return delayed_filter(request.user, fields), checked


class DelayedCancellationsView(ManyDelayedView):
    """Cancel many."""

    @extend_schema(
        operation_id="cancel_delayed_messages",
        request=ManyDelayedSerializer,
        responses={202: OpenApiResponse(OperationSerializer, "The operation that does it; Location names it.")},
    )
    def post(self, request: Request) -> Response:
        """Cancel all delayed messages that match: they are gone. A message that is delivered meanwhile says so as its result."""
        only, checked = self.chosen(request, ManyDelayedSerializer)
        return started(request, operating.cancel_all_delayed(actor=actor(request), only=only, reason=checked["reason"]))


class DelayedReschedulesView(ManyDelayedView):
    """Deliver many at another time."""

    @extend_schema(
        operation_id="reschedule_delayed_messages",
        request=ManyRescheduledSerializer,
        responses={202: OpenApiResponse(OperationSerializer, "The operation that does it; Location names it.")},
    )
    def post(self, request: Request) -> Response:
        """Deliver all delayed messages that match at another time, or now."""
        only, checked = self.chosen(request, ManyRescheduledSerializer)
        fields = json_object(request)
        if fields.get("deliver_at") is None and fields.get("delay_ms") is None:
            raise wire.invalid("/deliver_at", _("Give either “deliver_at” or “delay_ms”."))
        deliver_at = wire.delivery_time(fields)
        job = operating.reschedule_all_delayed(actor=actor(request), only=only, deliver_at=deliver_at, reason=checked["reason"])
        return started(request, job)


def started(request: Request, operation: Operation) -> Response:
    """202 with the operation."""
    body = OperationSerializer(operation, context={"request": request}).data
    return Response(body, status=status.HTTP_202_ACCEPTED, headers={"Location": operation_url(request, operation)})


class DelayedMessageView(View):
    """One delayed message."""

    permissions_by_action: ClassVar[dict[str, str]] = {
        "get": "mq_messages.view_message",
        "patch": "mq_messages.change_delayed",
        "delete": "mq_messages.change_delayed",
    }
    document = FoundSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {"delete": [parameter("reason", "kept in the audit")]}

    def etag_of(self, document: Mapping[str, Any]) -> str | None:
        """When it is due: nothing else of it ever changes."""
        return etag(document["deliver_at"]) if document["deliver_at"] else None

    def _message(self, message_id: str) -> StoredMessage:
        return scope.message(
            self.request.user, int(message_id), self.permissions_by_action[str(self.request.method).lower().replace("head", "get")]
        )

    def version_now(self) -> object | None:
        """The time at which it is due now."""
        message = self._message(self.kwargs["message_id"])
        return FoundSerializer(message).data["deliver_at"] if message.state == "delayed" else None

    def _seen(self, message_id: str) -> datetime | None:
        """When the message is due, held against If-Match; None: it is not delayed, which the verb will say."""
        message = self._message(message_id)
        if message.state != "delayed":
            return None
        self.check_version(FoundSerializer(message).data["deliver_at"])
        return message.deliver_at

    @extend_schema(operation_id="retrieve_delayed_message", responses=FoundSerializer)
    def get(self, request: Request, message_id: str) -> Response:  # noqa: ARG002
        """As long as it is delayed; afterwards it is found under messages/."""
        message = self._message(message_id)
        if message.state != "delayed":
            hint = _("It has been delivered to its topic: see messages/{id}.").format(id=message.id)
            raise Problem("not_delayed", _("Message {id} is not delayed.").format(id=message_id), status=404, hint=hint)
        return Response(FoundSerializer(message).data)

    @extend_schema(operation_id="reschedule_delayed_message", request=RescheduleSerializer, responses=FoundSerializer)
    def patch(self, request: Request, message_id: str) -> Response:
        """Deliver it at another time."""
        seen, fields = self._seen(message_id), json_object(request)
        wire.only(fields, _RESCHEDULE)
        if fields.get("deliver_at") is None and fields.get("delay_ms") is None:
            raise wire.invalid("/deliver_at", _("Give either “deliver_at” or “delay_ms”."))
        deliver_at = wire.delivery_time(fields) or datetime.now(UTC)
        reason = wire.text(fields, "reason", "", 2000)
        operating.reschedule_delayed(actor=actor(request), message_id=int(message_id), deliver_at=deliver_at, reason=reason, seen=seen)
        return Response(FoundSerializer(services.message(message_id=int(message_id))).data)

    @extend_schema(operation_id="cancel_delayed_message", request=None, responses={204: None})
    def delete(self, request: Request, message_id: str) -> Response:
        """Cancel it: it is gone."""
        reason, seen = (Query(request).text("reason") or "")[:2000], self._seen(message_id)
        operating.cancel_delayed(actor=actor(request), message_id=int(message_id), reason=reason, seen=seen)
        return Response(status=status.HTTP_204_NO_CONTENT)


def json_object(request: Request) -> Mapping[str, Any]:
    """The body of a DRF request, an object."""
    if not isinstance(request.data, dict):
        raise Problem("invalid", _("The body must be a JSON object."), hint=_("Send Content-Type: application/json."))
    return request.data


urlpatterns: list[URLPattern] = [
    re_path(r"^messages$", MessagesView.as_view(), name="messages"),
    re_path(rf"^messages/{ID}$", MessageView.as_view(), name="message"),
    re_path(rf"^messages/{ID}/trace$", TraceView.as_view(), name="message-trace"),
    re_path(r"^delayed-messages$", DelayedMessagesView.as_view(), name="delayed-messages"),
    re_path(r"^delayed-messages/hours$", DelayedHoursView.as_view(), name="delayed-messages-hours"),
    re_path(r"^delayed-messages/cancellations$", DelayedCancellationsView.as_view(), name="delayed-messages-cancellations"),
    re_path(r"^delayed-messages/reschedules$", DelayedReschedulesView.as_view(), name="delayed-messages-reschedules"),
    re_path(rf"^delayed-messages/{ID}$", DelayedMessageView.as_view(), name="delayed-message"),
]
