"""From a committed change to the watch callback in another process, beside a raw `set` of the same bytes seen by the same process."""

import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import Row

ROUNDS = 300
CHECKOUT = Path(__file__).resolve().parent.parent

# The other process: kazoo as it comes on two nodes, and our SDK on one of them. It prints which watch fired, and when.
_WATCHER = """
import os, sys, time
from kazoo.client import KazooClient
from mqadmin_sdk import Client
hosts = sys.argv[1]
raw = KazooClient(hosts)
raw.start(timeout=15)
def say(name, at):
    os.write(1, f"{name} {at}\\n".encode())
def follow(name, path):
    def fired(event):
        at = time.time_ns()
        raw.get_async(path, watch=fired)
        say(name, at)
    raw.get(path, watch=fired)
follow("raw", "/raw")
follow("published", "/zms/topic/bench")
sdk = Client(zookeeper=hosts, app="bench")
sdk.watch_topic("bench", lambda now: say("sdk", time.time_ns()))
say("ready", 0)
sys.stdin.read()
sdk.close()
raw.stop()
"""


def run() -> list[Row]:
    """Start a registrar and a watching process on a tree of their own, change one topic again and again, and clean up."""
    from django.conf import settings
    from django.db.models.functions import Now
    from kazoo.client import KazooClient

    from registry.models import Publication, RegistrarHeartbeat

    if RegistrarHeartbeat.objects.alive().exists():
        raise RuntimeError("A registrar runs on this database; the benchmark needs one that nothing else publishes from.")
    base, _, chroot = settings.ZOOKEEPER_HOSTS.partition("/")
    top = f"/{chroot}/".replace("//", "/") + f"bench-{secrets.token_hex(4)}"
    root = KazooClient(base)
    root.start(timeout=15)
    root.ensure_path(f"{top}/raw")
    hosts = f"{base}{top}"
    raw = KazooClient(hosts)
    raw.start(timeout=15)
    environment = os.environ | {"ZOOKEEPER_HOSTS": hosts, "PYTHONPATH": str(CHECKOUT)}
    quiet = subprocess.DEVNULL
    registrar = subprocess.Popen([sys.executable, "manage.py", "registrar"], cwd=CHECKOUT, env=environment, stdout=quiet, stderr=quiet)
    watcher: subprocess.Popen[str] | None = None
    try:
        _publish(0)
        _wait(lambda: bool(raw.exists("/zms/topic/bench")))
        pipe = subprocess.PIPE
        watcher = subprocess.Popen([sys.executable, "-c", _WATCHER, hosts], stdin=pipe, stdout=pipe, text=True, env=environment)
        _await(watcher, "ready", 0)
        _await(watcher, "sdk", 0)
        return _measure(raw, watcher)
    finally:
        registrar.terminate()
        if watcher is not None and watcher.stdin is not None:
            watcher.stdin.close()
            watcher.wait(20)
        registrar.wait(20)
        Publication.objects.filter(path__in=["/zms/topic/bench", "/zms/cluster/bench"]).delete()
        Publication.objects.update(drifted_at=Now())  # what was written to this tree is to be looked at again in the real one
        raw.stop()
        raw.close()
        root.delete(top, recursive=True)
        root.stop()
        root.close()


def _measure(raw: object, watcher: "subprocess.Popen[str]") -> list[Row]:
    times: dict[str, list[float]] = {"raw": [], "published": [], "sdk": []}
    for number in range(ROUNDS + 20):
        data = b"x" * 180 + str(number).encode()
        started = time.time_ns()
        raw.set("/raw", data)  # type: ignore[attr-defined]
        seen = {"raw": _await(watcher, "raw", started)}
        started = _publish(number + 1)
        seen |= _await_all(watcher, {"published", "sdk"}, started)
        if number >= 20:  # the first rounds warm everything up
            for name, milliseconds in seen.items():
                times[name].append(milliseconds)
    rows = []
    for name, what in (("published", "change committed → watch callback"), ("sdk", "change committed → SDK callback, cluster read")):
        for share, pick in (("p50", statistics.median), ("p99", _p99)):
            measured, floor = pick(times[name]), pick(times["raw"])
            note = f"{ROUNDS} changes; floor: raw set → watch callback; the commit itself is counted"
            rows.append(Row(f"{what}, {share}", measured, floor, measured / floor, "ms", note))
    return rows


def _publish(number: int) -> int:
    """Change the topic; the moment just before the commit, in ns."""
    from django.db import transaction

    from registry import services
    from registry.releases import Change

    change = Change(author=None, message="benchmark")
    with transaction.atomic():
        if number == 0:
            services.publish_properties(
                path="/zms/cluster/bench", zms={"bootAddr": "h:1", "brokerType": "kafka", "serverIps": ""}, own={}, change=change
            )
        services.publish_properties(
            path="/zms/topic/bench",
            zms={"clusterName": "bench", "type": "topic", "gatedIps": "", "gatedCluster": "", "statisticsLogger": "disk"},
            own={"mqadmin.drainClusters": str(number) if number else ""},
            requires=["/zms/cluster/bench"],
            change=change,
        )
        return time.time_ns()


def _await(watcher: "subprocess.Popen[str]", name: str, started: int) -> float:
    return _await_all(watcher, {name}, started)[name]


def _await_all(watcher: "subprocess.Popen[str]", names: set[str], started: int) -> dict[str, float]:
    seen: dict[str, float] = {}
    while names - set(seen):
        line = watcher.stdout.readline() if watcher.stdout else ""
        if not line:
            raise RuntimeError("the watching process has ended")
        name, at = line.split()
        if name in names:
            seen[name] = (int(at) - started) / 1e6
    return seen


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError("the registrar did not publish in time")
        time.sleep(0.05)
