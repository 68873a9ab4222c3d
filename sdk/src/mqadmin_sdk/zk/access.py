"""How a client proves to ZooKeeper who it is, and makes sure whom it talks to: digest credentials and TLS."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kazoo.handlers.threading import SequentialThreadingHandler

if TYPE_CHECKING:
    from collections.abc import Mapping


class AccessError(ValueError):
    """Credentials or certificates that cannot be used as they are given."""


class _Secret(str):
    """Text that shows itself to nobody: kazoo logs its requests, credentials among them, at level DEBUG."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'••••••••'"


@dataclass(frozen=True)
class Access:
    """What a connection needs besides the address; without any of it, it is open and unencrypted.

    `auth` is `user:password`, several separated by commas or blanks: all are presented. `ca`, a PEM file, switches TLS on: the server's
    certificate must come from it and name the host as the connection string does. `certificate` and `key`, PEM files too, are shown to a
    server that asks for them. Raises AccessError.
    """

    auth: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if any(not name or not password for name, _, password in (one.partition(":") for one in self.credentials)):
            raise AccessError("Credentials for ZooKeeper are user:password; several are separated by commas.")
        if bool(self.certificate) != bool(self.key):
            raise AccessError("A certificate for ZooKeeper needs its key, and the key its certificate.")
        if self.certificate and not self.ca:
            raise AccessError("A certificate for ZooKeeper is shown over TLS, which takes the file of the CA.")
        if self.ca:
            self.context()

    def __repr__(self) -> str:
        return f"Access(auth={'••••••••' if self.auth else ''!r}, ca={self.ca!r}, certificate={self.certificate!r}, key={self.key!r})"

    @classmethod
    def from_env(cls, prefix: str = "MQADMIN_ZOOKEEPER_", environ: Mapping[str, str] = os.environ) -> Access:
        """Read <prefix>AUTH (or the file that <prefix>AUTH_FILE names), <prefix>TLS_CA, <prefix>TLS_CERT and <prefix>TLS_KEY."""
        auth, file = environ.get(f"{prefix}AUTH", ""), environ.get(f"{prefix}AUTH_FILE", "")
        if file:
            try:
                auth = Path(file).read_text("utf-8")
            except OSError as error:
                raise AccessError(f"{prefix}AUTH_FILE: {file}: {error.strerror}") from error
        ca, certificate, key = (environ.get(f"{prefix}TLS_{name}", "") for name in ("CA", "CERT", "KEY"))
        return cls(auth=auth.strip(), ca=ca, certificate=certificate, key=key)

    @property
    def credentials(self) -> list[str]:
        """Each `user:password`."""
        return self.auth.replace(",", " ").split()

    def context(self) -> ssl.SSLContext | None:
        """The rules of TLS; None without it."""
        if not self.ca:
            return None
        file = self.ca
        try:
            context = ssl.create_default_context(cafile=self.ca)  # this CA and no other
            if self.certificate:
                file = self.certificate
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise AccessError(f"TLS to ZooKeeper: {file}: {error.strerror or error}") from error
        return context

    def options(self) -> dict[str, Any]:
        """What a kazoo client takes."""
        found: dict[str, Any] = {"auth_data": [("digest", _Secret(one)) for one in self.credentials]} if self.auth else {}
        context = self.context()
        return found if context is None else {**found, "handler": _TlsHandler(context)}


class _TlsHandler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """Kazoo's handler with TLS by our rules: its own would trust every public CA besides ours."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    def create_connection(self, address: tuple[str, int], hostname: str | None = None, timeout: float | None = None, **_: Any) -> Any:
        """Connect, and shake hands within the same time-out."""
        plain = socket.create_connection(address, timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._context.wrap_socket(plain, server_hostname=hostname)
        except BaseException:
            plain.close()
            raise
