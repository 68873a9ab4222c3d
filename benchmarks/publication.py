"""From a committed change to the watch callback in another process, beside a raw `set` of the same bytes seen by the same process."""

import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import Row

ROUNDS = 300
CLUSTERS = ("/zms/cluster/bench", "/zms/cluster/bench-b")  # the topic goes to and fro
SESSIONS, FLEET_ROUNDS = 1000, 30
CHECKOUT = Path(__file__).resolve().parent.parent

# The other process: kazoo's DataWatch on two nodes, and our SDK on one of them, as a callback and as a producer.
# It prints which callback was called, and when; and of the producer, when it heard of the change, knew the cluster, and had switched.
_WATCHER = """
import os, sys, time
from kazoo.client import KazooClient
from mqadmin_sdk import Client
from mqadmin_sdk.following import Follower
from mqadmin_sdk.producing.topics import Topic
hosts = sys.argv[1]
raw = KazooClient(hosts)
raw.start(timeout=15)
def say(name, at):
    os.write(1, f"{name} {at}\\n".encode())
def follow(name, path):
    raw.DataWatch(path, lambda data, stat, event: say(name, time.time_ns()) if event else None)
follow("raw", "/raw")
follow("published", "/zms/topic/bench")
def then(what, name):
    def told(self, *arguments):
        answer = what(self, *arguments)
        say(name, time.time_ns())
        return answer
    return told
Follower._changed, Follower._offer = then(Follower._changed, "told"), then(Follower._offer, "known")
Topic._switch = then(Topic._switch, "switched")
class Transports:
    def producer(self, cluster, context):
        return Transport()
class Transport:
    def flush(self, *, timeout):
        pass
    def close(self):
        pass
sdk = Client(zookeeper=hosts, app="bench", transports={"kafka": Transports()})
sdk.watch_topic("bench", lambda now: say("sdk", time.time_ns()))
sdk.producer.topic("bench").use(time.monotonic() + 15).release()
say("ready", 0)
sys.stdin.read()
sdk.close()
raw.stop()
"""

