"""ZooKeeper's servers as system checks look at them: where they are, and how far their clock is from ours."""

import time
import uuid

from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.hosts import collect_hosts

from mqadmin_sdk.zk import Client


def servers(hosts: str) -> list[tuple[str, int]]:
    """Host and port of each server of a connection string, without its chroot."""
    found, _chroot = collect_hosts(hosts)
    return [(str(host), int(port)) for host, port in found]


def skew(hosts: str, timeout: float = 5.0) -> tuple[float, float] | None:
    """Seconds that ZooKeeper's clock is ahead of ours, and how exactly that is known; None if no node can be made.

    It writes its time on every node: one is made beside the trees that SDKs read, ephemeral, and taken away at once.
    """
    client = Client(hosts, timeout=timeout)
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
