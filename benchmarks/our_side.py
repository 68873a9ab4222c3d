"""Our store, as `peer_side` measures the others: the sender and each group's consumer are processes of their own."""

import time
from typing import Any

import django

django.setup()  # a process that is spawned begins here

from benchmarks.peer_side import BATCH, PAUSE, Flow  # noqa: E402
from messages import services  # noqa: E402
from messages.types import NewMessage, Outcome  # noqa: E402


class Ours:
    """A topic with several groups: each message is stored once."""

    def __init__(self, topic: int, groups: list[int], body: bytes) -> None:
        self.topic, self.groups, self.body = topic, groups, body

    def send(self, flow: Flow) -> None:
        """Batches with their ids returned."""
        batch = [NewMessage(self.body)] * BATCH
        flow.begin()
        while not flow.over.is_set():
            if flow.ahead:
                time.sleep(PAUSE)
                continue
            services.send(topic_id=self.topic, messages=batch)
            flow.sent(BATCH)

    def take(self, flow: Flow, group: int) -> None:
        """Settle the last batch and take the next, in one commit."""
        lease: str | None = None
        outcomes: list[Outcome] = []
        asked: dict[str, Any] = {"group_id": self.groups[group], "limit": BATCH, "visibility_ms": 60_000, "consumer": "bench"}
        flow.begin()
        while not flow.over.is_set():
            _settled, batch = services.next(lease=lease, outcomes=outcomes, **asked)
            flow.done(group, len(outcomes))
            lease, outcomes = batch.lease, [Outcome(m.id, "succeeded") for m in batch.messages]
            if not outcomes:
                time.sleep(PAUSE)
