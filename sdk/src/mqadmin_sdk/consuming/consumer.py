"""A group's consumer in this process: threads that pull, handle, and keep leases; what they decide by is core.py.

One thread for each transport pulls, one keeps: it settles what no pull takes along, extends leases and reports; `concurrency` handle.
All share one lock, which nobody holds during a call over the network or a handler.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from mqadmin_sdk.consuming import telling
from mqadmin_sdk.consuming.core import Core, Item, Source
from mqadmin_sdk.consuming.feeds import UNKNOWN, Feed, Options, key_of
from mqadmin_sdk.consuming.handling import handle
from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.message import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence
    from datetime import datetime

    from mqadmin_sdk.consuming.core import Status
    from mqadmin_sdk.message import Message
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
    from mqadmin_sdk.transports import ConsumerTransport, Pulled, Settlement

log = logging.getLogger(__name__)

State = Literal["starting", "running", "suspended", "draining", "failed"]

_REPORT_EVERY = 30.0  # seconds between two reports that differ in counts only
_IDLE = 900.0  # seconds: a cluster that the group has left is drained when nothing has come for so long, longer than usual backoffs
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts to reach a broker
_ASK_LATER = {"suspended", "retired", "not_subscribed", "consumer_required", "too_many_workers"}  # reasons that pass slowly


class GroupConsumer:
    """Consumes a group as its metadata say; `apply` is given each of their states.

    `connect` makes a transport for a cluster, `cluster` finds one that the metadata only name. `tell(state, counts, error)` is called
    when the state changes, and now and then, `moved(when)` after a person has moved the group's position.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[[Message], object],
        *,
        options: Options,
        connect: Callable[[GroupMetadata, ClusterMetadata], ConsumerTransport],
        cluster: Callable[[str], ClusterMetadata],
        tell: Callable[[State, dict[str, int], str | None], object] = lambda *_: None,
        moved: Callable[[datetime], object] | None = None,
    ) -> None:
        self.name, self.handler, self.options = name, handler, options
        self.mended: Callable[[GroupMetadata], object] = lambda _group: None
        self._connect, self._cluster, self._tell, self._on_moved = connect, cluster, tell, moved
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing in hand: at first, and in a forked child, whose parent goes on with what it has."""
        self._lock = threading.Lock()
        self._work, self._room, self._keep = (threading.Condition(self._lock) for _ in range(3))
        options = self.options
        self.core = Core(
            concurrency=options.concurrency, prefetch=options.prefetch, max_handling=seconds(options.max_handling), poll=options.poll
        )
        self._feeds: dict[tuple[Hashable, ...], Feed] = {}
        self._leaving: list[Feed] = []
        self._threads: list[threading.Thread] = []
        self._group: GroupMetadata | None = None
        self._applying = threading.Lock()
        self._ending = threading.Event()
        self._wanted: GroupMetadata | None = None
        self._refused: str | None = None  # why it could not be applied
        self._unreached: dict[str, Exception] = {}  # why clusters that are to be drained are not, by their names
        self._mending: threading.Thread | None = None
        self._draining = self._stopped = False
        self._for_room = 0  # feeds that wait for room, not for time
        self._keep_until = -math.inf
        self._told: tuple[State, dict[str, int], str | None] | None = None
        self._told_at = -math.inf

    # --- what the metadata say ------------------------------------------------------------------------------------------

    def apply(self, group: GroupMetadata | None) -> None:
        """Consume as the metadata say now: returns when the transports they want pull, and no other does.

        Raises what connecting raises; then everything goes on as before, and where it may pass it is tried again: `mended` is called
        with the metadata when they are applied then. A group that is gone is consumed on: whether it hands out
        messages is for its broker to say, and a ZooKeeper that was wiped must stop nobody.
        """
        if group is None:
            log.info("Group %s is not published any more", self.name)
            return
        with self._applying:
            self._wanted = group
            try:
                self._switch(group)
            except Exception as error:
                self._refused = f"{type(error).__name__}: {error}"
                if _may_pass(error):
                    self._mend_soon()
                raise
            if any(_may_pass(error) for error in self._unreached.values()):
                self._mend_soon()

    def _mend_soon(self) -> None:
        if self._mending is None:
            self._mending = self._start(self._mend, name=f"mend-{self.name}")

    def _mend(self) -> None:
        """Try again to do what `apply` could not, until it is done or nobody wants it any more."""
        for pause in itertools.chain((0.5, 1.0, 2.0, 5.0, 10.0), itertools.repeat(30.0)):
            if self._ending.wait(pause):
                return
            with self._applying:
                group, refused = self._wanted, self._refused is not None
                if group is not None and (refused or self._unreached):
                    try:
                        self._switch(group)
                    except Exception as error:  # noqa: BLE001 - whatever a broker's client raises
                        log.warning("Group %s: cluster %s cannot be reached yet: %s", self.name, group.cluster.name, error)
                        self._refused = f"{type(error).__name__}: {error}"
                        continue
                done = not any(_may_pass(error) for error in self._unreached.values())
                if done:
                    self._mending = None
            if refused and group is not None:
                self.mended(group)
            if done:
                return

    def _switch(self, group: GroupMetadata) -> None:
        if self._ending.is_set():
            return
        made: dict[tuple[Hashable, ...], Feed] = {}
        wanted = {key_of(group, group.cluster): group.cluster}
        self._connect_to(group, group.cluster, made)
        unreached: dict[str, Exception] = {}
        for name in group.drain_clusters:  # one that is away holds up nothing: it is tried again
            try:
                cluster = self._cluster(name)
                self._connect_to(group, cluster, made)
                wanted[key_of(group, cluster)] = cluster
            except Exception as error:  # noqa: BLE001 - whatever a broker's client raises
                unreached[name] = error
                if str(self._unreached.get(name)) != str(error):
                    log.warning("Group %s: cluster %s cannot be drained now: %s: %s", self.name, name, type(error).__name__, error)
        self._unreached = unreached
        with self._lock:
            ended = not self._draining and any(key not in self._feeds and key not in made for key in wanted)
            if not ended:
                self._install(group, wanted, made)
        if ended:  # this moment: a cluster that was left, and to which the group comes back, was drained
            for feed in made.values():
                feed.transport.close()
            self._switch(group)
            return
        names = ", ".join(feed.cluster.name for feed in self._feeds.values())
        what = "suspended on" if group.suspended else "consumed from"
        log.info("Group %s: %s %s, generation %s", self.name, what, names, group.generation)
        for feed in made.values():
            feed.thread = self._start(self._pull, feed, name=f"pull-{self.name}-{feed.cluster.name}")
        if not self._threads:
            self._threads.append(self._start(self._keep_all, name=f"keep-{self.name}"))
            for number in range(self.options.concurrency):
                self._threads.append(self._start(self._handle_all, name=f"handle-{self.name}-{number + 1}"))

    def _connect_to(self, group: GroupMetadata, cluster: ClusterMetadata, made: dict[tuple[Hashable, ...], Feed]) -> None:
        key = key_of(group, cluster)
        if key not in self._feeds and key not in made:
            made[key] = Feed(self._connect(group, cluster), cluster, self.options.lease)

    def _install(self, group: GroupMetadata, wanted: Collection[tuple[Hashable, ...]], made: dict[tuple[Hashable, ...], Feed]) -> None:
        """Go on with these transports."""
        drained = set(self._group.drain_clusters if self._group else ()).difference(group.drain_clusters)
        self._group, self._refused = group, None
        now = time.monotonic()
        self._feeds.update(made)
        if self._draining:  # meanwhile
            for feed in self._feeds.values():
                self._end(feed, now)
            self._feeds.clear()
        else:
            self._part_from(wanted, drained, now)
        main = key_of(group, group.cluster)
        for key, feed in self._feeds.items():
            feed.main = key == main
            feed.source.pulling = not group.suspended
            if not feed.source.pulling:
                self.core.give_back(feed.source, now)
            else:  # what the broker said before does not hold any more
                feed.not_before, feed.failures, feed.error = -math.inf, 0, None
        self._wake()

    def _part_from(self, wanted: Collection[tuple[Hashable, ...]], drained: Collection[str], now: float) -> None:
        """End what is not wanted any more, and what mqadmin does not name for draining any more.

        From a cluster that the group has left, and that nobody has named, it pulls for a while: producers switch a little later or earlier.
        """
        clusters = {key[0] for key in wanted}
        for key, feed in [*self._feeds.items()]:
            name = feed.cluster.name
            if key in wanted:
                feed.left_at = None
            elif key[0] in clusters:  # there is another one for it, with other subscriptions
                self._end(self._feeds.pop(key), now)
            elif name in self._unreached:  # it could not be looked up: go on as before
                pass
            elif name in drained:
                log.info("Group %s: cluster %s is drained", self.name, name)
                self._end(self._feeds.pop(key), now)
            elif feed.left_at is None:
                log.info("Group %s has left cluster %s: it is drained until nothing has come for %g s", self.name, name, _IDLE)
                feed.left_at = now

    def _is_drained(self, feed: Feed, now: float) -> bool:
        """Whether a cluster that the group has left is quiet for long enough; then it is not pulled from any more."""
        if feed.left_at is None or feed.ended or not feed.source.pulling:
            return False
        if feed.source.open:
            feed.left_at = now
        if now < feed.left_at + _IDLE:
            return False
        if feed.failures:
            log.error("Group %s: cluster %s, which it has left, does not answer and is given up: what is left there stays there",
                      self.name, feed.cluster.name)  # fmt: skip
        self._feeds = {key: one for key, one in self._feeds.items() if one is not feed}
        self._end(feed, now)
        return True

    def _end(self, feed: Feed, now: float) -> None:
        feed.ended, feed.source.pulling = True, False
        self.core.give_back(feed.source, now)
        self._leaving.append(feed)

    def _start(self, run: Callable[..., None], *arguments: Any, name: str) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, name=f"mqadmin-{name}", daemon=True)
        thread.start()
        return thread

    def _wake(self) -> None:
        self._room.notify_all()
        self._keep_until = -math.inf
        self._keep.notify_all()

    # --- ending ---------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Pull no more, and let others have what was not begun. Returns at once; `join` waits for the rest."""
        self._ending.set()
        with self._lock:
            self._draining = True
            now = time.monotonic()
            for feed in self._feeds.values():
                self._end(feed, now)
            self._feeds.clear()
            self._wake()

    def join(self, timeout: float) -> bool:
        """Wait until what was begun is done and settled, then end all threads; False if handlers still ran at the time-out.

        What they have in hand comes to others when its lease ends.
        """
        until = time.monotonic() + timeout
        with self._lock:
            while self._leaving and (left := until - time.monotonic()) > 0:
                self._room.wait(left)
            running = list(self.core.running)
            clean = not self._leaving
            self._stopped = True
            threads = [*self._threads, *(feed.thread for feed in self._leaving if feed.thread)]
            self._wake()
            self._work.notify_all()
        if not (clean or running):
            log.error("Group %s: not everything could be told within %g s: what was not is handled again", self.name, timeout)
        if running:
            telling.left(self.name, running, timeout)
        for thread in threads:
            if thread is not threading.current_thread() and (clean or not thread.name.startswith("mqadmin-handle-")):
                thread.join(5.0)
        return clean

    # --- pulling --------------------------------------------------------------------------------------------------------

    def _pull(self, feed: Feed) -> None:
        source, transport = feed.source, feed.transport
        while True:
            with self._lock:
                asked = self._wait_for_room(feed)
                if asked is None:
                    break
                messages, wait = asked
                settle = self.core.collect(source, time.monotonic(), everything=False)
                source.asking, source.polling = True, wait > 0
            began = time.monotonic()
            try:
                pulled = transport.next(settle=settle, max_messages=messages, wait=wait)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                with self._lock:
                    source.asking = source.polling = False
                    self.core.unsent(source, settle, time.monotonic())
                    self._failed(feed, error)
                    self._room.notify_all()
                continue
            self._take(feed, pulled, settle, messages, early=wait > 1 and time.monotonic() - began < 0.05)
        with self._lock:
            while not (source.empty or self._stopped):
                self._room.wait(1.0)
        try:
            transport.close()
        except Exception:
            log.exception("Group %s: closing the connection to %s failed", self.name, feed.cluster.name)
        with self._lock:
            self._leaving.remove(feed)
            self._room.notify_all()

    def _wait_for_room(self, feed: Feed) -> tuple[int, float] | None:
        """Wait until something may be pulled; None when no more is."""
        while not feed.ended:
            now = time.monotonic()
            if self._is_drained(feed, now):
                break
            if not feed.source.pulling:
                self._room.wait()
                continue
            messages, wait = self.core.ask(feed.source, now)
            if messages and now < feed.not_before:
                messages, wait = 0, feed.not_before - now
            if messages:
                return messages, wait
            self._for_room += 1
            self._room.wait(wait)
            self._for_room -= 1
        return None

    def _take(self, feed: Feed, pulled: Pulled, settle: Sequence[Settlement], asked: int, *, early: bool) -> None:
        with self._lock:
            now = time.monotonic()
            feed.source.asking = feed.source.polling = False
            wasted = self.core.settled(feed.source, settle, pulled.settled)
            ready = self.core.accept(feed.source, pulled.deliveries, asked, now)
            if ready > 0:
                self._work.notify(ready)
            if feed.error is not None:  # people were told
                self._keep_until = -math.inf
                self._keep.notify()
            feed.failures, feed.error = 0, None
            if feed.left_at is not None and (pulled.deliveries or pulled.reason == "outstanding"):
                feed.left_at = now
            if not pulled.deliveries:
                if pulled.reason in _ASK_LATER or (pulled.retry_after is not None and pulled.reason != "empty"):
                    feed.not_before = now + (1.0 if pulled.retry_after is None else pulled.retry_after)
                elif early:  # it did not wait, though it was asked to: do not ask in circles
                    feed.not_before = now + 0.1
            moved = feed.moved_at not in {UNKNOWN, pulled.moved_at}
            feed.moved_at = pulled.moved_at
            if moved:
                self.core.moved(feed.source)
            self._keep_soon(feed.source)
            if feed.ended:
                self._room.notify_all()
        telling.wasted(self.name, wasted)
        if moved and pulled.moved_at is not None:
            telling.moved(self.name, pulled.moved_at, self._on_moved)

    def _failed(self, feed: Feed, error: Exception) -> None:
        """Note that a pull failed: the next one after a pause."""
        after = getattr(error, "retry_after", None)
        if after is None:
            after = _STEPS[min(feed.failures, len(_STEPS) - 1)] * (0.5 + random.random())  # noqa: S311 - spread
        feed.not_before = time.monotonic() + after
        feed.failures += 1
        text = f"{type(error).__name__}: {error}"
        if feed.error != text:
            level = logging.ERROR if getattr(error, "permanent", True) else logging.WARNING
            log.log(level, "Group %s: pulling from %s failed, it is tried again: %s", self.name, feed.cluster.name, text,
                    exc_info=None if isinstance(error, MqadminError) else error)  # fmt: skip
        if feed.failures > 1:  # a single one is nothing to tell people
            feed.error = text
            self._keep_until = -math.inf
            self._keep.notify()

    # --- handling -------------------------------------------------------------------------------------------------------

    def _handle_all(self) -> None:
        core, lock, clock = self.core, self._lock, time.monotonic
        item: Item | None = None
        made: tuple[Status, float | None, str | None] = ("succeeded", None, None)  # what became of it
        while True:
            with lock:
                counted = item is None or core.finish(item, *made, clock())
                if item is not None:
                    self._finished(item.source)
                following = core.take(clock())
                while following is None and counted:
                    if self._stopped:
                        return
                    self._work.wait()
                    following = core.take(clock())
            if not counted and item is not None:
                telling.thrown_away(self.name, item, made[0])
            item = following
            if item is not None:
                made = handle(self.name, self.handler, item.delivery.message)

    def _finished(self, source: Source) -> None:
        """Wake who waits for what a handler has finished."""
        held = self.core.held
        wanted = self._for_room and held <= self.core.window // 2
        if wanted or (self._leaving and source.empty):
            self._room.notify_all()
        self._keep_soon(source)

    def _keep_soon(self, source: Source) -> None:
        """See to it that the keeper wakes in time."""
        due = min(self.core.due(source), source.look_at)
        if due < self._keep_until:
            self._keep_until = due
            self._keep.notify()

    # --- keeping --------------------------------------------------------------------------------------------------------

    def _keep_all(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                late = self.core.overdue(now)
                jobs = [job for feed in self._all() if (job := self._job(feed, now))]
                report = self._report(now)
                if not jobs and not late and report is None:
                    if self._stopped:
                        return
                    self._keep_until = self._next(now)
                    self._keep.wait(self._keep_until - now)
                    continue
            telling.given_up(self.name, late, self.core.max_handling)
            for feed, extend, settle in jobs:
                if extend:
                    self._extend(feed, extend)
                if settle:
                    self._settle(feed, settle)
            if report is not None:
                try:
                    self._tell(*report)
                except Exception:
                    log.exception("Group %s: its state could not be reported", self.name)

    def _all(self) -> list[Feed]:
        return [*self._feeds.values(), *self._leaving]

    def _job(self, feed: Feed, now: float) -> tuple[Feed, Any, Any] | None:
        source = feed.source
        extend = self.core.to_extend(source, now)
        settle: Sequence[Settlement] = ()
        if source.outbox and self.core.due(source) <= now and feed.settle_not_before <= now:
            settle = self.core.collect(source, now, everything=True)
        return (feed, extend, settle) if extend or settle else None

    def _next(self, now: float) -> float:
        times = [self.core.next_overdue(), now + min(_REPORT_EVERY, self.core.max_handling / 2)]  # a handler that begins wakes nobody
        for feed in self._all():
            times += [max(self.core.due(feed.source), feed.settle_not_before), feed.source.look_at]
        return max(now + 0.001, min(times))

    def _extend(self, feed: Feed, deliveries: Any) -> None:
        try:
            held = feed.transport.extend(deliveries, seconds=self.options.lease)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed; until then the old end holds
            log.warning("Group %s: leases could not be extended, it is tried again: %s", self.name, error)
            with self._lock:
                self.core.not_extended(feed.source, deliveries, time.monotonic())
            return
        with self._lock:
            lost = self.core.extended(feed.source, deliveries, held)
            self._room.notify_all()
        if lost:
            telling.lost(self.name, len(lost))

    def _settle(self, feed: Feed, settle: Any) -> None:
        try:
            results = feed.transport.settle(settle)
        except Exception as error:  # noqa: BLE001 - said again, until others may have the messages anyway
            with self._lock:
                now = time.monotonic()
                kept = [one for one in settle if one.delivery.expires is None or one.delivery.expires > now]
                feed.source.sending -= len(settle) - len(kept)
                self.core.unsent(feed.source, kept, now)
                feed.settle_not_before = now + (getattr(error, "retry_after", None) or 0.5)
                self._room.notify_all()
            telling.untold(self.name, len(settle), len(settle) - len(kept), error)
            return
        with self._lock:
            wasted = self.core.settled(feed.source, settle, results)
            if feed.source.empty:
                self._room.notify_all()
        telling.wasted(self.name, wasted)

    # --- reporting ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> tuple[State, str | None]:
        """What the consumer does, and the error if it fails, or if a cluster that is to be drained cannot be."""
        feeds = [*self._feeds.values()]
        error = self._refused or next((feed.error for feed in feeds if feed.error and feed.main), None)
        if self._draining:
            return "draining", None
        if error is not None:
            return "failed", error
        if self._group is None:
            return "starting", None
        return ("suspended" if self._group.suspended else "running"), self._undrained(feeds)

    def _undrained(self, feeds: Sequence[Feed]) -> str | None:
        """Why a cluster that is to be drained is not; the group itself is consumed all the same."""
        named = {feed.cluster.name: feed.error for feed in feeds if feed.error and not feed.main and feed.left_at is None}
        named |= {name: f"{type(error).__name__}: {error}" for name, error in self._unreached.items()}
        return "; ".join(f"cluster {name} is not drained: {error}" for name, error in named.items()) or None

    def _report(self, now: float) -> tuple[State, dict[str, int], str | None] | None:
        """What there is to tell, or None."""
        state, error = self.state
        counts = self.core.report()
        told = self._told
        if told is not None and (state, error) == (told[0], told[2]) and (counts == told[1] or now < self._told_at + _REPORT_EVERY):
            return None
        self._told, self._told_at = (state, counts, error), now
        return self._told


def _may_pass(error: Exception) -> bool:
    return not (isinstance(error, MqadminError) and error.permanent)
