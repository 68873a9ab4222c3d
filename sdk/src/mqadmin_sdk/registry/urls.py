"""Service URLs as Dubbo writes them, and which provider a consumer means."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ANY: Final = "*"
PROVIDERS: Final = "providers"
CONSUMERS: Final = "consumers"
ROUTERS: Final = "routers"
CONFIGURATORS: Final = "configurators"
CATEGORIES: Final = (PROVIDERS, CONSUMERS, ROUTERS, CONFIGURATORS)
EMPTY: Final = "empty"
#: Bytes of a node's path; the server takes no packet over 1 MB, and would answer a longer one by cutting the connection.
LONGEST = 512_000


class UrlError(ValueError):
    """Text that is no service URL."""


@dataclass(frozen=True)
class ServiceUrl:
    """`protocol://[user[:password]@]host[:port]/path?key=value&…`; immutable, and equal if all of it is.

    Parameters hold text as it is: Dubbo encodes a URL as a whole, never a value in it, so that `&` and line breaks cannot stand in one.
    """

    protocol: str
    host: str = ""
    port: int = 0
    path: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    username: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        if not self.protocol:
            raise UrlError("a service URL begins with a protocol")
        for key, value in self.parameters.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise UrlError("parameters are text")
            if not key or set("&=#\r\n") & set(key) or set("&\r\n") & set(value):
                raise UrlError(f"the parameter {key!r} cannot be written into a URL: & and line breaks stand between parameters")
        object.__setattr__(self, "parameters", MappingProxyType(dict(sorted(self.parameters.items()))))
        object.__setattr__(self, "path", self.path.strip("/"))

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        return (ServiceUrl.parse, (str(self),))

    @classmethod
    def parse(cls, text: str) -> ServiceUrl:
        """Read a URL that is not encoded. Raises UrlError."""
        if not isinstance(text, str):
            raise UrlError("a service URL is text")
        protocol, separator, rest = text.strip().partition("://")
        if not separator or not protocol:
            raise UrlError(f"no service URL: {text[:100]!r}")
        rest, _, query = rest.partition("?")
        parameters: dict[str, str] = {}
        for part in query.split("&"):
            key, equals, value = part.strip().partition("=")
            if key:
                parameters[key] = value if equals else key  # as Dubbo reads a key alone
        address, _, path = rest.partition("/")
        credentials, at, address = address.rpartition("@")
        username, _, password = credentials.partition(":") if at else ("", "", "")
        host, port = _host_and_port(address)
        return cls(protocol, host, port, path, parameters, username, password)

    def __str__(self) -> str:
        credentials = self.username + (f":{self.password}" if self.password else "")
        port = f":{self.port}" if self.port else ""
        query = "&".join(f"{key}={value}" for key, value in self.parameters.items())
        path = f"/{self.path}" if self.path or query else ""
        return f"{self.protocol}://{credentials}{'@' if credentials else ''}{self.host}{port}{path}{'?' if query else ''}{query}"

    def get(self, key: str, default: str = "") -> str:
        """Return a parameter; the default if it is absent or empty."""
        return self.parameters.get(key) or default

    def true(self, key: str, *, default: bool) -> bool:
        """Return a parameter as Java reads a boolean: anything but `true` is false, and what is absent is the default."""
        value = self.get(key)
        return value.lower() == "true" if value else default

    def with_parameters(self, **parameters: str) -> ServiceUrl:
        """Return the URL with these parameters besides, or in place of, its own."""
        return replace(self, parameters={**self.parameters, **parameters})

    @property
    def interface(self) -> str:
        """The service: the parameter `interface`, or else the path."""
        return self.get("interface", self.path)

    @property
    def category(self) -> str:
        """The first category, in which a URL is registered."""
        return self.categories[0]

    @property
    def categories(self) -> tuple[str, ...]:
        """What a consumer subscribes to; `*` is all four, `-x` all but x."""
        found = tuple(dict.fromkeys(part.strip() for part in self.get("category", PROVIDERS).split(",") if part.strip()))
        if ANY in found or any(part.startswith("-") for part in found):
            return tuple(name for name in CATEGORIES if matches_category(name, self.get("category")))
        return found or (PROVIDERS,)

    @property
    def dynamic(self) -> bool:
        """Whether the registration ends with the process; `dynamic=false` stays until it is unregistered."""
        return self.true("dynamic", default=True)

    @property
    def service_key(self) -> str:
        """`[group/]interface[:version]`."""
        group, version = self.get("group"), self.get("version")
        return (f"{group}/" if group else "") + self.interface + (f":{version}" if version and version != "0.0.0" else "")

    def empty(self, service: str, category: str) -> ServiceUrl:
        """Return what a consumer is told when nothing in a category matches."""
        return replace(self, protocol=EMPTY, path=service, parameters={**self.parameters, "interface": service, "category": category})


def encode(text: str) -> str:
    """Encode as Java's URLEncoder does, so that any text is one node's name."""
    return quote_plus(text, safe="*").replace("~", "%7E")


def decode(name: str) -> str:
    """Read what `encode` wrote."""
    return unquote_plus(name)


def registered(names: list[str] | None) -> list[ServiceUrl]:
    """Read the children of a category; those that are no URL are skipped."""
    return parsed(decode(name) for name in sorted(names or ()))


def parsed(texts: Iterable[str]) -> list[ServiceUrl]:
    """Read URLs; what is none is skipped."""
    found = []
    for text in texts:
        with contextlib.suppress(UrlError):
            found.append(ServiceUrl.parse(text))
    return found


def matches(consumer: ServiceUrl, provider: ServiceUrl) -> bool:
    """Whether a registered URL is one that a consumer asks for (Dubbo 2.7, UrlUtils.isMatch)."""
    if ANY not in (consumer.interface, provider.interface) and consumer.interface != provider.interface:
        return False
    if not matches_category(provider.get("category", PROVIDERS), consumer.get("category", PROVIDERS)):
        return False
    if not provider.true("enabled", default=True) and consumer.get("enabled") != ANY:
        return False
    group, own = consumer.get("group"), provider.get("group")
    if group not in (ANY, own) and own not in [part.strip() for part in group.split(",") if part.strip()]:
        return False
    if consumer.get("version") not in (ANY, provider.get("version")):
        return False
    classifier = consumer.get("classifier", ANY)
    return classifier in (ANY, provider.get("classifier", ANY))


def matches_category(category: str, wanted: str) -> bool:
    """Whether a category is among those wanted: a comma list, `*` for all, `-x` for all but x; nothing means providers."""
    names = [part.strip() for part in wanted.split(",") if part.strip()]
    if not names:
        return category == PROVIDERS
    if ANY in names:
        return True
    if any(name.startswith("-") for name in names):
        return f"-{category}" not in names
    return category in names


def matches_glob(pattern: str | None, value: str | None) -> bool:
    """Whether a value fits a pattern with one `*` (Dubbo 2.7, UrlUtils.isMatchGlobPattern)."""
    pattern, value = pattern or "", value or ""
    if pattern in {ANY, value}:
        return True
    if not pattern or not value or ANY not in pattern:
        return False
    start, _, end = pattern.rpartition(ANY)
    return len(value) >= len(pattern) - 1 and value.startswith(start) and value.endswith(end)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]") or "," in address:  # an IPv6 address without a port; several servers, each with its own
        return address, 0
    if not port.isdigit() or int(port) > 65535:
        raise UrlError(f"no port: {port!r}")
    return host, int(port)
