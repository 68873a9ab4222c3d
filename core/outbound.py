"""Addresses that users supply: checked before mqadmin connects to them, so that nobody reaches the inside of the network through it.

    check_url(url, purpose=_("a webhook"), pointer="/url")     # when it is entered: Problem `address_not_allowed`
    with client(purpose="webhook") as http:                    # when it is used: checked again, at the moment of connecting
        answer = http.post(url, json=event)                    # Problem address_not_allowed, or httpx.HTTPError

The client connects to the very address that was checked (a name may resolve to another one a moment later), keeps the name for TLS
and the Host header, checks every redirect, takes no proxy from the environment, and ends an answer that is too
large or too slow. What is allowed beyond public addresses stands in MQADMIN_OUTBOUND_ALLOW: networks and host names.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx
import structlog
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from core.errors import FieldError, Problem

log = structlog.get_logger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

RESOLVE_SECONDS = 5.0
MAX_RESPONSE_BYTES = 1024 * 1024
MAX_REDIRECTS = 3
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*")
# A name whose last label is a number is an IPv4 address to most resolvers: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
_ODD = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")
# Public by their number, private by what answers: Azure's host agent; networks that stand for an IPv4 address inside them.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
_EMBEDDING = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")


class _NotFoundError(Exception):
    """The name does not resolve."""


def check_url(url: str, *, purpose: Any, pointer: str = "", resolve: bool = True) -> None:
    """Raise Problem `address_not_allowed` unless mqadmin may connect to the URL; `address_not_found` if its name does not resolve.

    `purpose` is for people (“a webhook”), `pointer` the field that the URL came in. Without `resolve` only what the URL itself says is
    looked at, within a transaction for example: its form, and a host that is an address.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise _refused(purpose, url, _("it is not a URL"), pointer) from None
    if re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise _refused(purpose, url, _("it contains blanks, control characters or backslashes"), pointer)
    _check_form(parsed, purpose, pointer)
    host = parsed.raw_host.decode("ascii")
    if resolve or _is_address(host):
        check_host(host, parsed.port or (443 if parsed.scheme == "https" else 80), purpose, pointer=pointer)


