"""The client of an application: reads metadata, follows it, and reports what the application has applied."""

from __future__ import annotations

import atexit
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mqadmin_sdk.consuming.consumers import DRAIN, Consumers
from mqadmin_sdk.consuming.shadows import Shadowing
from mqadmin_sdk.errors import MqadminError, UnsupportedError
from mqadmin_sdk.filecache import FileCache, default_directory
from mqadmin_sdk.following import Follower
from mqadmin_sdk.http import AppKey, ControlPlane
from mqadmin_sdk.message import Outgoing, SendResult, seconds
from mqadmin_sdk.producing.producer import TIMEOUT, Producer
from mqadmin_sdk.producing.transactions import Transaction, check_back
from mqadmin_sdk.transports import Context, producer_transport
from mqadmin_sdk.zk import Access, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime, timedelta

    from typing_extensions import Self, Unpack

    from mqadmin_sdk import metadata
    from mqadmin_sdk.consuming.consumers import Subscribing
    from mqadmin_sdk.http import Balance, Credential
    from mqadmin_sdk.message import Message
    from mqadmin_sdk.producing.transactions import Decision
    from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
    from mqadmin_sdk.transports import HalfMessage

    Handler = TypeVar("Handler", bound=Callable[[Message], object])


_LOOK_UP = 2.0  # seconds to wait for ZooKeeper when a cluster is looked up that a group drains: it is tried again, and the others wait


