"""A job whose shards are shared out among processes: ElasticJob's layout, shares and failover."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mqadmin_sdk.registry import keeper as keepers
from mqadmin_sdk.registry.contract import Closing, RegistryClosedError, RegistryUnavailableError
from mqadmin_sdk.registry.keeper import DISCONNECTED
from mqadmin_sdk.registry.leader import Candidate, NotLeadingError, application
from mqadmin_sdk.registry.leaves import Leaves, introduction
from mqadmin_sdk.registry.nodes import Nodes, Tree
from mqadmin_sdk.registry.shards import Layout, Picture, new_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.registry.shards import Started
    from mqadmin_sdk.zk import Access, TreeEvent
    from mqadmin_sdk.zk import Client as ZooKeeper

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardRun:
    """What the function of a job is called with."""

    job: str
    shard: int
    total: int
    token: int  # the fencing token: a later run of the same shard has a larger one
    failover: bool  # whether an instance that died had begun it
    _held: Callable[[], bool] = field(repr=False, compare=False)

    @property
    def held(self) -> bool:
        """Whether the shard is still this process's, as far as it knows: false when the connection or the session is lost."""
        return self._held()


class ShardedJob(Closing):
    """One instance of a job, until it is closed; a context manager, thread-safe.

    `path` is `/namespace/job`; `run` is called for each shard on a thread of the job's own, one after another, whenever `trigger` is
    called: call that on every instance when the job is due. Shards are shared out evenly (`average`), anew when an instance comes or
    goes, by the leader among the instances, once no shard runs. If an instance dies while it runs a shard and `failover` is on, an idle
    one runs it. `shards` of the instance that started last counts. `app` is the application's name, by default that of MQADMIN_APP: with
    it, mqadmin shows the job to the application's people.
    """

    def __init__(
        self,
        zookeeper: str,
        path: str,
        run: Callable[[ShardRun], object],
        *,
        shards: int,
        failover: bool = True,
        instance: str | None = None,
        app: str | None = None,
        session_timeout: float = 10.0,
        access: Access | None = None,
    ) -> None:
        if shards < 1:
            raise ValueError("a job has one shard at least")
        if instance is not None and ("/" in instance or not instance):
            raise ValueError("the name of an instance has no slash")
        layout = Layout(path)
        self._keeper = keepers.acquire(zookeeper, session_timeout=session_timeout, access=access)
        self._candidate = Candidate(self._keeper, layout.base, None)
        self.instance = instance or self._candidate.identity
        self._candidate.identity = self.instance
        self._nodes, self._leaves = Nodes(), Leaves(self._keeper.post)
        host = self.instance.partition("@-@")[0]
        said = {"jobName": layout.name, "shardingTotalCount": shards, "failover": failover}
        self._nodes.add(layout.config, json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
        self._nodes.add(f"{layout.base}/servers/{host}", b"")
        self._leaves.add(f"{layout.instances}/{self.instance}", introduction(host, application(app)), ephemeral=True)
        self._coordination = _Coordination(self._keeper, layout, self._candidate, run, shards=shards, failover=failover)
        for part in (self._nodes, self._leaves, self._candidate, self._coordination):
            self._keeper.add(part)

    @property
    def is_leader(self) -> bool:
        """Whether this instance shares out the shards."""
        return self._candidate.leads()

    @property
    def assignment(self) -> dict[str, list[int]]:
        """Which instance has which shards, as far as this one knows."""
        found: dict[str, list[int]] = {}
        for shard in self._coordination.picture.shards:
            if shard.instance:
                found.setdefault(shard.instance, []).append(shard.number)
        return found

    def trigger(self, timeout: float | None = None) -> list[int]:
        """Run this instance's shards, once the shares are settled, and return those that were run.

        Raises RegistryUnavailableError after `timeout` seconds; what has begun goes on. RegistryClosedError when it is closed.
        """
        done: Future[list[int]] = Future()
        self._keeper.call(lambda: self._coordination.ask(done))
        try:
            return done.result(timeout)
        except FutureTimeout as error:
            raise RegistryUnavailableError(f"the shards were not run within {timeout} s") from error

    def close(self, timeout: float = 30.0) -> None:
        """Be an instance no more: begin no shard, wait `timeout` seconds for the one that runs, say goodbye."""
        self._coordination.finish(timeout)
        for part in (self._coordination, self._leaves, self._nodes, self._candidate):
            self._keeper.remove(part)
        keepers.release(self._keeper)


class _Coordination(Tree):
    """The job as a part of a keeper, and the thread that runs the shards."""

    def __init__(
        self,
        keeper: keepers.Keeper,
        layout: Layout,
        candidate: Candidate,
        run: Callable[[ShardRun], object],
        *,
        shards: int,
        failover: bool,
    ) -> None:
        super().__init__(keeper, layout.base)
        self._layout, self._candidate, self._call = layout, candidate, run
        self._shards, self._failover = shards, failover
        self.picture = Picture()
        self._asked: list[Future[list[int]]] = []
        self._led = False
        self._closing = False
        self._work: queue.SimpleQueue[tuple[list[int], Future[list[int]] | None] | None] = queue.SimpleQueue()
        self._busy = 0  # entries of the queue that are not through; on the keeper's thread
        self._thread: threading.Thread | None = None

    # --- Part -------------------------------------------------------------------------------------------------------------

    def hears(self, event: TreeEvent) -> bool:
        """Elections are the candidate's."""
        return not event.path.startswith(f"{self._layout.base}/leader/election/")

    def due(self) -> float | None:
        """When something changed, or this instance began to lead."""
        if self._candidate.leads() != self._led:
            return 0.0
        return super().due()

    def catch_up(self, client: ZooKeeper) -> None:
        """Read the job, and do what is this instance's to do."""
        if self._closing:
            return
        if self._candidate.leads() != self._led:
            self._led = not self._led
            self.dirty = True
        super().catch_up(client)

    def read(self, client: ZooKeeper) -> None:
        """Share out what is to be shared out, take over what is orphaned, run what was asked for."""
        self.picture = picture = self._layout.read(client, self._shards)
        if self._led and picture.instances and self._distribute(client, picture):
            self.picture = picture = self._layout.read(client, self._shards)
        if self._failover and not self._busy:
            orphans = [shard.number for shard in picture.shards if shard.orphaned]
            if orphans:
                self._queue(orphans[:1], None)
                return
        if self._asked and picture.settled() and self._candidate.identity in picture.instances:
            own = [shard.number for shard in picture.shards if shard.instance == self._candidate.identity]
            asked, self._asked = self._asked, []
            for done in asked:
                self._queue(own, done)

    def ended(self) -> None:
        """Let nobody wait for it any more."""
        self._closing = True
        self._work.put(None)
        for done in self._asked:
            done.set_exception(RegistryClosedError("the job was closed"))
        self._asked = []

    def forked(self) -> None:
        """The parent is the instance."""
        super().forked()
        self._closing, self._asked, self._busy, self._thread, self._work = True, [], 0, None, queue.SimpleQueue()

    # --- the leader's part ------------------------------------------------------------------------------------------------

    def _distribute(self, client: ZooKeeper, picture: Picture) -> bool:
        """Share out the shards if that is due and none runs; True if something was written."""
        if picture.settled():
            return False
        if not picture.necessary:
            self._layout.require(client)
            return True
        if any(shard.running or (shard.run and self._failover) for shard in picture.shards):
            return False  # its end is heard
        try:
            transaction = self._candidate.transaction(client)
        except NotLeadingError:
            return False
        self.keeper.post(self.touch)
        return self._layout.distribute(client, picture, transaction)

    # --- running ----------------------------------------------------------------------------------------------------------

    def ask(self, done: Future[list[int]]) -> None:
        """Run this instance's shards."""
        if self._closing:
            raise RegistryClosedError("the job is closed")
        self._asked.append(done)
        self.touch()

    def finish(self, timeout: float) -> None:
        """Begin nothing more, and wait for what runs; on any thread."""
        self._closing = True
        self._work.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _queue(self, numbers: list[int], done: Future[list[int]] | None) -> None:
        self._busy += 1
        self._work.put((numbers, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_all, name="mqadmin-job", daemon=True)
            self._thread.start()

    def _run_all(self) -> None:
        while (item := self._work.get()) is not None:
            numbers, done = item
            ran = []
            for number in numbers:
                if self._closing:
                    break
                try:
                    if self._run(number, failover=done is None):
                        ran.append(number)
                except RegistryClosedError:
                    break
                except Exception:
                    log.exception("Shard %d of %s could not be run", number, self._layout.name)
            if done is not None:
                done.set_result(ran)
            self.keeper.post(self._through)

    def _through(self) -> None:
        self._busy -= 1
        self.touch()

    def _run(self, number: int, *, failover: bool) -> bool:
        layout, identity, run = self._layout, self._candidate.identity, new_run()
        started = self._insist(lambda client: layout.start(client, number, identity, run, failover=failover))
        if started is None:
            if not failover:
                log.warning("Shard %d of %s runs elsewhere, or belongs to another instance by now: it is left out", number, layout.name)
            return False
        try:
            self._call(
                ShardRun(layout.name, number, self.picture.total, started.token, failover, _held=lambda: self._holds(started)),
            )
        except Exception:
            log.exception("Shard %d of %s failed", number, layout.name)
        if not self._insist(lambda client: layout.end(client, started)):
            log.warning("Shard %d of %s was taken over by another instance while it ran here", number, layout.name)
        return True

    def _insist(self, step: Callable[[ZooKeeper], T]) -> T:
        """Take a step whatever becomes of the connection, until the keeper is closed."""
        while True:
            try:
                return step(self.keeper.reached(1.0))
            except DISCONNECTED:
                time.sleep(0.05)
            except RegistryUnavailableError:
                time.sleep(0.2)

    def _holds(self, started: Started) -> bool:
        client = self.keeper.client
        return bool(client.connected) and client.session == started.session
