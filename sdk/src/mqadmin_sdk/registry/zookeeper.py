"""Dubbo's registry on ZooKeeper: `/<group>/<interface>/<category>/<url>`."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TYPE_CHECKING, Final

from mqadmin_sdk.registry import keeper as keepers
from mqadmin_sdk.registry.cache import FileCache
from mqadmin_sdk.registry.contract import Closing, RegistryClosedError, RegistryError, RegistryUnavailableError
from mqadmin_sdk.registry.keeper import DISCONNECTED, Keeper, Part
from mqadmin_sdk.registry.leaves import Leaves, introduction
from mqadmin_sdk.registry.subscriptions import Subscription
from mqadmin_sdk.registry.urls import ANY, LONGEST, ServiceUrl, UrlError, decode, encode, matches, registered
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mqadmin_sdk.registry.contract import Listener
    from mqadmin_sdk.zk import Access, TreeEvent, TreeWatch
    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 2181
_SAVE_AFTER: Final = 0.2  # seconds, so that many notifications are one write of the file


class ZooKeeperRegistry(Closing):
    """A `Registry` (see there) on ZooKeeper. Call `open_registry` rather than this.

    `timeout` is how many seconds a call waits for a connection, `cache` the file that keeps the last lists. What is registered is made
    again within a third of `session_timeout`, whoever deleted it, and at once after a new session.
    """

    def __init__(
        self,
        url: ServiceUrl,
        *,
        session_timeout: float = 10.0,
        timeout: float = 5.0,
        cache: str | Path | None = None,
        access: Access | None = None,
    ) -> None:
        self.url, self.timeout = url, timeout
        self.root = f"/{url.get('group', 'dubbo').strip('/')}"
        self._check = url.true("check", default=True)
        self._host = paths.local_ip()
        self._closed = False
        self._keeper = keepers.acquire(hosts_of(url), session_timeout=session_timeout, access=access)
        self._leaves = Leaves(self._keeper.post)
        self._services = _Services(self._keeper, self.root, FileCache(cache) if cache is not None else None)
        self._keeper.add(self._leaves)
        self._keeper.add(self._services)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed or self._keeper.closed

    def register(self, url: ServiceUrl) -> None:
        """Make a URL known (`Registry.register`)."""
        path = self._path(url)
        until, asked = time.monotonic() + self.timeout, object()
        with self._in_time():
            adding = self._keeper.call(lambda: self._leaves.add(path, introduction(self._host), ephemeral=url.dynamic, asked=asked))
            if not self._checks(url):
                with contextlib.suppress(RegistryError, FutureTimeout):
                    if self._keeper.is_connected():
                        adding.result(self.timeout).standing.result(max(0.0, until - time.monotonic()))
                return
            try:
                self._keeper.reached(self.timeout)
                adding.result(max(0.0, until - time.monotonic())).standing.result(max(0.0, until - time.monotonic()))
            except BaseException:
                self._keeper.post(lambda: self._leaves.give_up(path, asked))
                raise

    def unregister(self, url: ServiceUrl) -> None:
        """Take a URL back (`Registry.unregister`)."""
        path = self._path(url)
        dropping = self._keeper.call(lambda: self._leaves.drop(path, ephemeral=url.dynamic))
        with contextlib.suppress(FutureTimeout):
            if self._keeper.is_connected():
                dropping.result(self.timeout).result(self.timeout)

    def subscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell a listener what matches (`Registry.subscribe`)."""
        self._usable(consumer)
        subscription = self._find(consumer, listener) or Subscription(consumer, listener)
        self._keeper.call(lambda: self._services.add(subscription))
        try:
            with self._in_time():
                self._keeper.reached(self.timeout)
                subscription.first.result(self.timeout)
        except RegistryError:
            cached = self._services.cached(subscription)
            if cached:
                log.warning("The registry cannot be reached: %s gets what it was told last", consumer.service_key)
                subscription.offer_cached(cached)
            elif self._checks(consumer) and not subscription.first.done():
                self._keeper.post(lambda: self._services.remove(subscription))
                raise
        subscription.deliver()

    def unsubscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell it nothing more (`Registry.unsubscribe`)."""
        self._usable(consumer)
        subscription = self._find(consumer, listener)
        if subscription is not None:
            subscription.closed = True
            self._keeper.post(lambda: self._services.remove(subscription))

    def lookup(self, consumer: ServiceUrl) -> list[ServiceUrl]:
        """Read what matches (`Registry.lookup`)."""
        self._usable(consumer)
        client = self._keeper.reached(self.timeout)
        try:
            services = [consumer.interface]
            if consumer.interface == ANY:
                services = [decode(name) for name in client.multi_children([self.root])[1][0] or ()]
            wanted = [(service, category) for service in services for category in consumer.categories]
            found = client.multi_children([_path(self.root, service, category) for service, category in wanted])[1]
        except DISCONNECTED as error:
            raise RegistryUnavailableError("the connection to ZooKeeper was lost") from error
        return [
            url
            for (service, _category), names in zip(wanted, found, strict=True)
            for url in registered(names)
            if matches(consumer.with_parameters(interface=service), url)
        ]

    def is_available(self) -> bool:
        """Whether ZooKeeper can be reached now."""
        return not self.closed and self._keeper.is_connected()

    def close(self) -> None:
        """Say goodbye (`Registry.close`)."""
        if self._closed:
            return
        self._closed = True
        for subscription in self._services.subscriptions:
            subscription.closed = True
        self._keeper.remove(self._leaves)
        self._keeper.remove(self._services)
        keepers.release(self._keeper)

    def _find(self, consumer: ServiceUrl, listener: Listener) -> Subscription | None:
        for subscription in self._services.of(consumer):
            if subscription.consumer == consumer and subscription.listener == listener and not subscription.closed:
                return subscription
        return None

    def _checks(self, url: ServiceUrl) -> bool:
        return self._check and url.true("check", default=True) and url.protocol != "consumer"

    def _usable(self, url: ServiceUrl) -> None:
        if not isinstance(url, ServiceUrl):
            raise UrlError("a service URL is needed")
        if self.closed:
            raise RegistryClosedError("the registry is closed")

    def _path(self, url: ServiceUrl) -> str:
        self._usable(url)
        if not url.interface or url.interface == ANY:
            raise UrlError("a URL is registered under its interface")
        path = f"{_path(self.root, url.interface, url.category)}/{encode(str(url))}"
        if len(path) > LONGEST:
            raise UrlError(f"the URL takes {len(path)} bytes as a node's name; ZooKeeper takes {LONGEST} at most")
        return path

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        try:
            yield
        except FutureTimeout as error:
            raise RegistryUnavailableError(f"ZooKeeper at {self._keeper.hosts} did not answer within {self.timeout:g} s") from error


class _Services(Part):
    """The subscriptions: one watch for each service that is asked for, or one for all of them."""

    def __init__(self, keeper: Keeper, root: str, cache: FileCache | None) -> None:
        self._keeper, self._root, self._cache = keeper, root, cache
        self._following: dict[str, list[Subscription]] = {}  # by the path of the tree that is watched for them
        self._watches: dict[str, TreeWatch] = {}
        self._unwatched: set[str] = set()
        self._dirty: set[str] = set()  # services to be read
        self._list = False  # the services have to be listed
        self._save_at: float | None = None

    def add(self, subscription: Subscription) -> None:
        """Begin to tell a listener."""
        tree = self._tree(subscription)
        found = self._following.setdefault(tree, [])
        if subscription not in found:
            found.append(subscription)
        if tree not in self._watches:
            self._unwatched.add(tree)
        self._touch(subscription)

    def remove(self, subscription: Subscription) -> None:
        """End it, and the watch if it was the last one."""
        subscription.closed = True
        tree = self._tree(subscription)
        found = self._following.get(tree, [])
        if subscription in found:
            found.remove(subscription)
        if not found:
            self._following.pop(tree, None)
            self._unwatched.discard(tree)
            if tree in self._watches:
                self._watches.pop(tree).close()

    @property
    def subscriptions(self) -> list[Subscription]:
        """All of them."""
        return [subscription for found in list(self._following.values()) for subscription in found]

    def of(self, consumer: ServiceUrl) -> list[Subscription]:
        """Those of a consumer's service; on any thread."""
        return list(self._following.get(self._root if consumer.interface == ANY else _path(self._root, consumer.interface), ()))

    def cached(self, subscription: Subscription) -> dict[str, dict[str, list[str]]]:
        """Return what the file keeps for a subscription; on any thread."""
        return self._cache.read(subscription.consumer.service_key) if self._cache is not None else {}

    # --- Part -------------------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Read everything again."""
        for subscription in self.subscriptions:
            self._touch(subscription)

    def forked(self) -> None:
        """Go on in the child."""
        self._watches, self._unwatched = {}, set(self._following)
        for subscription in self.subscriptions:
            subscription.begin_anew()
        self.connected()

    def due(self) -> float | None:
        """When there is something to read or to save."""
        if self._dirty or self._list:
            return 0.0
        return self._save_at

    def catch_up(self, client: ZooKeeper) -> None:
        """Read what changed, and queue what listeners do not know yet."""
        while self._unwatched:
            path = self._unwatched.pop()
            self._watches[path] = client.watch_tree(path, self._hear)
        if self._dirty or self._list:
            self._read(client)
        if self._save_at is not None and self._save_at <= time.monotonic():
            self._save()

    def leave(self, _client: ZooKeeper) -> None:
        """Save, and watch no more."""
        if self._save_at is not None:
            self._save()
        for watch in self._watches.values():
            watch.close()
        self._watches, self._following, self._unwatched = {}, {}, set()

    # --- reading ----------------------------------------------------------------------------------------------------------

    def _tree(self, subscription: Subscription) -> str:
        return self._root if subscription.every_service else _path(self._root, subscription.consumer.interface)

    def _touch(self, subscription: Subscription) -> None:
        if subscription.every_service:
            self._list = True
        else:
            self._dirty.add(subscription.consumer.interface)

    def _hear(self, event: TreeEvent) -> None:
        """Kazoo's callback thread: only enqueue."""
        if event.kind not in {"interrupted", "changed"}:
            self._keeper.post(lambda: self._look(event))

    def _look(self, event: TreeEvent) -> None:
        below = event.path[len(self._root) :].strip("/").split("/")
        if below[0]:
            self._dirty.add(decode(below[0]))
        if len(below) == 1:  # the root, or a service that came or went
            self._list |= self._root in self._following

    def _read(self, client: ZooKeeper) -> None:
        everywhere = self._following.get(self._root, [])
        wanted = set(self._dirty)
        listed: set[str] | None = None
        if self._list and everywhere:
            listed = {decode(name) for name in client.multi_children([self._root])[1][0] or ()}
            wanted |= listed.union(*(subscription.services() for subscription in everywhere))
        asked = {
            (service, category): _path(self._root, service, category)
            for service in wanted
            for subscription in [*everywhere, *self._following.get(_path(self._root, service), ())]
            for category in subscription.consumer.categories
        }
        found = dict(zip(asked, client.multi_children(list(asked.values()))[1], strict=True)) if asked else {}
        self._dirty -= wanted
        self._list = False
        concerned = [*everywhere, *(one for service in wanted for one in self._following.get(_path(self._root, service), ()))]
        for subscription in concerned:
            categories = subscription.consumer.categories
            services = wanted if subscription.every_service else (subscription.consumer.interface,)
            own = {(service, category): found[service, category] for service in services for category in categories}
            changed = subscription.offer(own)
            if not subscription.first.done():
                subscription.first.set_result(None)  # whoever subscribed delivers it
            if changed:
                self._keeper.later(subscription.deliver)
                self._save_at = self._save_at or time.monotonic() + _SAVE_AFTER
            if subscription.every_service and listed is not None:
                for service in subscription.services() - listed:
                    self._keeper.later(partial(subscription.gone, service))

    def _save(self) -> None:
        self._save_at = None
        if self._cache is None:
            return
        lists: dict[str, dict[str, dict[str, list[str]]]] = {}
        for subscription in self.subscriptions:
            for service, categories in subscription.told().items():
                lists.setdefault(subscription.consumer.service_key, {}).setdefault(service, {}).update(categories)
        try:
            self._cache.write(lists)
        except OSError as error:
            log.warning("The registry's file cache cannot be written: %s", error)


def hosts_of(url: ServiceUrl) -> str:
    """Return what a ZooKeeper client takes: every server with its port, and the chroot. Raises ValueError."""
    first = f"{url.host}:{url.port}" if url.port else url.host
    servers = []
    for part in [*first.split(","), *url.get("backup").split(",")]:
        server = part.strip()
        if not server:
            continue
        host, colon, port = server.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = server, ""
        if not host or host == "0.0.0.0":  # noqa: S104 - refused
            raise UrlError("The registry's address names no server that could be reached.")
        servers.append(f"{host}:{int(port or 0) or DEFAULT_PORT}")
    if not servers:
        raise UrlError("The registry's address names no server.")
    return ",".join(servers) + (f"/{url.path}" if url.path else "")


def _path(root: str, service: str, category: str = "") -> str:
    return f"{root}/{encode(service)}" + (f"/{category}" if category else "")
