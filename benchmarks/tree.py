"""A tree of 10,000 topics: compared with the database in full, and a registrar that watches 2,000 live instances.

    make bench ARGS=tree
    make bench ARGS=tree=2000,500    # topics, instances

The full comparison is what a registrar does for each of the four trees, strays among ZooKeeper's nodes included; the operation is what a
person starts in the console, with a registrar and a worker as processes of their own. Instances are sessions of their own, a socket each
(benchmarks/sessions.py), with an ephemeral node and a report each.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import Row, fleet, separately

TOPICS, INSTANCES, ROUNDS = 10_000, 2_000, 5
REST = 10  # seconds
CHECKOUT = Path(__file__).resolve().parent.parent


def run(topics: str = str(TOPICS), instances: str = str(INSTANCES)) -> list[Row]:
    """In a process of its own, on a database and a tree of its own."""
    return separately.run("benchmarks.tree", topics, instances)


def measure(topics: int, instances: int) -> list[Row]:
    """All of it, in this process's database."""
    from django.conf import settings

    from mqadmin_sdk.zk import Client
    from registry.models import Publication
    from registry.publishing import Publisher
    from registry.roots import ROOTS
    from registry.surveying import survey

    zookeeper = Client(settings.ZOOKEEPER_HOSTS)
    zookeeper.start(timeout=15)
    try:
        fleet._fill(topics)
        Publisher(zookeeper, name="bench").publish_due()
        paths = list(Publication.objects.exclude(generation=0).values_list("path", flat=True))
        compared, floors = [], []
        for _round in range(ROUNDS):
            compared.append(_timed(lambda: [survey(zookeeper, tree) for tree in ROOTS]))
            floors.append(_timed(lambda: zookeeper.multi_read(paths)))
        whole = _checked()
        watching = _watching(topics, instances)
    finally:
        zookeeper.stop()
        zookeeper.close()
    floor, alone = statistics.median(floors), statistics.median(compared)
    what = f"{len(paths):,} nodes"
    return [
        Row(f"full comparison of {what} with the database", alone, floor, alone / floor, "s", "floor: MultiRead of the nodes alone"),
        Row(f"full check of {what} as an operation, brokers included", whole, floor, whole / floor, "s", "a worker and a registrar"),
        *watching,
    ]


def _checked() -> float:
    from core.operations.models import Operation
    from registry import checks
    from registry.models import RegistrarHeartbeat

    with fleet._processes():
        fleet._wait(lambda: RegistrarHeartbeat.objects.watching().exists())
        began = time.perf_counter()
        operation = checks.start(actor=None)
        fleet._wait(lambda: Operation.objects.get(pk=operation.pk).finished_at is not None)
        took = time.perf_counter() - began
    operation.refresh_from_db()
    # The groups were put into the tables past the store, and the check says so of each; nothing else differs.
    codes = set(operation.items.exclude(code="").values_list("code", flat=True))
    assert operation.finished_at is not None
    assert codes <= {"broker_differs"}, codes
    return took


def _watching(topics: int, instances: int) -> list[Row]:
    """Processor time and memory of a registrar: until it knows all of them, and at rest."""
    from django.conf import settings

    from registry.models import Instance, RegistrarHeartbeat

    base, _, chroot = settings.ZOOKEEPER_HOSTS.partition("/")
    nodes = [f"/{chroot}/zms/topic/fleet_topic_{number % topics:06}" for number in range(instances)]
    command = [sys.executable, "-m", "benchmarks.sessions", base, str(instances), "live"]
    sessions = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    registrar: subprocess.Popen[Any] | None = None
    try:
        assert sessions.stdin is not None
        assert sessions.stdout is not None
        sessions.stdin.write("".join(f"{node}\n" for node in nodes))
        sessions.stdin.flush()
        if sessions.stdout.readline() != "ready 0\n":
            raise RuntimeError("the sessions did not come up")
        began = time.perf_counter()
        registrar = subprocess.Popen([sys.executable, "manage.py", "registrar", "--skip-checks"], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        fleet._wait(lambda: RegistrarHeartbeat.objects.watching().exists() and Instance.objects.online().count() >= instances)
        ready, spent = time.perf_counter() - began, _cpu(registrar.pid)
        time.sleep(REST)
        idle = (_cpu(registrar.pid) - spent) / REST
        status = Path(f"/proc/{registrar.pid}/status").read_text().splitlines()
        mb = int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024
        bare = _bare()
    finally:
        if registrar is not None:
            registrar.terminate()
            registrar.wait(20)
        if sessions.stdin is not None:
            sessions.stdin.close()
        sessions.wait(30)
    what = f"{topics:,} topics, {instances:,} live instances"
    return [
        Row(f"a registrar starts, until it knows {what}", ready, spent, ready / spent, "s", "floor: its own processor time"),
        Row("… at rest: processor", idle, 1.0, idle, "cores", f"{REST} s, its comparison of all each minute may be among them"),
        Row("… memory", mb, bare, mb / bare, "MB", "floor: the same process with Django loaded and nothing else"),
    ]


def _bare() -> float:
    """MB of a process that has only loaded Django with mqadmin's rooms."""
    script = "import django; django.setup(); import registry.registrar; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return int(next(line for line in done.stdout.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    separately.answer(lambda: measure(int(sys.argv[1]), int(sys.argv[2])))