def _is_address(host: str) -> bool:
    """Whether a host needs no resolver; what only looks like an address is refused, so that it is one too."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _ODD.fullmatch(host) is not None
    return True


def check_host(host: str, port: int, purpose: Any, *, pointer: str = "") -> list[Address]:
    """The addresses of a host, all of them allowed; Problem `address_not_allowed` or `address_not_found` otherwise."""
    try:
        return _addresses(host, port, purpose, pointer)
    except _NotFoundError:
        raise Problem(
            "address_not_found",
            _("“{host}” cannot be resolved.").format(host=_short(host)),
            hint=_("Check the spelling, and that mqadmin's own resolver knows the name."),
            errors=[FieldError(pointer, _("This name cannot be resolved."))] if pointer else [],
        ) from None


@dataclass(frozen=True, slots=True)
class Probe:
    """What `reachable` found: `reachable`, `unreachable` or `not_probed`, and why."""

    state: str
    detail: str = ""


def reachable(host: str, port: int, timeout: float = 2.0) -> Probe:
    """Whether a TCP connection opens within `timeout` seconds; private addresses are not probed unless they are allowed."""
    try:
        addresses = _addresses(host.strip("[]"), port, _("a probe"))
    except Problem as problem:
        if problem.extra.get("because") in {"private", "loopback", "link-local"}:
            return Probe("not_probed", _("Not probed: private address, allow it with MQADMIN_OUTBOUND_ALLOW."))
        return Probe("not_probed", str(problem.detail))
    except _NotFoundError:
        return Probe("unreachable", _("“{host}” cannot be resolved.").format(host=_short(host)))
    deadline, why = time.monotonic() + timeout, ""
    for address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            socket.create_connection((str(address), port), timeout=left).close()
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return Probe("reachable")
    return Probe("unreachable", why or _("No answer within {seconds} s.").format(seconds=f"{timeout:g}"))


def client(
    *,
    purpose: Any,
    timeout: float = 10.0,
    redirects: int = MAX_REDIRECTS,
    max_bytes: int = MAX_RESPONSE_BYTES,
    verify: ssl.SSLContext | bool = True,
) -> httpx.Client:
    """An httpx.Client for addresses that users supplied; see the module.

    `timeout` (seconds) bounds connecting and the whole answer of each hop, `max_bytes` what is read of it, headers included.
    Raises Problem `address_not_allowed`, and httpx.HTTPError for all that a network does.
    """
    return httpx.Client(
        transport=_CheckedTransport(purpose=purpose, timeout=timeout, max_bytes=max_bytes, verify=verify),
        timeout=timeout,
        follow_redirects=redirects > 0,
        max_redirects=redirects,
        trust_env=False,
        # A compressed answer may be a thousand times as large as what came over the wire.
        headers={"Accept-Encoding": "identity", "User-Agent": "mqadmin"},
    )


# --- the rule -----------------------------------------------------------------------------------------------------------


def parse_allowed(entries: Iterable[str]) -> tuple[list[ipaddress.IPv4Network | ipaddress.IPv6Network], set[str]]:
    """Networks and host names of MQADMIN_OUTBOUND_ALLOW; ValueError that names the entry that is neither."""
    networks, names = [], set()
    for entry in (entry.strip() for entry in entries):
        if not entry:
            continue
        try:
            networks.append(ipaddress.ip_network(entry, strict=True))
        except ValueError:
            name = entry.lower().rstrip(".")
            if "/" in entry or ":" in entry or _ODD.fullmatch(name) or not _HOST.fullmatch(name.removeprefix(".")):
                raise ValueError(f"“{entry}” is neither a network (10.1.0.0/16) nor a host name.") from None
            names.add(name)
    return networks, names


def _named(host: str, names: set[str]) -> bool:
    """`example.com` allows that name, `.example.com` all below it."""
    return host in names or any(name.startswith(".") and host.endswith(name) for name in names)


def _refused(purpose: Any, what: str, why: str, pointer: str = "", because: str = "form") -> Problem:
    detail = _("“{what}” is not allowed as the address of {purpose}: {why}.").format(what=_short(what), purpose=purpose, why=why)
    return Problem(
        "address_not_allowed",
        detail,
        hint=_("An administrator can allow networks and host names with MQADMIN_OUTBOUND_ALLOW.") if because != "form" else "",
        errors=[FieldError(pointer, detail)] if pointer else [],
        extra={"because": because},
    )


def _check_form(url: httpx.URL, purpose: Any, pointer: str = "") -> None:
    shown = str(url.copy_with(username=None, password=None)) if url.host else str(url)
    schemes = ["https", "http"] if settings.OUTBOUND_HTTP else ["https"]
    if url.scheme not in schemes:
        wanted = " / ".join(f"{scheme}://" for scheme in schemes)
        raise _refused(purpose, shown, _("it does not begin with {schemes}").format(schemes=wanted), pointer)
    if url.userinfo:
        raise _refused(purpose, shown, _("it contains a name or a password"), pointer)
    if not url.host:
        raise _refused(purpose, shown, _("it names no host"), pointer)
    if url.port is not None and not 0 < url.port < 65536:
        raise _refused(purpose, shown, _("there is no such port"), pointer)


def _addresses(host: str, port: int, purpose: Any, pointer: str = "") -> list[Address]:
    networks, names = parse_allowed(settings.OUTBOUND_ALLOW)
    name = host.lower().rstrip(".")
    try:
        found: list[Address] = [ipaddress.ip_address(name)]
    except ValueError:
        if not _HOST.fullmatch(name) or _ODD.fullmatch(name):
            raise _refused(purpose, host, _("it is neither a host name nor an address in its usual notation"), pointer) from None
        found = _resolve(name, port)
        if _named(name, names):
            return found
    for address in found:
        kind = why_not(address, networks)
        if kind:
            # The address itself stays in our log: what a name resolves to inside is not for whoever may enter a URL.
            log.warning("refused an address that a user supplied", host=name, resolved=str(address), because=kind, purpose=str(purpose))
            raise _refused(purpose, host, _(_WORDS[kind]), pointer, kind)
    return found


_WORDS = {
    "loopback": gettext_noop("it leads to mqadmin's own machine"),
    "private": gettext_noop("it leads into a private network"),
    "link-local": gettext_noop("it leads to a link-local address"),
    "multicast": gettext_noop("it is a multicast address"),
    "metadata": gettext_noop("it leads to the metadata of a cloud"),
    "reserved": gettext_noop("it is a reserved address"),
    "embedded": gettext_noop("it is an IPv6 address that stands for an IPv4 address"),
}


def why_not(address: Address, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()) -> str:
    """Why an address is refused, as a word; empty if it is a public one or in one of the allowed networks."""
    if any(address in network for network in networks if network.version == address.version):
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_unspecified or address.is_loopback:
            return "loopback"
        if address.ipv4_mapped is not None or any(address in network for network in _EMBEDDING):
            return "embedded"
    if address.is_loopback or address.is_unspecified or (address.version == 4 and address in ipaddress.ip_network("0.0.0.0/8")):
        return "loopback"
    if address in _METADATA:
        return "metadata"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if address.is_private or address in _SITE_LOCAL or address in ipaddress.ip_network("100.64.0.0/10"):
        return "private"
    return "" if address.is_global and not address.is_reserved else "reserved"


def _resolve(name: str, port: int) -> list[Address]:
    """All addresses of a name. getaddrinfo knows no time limit, so it runs beside us."""
    answers: list[list[Address]] = []

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, OverflowError):
            return
        answers.append(list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in rows)))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not answers or not answers[0]:
        raise _NotFoundError
    return answers[0]


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


# --- the client ---------------------------------------------------------------------------------------------------------


class _Bounds:
    """How long and how much one connection may still take."""

    __slots__ = ("bytes_left", "deadline")

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.deadline = time.monotonic() + seconds
        self.bytes_left = max_bytes

    def seconds(self, wanted: float | None) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("The answer takes too long.")
        return left if wanted is None else min(wanted, left)

    def take(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise httpcore.ReadError("The answer is too large.")


class _BoundedStream(httpcore.NetworkStream):
    """A connection that counts bytes and watches the clock: also for headers that come a byte at a time."""

    def __init__(self, stream: httpcore.NetworkStream, bounds: _Bounds) -> None:
        self._stream, self._bounds = stream, bounds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._bounds.seconds(timeout))
        self._bounds.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._bounds.seconds(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> _BoundedStream:
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, self._bounds.seconds(timeout)), self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _CheckedBackend(httpcore.SyncBackend):
    """Resolves, checks and connects in one go: no second look at DNS in between."""

    def __init__(self, purpose: Any, timeout: float, max_bytes: int) -> None:
        self._purpose, self._timeout, self._max_bytes = purpose, timeout, max_bytes

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        bounds = _Bounds(self._timeout, self._max_bytes)
        try:
            addresses = _addresses(host, port, self._purpose)
        except _NotFoundError:
            raise httpcore.ConnectError(f"{host} cannot be resolved.") from None
        failure: Exception = httpcore.ConnectError("No address.")
        for address in addresses:
            try:
                return _BoundedStream(super().connect_tcp(str(address), port, bounds.seconds(timeout), *args, **kwargs), bounds)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(self, *_args: Any, **_kwargs: Any) -> httpcore.NetworkStream:
        raise httpcore.UnsupportedProtocol("No sockets of the machine itself.")


class _CheckedTransport(httpx.HTTPTransport):
    """Checks the form of every request's URL (redirects come this way too) and connects through the checked backend."""

    def __init__(self, *, purpose: Any, timeout: float, max_bytes: int, verify: ssl.SSLContext | bool) -> None:
        context = httpx.create_ssl_context(verify=verify, trust_env=True)  # SSL_CERT_FILE: a company's own authority
        super().__init__(verify=context, trust_env=False)
        self._purpose = purpose
        # httpx offers no parameter for httpcore's backend. One connection a request: its limits are those of the request.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=None,  # as many as the threads that share the client
            max_keepalive_connections=0,
            http1=True,
            http2=False,
            network_backend=_CheckedBackend(purpose, timeout, max_bytes),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        _check_form(request.url, self._purpose)
        response = super().handle_request(request)
        if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
            response.close()
            raise httpx.DecodingError("The answer is compressed, which was not asked for.", request=request)
        return response
