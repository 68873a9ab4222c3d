"""Half messages over REST: prepare, commit, roll back and ask for producers, the same in plain views as sends; decisions of people."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.http import HttpResponse
from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Application, User
from core.api.conventions import View, address
from core.api.permissions import require
from core.api.views import actor, validated
from core.errors import FieldError, Problem, not_found
from core.names import PATTERN
from messages import backpressure, callbacks, operating, scope, services
from messages.api import documents, wire
from messages.api.control_plane import PAGE, Query, parameter
from messages.api.data_plane import data_plane
from messages.api.lookup import SEND, active_topic
from messages.models import CheckBack

DEFAULT_ASK, MAX_ASK = 100, 500
_PREPARE = wire.MESSAGE | {"check_after_ms"}
_ASK = frozenset({"max"})
_NOTHING: frozenset[str] = frozenset()
ID = r"(?P<half_id>[0-9]{1,19})"


@data_plane(SEND, documents.PrepareDocs)
def prepare(user: User, topic: str, fields: dict[str, Any]) -> HttpResponse:
    """Store a message that no group sees before it is committed."""
    message = wire.new_message(fields, "", _PREPARE)
    check_after_ms = wire.typed(fields, "check_after_ms", int)
    topic_id, ceiling = active_topic(user, topic)
    backpressure.admit(topic_id=topic_id, ceiling=ceiling, messages=int(message.deliver_at is None))  # what is prepared may be committed
    try:
        accepted = services.prepare_half(topic_id=topic_id, message=message, check_after_ms=check_after_ms)
    except Problem as problem:  # the store speaks of the first of a list
        problem.errors = tuple(FieldError(error.pointer.removeprefix("/messages/0"), error.detail) for error in problem.errors)
        raise
    return wire.respond(wire.accepted(accepted), status=201)


@data_plane(SEND, documents.OpenDocs)
def ask(user: User, topic: str, fields: dict[str, Any]) -> HttpResponse:
    """What the producer has to decide."""
    wire.only(fields, _ASK)
    limit = wire.integer(fields, "max", default=DEFAULT_ASK, low=1, high=MAX_ASK)
    topic_id, _ceiling = active_topic(user, topic)
    found = services.ask_for_open(topic_id=topic_id, limit=limit)
    return wire.respond({"half_messages": [wire.half(m) for m in found]})


@data_plane(SEND, documents.CommitDocs)
def commit(user: User, half_id: str, fields: dict[str, Any]) -> HttpResponse:
    """Deliver it to its topic."""
    return _decide(user, half_id, fields, "commit")


@data_plane(SEND, documents.RollbackDocs)
def rollback(user: User, half_id: str, fields: dict[str, Any]) -> HttpResponse:
    """Throw it away."""
    return _decide(user, half_id, fields, "rollback")


def _decide(user: User, half_id: str, fields: dict[str, Any], decision: Any) -> HttpResponse:
    wire.only(fields, _NOTHING)
    scope.half_message(user, int(half_id), SEND)
    half, _changed = services.decide_half(message_id=int(half_id), decision=decision, by=user.get_username())
    return wire.respond(wire.half(half))


class HalfPageSerializer(serializers.Serializer[Any]):
    """Half messages, newest first."""

    results = documents.HalfMessageSerializer(many=True)
    next = serializers.URLField(allow_null=True)


class HalfMessagesView(View):
    """Half messages."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = documents.HalfMessageSerializer
    query: ClassVar[Mapping[str, Sequence[OpenApiParameter]]] = {
        "get": [
            parameter("topic"),
            OpenApiParameter(
                "state",
                OpenApiTypes.STR,
                OpenApiParameter.QUERY,
                enum=documents.HALF_STATES,
                description="open and undecided if not given; decided ones are kept for a week",
            ),
            *PAGE,
        ]
    }

    @extend_schema(operation_id="list_half_messages", responses=HalfPageSerializer)
    def get(self, request: Request) -> Response:
        """Newest first."""
        query = Query(request)
        state: Any = query.text("state")
        if state is not None and state not in documents.HALF_STATES:
            raise wire.invalid("/state", _("“{name}” is none of: {names}.").format(name=state[:40], names=", ".join(documents.HALF_STATES)))
        page = services.half_messages(topic_id=query.topic_id(), topic_ids=scope.topic_ids(request.user), state=state, **query.page())
        return query.answer(page, documents.HalfMessageSerializer(page.items, many=True).data)


