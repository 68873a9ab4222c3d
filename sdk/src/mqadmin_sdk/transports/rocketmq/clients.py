"""What both sides have in common: connections to a cluster's proxies, routes of topics, the settings a client begins with, and errors."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import logging
import random
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mqadmin_sdk.errors import Busy, TransportError, UnreachableError, UnsupportedError
from mqadmin_sdk.transports.rocketmq import wire
from mqadmin_sdk.transports.rocketmq.channel import Call, CallError, Channel
from mqadmin_sdk.transports.rocketmq.wire import messages as wm
from mqadmin_sdk.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mqadmin_sdk.metadata import ClusterMetadata
    from mqadmin_sdk.transports import Context

log = logging.getLogger(__name__)

ID, TAGS = "mqadmin-id", "mqadmin-tags"
HEARTBEAT = 10.0  # seconds; the server forgets a client after two minutes
ROUTE = 20.0  # seconds that a route is believed
CONNECT = 5.0  # seconds
ANSWER = 10.0  # seconds for a request that does not wait
_SERVICE = "/apache.rocketmq.v2.MessagingService/"
_IPV4, _IPV6, _NAME = 1, 2, 3
_PYTHON = 6
_READ, _WRITE = {2, 4}, {3, 4}  # permissions of a queue
_numbers = itertools.count(1)

Address = tuple[str, int]
Addresses = tuple[Address, ...]


@dataclass(frozen=True)
class Route:
    """Where a topic is: a queue of each broker that takes messages, or gives them; `kinds` are the types of message that it takes."""

    until: float
    writable: tuple[Any, ...]
    readable: tuple[Any, ...]
    kinds: frozenset[int]


class Link:
    """A connection to a proxy that knows this client."""

    def __init__(self, client: Client, addresses: Addresses, timeout: float) -> None:
        """Connect, and hand in the settings. Raises UnreachableError, UnsupportedError."""
        self.addresses = addresses
        self._client = client
        causes = []
        for address in random.sample(addresses, len(addresses)):
            try:
                self.channel = Channel(address, tls=client.tls, timeout=min(timeout, CONNECT))
                break
            except OSError as error:
                causes.append(f"{address[0]}:{address[1]}: {error}")
        else:
            raise UnreachableError(f"the RocketMQ cluster {client.cluster} cannot be reached ({'; '.join(causes)})")
        self.beat: Call | None = None
        self._greeted = threading.Event()
        self._refused: Any = None
        self._stream = self.begin("Telemetry", None, timeout=None, on_message=self._told, on_end=self._hung_up)
        try:
            self._stream.send(wm.TelemetryCommand(settings=client.settings(endpoints_of(addresses))).SerializeToString())
            if not self._greeted.wait(min(timeout, ANSWER)):
                self._refused = UnreachableError(f"the RocketMQ cluster {client.cluster} does not answer at {self.channel.authority}")
        except BaseException:
            self.channel.close()
            raise
        if self._refused is not None:
            self.channel.close()
            raise self._refused

    def begin(
        self,
        method: str,
        request: Any,
        *,
        timeout: float | None,
        on_message: Callable[[bytes], object] | None = None,
        on_end: Callable[[Call], object] | None = None,
    ) -> Call:
        """Begin a call."""
        data = None if request is None else request.SerializeToString()
        return self.channel.call(_SERVICE + method, data, self._client.headers(), timeout=timeout, on_message=on_message, on_end=on_end)

    def ask(self, method: str, request: Any, *, timeout: float) -> Any:
        """Call, and return the one answer. Raises TransportError."""
        return self.answer(method, self.begin(method, request, timeout=timeout), timeout)

    def answer(self, method: str, call: Call, timeout: float) -> Any:
        """Return the one answer of a call. Raises TransportError."""
        try:
            answers = call.result(max(0.0, timeout))
        except CallError as error:
            raise self._client.lost(error) from error
        if not answers:
            raise TransportError(f"the RocketMQ cluster {self._client.cluster} gave no answer", unknown=True)
        return getattr(wm, f"{method}Response").FromString(answers[0])

    def _told(self, data: bytes) -> None:
        command = wm.TelemetryCommand.FromString(data)
        if command.HasField("status") and command.status.code not in {0, wire.OK} and not self._greeted.is_set():
            self._refused = self._client.refused(command.status, "its proxy refuses this client")
            self._greeted.set()
        elif command.HasField("settings"):
            self._client.on_settings(command.settings)
            self._greeted.set()
        elif command.HasField("recover_orphaned_transaction_command"):
            self._client.on_orphan(self, command.recover_orphaned_transaction_command)

    def _hung_up(self, call: Call) -> None:
        """Without this stream the server forgets the settings: connect again."""
        if not self._greeted.is_set():
            self._refused = UnreachableError(f"the RocketMQ cluster {self._client.cluster} cannot be used: {call.error or 'it hung up'}")
            self._greeted.set()
        threading.Thread(target=self.channel.close, daemon=True).start()


class Client:
    """What one transport has to do with a cluster. Thread-safe; connects when it is first used, and again after a connection broke."""

    def __init__(
        self, cluster: ClusterMetadata, context: Context, *, settings: Callable[[Any], None], heartbeat: Any, group: str = ""
    ) -> None:
        if not cluster.proxy_addr:
            raise UnsupportedError(
                f"cluster {cluster.name} is RocketMQ and names no proxy: operators enter the address of its gRPC proxies"
                " (RocketMQ 5, port 8081) at the cluster in mqadmin"
            )
        self.cluster = cluster.name
        self.group = group
        own = _options(context.options.get("rocketmq", {}), cluster.name)
        self._keys: tuple[str, str] | None = own["keys"]
        self.namespace: str = own["namespace"]
        self.tls: ssl.SSLContext | None = own["tls"]
        self._boot = _addresses(cluster.proxy_addr, cluster.name)
        # The server keeps the settings by this name: each transport needs one of its own.
        self._id = f"{context.app}-{context.instance}@{next(_numbers)}@{secrets.token_hex(4)}"
        self._settings, self.heartbeat = settings, heartbeat
        self.on_settings: Callable[[Any], object] = lambda _settings: None
        self.on_orphan: Callable[[Link, Any], object] = lambda _link, _command: None
        self._opening, self._lock = threading.Lock(), threading.Lock()
        self._links: dict[Addresses, Link] = {}
        self._routes: dict[str, Route] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    # --- what is sent along ---------------------------------------------------------------------------------------------

    def resource(self, name: str) -> Any:
        """Return a topic or group by its name."""
        return wm.Resource(resource_namespace=self.namespace, name=name)

    def settings(self, access_point: Any) -> Any:
        """Return what the server has to know first."""
        agent = wm.UA(language=_PYTHON, version=VERSION, platform="mqadmin-sdk", hostname=socket.gethostname())
        made = wm.Settings(access_point=access_point, request_timeout=wire.moment(ANSWER), user_agent=agent)
        self._settings(made)
        return made

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of a call."""
        headers = [
            ("x-mq-client-id", self._id),
            ("x-mq-language", "PYTHON"),
            ("x-mq-protocol", "v2"),
            ("x-mq-client-version", VERSION),
            ("x-mq-namespace", self.namespace),
        ]
        if self._keys is not None:
            access, secret = self._keys
            now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            signed = hmac.new(secret.encode(), now.encode(), hashlib.sha1).hexdigest().upper()
            value = f"MQv2-HMAC-SHA1 Credential={access}, SignedHeaders=x-mq-date-time, Signature={signed}"
            headers += [("x-mq-date-time", now), ("authorization", value)]
        return headers

    # --- connections ----------------------------------------------------------------------------------------------------

    def link(self, addresses: Addresses, timeout: float) -> Link:
        """Return the connection to one of the addresses. Raises UnreachableError, TransportError."""
        with self._opening:  # others wait: they would all do the same
            with self._lock:
                found = self._links.get(addresses)
            if found is not None and found.channel.usable:
                return found
            if self._closed.is_set():
                raise TransportError("the transport is closed")
            made = Link(self, addresses, max(0.1, timeout))
            with self._lock:
                self._links[addresses] = made
                if self._closed.is_set():
                    made.channel.close()
                elif self._thread is None:
                    self._thread = threading.Thread(target=self._keep, name=f"mqadmin-rocketmq-{self.cluster}", daemon=True)
                    self._thread.start()
            self._beat(made)
            return made

    def reach(self) -> None:
        """Connect. Raises UnreachableError, TransportError."""
        self.link(self._boot, CONNECT)

    def link_of(self, queue: Any, timeout: float) -> Link:
        """Return the connection to the broker of a queue."""
        return self.link(tuple(sorted((one.host, one.port) for one in queue.broker.endpoints.addresses)), timeout)

    def _keep(self) -> None:
        """Say now and then that we are here; a connection on which that is not answered is dead."""
        while not self._closed.wait(HEARTBEAT):
            with self._lock:
                links = [*self._links.values()]
            for link in links:
                if link.beat is not None and not link.beat.ended.is_set():
                    link.channel.close()
                if link.channel.usable:
                    self._beat(link)
                else:
                    with self._lock:
                        if self._links.get(link.addresses) is link:
                            del self._links[link.addresses]

    def _beat(self, link: Link) -> None:
        link.beat = link.begin("Heartbeat", self.heartbeat, timeout=ANSWER)

    def close(self) -> None:
        """Say goodbye, and give up the connections. May be called twice."""
        self._closed.set()
        with self._lock:
            links = [*self._links.values()]
            self._links.clear()
        goodbye = wm.NotifyClientTerminationRequest(group=self.resource(self.group) if self.group else None)
        for link in links:
            with contextlib.suppress(TransportError):
                if link.channel.usable:
                    link.ask("NotifyClientTermination", goodbye, timeout=1.0)
            link.channel.close()

    # --- routes ---------------------------------------------------------------------------------------------------------

    def route(self, topic: str, timeout: float) -> Route:
        """Return where a topic is. Raises TransportError, UnreachableError."""
        found = self._routes.get(topic)
        if found is not None and found.until > time.monotonic():
            return found
        request = wm.QueryRouteRequest(topic=self.resource(topic), endpoints=endpoints_of(self._boot))
        answer = self.link(self._boot, timeout).ask("QueryRoute", request, timeout=min(timeout, ANSWER))
        if answer.status.code != wire.OK:
            raise self.refused(answer.status, f"topic {topic}")
        masters = sorted((queue for queue in answer.message_queues if queue.broker.id == 0), key=lambda queue: queue.broker.name)
        route = Route(
            until=time.monotonic() + ROUTE,
            writable=tuple({one.broker.name: one for one in masters if one.permission in _WRITE}.values()),
            readable=tuple({one.broker.name: one for one in masters if one.permission in _READ}.values()),
            kinds=frozenset(kind for queue in answer.message_queues for kind in queue.accept_message_types),
        )
        self._routes[topic] = route
        return route

    def forget(self, topic: str) -> None:
        """Ask again where a topic is."""
        self._routes.pop(topic, None)

    # --- errors ---------------------------------------------------------------------------------------------------------

    def lost(self, error: CallError) -> TransportError:
        """Return the error of the SDK for a call that came to nothing."""
        text = f"the RocketMQ cluster {self.cluster}: {error}"
        return TransportError(text, unknown=True) if error.maybe else UnreachableError(text)

    def refused(self, status: Any, what: str) -> TransportError:
        """Return the error of the SDK for a status of RocketMQ."""
        code, detail = status.code, " ".join(status.message.split())[:500]
        if code == wire.TOPIC_NOT_FOUND:
            return TransportError(f"the RocketMQ cluster {self.cluster} has no {what}")
        text = f"{what}: the RocketMQ cluster {self.cluster} says {code}: {detail}"
        if code == wire.TOO_MANY_REQUESTS:
            return Busy(text)
        permanent = 40000 <= code < 50000 and code != wire.REQUEST_TIMEOUT
        return TransportError(text, permanent=permanent, unknown=code >= 50000 or code == wire.REQUEST_TIMEOUT)


