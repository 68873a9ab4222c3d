"""What a consumer calls: the providers of one service, as the registry said last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mqadmin_sdk.registry.contract import Closing
from mqadmin_sdk.registry.urls import PROVIDERS

if TYPE_CHECKING:
    from mqadmin_sdk.registry.contract import Notification, Registry
    from mqadmin_sdk.registry.urls import ServiceUrl


class Directory(Closing):
    """The providers of a service, followed until it is closed; thread-safe.

    The list is replaced by the registry's notifications and never grows old by a clock. Raises what `Registry.subscribe` raises.
    """

    def __init__(self, registry: Registry, consumer: ServiceUrl) -> None:
        self._registry, self._consumer = registry, consumer.with_parameters(category=PROVIDERS)
        self._lock = threading.Lock()
        self._urls: tuple[ServiceUrl, ...] = ()
        self._failing: set[ServiceUrl] = set()
        self._stale = False
        registry.subscribe(self._consumer, self._hear)

    def urls(self) -> list[ServiceUrl]:
        """Return the providers that are registered, without those reported as failing."""
        with self._lock:
            return [url for url in self._urls if url not in self._failing] if self._failing else list(self._urls)

    @property
    def stale(self) -> bool:
        """Whether the list comes from the file cache, because the registry has not been reached yet."""
        return self._stale

    def report(self, url: ServiceUrl) -> None:
        """Leave a provider that fails out until the registry's next notification."""
        with self._lock:
            self._failing.add(url)

    def close(self) -> None:
        """Follow it no more."""
        if not self._registry.closed:
            self._registry.unsubscribe(self._consumer, self._hear)

    def _hear(self, notification: Notification) -> None:
        with self._lock:
            self._urls, self._stale = notification.live, notification.stale
            self._failing.clear()
