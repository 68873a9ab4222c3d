"""Asynchronous sends: a bounded buffer and a few threads that send what has gathered, in batches, in order for each sharding key."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from mqadmin_sdk.errors import Busy, MqadminError
from mqadmin_sdk.producing.futures import begin, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mqadmin_sdk.message import SendResult
    from mqadmin_sdk.producing.futures import Sending
    from mqadmin_sdk.producing.topics import Topic
    from mqadmin_sdk.transports import Sent

LANES = 4  # threads
BATCH = 500  # messages
BATCH_BYTES = 4 * 1024 * 1024


class _Batch:
    """What goes together: filled as messages come, sent when it is its turn."""

    __slots__ = ("sendings", "since", "size")

    def __init__(self) -> None:
        self.sendings: list[Sending] = []
        self.size, self.since = 0, time.monotonic()

    def takes(self, size: int) -> bool:
        """Whether one more of this size has a place."""
        return len(self.sendings) < BATCH and self.size + size <= BATCH_BYTES


class _Lane:
    def __init__(self, lock: threading.Lock) -> None:
        self.wake = threading.Condition(lock)
        self.waiting: OrderedDict[Topic, deque[_Batch]] = OrderedDict()
        self.count = 0  # messages that wait
        self.thread: threading.Thread | None = None


class Lanes:
    """Thread-safe. A message with a sharding key is sent by the thread of its key, one batch after the other: order is kept.

    A batch is what has come while the one before was on its way; `linger` seconds more are waited for others. At most
    `buffer_messages` and `buffer_bytes` are kept, those on their way included.
    """

    def __init__(
        self,
        deliver: Callable[[Topic, Sequence[Sending]], Sequence[Sent]],
        *,
        linger: float,
        buffer_messages: int,
        buffer_bytes: int,
        lanes: int = LANES,
    ) -> None:
        self._deliver, self._linger = deliver, linger
        self._most, self._most_bytes = buffer_messages, buffer_bytes
        self._n = lanes
        self._closed = False
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: what is buffered is the parent's, which sends it."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._lanes = [_Lane(self._lock) for _ in range(self._n)]
        self._count = self._bytes = 0
        self._flushing = 0

    @property
    def buffered(self) -> int:
        """How many messages are not stored yet."""
        return self._count

    def put(self, sending: Sending, *, timeout: float) -> None:
        """Take a message; while the buffer is full, wait so many seconds. Raises Busy, MqadminError."""
        topic, size = sending.topic, sending.size
        with self._lock:
            if self._full(size) and not self._room.wait_for(lambda: not self._full(size) or self._closed, timeout):
                raise Busy(f"the buffer is full: {self._count} messages, {self._bytes} bytes wait to be sent", code="buffer_full")
            if self._closed:
                raise MqadminError("the client is closed")
            self._count += 1
            self._bytes += size
            lane = self._lane(sending)
            queue = lane.waiting.get(topic)
            if queue is None:
                queue = lane.waiting[topic] = deque()
            if not queue or not queue[-1].takes(size):
                queue.append(_Batch())
            batch = queue[-1]
            batch.sendings.append(sending)
            batch.size += size
            lane.count += 1
            if lane.thread is None:
                lane.thread = threading.Thread(target=self._run, args=(lane,), name="mqadmin-send", daemon=True)
                lane.thread.start()
            elif lane.count == 1 or len(batch.sendings) == BATCH or len(queue) == 2:
                lane.wake.notify()

    def flush(self, *, timeout: float) -> bool:
        """Wait until all is sent, or given up; False if it is not within so many seconds."""
        with self._lock:
            self._flushing += 1
            for lane in self._lanes:
                lane.wake.notify()
            done = self._idle.wait_for(lambda: self._count == 0, timeout)
            self._flushing -= 1
            return done

    def close(self, *, timeout: float) -> None:
        """Take no more, send what is there, and end the threads; what is left after so many seconds fails."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self.flush(timeout=timeout)
        with self._lock:
            left = [one for lane in self._lanes for queue in lane.waiting.values() for batch in queue for one in batch.sendings]
            for lane in self._lanes:
                lane.waiting.clear()
                lane.count = 0
                lane.wake.notify()
            threads = [lane.thread for lane in self._lanes if lane.thread is not None]
        left = begin(left)
        settle(left, [MqadminError("the client was closed before the message was sent") for _ in left])
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1)

    def _full(self, size: int) -> bool:
        # One that is larger than the buffer goes when it is alone.
        return self._count >= self._most or (self._count > 0 and self._bytes + size > self._most_bytes)

    def _lane(self, sending: Sending) -> _Lane:
        key, name = sending.message.sharding_key, sending.topic.name
        if key is not None:
            return self._lanes[hash((name, key)) % self._n]
        own = self._lanes[hash(name) % self._n]
        # Together they make larger batches; apart they go at the same time.
        return own if own.count < BATCH else min(self._lanes, key=lambda lane: lane.count)

    def _run(self, lane: _Lane) -> None:
        while True:
            with self._lock:
                while not lane.waiting:
                    if self._closed and not self._count:
                        return
                    lane.wake.wait(None if not self._closed else 0.1)
                self._gather(lane)
                if not lane.waiting:
                    continue
                topic, batch = self._take(lane)
            sendings = begin(batch.sendings)
            outcomes: Sequence[SendResult | BaseException]
            try:
                outcomes = self._deliver(topic, sendings) if sendings else ()
            except BaseException as error:  # noqa: BLE001 - the callers' futures tell them
                outcomes = [error] * len(sendings)
            settle(sendings, outcomes)
            with self._lock:
                self._count -= len(batch.sendings)
                self._bytes -= batch.size
                self._room.notify_all()
                if not self._count:
                    self._idle.notify_all()

    def _gather(self, lane: _Lane) -> None:
        """Let others come along for as long as the first may linger."""
        while self._linger and not self._flushing and not self._closed:
            queue = next(iter(lane.waiting.values()))
            left = queue[0].since + self._linger - time.monotonic()
            if left <= 0 or len(queue) > 1 or len(queue[0].sendings) >= BATCH:
                return
            lane.wake.wait(left)
            if not lane.waiting:
                return

    @staticmethod
    def _take(lane: _Lane) -> tuple[Topic, _Batch]:
        topic, queue = next(iter(lane.waiting.items()))
        batch = queue.popleft()
        lane.count -= len(batch.sendings)
        if queue:
            lane.waiting.move_to_end(topic)  # others have their turn
        else:
            del lane.waiting[topic]
        return topic, batch
