"""The data plane over REST against the same verbs without HTTP: one Granian worker, a token, keep-alive; interleaved in one run."""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import connection
from django.utils import timezone

from accounts.models import ApiToken, Application, User
from benchmarks import Row
from clusters.services import ensure_builtin
from consumers.models import ConsumerGroup
from consumers.services import apply as apply_group
from consumers.services import approve as approve_group
from messages import services
from messages.types import NewMessage, Outcome
from topics.models import Topic
from topics.services import apply as apply_topic
from topics.services import approve as approve_topic

ROUNDS = 100
N = 100
N_PRODUCERS = 256
SINGLES, AIM = 1000, 1500  # sends; microseconds of processor time
BODY = os.urandom(100).hex()  # 200 B


def run() -> list[Row]:
    """Measure; needs a migrated database and nothing else. What it makes stays under names of its own."""
    tag = secrets.token_hex(4)
    admin = User.objects.create_superuser(f"bench-{tag}")
    other = User.objects.create_superuser(f"bench2-{tag}")
    _token, secret = ApiToken.issue(user=admin, name="bench", expires_at=timezone.now() + timedelta(hours=1))
    application = Application.objects.create(name=f"bench-{tag}", owner=admin)
    with serving() as port:
        rest = Rest(port, secret)
        topics = [_topic(f"bench_{tag}_{i}", application, admin, other) for i in range(2)]
        found = [
            _send(rest, *topics),
            _next(rest, *((t, _group(f"{t.name}_group", t, admin, other)) for t in topics)),
            _single(rest, port, topics[0]),
        ]
    return [*found, _producers(secret, topics[0])]


def _producers(secret: str, topic: Topic) -> Row:
    """Single sends over 256 connections at once, against the same server with a commit for each; in turns."""
    server: dict[str, Any] = {"threads": N_PRODUCERS + 32, "connections": 24}
    with serving(**server) as together, serving(**server, application="benchmarks.uncoalesced:application") as alone:
        rounds = [tuple(asyncio.run(_burst(port, secret, topic)) for port in (together, alone)) for _ in range(3)]
    ours, floor = (statistics.median(values) for values in zip(*rounds, strict=True))
    note = "baseline, not a floor: the same server with a commit for each"
    name = f"REST: single sends of {N_PRODUCERS} producers, group commit"
    return Row(name, round(ours, 1), round(floor, 1), round(ours / floor, 2), "µs per message", note)


async def _burst(port: int, secret: str, topic: Topic, seconds: float = 3.0) -> float:
    """Microseconds per message of clients that send one after another for so long."""
    body = json.dumps({"body": BODY}).encode()
    head = f"POST /api/v1/topics/{topic.name}/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Token {secret}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    sent, end = 0, 0.0

    async def client() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 201"):
                raise RuntimeError(answer.decode())
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            sent += 1
        writer.close()

    started = time.perf_counter()
    end = started + seconds
    await asyncio.gather(*(client() for _ in range(N_PRODUCERS)))
    return (time.perf_counter() - started) / sent * 1e6


def _send(rest: "Rest", over_rest: Topic, direct: Topic) -> Row:
    """100 messages in one commit."""
    batch = [NewMessage(BODY.encode(), key=f"key-{i}") for i in range(N)]
    body = json.dumps({"messages": [{"body": BODY, "key": f"key-{i}"} for i in range(N)]}).encode()

    def floor() -> None:
        services.send(topic_id=direct.pk, messages=batch)

    spent, floors = _interleaved(lambda: rest.post(f"topics/{over_rest.name}/messages", body), floor)
    return _row(f"REST: batch send of {N}", spent, floors, "floor: the store's send without HTTP")


def _single(rest: "Rest", port: int, topic: Topic) -> Row:
    """The processor time of the web process for one message, whatever else the machine does."""
    body = json.dumps({"body": BODY}).encode()

    def send() -> None:
        for _ in range(SINGLES):
            rest.post(f"topics/{topic.name}/messages", body)

    send()
    before = _cpu_of(port)
    send()
    spent = (_cpu_of(port) - before) / SINGLES * 1e6
    return Row("REST: a single send, CPU of the web process", round(spent), AIM, round(spent / AIM, 2), "µs", "an aim, not a floor")


def _cpu_of(port: int) -> float:
    """Seconds of processor time that Granian's processes for this port have used."""
    asked, found = f"\0--port\0{port}\0".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            found[int(process.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]), asked in (process / "cmdline").read_bytes())
    servers = {pid for pid, (_parent, _ticks, serves) in found.items() if serves}
    ticks = sum(ticks for pid, (parent, ticks, _serves) in found.items() if pid in servers or parent in servers)
    return ticks / os.sysconf("SC_CLK_TCK")


