"""mqadmin's REST interface: several addresses with weights, a failing one left out for a while, signed requests, typed errors."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import random
import re
import secrets
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote, urlencode, urlsplit

# httpx's own layer below its client, which costs twice as much for each request, a line in the log, and a while to load.
import httpcore

from mqadmin_sdk.errors import MqadminError, UnavailableError, UnreachableError, of_problem
from mqadmin_sdk.version import SDK

if TYPE_CHECKING:
    from collections.abc import Sequence

Balance = Literal["random", "round_robin", "hash"]
_LEFT_OUT, _LEFT_OUT_MOST = 1.0, 30.0  # seconds that an address is left out after its first failure, and at most
_PAUSE, _PAUSE_MOST = 0.05, 1.0  # seconds between two rounds over all addresses
_LEAST = 0.25  # seconds that one more attempt is worth
_CONNECT = 3.0  # seconds; more and a dead machine would eat the time of the others
_KEPT = 64  # idle connections
_IDLE = 15.0  # seconds that an idle connection is kept


class Credential(Protocol):
    """Says who asks."""

    def authorization(self, *, method: str, target: bytes, body: bytes) -> str:
        """Return the Authorization header; `target` is the path with its query as it is sent."""


@dataclass(frozen=True)
class Token:
    """A person's token."""

    secret: str = field(repr=False)

    def authorization(self, *, method: str, target: bytes, body: bytes) -> str:  # noqa: ARG002
        """The same for every request."""
        return f"Token {self.secret}"


@dataclass(frozen=True)
class AppKey:
    """An application's key; signs every request with HMAC-SHA256, as docs/security.md of mqadmin says."""

    key: str
    secret: str = field(repr=False)

    def authorization(self, *, method: str, target: bytes, body: bytes) -> str:
        """Sign now, with a new nonce."""
        timestamp, nonce = str(int(time.time())), secrets.token_hex(16)
        return f"App key={self.key}, timestamp={timestamp}, nonce={nonce}, signature=" + sign(
            self.secret, method=method, target=target, timestamp=timestamp, nonce=nonce, body=body
        )


def sign(secret: str, *, method: str, target: bytes, timestamp: str, nonce: str, body: bytes) -> str:
    """Return the signature of a request in hex."""
    head = f"MQADMIN-HMAC-SHA256\n{method.upper()}\n".encode() + target
    text = head + f"\n{timestamp}\n{nonce}\n{hashlib.sha256(body).hexdigest()}".encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


@dataclass(eq=False)
class _Address:
    url: str
    weight: float
    failures: int = 0
    until: float = 0.0  # on the monotonic clock: left out before that
    current: float = 0.0  # of round robin

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        self.scheme, self.host, self.port = parts.scheme, host.encode("ascii" if host.isascii() else "idna"), parts.port
        self.prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~").encode()
        named = self.host if b":" not in self.host else b"[%s]" % self.host
        standard = {"http": 80, "https": 443}[self.scheme]
        self.netloc = named if self.port in {None, standard} else b"%s:%d" % (named, self.port or standard)  # the Host header

    def at(self, path: bytes) -> httpcore.URL:
        """Return the address of a path with its query, the prefix included."""
        return httpcore.URL(scheme=self.scheme.encode(), host=self.host, port=self.port, target=path)


