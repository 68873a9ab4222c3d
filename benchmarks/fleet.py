"""A cluster is lost: 10,000 topics move to another one in one operation.

    make bench ARGS=fleet        # 10,000 topics, a tenth of them with a consumer group
    make bench ARGS=fleet=2000

It fills a database and a ZooKeeper tree of its own and drops both. Publication alone is a registrar's publisher over rows that are all
due, until every node stands and until that is recorded, beside the same bytes written by kazoo in pipelined `multi`s of 100; the whole
operation is counted from its start until every node stands and is recorded, with a registrar and a worker as processes of their own.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import Row, separately

TOPICS = 10_000
ROUNDS = 5
CHECKOUT = Path(__file__).resolve().parent.parent
_WORKER = """
import django; django.setup()
import time
from core.operations import driving
while True:
    driving.drive() or time.sleep(0.02)
"""


def run(topics: str = str(TOPICS)) -> list[Row]:
    """In a process of its own, on a database and a tree of its own."""
    return separately.run("benchmarks.fleet", topics)


def measure(topics: int) -> list[Row]:
    """All of it, in this process's database."""
    from django.conf import settings

    from mqadmin_sdk.zk import Client
    from registry.models import Publication
    from registry.publishing import Publisher

    zookeeper = Client(settings.ZOOKEEPER_HOSTS)
    zookeeper.start(timeout=15)
    try:
        stood = 0.0

        class Noting(Publisher):
            """Says when the last node stood."""

            def _land(self, *arguments: Any) -> bool:
                nonlocal stood
                moved = super()._land(*arguments)
                stood = time.perf_counter()
                return moved

        publisher = Noting(zookeeper, name="bench")
        _fill(topics)
        _timed(publisher.publish_due)
        nodes = [f"/raw/{number}" for number in range(Publication.objects.count())]
        zookeeper.ensure_path("/raw")
        _multi(zookeeper, [("create", path, b"") for path in nodes])
        deciding, standing, publishing, floors = [], [], [], []
        for number in range(ROUNDS):
            deciding.append(_timed(partial(_move, number)))
            data = [bytes(row) for row in Publication.objects.filter(path__regex="topic|group").values_list("data", flat=True)]
            writes = [("set_data", path, one) for path, one in zip(nodes, data, strict=False)]
            floors.append(_timed(partial(_multi, zookeeper, writes)))
            began = time.perf_counter()
            publishing.append(_timed(publisher.publish_due))
            standing.append(stood - began)
            assert not Publication.objects.dirty().exists()
        written = len(data)
        whole = [_whole(number) for number in range(ROUNDS, ROUNDS + 3)]
    finally:
        zookeeper.stop()
        zookeeper.close()
    floor, alone, recorded = statistics.median(floors), statistics.median(standing), statistics.median(publishing)
    what = f"{topics:,} topics and {written - topics:,} groups to another cluster"
    return [
        Row(
            f"{what}: publication alone, until the last node stands",
            alone,
            floor,
            alone / floor,
            "s",
            f"floor: raw pipelined multi of the same {written:,} nodes",
        ),
        Row(f"{what}: publication alone, until it is recorded", recorded, floor, recorded / floor, "s", "the same floor"),
        Row(f"{what}: decided in Postgres", statistics.median(deciding), floor, statistics.median(deciding) / floor, "s", "one worker"),
        Row(f"{what}: the whole operation", max(whole), floor, max(whole) / floor, "s", "a worker and a registrar; the slowest of 3"),
    ]


def _fill(topics: int) -> None:
    """Two clusters, the topics on the first, a group on every tenth; their nodes are due."""
    from accounts.models import Application, User
    from clusters import services as clusters
    from clusters.models import Cluster
    from consumers.models import ConsumerGroup, Subscription
    from consumers.services import nodes_of
    from core.approvals.models import State
    from registry import services as registry
    from registry.releases import Change
    from topics.models import Topic
    from topics.services import node_of

    actor = User.objects.create_superuser("bench-fleet")
    application = Application.objects.create(name="bench-fleet", owner=actor)
    for name in ("fleet-0", "fleet-1"):
        clusters.create(actor=actor, name=name, kind="kafka", address=f"{name}:9092")
    cluster = Cluster.objects.get(name="fleet-0")
    common = {"application": application, "owner": actor, "requested_by": actor, "state": State.ACTIVE, "reason": "bench"}
    made = Topic.objects.bulk_create(
        Topic(name=f"fleet_topic_{number:06}", cluster=cluster, expected_rate=100, message_bytes=500, **common) for number in range(topics)
    )
    groups = ConsumerGroup.objects.bulk_create(ConsumerGroup(name=f"fleet_group_{number:06}", **common) for number in range(0, topics, 10))
    Subscription.objects.bulk_create(
        Subscription(group=group, topic=topic, position=0) for group, topic in zip(groups, made[::10], strict=True)
    )
    change = Change(author=actor, message="bench")
    for start in range(0, topics, 1000):
        registry.publish_many([node_of(topic) for topic in made[start : start + 1000]], change=change)
    registry.publish_many(nodes_of([group.name for group in groups]), change=change)


def _start(number: int) -> Any:
    from accounts.models import User
    from clusters.models import Cluster
    from topics import fleet

    source, target = (Cluster.objects.get(name=f"fleet-{(number + other) % 2}") for other in (0, 1))
    return fleet.start(actor=User.objects.get(username="bench-fleet"), source=source, cluster=target, reason="lost")


def _move(number: int) -> None:
    """The operation's own work, in this process."""
    from core.operations import driving

    operation = _start(number)
    while driving.take_on(operation.pk):
        pass
    operation.refresh_from_db()
    assert (operation.state, operation.failed) == ("succeeded", 0), operation.error


def _whole(number: int) -> float:
    """From the start of the operation until the last node is written and recorded, by processes of their own."""
    from registry.models import Publication, RegistrarHeartbeat

    with _processes():
        _wait(lambda: RegistrarHeartbeat.objects.watching().exists())
        began = time.perf_counter()
        operation = _start(number)
        _wait(lambda: type(operation).objects.get(pk=operation.pk).finished_at is not None and not Publication.objects.dirty().exists())
        return time.perf_counter() - began


@contextmanager
def _processes() -> Iterator[None]:
    from registry.models import RegistrarHeartbeat

    registrar = subprocess.Popen([sys.executable, "manage.py", "registrar", "--skip-checks"], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    worker = subprocess.Popen([sys.executable, "-c", _WORKER], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        for process in (registrar, worker):
            process.terminate()
            process.wait(20)
        RegistrarHeartbeat.objects.all().delete()


def _multi(zookeeper: Any, writes: list[tuple[str, str, bytes]]) -> None:
    """A hundred in each `multi`, all of them on their way at once."""
    answers = []
    for start in range(0, len(writes), 100):
        transaction = zookeeper.transaction()
        for verb, path, data in writes[start : start + 100]:
            getattr(transaction, verb)(path, data)
        answers.append(transaction.commit_async())
    for answer in answers:
        for one in answer.get(timeout=60):
            if isinstance(one, Exception):
                raise one


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError("it did not come to an end in time")
        time.sleep(0.05)


if __name__ == "__main__":
    separately.answer(lambda: measure(int(sys.argv[1])))
