"""Consuming through the SDK with an empty handler, against a bare loop of `next` over one keep-alive connection; in turns, in one run."""

import json
import secrets
import statistics
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from accounts.models import ApiToken, Application, User
from benchmarks import Row
from benchmarks.rest import BODY, Rest, _group, _topic, serving
from consumers.models import ConsumerGroup
from messages import services
from messages.types import NewMessage
from mqadmin_sdk.consuming.consumer import GroupConsumer
from mqadmin_sdk.consuming.feeds import Options
from mqadmin_sdk.http import ControlPlane, Token
from mqadmin_sdk.message import Message
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
from mqadmin_sdk.transports import Context, consumer_transport
from topics.models import Topic

MESSAGES = 30_000
ROUNDS = 3
BATCH = 500  # what the SDK pulls at once
AIM = 10_000  # messages a second of one process


def run() -> list[Row]:
    """Measure; needs a migrated database and nothing else. What it makes stays under names of its own."""
    tag = secrets.token_hex(4)
    admin = User.objects.create_superuser(f"bench-{tag}")
    other = User.objects.create_superuser(f"bench2-{tag}")
    _token, secret = ApiToken.issue(user=admin, name="bench", expires_at=timezone.now() + timedelta(hours=1))
    application = Application.objects.create(name=f"bench-{tag}", owner=admin)
    topic = _topic(f"bench_{tag}", application, admin, other)
    groups = [_group(f"bench_{tag}_{n}", topic, admin, other) for n in range(2 * ROUNDS)]
    _fill(topic)
    ours: list[float] = []
    floors: list[float] = []
    with serving() as port:
        for n in range(ROUNDS):
            floors.append(_bare(port, secret, groups[2 * n]))
            ours.append(_sdk(port, secret, groups[2 * n + 1]))
    found, floor = statistics.median(ours), statistics.median(floors)
    return [
        Row(
            "SDK: consuming, empty handler",
            round(found),
            round(floor),
            round(found / floor, 2),
            "messages/s",
            "floor: `next` by hand",
        ),
        Row("SDK: consuming, empty handler", round(found), AIM, round(found / AIM, 2), "messages/s", "an aim: at least it, or the floor"),
    ]


def _fill(topic: Topic) -> None:
    for start in range(0, MESSAGES, 1000):
        services.send(topic_id=topic.pk, messages=[NewMessage(BODY.encode(), key=f"key-{start + i}") for i in range(1000)])
    services.tick()


def _rate(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return MESSAGES / (time.perf_counter() - began)


def _bare(port: int, secret: str, group: ConsumerGroup) -> float:
    rest = Rest(port, secret)
    asked = {"max": BATCH, "visibility_ms": 60_000, "consumer": "bench"}

    def work() -> None:
        done, hand = 0, dict(asked)
        while done < MESSAGES:
            answer = json.loads(rest.post(f"consumer-groups/{group.name}/next", json.dumps(hand).encode()))
            acks = [{"id": message["id"], "status": "succeeded"} for message in answer["messages"]]
            hand = {**asked, "lease": answer["lease"], "acks": acks}
            done += len(acks)

    found = _rate(work)
    rest.connection.close()
    return found


def _sdk(port: int, secret: str, group: ConsumerGroup) -> float:
    cluster = ClusterMetadata("builtin", "", "builtin")
    metadata = GroupMetadata(name=group.name, cluster=cluster, binding_topic="", subscriptions={})
    control = ControlPlane(f"http://127.0.0.1:{port}", credential=Token(secret))
    context = Context(app="bench", instance="bench", control=control)
    all_done = threading.Event()

    def handle(_message: Message) -> None:
        pass

    consumer = GroupConsumer(
        group.name,
        handle,
        options=Options(concurrency=8, prefetch=2 * BATCH, poll=0.5),
        connect=lambda metadata, cluster: consumer_transport(metadata, context, consumer="bench", cluster=cluster),
        cluster=lambda _name: cluster,
    )

    def work() -> None:
        consumer.apply(metadata)
        while consumer.core.counts["succeeded"] < MESSAGES:
            all_done.wait(0.005)

    found = _rate(work)
    consumer.drain()
    consumer.join(10)
    control.close()
    return found
