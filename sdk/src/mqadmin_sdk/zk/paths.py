"""Where things stand in ZooKeeper, and how an instance's node is named."""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

CLUSTERS = "/zms/cluster"
TOPICS = "/zms/topic"
GROUPS = "/zms/consumergroup"
SHADOW = "/zpt"
SHADOW_INSTANCES = "/zpt-instances"
OWNER = "/mqadmin/owner"

DEFAULT_PRODUCER = "DEFAULT_PRODUCER"
DEFAULT_CONSUMER = "DEFAULT_CONSUMER"
SEPARATOR = "||"
Role = Literal["producer", "consumer", "shadow"]
_SHADOW_NODE = re.compile(r"(?P<ip>.+)@-@(?P<pid>\d+)")


def cluster(name: str) -> str:
    """Return the node of a cluster."""
    return f"{CLUSTERS}/{name}"


def topic(name: str) -> str:
    """Return the node of a topic."""
    return f"{TOPICS}/{name}"


def group(name: str) -> str:
    """Return the node of a consumer group."""
    return f"{GROUPS}/{name}"


def followed(kind: Literal["topic", "group"], name: str) -> str:
    """Return the node of what an application names. Raises ValueError: another node is not reached by a name."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise ValueError(f"{name!r} is not the name of a {kind}")
    return topic(name) if kind == "topic" else group(name)


def shadow_app(app: str) -> str:
    """Return the subtree with the shadow groups of an application."""
    return f"{SHADOW}/{app}"


def shadow(app: str, task: str, name: str) -> str:
    """Return the node of a shadow group."""
    return f"{SHADOW}/{app}/{task}/{name}"


def shadow_instances(app: str, task: str, name: str) -> str:
    """Return the parent of the running consumers of a shadow group."""
    return f"{SHADOW_INSTANCES}/{app}/{task}/{name}"


@dataclass(frozen=True)
class InstanceName:
    """What an instance's node says by its name; a plain ZMS client says nothing more."""

    ip: str
    role: Role
    sdk: str
    registered: str = ""
    random: str = ""
    pid: int | None = None

    def __str__(self) -> str:
        kind = DEFAULT_PRODUCER if self.role == "producer" else DEFAULT_CONSUMER
        parts = [self.ip, kind, self.sdk, self.registered, self.random] if self.registered else [self.ip, kind, self.sdk, self.random]
        return SEPARATOR.join(parts)


def new_instance_name(role: Role, sdk: str, *, ip: str | None = None, now: datetime | None = None) -> str:
    """Name a new instance: address, role, SDK, local time to the millisecond, and a random part that no other instance has."""
    moment = (now or datetime.now()).isoformat(timespec="milliseconds")  # noqa: DTZ005 - the layout of ZMS asks for local time
    sdk = sdk.replace("/", "-")  # a slash would begin another node
    return str(InstanceName(ip=ip or local_ip(), role=role, sdk=sdk, registered=moment, random=secrets.token_hex(4)))


def parse_instance_name(name: str) -> InstanceName | None:
    """Read the name of an instance's node with five parts, or four as old ZMS SDKs write it; None for anything else."""
    parts = name.split(SEPARATOR)
    if len(parts) not in (4, 5) or parts[1] not in (DEFAULT_PRODUCER, DEFAULT_CONSUMER) or not parts[0]:
        return None
    role: Role = "producer" if parts[1] == DEFAULT_PRODUCER else "consumer"
    registered = parts[3] if len(parts) == 5 else ""
    return InstanceName(ip=parts[0], role=role, sdk=parts[2], registered=registered, random=parts[-1])


def new_shadow_instance_name(*, ip: str | None = None, pid: int | None = None) -> str:
    """Name this process as a running shadow consumer."""
    return f"{ip or local_ip()}@-@{os.getpid() if pid is None else pid}"


def parse_shadow_instance_name(name: str) -> InstanceName | None:
    """Read the name of a running shadow consumer, `ip@-@pid`."""
    found = _SHADOW_NODE.fullmatch(name)
    return InstanceName(ip=found["ip"], role="shadow", sdk="", pid=int(found["pid"])) if found else None


def local_ip() -> str:
    """Return the address under which this host is seen from outside, without sending anything; 127.0.0.1 where there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
