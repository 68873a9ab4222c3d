"""How a sharded job lies in ZooKeeper, and the steps that its instances take there: each is one transaction."""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import NodeExistsError

from mqadmin_sdk.registry.leaves import commit, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mqadmin_sdk.zk import Client as ZooKeeper


def average(instances: Sequence[str], shards: int) -> dict[str, list[int]]:
    """Share out shards evenly, in the order of the instances; what is left over goes one by one to the first (ElasticJob's average)."""
    if not instances:
        return {}
    each, over = divmod(shards, len(instances))
    return {
        instance: [*range(number * each, (number + 1) * each), *([each * len(instances) + number] if number < over else [])]
        for number, instance in enumerate(instances)
    }


@dataclass(frozen=True)
class Shard:
    """One shard's nodes as they were read."""

    number: int
    there: bool = False
    version: int = 0
    run: str = ""  # which run is under way, or was when its instance died
    instance: str = ""
    instance_version: int = 0
    running: bool = False  # by an instance that lives

    @property
    def orphaned(self) -> bool:
        """Whether the instance that ran it is gone."""
        return bool(self.run) and not self.running


@dataclass(frozen=True)
class Picture:
    """A job as it was read."""

    instances: list[str] = field(default_factory=list)
    total: int = 0
    necessary: bool = False  # to distribute the shards anew
    shards: list[Shard] = field(default_factory=list)

    def wanted(self) -> dict[int, str]:
        """Who should have which shard; nobody has those beyond the total."""
        found = {shard.number: "" for shard in self.shards}
        found.update({number: instance for instance, numbers in average(self.instances, self.total).items() for number in numbers})
        return found

    def settled(self) -> bool:
        """Whether every shard belongs to whom it should."""
        wanted = self.wanted()
        return (
            not self.necessary
            and all(wanted.get(shard.number) == shard.instance for shard in self.shards)
            and len(self.shards) >= self.total
        )


@dataclass(frozen=True)
class Started:
    """A run that was started: what its end is conditional on, and its fencing token."""

    number: int
    version: int
    token: int
    session: int
    failover: bool


class Layout:
    """The nodes of one job."""

    def __init__(self, path: str) -> None:
        self.base = f"/{path.strip('/')}"
        self.name = self.base.rpartition("/")[2]
        if self.base.count("/") < 2 or not self.name:
            raise ValueError("the path of a job is /namespace/job")
        self.config = f"{self.base}/config"
        self.instances = f"{self.base}/instances"
        self.sharding = f"{self.base}/sharding"
        self.necessary = f"{self.base}/leader/sharding/necessary"

    def read(self, client: ZooKeeper, shards: int) -> Picture:
        """Read all of it; `shards` counts if the configuration says nothing."""
        instances, items = client.multi_children([self.instances, self.sharding])[1]
        config, necessary = client.multi_read([self.config, self.necessary])[1]
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            shards = int(json.loads(config.data if config is not None else b"")["shardingTotalCount"])
        numbers = sorted({int(name) for name in items or () if name.isdigit()} | set(range(shards)))
        paths = [f"{self.sharding}/{number}" for number in numbers]
        nodes, owners = client.multi_read(paths)[1], client.multi_read([f"{path}/instance" for path in paths])[1]
        children = client.multi_children(paths)[1]
        return Picture(
            sorted(instances or ()),
            shards,
            necessary is not None,
            [
                Shard(
                    number,
                    node is not None,
                    node.stat.version if node is not None else 0,
                    _run(node.data) if node is not None else "",
                    owner.data.decode("utf-8", "replace") if owner is not None else "",
                    owner.stat.version if owner is not None else -1,
                    "running" in (names or ()),
                )
                for number, node, owner, names in zip(numbers, nodes, owners, children, strict=True)
            ],
        )

    def distribute(self, client: ZooKeeper, picture: Picture, transaction: Any) -> bool:
        """Give every shard to whom it should belong, all in one transaction, which the leader's latch is checked in.

        False if something has changed meanwhile: a shard that was started, an instance, another leader.
        """
        wanted = picture.wanted()
        client.ensure_path(self.sharding)
        for shard in picture.shards:
            path, data = f"{self.sharding}/{shard.number}", wanted[shard.number].encode()
            if not shard.there:
                transaction.create(path, b"")
            elif shard.run:
                transaction.set_data(path, b"", version=shard.version)  # it was left by one that died, and nobody takes it over
            else:
                transaction.check(path, shard.version)
            if shard.instance_version < 0:
                transaction.create(f"{path}/instance", data)
            else:
                transaction.set_data(f"{path}/instance", data, version=shard.instance_version)
        if picture.necessary:
            transaction.delete(self.necessary)
        return commit(transaction)

    def require(self, client: ZooKeeper) -> None:
        """Say that the shards are to be distributed anew: none is started before."""
        with contextlib.suppress(NodeExistsError):
            client.create(self.necessary, b"", makepath=True)

    def start(self, client: ZooKeeper, number: int, identity: str, run: str, *, failover: bool) -> Started | None:
        """Mark a shard as running here, or None: it belongs to another, it runs elsewhere, or there is nothing to take over."""
        path = f"{self.sharding}/{number}"
        while True:
            session = client.session
            names = ("instance", "running", "failover")
            node, owner, running, taken = client.multi_read([path, *(f"{path}/{name}" for name in names)])[1]
            if node is None or owner is None:
                return None
            if running is not None:
                if running.stat.ephemeralOwner == session and _run(node.data) == run:
                    return Started(number, node.stat.version, running.stat.czxid, session, failover)  # the answer was lost
                return None
            if (not _run(node.data)) if failover else (owner.data.decode("utf-8", "replace") != identity):
                return None
            said = {"running": identity, "run": run, "since": now()}
            transaction = client.transaction()
            if not failover:
                transaction.check(f"{path}/instance", owner.stat.version)
            transaction.set_data(path, json.dumps(said, separators=(",", ":")).encode(), version=node.stat.version)
            transaction.create(f"{path}/running", identity.encode(), ephemeral=True)
            if taken is not None:
                transaction.delete(f"{path}/failover")
            if failover:
                transaction.create(f"{path}/failover", identity.encode(), ephemeral=True)
            commit(transaction)  # the next look tells who was first

    def end(self, client: ZooKeeper, started: Started) -> bool:
        """Mark a run as ended; False if another instance has taken the shard over."""
        path = f"{self.sharding}/{started.number}"
        while True:
            node, running, failover = client.multi_read([path, f"{path}/running", f"{path}/failover"])[1]
            if node is None or node.stat.version != started.version:
                return node is not None and node.stat.version == started.version + 1 and not node.data  # ended already: the answer was lost
            transaction = client.transaction()
            transaction.set_data(path, b"", version=started.version)
            for name, child in (("running", running), ("failover", failover)):
                if child is not None and child.stat.ephemeralOwner == started.session:
                    transaction.delete(f"{path}/{name}")
            if commit(transaction):
                return True


def new_run() -> str:
    """Name a run."""
    return uuid.uuid4().hex


def _run(data: bytes) -> str:
    try:
        said = json.loads(data or b"{}")
    except ValueError:
        return ""
    return str(said.get("run") or said.get("running") or "") if isinstance(said, dict) else ""
