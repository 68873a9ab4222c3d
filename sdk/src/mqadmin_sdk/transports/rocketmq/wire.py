"""The messages of RocketMQ's gRPC protocol (apache/rocketmq-apis, v2) as far as they are used here, made when this is imported.

They live in a pool of their own, so that an application may use RocketMQ's own Python client, or any version of protobuf, beside this.
An enum is an int32 here and a map is a list of pairs: on the wire they are the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "mqadmin.rocketmq"
_MESSAGES = """
Moment seconds:1:int64 nanos:2:int32
Pair key:1:string value:2:string
Resource resource_namespace:1:string name:2:string
Address host:1:string port:2:int32
Endpoints scheme:1:int32 addresses:2:*Address
Broker name:1:string id:2:int32 endpoints:3:Endpoints
MessageQueue topic:1:Resource id:2:int32 permission:3:int32 broker:4:Broker accept_message_types:5:*int32
Status code:1:int32 message:2:string
SystemProperties tag:1:string keys:2:*string message_id:3:string body_encoding:5:int32 message_type:6:int32 born_timestamp:7:Moment \
 born_host:8:string delivery_timestamp:11:Moment receipt_handle:12:string delivery_attempt:16:int32 message_group:17:string \
 orphaned_transaction_recovery_duration:19:Moment
Message topic:1:Resource user_properties:2:*Pair system_properties:3:SystemProperties body:4:bytes
FilterExpression type:1:int32 expression:2:string
SubscriptionEntry topic:1:Resource expression:2:FilterExpression
Subscription group:1:Resource subscriptions:2:*SubscriptionEntry fifo:3:bool long_polling_timeout:5:Moment
Publishing topics:1:*Resource max_body_size:2:int32 validate_message_type:3:bool
UA language:1:int32 version:2:string platform:3:string hostname:4:string
Settings client_type:1:int32 access_point:2:Endpoints request_timeout:4:Moment publishing:5:Publishing subscription:6:Subscription \
 user_agent:7:UA
QueryRouteRequest topic:1:Resource endpoints:2:Endpoints
QueryRouteResponse status:1:Status message_queues:2:*MessageQueue
SendMessageRequest messages:1:*Message
SendResultEntry status:1:Status message_id:2:string transaction_id:3:string
SendMessageResponse status:1:Status entries:2:*SendResultEntry
ReceiveMessageRequest group:1:Resource message_queue:2:MessageQueue filter_expression:3:FilterExpression batch_size:4:int32 \
 invisible_duration:5:Moment auto_renew:6:bool long_polling_timeout:7:Moment
ReceiveMessageResponse status:1:Status message:2:Message
AckMessageEntry message_id:1:string receipt_handle:2:string
AckMessageRequest group:1:Resource topic:2:Resource entries:3:*AckMessageEntry
AckMessageResultEntry message_id:1:string receipt_handle:2:string status:3:Status
AckMessageResponse status:1:Status entries:2:*AckMessageResultEntry
ForwardMessageToDeadLetterQueueRequest group:1:Resource topic:2:Resource receipt_handle:3:string message_id:4:string \
 delivery_attempt:5:int32 max_delivery_attempts:6:int32
ForwardMessageToDeadLetterQueueResponse status:1:Status
HeartbeatRequest group:1:Resource client_type:2:int32
HeartbeatResponse status:1:Status
EndTransactionRequest topic:1:Resource message_id:2:string transaction_id:3:string resolution:4:int32 source:5:int32
EndTransactionResponse status:1:Status
RecoverOrphanedTransactionCommand message:1:Message transaction_id:2:string
TelemetryCommand status:1:Status settings:2:Settings recover_orphaned_transaction_command:5:RecoverOrphanedTransactionCommand
NotifyClientTerminationRequest group:1:Resource
NotifyClientTerminationResponse status:1:Status
ChangeInvisibleDurationRequest group:1:Resource topic:2:Resource receipt_handle:3:string invisible_duration:4:Moment message_id:5:string
ChangeInvisibleDurationResponse status:1:Status receipt_handle:2:string
"""

OK, NOT_FOUND, TOPIC_NOT_FOUND, INVALID_RECEIPT_HANDLE = 20000, 40401, 40402, 40013
TOO_MANY_REQUESTS, REQUEST_TIMEOUT, INTERNAL_SERVER_ERROR = 42900, 40800, 50001
NORMAL, FIFO, DELAY, TRANSACTION = 1, 2, 3, 4
KINDS = {NORMAL: "NORMAL", FIFO: "FIFO", DELAY: "DELAY", TRANSACTION: "TRANSACTION"}
PRODUCER, SIMPLE_CONSUMER = 1, 3


def _made() -> Any:
    field_of = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="mqadmin/rocketmq.proto", package=_PACKAGE, syntax="proto3")
    for line in _MESSAGES.strip().splitlines():
        name, *fields = line.split()
        message = file.message_type.add(name=name)
        for text in fields:
            label, number, kind = text.split(":")
            field = message.field.add(name=label, number=int(number), label=field_of.LABEL_OPTIONAL)
            if kind.startswith("*"):
                field.label, kind = field_of.LABEL_REPEATED, kind[1:]
            if kind[0].isupper():
                field.type, field.type_name = field_of.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = getattr(field_of, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = [message.name for message in file.message_type]
    return SimpleNamespace(**{name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names})


messages = _made()


def moment(seconds: float) -> Any:
    """Return a Duration or a Timestamp."""
    whole = int(seconds)
    return messages.Moment(seconds=whole, nanos=round((seconds - whole) * 1e9) % 1_000_000_000)