def _next(rest: "Rest", over_rest: tuple[Topic, ConsumerGroup], direct: tuple[Topic, ConsumerGroup]) -> Row:
    """Settle 100 and pull 100 in one commit; the answer is read, its parsing is the consumer's own time."""
    for topic, _group in (over_rest, direct):
        for _ in range(ROUNDS * N // 1000 + 2):
            services.send(topic_id=topic.pk, messages=[NewMessage(BODY.encode(), key=f"key-{i}") for i in range(1000)])
    services.tick()
    asked: dict[str, Any] = {"max": N, "visibility_ms": 60_000, "consumer": "bench"}
    path = f"consumer-groups/{over_rest[1].name}/next"
    answer = json.loads(rest.post(path, json.dumps(asked).encode()))
    request = b""
    outcomes: list[Outcome] = []
    take: dict[str, Any] = {"limit": N, "visibility_ms": 60_000, "consumer": "bench"}
    batch = services.pull(group_id=direct[1].pk, **take)

    def prepare() -> None:
        nonlocal request, outcomes
        acks = [{"id": m["id"], "status": "succeeded"} for m in answer["messages"]]
        assert len(acks) == N
        request = json.dumps({**asked, "lease": answer["lease"], "acks": acks}).encode()
        outcomes = [Outcome(m.id, "succeeded") for m in batch.messages]

    raw = b""

    def over() -> None:
        nonlocal raw
        raw = rest.post(path, request)

    def floor() -> None:
        nonlocal batch
        _settled, batch = services.next(group_id=direct[1].pk, lease=batch.lease, outcomes=outcomes, **take)

    def after() -> None:
        nonlocal answer
        answer = json.loads(raw)
        assert all(ack["status"] == "succeeded" for ack in answer["acks"])

    spent, floors = _interleaved(over, floor, before=prepare, after=after)
    return _row(f"REST: next of {N} (settle and pull)", spent, floors, "floor: the store's next without HTTP")


def _interleaved(
    ours: Callable[[], object],
    floor: Callable[[], object],
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[float]]:
    spent: list[float] = []
    floors: list[float] = []
    for _ in range(ROUNDS):
        before()
        for work, times in ((ours, spent), (floor, floors)):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        after()
    return spent[5:], floors[5:]  # the first ones plan statements and fill caches


def _row(name: str, spent: list[float], floors: list[float], note: str) -> Row:
    ours, floor = (statistics.median(values) / N * 1e6 for values in (spent, floors))
    return Row(name, round(ours, 2), round(floor, 2), round(ours / floor, 2), "µs per message", note)


class Rest:
    """One keep-alive connection with a token."""

    def __init__(self, port: int, secret: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers = {"Authorization": f"Token {secret}", "Content-Type": "application/json"}

    def post(self, path: str, body: bytes) -> bytes:
        """The answer's body."""
        self.connection.request("POST", f"/api/v1/{path}", body, self.headers)
        response = self.connection.getresponse()
        raw = response.read()
        if response.status not in {200, 201}:
            raise RuntimeError(f"{path}: {response.status} {raw[:500]!r}")
        return raw


@contextmanager
def serving(*, threads: int = 8, connections: int = 8, application: str = "mqadmin.wsgi:application") -> Iterator[int]:
    """Granian as `make run` starts it, on this database and a free port; `connections` bounds its pool."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = connection.settings_dict
    user = settings["USER"] + (f":{settings['PASSWORD']}" if settings["PASSWORD"] else "")
    env = {
        **os.environ,
        "DATABASE_URL": f"postgres://{user}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}",
        "MQADMIN_SECRET_KEY": os.environ.get("MQADMIN_SECRET_KEY", "bench-" * 8),
        "MQADMIN_DB_POOL_SIZE": str(connections),
        "MQADMIN_ACCESS_LOG_LEVEL": "ERROR",
    }
    argv = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)]
    argv += [
        "--workers",
        "1",
        "--blocking-threads",
        str(threads),
        "--backpressure",
        str(max(64, threads)),
        "--no-ws",
        "--log-level",
        "warning",
        application,
    ]
    process = subprocess.Popen(argv, env=env, cwd=Path(__file__).resolve().parent.parent)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("Granian does not start")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(15)


def _topic(name: str, application: Application, admin: User, other: User) -> Topic:
    topic = apply_topic(
        actor=admin,
        name=name,
        application=application,
        owner=admin,
        expected_rate=1,
        message_bytes=200,
        partitions=1,
        ordered=False,
        reason="benchmark",
    )
    return approve_topic(actor=other, topic=topic, cluster=ensure_builtin())


def _group(name: str, topic: Topic, admin: User, other: User) -> ConsumerGroup:
    group = apply_group(
        actor=admin,
        name=name,
        application=topic.application,
        owner=admin,
        consume_from="latest",
        max_attempts=3,
        backoff_ms=1000,
        backoff_max_ms=1000,
        subscriptions=[(topic.name, "*")],
        reason="benchmark",
    )
    return approve_group(actor=other, group=group)
