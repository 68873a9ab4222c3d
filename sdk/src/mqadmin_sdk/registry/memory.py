"""A registry in this process's memory, for fast tests: the twin of the one on ZooKeeper, without a server and without threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from mqadmin_sdk.registry.contract import Closing, RegistryClosedError
from mqadmin_sdk.registry.subscriptions import Subscription
from mqadmin_sdk.registry.urls import ANY, ServiceUrl, UrlError, encode, matches, registered

if TYPE_CHECKING:
    from mqadmin_sdk.registry.contract import Listener


class _Space:
    """What stands under one name, for every registry of the process that opens it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.services: dict[str, dict[str, dict[str, MemoryRegistry]]] = {}  # service → category → name of the node → whose it is
        self.registries: list[MemoryRegistry] = []

    def names(self, service: str, category: str) -> list[str] | None:
        """Return the children of a category."""
        found = self.services.get(service, {}).get(category)
        return None if found is None else list(found)


_spaces: Final[dict[tuple[str, str], _Space]] = {}
_lock: Final = threading.Lock()


class MemoryRegistry(Closing):
    """A `Registry` (see there) that others with the same address and group in this process share.

    Listeners are called by whoever makes the change, before its call returns.
    """

    def __init__(self, url: ServiceUrl, **_options: Any) -> None:
        self.url = url
        with _lock:
            self._space = _spaces.setdefault((url.host, url.get("group", "dubbo")), _Space())
        self._closed = False
        self._subscriptions: list[Subscription] = []
        with self._space.lock:
            self._space.registries.append(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def register(self, url: ServiceUrl) -> None:
        """Make a URL known (`Registry.register`)."""
        self._usable(url)
        if not url.interface or url.interface == ANY:
            raise UrlError("a URL is registered under its interface")
        with self._space.lock:
            self._space.services.setdefault(url.interface, {}).setdefault(url.category, {})[encode(str(url))] = self
        self._tell(url.interface)

    def unregister(self, url: ServiceUrl) -> None:
        """Take a URL back (`Registry.unregister`)."""
        self._usable(url)
        with self._space.lock:
            leaves = self._space.services.get(url.interface, {}).get(url.category, {})
            if leaves.get(encode(str(url))) in (self, None) or not url.dynamic:
                leaves.pop(encode(str(url)), None)
        self._tell(url.interface)

    def subscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell a listener what matches (`Registry.subscribe`)."""
        self._usable(consumer)
        subscription = self._find(consumer, listener)
        if subscription is None:
            subscription = Subscription(consumer, listener)
            with self._space.lock:
                self._subscriptions.append(subscription)
        for service in [*self._space.services] if subscription.every_service else [consumer.interface]:
            self._offer(subscription, service)
        subscription.deliver()

    def unsubscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell it nothing more (`Registry.unsubscribe`)."""
        self._usable(consumer)
        subscription = self._find(consumer, listener)
        if subscription is not None:
            subscription.closed = True
            self._subscriptions.remove(subscription)

    def lookup(self, consumer: ServiceUrl) -> list[ServiceUrl]:
        """Read what matches (`Registry.lookup`)."""
        self._usable(consumer)
        with self._space.lock:
            return [
                url
                for service in ([*self._space.services] if consumer.interface == ANY else [consumer.interface])
                for category in consumer.categories
                for url in registered(self._space.names(service, category))
                if matches(consumer.with_parameters(interface=service), url)
            ]

    def is_available(self) -> bool:
        """Whether it is open."""
        return not self._closed

    def close(self) -> None:
        """Say goodbye (`Registry.close`)."""
        if self._closed:
            return
        self._closed = True
        for subscription in self._subscriptions:
            subscription.closed = True
        left = set()
        with self._space.lock:
            self._space.registries.remove(self)
            for service, categories in self._space.services.items():
                for leaves in categories.values():
                    for name in [name for name, owner in leaves.items() if owner is self]:
                        if registered([name])[0].dynamic:
                            del leaves[name]
                            left.add(service)
        for service in left:
            self._tell(service)

    def _tell(self, service: str) -> None:
        for registry in list(self._space.registries):
            for subscription in list(registry._subscriptions):  # noqa: SLF001 - a twin of this one
                if subscription.wants(service) and self._offer(subscription, service):
                    subscription.deliver()

    def _offer(self, subscription: Subscription, service: str) -> bool:
        with self._space.lock:
            return subscription.offer(
                {(service, category): self._space.names(service, category) for category in subscription.consumer.categories}
            )

    def _find(self, consumer: ServiceUrl, listener: Listener) -> Subscription | None:
        return next((one for one in list(self._subscriptions) if one.consumer == consumer and one.listener == listener), None)

    def _usable(self, url: ServiceUrl) -> None:
        if not isinstance(url, ServiceUrl):
            raise UrlError("a service URL is needed")
        if self._closed:
            raise RegistryClosedError("the registry is closed")
