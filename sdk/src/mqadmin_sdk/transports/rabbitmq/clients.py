"""What both sides have in common: a connection with its thread, the application's settings, and the names of headers."""

from __future__ import annotations

import logging
import os
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from mqadmin_sdk.errors import UnreachableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what matters comes as an error, too, and not ten lines for each attempt

ID, KEY, TAG, SHARDING_KEY = "mqadmin-id", "mqadmin-key", "mqadmin-tag", "mqadmin-sharding-key"
SENT_AT = "mqadmin-sent-at"  # milliseconds since 1970: RabbitMQ's own property knows only seconds
QUORUM: Mapping[str, Any] = {"x-queue-type": "quorum"}
_HEARTBEAT = 15  # seconds: a connection that is silent for twice as long is lost
_TIMEOUT = 3  # seconds for one address to answer, before the next one is tried
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts to connect
_CLOSING = 10.0


@dataclass(frozen=True)
class Settings:
    """What the application has set: for the connection, in `parameters` (one for each address), and of our own."""

    parameters: Sequence[Any]
    mandatory: bool = True
    queue_arguments: Mapping[str, Any] = field(default_factory=lambda: QUORUM)


def settings_of(cluster: ClusterMetadata, context: Context) -> Settings:
    """Return the settings: ours, and above them what the application has set. Raises UnsupportedError."""
    if not cluster.boot_addr:
        raise UnsupportedError(f"cluster {cluster.name} has no address: operators enter it in mqadmin")
    given = {"heartbeat": _HEARTBEAT, "socket_timeout": _TIMEOUT, **context.options.get("rabbitmq", {})}
    own = {name: given.pop(name) for name in ("mandatory", "queue_arguments") if name in given}
    if "queue_arguments" in own:
        own["queue_arguments"] = {**QUORUM, **own["queue_arguments"]}
    try:
        if "username" in given:
            given["credentials"] = pika.PlainCredentials(given.pop("username"), given.pop("password"))
        if "ssl" in given:
            given["ssl_options"] = pika.SSLOptions(given.pop("ssl"))
        given.setdefault("client_properties", {"connection_name": f"{context.app}-{context.instance}"})
        parameters = []
        for address in cluster.boot_addr.split(","):
            host, _, port = address.strip().rpartition(":")
            parameters.append(pika.ConnectionParameters(host=host.strip("[]"), port=int(port), **given))
        return Settings(parameters, **own)
    except (ValueError, TypeError, KeyError) as error:
        raise UnsupportedError(f"cluster {cluster.name}: the settings for RabbitMQ are not right: {error!r}") from error


class Link:
    """A connection, and the thread on which all that has to do with it runs: pika is not thread-safe.

    After it is lost it is made again, for as long as it takes. `opened` is called on that thread with each connection, `lost` with the
    reason when there is none any more, or still none; the channels are told before.
    """

    def __init__(
        self, cluster: str, settings: Settings, *, name: str, opened: Callable[[Any], object], lost: Callable[[str], object]
    ) -> None:
        self.cluster = cluster
        self.error = ""  # why there is no connection
        self.blocked = ""  # why RabbitMQ takes no messages
        self._parameters, self._opened, self._lost = list(settings.parameters), opened, lost
        self._pid = os.getpid()
        self._loop = IOLoop()
        self._up = threading.Event()
        self._connection: Any = None
        self._attempt: Any = None
        self._failures = 0
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"mqadmin-rabbitmq-{name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Have a function run soon, in the order of the calls; from any thread."""
        self._loop.add_callback_threadsafe(function)

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Have a function run after so many seconds; on the thread of the link only."""
        self._loop.call_later(seconds, function)

    def wait(self, seconds: float) -> None:
        """Wait for a connection. Raises UnreachableError."""
        if not self._up.wait(seconds):
            raise UnreachableError(f"the RabbitMQ cluster {self.cluster} was not reached within {seconds:g} s: {self.error or 'no answer'}")

    def close(self) -> None:
        """Close the connection, after all that was called before; may be called twice. A forked child leaves its parent's alone."""
        if self._pid != os.getpid():
            return
        if not self._ended:
            self.call(self._close)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSING)

    # --- on the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.call(self._connect)
        while not self._ended:
            try:
                self._loop.start()
            except Exception:
                log.exception("A fault in the connection to the RabbitMQ cluster %s: it is made anew", self.cluster)
                self.call(self._break)
        self._loop.close()

    def _connect(self) -> None:
        if self._closing:
            return
        random.shuffle(self._parameters)  # the processes spread over the nodes
        self._attempt = SelectConnection.create_connection(self._parameters, self._connected, self._loop)

    def _connected(self, result: Any) -> None:
        self._attempt = None
        if isinstance(result, BaseException):
            self._gone(f"{_cause_of(result)}")
            return
        self._connection = result
        result.add_on_close_callback(lambda _connection, reason: self._gone(str(reason)))
        result.add_on_connection_blocked_callback(lambda _connection, frame: self._block(frame.method.reason))
        result.add_on_connection_unblocked_callback(lambda *_: self._block(""))
        if self._closing:
            result.close()
            return
        self._failures, self.error = 0, ""
        self._opened(result)
        self._up.set()

    def _block(self, reason: str) -> None:
        self.blocked = reason
        if reason:
            log.warning("The RabbitMQ cluster %s takes no messages now: %s", self.cluster, reason)

    def _gone(self, reason: str) -> None:
        self._connection, self.blocked = None, ""
        self._up.clear()
        if self._closing:
            self._ended = True
            self._loop.stop()
            return
        if self.error != reason:
            log.info("No connection to the RabbitMQ cluster %s, it is tried again: %s", self.cluster, reason)
        self.error = reason
        self._lost(reason)
        pause = _STEPS[min(self._failures, len(_STEPS) - 1)] * random.uniform(0.5, 1.5)  # noqa: S311 - spread
        self._failures += 1
        self.later(pause, self._connect)

    def _break(self) -> None:
        """After a fault nobody knows what of the connection still holds."""
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._connection is not None:
            if not self._connection.is_closing:
                self._connection.close()
        elif self._attempt is not None:
            self._attempt.abort()
        else:
            self._gone("")


def _cause_of(error: Any) -> str:
    """Return what pika says in the innermost of its exceptions."""
    while found := getattr(error, "exceptions", None) or getattr(error, "exception", None):
        error = found[-1] if isinstance(found, (list, tuple)) else found
    return f"{type(error).__name__}: {error}" if str(error) else repr(error)
