"""A consumer's subscription: what it means of what is registered, and what its listener is told of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk.registry.contract import Notification
from mqadmin_sdk.registry.telling import Teller
from mqadmin_sdk.registry.urls import ANY, matches, parsed, registered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mqadmin_sdk.registry.contract import Listener
    from mqadmin_sdk.registry.urls import ServiceUrl


class Subscription(Teller[tuple[str, str], Notification]):
    """A consumer's URL with one listener; states are kept by service and category."""

    def __init__(self, consumer: ServiceUrl, listener: Listener) -> None:
        super().__init__(listener, consumer.interface)
        self.consumer = consumer
        self.every_service = consumer.interface == ANY

    def wants(self, service: str) -> bool:
        """Whether it is about a service."""
        return self.every_service or service == self.consumer.interface

    def services(self) -> set[str]:
        """The services that the listener is to know of."""
        return {service for service, _category in self.state()}

    def offer(self, found: Mapping[tuple[str, str], list[str] | None]) -> bool:
        """Take what was read, the children of (service, category); True if there is something to deliver."""
        changed = False
        for (service, category), names in found.items():
            consumer = self.consumer.with_parameters(interface=service) if self.every_service else self.consumer
            urls = tuple(url for url in registered(names) if matches(consumer, url))
            told = Notification(service, category, urls or (self.consumer.empty(service, category),))
            changed |= self.put((service, category), told)
        return changed

    def offer_cached(self, lists: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Take what was kept of an earlier run, service → category → URLs, where nothing is known yet."""
        known = self.state()
        for service, categories in lists.items():
            for category, texts in categories.items():
                urls = tuple(parsed(texts))
                if (service, category) not in known and category in self.consumer.categories and urls:
                    self.put((service, category), Notification(service, category, urls, stale=True))

    def gone(self, service: str) -> None:
        """Forget a service that is gone, once the listener knows."""
        self.forget([key for key in self.state() if key[0] == service])

    def told(self) -> dict[str, dict[str, list[str]]]:
        """Return the live lists for the file cache: service → category → URLs."""
        lists: dict[str, dict[str, list[str]]] = {}
        for (service, category), one in self.state().items():
            if not one.stale:
                lists.setdefault(service, {})[category] = [str(url) for url in one.urls]
        return lists
