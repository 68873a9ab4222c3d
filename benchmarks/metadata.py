"""One process that follows 2,000 topics: how long, how much memory, how many threads, and what it costs to come back after a cut.

    make bench ARGS=metadata
    make bench ARGS=metadata=500,2000     # so many topics, so many nodes in the cache

Beside kazoo's DataWatch for each topic and its TreeCache of all. Ours also makes an instance's node at each topic and reports what it has
applied, which they do not; the time of that is shown apart. Each side runs in a process of its own, behind a relay that cuts it off.
"""

import importlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import Row

OTHERS, THEIR_TOPICS, THEIR_REPORTS = 20, 50, 10  # processes that follow some of the topics too, and how often each reports at each


def run(topics: str = "2000", nodes: str = "10000") -> list[Row]:
    """Make a tree of its own, measure each side on it, and clean up."""
    from django.conf import settings
    from kazoo.client import KazooClient

    base, _, chroot = settings.ZOOKEEPER_HOSTS.partition("/")
    top = f"/{chroot}/".replace("//", "/") + f"bench-{secrets.token_hex(4)}"
    root = KazooClient(base)
    root.start(timeout=15)
    root.ensure_path(f"{top}/zms/topic")
    raw = KazooClient(f"{base}{top}")
    raw.start(timeout=15)
    try:
        raw.create("/zms/cluster/a", b"bootAddr=h:9092\nbrokerType=kafka\nmqadmin.generation=1\n", makepath=True)
        names = [f"t{number}" for number in range(int(topics))]
        _all([raw.create_async(f"/zms/topic/{name}", _topic(0)) for name in names])
        raw.create("/cache")
        _all([raw.create_async(f"/cache/{number}", bytes(100)) for number in range(int(nodes))])
        return _following(raw, base, top, names) + _reports(raw, f"{base}{top}", names) + _cache(f"{base}{top}", int(nodes))
    finally:
        raw.stop()
        for path in ("/zms/topic", "/cache"):
            _all([root.delete_async(f"{top}{path}/{name}") for name in root.get_children(f"{top}{path}")])
        root.delete(top, recursive=True)
        root.stop()


def _topic(generation: int) -> bytes:
    return f"clusterName=a\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation={generation}\n".encode()


def _all(results: list[Any]) -> None:
    for result in results:
        result.get(timeout=60)


# --- following ----------------------------------------------------------------------------------------------------------


def _following(raw: Any, base: str, top: str, names: list[str]) -> list[Row]:
    found = {}
    for generation, side in enumerate(("ours", "DataWatch", "TreeCache"), 1):
        relay = Relay(base)
        with _side(side, f"{relay.hosts}{top}", topics=len(names)) as said:
            found[side] = said("known")
            relay.cut()
            _all([raw.set_async(f"/zms/topic/{name}", _topic(generation)) for name in names])
            relay.open()
            found[side] |= said("again")
        relay.close()
        print(f"  {side}: {found[side]}", flush=True)
    ours, many = found["ours"], f"{len(names):,} topics"
    rows = []
    for peer in ("DataWatch", "TreeCache"):
        it, note = found[peer], f"beside kazoo's {peer}"
        for name, key, unit in (
            (f"{many} known, first time", "known", "s"),
            (f"memory for {many}", "memory", "MB"),
            (f"threads for {many}", "threads", ""),
            ("all of them changed during a cut: all seen after reconnecting", "seen", "s"),
        ):
            rows.append(Row(name, ours[key], it[key], ours[key] / it[key], unit, note))
    note = "an instance's node made and set at each; beside knowing them all"
    both = ours["reported"], ours["known"]
    return [*rows, Row(f"{many} known and reported as applied", *both, both[0] / both[1], "s", note)]


def _reports(raw: Any, hosts: str, names: list[str]) -> list[Row]:
    """What a process has to do while others report: ours, and one with a persistent recursive watch on the tree."""
    found = {}
    for side in ("ours", "recursive"):
        with _side(side, hosts, topics=len(names)) as said:
            said("known")
            said("cost", "cost")  # from here on
            _others(raw, names)
            found[side] = said("cost", "cost")
        print(f"  while others report, {side}: {found[side]}", flush=True)
    count = OTHERS * THEIR_TOPICS * (THEIR_REPORTS + 2)
    told = " and ".join(f"{found[side]['events']:,}" for side in ("ours", "recursive"))
    note = f"{OTHERS} others come, report and go, {count:,} changes; told of {told}"
    one, other = (max(found[side]["cpu"], 0.001) for side in ("ours", "recursive"))
    return [Row("CPU while other instances report, beside one recursive watch", one, other, one / other, "s", note)]


