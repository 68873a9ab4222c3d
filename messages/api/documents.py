"""What OpenAPI says of the data plane, whose views are no DRF views: shapes only, no code runs here."""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.views import APIView

from accounts.authentication import TokenAuthentication
from core.api.schema import ProblemSerializer

STATES = ["accepted", "delayed", "half"]
ACCEPTED_STATES = [*STATES, "rolled_back"]
HALF_STATES = ["open", "undecided", "committed", "rolled_back"]
DECISIONS = ["commit", "rollback"]
OUTCOMES = ["succeeded", "failed", "later", "dead"]
STATUSES = ["waiting", "processing", "succeeded", "later", "dead", "failed", "skipped", "not_subscribed"]
REASONS = ["empty", "suspended", "not_subscribed", "retired", "parked", "crowded", "outstanding", "consumer_required", "too_many_workers"]


class NewMessageSerializer(serializers.Serializer[Any]):
    """A message to send; `body` or `body_base64` must be there."""

    body = serializers.CharField(required=False, help_text="Text, at most 1 MiB in UTF-8.")
    body_base64 = serializers.CharField(required=False, help_text="Bytes.")
    key = serializers.CharField(
        required=False, allow_null=True, max_length=255, help_text="For finding it again, for example the order's number."
    )
    tag = serializers.CharField(
        required=False, allow_null=True, max_length=500, help_text="Groups subscribe to tags; several: paid || urgent."
    )
    sharding_key = serializers.CharField(required=False, allow_null=True, max_length=255)
    headers = serializers.DictField(child=serializers.CharField(), required=False, allow_null=True)
    deliver_at = serializers.DateTimeField(required=False, allow_null=True, help_text="RFC 3339; at most ten years ahead.")
    delay_ms = serializers.IntegerField(required=False, allow_null=True, min_value=0, help_text="Instead of deliver_at.")
    id = serializers.CharField(
        required=False, allow_null=True, max_length=255, help_text="The producer's own id: sending it again returns the first result."
    )


class SendSerializer(NewMessageSerializer):
    """One message; or `messages` alone, a list of up to 1000."""

    messages = NewMessageSerializer(many=True, required=False)


class AcceptedSerializer(serializers.Serializer[Any]):
    """A message that is stored for good."""

    id = serializers.IntegerField()
    state = serializers.ChoiceField(
        ACCEPTED_STATES, help_text="half, rolled_back: the producer's id stands for a half message that is open, or was rolled back."
    )
    duplicate = serializers.BooleanField(help_text="The producer's id was known: this is the first result.")
    deliver_at = serializers.DateTimeField(allow_null=True)


class SentSerializer(serializers.Serializer[Any]):
    """The messages in the order given."""

    messages = AcceptedSerializer(many=True)


class PrepareSerializer(NewMessageSerializer):
    """A message to prepare."""

    check_after_ms = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1000,
        max_value=86_400_000,
        help_text="After so long without a decision the application is asked, and again each time; a minute if not given.",
    )


class HalfMessageSerializer(serializers.Serializer[Any]):
    """A message that is prepared, without its body, which messages/{id} shows."""

    id = serializers.IntegerField(help_text="Finds the message before and after its commit.")
    topic = serializers.CharField()
    state = serializers.ChoiceField(HALF_STATES, help_text="undecided: all check-backs have passed; the producer or a person decides.")
    key = serializers.CharField(allow_null=True)
    tag = serializers.CharField()
    sharding_key = serializers.CharField(allow_null=True)
    headers = serializers.DictField(child=serializers.CharField())
    producer_id = serializers.CharField(allow_null=True, help_text="The producer's own id of the message.")
    prepared_at = serializers.DateTimeField()
    deliver_at = serializers.DateTimeField(allow_null=True, help_text="Once committed it is delayed until then.")
    checks = serializers.IntegerField(help_text="How often the application was to be asked.")
    next_check_at = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField(allow_null=True, help_text="Why the last check-back decided nothing.")
    decided_at = serializers.DateTimeField(allow_null=True)
    decided_by = serializers.CharField(allow_null=True, help_text="check-back: the application, when it was asked.")
    message_id = serializers.IntegerField(allow_null=True, help_text="Its id in the log, unless it was delayed.")


class AskSerializer(serializers.Serializer[Any]):
    """How many at most."""

    max = serializers.IntegerField(required=False, min_value=1, max_value=500, default=100)


class OpenHalfMessagesSerializer(serializers.Serializer[Any]):
    """What is to be decided, oldest first."""

    half_messages = HalfMessageSerializer(many=True)