class HalfMessageView(View):
    """One half message."""

    permissions_by_action: ClassVar[dict[str, str]] = {"get": "mq_messages.view_message"}
    document = documents.HalfMessageSerializer
    versioned = False

    @extend_schema(operation_id="retrieve_half_message", responses=documents.HalfMessageSerializer)
    def get(self, request: Request, half_id: str) -> Response:
        """What became of it; a decided one is kept for a week."""
        return Response(documents.HalfMessageSerializer(scope.half_message(request.user, int(half_id))).data)


class DecisionSerializer(serializers.Serializer[Any]):
    """What a person decides in the place of the producer."""

    decision = serializers.ChoiceField(documents.DECISIONS)
    reason = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="", help_text="Kept in the audit.")


class HalfDecisionView(View):
    """A person's decision."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.decide_half"}
    versioned = False

    @extend_schema(operation_id="decide_half_message", request=DecisionSerializer, responses=documents.HalfMessageSerializer)
    def post(self, request: Request, half_id: str) -> Response:
        """Commit or roll back in the place of a producer that does not."""
        found = scope.half_message(request.user, int(half_id), "mq_messages.decide_half")
        decided = operating.decide_half(actor=actor(request), message_id=found.id, **validated(DecisionSerializer, request))
        return Response(documents.HalfMessageSerializer(decided).data)


class CheckBackStatusSerializer(serializers.ModelSerializer[CheckBack]):
    """How it goes."""

    class Meta:
        model = CheckBack
        fields = ["asked_at", "answered_at", "last_error"]


class CheckBackSerializer(serializers.ModelSerializer[CheckBack]):
    """Where an application is asked."""

    application = serializers.CharField(source="application.name")
    status = CheckBackStatusSerializer(source="*", read_only=True)

    class Meta:
        model = CheckBack
        fields = ["application", "url", "version", "changed_at", "status"]


class MadeCheckBackSerializer(CheckBackSerializer):
    """With the secret that signs, which is shown once."""

    secret = serializers.CharField(allow_null=True, help_text="Signs the questions; only in the answer that makes it.")
    changed = serializers.BooleanField(required=False)

    class Meta(CheckBackSerializer.Meta):
        fields = [*CheckBackSerializer.Meta.fields, "secret", "changed"]


class CheckBackChangeSerializer(serializers.Serializer[Any]):
    """Where."""

    url = serializers.CharField(max_length=500, help_text="https://…; gets a POST and answers with its decisions.")


class NothingSerializer(serializers.Serializer[Any]):
    """Nothing has to be said."""


class CheckBackBase(View):
    """An application's check-back."""

    document = CheckBackSerializer
    secret_fields: ClassVar[frozenset[str]] = frozenset({"secret"})

    def application(self, name: str) -> Application:
        """The application of the address. Problem: not_found."""
        permission = self.permissions_by_action[str(self.request.method).lower().replace("head", "get")]
        found = Application.objects.restrict(self.request.user, permission).filter(name=name).first()
        if found is None:
            raise not_found(_("application"), name)
        return found

    def existing(self, name: str) -> CheckBack:
        """Its check-back, held against If-Match. Problems: not_found, precondition_required, stale."""
        found = CheckBack.objects.select_related("application").filter(application=self.application(name)).first()
        if found is None:
            raise not_found(_("check-back"), name)
        self.check_version(found)
        return found