def _others(raw: Any, names: list[str]) -> None:
    mine = names[:THEIR_TOPICS]
    for number in range(OTHERS):
        paths = [f"/zms/topic/{name}/10.0.0.{number}||DEFAULT_PRODUCER||x||2026||{number}" for name in mine]
        _all([raw.create_async(path, b"{}", ephemeral=True) for path in paths])
        for _ in range(THEIR_REPORTS):
            _all([raw.set_async(path, b"{}") for path in paths])
        _all([raw.delete_async(path) for path in paths])


# --- a cache of many nodes ----------------------------------------------------------------------------------------------


def _cache(hosts: str, nodes: int) -> list[Row]:
    found = {}
    for side in ("bulk", "tree cache"):
        with _side(side, hosts, nodes=nodes) as said:
            found[side] = said("cached")
        print(f"  cache, {side}: {found[side]}", flush=True)
    ours, peer = found["bulk"]["seconds"], found["tree cache"]["seconds"]
    note = f"watched and read by MultiRead, beside TreeCache; that is {peer / ours:.1f} times as fast"
    return [Row(f"cache of {nodes:,} nodes filled", ours, peer, ours / peer, "s", note)]


# --- the sides, each a process ------------------------------------------------------------------------------------------


@contextmanager
def _side(side: str, hosts: str, **options: int) -> Iterator[Callable[..., dict[str, Any]]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "benchmarks.metadata", json.dumps({"side": side, "hosts": hosts, **options})]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "MQADMIN_CACHE_DIR": ""})

    def said(word: str, ask: str = "") -> dict[str, Any]:
        if ask:
            print(ask, file=process.stdin, flush=True)
        while line := process.stdout.readline():  # type: ignore[union-attr]
            if line.startswith(f"{word} "):
                answer: dict[str, Any] = json.loads(line.partition(" ")[2])
                return answer
        raise RuntimeError(f"{side} ended with {process.wait(10)}")

    try:
        yield said
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


class Relay:
    """Hands bytes on between a client and ZooKeeper, until it is told to cut."""

    def __init__(self, hosts: str) -> None:
        host, _, port = hosts.split(",", maxsplit=1)[0].partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.hosts = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._let_in = threading.Event()
        self._let_in.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._let_in.is_set():
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 20):
                sink.sendall(data)
        except OSError:
            pass

    def cut(self) -> None:
        """End what is open, and let nobody in."""
        self._let_in.clear()
        for pair in self._pairs:
            for end in pair:
                end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()

    def open(self) -> None:
        """Let in again."""
        self._let_in.set()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


class Progress:
    """What a side has seen, said to the process that measures."""

    def __init__(self, topics: int) -> None:
        self.topics = topics
        self.seen: dict[str, object] = {}
        self.changed = 0
        self.again = False  # changes count from here on
        self.connected_at = 0.0
        self.base, self.began = _memory(), time.monotonic()
        self.known_at = 0.0

    def saw(self, name: str, state: object) -> None:
        """Count a topic when it is first seen, and when it is another than before."""
        before = self.seen.get(name)
        self.seen[name] = state
        if self.again and before != state:
            self.changed += 1
            if self.changed == self.topics:
                _say("again", seen=round(time.monotonic() - self.connected_at, 3))

    def on_state(self, state: str) -> None:
        """Note when the connection is back."""
        if state == "CONNECTED":
            self.connected_at = time.monotonic()

    def known(self, settle: Callable[[], None] = lambda: None) -> None:
        """Wait until every topic has been seen, and say so."""
        _until(lambda: len(self.seen) == self.topics)
        known = time.monotonic() - self.began
        settle()
        reported = time.monotonic() - self.began
        self.again = True
        memory = (_memory() - self.base) / 1e6
        _say("known", known=round(known, 3), reported=round(reported, 3), memory=round(memory, 1), threads=threading.active_count())