# The registrar, which also tells when it was woken and when its request went out.
_REGISTRAR = """
import os, time
import django
django.setup()
from django.core.management import call_command
from kazoo.client import TransactionRequest
from registry.registrar import Registrar
def then(what, name, before):
    def told(self, *arguments):
        if before:
            os.write(1, f"{name} {time.time_ns()}\\n".encode())
        answer = what(self, *arguments)
        if not before:
            os.write(1, f"{name} {time.time_ns()}\\n".encode())
        return answer
    return told
Registrar._wait = then(Registrar._wait, "woken", False)
TransactionRequest.commit_async = then(TransactionRequest.commit_async, "sent", True)
call_command("registrar", skip_checks=True)
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
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ZOOKEEPER_HOSTS": hosts, "PYTHONPATH": path, "MQADMIN_LOG_LEVEL": "CRITICAL"}
    told = subprocess.PIPE
    registrar = subprocess.Popen([sys.executable, "-c", _REGISTRAR], cwd=CHECKOUT, env=environment, stdout=told, text=True)
    parts: list[tuple[str, int]] = []
    listening = threading.Thread(target=_listen, args=(registrar, parts), daemon=True)
    listening.start()
    watcher: subprocess.Popen[str] | None = None
    try:
        _publish(0)
        _wait(lambda: bool(raw.exists("/zms/topic/bench")))
        pipe = subprocess.PIPE
        watcher = subprocess.Popen([sys.executable, "-c", _WATCHER, hosts], stdin=pipe, stdout=pipe, text=True, env=environment)
        _await_all(watcher, {"ready", "sdk"}, 0)
        return [*_measure(raw, watcher, parts), *_fleet(base, top, raw, environment)]
    finally:
        registrar.terminate()
        if watcher is not None and watcher.stdin is not None:
            watcher.stdin.close()
            watcher.wait(20)
        registrar.wait(20)
        Publication.objects.filter(path__in=["/zms/topic/bench", *CLUSTERS]).delete()
        Publication.objects.update(drifted_at=Now())  # what was written to this tree is to be looked at again in the real one
        raw.stop()
        raw.close()
        root.delete(top, recursive=True)
        root.stop()
        root.close()


def _listen(registrar: "subprocess.Popen[str]", parts: list[tuple[str, int]]) -> None:
    for line in registrar.stdout or ():
        name, _, at = line.partition(" ")
        if at.strip().isdigit():
            parts.append((name, int(at)))


def _measure(raw: object, watcher: "subprocess.Popen[str]", parts: list[tuple[str, int]]) -> list[Row]:
    parts_of_it = ("commit", "wake", "read", "write and watch", "the SDK reads", "and switches")
    names = ("raw", "published", "sdk", "switched", "from commit", *parts_of_it)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS + 20):
        data = b"x" * 180 + str(number).encode()
        started = time.time_ns()
        raw.set("/raw", data)  # type: ignore[attr-defined]
        seen = {"raw": _await(watcher, "raw", started)}
        del parts[:]
        started, committed = _publish(number + 1)
        heard = _await_all(watcher, {"published", "sdk", "switched", "told", "known"}, started)
        woken, sent = _parts(parts, started, committed)
        told, known, called, switched = (started + int(heard[name] * 1e6) for name in ("told", "known", "published", "switched"))
        ways = {"from commit": (committed, called), "commit": (started, committed), "wake": (committed, woken), "read": (woken, sent)}
        ways |= {"write and watch": (sent, told), "the SDK reads": (told, known), "and switches": (known, switched)}
        ways["switched"] = (committed, switched)
        seen |= {"published": heard["published"], "sdk": heard["sdk"]}
        seen |= {name: (end - begin) / 1e6 for name, (begin, end) in ways.items()}
        if number >= 20:  # the first rounds warm everything up
            for name, milliseconds in seen.items():
                times[name].append(milliseconds)
    whole = (
        ("from commit", "change committed → DataWatch callback"),
        ("published", "the same, the commit counted"),
        ("sdk", "change → SDK callback, cluster read, the commit counted"),
        ("switched", "change of the cluster committed → producer of another process switched"),
    )
    rows = []
    for name, what in whole:
        for share, pick in (("p50", statistics.median), ("p99", _p99)):
            measured, floor = pick(times[name]), pick(times["raw"])
            note = f"{ROUNDS} changes; floor: raw kazoo set → DataWatch callback in the same process"
            rows.append(Row(f"{what}, {share}", measured, floor, measured / floor, "ms", note))
    for name in parts_of_it:
        measured, floor = statistics.median(times[name]), statistics.median(times["raw"])
        rows.append(Row(f"… part: {name}, p50", measured, floor, measured / floor, "ms", "the same floor"))
    return rows


def _parts(parts: list[tuple[str, int]], started: int, committed: int) -> tuple[int, int]:
    """When the registrar was woken by this change, and when it sent its request."""
    until = time.monotonic() + 5
    while not (sent := next((at for name, at in list(parts) if name == "sent" and at > started), 0)):
        if time.monotonic() > until:
            raise RuntimeError("the registrar sent nothing")
        time.sleep(0.001)
    # It may have been at work already and have found the change without being woken.
    return max((at for name, at in parts if name == "woken" and at < sent), default=committed), sent


def _fleet(base: str, top: str, raw: object, environment: dict[str, str]) -> list[Row]:
    """The same with a thousand sessions that watch: until the last of them has heard."""
    paths = {"raw": f"{top}/raw", "published": f"{top}/zms/topic/bench"}
    command = [sys.executable, "-m", "benchmarks.sessions", base, str(SESSIONS), *paths.values()]
    pipe = subprocess.PIPE
    sessions = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=CHECKOUT)
    times: dict[str, list[float]] = {"raw": [], "published": []}
    try:
        _await(sessions, "ready", 0)
        for number in range(FLEET_ROUNDS + 3):
            started = time.time_ns()
            raw.set("/raw", str(number).encode())  # type: ignore[attr-defined]
            floor = _await(sessions, paths["raw"], started)
            _started, committed = _publish(10_000 + number)
            measured = _await(sessions, paths["published"], committed)
            if number >= 3:
                times["raw"].append(floor)
                times["published"].append(measured)
    finally:
        if sessions.stdin is not None:
            sessions.stdin.close()
        sessions.wait(20)
    floor, measured = statistics.median(times["raw"]), statistics.median(times["published"])
    note = f"{FLEET_ROUNDS} changes; floor: a raw set seen by the same one-shot watches"
    return [Row(f"change committed → the last of {SESSIONS:,} watching sessions, p50", measured, floor, measured / floor, "ms", note)]


def _publish(number: int) -> tuple[int, int]:
    """Change the topic; the moments just before and just after the commit, in ns."""
    from django.db import transaction

    from registry import services
    from registry.releases import Change

    change = Change(author=None, message="benchmark")
    cluster = CLUSTERS[number % 2]
    with transaction.atomic():
        if number == 0:
            for path in CLUSTERS:
                services.publish_properties(
                    path=path, zms={"bootAddr": "h:1", "brokerType": "kafka", "serverIps": ""}, own={}, change=change
                )
        services.publish_properties(
            path="/zms/topic/bench",
            zms={
                "clusterName": cluster.rpartition("/")[2],
                "type": "topic",
                "gatedIps": "",
                "gatedCluster": "",
                "statisticsLogger": "disk",
            },
            own={"mqadmin.drainClusters": str(number) if number else ""},
            requires=[cluster],
            change=change,
        )
        started = time.time_ns()
    return started, time.time_ns()


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
