"""The client of an application: reads metadata, follows it, and reports what the application has applied."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, NoNodeError, SessionExpiredError
from kazoo.protocol.states import KazooState

from mqadmin_sdk import metadata
from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
from mqadmin_sdk.zk import Access, PerProcess, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from typing_extensions import Self  # noqa: UP035 - Python 3.10

    from mqadmin_sdk.reports import Report
    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)

_DISCONNECTED = (ConnectionLoss, SessionExpiredError, ConnectionClosedError)
_AGAIN_AFTER = 0.5  # seconds, when a node cannot be understood or its cluster is not there


class NotConnectedError(ConnectionError):
    """ZooKeeper could not be reached in time."""


class Client:
    """One for a process, kept for its whole life; a context manager.

    `zookeeper` is `host:port[,host:port…][/chroot]`, `app` the application's name. Callbacks run one after another on a thread of the
    client's own. After a fork the child goes on with a connection, threads and instances of its own. `labels`, such as
    `{"zone": "a"}`, are reported, and a gated release may choose instances by them. `access` is for a ZooKeeper that wants TLS, or
    credentials also from those who read.
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
    ) -> None:
        if not app or "/" in app:
            raise ValueError("app is the name of the application")
        self.app = app
        self.labels = dict(labels or {})
        if not all(isinstance(part, str) and part for pair in self.labels.items() for part in pair):
            raise ValueError("labels are names with values, both text that is not empty")
        self.ip = ip or paths.local_ip()
        self._connection = PerProcess(
            zookeeper, timeout=session_timeout, prepare=lambda client: client.add_listener(self._on_state), access=access
        )
        self._subscriptions: list[Subscription] = []
        self._shadow: list[ShadowSubscription] = []
        self._reset()
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(myself))
        atexit.register(_close, myself)

    @classmethod
    def from_env(cls) -> Client:
        """Read MQADMIN_ZOOKEEPER and MQADMIN_APP, and if they are set MQADMIN_LABELS, such as `zone=a,rack=2`, and what `Access` reads."""
        missing = [name for name in ("MQADMIN_ZOOKEEPER", "MQADMIN_APP") if not os.environ.get(name)]
        if missing:
            raise ValueError(f"Set {' and '.join(missing)} in the environment.")
        labels = _labels(os.environ.get("MQADMIN_LABELS", ""))
        return cls(zookeeper=os.environ["MQADMIN_ZOOKEEPER"], app=os.environ["MQADMIN_APP"], labels=labels, access=Access.from_env())

    # --- reading --------------------------------------------------------------------------------------------------------

    def topic(self, name: str, *, timeout: float = 10.0) -> metadata.TopicMetadata:
        """Read a topic: two round trips. Raises NotPublishedError, BrokenNodeError, NotConnectedError after `timeout` seconds."""
        client = self._connected(timeout)
        data = self._read_one(client, paths.topic(name), f"topic {name}")
        cluster, gated = metadata.cluster_names(data, ip=self.ip, labels=self.labels, what=f"topic {name}")
        return metadata.parse_topic(name, data, self._cluster(client, cluster), gated=gated)

    def group(self, name: str, *, timeout: float = 10.0) -> metadata.GroupMetadata:
        """Read a consumer group; otherwise like `topic`."""
        client = self._connected(timeout)
        data = self._read_one(client, paths.group(name), f"group {name}")
        cluster, gated = metadata.cluster_names(data, ip=self.ip, labels=self.labels, what=f"group {name}")
        return metadata.parse_group(name, data, self._cluster(client, cluster), gated=gated)

    def cluster(self, name: str, *, timeout: float = 10.0) -> metadata.ClusterMetadata:
        """Read a cluster; otherwise like `topic`."""
        return self._cluster(self._connected(timeout), name)

    # --- following ------------------------------------------------------------------------------------------------------

    def watch_topic(self, name: str, on_change: Callable[[metadata.TopicMetadata | None], object]) -> Subscription:
        """Follow a topic as a producer: called with its state as soon as it is there, with each later one, and with None when it is gone.

        The last state counts: what changed twice while the callback ran is given once. When the callback returns, its generation is
        reported as applied; when it raises, the error is reported and the callback is not called again before the next change.
        """
        return self._follow(Subscription(kind="topic", name=name, app=self.app, ip=self.ip, labels=self.labels, callback=on_change))

    def watch_group(self, name: str, on_change: Callable[[metadata.GroupMetadata | None], object]) -> Subscription:
        """Follow a consumer group as a consumer; otherwise like `watch_topic`."""
        return self._follow(Subscription(kind="group", name=name, app=self.app, ip=self.ip, labels=self.labels, callback=on_change))

    def watch_shadow(
        self, on_change: Callable[[metadata.ShadowGroup], object], *, groups: Collection[str] | None = None
    ) -> ShadowSubscription:
        """Follow the application's shadow groups: called when one has to start (`running`) or stop (`reason`: off, deleted, lease).

        `groups` are those that the application serves; by default those that it watches. A lease ends by itself, even without ZooKeeper.
        """
        followed = ShadowSubscription(app=self.app, ip=self.ip, callback=on_change, groups=groups)
        followed.on_close = lambda _: self._inbox.put(("close", followed))
        with self._lock:
            self._shadow.append(followed)
        self._start()
        self._inbox.put(("shadow", followed))
        return followed

    def close(self) -> None:
        """End the session, so that the instances are offline at once, and the threads. A callback that is running is waited for."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._inbox.put(("stop", None))
        self._work.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=10)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- life -----------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._dirty: set[Subscription] = set()  # to be read
        self._reports: dict[int, tuple[Report, bool]] = {}  # to be published, or withdrawn
        self._dirty_shadow: set[ShadowSubscription] = set()
        self._again: set[Subscription] = set()  # to be read once more at `_again_at`
        self._again_at: float | None = None
        self._server_clock: tuple[float, float] | None = None  # (ms since 1970 by the server, our monotonic seconds)

    def _after_fork(self) -> None:
        closed = self._closed.is_set()
        self._reset()
        if closed:
            self._closed.set()
            return
        for subscription in self._subscriptions:
            subscription.renew()
        for shadow in self._shadow:
            shadow.forget()
        if self._subscriptions or self._shadow:
            self._start()
            for subscription in self._subscriptions:
                self._inbox.put(("node", subscription))

    def _start(self) -> None:
        if self._closed.is_set():
            raise RuntimeError("the client is closed")
        with self._lock:
            if not self._threads:
                for name, run in (("io", self._io), ("callbacks", self._callbacks)):
                    thread = threading.Thread(target=run, name=f"mqadmin-{name}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _follow(self, subscription: Subscription) -> Subscription:
        subscription.on_close = lambda closed: self._inbox.put(("close", closed))
        with self._lock:
            self._subscriptions.append(subscription)
        self._start()
        self._inbox.put(("node", subscription))
        for shadow in self._shadow:  # it may serve one more group now
            self._inbox.put(("shadow", shadow))
        return subscription

    def _connected(self, timeout: float) -> ZooKeeper:
        if self._closed.is_set():
            raise RuntimeError("the client is closed")
        client = self._connection.get()
        if not client._live.wait(timeout):  # noqa: SLF001 - kazoo's own event for it
            why = f" ({client.trouble})" if client.trouble else ""
            raise NotConnectedError(f"ZooKeeper was not reached within {timeout:g} s{why}")
        return client

    def _on_state(self, state: str) -> None:
        """Kazoo's connection thread: only enqueue."""
        self._inbox.put(("state", state))

    # --- the worker: callbacks ------------------------------------------------------------------------------------------

    def _callbacks(self) -> None:
        work, inbox = self._work, self._inbox
        while (item := work.get()) is not None:
            followed, run = item
            if self._closed.is_set():
                continue
            try:
                if run is None:
                    followed.deliver()
                else:
                    followed.deliver(run)
            except Exception:
                log.exception("A callback for %s failed", followed.path)
            inbox.put(("done", (followed, run)))

    # --- the I/O thread -------------------------------------------------------------------------------------------------

    def _io(self) -> None:
        inbox = self._inbox
        self._connection.get()
        while True:
            try:
                self._handle(*inbox.get(timeout=self._patience()))
                while True:
                    self._handle(*inbox.get_nowait())
            except queue.Empty:
                pass
            if self._closed.is_set():
                return
            self._expire()
            if self._again_at is not None and self._again_at <= time.monotonic():
                self._again_at = None
                self._dirty |= self._again
                self._again.clear()
            client = self._connection.get()
            if client.connected and self._again_at is None:
                try:
                    self._catch_up(client)
                except (*_DISCONNECTED, NotConnectedError):
                    pass  # all that is left is done after the next connection
                except Exception:
                    log.exception("Following ZooKeeper failed; it is tried again")
                    self._again_at = time.monotonic() + _AGAIN_AFTER
                if self._again and self._again_at is None:
                    self._again_at = time.monotonic() + _AGAIN_AFTER

    def _patience(self) -> float | None:
        times = [end for shadow in self._shadow if (end := shadow.next_end()) is not None]
        if self._again_at is not None:
            times.append(self._again_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _handle(self, what: str, thing: Any) -> None:
        if what == "node":
            self._dirty.add(thing)
        elif what == "shadow":
            self._dirty_shadow.add(thing)
        elif what == "done":
            followed, run = thing
            if run is None:
                if followed.present and not followed.closed:
                    self._report(followed.report)
            else:
                self._report(run.report, withdraw=followed.closed or not run.running)
        elif what == "close":
            self._forget(thing)
        elif what == "state" and thing == KazooState.CONNECTED:
            # Watches are gone with the old connection, instances with the old session: look at everything again.
            self._dirty.update(self._subscriptions)
            self._dirty_shadow.update(self._shadow)
            for subscription in self._subscriptions:
                if subscription.present:
                    self._report(subscription.report)
            for shadow in self._shadow:
                for run in shadow.runs.values():
                    if run.running:
                        self._report(run.report)

    def _report(self, report: Report, *, withdraw: bool = False) -> None:
        self._reports[id(report)] = (report, withdraw)

    def _forget(self, followed: Subscription | ShadowSubscription) -> None:
        with self._lock:
            if isinstance(followed, Subscription) and followed in self._subscriptions:
                self._subscriptions.remove(followed)
                if followed.present:
                    self._report(followed.report, withdraw=True)
            elif isinstance(followed, ShadowSubscription) and followed in self._shadow:
                self._shadow.remove(followed)
                if followed.watch is not None:
                    followed.watch.close()
                for run in followed.runs.values():
                    if run.running:
                        self._report(run.report, withdraw=True)

    def _expire(self) -> None:
        for shadow in self._shadow:
            for run in shadow.expire(time.monotonic()):
                self._work.put((shadow, run))

    def _catch_up(self, client: ZooKeeper) -> None:
        """Bring everything up to date; what a lost connection leaves undone stays in the sets."""
        # Instances first: after a new session they have to be back within a second.
        while self._reports:
            key, (report, withdraw) = next(iter(self._reports.items()))
            if withdraw:
                report.withdraw(client)
            else:
                self._publish(client, report)
            del self._reports[key]
        while self._dirty:
            subscription = next(iter(self._dirty))
            if not subscription.closed:
                self._read(client, subscription)
            self._dirty.discard(subscription)
        while self._dirty_shadow:
            shadow = next(iter(self._dirty_shadow))
            if not shadow.closed:
                self._read_shadow(client, shadow)
            self._dirty_shadow.discard(shadow)

    def _publish(self, client: ZooKeeper, report: Report) -> None:
        try:
            created = report.publish(client)
        except NoNodeError:
            report.lost()  # the topic is gone; when it is there again, its node is read and the instance made anew
            return
        if created is not None:
            self._server_clock = (created, time.monotonic())
            for shadow in self._shadow:
                shadow.retime(*self._server_clock)

    def _read(self, client: ZooKeeper, subscription: Subscription) -> None:
        # A one-shot watch set by the very read that it follows: no state is missed, and the comings and goings of other instances below
        # the node, of which a recursive watch would tell every client, stay where they are.
        watcher = self._watcher(subscription)
        data = None
        while data is None:
            try:
                data, _ = client.get(subscription.path, watch=watcher)
            except NoNodeError:
                if client.exists(subscription.path, watch=watcher) is None:
                    break
        if data is None:
            subscription.present = False
            subscription.report.lost()
            if subscription.offer(None):
                self._work.put((subscription, None))
            return
        # Also when the node came back between the report that missed it and this read, as after a wipe.
        if not subscription.present or not subscription.report.stands(client):
            self._publish(client, subscription.report)
            subscription.present = True
        try:
            state = subscription.read(data, lambda name: self._cluster(client, name))
        except (metadata.NotPublishedError, metadata.BrokenNodeError) as error:
            log.warning("%s: %s", subscription.path, error)
            self._again.add(subscription)
            return
        if subscription.offer(state):
            self._work.put((subscription, None))

    def _watcher(self, subscription: Subscription) -> Callable[[object], None]:
        # One function a subscription: kazoo keeps watchers in a set, and reading twice must not set two.
        if subscription.watcher is None:
            inbox = self._inbox
            subscription.watcher = lambda _event: inbox.put(("node", subscription))
        return subscription.watcher

    def _read_shadow(self, client: ZooKeeper, shadow: ShadowSubscription) -> None:
        if shadow.watch is None:
            inbox = self._inbox
            shadow.watch = client.watch_tree(shadow.path, lambda _event: inbox.put(("shadow", shadow)))
        served = shadow.groups
        if served is None:
            served = frozenset(subscription.name for subscription in self._subscriptions if subscription.kind == "group")
        now = time.monotonic()
        server_now = None
        if self._server_clock is not None:
            server_now = self._server_clock[0] + (now - self._server_clock[1]) * 1000
        for run in shadow.read(client, served, now=now, server_now=server_now):
            self._work.put((shadow, run))

    # --- nodes ----------------------------------------------------------------------------------------------------------

    def _cluster(self, client: ZooKeeper, name: str) -> metadata.ClusterMetadata:
        return metadata.parse_cluster(name, self._read_one(client, paths.cluster(name), f"cluster {name}"))

    @staticmethod
    def _read_one(client: ZooKeeper, path: str, what: str) -> bytes:
        try:
            node = client.multi_read([path])[1][0]
        except _DISCONNECTED as error:
            raise NotConnectedError("the connection to ZooKeeper was lost") from error
        if node is None:
            raise metadata.NotPublishedError(f"{what} is not published")
        return node.data


def _labels(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and value.strip() for name, _equals, value in pairs):
        raise ValueError("MQADMIN_LABELS is name=value,name=value")
    return {name.strip(): value.strip() for name, _equals, value in pairs}


def _forked(client: weakref.ref[Client]) -> None:
    if (found := client()) is not None:
        found._after_fork()  # noqa: SLF001


def _close(client: weakref.ref[Client]) -> None:
    if (found := client()) is not None:
        found.close()