def _side_main(side: str, hosts: str, topics: int = 0, nodes: int = 0) -> None:
    if nodes:
        _filled(side, hosts, nodes)
        return
    for module in ("kazoo.recipe.cache", "mqadmin_sdk"):  # what they take counts for nobody
        importlib.import_module(module)
    progress = Progress(topics)
    names = [f"t{number}" for number in range(topics)]
    zookeeper = {"ours": _ours, "DataWatch": _data_watches, "TreeCache": _tree_cache, "recursive": _recursive}[side](hosts, progress, names)
    events = [0]
    if side in {"ours", "recursive"}:
        dispatch = zookeeper.dispatch
        zookeeper.dispatch = lambda event: (events.__setitem__(0, events[0] + 1), dispatch(event))
    before = time.process_time()
    for _line in sys.stdin:
        last = -1
        while last != events[0]:
            last = events[0]
            time.sleep(1)
        _say("cost", cpu=round(time.process_time() - before, 3), events=events[0])
        before, events[0] = time.process_time(), 0
    zookeeper.stop()  # the session, and with it the instances' nodes: the next side finds none
    os._exit(0)


def _ours(hosts: str, progress: Progress, names: list[str]) -> Any:
    from mqadmin_sdk import Client

    client = Client(zookeeper=hosts, app="bench", session_timeout=30)
    follower = client._follower
    zookeeper = follower.connection.get()
    zookeeper.add_listener(progress.on_state)

    def watch(name: str) -> None:
        client.watch_topic(name, lambda now: progress.saw(name, now and now.generation))

    for name in names:
        watch(name)
    # Written are first the nodes, then again each with what was applied.
    progress.known(lambda: _until(lambda: not follower._reports and follower._inbox.empty() and not follower._dirty))
    return zookeeper


def _data_watches(hosts: str, progress: Progress, names: list[str]) -> Any:
    from kazoo.client import KazooClient

    client = KazooClient(hosts, timeout=30)
    client.add_listener(progress.on_state)
    client.start(timeout=30)

    def watch(name: str) -> None:
        client.DataWatch(f"/zms/topic/{name}", lambda data, _stat: progress.saw(name, data))

    for name in names:
        watch(name)
    progress.known()
    return client


def _tree_cache(hosts: str, progress: Progress, _names: list[str]) -> Any:
    from kazoo.client import KazooClient
    from kazoo.recipe.cache import TreeCache, TreeEvent

    client = KazooClient(hosts, timeout=30)
    client.add_listener(progress.on_state)
    client.start(timeout=30)
    cache = TreeCache(client, "/zms/topic")

    def heard(event: Any) -> None:
        if event.event_type in {TreeEvent.NODE_ADDED, TreeEvent.NODE_UPDATED} and event.event_data.path.count("/") == 3:
            progress.saw(event.event_data.path, event.event_data.data)

    cache.listen(heard)
    cache.start()
    progress.known()
    return client


def _recursive(hosts: str, progress: Progress, names: list[str]) -> Any:
    """As little as one can do with a recursive watch on the tree: look which topic an event is for."""
    from mqadmin_sdk.zk import Client

    client = Client(hosts, timeout=30)
    client.start(timeout=30)
    watched = {f"/zms/topic/{name}" for name in names}
    client.watch_tree("/zms/topic", lambda event: event.path in watched)
    for name, node in zip(names, client.multi_read([f"/zms/topic/{name}" for name in names])[1], strict=True):
        progress.saw(name, node.data if node else None)
    progress.known()
    return client


def _filled(side: str, hosts: str, nodes: int) -> None:
    from kazoo.client import KazooClient
    from kazoo.recipe.cache import TreeCache, TreeEvent

    from mqadmin_sdk.zk import Client

    client: Any = (Client if side == "bulk" else KazooClient)(hosts, timeout=30)
    client.start(timeout=30)
    began = time.monotonic()
    if side == "bulk":
        client.watch_tree("/cache", lambda _event: None)
        paths = [f"/cache/{name}" for name in (client.multi_children(["/cache"])[1][0] or ())]
        kept = dict(zip(paths, client.multi_read(paths)[1], strict=True))
        assert len(kept) == nodes
    else:
        ready, cache = threading.Event(), TreeCache(client, "/cache")

        def heard(event: Any) -> None:
            if event.event_type == TreeEvent.INITIALIZED:
                ready.set()

        cache.listen(heard)
        cache.start()
        ready.wait(120)
        assert len(cache.get_children("/cache")) == nodes
    _say("cached", seconds=round(time.monotonic() - began, 3))
    sys.stdin.read()
    os._exit(0)


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.005)


def _say(word: str, **what: float) -> None:
    print(word, json.dumps(what), flush=True)


if __name__ == "__main__":
    _side_main(**json.loads(sys.argv[1]))
