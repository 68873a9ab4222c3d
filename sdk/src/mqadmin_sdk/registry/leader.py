"""One leader among processes: Curator's leader latch, in ElasticJob's layout, with a fencing token."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from kazoo.exceptions import NoNodeError

from mqadmin_sdk.registry import keeper as keepers
from mqadmin_sdk.registry.contract import Closing
from mqadmin_sdk.registry.leaves import Leaves, commit, introduction, withdraw
from mqadmin_sdk.registry.nodes import Tree
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqadmin_sdk.zk import Access
    from mqadmin_sdk.zk import Client as ZooKeeper

log = logging.getLogger(__name__)

#: Of the session time-out: how long a leader believes what the servers confirmed, and how often it asks. The rest is for an ensemble, whose
#: leader learns of a session's sign of life by up to half a tick later than the server that the client talks to.
BELIEF: Final = 2 / 3
ASKING: Final = 1 / 4


class NotLeadingError(Exception):
    """This process does not lead, or does not know any more whether it does."""


class LeaderLatch(Closing):
    """A candidate for the leadership of `path`, until it is closed; a context manager, thread-safe.

    `zookeeper` is `host:port[,host:port…][/chroot]`, `path` such as `/jobs/settlement`; nodes stand below `<path>/leader/election`.
    Candidates lead in the order in which they came. `on_change(leading)` is called on a thread of the registry's own, one call after
    another. After a fork the child is no candidate. `app` is the application's name, by default that of MQADMIN_APP: with it, mqadmin
    shows the latch to the application's people.

    Two processes never believe at one moment that they lead: a leader believes it for two thirds of its session time-out after the
    servers last confirmed it, counted by the monotonic clock, and at once no more when its connection is lost. What it *writes* may
    still arrive later, so let the writes carry `token`, or go through `transaction`.
    """

    def __init__(
        self,
        zookeeper: str,
        path: str,
        *,
        on_change: Callable[[bool], object] | None = None,
        app: str | None = None,
        session_timeout: float = 10.0,
        access: Access | None = None,
    ) -> None:
        self._keeper = keepers.acquire(zookeeper, session_timeout=session_timeout, access=access)
        self._candidate = Candidate(self._keeper, path, on_change)
        self._leaves = Leaves(self._keeper.post)
        if app := application(app):
            # The latch's own nodes are to the byte what Curator's and ElasticJob's readers know.
            identity = self._candidate.identity
            host = identity.partition("@-@")[0]
            self._leaves.add(f"/{path.strip('/')}/leader/candidates/{identity}", introduction(host, app), ephemeral=True)
        self._keeper.add(self._leaves)
        self._keeper.add(self._candidate)

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now."""
        return self._candidate.leads()

    @property
    def token(self) -> int:
        """The fencing token: a later leader's is larger. Whoever takes the leader's writes refuses those with a smaller one than the last.

        Raises NotLeadingError.
        """
        return self._candidate.require()[1]

    @property
    def leader(self) -> str | None:
        """Who leads, `ip@-@pid`, as far as this process knows; None while nobody does."""
        return self._candidate.leader

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this process leads; False if it does not after `timeout` seconds, or the latch was closed."""
        return self._candidate.wait(timeout)

    def transaction(self) -> Any:
        """Return a kazoo transaction that only succeeds while this leadership stands. Raises NotLeadingError.

        Its `commit()` returns exceptions among the results when it came too late.
        """
        return self._candidate.transaction(self._keeper.client)

    def close(self) -> None:
        """Be no candidate any more; another leads at once."""
        self._candidate.stop()
        self._keeper.remove(self._candidate)
        self._keeper.remove(self._leaves)
        keepers.release(self._keeper)


class Candidate(Tree):
    """The latch as a part of a keeper."""

    def __init__(self, keeper: keepers.Keeper, path: str, on_change: Callable[[bool], object] | None) -> None:
        if not path.strip("/"):
            raise ValueError("the path of a latch is /namespace/name")
        self._base = f"/{path.strip('/')}/leader/election"
        super().__init__(keeper, self._base)
        self._on_change = on_change
        self.identity = f"{paths.local_ip()}@-@{os.getpid()}"
        self.leader: str | None = None
        self.closed = False
        self._prefix = f"_c_{uuid.uuid4()}-latch-"
        self._node: str | None = None
        self._session = 0
        self._token = 0
        self._version = 0  # of the node
        self._leading = self._told = False
        self._ask_at: float | None = None
        # Written on kazoo's thread too:
        self._believed = threading.Condition()
        self._until = 0.0  # the monotonic clock
        self._losses = 0  # of connections

    # --- for any thread ---------------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether the servers' confirmation still counts."""
        return time.monotonic() < self._until and not self.closed

    def require(self) -> tuple[str, int]:
        """Return the latch's node and the token. Raises NotLeadingError."""
        node, token = self._node, self._token
        if not self.leads() or node is None:
            raise NotLeadingError("this process does not lead")
        return node, token

    def wait(self, timeout: float | None) -> bool:
        """Wait for the leadership."""
        with self._believed:
            self._believed.wait_for(lambda: self.leads() or self.closed or self.keeper.closed, timeout)
        return self.leads()

    def transaction(self, client: ZooKeeper) -> Any:
        """Return a transaction that checks the latch's node first."""
        node, _ = self.require()
        transaction = client.transaction()
        transaction.check(node, self._version)
        return transaction

    def stop(self) -> None:
        """Lead no more, from this moment on."""
        self.closed = True
        self._disbelieve()

    # --- Part -------------------------------------------------------------------------------------------------------------

    def suspended(self) -> None:
        """Kazoo's connection thread: nobody knows how long the session lives on."""
        self._losses += 1
        self._disbelieve()
        self.keeper.post(lambda: self._tell(leading=False))

    def ended(self) -> None:
        """Let nobody wait for it any more."""
        self.stop()

    def forked(self) -> None:
        """The parent is the candidate."""
        self._believed = threading.Condition()
        self._until, self.closed, self._node, self._watches, self.dirty = 0.0, True, None, [], False

    def due(self) -> float | None:
        """When to ask again."""
        if self.closed:
            return None
        if self.dirty or self._ask_at is None:
            return 0.0
        return min(self._ask_at, self._until) if self._told else self._ask_at

    def catch_up(self, client: ZooKeeper) -> None:
        """Be a candidate, and find out whether it leads."""
        if self.closed:
            return
        if self._ask_at is not None and self._ask_at <= time.monotonic():
            self.dirty = True
        if not self.leads():
            self._tell(leading=False)
        super().catch_up(client)

    def read(self, client: ZooKeeper) -> None:
        """Find out who leads."""
        losses, asked = self._losses, time.monotonic()
        self._ask_at = asked + client.session_timeout * ASKING
        if self._node is None or self._session != client.session or not self._stands(client):
            self._disbelieve()
            if not self._enter(client):
                self.keeper.post(self.touch)
                return
        names = sorted(client.get_children(f"{self._base}/latch"), key=_sequence)
        leading = bool(names) and f"{self._base}/latch/{names[0]}" == self._node
        self._leading = leading
        if leading and not self._confirm(client):
            self._disbelieve()
            self.keeper.post(self.touch)  # the node went meanwhile
            return
        node = client.multi_read([f"{self._base}/instance"])[1][0]
        self.leader = node.data.decode("utf-8", "replace") if node is not None else None
        with self._believed:
            # Belief begins when the question was asked: then, at the latest, the servers heard from this session.
            self._until = asked + client.session_timeout * BELIEF if leading and losses == self._losses and not self.closed else 0.0
            self._believed.notify_all()
        self._tell(leading=self.leads())

    def leave(self, client: ZooKeeper) -> None:
        """Say goodbye: first the name of the leader, then the place in the queue."""
        self.stop()
        self._tell(leading=False)
        super().leave(client)
        if self._leading:
            withdraw(client, f"{self._base}/instance", ephemeral=True)
        if self._node is not None:
            withdraw(client, self._node, ephemeral=True)
            self._node = None

    # --- nodes ------------------------------------------------------------------------------------------------------------

    def _stands(self, client: ZooKeeper) -> bool:
        stat = client.exists(self._node)
        if stat is None or stat.ephemeralOwner != client.session:
            return False
        self._token, self._version = stat.czxid, stat.version
        return True

    def _enter(self, client: ZooKeeper) -> bool:
        """Take a place in the queue; if an answer was lost, the one that was taken then."""
        parent = f"{self._base}/latch"
        self._node, self._session = None, client.session
        try:
            names = client.get_children(parent)
        except NoNodeError:
            client.ensure_path(parent)
            names = []
        for name in names:
            if name.startswith(self._prefix):
                stat = client.exists(f"{parent}/{name}")
                if stat is not None and stat.ephemeralOwner == client.session:
                    self._node = f"{parent}/{name}"
        if self._node is None:
            self._prefix = f"_c_{uuid.uuid4()}-latch-"
            self._node = client.create(f"{parent}/{self._prefix}", self.identity.encode(), ephemeral=True, sequence=True)
        return self._stands(client)

    def _confirm(self, client: ZooKeeper) -> bool:
        """Have a quorum say that the latch's node stands, and write who leads; a read would be one server's word, perhaps an old one."""
        path = f"{self._base}/instance"
        while True:
            stat = client.exists(path)
            transaction = client.transaction()
            transaction.check(self._node, self._version)
            if stat is None or stat.ephemeralOwner != client.session:
                if stat is not None:
                    transaction.delete(path, version=stat.version)
                transaction.create(path, self.identity.encode(), ephemeral=True)
            if commit(transaction):
                return True
            if not self._stands(client):
                return False

    def _disbelieve(self) -> None:
        with self._believed:
            self._until = 0.0
            self._believed.notify_all()

    def _tell(self, *, leading: bool) -> None:
        if leading != self._told:
            self._told = leading
            log.info("%s %s", "Leading" if leading else "Not leading any more:", self._base)
            if self._on_change is not None:
                on_change = self._on_change
                self.keeper.later(lambda: on_change(leading))


def application(name: str | None) -> str:
    """The name of the application: as given, or MQADMIN_APP's; empty: nobody says."""
    return os.environ.get("MQADMIN_APP", "") if name is None else name


def _sequence(name: str) -> str:
    return name.rpartition("-")[2]