class CheckBackView(CheckBackBase):
    """Where an application is asked about its half messages."""

    permissions_by_action: ClassVar[dict[str, str]] = {
        "get": "mq_messages.view_checkback",
        "put": "mq_messages.add_checkback",
        "delete": "mq_messages.delete_checkback",
    }

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """The name in an address is looked up before any transaction begins."""
        super().initial(request, *args, **kwargs)
        url = request.data.get("url") if request.method == "PUT" and isinstance(request.data, dict) else None
        if isinstance(url, str):
            callbacks.check_address(url)

    @extend_schema(operation_id="retrieve_check_back", responses=CheckBackSerializer)
    def get(self, request: Request, name: str) -> Response:  # noqa: ARG002
        """Where, and how the last question went."""
        return Response(CheckBackSerializer(self.existing(name)).data)

    @extend_schema(
        operation_id="put_check_back",
        request=CheckBackChangeSerializer,
        responses={200: MadeCheckBackSerializer, 201: MadeCheckBackSerializer},
    )
    def put(self, request: Request, name: str) -> Response:
        """Set it, or change where it goes; a new one's secret is in this answer and nowhere else."""
        application = self.application(name)
        seen = CheckBack.objects.select_related("application").filter(application=application).first()
        if seen is None:
            self.preconditions.check_absent()
        else:
            require(request.user, "mq_messages.change_checkback")
            self.check_version(seen)
        fields = validated(CheckBackChangeSerializer, request)
        row, secret, changed = callbacks.put(actor=actor(request), application=application, url=fields["url"], seen=seen)
        made = seen is None
        return Response(
            {**CheckBackSerializer(row).data, "secret": secret or None, "changed": changed},
            status=status.HTTP_201_CREATED if made else status.HTTP_200_OK,
            headers={"Location": address(request)} if made else None,
        )

    @extend_schema(operation_id="delete_check_back", request=None, responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Ask it nowhere any more."""
        callbacks.delete(actor=actor(request), callback=self.existing(name))
        return Response(status=status.HTTP_204_NO_CONTENT)


class CheckBackSecretView(CheckBackBase):
    """The secret of a check-back."""

    permissions_by_action: ClassVar[dict[str, str]] = {"post": "mq_messages.change_checkback"}

    @extend_schema(operation_id="renew_check_back_secret", request=NothingSerializer, responses={201: MadeCheckBackSerializer})
    def post(self, request: Request, name: str) -> Response:
        """A new secret; the old one signs nothing any more."""
        found = self.existing(name)
        validated(NothingSerializer, request)
        row, secret = callbacks.renew_secret(actor=actor(request), callback=found)
        return Response({**CheckBackSerializer(row).data, "secret": secret, "changed": True}, status=status.HTTP_201_CREATED)


_TOPIC = rf"^topics/(?P<name>{PATTERN})/half-messages"
_CHECK_BACK = rf"^applications/(?P<name>{PATTERN})/check-back"
urlpatterns: list[URLPattern] = [
    re_path(rf"{_TOPIC}$", prepare, name="half-prepare"),
    re_path(rf"{_TOPIC}/open$", ask, name="half-open"),
    re_path(rf"^half-messages/{ID}/commit$", commit, name="half-commit"),
    re_path(rf"^half-messages/{ID}/rollback$", rollback, name="half-rollback"),
    re_path(rf"^half-messages/{ID}/decision$", HalfDecisionView.as_view(), name="half-decision"),
    re_path(rf"^half-messages/{ID}$", HalfMessageView.as_view(), name="half-message"),
    re_path(r"^half-messages$", HalfMessagesView.as_view(), name="half-messages"),
    re_path(rf"{_CHECK_BACK}$", CheckBackView.as_view(), name="check-back"),
    re_path(rf"{_CHECK_BACK}/secret$", CheckBackSecretView.as_view(), name="check-back-secret"),
]
