"""A kazoo client with persistent recursive watches, bulk reads, requests that fail at once while disconnected, and one per process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionDropped,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    SessionExpiredError,
)
from kazoo.protocol.connection import CLOSE_RESPONSE, ConnectionHandler
from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.serialization import Create, Watch
from kazoo.protocol.states import EVENT_TYPE_MAP, Callback, KazooState, KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import OPEN_ACL_UNSAFE

from mqadmin_sdk.zk.protocol import AddWatch, MultiRead, RemoveWatches, SetTreeWatches, SetWatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kazoo.protocol.states import ZnodeStat

    from mqadmin_sdk.zk.access import Access

log = logging.getLogger(__name__)

MINIMUM_VERSION = (3, 6)
#: Nodes in one MultiRead request; several requests are on their way at once.
READ_CHUNK = 500
_KINDS = {"CREATED": "created", "CHANGED": "changed", "DELETED": "deleted"}
_SSL_SOURCE = re.compile(r" \(_ssl\.c:\d+\)$")
_VERSION = re.compile(r"Zookeeper version: (\d+)\.(\d+)(?:\.(\d+))?")

EventKind = Literal["created", "changed", "deleted", "established", "interrupted"]


class ServerTooOldError(Exception):
    """The ZooKeeper server is older than 3.6, which brought persistent recursive watches and bulk reads."""


@dataclass(frozen=True)
class TreeEvent:
    """Something happened at `path`.

    `established`: the watch has (again) been set at the root and everything before it may have been missed: compare all.
    `interrupted`: the connection is gone, and with it the watch, until the next `established`.
    """

    kind: EventKind
    path: str


@dataclass(frozen=True)
class NodeData:
    """A node as it was read."""

    data: bytes
    stat: ZnodeStat


class TreeWatch:
    """A persistent recursive watch; it survives reconnects and new sessions until it is closed."""

    def __init__(self, client: Client, path: str, callback: Callable[[TreeEvent], object]) -> None:
        self.path = path
        self.error: Exception | None = None
        self._client = client
        self._callback = callback
        self.closed = False

    def covers(self, path: str) -> bool:
        """Whether a node lies in this tree."""
        return self.path in (path, "/") or path.startswith(f"{self.path}/")

    def deliver(self, event: TreeEvent) -> None:
        """Hand an event to the callback, on kazoo's callback thread."""
        if not self.closed:
            self._callback(event)

    def close(self) -> None:
        """Deliver no more; the last one at its path is also taken from the server."""
        self.closed = True
        self._client.forget(self)


class _Connection(ConnectionHandler):  # type: ignore[misc]  # kazoo has no types
    """Kazoo's connection, which also hands events to tree watches and gives a session up when it has been away for longer than it lives."""

    down_since: float | None = None
    negotiated: float = 0.0
    host = ""  # as the connection string names the server
    trouble = ""  # why TLS or the credentials came to nothing at the last attempt

    def _read_socket(self, read_timeout: float) -> Any:
        response = super()._read_socket(read_timeout)
        # Several answers may have come in one TLS record: no select tells of what is already decrypted.
        while response is not CLOSE_RESPONSE and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            response = super()._read_socket(read_timeout)
        return response

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        event, _ = Watch.deserialize(buffer, offset)
        kind = _KINDS.get(EVENT_TYPE_MAP.get(event.type, ""))
        if kind is not None:
            self.client.dispatch(TreeEvent(kind, self.client.unchroot(event.path)))  # type: ignore[arg-type]
        super()._read_watch_event(buffer, offset)

    def _read_response(self, header: Any, buffer: bytes, offset: int) -> Any:
        request, result = self.client._pending[0][:2] if self.client._pending else (None, None)  # noqa: SLF001
        if isinstance(request, MultiRead):
            request.zxid = header.zxid
        answer = super()._read_response(header, buffer, offset)
        if isinstance(request, AddWatch) and result is not None and result.successful():
            self.client.established({request.path})  # here, on the thread that reads events and loses connections: in their order
        elif isinstance(request, SetTreeWatches) and result is not None and result.successful():
            self.client.established(set(request.paths))
        elif isinstance(request, SetWatches) and result is not None and result.successful():
            self.client.watching(request)
        return answer

    def _connect_attempt(self, *args: Any) -> Any:
        try:
            return super()._connect_attempt(*args)
        finally:
            if self.down_since is None:
                self.down_since = time.monotonic()

    def _connect(self, host: str, hostip: str, port: int) -> tuple[float, float]:
        away = time.monotonic() - self.down_since if self.down_since is not None else 0.0
        if self.client._session_id and self.negotiated and away > self.negotiated:  # noqa: SLF001
            # kazoo learns of a lost session only from a server that knows it; one with wiped data would refuse us for ever.
            raise SessionExpiredError(f"Away for {away:.1f} s, longer than the session lives")
        self.host = host
        try:
            read_timeout, connect_timeout = super()._connect(host, hostip, port)
        except ConnectionDropped as error:
            cause = error.__context__
            self.trouble = f"TLS: {_SSL_SOURCE.sub('', str(cause.strerror or cause))}" if isinstance(cause, ssl.SSLError) else ""
            raise
        except AuthFailedError as error:
            self.trouble = "It refuses the credentials: is its digest authentication switched off?"
            raise ConnectionDropped(self.trouble) from error  # kazoo would give up for ever, without a word
        self.trouble = ""
        self.negotiated, self.down_since = read_timeout * 1.5 / 1000, None
        return read_timeout, connect_timeout


class Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """KazooClient with `watch_tree`, `multi_read` and `multi_children`.

    While there is no connection every request fails at once with ConnectionLoss: kazoo would queue it and the caller would hang.
    """

    def __init__(self, hosts: str, *, timeout: float = 10.0, access: Access | None = None, **options: Any) -> None:
        options = {**(access.options() if access is not None else {}), **options}
        self._tree_watches: list[TreeWatch] = []
        self._node_watches: dict[str, SetWatches | Callable[[str], object]] = {}  # asked for, or set; the paths include the chroot
        self._tree_lock = threading.Lock()  # kazoo's connection thread takes it: nothing is asked of the server under it
        self._order_lock = threading.Lock()  # so that the server is asked in the order in which the list of watches was changed
        # Attempts go on for ever, at most half a second apart: kazoo's own default grows to an hour.
        retry = KazooRetry(max_tries=-1, delay=0.05, backoff=2, max_delay=0.5, max_jitter=0.2)
        super().__init__(hosts=hosts, timeout=timeout, connection_retry=options.pop("connection_retry", retry), **options)
        sasl: Any = self.__dict__["_connection"].sasl_options
        self._connection = _Connection(self, self._conn_retry.copy(), logger=self.logger, sasl_options=sasl)
        self.add_listener(self._on_state)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _call(self, request: Any, async_object: Any) -> Any:
        if not self._live.is_set() and self._state == KeeperState.CONNECTING:
            async_object.set_exception(ConnectionLoss("not connected"))
            return False
        return super()._call(request, async_object)

    def multi_read(
        self, paths: Sequence[str], *, timeout: float = 30.0, denied: set[str] | None = None
    ) -> tuple[int, list[NodeData | None]]:
        """Read many nodes: (zxid, what stands at each path, None for no node). The zxid is that of the first answer.

        Every write up to that zxid is contained. Raises NoAuthError if a node may not be read; with a set for them such paths are put
        into it, and are None.
        """
        zxid, items = self._multi(paths, children=False, timeout=timeout, denied=denied)
        return zxid, [NodeData(*item) if item is not None else None for item in items]

    def multi_children(
        self, paths: Sequence[str], *, timeout: float = 30.0, denied: set[str] | None = None
    ) -> tuple[int, list[list[str] | None]]:
        """List the children of many nodes: (zxid of the first answer, names for each path, None for no node); `denied` as above."""
        return self._multi(paths, children=True, timeout=timeout, denied=denied)

    def _multi(self, paths: Sequence[str], *, children: bool, timeout: float, denied: set[str] | None) -> tuple[int, list[Any]]:
        pending = []
        for start in range(0, len(paths), READ_CHUNK):
            chunk = [_prefix_root(self.chroot, path) for path in paths[start : start + READ_CHUNK]]
            result = self.handler.async_result()
            self._call(MultiRead(chunk, children=children), result)
            pending.append(result)
        first, items = 0, []
        for result in pending:
            zxid, found = result.get(timeout=timeout)
            first = first or zxid
            items.extend(found)
        for index, item in enumerate(items):
            if isinstance(item, NoAuthError) and denied is not None:
                denied.add(paths[index])
                items[index] = None
            elif isinstance(item, KazooException):
                raise item
        return first, items

    # --- watches ----------------------------------------------------------------------------------------------------

    def watch_tree(self, path: str, callback: Callable[[TreeEvent], object]) -> TreeWatch:
        """Call back for every node created, changed or deleted at or below `path`, which need not exist.

        One watch on the server whatever the number of nodes; several callbacks a path are fine. Callbacks run one after another on kazoo's
        callback thread: let them only enqueue. After each (re)connection the first event is `established`.
        """
        watch = TreeWatch(self, path, callback)
        with self._order_lock:
            with self._tree_lock:
                self._tree_watches.append(watch)
            if self.connected:
                self._establish(path)
        return watch

    def forget(self, watch: TreeWatch) -> None:
        """Stop delivering to a watch (TreeWatch.close)."""
        with self._order_lock:
            with self._tree_lock:
                if watch not in self._tree_watches:
                    return
                self._tree_watches.remove(watch)
                needed = any(other.path == watch.path for other in self._tree_watches)
            if self.connected and not needed:
                self._call(RemoveWatches(_prefix_root(self.chroot, watch.path)), self.handler.async_result())

    def watch_nodes(
        self,
        paths: Sequence[str],
        callback: Callable[[str], object],
        *,
        also: Sequence[str] = (),
        timeout: float = 30.0,
        denied: set[str] | None = None,
    ) -> tuple[list[NodeData | None], list[NodeData | None]]:
        """Read many nodes and be told, once, of the next change of each: `callback(path)` on kazoo's connection thread, to only enqueue it.

        One round trip, and a second one for those that are not there (None), whose creation is told of. Children coming and going are
        not. The watches end with the connection, without a word: ask again after the next. What stands at `also` is read after that,
        without a watch. What may not be read is as in `multi_read`.
        """
        found: list[NodeData | None] = [None] * len(paths)
        more: list[NodeData | None] = []
        expected = dict.fromkeys(range(len(paths)), True)  # whether the node at each index is thought to be there
        while expected:
            asked = []
            for there in (True, False):
                wanted = [paths[index] for index, expectation in expected.items() if expectation == there]
                chunks = (wanted[start : start + READ_CHUNK] for start in range(0, len(wanted), READ_CHUNK))
                asked += [self._set_watches(chunk, callback, present=there) for chunk in chunks]
            nodes = self.multi_read([*(paths[index] for index in expected), *also], timeout=timeout, denied=denied)[1]
            nodes, more = nodes[: len(expected)], nodes[len(expected) :]
            refused: set[str] = set()
            for request, result in asked:
                result.get(timeout=timeout)
                refused |= request.refused
            for index, node in zip(list(expected), nodes, strict=True):
                found[index] = node
                there = node is not None or (denied is not None and paths[index] in denied)
                if expected[index] == there and _prefix_root(self.chroot, paths[index]) not in refused:
                    del expected[index]
                else:  # no watch is set on what was not as expected
                    expected[index] = there
        return found, more

    def _set_watches(self, paths: Sequence[str], callback: Callable[[str], object], *, present: bool) -> tuple[SetWatches, Any]:
        full = [_prefix_root(self.chroot, path) for path in paths]
        request = SetWatches(full, (), callback) if present else SetWatches((), full, callback)
        with self._tree_lock:
            self._node_watches.update(dict.fromkeys(full, request))  # what an older watch would tell will be read now
        result = self.handler.async_result()
        self._call(request, result)
        return request, result

    def forget_nodes(self, paths: Sequence[str]) -> None:
        """Take back what `watch_nodes` has set at these paths, at which no tree is watched; nothing is waited for."""
        for path in paths:
            full = _prefix_root(self.chroot, path)
            with self._tree_lock:
                known = self._node_watches.pop(full, None) is not None
            if known and self.connected:
                self._call(RemoveWatches(full), self.handler.async_result())

    def watching(self, request: SetWatches) -> None:
        """Note that the server has set these watches, but for those that it has told of already."""
        with self._tree_lock:
            for path in (*request.present, *request.absent):
                if self._node_watches.get(path) is request:
                    self._node_watches[path] = request.callback

    def dispatch(self, event: TreeEvent) -> None:
        """Queue an event for the watches whose tree it lies in, and tell the one of its node, on kazoo's connection thread."""
        with self._tree_lock:
            watches = [watch for watch in self._tree_watches if watch.covers(event.path)]
            path = _prefix_root(self.chroot, event.path)
            once = self._node_watches.pop(path, None)
            if isinstance(once, SetWatches):  # told before the answer: nothing is set there
                once.refused.add(path)
                once = None
        for watch in watches:
            self.handler.dispatch_callback(Callback("watch", watch.deliver, (event,)))
        if once is not None:
            once(event.path)

    def _on_state(self, state: str) -> None:
        """Run on kazoo's connection thread: nothing here may wait."""
        with self._tree_lock:
            watches = list(self._tree_watches)
            if state != KazooState.CONNECTED:
                self._node_watches.clear()
        if state == KazooState.CONNECTED:
            # Not here: each request takes a byte in a pipe that only this thread empties, and some 270 fill it.
            self.handler.dispatch_callback(Callback("watch", self._establish_all, ()))
            return
        for watch in watches:
            self.handler.dispatch_callback(Callback("watch", watch.deliver, (TreeEvent("interrupted", watch.path),)))

    def _establish_all(self) -> None:
        """Ask for all watches anew, on the callback thread."""
        with self._order_lock:
            with self._tree_lock:
                paths = sorted({watch.path for watch in self._tree_watches})
            for start in range(0, len(paths), READ_CHUNK):
                self._establish(*paths[start : start + READ_CHUNK])

    def established(self, paths: set[str]) -> None:
        """Tell the watches at these paths, which include the chroot, that the server has set them."""
        with self._tree_lock:
            watches = [watch for watch in self._tree_watches if _prefix_root(self.chroot, watch.path) in paths]
        for watch in watches:
            watch.error = None
            self.handler.dispatch_callback(Callback("watch", watch.deliver, (TreeEvent("established", watch.path),)))

    def _establish(self, *paths: str) -> None:
        """Ask for the watches; the lock for the order is held."""
        asked = set(paths)
        with self._tree_lock:
            watches = [watch for watch in self._tree_watches if watch.path in asked]
        result = self.handler.async_result()

        def done(answer: Any) -> None:
            try:
                answer.get_nowait()
            except (ConnectionLoss, SessionExpiredError):
                return  # the next connection sets it again
            except Exception as error:
                log.exception("ZooKeeper refuses the watch at %s", ", ".join(paths[:10]))
                for watch in watches:
                    watch.error = error

        result.rawlink(done)
        full = [_prefix_root(self.chroot, path) for path in paths]
        self._call(AddWatch(full[0]) if len(full) == 1 else SetTreeWatches(full), result)

    # --- server -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """The session's id as stats show it in `ephemeralOwner`; 0 without a session."""
        return int(self._session_id or 0)

    @property
    def session_timeout(self) -> float:
        """Seconds that the server lets the session live without a sign."""
        return self._connection.negotiated or self._session_timeout / 1000

    @property
    def trouble(self) -> str:
        """Why TLS or the credentials came to nothing at the last attempt to connect; empty when that is not what is wrong."""
        return self._connection.trouble

    def command(self, cmd: bytes = b"ruok") -> str:
        """Ask one of the four-letter words, over TLS where the connection is; kazoo would compare the certificate with the port."""
        if not self._live.is_set():
            raise ConnectionLoss("not connected")
        peer = self._connection._socket.getpeername()[:2]  # noqa: SLF001
        answer = b""
        with self.handler.create_connection(peer, hostname=self._connection.host, timeout=self._session_timeout / 1000) as connection:
            connection.sendall(cmd)
            while chunk := connection.recv(8192):
                answer += chunk
        return answer.decode("utf-8", "replace")

    def ensure_chroot(self, acl: list[Any] | None = None) -> None:
        """Create the nodes that the connection string's chroot names; kazoo creates only the last of them, and a wipe takes them all."""
        for path in [*ancestors(self.chroot), self.chroot] if self.chroot else []:
            result = self.handler.async_result()
            self._call(Create(path, b"", acl or OPEN_ACL_UNSAFE, 0), result)
            with contextlib.suppress(NodeExistsError):
                result.get()

    def check_server(self) -> tuple[int, ...] | None:
        """Return the server's version; None if it does not say. Raises ServerTooOldError below 3.6."""
        found = _VERSION.search(self.command(b"srvr"))
        if found is None:
            return None  # `srvr` may be switched off; a server that lacks the requests then refuses the watch
        version = tuple(int(part) for part in found.groups() if part)
        if version < MINIMUM_VERSION:
            said = ".".join(map(str, version))
            raise ServerTooOldError(f"ZooKeeper {said} is too old: 3.6 or newer is needed (persistent recursive watches, bulk reads).")
        return version

    def abandon(self) -> None:
        """Close the copies that a forked child has of its parent's sockets; the parent's session is not touched."""
        connection = self._connection
        for sock in (connection._socket, connection._read_sock, connection._write_sock):  # noqa: SLF001
            if sock is not None:
                sock.close()


