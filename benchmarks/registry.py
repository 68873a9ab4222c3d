"""The service registry beside raw kazoo: a lookup, a provider's way to a consumer, a thousand providers that join, fifty processes for ids.

    make bench ARGS=registry
    make bench ARGS=registry=1000,50    # so many providers, so many processes

Subscribers are processes of their own, ours and one with kazoo's ChildrenWatch; they tell how many they see, when, and how many requests
they have sent.
"""

import contextlib
import importlib
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from benchmarks import Row
from mqadmin_sdk.registry import Applications, Directory, ServiceUrl, open_registry
from mqadmin_sdk.registry.urls import encode

ROUNDS = 200
LOOKUPS, FEW = 2000, 100  # calls, and the providers that they find
SERVICE = "com.example.Orders"
OURS, RAW = f"/dubbo/{SERVICE}/providers", "/raw"


def run(providers: str = "1000", processes: str = "50") -> list[Row]:
    """Make a tree of its own, measure each side on it in turns, and clean up."""
    from django.conf import settings
    from kazoo.client import KazooClient

    base, _, chroot = settings.ZOOKEEPER_HOSTS.partition("/")
    top = f"/{chroot}/".replace("//", "/") + f"bench-{secrets.token_hex(4)}"
    root = KazooClient(base)
    root.start(timeout=15)
    for path in (OURS, RAW):
        root.ensure_path(f"{top}{path}")
    hosts = f"{base}{top}"
    raw = KazooClient(hosts)
    raw.start(timeout=15)
    try:
        return [*_arrivals(raw, hosts), *_lookups(raw, hosts), *_joining(raw, hosts, int(providers)), *_worker_ids(hosts, int(processes))]
    finally:
        raw.stop()
        raw.close()
        root.delete(top, recursive=True)
        root.stop()
        root.close()


def _provider(number: int) -> ServiceUrl:
    return ServiceUrl("dubbo", f"10.0.{number // 250}.{number % 250}", 20880, SERVICE, {"application": "shop", "side": "provider"})


def _consumer() -> ServiceUrl:
    return ServiceUrl("consumer", "10.1.0.1", 0, SERVICE, {"category": "providers"})


# --- one provider -------------------------------------------------------------------------------------------------------


def _arrivals(raw: Any, hosts: str) -> list[Row]:
    """From the call of a provider to the callback of a subscriber in another process, one after the other and in turns."""
    times: dict[str, list[float]] = {"ours": [], "raw": []}
    registry = open_registry(f"zookeeper://{hosts}")
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "raw": (lambda: raw.create(f"{RAW}/one", b"10.0.0.1", ephemeral=True), lambda: raw.delete(f"{RAW}/one")),
        "ours": (lambda: registry.register(_provider(1)), lambda: registry.unregister(_provider(1))),
    }
    try:
        with _subscriber("ours", hosts) as ours, _subscriber("raw", hosts) as theirs:
            saw = {"ours": ours, "raw": theirs}
            for number in range(ROUNDS + 10):
                for side, (come, go) in ways.items():
                    began = time.time_ns()
                    come()
                    at, _requests = saw[side](1)
                    if number >= 10:  # the first rounds warm everything up
                        times[side].append((at - began) / 1e6)
                    go()
                    saw[side](0)
    finally:
        registry.close()
    rows = []
    for share, pick in (("p50", statistics.median), ("p99", lambda values: statistics.quantiles(values, n=100)[98])):
        measured, floor = pick(times["ours"]), pick(times["raw"])
        note = f"{ROUNDS} providers; floor: raw ephemeral create → ChildrenWatch of another process"
        rows.append(Row(f"registry: a provider registers → subscriber's callback, {share}", measured, floor, measured / floor, "ms", note))
    return rows