class NotReadyError(MqadminError):
    """What `Client(check=True)` found wrong: `problems`, each a sentence."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(" ".join(problems))


class Client:
    """One for a process, kept for its whole life; a context manager.

    `zookeeper` is `host:port[,host:port…][/chroot]`, `app` the application's name. Callbacks run one after another on a thread of the
    client's own. After a fork the child goes on with a connection, threads and instances of its own. `labels`, such as
    `{"zone": "a"}`, are reported, and a gated release may choose instances by them. `access` is for a ZooKeeper that wants TLS, or
    credentials also from those who read. `cache_dir` is where a file remembers what was read, for a start without ZooKeeper: by default
    MQADMIN_CACHE_DIR or the user's directory for caches; "" for no file.

    For the built-in store: `url` is mqadmin's address, or several with weights (see `http.ControlPlane`), of which `balance` chooses;
    `credential` is an `AppKey` or a `Token`; `ca` a PEM file for https with a CA of one's own.

    For sending: `linger` is how many seconds asynchronous messages wait for others to share a batch; at most `buffer_messages` of
    `buffer_bytes` are buffered. `options` are handed to brokers' own clients, by kind of broker. `shadowing` says how the traffic of
    stress tests is kept apart. `check` makes sure that everything needed can be reached, and raises NotReadyError.
    """

    def __init__(
        self,
        *,
        zookeeper: str,
        app: str,
        session_timeout: float = 10.0,
        ip: str | None = None,
        labels: Mapping[str, str] | None = None,
        access: Access | None = None,
        cache_dir: str | Path | None = None,
        url: str | Sequence[str] | Mapping[str, float] | None = None,
        credential: Credential | None = None,
        balance: Balance = "random",
        ca: str = "",
        linger: float = 0.0,
        buffer_messages: int = 10_000,
        buffer_bytes: int = 64 * 1024 * 1024,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        transports: Mapping[str, Any] | None = None,
        shadowing: Shadowing | None = None,
        check: bool = False,
    ) -> None:
        if not app or "/" in app:
            raise ValueError("app is the name of the application")
        self.app = app
        self.labels = dict(labels or {})
        if not all(isinstance(part, str) and part for pair in self.labels.items() for part in pair):
            raise ValueError("labels are names with values, both text that is not empty")
        self.ip = ip or paths.local_ip()
        self._zookeeper = zookeeper
        directory = default_directory() if cache_dir is None else Path(cache_dir) if cache_dir else None
        self._follower = self._new_follower(
            zookeeper,
            app=app,
            ip=self.ip,
            labels=self.labels,
            session_timeout=session_timeout,
            access=access,
            cache=FileCache(directory, app=app, ensemble=zookeeper) if directory is not None else None,
        )
        self._control = ControlPlane(url, credential=credential, balance=balance, ca=ca) if url else None
        self._options, self._transports = dict(options or {}), dict(transports or {})
        self.producer = Producer(
            watch=self.watch_topic,
            read=lambda name, timeout: self.topic(name, timeout=timeout),
            make=lambda cluster: producer_transport(cluster, self.context),
            linger=linger,
            buffer_messages=buffer_messages,
            buffer_bytes=buffer_bytes,
        )
        self.consumers = Consumers(
            app=app,
            watch_group=self.watch_group,
            watch_shadow=self.watch_shadow,
            group=self.group,
            cluster=lambda name: self.cluster(name, timeout=_LOOK_UP),
            context=lambda: self.context,
            shadowing=shadowing or Shadowing(),
        )
        self.producer.interceptors.append(self.consumers.shadowing.outgoing)
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(myself))
        atexit.register(_close, myself)
        if check:
            try:
                self.check()
            except BaseException:
                self.close()
                raise

    def _new_follower(self, zookeeper: str, **arguments: Any) -> Follower:
        """Return what this client follows metadata with; `testing` has another one."""
        return Follower(zookeeper, **arguments)

    @classmethod
    def from_env(cls, **arguments: Any) -> Client:
        """Read MQADMIN_ZOOKEEPER and MQADMIN_APP, and what is set of the others; `arguments` go before the environment.

        MQADMIN_LABELS (`zone=a,rack=2`), MQADMIN_URL, MQADMIN_BALANCE, MQADMIN_CA, MQADMIN_APP_KEY with MQADMIN_APP_SECRET, and what
        `Access` reads. MQADMIN_APP_SECRET_FILE names a file that holds the secret. Raises ValueError.
        """
        environ = os.environ
        missing = [
            name
            for name, given in (("MQADMIN_ZOOKEEPER", "zookeeper"), ("MQADMIN_APP", "app"))
            if not (given in arguments or environ.get(name))
        ]
        if missing:
            raise ValueError(f"Set {' and '.join(missing)} in the environment.")
        found: dict[str, Any] = {
            "zookeeper": environ.get("MQADMIN_ZOOKEEPER"),
            "app": environ.get("MQADMIN_APP"),
            "labels": _labels(environ.get("MQADMIN_LABELS", "")),
            "access": Access.from_env(),
            "url": environ.get("MQADMIN_URL") or None,
            "balance": environ.get("MQADMIN_BALANCE") or "random",
            "ca": environ.get("MQADMIN_CA", ""),
            "credential": _credential(environ),
        }
        return cls(**{**found, **arguments})

    @property
    def context(self) -> Context:
        """What the transports of this client have in common."""
        return Context(app=self.app, instance=self.instance, control=self._control, options=self._options, transports=self._transports)

    @property
    def instance(self) -> str:
        """This process among those of the application."""
        return f"{self.ip}-{os.getpid()}"

    @property
    def control(self) -> ControlPlane:
        """The REST interface of mqadmin, with this client's credential. Raises UnsupportedError without an address."""
        if self._control is None:
            raise UnsupportedError("the client has no address of mqadmin: give url, or MQADMIN_URL")
        return self._control

    def check(self, *, timeout: float = 10.0) -> None:
        """Make sure that ZooKeeper and, if there is an address, mqadmin are reached and take the credential. Raises NotReadyError."""
        problems = []
        try:
            self._follower.check(timeout=timeout)
        except MqadminError as error:
            problems.append(f"ZooKeeper at {self._zookeeper}: {error}.")
        if self._control is not None:
            try:
                self._control.get("me", timeout=timeout)
            except MqadminError as error:
                problems.append(f"mqadmin: {error}.")
        if problems:
            raise NotReadyError(problems)

    # --- sending --------------------------------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        body: Any,
        *,
        key: str | None = None,
        tag: str = "",
        sharding_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        id: str | None = None,  # noqa: A002 - the name that the REST interface has
        timeout: float = TIMEOUT,
    ) -> SendResult:
        """Store a message for good on whichever cluster the topic is now.

        `body` is bytes, text, or anything that JSON can say. `key` is for people and searches, `tag` for filters; messages with one
        `sharding_key` stay in order on an ordered topic. `delay` (seconds or a timedelta) or `deliver_at` deliver it later. It is sent
        again under the same `id` (made up if not given) after temporary faults and back-pressure, for `timeout` seconds in all.

        Raises Busy, other MqadminErrors (UnreachableError, ProblemError, NotPublishedError), ValueError.
        """
        message = Outgoing.of(body, key, tag, sharding_key, headers, delay, deliver_at, id)
        return self.producer.send(topic, message, timeout=timeout)

    def send_async(
        self,
        topic: str,
        body: Any,
        *,
        key: str | None = None,
        tag: str = "",
        sharding_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        id: str | None = None,  # noqa: A002
        timeout: float = TIMEOUT,
    ) -> Future[SendResult]:
        """Send soon, in batches with what else is sent meanwhile; in order for each sharding key. The future has what `send` returns.

        While the buffer is full this call waits, up to `timeout` seconds, then raises Busy. For asyncio: `asyncio.wrap_future(…)`.
        """
        message = Outgoing.of(body, key, tag, sharding_key, headers, delay, deliver_at, id)
        return self.producer.send_async(topic, message, timeout=timeout)

    def send_oneway(
        self,
        topic: str,
        body: Any,
        *,
        key: str | None = None,
        tag: str = "",
        sharding_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: timedelta | float | None = None,
        deliver_at: datetime | None = None,
        id: str | None = None,  # noqa: A002
        timeout: float = TIMEOUT,
    ) -> None:
        """Send soon and hear no more of it: what fails is logged. Otherwise like `send_async`."""
        message = Outgoing.of(body, key, tag, sharding_key, headers, delay, deliver_at, id)
        self.producer.send_oneway(topic, message, timeout=timeout)

    def send_batch(self, topic: str, messages: Iterable[Any], *, timeout: float = TIMEOUT) -> list[SendResult]:
        """Store several together: bodies, or `Outgoing`s where they need more than a body. One result for each, in their order.

        The built-in store takes all or none of a batch (of up to 1,000 messages and 8 MiB; a larger one goes in parts). Raises
        BatchError, whose `results` say which were stored.
        """
        return self.producer.send_batch(topic, [Outgoing.of(one) for one in messages], timeout=timeout)

    def transaction(self, topic: str, *, check_after: timedelta | float | None = None, timeout: float = TIMEOUT) -> Transaction:
        """Send together with the application's own transaction, by half messages.

        What is sent in the `with` block is stored at once and seen by nobody. It is delivered when the block ends and thrown away when
        it raises. If this process dies in between, mqadmin asks what became of it: `check_after` (a second to a day) later, or after
        the time of its own.
        Raises UndecidedError when the block has ended and a commit gets no answer.
        """
        return self.producer.transaction(topic, check_after=None if check_after is None else seconds(check_after), timeout=timeout)

    def check_back(self, topic: str, judge: Callable[[HalfMessage], Decision], *, limit: int = 100, timeout: float = TIMEOUT) -> int:
        """Decide half messages that a process of this application has left open; call it now and then. Returns how many were decided.

        `judge` says "commit", "rollback" or "unknown" of each.
        """
        return check_back(self.producer.topic(topic), judge, limit=limit, timeout=timeout)

    def flush(self, *, timeout: float = TIMEOUT) -> bool:
        """Wait until what was sent asynchronously is stored or has failed; False if it is not within so many seconds."""
        return self.producer.flush(timeout=timeout)

    @property
    def interceptors(self) -> list[Callable[[str, Outgoing], tuple[str, Outgoing]]]:
        """Called with the topic and each message before it is sent; what they return is sent. To be filled before the first send."""
        return self.producer.interceptors

    # --- consuming ------------------------------------------------------------------------------------------------------

    @overload
    def subscribe(self, group: str, handler: None = None, **options: Unpack[Subscribing]) -> Callable[[Handler], Handler]: ...

    @overload
    def subscribe(self, group: str, handler: Handler, **options: Unpack[Subscribing]) -> Handler: ...

    def subscribe(self, group: str, handler: Any = None, **options: Any) -> Any:
        """Have a group's messages handled, as a decorator or a call: from `run` or `start` on, or now if that was.

        A message is settled when its handler returns. An exception is a failed attempt: it comes again after the group's backoff, and is
        dead at the group's limit; `Later(delay)` is no attempt, `Dead(reason)` gives up at once. Messages of one sharding key are handled
        one after the other. At least once: after a crash, or a lease that ended, a message may come again. Options: see `Subscribing`.
        """
        return self.consumers.subscribing(group, handler, options)

    def start(self) -> None:
        """Begin to consume what is subscribed, on threads of its own; `close` ends it."""
        self.consumers.start()

    def run(self, *, timeout: float = DRAIN) -> bool:
        """Consume until SIGTERM, SIGINT or `stop`: then pull no more, finish what was begun within `timeout` seconds, settle, close.

        What was pulled and not begun is given back. Returns whether all handlers had ended. Signals are heard on the main thread only.
        """
        try:
            return self.consumers.run(timeout=timeout)
        finally:
            self.close()

    def stop(self) -> None:
        """Have `run` return, from any thread."""
        self.consumers.end()

    # --- reading --------------------------------------------------------------------------------------------------------

    def topic(self, name: str, *, timeout: float = 10.0) -> metadata.TopicMetadata:
        """Return a topic: from memory if this client follows it, else read in two round trips.

        While ZooKeeper cannot be reached it is what was known last, if need be as the file remembers it, and `stale`. Raises
        NotPublishedError, BrokenNodeError, and NotConnectedError after `timeout` seconds.
        """
        return self._follower.topic(name, timeout=timeout)

    def group(self, name: str, *, timeout: float = 10.0) -> metadata.GroupMetadata:
        """Return a consumer group; otherwise like `topic`."""
        return self._follower.group(name, timeout=timeout)

    def cluster(self, name: str, *, timeout: float = 10.0) -> metadata.ClusterMetadata:
        """Read a cluster, in one round trip; otherwise like `topic`."""
        return self._follower.cluster(name, timeout=timeout)

    # --- following ------------------------------------------------------------------------------------------------------

    def watch_topic(self, name: str, on_change: Callable[[metadata.TopicMetadata | None], object]) -> Subscription:
        """Follow a topic as a producer: called with its state as soon as it is there, with each later one, and with None when it is gone.

        The last state counts: what changed twice while the callback ran is given once. When the callback returns, its generation is
        reported as applied; when it raises, the error is reported and the callback is not called again before the next change.
        """
        return self._follower.watch_topic(name, on_change)

    def watch_group(self, name: str, on_change: Callable[[metadata.GroupMetadata | None], object]) -> Subscription:
        """Follow a consumer group as a consumer; otherwise like `watch_topic`."""
        return self._follower.watch_group(name, on_change)

    def watch_shadow(
        self, on_change: Callable[[metadata.ShadowGroup], object], *, groups: Collection[str] | None = None
    ) -> ShadowSubscription:
        """Follow the application's shadow groups: called when one has to start (`running`) or stop (`reason`: off, deleted, lease).

        `groups` are those that the application serves; by default those that it watches. A lease ends by itself, even without ZooKeeper.
        """
        return self._follower.watch_shadow(on_change, groups=groups)

    def close(self, *, timeout: float = DRAIN) -> None:
        """Finish what is being handled, send what is buffered, end the session, so that the instances are offline at once, and the threads.

        Handlers have so many seconds, what is buffered as many, and 10 at most. A callback that is running is waited for.
        """
        self.consumers.stop(timeout=timeout)
        self.producer.close(timeout=min(timeout, 10.0))
        self._follower.close()
        if self._control is not None:
            self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _labels(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and value.strip() for name, _equals, value in pairs):
        raise ValueError("MQADMIN_LABELS is name=value,name=value")
    return {name.strip(): value.strip() for name, _equals, value in pairs}


def _credential(environ: Mapping[str, str]) -> AppKey | None:
    key, secret, file = (environ.get(f"MQADMIN_APP_{name}", "") for name in ("KEY", "SECRET", "SECRET_FILE"))
    if file:
        secret = Path(file).read_text("utf-8").strip()
    if bool(key) != bool(secret):
        raise ValueError("MQADMIN_APP_KEY goes with MQADMIN_APP_SECRET or MQADMIN_APP_SECRET_FILE")
    return AppKey(key, secret) if key else None


def _forked(client: weakref.ref[Client]) -> None:
    if (found := client()) is not None:
        found.producer.after_fork()
        found._follower.after_fork()  # noqa: SLF001
        found.consumers.after_fork()


def _close(client: weakref.ref[Client]) -> None:
    if (found := client()) is not None:
        found.close()
