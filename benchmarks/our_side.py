"""Our store, as `peer_side` measures the others: the sender and each group's consumer are processes of their own."""

import os
import time
from typing import Any

import django

django.setup()  # a process that is spawned begins here

from django.db import connection  # noqa: E402

from benchmarks.flow import BATCH, PAUSE, Flow, in_threads  # noqa: E402
from messages import services  # noqa: E402
from messages.types import NewMessage, Outcome  # noqa: E402


class Ours:
    """A topic with several groups: each message is stored once."""

    def __init__(self, topic: int, groups: list[int], body: bytes) -> None:
        self.topic, self.groups, self.body = topic, groups, body

    def send(self, flow: Flow) -> None:
        """Batches with producers' ids, so that a retry would be harmless; their own ids are returned."""
        flow.begin()
        number, process = 0, os.getpid()
        while not flow.over.is_set():
            if flow.ahead:
                time.sleep(PAUSE)
                continue
            batch = [NewMessage(self.body, producer_id=f"{process}:{number + i}") for i in range(BATCH)]
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
