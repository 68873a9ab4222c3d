"""All that a client consumes: groups with their handlers, and the shadow groups that stress tests switch on and off."""

from __future__ import annotations

import inspect
import logging
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from mqadmin_sdk.consuming.consumer import GroupConsumer, State
from mqadmin_sdk.consuming.feeds import Options
from mqadmin_sdk.consuming.naming import Names
from mqadmin_sdk.consuming.shadows import Shadowing, live_only, shadow_only
from mqadmin_sdk.transports import consumer_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime, timedelta

    from mqadmin_sdk.message import Message
    from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata, ShadowGroup
    from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
    from mqadmin_sdk.transports import ConsumerTransport, Context

log = logging.getLogger(__name__)

DRAIN = 30.0  # seconds for handlers to end, if nobody says otherwise


class Subscribing(TypedDict, total=False):
    """How a group is consumed; all have defaults.

    `concurrency` (1): handlers at once. `prefetch` (1000): messages in hand at most. `lease` (60 s): how long others do not get what is in
    hand; extended while handlers run, but a handler that takes longer than `max_handling` (an hour) is given up: a failed attempt.
    `poll` (5 s): how long a pull waits for messages; a stop waits for it. `instance`: the name of this instance of a broadcast group,
    the same after a restart; by default that of the host. `shadow`: the handler for messages of stress tests, without which this process
    has no shadow consumer. `moved`: called with the time when an operator has rewound or skipped the group.
    """

    concurrency: int
    prefetch: int
    lease: float
    max_handling: timedelta | float
    poll: float
    instance: str | None
    shadow: Callable[[Message], object] | None
    moved: Callable[[datetime], object] | None


@dataclass
class Running:
    """A group that is consumed; `task` is the stress test of a shadow group."""

    consumer: GroupConsumer
    subscription: Subscription
    task: str = ""


@dataclass
class _Asked:
    """What the application wants of a group."""

    group: str
    handler: Callable[[Message], object]
    options: Options
    instance: str | None = None
    shadow: Callable[[Message], object] | None = None
    moved: Callable[[datetime], object] | None = None
    running: Running | None = None
    shadows: dict[str, Running] = field(default_factory=dict)  # by task


