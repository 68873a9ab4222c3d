"""What a client follows: one topic or group, or the shadow groups of an application. Used by the client's two threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from mqadmin_sdk import metadata
from mqadmin_sdk.reports import Report
from mqadmin_sdk.version import SDK
from mqadmin_sdk.zk import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mqadmin_sdk.zk import Client, TreeWatch

_NOTHING: Any = object()
State = Literal["running", "suspended", "draining", "failed"]


class Subscription:
    """A topic or group that is followed. `close` ends it: no callback starts any more and the instance goes offline."""

    def __init__(
        self, *, kind: Literal["topic", "group"], name: str, app: str, ip: str, labels: Mapping[str, str], callback: Callable[[Any], object]
    ) -> None:
        self.kind, self.name, self.app, self.ip, self.labels = kind, name, app, ip, labels
        self.path = paths.followed(kind, name)
        self.callback = callback
        self.closed = False
        self.on_close: Callable[[Subscription], None] = lambda _subscription: None
        self.on_tell: Callable[[Subscription, bool], None] = lambda _subscription, _at_once: None
        self.renew()

    def renew(self) -> None:
        """Begin anew, as an instance with a name of its own: at first, and in a forked child."""
        role: paths.Role = "producer" if self.kind == "topic" else "consumer"
        self.lock = threading.Lock()
        self.state: Any = None  # as it is known now, also before the callback has seen it
        self.pending: Any = _NOTHING  # the last state that the callback has not seen
        self.delivered: Any = None  # the last state that it was given
        self.queued = False
        self.report = Report(f"{self.path}/{paths.new_instance_name(role, SDK, ip=self.ip)}", app=self.app, labels=self.labels)
        self.present = False

    def offer(self, state: Any) -> bool:
        """Take a new state for the callback; True if it has to be queued. What it was given last is not given again."""
        with self.lock:
            if self.closed or (self.pending is _NOTHING and state == self.delivered) or state == self.pending:
                return False
            self.pending = state
            queued, self.queued = self.queued, True
            return not queued

    def deliver(self) -> bool:
        """Give the callback the last state, on the worker thread; True if there is something to report."""
        with self.lock:
            self.queued = False
            state, self.pending = self.pending, _NOTHING
            if self.closed or state is _NOTHING or state == self.delivered:
                return False
            self.delivered = state
        try:
            self.callback(state)
        except Exception as error:
            self.report.failed(error)
            raise
        if state is not None:
            self._report(state)
        return True

    def applied(self, state: Any) -> None:
        """Report what the callback could not apply when it was called, and was applied since; from any thread."""
        self._report(state)
        self.on_tell(self, True)

    def _report(self, state: Any) -> None:
        suspended = isinstance(state, metadata.GroupMetadata) and state.suspended
        self.report.applied(generation=state.generation, cluster=state.cluster.name, state="suspended" if suspended else "running")

    def tell(self, *, state: State | None = None, counts: Mapping[str, int] | None = None, error: str | None = None) -> None:
        """Report what the instance does now, from any thread; a change that is applied later says `running` or `suspended` again.

        `error` says why it is `failed`; any other state takes it back.
        `counts` are free numbers, such as `{"handled": 17}`. A new state is written at once, new counts at most every ten seconds.
        """
        _check(state)
        changed = state is not None and self.report.say(state=state, error=error and error[:1000])
        if (counts is not None and self.report.say(counts=dict(counts))) or changed:
            self.on_tell(self, changed)

    def close(self) -> None:
        """Stop following."""
        with self.lock:
            self.closed = True
        self.on_close(self)


@dataclass(eq=False)
class ShadowRun:
    """A shadow group as this process has it: the I/O thread decides `state`, the worker tells the callback, anybody tells what it does."""

    state: metadata.ShadowGroup
    report: Report
    mzxid: int = 0
    mtime: int = 0
    ends: float | None = None  # on the monotonic clock
    running: bool = False  # what the callback was told last
    failed: bool = False  # the callback has raised when it was to begin
    told: bool = False  # something was told of its state since it began
    closed: bool = False  # nobody follows it any more

    @property
    def present(self) -> bool:
        """Whether it has a node."""
        return self.running


class ShadowSubscription:
    """The application's shadow groups. The node's flag and the lease decide; the lease also with ZooKeeper gone."""

    def __init__(self, *, app: str, ip: str, callback: Callable[[metadata.ShadowGroup], object], groups: Collection[str] | None) -> None:
        self.app, self.ip, self.callback = app, ip, callback
        self.groups = None if groups is None else frozenset(groups)
        self.path = paths.shadow_app(app)
        self.closed = False
        self.on_close: Callable[[ShadowSubscription], None] = lambda _subscription: None
        self.on_tell: Callable[[ShadowRun, bool], None] = lambda _run, _at_once: None
        self.runs: dict[tuple[str, str], ShadowRun] = {}
        self.watch: TreeWatch | None = None

    def forget(self) -> None:
        """Forget what the parent of a forked child was running."""
        self.runs, self.watch = {}, None

    def read(self, client: Client, served: Collection[str], *, now: float, server_now: float | None) -> list[ShadowRun]:
        """Read the whole subtree, which is small; return what has changed. `now` is monotonic in seconds, `server_now` in ms since 1970."""
        tasks = client.multi_children([self.path])[1][0] or []
        groups = client.multi_children([f"{self.path}/{task}" for task in tasks])[1] if tasks else []
        keys = [(task, group) for task, names in zip(tasks, groups, strict=True) for group in names or () if group in served]
        nodes = client.multi_read([paths.shadow(self.app, *key) for key in keys])[1] if keys else []
        found = {key: node for key, node in zip(keys, nodes, strict=True) if node is not None}
        changed = []
        for key, node in found.items():
            state = metadata.parse_shadow(self.app, *key, node.data)
            run = self.runs.setdefault(key, ShadowRun(state, Report(self._instance(key), app=self.app, make_parents=True)))
            if run.mzxid == node.stat.mzxid:
                continue
            run.state, run.mzxid, run.mtime = state, node.stat.mzxid, node.stat.mtime
            run.ends = _end(run, now=now, server_now=server_now)
            if run.ends is not None and run.ends <= now:  # over before it was seen: nothing begins
                run.state, run.ends = replace(state, running=False, reason="lease"), None
            changed.append(run)
        for key in [key for key in self.runs if key not in found]:
            run = self.runs.pop(key)
            run.state = replace(run.state, running=False, reason="deleted")
            changed.append(run)
        return changed

    def retime(self, server_now: float, now: float) -> None:
        """The server's clock is known now: a lease that was counted from the moment when it was seen may end earlier."""
        for run in self.runs.values():
            end = _end(run, now=now, server_now=server_now)
            if end is not None and run.ends is not None:
                run.ends = min(run.ends, end)

    def expire(self, now: float) -> list[ShadowRun]:
        """End what has outlived its lease."""
        over = [run for run in self.runs.values() if run.state.running and run.ends is not None and run.ends <= now]
        for run in over:
            run.state = replace(run.state, running=False, reason="lease")
        return over

    def next_end(self) -> float | None:
        """Return when the next lease ends, on the monotonic clock."""
        return min((run.ends for run in self.runs.values() if run.state.running and run.ends is not None), default=None)

    def deliver(self, run: ShadowRun) -> None:
        """Tell the callback if the group has to start or stop, on the worker thread, and prepare the report."""
        state = run.state
        if self.closed:
            return
        if state.running != run.running:
            run.running, run.failed, run.told = state.running, False, False
            try:
                self.callback(state)
            except Exception as error:
                run.failed = True
                run.report.failed(error)
                raise
        if state.running and not run.failed:
            if run.told:
                run.report.reached(generation=state.generation)
            else:
                run.report.applied(generation=state.generation, cluster=None, state="running")

    def tell(
        self, task: str, group: str, *, state: State | None = None, counts: Mapping[str, int] | None = None, error: str | None = None
    ) -> None:
        """Report what the shadow consumer of a group does now, as `Subscription.tell`; of one that does not run nothing is reported.

        `running` or `suspended` after a callback that has raised says that it runs after all.
        """
        _check(state)
        run = self.runs.get((task, group))
        if run is None or not run.running:
            return
        changed = False
        if state is not None:
            if run.failed and state in {"running", "suspended"}:
                run.failed = False
                run.report.reached(generation=run.state.generation)
            run.told = not run.failed
            changed = run.report.say(state=state, error=error and error[:1000])
        if (counts is not None and run.report.say(counts=dict(counts))) or changed:
            self.on_tell(run, changed)

    def close(self) -> None:
        """Stop following."""
        self.closed = True
        self.on_close(self)

    def _instance(self, key: tuple[str, str]) -> str:
        return f"{paths.shadow_instances(self.app, *key)}/{paths.new_shadow_instance_name(ip=self.ip)}"


def _check(state: State | None) -> None:
    if state is not None and state not in get_args(State):
        raise ValueError(f"state is one of {', '.join(get_args(State))}")


def _end(run: ShadowRun, *, now: float, server_now: float | None) -> float | None:
    """When a lease ends on the monotonic clock, or None: no lease, or not on.

    It is a duration from the change to the end; what has passed of it is told by the server's clock, where that is known.
    """
    if not run.state.running or run.state.lease_until is None:
        return None
    return now + (run.state.lease_until.timestamp() * 1000 - (run.mtime if server_now is None else server_now)) / 1000