class Addresses:
    """Which address the next request goes to. Thread-safe.

    `random` and `round_robin` by weight; `hash` keeps what has one key at one address, and moves only the keys of one that fails
    (rendezvous hashing). One that fails is left out for a second, then for twice as long, at most half a minute; when all fail, the one
    that was left out first is tried.
    """

    def __init__(self, addresses: Mapping[str, float], balance: Balance = "random") -> None:
        if balance not in {"random", "round_robin", "hash"}:
            raise ValueError("balance is random, round_robin or hash")
        if not addresses:
            raise ValueError("give at least one address of mqadmin")
        self._all = [_Address(_base(url), _weight(weight, url)) for url, weight in addresses.items()]
        self._balance = balance
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def renew(self) -> None:
        """Begin anew in a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def choose(self, key: str | None = None, *, tried: Iterable[_Address] = ()) -> _Address | None:
        """Return the next address that was not tried; None if all were."""
        with self._lock:
            left = [one for one in self._all if one not in tried]
            if not left:
                return None
            now = time.monotonic()
            fit = [one for one in left if one.until <= now] or [min(left, key=lambda one: one.until)]
            if len(fit) == 1:
                return fit[0]
            if self._balance == "hash" and key is not None:
                return max(fit, key=lambda one: one.weight / -math.log(_share(key, one.url)))
            if self._balance == "round_robin":
                for one in fit:
                    one.current += one.weight
                found = max(fit, key=lambda one: one.current)
                found.current -= sum(one.weight for one in fit)
                return found
            return random.choices(fit, [one.weight for one in fit])[0]  # noqa: S311 - balance, not secrecy

    def failed(self, address: _Address) -> None:
        """Leave it out for a while."""
        with self._lock:
            address.failures += 1
            address.until = time.monotonic() + min(_LEFT_OUT_MOST, _LEFT_OUT * 2 ** min(address.failures - 1, 10))

    def answered(self, address: _Address) -> None:
        """It works."""
        if address.failures:
            with self._lock:
                address.failures, address.until = 0, 0.0


class ControlPlane:
    """mqadmin over HTTP. Thread-safe; after a fork the child has connections of its own.

    `urls` is one address, several separated by commas with weights if wanted (`http://a:8080;weight=3, http://b:8080`), a list, or a
    mapping of addresses to weights. `ca` is a PEM file, for `https` with a CA of one's own. Proxies of the environment are not used.
    """

    def __init__(
        self,
        urls: str | Sequence[str] | Mapping[str, float],
        *,
        credential: Credential | None = None,
        balance: Balance = "random",
        timeout: float = 10.0,
        ca: str = "",
    ) -> None:
        self.addresses = Addresses(addresses_of(urls), balance)
        self.credential, self.timeout = credential, timeout
        self._ca = ca
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._transport: httpcore.ConnectionPool | None = None
        self._closed = False

    def get(self, path: str, *, params: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Read; repeated until there is an answer or the time is over. Otherwise like `ask`."""
        return self.ask("GET", path, params=params, timeout=timeout, repeat=True)[0]

    def post(self, path: str, body: Any = None, *, timeout: float | None = None, key: str | None = None, repeat: bool = False) -> Any:
        """Write; otherwise like `ask`."""
        return self.ask("POST", path, body, timeout=timeout, key=key, repeat=repeat)[0]

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        key: str | None = None,
        repeat: bool = False,
    ) -> tuple[Any, Mapping[str, str]]:
        """Send a request to `/api/v1/` + `path` (percent-encoded) and return the JSON of the answer (None without one) and its headers.

        Names of headers that are returned are in small letters.
        An address that cannot be reached is left out and the next one tried, within `timeout` seconds in all. What may have been received
        is sent again only with `repeat`: then it must do no harm twice. `key` chooses the address if the balance is `hash`.

        Raises Busy (429), ProblemError, UnreachableError; `unknown` of the last one tells that it may have been done.
        """
        if self._pid != os.getpid():  # the locks may have been held at the moment of the fork; the sockets are the parent's
            self._lock, self._pid, self._transport = threading.Lock(), os.getpid(), None
            self.addresses.renew()
        raw = b"" if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        timeout = self.timeout if timeout is None else timeout
        ends = time.monotonic() + timeout
        sent_headers = {"User-Agent": SDK, "Accept": "application/json", **(headers or {})}
        if raw or method == "POST":
            sent_headers["Content-Type"] = "application/json"
        target = f"/api/v1/{path}" + (f"?{urlencode(params)}" if params else "")
        tried: list[_Address] = []
        pause, error = _PAUSE, None
        while True:
            address = self.addresses.choose(key, tried=tried)
            if address is None:  # all were tried: once more, a little later
                nap, left = pause * random.uniform(0.5, 1.5), ends - time.monotonic()  # noqa: S311
                if error is not None and left < nap + min(nap, _LEAST):  # what has no time would only hide why the last one failed
                    raise error
                time.sleep(min(nap, max(0.0, left)))
                pause = min(_PAUSE_MOST, pause * 2)
                tried.clear()
                continue
            tried.append(address)
            left = max(0.001, ends - time.monotonic())
            # A process that hangs must leave time for another one to answer.
            longest = min(left, max(1.0, timeout / 3)) if repeat else left
            answer, error, again = self._attempt(address, method, target, raw, headers=sent_headers, longest=longest)
            if error is None:
                return answer
            if not (again is True or (again is None and repeat)) or ends - time.monotonic() <= _PAUSE:
                raise error

    def close(self) -> None:
        """Close the connections. Requests that wait for an answer get it or fail."""
        self._closed = True
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None and self._pid == os.getpid():
            transport.close()

    def _attempt(
        self, address: _Address, method: str, target: str, raw: bytes, *, headers: Mapping[str, str], longest: float
    ) -> tuple[tuple[Any, Mapping[str, str]], MqadminError | None, bool | None]:
        """Return the document and headers, or an error and whether it may be tried again: True, False, or None if that does no harm."""
        nothing: tuple[Any, Mapping[str, str]] = (None, {})
        path = address.prefix + target.encode("ascii")
        lines = [(b"Host", address.netloc), (b"Content-Length", b"%d" % len(raw))]
        lines += [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]
        if self.credential is not None:
            said = self.credential.authorization(method=method, target=path, body=raw)
            lines.append((b"Authorization", said.encode("ascii")))
        times = {"connect": min(longest, _CONNECT), "read": longest, "write": longest, "pool": longest}
        request = httpcore.Request(method, address.at(path), headers=lines, content=raw, extensions={"timeout": times})
        try:
            response = self._http().handle_request(request)
            try:
                content = response.read()
            finally:
                response.close()
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:  # nothing was sent
            self.addresses.failed(address)
            return nothing, UnreachableError(f"mqadmin was not reached at {address.url}: {error or 'no answer in time'}"), True
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            self.addresses.failed(address)
            what = f"mqadmin at {address.url} gave no answer: {type(error).__name__} {error}".rstrip()
            return nothing, UnreachableError(what, unknown=True), None
        answered = {name.decode("ascii", "replace").lower(): value.decode("utf-8", "replace") for name, value in response.headers}
        status = response.status
        if 200 <= status < 300:
            try:
                document = json.loads(content) if content else None
            except ValueError:  # something between here and mqadmin answers for it
                self.addresses.failed(address)
                return nothing, UnreachableError(f"{address.url} answered {status} with what is not of mqadmin", unknown=True), None
            self.addresses.answered(address)
            return (document, answered), None, False
        refusal, ours = _refusal(status, content, answered)
        if status >= 502 and not ours:  # a proxy that does not reach mqadmin
            self.addresses.failed(address)
        else:
            self.addresses.answered(address)
        return nothing, refusal, None if isinstance(refusal, UnavailableError) else False

    def _http(self) -> httpcore.ConnectionPool:
        """Return the connections of this process."""
        found = self._transport
        if found is None:
            with self._lock:
                if self._closed:
                    raise MqadminError("the client is closed")
                found = self._transport
                if found is None:
                    found = self._transport = httpcore.ConnectionPool(
                        ssl_context=self._tls(), max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_IDLE
                    )
        return found

    def _tls(self) -> ssl.SSLContext | None:
        if all(one.scheme == "http" for one in self.addresses._all):  # noqa: SLF001
            return None  # to load all public CAs takes a while
        import httpx  # for the public CAs

        return ssl.create_default_context(cafile=self._ca) if self._ca else httpx.create_ssl_context()


