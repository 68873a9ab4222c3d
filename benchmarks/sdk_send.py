"""Sending through the SDK to the built-in store, beside bare HTTP calls that carry the same messages to the same web process."""

import gc
import json
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from accounts.credentials import make_key
from accounts.models import Application, User
from benchmarks import Row
from benchmarks.rest import BODY, Rest, _topic, serving
from mqadmin_sdk import AppKey, Client, ClusterMetadata, Outgoing, TopicMetadata
from mqadmin_sdk.producing import lanes

ROUNDS = 60
N = 100  # messages of a batch
BURST = 20_000  # asynchronous messages of one round
BURSTS = 5


def run() -> list[Row]:
    """Measure; needs a migrated database and no ZooKeeper: where the topic is stands in memory."""
    tag = secrets.token_hex(4)
    admin = User.objects.create_superuser(f"bench-{tag}")
    other = User.objects.create_superuser(f"bench2-{tag}")
    application = Application.objects.create(name=f"bench-{tag}", owner=admin)
    key, secret = make_key(actor=admin, application=application)
    credential = AppKey(key.key_id, secret)
    topic = _topic(f"bench_{tag}", application, admin, other).name
    with serving(threads=16, connections=16) as port, _client(port, credential) as client:
        rows = [*_sync(client, port, credential, topic), _coalesced(client, port, credential, topic)]
    single, together = rows[1].floor, rows[2].measured
    note = "baseline, not a floor: a bare HTTP call for each, one after the other"
    return [*rows, Row(rows[2].name, together, single, round(together / single, 2), rows[2].unit, note)]


class _Known(Client):
    """A client that knows where its topics are: what is measured is sending."""

    def watch_topic(self, name: str, on_change: Callable[[TopicMetadata | None], object]) -> None:  # type: ignore[override]
        on_change(TopicMetadata(name, ClusterMetadata("builtin", "", "builtin"), 1))


@contextmanager
def _client(port: int, credential: AppKey) -> Iterator[Client]:
    client = _Known(zookeeper="127.0.0.1:1", app="bench", url=f"http://127.0.0.1:{port}", credential=credential, buffer_messages=2 * BURST)
    try:
        yield client
    finally:
        client.close()


class _Bare:
    """One kept connection of the standard library; each call is signed, as the SDK's are, and its answer is read."""

    def __init__(self, port: int, credential: AppKey, topic: str) -> None:
        self._rest, self._credential = Rest(port, ""), credential
        self._path = f"topics/{topic}/messages"

    def send(self, document: object) -> None:
        body = json.dumps(document).encode()
        signed = self._credential.authorization(method="POST", target=f"/api/v1/{self._path}".encode(), body=body)
        self._rest.headers["Authorization"] = signed
        json.loads(self._rest.post(self._path, body))


def _sync(client: Client, port: int, credential: AppKey, topic: str) -> list[Row]:
    bare = _Bare(port, credential, topic)
    works: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
        f"SDK: batch send of {N}": (
            N,
            lambda: client.send_batch(topic, [Outgoing.of(BODY, key=f"key-{i}") for i in range(N)]),
            lambda: bare.send({"messages": [{"body": BODY, "key": f"key-{i}", "id": secrets.token_hex(16)} for i in range(N)]}),
        ),
        "SDK: a single send": (
            1,
            lambda: client.send(topic, BODY, key="key"),
            lambda: bare.send({"body": BODY, "key": "key", "id": secrets.token_hex(16)}),
        ),
    }
    rows = []
    for name, (messages, ours, floor) in works.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS + 5):
            for work, spent in zip((ours, floor), times, strict=True):
                began = time.perf_counter()
                work()
                spent.append(time.perf_counter() - began)
        measured, least = (statistics.median(spent[5:]) / messages * 1e6 for spent in times)
        note = "floor: http.client with the same signature and content"
        rows.append(Row(name, round(measured, 1), round(least, 1), round(measured / least, 2), "µs per message", note))
    return rows


def _coalesced(client: Client, port: int, credential: AppKey, topic: str) -> Row:
    """As many single messages as fast as one process can hand them over; the floor knows them all beforehand, in batches as large."""
    bare = [_Bare(port, credential, topic) for _ in range(lanes.LANES)]

    def ours() -> None:
        futures = [client.send_async(topic, BODY, key=f"key-{i}") for i in range(BURST)]
        if not client.flush(timeout=120):
            raise RuntimeError("not all was sent in time")
        for future in futures:
            future.result()

    def floor() -> None:
        work: SimpleQueue[int | None] = SimpleQueue()
        for start in [*range(0, BURST, lanes.BATCH), *[None] * len(bare)]:
            work.put(start)

        def take(one: _Bare) -> None:
            while (start := work.get()) is not None:
                ids = range(start, start + lanes.BATCH)
                one.send({"messages": [{"body": BODY, "key": f"key-{i}", "id": secrets.token_hex(16)} for i in ids]})

        with ExitStack() as stack:
            for one in bare:
                thread = threading.Thread(target=take, args=(one,))
                thread.start()
                stack.callback(thread.join)

    gc.collect()
    gc.freeze()  # garbage collections go through what comes from here on, not through Django, which is the benchmark's own
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(BURSTS + 1):
        for work, spent in zip((ours, floor), times, strict=True):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
    gc.unfreeze()
    measured, least = (statistics.median(spent[1:]) / BURST * 1e6 for spent in times)
    note = f"{BURST:,} asynchronous sends; floor: http.client, batches of {lanes.BATCH}, {lanes.LANES} threads"
    return Row("SDK: coalesced asynchronous sends", round(measured, 1), round(least, 1), round(measured / least, 2), "µs per message", note)