class PerProcess:
    """A client for whichever process asks: a forked child gets one of its own, because sockets and threads do not survive a fork."""

    def __init__(self, hosts: str, *, timeout: float = 10.0, prepare: Callable[[Client], None] | None = None, **options: Any) -> None:
        self._make: Callable[[], Client] = lambda: Client(hosts, timeout=timeout, **options)
        self._prepare = prepare
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._client: Client | None = None

    def get(self) -> Client:
        """Return this process's client, connecting in the background; `connected` tells whether it has got through."""
        if self._pid != os.getpid():  # the lock may have been held in the parent at the moment of the fork
            self._lock, self._pid = threading.Lock(), os.getpid()
            stale, self._client = self._client, None
            if stale is not None:
                stale.abandon()
        with self._lock:
            if self._client is None:
                self._client = self._make()
                if self._prepare is not None:
                    self._prepare(self._client)
                self._client.start_async()
            return self._client

    def close(self) -> None:
        """End this process's session, and with it its ephemeral nodes, at once."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.stop()
            client.close()


def ancestors(path: str) -> Iterator[str]:
    """Yield the parents of a path from the top down, without `/` and the path itself."""
    parts = path.strip("/").split("/")
    for end in range(1, len(parts)):
        yield "/" + "/".join(parts[:end])