def addresses_of(urls: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Read addresses with their weights; 1 is the default. Raises ValueError."""
    if isinstance(urls, Mapping):
        return dict(urls)
    found: dict[str, float] = {}
    for text in urls.split(",") if isinstance(urls, str) else urls:
        url, *options = (part.strip() for part in text.split(";"))
        if not url:
            continue
        weight = 1.0
        for option in options:
            match = re.fullmatch(r"weight\s*=\s*([0-9.]+)", option)
            if match is None:
                raise ValueError(f"{option!r}: an address is followed by ;weight=number, or nothing")
            weight = float(match[1])
        found[url] = weight
    return found


def _base(text: str) -> str:
    try:
        parts = urlsplit(text)
        fit = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:  # the port is none
        fit = False
    if not fit:
        raise ValueError(f"{text!r} is no address of mqadmin, such as https://mqadmin.example.com")
    if parts.username or parts.password:
        raise ValueError("credentials do not stand in the address: give an application's key")
    return text


def _weight(weight: float, url: str) -> float:
    if not 0 < weight < math.inf:
        raise ValueError(f"{url}: a weight is a number above 0")
    return float(weight)


def _share(key: str, url: str) -> float:
    digest = hashlib.blake2b(f"{url}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**64 + 2)


def _refusal(status: int, content: bytes, headers: Mapping[str, str]) -> tuple[MqadminError, bool]:
    """The error of an answer that is no success, and whether it is mqadmin's own."""
    document: Any = None
    if "json" in headers.get("content-type", ""):
        try:
            document = json.loads(content)
        except ValueError:
            document = None
    ours = isinstance(document, dict) and "code" in document
    if not ours:
        said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", content[:2000].decode("utf-8", "replace"))).strip()[:200]
        where = f" It points to {headers['location']}." if "location" in headers else ""
        document = {"code": "not_mqadmin", "detail": f"Something else than mqadmin answered {status}: {said!r}.{where}"}
    wait = headers.get("retry-after", "")
    return of_problem(status, document, float(wait) if wait.isdigit() else None), ours