class PullSerializer(serializers.Serializer[Any]):
    """What to hand out."""

    max = serializers.IntegerField(required=False, min_value=1, max_value=1000, default=10)
    wait_ms = serializers.IntegerField(
        required=False, min_value=0, max_value=30_000, default=0, help_text="How long to wait when there is nothing."
    )
    visibility_ms = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=12 * 3600 * 1000,
        default=60_000,
        help_text="After so long without an ack the messages are handed out again.",
    )
    consumer = serializers.CharField(
        required=False,
        max_length=255,
        help_text="Who pulls, as it is shown to people; the user name by default. Of a broadcast group the name of the instance, which is"
        " needed: its position is kept under it, so let it stay the same when it starts anew.",
    )


@extend_schema_serializer(component_name="DeliveredMessage")
class DeliverySerializer(serializers.Serializer[Any]):
    """A message in a worker's hands."""

    id = serializers.IntegerField()
    topic = serializers.CharField()
    key = serializers.CharField(allow_null=True)
    tag = serializers.CharField()
    sharding_key = serializers.CharField(allow_null=True)
    headers = serializers.DictField(child=serializers.CharField())
    body = serializers.CharField(required=False)
    body_base64 = serializers.CharField(required=False, help_text="Instead of body when it is not UTF-8.")
    attempt = serializers.IntegerField(help_text="From 1.")
    sent_at = serializers.DateTimeField()
    origin_id = serializers.IntegerField(allow_null=True, help_text="The id that the producer of a delayed message got.")


class BatchSerializer(serializers.Serializer[Any]):
    """Messages under one lease; without messages there is no lease and `reason` says why."""

    lease = serializers.CharField(allow_null=True)
    lease_until = serializers.DateTimeField(allow_null=True)
    messages = DeliverySerializer(many=True)
    ordered = serializers.DictField(
        child=serializers.ChoiceField(["key", "topic"]),
        help_text="The ordered topics among them: work through what has one sharding key (key), or all (topic), one after the other.",
    )
    reason = serializers.ChoiceField(
        REASONS,
        allow_null=True,
        help_text="Why there are none. Of a sticky group: parked, what comes next belongs to other workers, for whom as much is parked as"
        " may be. Of a next only: crowded, too many long polls wait here, so this one did not; outstanding, the group is at its ceiling;"
        " a pull is refused with 429 instead, and with 400 or 409 where a sticky group gets no consumer or too many. All with Retry-After.",
    )
    moved_at = serializers.DateTimeField(
        allow_null=True, help_text="When a person has moved the group's position last: messages may come again. Known after 5 s at most."
    )
    sticky = serializers.BooleanField(help_text="Whether a sharding key stays with its worker: say goodbye with POST …/departures then.")


class OutcomeSerializer(serializers.Serializer[Any]):
    """What became of one message."""

    id = serializers.IntegerField()
    status = serializers.ChoiceField(
        OUTCOMES,
        help_text="failed: retried after the backoff, dead at the limit. later: retried, not counted. dead: a dead letter at once.",
    )
    delay_ms = serializers.IntegerField(required=False, allow_null=True, min_value=0, help_text="Instead of the group's backoff.")
    error = serializers.CharField(required=False, allow_null=True, help_text="Why; the first 2000 characters are kept.")


class AckSerializer(OutcomeSerializer):
    """What became of one message of a lease."""

    lease = serializers.CharField()


class AcksSerializer(serializers.Serializer[Any]):
    """Up to 1000."""

    acks = AckSerializer(many=True)


class NextSerializer(PullSerializer):
    """The outcomes of the previous lease, and what to hand out next."""

    lease = serializers.CharField(required=False, allow_null=True)
    acks = OutcomeSerializer(many=True, required=False)


class ItemProblemSerializer(serializers.Serializer[Any]):
    """Why nothing was changed."""

    code = serializers.ChoiceField(["lease_expired", "not_in_lease", "already_settled", "held_back"])
    detail = serializers.CharField()


class SettledSerializer(serializers.Serializer[Any]):
    """The message's status now; or null and a problem."""

    index = serializers.IntegerField()
    id = serializers.IntegerField()
    status = serializers.ChoiceField(OUTCOMES, allow_null=True)
    next_retry_at = serializers.DateTimeField(required=False, allow_null=True)
    problem = ItemProblemSerializer(required=False)


class SettledAllSerializer(serializers.Serializer[Any]):
    """One result per ack, in their order."""

    acks = SettledSerializer(many=True)


class NewGoodbyeSerializer(serializers.Serializer[Any]):
    """Which worker leaves."""

    consumer = serializers.CharField(max_length=255, help_text="What it called itself as consumer of its pulls.")


class GoodbyeSerializer(serializers.Serializer[Any]):
    """Whether it was there."""

    left = serializers.BooleanField()


