"""Follows what ZooKeeper says of topics, groups and shadow groups, calls the application back and reports what it has applied.

Two threads whatever the number of topics: one speaks with ZooKeeper, the other runs the callbacks. What there is to do stands in sets, and
is done for as many nodes at once as there are; what a lost connection leaves undone stays there.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, KazooException, NoNodeError, SessionExpiredError
from kazoo.protocol.states import KazooState

from mqadmin_sdk import metadata
from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.known import Known, Node, state_of
from mqadmin_sdk.subscriptions import ShadowRun, ShadowSubscription, Subscription
from mqadmin_sdk.zk import PerProcess, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mqadmin_sdk.filecache import FileCache
    from mqadmin_sdk.known import Kind, State
    from mqadmin_sdk.reports import Report
    from mqadmin_sdk.zk import Access
    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)

_DISCONNECTED = (ConnectionLoss, SessionExpiredError, ConnectionClosedError)
_AGAIN_AFTER = 0.5  # seconds, when a node cannot be understood or its cluster is not there
_STALE_AFTER = 2.0  # seconds without a connection, until what the file remembers is taken
_FLUSH_AFTER = 0.5  # seconds from a change to the file that remembers it
_COUNTS_AFTER = 10.0  # seconds between reports of nothing but new counts
_PROBABLE = 100  # clusters read together with nodes that may name them
_AT_ONCE = 200  # reports on their way: kazoo's connection thread may block itself when some 280 wait to be sent


class NotConnectedError(MqadminError, ConnectionError):
    """ZooKeeper could not be reached in time."""

    permanent = False


class Follower:
    """Reads and follows for one application; `Client` is its face. `after_fork` has to be called in a forked child."""

    def __init__(
        self,
        zookeeper: str,
        *,
        app: str,
        ip: str,
        labels: Mapping[str, str],
        session_timeout: float = 10.0,
        access: Access | None = None,
        cache: FileCache | None = None,
    ) -> None:
        self.app, self.ip, self.labels = app, ip, labels
        self.connection = PerProcess(
            zookeeper, timeout=session_timeout, prepare=lambda client: client.add_listener(self._on_state), access=access
        )
        self._known = Known(ip=ip, labels=labels, cache=cache)
        self._subscriptions: dict[Subscription, None] = {}
        self._shadow: list[ShadowSubscription] = []
        self._reset()

    # --- reading --------------------------------------------------------------------------------------------------------

    def topic(self, name: str, *, timeout: float) -> metadata.TopicMetadata:
        """Return a topic, as `Client.topic` says."""
        found: metadata.TopicMetadata = self._look_up("topic", name, timeout)
        return found

    def group(self, name: str, *, timeout: float) -> metadata.GroupMetadata:
        """Return a consumer group, as `Client.group` says."""
        found: metadata.GroupMetadata = self._look_up("group", name, timeout)
        return found

    def cluster(self, name: str, *, timeout: float) -> metadata.ClusterMetadata:
        """Return a cluster, as `Client.cluster` says."""
        known = self._known
        kept = None if self._connected(0, required=False) is not None else known.last_of_cluster(name)
        try:
            client = self._connected(timeout if kept is None else min(timeout, _STALE_AFTER))
            pairs = self._read_one(client, paths.cluster(name), f"cluster {name}")
        except NotConnectedError:
            if kept is None:
                raise
            return kept
        known.keep(paths.cluster(name), pairs)
        if known.cache is not None:
            known.cache.flush()
        return metadata.parse_cluster(name, pairs)

    def _look_up(self, kind: Kind, name: str, timeout: float) -> Any:
        connected = self._connected(0, required=False)
        followed = self._known.nodes.get(paths.followed(kind, name))
        if followed is not None and (state := followed.state) is not None:
            return state if connected is not None else replace(state, stale=True)
        cache, kept = self._known.cache, None
        if connected is None and cache is not None:
            kept = self._known.remembered(kind, name, cache.read())
        try:
            return self._read_now(self._connected(timeout if kept is None else min(timeout, _STALE_AFTER)), kind, name)
        except NotConnectedError:
            if kept is None:
                raise
            return kept

    def _read_now(self, client: ZooKeeper, kind: Kind, name: str) -> State:
        """Two round trips: the node names its cluster."""
        path, known = paths.followed(kind, name), self._known
        pairs = self._read_one(client, path, f"{kind} {name}")
        cluster, gated = known.cluster_of(kind, name, pairs)
        found = self._read_one(client, paths.cluster(cluster), f"cluster {cluster}")
        state = state_of(kind, name, pairs, metadata.parse_cluster(cluster, found), gated=gated)
        if known.cache is not None:
            known.keep(path, pairs)
            known.keep(paths.cluster(cluster), found)
            known.cache.flush()
        return state

    @staticmethod
    def _read_one(client: ZooKeeper, path: str, what: str) -> dict[str, str]:
        try:
            node = client.multi_read([path])[1][0]
        except _DISCONNECTED as error:
            raise NotConnectedError("the connection to ZooKeeper was lost") from error
        if node is None:
            raise metadata.NotPublishedError(f"{what} is not published")
        return metadata.pairs_of(node.data, what)

    def check(self, *, timeout: float) -> None:
        """Raise NotConnectedError if ZooKeeper is not reached within so many seconds."""
        self._connected(timeout)

    # --- following ------------------------------------------------------------------------------------------------------

    def watch_topic(self, name: str, on_change: Callable[[metadata.TopicMetadata | None], object]) -> Subscription:
        """Follow a topic; what the callback is given, and when, is said at `Client.watch_topic`."""
        return self._follow(Subscription(kind="topic", name=name, app=self.app, ip=self.ip, labels=self.labels, callback=on_change))

    def watch_group(self, name: str, on_change: Callable[[metadata.GroupMetadata | None], object]) -> Subscription:
        """Follow a consumer group."""
        return self._follow(Subscription(kind="group", name=name, app=self.app, ip=self.ip, labels=self.labels, callback=on_change))

    def watch_shadow(
        self, on_change: Callable[[metadata.ShadowGroup], object], *, groups: Collection[str] | None = None
    ) -> ShadowSubscription:
        """Follow the application's shadow groups."""
        followed = ShadowSubscription(app=self.app, ip=self.ip, callback=on_change, groups=groups)
        followed.on_close = lambda _: self._inbox.put(("close", followed))
        followed.on_tell = lambda told, at_once: self._inbox.put(("tell", (told, at_once)))
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
        self.connection.close()

    # --- life -----------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # From here on the I/O thread's own.
        self._dirty: set[str] = set()  # to be read
        self._again: set[str] = set()  # to be read once more when it is time
        self._unread: set[str] = set()  # nothing is known of these yet
        self._reports: dict[Report, bool] = {}  # to be published, or withdrawn (True)
        self._counted: set[Subscription | ShadowRun] = set()  # have nothing but new counts to report
        self._dirty_shadow: set[ShadowSubscription] = set()
        self._times: dict[str, float] = {}  # when something is due, on the monotonic clock
        self._server_clock: tuple[float, float] | None = None  # (ms since 1970 by the server, our monotonic seconds)

    def after_fork(self) -> None:
        """Begin anew in a forked child: another connection, threads and instances."""
        closed = self._closed.is_set()
        self._reset()
        self._known.forget()
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
                self._inbox.put(("follow", subscription))

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
        subscription.on_tell = lambda told, at_once: self._inbox.put(("tell", (told, at_once)))
        with self._lock:
            self._subscriptions[subscription] = None
        self._start()
        self._inbox.put(("follow", subscription))
        for shadow in self._shadow:  # it may serve one more group now
            self._inbox.put(("shadow", shadow))
        return subscription

    def _connected(self, timeout: float, *, required: bool = True) -> Any:
        """Return the client when it is connected; otherwise raise NotConnectedError, or return None."""
        if self._closed.is_set():
            raise RuntimeError("the client is closed")
        client = self.connection.get()
        if client._live.wait(timeout):  # noqa: SLF001 - kazoo's own event for it
            return client
        if not required:
            return None
        why = f" ({client.trouble})" if client.trouble else ""
        raise NotConnectedError(f"ZooKeeper was not reached within {timeout:g} s{why}")

    def _on_state(self, state: str) -> None:
        """Kazoo's connection thread: only enqueue."""
        self._inbox.put(("state", state))

    def _changed(self, path: str) -> None:
        """Kazoo's connection thread, too."""
        self._inbox.put(("changed", path))

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
        inbox, more = self._inbox, False
        self.connection.get()
        while True:
            with contextlib.suppress(queue.Empty):
                self._handle(*inbox.get(timeout=0 if more else self._patience()))
                while True:
                    self._handle(*inbox.get_nowait())
            more = False
            if self._closed.is_set():
                if self._known.cache is not None:
                    self._known.cache.flush(wait=1.0)
                return
            client = self.connection.get()
            self._on_time(connected=client.connected)
            if client.connected and "pause" not in self._times:
                try:
                    more = self._catch_up(client)
                except (*_DISCONNECTED, NotConnectedError):
                    pass  # all that is left is done after the next connection
                except Exception:
                    log.exception("Following ZooKeeper failed; it is tried again")
                    self._in("pause", _AGAIN_AFTER)
            if self._known.cache is not None and self._known.cache.dirty:
                self._in("flush", _FLUSH_AFTER)

    def _in(self, what: str, seconds: float) -> None:
        self._times.setdefault(what, time.monotonic() + seconds)

    def _due(self, what: str) -> bool:
        if what not in self._times or self._times[what] > time.monotonic():
            return False
        del self._times[what]
        return True

    def _patience(self) -> float | None:
        times = [end for shadow in self._shadow if (end := shadow.next_end()) is not None] + list(self._times.values())
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_time(self, *, connected: bool) -> None:
        for shadow in self._shadow:
            for run in shadow.expire(time.monotonic()):
                self._work.put((shadow, run))
        self._due("pause")
        if self._due("again"):
            self._dirty |= self._again
            self._again.clear()
        if self._due("counts"):
            self._reports.update((told.report, False) for told in self._counted if told.present and not told.closed)
            self._counted.clear()
        if (cache := self._known.cache) is not None:
            if self._due("flush"):
                cache.flush()  # if another process is writing, it is due again
            if connected:
                self._times.pop("stale", None)
            elif self._due("stale"):
                self._take_remembered(cache)
            elif self._unread:
                self._in("stale", _STALE_AFTER)

    def _handle(self, what: str, thing: Any) -> None:
        if what == "changed":
            if thing in self._known.nodes:
                self._dirty.add(thing)
        elif what == "follow":
            if thing.path not in self._known.nodes:
                self._known.nodes[thing.path] = Node(thing.kind, thing.name)
                self._unread.add(thing.path)
            self._known.nodes[thing.path].subscriptions.add(thing)
            self._dirty.add(thing.path)
        elif what == "shadow":
            self._dirty_shadow.add(thing)
        elif what == "done":
            followed, run = thing
            if run is not None:
                self._reports[run.report] = followed.closed or not run.running
            elif followed.present and not followed.closed:
                self._reports[followed.report] = False
        elif what == "tell":
            told, at_once = thing
            if not at_once:
                self._counted.add(told)
                self._in("counts", _COUNTS_AFTER)
            elif told.present and not told.closed:
                self._reports[told.report] = False
        elif what == "close":
            self._forget(thing)
        elif what == "state" and thing == KazooState.CONNECTED:
            # Watches are gone with the old connection, instances with the old session: look at everything again.
            self._dirty.update(self._known.nodes)
            self._dirty_shadow.update(self._shadow)
            self._reports.update((one.report, False) for node in self._known.nodes.values() for one in node.subscriptions if one.present)
            self._reports.update((run.report, False) for shadow in self._shadow for run in shadow.runs.values() if run.running)

    def _forget(self, followed: Subscription | ShadowSubscription) -> None:
        if isinstance(followed, ShadowSubscription):
            with self._lock:
                if followed not in self._shadow:
                    return
                self._shadow.remove(followed)
            if followed.watch is not None:
                followed.watch.close()
            for run in followed.runs.values():
                run.closed = True
                if run.running:
                    self._reports[run.report] = True
            return
        with self._lock:
            self._subscriptions.pop(followed, None)
        node = self._known.nodes.get(followed.path)
        if node is None or followed not in node.subscriptions:
            return
        node.subscriptions.remove(followed)
        self._counted.discard(followed)
        if followed.present:
            self._reports[followed.report] = True
        if not node.subscriptions:
            del self._known.nodes[followed.path]
            for paths_of in (self._dirty, self._again, self._unread):
                paths_of.discard(followed.path)
            self.connection.get().forget_nodes([followed.path])

    def _catch_up(self, client: ZooKeeper) -> bool:
        """Read what has changed and write some of the reports; True if more is to be done. What a lost connection leaves undone stays."""
        if self._dirty:
            self._read(client, list(self._dirty))
            self._dirty.clear()
        self._send(client, list(islice(self._reports.items(), _AT_ONCE)))
        for shadow in list(self._dirty_shadow):
            if not shadow.closed:
                self._read_shadow(client, shadow)
            self._dirty_shadow.discard(shadow)
        return bool(self._reports)

    def _send(self, client: ZooKeeper, reports: Sequence[tuple[Report, bool]]) -> None:
        answers = [(one, (one.withdraw_later if gone else one.publish_later)(client)) for one, gone in reports]
        for report, answer in answers:
            self._sent(report, answer)
            del self._reports[report]

    def _sent(self, report: Report, answer: Callable[[], int | None]) -> None:
        try:
            created = answer()
        except NoNodeError:
            report.lost()  # the topic is gone; when it is there again, its node is read and the instance made anew
        except _DISCONNECTED:
            raise
        except KazooException as error:
            log.warning("mqadmin will not see this instance: %s: %s", report.path, type(error).__name__)
        else:
            if created is not None:
                self._server_clock = (created, time.monotonic())
                for shadow in self._shadow:
                    shadow.retime(*self._server_clock)

    def _read(self, client: ZooKeeper, batch: Sequence[str]) -> None:
        # One-shot watches, set by the reading itself: no state is missed, and the comings, goings and reports of other instances below
        # the nodes, of which a recursive watch would tell every client, stay where they are.
        denied: set[str] = set()
        probable = sorted(self._known.clusters)[:_PROBABLE]  # with luck no second question is needed
        read, more = client.watch_nodes(batch, self._changed, also=[paths.cluster(name) for name in probable], denied=denied)
        standing = dict(zip(probable, more, strict=True))
        clusters: dict[str, tuple[str, bool]] = {}
        for path, found in zip(batch, read, strict=True):
            node = self._known.nodes[path]
            if path in denied:
                self._puzzled(path, f"{node.what} may not be read")
            elif found is None:
                self._gone(path)
            else:
                # Also when the node came back between a report that missed it and this read, as after a wipe.
                for one in node.subscriptions:
                    if not one.closed and not (one.present and one.report.stands(client)):
                        one.present = True
                        self._reports[one.report] = False
                try:
                    clusters[path] = self._known.understand(path, found.data)
                except metadata.BrokenNodeError as error:
                    self._puzzled(path, str(error))
        names = sorted({name for name, _gated in clusters.values()} - standing.keys())
        if names:
            standing |= zip(names, client.multi_read([paths.cluster(name) for name in names], denied=set())[1], strict=True)
        for path, (name, gated) in clusters.items():
            node = self._known.nodes[path]
            try:
                state = state_of(node.kind, node.name, node.pairs, self._known.cluster(name, standing[name]), gated=gated)
            except (metadata.NotPublishedError, metadata.BrokenNodeError) as error:
                self._puzzled(path, str(error))
            else:
                node.trouble = ""
                self._offer(path, state)

    def _offer(self, path: str, state: State | None) -> None:
        node = self._known.nodes[path]
        node.state = state
        self._unread.discard(path)
        for subscription in node.subscriptions:
            subscription.state = state
            if subscription.offer(state):
                self._work.put((subscription, None))

    def _gone(self, path: str) -> None:
        node = self._known.nodes[path]
        for subscription in node.subscriptions:
            subscription.present = False
            subscription.report.lost()
        self._known.gone(path)
        self._offer(path, None)

    def _puzzled(self, path: str, why: str) -> None:
        node = self._known.nodes[path]
        if node.trouble != why:
            log.warning("%s: %s", path, why)
            node.trouble = why
        self._again.add(path)
        self._in("again", _AGAIN_AFTER)

    def _read_shadow(self, client: ZooKeeper, shadow: ShadowSubscription) -> None:
        if shadow.watch is None:
            inbox = self._inbox
            shadow.watch = client.watch_tree(shadow.path, lambda _event: inbox.put(("shadow", shadow)))
        served = shadow.groups
        if served is None:
            served = frozenset(node.name for node in self._known.nodes.values() if node.kind == "group")
        now = time.monotonic()
        server_now = None
        if self._server_clock is not None:
            server_now = self._server_clock[0] + (now - self._server_clock[1]) * 1000
        for run in shadow.read(client, served, now=now, server_now=server_now):
            self._work.put((shadow, run))

    def _take_remembered(self, cache: FileCache) -> None:
        """Give what the file remembers of nodes that could not be read yet; when they are, only what differs is given again."""
        values = cache.read()
        for path in list(self._unread):
            node = self._known.nodes[path]
            state = self._known.remembered(node.kind, node.name, values)
            if state is not None:
                log.warning("ZooKeeper is not reached: %s is taken from %s", node.what, cache.path)
                self._offer(path, state)
        self._unread.clear()
