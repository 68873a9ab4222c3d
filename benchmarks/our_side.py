"""Our store, as `peer_side` measures the others: the sender and each group's consumer are processes of their own."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import django

django.setup()  # a process that is spawned begins here

from django.db import connection  # noqa: E402

from benchmarks.flow import BATCH, PAUSE, Flow, in_threads  # noqa: E402
from messages import services  # noqa: E402
from messages.types import NewMessage, Outcome  # noqa: E402

CONNECTIONS = 32  # of a web process


@contextlib.contextmanager
def pooled() -> Iterator[None]:
    """Processes that begin meanwhile do as the web process: many threads share some connections."""
    os.environ["MQADMIN_DB_POOL_SIZE"] = str(CONNECTIONS)
    try:
        yield
    finally:
        del os.environ["MQADMIN_DB_POOL_SIZE"]


def singles(topic: int, producers: int, seconds: float) -> float:
    """Microseconds per message of so many producers that send one after another, in one process like the web's."""
    with pooled(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_singles, topic, producers, seconds).result()


def _singles(topic: int, producers: int, seconds: float) -> float:
    from benchmarks.store import burst

    return burst(lambda to, message: services.send(topic_id=to, messages=[message]), topic, producers, seconds)


class Ours:
    """A topic with several groups: each message is stored once."""

    def __init__(self, topic: int, groups: list[int], body: bytes, *, repetitions: bool = True) -> None:
        self.topic, self.groups, self.body, self.repetitions = topic, groups, body, repetitions

    def send(self, flow: Flow) -> None:
        """Batches with producers' ids, by which repetitions are found out, or without; their own ids are returned."""
        flow.begin()
        number, process = 0, os.getpid()
        while not flow.over.is_set():
            if flow.ahead:
                time.sleep(PAUSE)
                continue
            batch = [NewMessage(self.body, producer_id=f"{process}:{number + i}" if self.repetitions else None) for i in range(BATCH)]
            services.send(topic_id=self.topic, messages=batch)
            flow.sent(BATCH)
            number += BATCH

    def take(self, flow: Flow, group: int) -> None:
        """Settle the last batch and take the next, in one commit."""
        asked: dict[str, Any] = {"group_id": self.groups[group], "limit": flow.batch, "visibility_ms": 60_000, "consumer": "bench"}

        def work() -> None:
            lease: str | None = None
            outcomes: list[Outcome] = []
            while not flow.over.is_set():
                _settled, batch = services.next(lease=lease, outcomes=outcomes, **asked)
                if flow.each > 1:
                    connection.close()  # back to the pool, as after a request
                flow.done(group, sum(o.status == "succeeded" for o in outcomes))
                lease = batch.lease
                outcomes = [
                    Outcome(m.id, "failed" if flow.failing and m.attempt == 1 and m.id % 2 else "succeeded") for m in batch.messages
                ]
                if not outcomes:
                    time.sleep(PAUSE)

        connection.ensure_connection()
        flow.begin()
        in_threads(work, flow.each)