def endpoints_of(addresses: Addresses) -> Any:
    """Return addresses as RocketMQ writes them."""
    hosts = [host for host, _port in addresses]
    scheme = _IPV6 if all(":" in host for host in hosts) else _IPV4 if all(host.replace(".", "").isdigit() for host in hosts) else _NAME
    return wm.Endpoints(scheme=scheme, addresses=[wm.Address(host=host, port=port) for host, port in addresses])


def _addresses(text: str, cluster: str) -> Addresses:
    found = []
    for part in filter(None, (one.strip() for one in text.split(";"))):
        host, _, port = part.rpartition(":")
        if not host or not port.isdigit():
            raise UnsupportedError(f"cluster {cluster}: {part!r} is no address of a proxy: host:port, several joined by ;")
        found.append((host.strip("[]"), int(port)))
    return tuple(sorted(found))


def _options(options: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """Read what the application sets: `access_key` and `secret_key`, `namespace`, `tls` (True, or an ssl.SSLContext)."""
    unknown = set(options) - {"access_key", "secret_key", "namespace", "tls"}
    both = ("access_key" in options) == ("secret_key" in options)
    if unknown or not both:
        wrong = f"no such settings: {', '.join(sorted(unknown))}" if unknown else "access_key and secret_key go together"
        raise UnsupportedError(f"cluster {cluster}: the settings for RocketMQ are not right: {wrong}")
    tls = options.get("tls")
    if tls is True:
        tls = ssl.create_default_context()
    if tls:
        tls.set_alpn_protocols(["h2"])
    return {
        "keys": (options["access_key"], options["secret_key"]) if "access_key" in options else None,
        "namespace": options.get("namespace", ""),
        "tls": tls or None,
    }