class NewExtensionSerializer(serializers.Serializer[Any]):
    """For how long from now on."""

    visibility_ms = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=12 * 3600 * 1000,
        default=60_000,
        help_text="From now on. In all a lease lasts 12 hours from its pull; it never ends earlier than before.",
    )


class ExtensionSerializer(serializers.Serializer[Any]):
    """Until when the lease holds now."""

    lease = serializers.CharField()
    lease_until = serializers.DateTimeField()


class NextBatchSerializer(BatchSerializer):
    """One result per ack, and the next batch."""

    acks = SettledSerializer(many=True)


ROLES = ["producer", "consumer"]


class ReportSerializer(serializers.Serializer[Any]):
    """What a client says of itself; what is left out stays as it was."""

    generation = serializers.IntegerField(required=False, allow_null=True, min_value=0, help_text="Of the configuration that it runs.")
    state = serializers.CharField(required=False, allow_null=True, max_length=32, help_text="In a word: running, failed …")
    error = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=4000, help_text="Empty: none any more.")


class NewClientSerializer(ReportSerializer):
    """One process that follows one topic or one group."""

    role = serializers.ChoiceField(ROLES)
    topic = serializers.CharField(required=False, allow_null=True, help_text="Of a producer.")
    group = serializers.CharField(required=False, allow_null=True, help_text="Of a consumer.")
    id = serializers.UUIDField(
        required=False, allow_null=True, help_text="Of your choice: registering again under it is harmless. One is made if there is none."
    )
    name = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=255,
        help_text="As people know it, for example the pod's. Needed in a broadcast group: the instance, which begins now if it is new.",
    )
    sdk = serializers.CharField(required=False, allow_null=True, max_length=120)
    pid = serializers.IntegerField(required=False, allow_null=True, min_value=0)


class WantedSerializer(serializers.Serializer[Any]):
    """What a client should run."""

    id = serializers.UUIDField()
    generation = serializers.IntegerField(help_text="Of the configuration as it is now.")
    configuration = serializers.DictField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="The keys of docs/znodes.md, filters and suspension among them; null if the client runs this generation already.",
    )
    clusters = serializers.DictField(
        child=serializers.DictField(child=serializers.CharField()),
        allow_null=True,
        help_text="The clusters that the configuration names, by name; null like it.",
    )
    suspended = serializers.BooleanField(help_text="Whether the group gets no messages for now.")


class RegisteredClientSerializer(WantedSerializer):
    """A client that is registered."""

    heartbeat_seconds = serializers.IntegerField()
    evict_after_seconds = serializers.IntegerField()


class NewEpochSerializer(serializers.Serializer[Any]):
    """Whose epoch."""

    producer = serializers.CharField(max_length=255, help_text="The same name after each start: it tells who takes over from whom.")


class EpochSerializer(serializers.Serializer[Any]):
    """The epoch that is open now; whoever goes on under an older one is refused."""

    application = serializers.CharField()
    producer = serializers.CharField()
    epoch = serializers.IntegerField()


class TransactionSendSerializer(serializers.Serializer[Any]):
    """Messages of one topic."""

    topic = serializers.CharField()
    messages = NewMessageSerializer(many=True)


class TransactionAcksSerializer(serializers.Serializer[Any]):
    """Outcomes of one lease of a group."""

    group = serializers.CharField()
    lease = serializers.CharField()
    acks = OutcomeSerializer(many=True)


class TransactionSerializer(serializers.Serializer[Any]):
    """Up to 1000 messages and up to 1000 acks, in one commit."""

    application = serializers.CharField()
    producer = serializers.CharField(max_length=255)
    epoch = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    id = serializers.CharField(max_length=255, help_text="Of the transaction: sending it again, within a day, returns the first result.")
    sends = TransactionSendSerializer(many=True, required=False, allow_null=True)
    acks = TransactionAcksSerializer(many=True, required=False, allow_null=True)


class TransactionSentSerializer(serializers.Serializer[Any]):
    """Messages of one topic, in the order given."""

    topic = serializers.CharField()
    messages = AcceptedSerializer(many=True)


class TransactionSettledSerializer(serializers.Serializer[Any]):
    """Outcomes of one lease, all of them taken."""

    group = serializers.CharField()
    lease = serializers.CharField()
    acks = SettledSerializer(many=True)


class CommittedSerializer(serializers.Serializer[Any]):
    """What came of it, in the order of what was asked for."""

    id = serializers.CharField()
    duplicate = serializers.BooleanField(help_text="The id was known: this is the first result.")
    sends = TransactionSentSerializer(many=True)
    acks = TransactionSettledSerializer(many=True)


class _Docs(APIView):
    authentication_classes = [TokenAuthentication]


