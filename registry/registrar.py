"""The registrar: publishes what is due, watches instances and drift. Any number run at once; none leads, none is missed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import threading
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from kazoo.exceptions import BadVersionError, KazooException, NoAuthError, NodeExistsError, NoNodeError
from kazoo.protocol.states import KazooState

from mqadmin_sdk.zk import ServerTooOldError, paths
from registry import discovering, discovery_records, ensemble, protection
from registry.models import HEARTBEAT_LIMIT, Deployment, Publication, RegistrarHeartbeat
from registry.observing import WATCHED, Observer, forget_old
from registry.publishing import AWAY, DISCONNECTED, Publisher
from registry.services import CHANNEL, sweeps

if TYPE_CHECKING:
    from collections.abc import Callable

logger = structlog.get_logger(__name__)

SWEEP = 1.0  # seconds; finds work although no notification came
FRESH = 0.3  # seconds for which a new row is left to the registrar that prefers its path
BEAT = 2.0
FORGET = 600.0
_DATABASE_GONE = (DatabaseError, InterfaceError, psycopg.Error)


class RefusedError(Exception):
    """This ZooKeeper must not be written by this deployment, or cannot be."""


class Registrar:
    """One registrar process. `run` returns after `stop`, which signal handlers may call."""

    def __init__(self, *, hosts: str, session_timeout: float, take_over: bool = False) -> None:
        self.id = uuid.uuid4()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._zookeeper = ensemble.connect(hosts, timeout=session_timeout)
        self._zookeeper.add_listener(self._on_state)
        self._protection = protection.from_settings()
        self._keeper = protection.Keeper(self._zookeeper, self._protection)
        self._publisher = Publisher(self._zookeeper, name=self.name, prefers=self._prefers, acl=self._protection.acl)
        self._observer = Observer(self._zookeeper, name=self.name, woken=self.wake)
        self._discoverer = discovering.Discoverer(self._zookeeper, discovering.trees())
        self._take_over = take_over
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._stopping = threading.Event()
        self._prepared = False  # since the last (re)connection: version, owner and roots were seen to
        self._refusal = ""
        self._failing: dict[str, str] = {}  # part of the registrar -> what ZooKeeper answers it
        self._retry_at = 0.0
        self._peers: tuple[uuid.UUID, ...] = (self.id,)
        self._listening: psycopg.Connection[Any] | None = None
        self._listen_at = 0.0
        self._forget_at = 0.0

    # --- life -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Publish and watch until `stop`."""
        logger.info("registrar_started", id=str(self.id), zookeeper=settings.ZOOKEEPER_HOSTS)
        self._observer.start()
        self._discoverer.start()
        self._zookeeper.start_async()
        threads = [
            threading.Thread(target=self._repeat, args=("observer", self._observer.step), daemon=True),
            threading.Thread(target=self._repeat, args=("discovery", self._discover), daemon=True),
            threading.Thread(target=self._repeat, args=("heartbeat", self._beat), daemon=True),
            threading.Thread(target=self._repeat, args=("protection", self._keeper.step), daemon=True),
            threading.Thread(target=self._repeat, args=("housekeeping", self._keep_house), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._repeat("publisher", self._publish_once)
        finally:
            self._end(threads)

    def stop(self) -> None:
        """End soon; safe in a signal handler."""
        self._stopping.set()
        self.wake()

    def wake(self) -> None:
        """Let the publisher look at once."""
        with contextlib.suppress(OSError):  # full: it will wake anyway
            self._wake_in.send(b"\0")

    def _end(self, threads: list[threading.Thread]) -> None:
        self._observer.stop()
        self._discoverer.stop()
        self._keeper.ask()
        for thread in threads:
            thread.join(timeout=5)
        if self._listening is not None:
            self._listening.close()
        self._zookeeper.stop()
        self._zookeeper.close()
        with contextlib.suppress(*_DATABASE_GONE):
            RegistrarHeartbeat.objects.filter(pk=self.id).delete()
        connection.close()
        logger.info("registrar_stopped", id=str(self.id))

    def _repeat(self, what: str, step: Callable[[], None]) -> None:
        """Run a step again and again; a database or a ZooKeeper that is away is waited for, with a backoff."""
        failures = 0
        while not self._stopping.is_set():
            try:
                step()
                failures = 0
                self._failing.pop(what, None)
            except _DATABASE_GONE as error:
                failures += 1
                logger.warning("database_away", part=what, error=str(error).strip())
                connection.close()
            except (KazooException, *DISCONNECTED) as error:
                failures += 1
                self._failing[what] = "" if isinstance(error, DISCONNECTED) else _told(error)
                logger.warning("zookeeper_away", part=what, error=repr(error))
            except Exception:
                failures += 1
                logger.exception("registrar_step_failed", part=what)
            if failures:
                self._stopping.wait(min(2.0, 0.1 * 2 ** min(failures, 5)))
        if what != "publisher":  # its thread's connection; the main thread goes on using its own
            connection.close()

    # --- publishing -----------------------------------------------------------------------------------------------------

    def _publish_once(self) -> None:
        """One pass over what is due, then wait for a reason to make another."""
        self._listen()  # before looking: what is committed after the look is notified
        pause = SWEEP
        if not self._zookeeper.connected:
            self._publisher.mark_away(self._away())
        elif self._ready():
            try:
                if self._publisher.publish_due().skipped_fresh:
                    pause = FRESH
            except DISCONNECTED:
                self._publisher.mark_away(self._away())
                raise
        self._wait(pause)

    def _ready(self) -> bool:
        """Whether this ZooKeeper may be written; looked at once after each (re)connection."""
        if self._prepared or (self._refusal and time.monotonic() < self._retry_at):
            return self._prepared
        try:
            self._zookeeper.check_server()
            self._zookeeper.ensure_chroot(self._protection.acl("/"))
            self._own()
            for root in WATCHED:
                self._zookeeper.ensure_path(root, acl=self._protection.acl(root))
                self._may_write(root)
        except (RefusedError, ServerTooOldError, NoAuthError) as error:
            if isinstance(error, NoAuthError):
                error = RefusedError(protection.refused())
            if str(error) != self._refusal:
                logger.error("zookeeper_refused", error=str(error))  # noqa: TRY400 - the traceback says nothing more
            self._refusal, self._retry_at = str(error), time.monotonic() + 5
            self._publisher.mark_away(str(error))
            return False
        self._refusal = ""
        self._keeper.ask()
        self._publisher.forget_parents()
        # Rows that failed only because ZooKeeper was away, or knew us by another name, wait no longer.
        over = Q(last_error__startswith=AWAY) | Q(last_error=protection.refused())
        Publication.objects.dirty().filter(over).update(next_attempt_at=Now(), attempts=0)
        self._prepared = True
        return True

    def _own(self) -> None:
        """See that the owner node names this deployment, or create it: two control planes would repair each other for ever."""
        mine = str(Deployment.objects.get_or_create(pk=1)[0].key)
        data = json.dumps({"deployment": mine, "environment": settings.ENVIRONMENT, "since": timezone.now().isoformat()}).encode()
        while True:
            try:
                found, stat = self._zookeeper.get(paths.OWNER)
            except NoNodeError:
                with contextlib.suppress(NodeExistsError):
                    self._zookeeper.create(paths.OWNER, data, makepath=True, acl=self._protection.acl(paths.OWNER))
                continue
            self._may_write(paths.OWNER)
            owner = _owner(found)
            if owner == mine:
                return
            if not self._take_over:
                raise RefusedError(
                    f"This ZooKeeper tree belongs to another deployment ({owner or 'unreadable'}, node {paths.OWNER}). "
                    "Give this one a chroot of its own in ZOOKEEPER_HOSTS, or start the registrar once with --take-over."
                )
            with contextlib.suppress(BadVersionError):
                self._zookeeper.set(paths.OWNER, data, version=stat.version)
                logger.warning("tree_taken_over", former_owner=owner)

    def _may_write(self, path: str) -> None:
        """See that the node's ACL is for us: ZooKeeper takes any password and refuses only what is done with it."""
        acl, _stat = self._zookeeper.get_acls(path)
        if not self._protection.may_write(acl):
            raise RefusedError(protection.not_ours(acl))

    def _away(self) -> str:
        """Why nothing is published while there is no connection."""
        return f"{AWAY} {self._zookeeper.trouble}".strip()

    def _on_state(self, state: str) -> None:
        """Kazoo's connection thread: nothing here may wait."""
        logger.info("zookeeper_state", state=state, session=f"{self._zookeeper.session:x}")
        if state == KazooState.CONNECTED:
            self._prepared = False
        self._publisher.interrupted()
        self.wake()

    def _prefers(self, path: str) -> bool:
        """Whether this registrar is the one that takes new rows of this path first: saves double work, decides nothing."""
        return max(self._peers, key=lambda peer: hashlib.blake2b(peer.bytes + path.encode(), digest_size=8).digest()) == self.id

    def _discover(self) -> None:
        """Follow the service registries, which may be large: after one's own trees, which others wait for."""
        if self._observer.state == "live":
            self._discoverer.step()
        else:
            self._stopping.wait(0.1)

    # --- waking ---------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Keep a connection that listens; without it the sweep still finds everything."""
        if self._listening is not None and not self._listening.closed and not self._listening.broken:
            return
        if time.monotonic() < self._listen_at:
            return
        self._listen_at = time.monotonic() + 1
        try:
            self._listening = psycopg.connect(**{"connect_timeout": 5, **_listen_parameters()}, autocommit=True)
            self._listening.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            self._listening = None
            logger.warning("listen_failed", error=str(error).strip())

    def _wait(self, timeout: float) -> None:
        waiting: list[Any] = [self._wake_out]
        if self._listening is not None and not self._listening.closed:
            waiting.append(self._listening)
        ready, _, _ = select.select(waiting, [], [], timeout)
        if self._wake_out in ready:
            self._wake_out.recv(4096)
        if self._listening is not None and self._listening in ready:
            try:
                for _notice in self._listening.notifies(timeout=0):
                    pass
            except psycopg.Error:
                self._listening.close()

    # --- heartbeat ------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        state = (
            "refused"
            if self._refusal
            else {KazooState.CONNECTED: "connected", KazooState.SUSPENDED: "suspended"}.get(self._zookeeper.state, "lost")
        )
        session = f"{self._zookeeper.session:x}" if self._zookeeper.session else ""
        failing = next((text for text in list(self._failing.values()) if text), "")
        error = self._refusal or self._zookeeper.trouble or failing or self._keeper.trouble
        watches = {"watch": self._observer.state, "discovery": self._discoverer.state, "unrecorded": self._discoverer.unrecorded}
        now = {"beat_at": Now(), "session": session, "zookeeper": state, **watches, "error": error}
        if not RegistrarHeartbeat.objects.filter(pk=self.id).update(**now):
            RegistrarHeartbeat.objects.create(id=self.id, host=socket.gethostname(), pid=os.getpid())
            RegistrarHeartbeat.objects.filter(pk=self.id).update(**now)
            RegistrarHeartbeat.objects.filter(beat_at__lt=Now() - timedelta(days=1)).delete()
        alive = RegistrarHeartbeat.objects.filter(beat_at__gte=Now() - HEARTBEAT_LIMIT, zookeeper="connected").values_list("pk", flat=True)
        self._peers = tuple(sorted({*alive, self.id}))
        self._stopping.wait(BEAT if self._observer.state == "live" or state != "connected" else 0.25)

    # --- housekeeping ---------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """What has to be done in time, whether ZooKeeper and Celery are there or not; several registrars may do it at once."""
        for sweep in sweeps:
            sweep()
        if time.monotonic() >= self._forget_at:
            forget_old()
            discovery_records.forget_old()
            self._forget_at = time.monotonic() + FORGET
        self._stopping.wait(SWEEP)


def _told(error: Exception) -> str:
    return protection.refused() if isinstance(error, NoAuthError) else f"ZooKeeper: {error!r}"


def _owner(data: bytes) -> str:
    try:
        return str(json.loads(data)["deployment"])
    except (ValueError, TypeError, KeyError):
        return ""


def _listen_parameters() -> dict[str, Any]:
    """Return psycopg's parameters of the listening connection, perhaps on a DSN of its own: notifications pass no pooler."""
    own = getattr(settings, "REGISTRY_LISTEN_DSN", "")
    if own:
        return {"conninfo": own}
    parameters = connection.get_connection_params()
    return {
        key: value
        for key, value in parameters.items()
        if key not in {"cursor_factory", "context", "prepare_threshold", "pool", "server_side_binding"}
    }
