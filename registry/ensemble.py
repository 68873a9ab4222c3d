"""ZooKeeper's servers: how we connect, where they are, and how far their clock is from ours."""

import contextlib
import socket
import time
import uuid

from django.conf import settings
from django.utils.translation import gettext as _
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.hosts import collect_hosts

from core.errors import Problem
from mqadmin_sdk.zk import Access, Client


def access() -> Access:
    """Our credentials and certificates, from the settings. Raises AccessError, a ValueError."""
    return Access(
        auth=settings.ZOOKEEPER_AUTH,
        ca=settings.ZOOKEEPER_TLS_CA,
        certificate=settings.ZOOKEEPER_TLS_CERT,
        key=settings.ZOOKEEPER_TLS_KEY,
    )


def connect(hosts: str, *, timeout: float) -> Client:
    """A client of ours, not yet started. Whatever of the server touches ZooKeeper gets it here."""
    return Client(hosts, timeout=timeout, access=access())


def away(why: str) -> Problem:
    """The problem of a look into ZooKeeper that comes to nothing."""
    return Problem(
        "zookeeper_away",
        _("ZooKeeper does not answer: {why}.").format(why=why),
        status=503,
        hint=_("What mqadmin wants there stands among the publications; ask again when ZooKeeper is back."),
        headers={"Retry-After": "2"},
    )


def ask(host: str, port: int, word: bytes, timeout: float = 3.0) -> str:
    """The answer to one of the four-letter words, over TLS if we use it. Raises OSError."""
    context, answer = access().context(), b""
    with socket.create_connection((host, port), timeout) as connection, contextlib.ExitStack() as stack:
        stream = stack.enter_context(context.wrap_socket(connection, server_hostname=host)) if context else connection
        stream.sendall(word)
        while chunk := stream.recv(4096):
            answer += chunk
    return answer.decode("utf-8", "replace")


def servers(hosts: str) -> list[tuple[str, int]]:
    """Host and port of each server of a connection string, without its chroot."""
    found, _chroot = collect_hosts(hosts)
    return [(str(host), int(port)) for host, port in found]


def skew(hosts: str, timeout: float = 5.0) -> tuple[float, float] | None:
    """Seconds that ZooKeeper's clock is ahead of ours, and how exactly that is known; None if no node can be made.

    It writes its time on every node: one is made beside the trees that SDKs read, ephemeral, and taken away at once.
    """
    client = connect(hosts, timeout=timeout)
    try:
        client.start(timeout=timeout)
        path, began = f"/mqadmin-clock-{uuid.uuid4().hex}", time.time()
        client.create(path, b"", ephemeral=True)
        ended = time.time()
        stat = client.exists(path)
        client.delete(path)
    except (KazooException, KazooTimeoutError):
        return None
    finally:
        client.stop()
        client.close()
    return None if stat is None else (stat.ctime / 1000 - (began + ended) / 2, (ended - began) / 2)