class Consumers:
    """The consuming half of a client; its arguments are the client's own verbs."""

    def __init__(
        self,
        *,
        app: str,
        watch_group: Callable[[str, Callable[[GroupMetadata | None], object]], Subscription],
        watch_shadow: Callable[..., ShadowSubscription],
        group: Callable[[str], GroupMetadata],
        cluster: Callable[[str], ClusterMetadata],
        context: Callable[[], Context],
        shadowing: Shadowing,
    ) -> None:
        self._watch_group, self._watch_shadow, self._group, self._cluster, self._context = (
            watch_group,
            watch_shadow,
            group,
            cluster,
            context,
        )
        self.shadowing = shadowing
        self._asked: dict[str, _Asked] = {}
        self._names = Names(app)
        self._shadow_watch: ShadowSubscription | None = None
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._started = False

    def subscribing(self, group: str, handler: Any, options: Mapping[str, Any]) -> Any:
        """Subscribe as `Client.subscribe` says; a decorator if there is no handler yet."""
        given = dict(options)
        instance, shadow, moved = (given.pop(name, None) for name in ("instance", "shadow", "moved"))
        chosen = Options(**given)

        def decorate(handle: Any) -> Any:
            for one in (handle, shadow):
                if inspect.iscoroutinefunction(one):
                    raise TypeError(f"a handler is a plain function; run coroutines in it: {one}")
            self.subscribe(group, handle, options=chosen, instance=instance, shadow=shadow, moved=moved)
            return handle

        return decorate if handler is None else decorate(handler)

    def subscribe(
        self,
        group: str,
        handler: Callable[[Message], object],
        *,
        options: Options,
        instance: str | None = None,
        shadow: Callable[[Message], object] | None = None,
        moved: Callable[[datetime], object] | None = None,
    ) -> None:
        """Have a group consumed from `start` on, or now if that was. Raises ValueError if it is already."""
        with self._lock:
            if group in self._asked:
                raise ValueError(f"group {group} has a handler already")
            asked = self._asked[group] = _Asked(group, handler, options, instance, shadow, moved)
            started = self._started
        if started:
            self._run(asked)
            self._follow_shadows()

    def start(self) -> None:
        """Begin to consume; harmless when that was."""
        with self._lock:
            if self._started:
                return
            self._started = True
            self._end.clear()
        for asked in self._asked.values():
            self._run(asked)
        self._follow_shadows()

    def run(self, *, timeout: float = DRAIN) -> bool:
        """Consume until SIGTERM, SIGINT or `stop`; then end as `stop` does. In another thread than the main one signals are not heard."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, lambda *_: self._end.set())
        try:
            self.start()
            self._end.wait()
        finally:
            for heard, handler in before.items():  # a second signal is not held up
                signal.signal(heard, handler)
            clean = self.stop(timeout=timeout)
        return clean

    def end(self) -> None:
        """Have `run` return."""
        self._end.set()

    def stop(self, *, timeout: float = DRAIN) -> bool:
        """Pull no more, finish what was begun, settle it, and let others have the rest. False if handlers still run after `timeout` s."""
        self._end.set()
        with self._lock:
            if not self._started:
                return True
            self._started = False
        if self._shadow_watch is not None:
            self._shadow_watch.close()
            self._shadow_watch = None
        running = list(self.all())
        for one in running:
            one.consumer.drain()
        until = time.monotonic() + timeout
        ended = [one.consumer.join(max(0.0, until - time.monotonic())) for one in running]
        for one in running:
            one.subscription.close()
        for asked in self._asked.values():
            asked.running = None
            asked.shadows.clear()
        self._names.release()
        return all(ended)

    def all(self) -> Iterator[Running]:
        """What is consumed now."""
        for asked in [*self._asked.values()]:
            if asked.running is not None:
                yield asked.running
            yield from [*asked.shadows.values()]

    def after_fork(self) -> None:
        """In a forked child nothing is consumed before it calls `start` or `run` itself: the parent goes on with what it has.

        Called right after the follower's own, which begins to connect: it makes no instances for what is closed before it has.
        """
        for one in self.all():
            one.subscription.close()
        if self._shadow_watch is not None:
            self._shadow_watch.close()
            self._shadow_watch = None
        for asked in self._asked.values():
            asked.running = None
            asked.shadows.clear()
        self._names.release()  # the parent's locks stay
        self._renew()

    # --- one group ------------------------------------------------------------------------------------------------------

    def _run(self, asked: _Asked) -> None:
        asked.running = self._consume(asked.group, live_only(asked.handler, self.shadowing), asked)

    def _consume(self, group: str, handler: Callable[[Message], object], asked: _Asked, task: str = "") -> Running:
        def connect(metadata: GroupMetadata, cluster: ClusterMetadata) -> ConsumerTransport:
            context = self._context()
            name = context.instance
            if metadata.broadcast:
                name = asked.instance or self._names.of(group)
            return consumer_transport(metadata, context, consumer=name, lease=asked.options.lease, cluster=cluster)

        def tell(state: State, counts: dict[str, int], error: str | None) -> None:
            if not found or state == "starting":  # a report begins so
                return
            found[0].subscription.tell(state=state, counts=counts, error=error)
            if task and (watch := self._shadow_watch) is not None:
                now = asked.shadows.get(task)
                if now is found[0] or (now is None and state != "draining"):  # not of one that ends while the next one has begun
                    watch.tell(task, asked.group, state=state, counts={**counts, "leaked": self.shadowing.leaks.total}, error=error)

        found: list[Running] = []
        consumer = GroupConsumer(
            group, handler, options=asked.options, connect=connect, cluster=self._cluster, tell=tell, moved=asked.moved
        )
        subscription = self._watch_group(group, consumer.apply)
        consumer.mended = subscription.applied
        found.append(Running(consumer, subscription, task))
        return found[0]

    # --- shadow groups --------------------------------------------------------------------------------------------------

    def _follow_shadows(self) -> None:
        served = [asked.group for asked in self._asked.values() if asked.shadow is not None]
        if not served:
            return
        if self._shadow_watch is not None:
            self._shadow_watch.close()
        self._shadow_watch = self._watch_shadow(self._switch, groups=served)

    def _switch(self, shadow: ShadowGroup) -> None:
        """Start or stop a shadow consumer; on the callbacks' thread."""
        asked = self._asked.get(shadow.group)
        if asked is None or asked.shadow is None:
            return
        before = asked.shadows.pop(shadow.task, None)
        if before is not None:
            before.subscription.close()
            before.consumer.drain()
            # Its handlers are not waited for here: the callbacks of others would wait, too.
            threading.Thread(target=self._leave, args=(before, shadow), name=f"mqadmin-leave-{shadow.group}", daemon=True).start()
        if not shadow.running:
            return
        name = self.shadowing.group(shadow.group)
        handler = shadow_only(asked.shadow, shadow.task, self.shadowing)
        log.info("Stress test %s: group %s is consumed as %s", shadow.task, shadow.group, name)
        asked.shadows[shadow.task] = self._consume(name, handler, asked, shadow.task)
        self._group(name)  # raises if it is not published; it is waited for all the same

    @staticmethod
    def _leave(one: Running, shadow: ShadowGroup) -> None:
        one.consumer.join(DRAIN)
        log.info("Stress test %s: group %s has ended (%s): %s", shadow.task, one.consumer.name, shadow.reason, one.consumer.core.report())