def _lookups(raw: Any, hosts: str) -> list[Row]:
    """What a consumer asks before each call: the directory that is kept up to date, and the registry itself."""
    paths = [f"{OURS}/{encode(str(_provider(number)))}" for number in range(FEW)]
    _all([raw.create_async(path, b"10.0.0.1", ephemeral=True) for path in paths])
    with closing(open_registry(f"zookeeper://{hosts}")) as registry, Directory(registry, _consumer()) as directory:
        works: dict[str, Callable[[], Any]] = {
            "directory": directory.urls,
            "lookup": lambda: registry.lookup(_consumer()),
            "raw": lambda: raw.get_children(OURS),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(LOOKUPS // 10):
            for name, work in works.items():
                began = time.perf_counter()
                for _ in range(10):
                    if len(work()) != FEW:
                        raise RuntimeError(f"{name} does not find what is there")
                times[name].append((time.perf_counter() - began) / 10 * 1e6)
    _all([raw.delete_async(path) for path in paths])
    least = statistics.median(times["raw"])
    rows = []
    for name, what in (("directory", "from the directory"), ("lookup", "asked of ZooKeeper, as URLs that match")):
        measured = statistics.median(times[name])
        note = "baseline: raw get_children, names only"
        rows.append(Row(f"registry: {FEW} providers {what}", round(measured, 1), round(least, 1), measured / least, "µs", note))
    return rows


# --- many providers -----------------------------------------------------------------------------------------------------


def _joining(raw: Any, hosts: str, providers: int) -> list[Row]:
    """From the first of many nodes to the subscriber that has all of them; the nodes come in the same way for each side."""
    names = [encode(str(_provider(number))) for number in range(providers)]
    found: dict[str, tuple[float, int]] = {}
    for side, path in (("raw", RAW), ("ours", OURS)):
        with _subscriber(side, hosts) as saw:
            _at, before = saw(0)
            began = time.time_ns()
            made = [raw.create_async(f"{path}/{name}", b"10.0.0.1", ephemeral=True) for name in names]
            at, requests = saw(providers)
            found[side] = ((at - began) / 1e9, requests - before)
            _all(made)
        _all([raw.delete_async(f"{path}/{name}") for name in names])
    (measured, asked), (floor, theirs) = found["ours"], found["raw"]
    note = "ephemeral nodes made at once; floor: ChildrenWatch, which gives names only"
    what = f"registry: {providers:,} providers of one service join →"
    return [
        Row(f"{what} a subscriber has all", round(measured, 3), round(floor, 3), measured / floor, "s", note),
        Row(f"{what} a subscriber's requests", asked, theirs, asked / theirs, "", "the same floor"),
    ]


# --- worker ids ---------------------------------------------------------------------------------------------------------


def _worker_ids(hosts: str, processes: int) -> list[Row]:
    """All at once, connected beforehand: until the last has its id; kazoo's Counter gives numbers, though not the same after a restart."""
    seconds = {}
    for side in ("counter", "ours"):
        with _started("ids", side, hosts, str(processes)) as process:
            _answer(process, "ready")
            began = time.time_ns()
            print("go", file=process.stdin, flush=True)
            at, numbers = _answer(process, "all")
            if numbers != processes:
                raise RuntimeError(f"{side}: {numbers} different ids for {processes} processes")
            seconds[side] = (at - began) / 1e9
    measured, floor = seconds["ours"], seconds["counter"]
    note = "all ask at once; floor: kazoo's Counter, each process adds one"
    return [Row(f"registry: worker ids for {processes} processes", round(measured, 3), round(floor, 3), measured / floor, "s", note)]


# --- the other processes ------------------------------------------------------------------------------------------------


@contextmanager
def _started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.registry", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _answer(process: subprocess.Popen[str], word: str) -> tuple[int, int]:
    assert process.stdout is not None
    while line := process.stdout.readline():
        said, at, number = line.split()
        if said == word:
            return int(at), int(number)
    raise RuntimeError(f"the other process ended with {process.wait(10)}")


@contextmanager
def _subscriber(side: str, hosts: str) -> Iterator[Callable[[int], tuple[int, int]]]:
    """Gives what waits until the subscriber sees so many: when that was, and how many requests it had sent."""
    with _started("subscribe", side, hosts) as process:
        yield lambda providers: _answer(process, str(providers))


def _say(word: object, number: int) -> None:
    os.write(1, f"{word} {time.time_ns()} {number}\n".encode())


def _subscribe(side: str, hosts: str) -> None:
    from kazoo.client import KazooClient

    requests = [0]
    call = KazooClient._call

    def counted(self: Any, request: Any, result: Any) -> Any:
        requests[0] += 1
        return call(self, request, result)

    KazooClient._call = counted
    if side == "raw":
        client = KazooClient(hosts)
        client.start(timeout=15)
        client.ChildrenWatch(RAW, lambda names: _say(len(names), requests[0]))
    else:
        registry = open_registry(f"zookeeper://{hosts}")
        registry.subscribe(_consumer(), lambda heard: _say(len(heard.live), requests[0]))
    sys.stdin.read()
    os._exit(0)


def _ids(side: str, hosts: str, processes: str) -> None:
    """Fork before anything is connected; the parent opens the gate for all and counts."""
    for module in ("kazoo.recipe.counter", "mqadmin_sdk.zk.client"):  # what loading takes counts for nobody
        importlib.import_module(module)
    gate, opened = os.pipe()
    heard, tell = os.pipe()
    for number in range(int(processes)):
        if os.fork() == 0:
            os.close(opened)
            take = _by_ours(hosts, number) if side == "ours" else _by_counter(hosts)
            os.write(tell, b"ready\n")
            os.read(gate, 1)  # ends for all together
            os.write(tell, f"{take()}\n".encode())
            os._exit(0)
    with os.fdopen(heard) as lines:
        ready = [lines.readline() for _ in range(int(processes))]
        _say("ready", len(ready))
        sys.stdin.readline()
        os.close(gate)
        os.close(opened)
        numbers = {lines.readline() for _ in range(int(processes))}
        _say("all", len(numbers))
    for _ in range(int(processes)):
        with contextlib.suppress(ChildProcessError):
            os.wait()
    os._exit(0)


def _by_ours(hosts: str, number: int) -> Callable[[], int]:
    applications = Applications(hosts, host=f"10.0.0.{number}", timeout=60)
    applications.applications()
    return lambda: applications.worker_id("shop", timeout=120)


def _by_counter(hosts: str) -> Callable[[], int]:
    from kazoo.client import KazooClient

    # As patient as ours: kazoo's own pauses would be longer than all the rest.
    client = KazooClient(hosts, command_retry={"max_tries": -1, "delay": 0.002, "backoff": 2, "max_delay": 0.1})
    client.start(timeout=60)
    counter = client.Counter("/counter")

    def take() -> int:
        number: int = (counter + 1).post_value
        return number

    return take


def _all(results: list[Any]) -> None:
    for result in results:
        result.get(timeout=60)


if __name__ == "__main__":
    if sys.argv[1] == "subscribe":
        _subscribe(*sys.argv[2:])
    else:
        _ids(*sys.argv[2:])
