"""What both sides have in common: settings of librdkafka, the names of headers, what errors mean, and forks."""

from __future__ import annotations

import ctypes
import logging
import os
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from mqadmin_sdk.errors import TransportError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)

ID, KEY, TAG = "mqadmin-id", "mqadmin-key", "mqadmin-tag"
_PERMANENT = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
    KafkaError._INVALID_ARG,  # noqa: SLF001 - the names of librdkafka's own errors
}
_UNKNOWN = {KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_INFLIGHT, KafkaError.REQUEST_TIMED_OUT}  # noqa: SLF001 - as above

alive: set[Any] = set()  # clients of librdkafka


def _abandon() -> None:
    """In a forked child: never destroy the parent's clients, which would wait for threads that are not there."""
    for client in alive:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    alive.clear()


os.register_at_fork(after_in_child=_abandon)


def settings_of(cluster: ClusterMetadata, context: Context, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a client: ours, and above them what the application has set. Raises UnsupportedError."""
    if not cluster.boot_addr:
        raise UnsupportedError(f"cluster {cluster.name} has no address: operators enter its bootstrap servers in mqadmin")
    return {
        "bootstrap.servers": cluster.boot_addr,
        "client.id": f"{context.app}-{context.instance}",
        "topic.metadata.refresh.interval.ms": 10_000,  # new topics and partitions are seen within this
        "log_level": 2,  # what matters comes as an error, too, and not twice a second
        **own,
        **context.options.get("kafka", {}),
    }


def connected(kind: Callable[..., Any], settings: Mapping[str, Any], cluster: str) -> Any:
    """Return a client of librdkafka, which connects in the background. Raises UnsupportedError for settings that it does not take."""
    try:
        client = kind(dict(settings), logger=log)
    except (KafkaException, ValueError, TypeError) as error:
        raise UnsupportedError(f"cluster {cluster}: the settings for Kafka are not right: {error}") from error
    alive.add(client)
    return client


def error_of(error: KafkaError, what: str) -> TransportError:
    """Return the error of the SDK."""
    code = error.code()
    return TransportError(f"{what}: {error.str()}", permanent=code in _PERMANENT, unknown=code in _UNKNOWN)


def cause_of(error: Exception) -> KafkaError:
    """Return what librdkafka says in an exception."""
    found = error.args[0] if error.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001