class SendDocs(_Docs):
    """POST topics/{name}/messages."""

    @extend_schema(operation_id="send_messages", request=SendSerializer, responses={201: SentSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Send one message or a batch of up to 1000; all or nothing, in one commit."""


class PullDocs(_Docs):
    """POST consumer-groups/{name}/pull."""

    @extend_schema(operation_id="pull_messages", request=PullSerializer, responses={200: BatchSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Hand out messages under a lease, due retries first; waits up to wait_ms when there is nothing."""


class AcksDocs(_Docs):
    """POST consumer-groups/{name}/acks."""

    @extend_schema(operation_id="ack_messages", request=AcksSerializer, responses={200: SettledAllSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Settle messages; an ack that cannot be taken gets a problem of its own in the result."""


class NextDocs(_Docs):
    """POST consumer-groups/{name}/next."""

    @extend_schema(operation_id="next_messages", request=NextSerializer, responses={200: NextBatchSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Settle the previous lease and pull the next batch in one commit: a consumer's normal way."""


class PrepareDocs(_Docs):
    """POST topics/{name}/half-messages."""

    @extend_schema(operation_id="prepare_half_message", request=PrepareSerializer, responses={201: AcceptedSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Store a message that no group sees before it is committed; it is not delivered unless it is."""


class OpenDocs(_Docs):
    """POST topics/{name}/half-messages/open."""

    @extend_schema(
        operation_id="ask_for_open_half_messages", request=AskSerializer, responses={200: OpenHalfMessagesSerializer}, tags=["data plane"]
    )
    def post(self) -> None:
        """What this topic's producer left open for longer than its time; each is given to one who asks, and again after that time."""


class CommitDocs(_Docs):
    """POST half-messages/{id}/commit."""

    @extend_schema(operation_id="commit_half_message", request=None, responses={200: HalfMessageSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Deliver it to its topic. Again: the same answer. After a rollback: 409, and nothing changes."""


class RollbackDocs(_Docs):
    """POST half-messages/{id}/rollback."""

    @extend_schema(operation_id="rollback_half_message", request=None, responses={200: HalfMessageSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Throw it away. Again: the same answer. After a commit: 409, and nothing changes."""


class RegisterDocs(_Docs):
    """POST clients."""

    @extend_schema(
        operation_id="register_client",
        request=NewClientSerializer,
        responses={200: RegisteredClientSerializer, 201: RegisteredClientSerializer},
        tags=["data plane"],
    )
    def post(self) -> None:
        """Make a process known that has no ZooKeeper: it is among the instances as long as its heartbeats come. 200: it was known."""


class HeartbeatDocs(_Docs):
    """POST clients/{client}/heartbeat."""

    @extend_schema(
        operation_id="beat_client",
        request=ReportSerializer,
        responses={200: WantedSerializer, (410, "application/problem+json"): ProblemSerializer},
        tags=["data plane"],
    )
    def post(self) -> None:
        """Say that a client lives and what it runs. 410: it was evicted and has to register again."""


class LeaveDocs(_Docs):
    """DELETE clients/{client}."""

    @extend_schema(operation_id="leave_client", responses={204: None}, tags=["data plane"])
    def delete(self) -> None:
        """Say goodbye."""


class EpochDocs(_Docs):
    """POST applications/{name}/epochs."""

    @extend_schema(operation_id="open_epoch", request=NewEpochSerializer, responses={201: EpochSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Begin a producer's next epoch, once at its start; transactions of older epochs are refused from now on (producer_fenced)."""


class TransactionDocs(_Docs):
    """POST transactions."""

    @extend_schema(
        operation_id="commit_transaction", request=TransactionSerializer, responses={200: CommittedSerializer}, tags=["data plane"]
    )
    def post(self) -> None:
        """Send to several topics and ack leases of several groups, all in one commit or nothing at all; sends alone are fine, too."""


class DepartureDocs(_Docs):
    """POST consumer-groups/{name}/departures."""

    @extend_schema(operation_id="depart", request=NewGoodbyeSerializer, responses={200: GoodbyeSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Say goodbye as a worker of a sticky group, so that its keys go to the others at once, and not after a minute's silence.

        What it still has in hand may be settled, and its keys wait for that. Again is harmless; so is it in a group that is not sticky.
        """


class ExtensionDocs(_Docs):
    """POST consumer-groups/{name}/leases/{lease}/extension."""

    @extend_schema(operation_id="extend_lease", request=NewExtensionSerializer, responses={200: ExtensionSerializer}, tags=["data plane"])
    def post(self) -> None:
        """Hold what a lease still has for longer: for work that takes longer than was thought. 409: it has ended, or lasts too long."""
