"""What a registry is: the protocol that every backend keeps, what listeners are told, and how a backend is found."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from mqadmin_sdk.registry.urls import EMPTY, ServiceUrl

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

#: Packages name their backends in this group of entry points: `protocol = "module:function"`, a function from address and options.
ENTRY_POINTS: Final = "mqadmin_sdk.registry"


class RegistryError(Exception):
    """The registry could not do what it was asked for."""


class RegistryClosedError(RegistryError):
    """The registry was closed: it takes no more calls."""


class RegistryUnavailableError(RegistryError, ConnectionError):
    """The registry was not reached in time."""


@dataclass(frozen=True)
class Notification:
    """The full list of what a consumer's subscription finds in one category of one service, as it is now.

    `urls` is never empty: when nothing matches it holds one `empty://…&category=…`; `live` leaves that out. `stale` says that the list
    comes from the file cache, because the registry could not be reached; the live one follows.
    """

    service: str
    category: str
    urls: tuple[ServiceUrl, ...]
    stale: bool = False

    @property
    def live(self) -> tuple[ServiceUrl, ...]:
        """What was found."""
        return tuple(url for url in self.urls if url.protocol != EMPTY)


if TYPE_CHECKING:
    Listener = Callable[[Notification], object]


@runtime_checkable
class Registry(Protocol):
    """Where providers say what they offer and consumers learn of it. Thread-safe.

    After `close` every call but `is_available` and `close` raises RegistryClosedError.
    """

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def register(self, url: ServiceUrl) -> None:
        """Make a URL known; twice is once. It is kept: made again after whatever took it away, until `unregister` or `close`.

        Raises RegistryError if that cannot be done now; with `check=false`, or for a `consumer://`, it is done when it can be.
        """

    def unregister(self, url: ServiceUrl) -> None:
        """Take a URL back, at once or as soon as the registry can be reached. One that is not there is no error."""

    def subscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell a listener what matches, now and after each change: one notification a category, each the full list.

        Returns after the first notifications; later ones come one after another on the registry's own thread. The interface `*` means every
        service, also those that come later. Raises RegistryError if there is nothing to tell; with `check=false` they come when they can.
        """

    def unsubscribe(self, consumer: ServiceUrl, listener: Listener) -> None:
        """Tell it nothing more."""

    def lookup(self, consumer: ServiceUrl) -> list[ServiceUrl]:
        """Read what matches, directly; empty if nothing does. Raises RegistryUnavailableError."""

    def is_available(self) -> bool:
        """Whether the registry can be reached now."""

    def close(self) -> None:
        """Say goodbye: URLs that are not `dynamic=false` are gone at once, listeners too."""


_open: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def _forked() -> None:
    global _lock  # noqa: PLW0603 - it may have been held in the parent
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def open_registry(address: str | ServiceUrl, **options: Any) -> Registry:
    """Return the registry at an address: the same one for the same address and group, until it is closed.

    `zookeeper://host[:port][,host[:port]…][/chroot][?group=dubbo&backup=host:port]` or `memory://name`; other protocols are backends
    that packages bring (entry points `mqadmin_sdk.registry`). Options go to the backend when it is made. Raises ValueError, and
    RegistryError for a protocol that nobody brings.
    """
    url = address if isinstance(address, ServiceUrl) else ServiceUrl.parse(address)
    key = (f"{url.protocol}://{url.username}@{url.host}:{url.port}/{url.path}?{url.get('backup')}", url.get("group", "dubbo"))
    with _lock:
        found = _open.get(key)
        if found is None or found.closed:
            found = _open[key] = _backend(url.protocol)(url, **options)
        opened: Registry = found
    return opened


def _backend(protocol: str) -> Callable[..., Any]:
    if protocol == "zookeeper":
        from mqadmin_sdk.registry.zookeeper import ZooKeeperRegistry

        return ZooKeeperRegistry
    if protocol == "memory":
        from mqadmin_sdk.registry.memory import MemoryRegistry

        return MemoryRegistry
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == protocol:
            loaded: Callable[..., Any] = entry.load()
            return loaded
    raise RegistryError(f"No package brings a registry for {protocol}://; it would name one in the entry points {ENTRY_POINTS}.")


class Closing:
    """A context manager that closes."""

    def close(self) -> None:
        """End it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
