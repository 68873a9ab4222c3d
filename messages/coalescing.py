"""Group commit: single sends that arrive while a commit is under way share the next one; a lone sender waits for nothing."""

import copy
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from django.db import DatabaseError, connection

from messages.types import Accepted, NewMessage, SeenTopic

MAX_MESSAGES = 512  # of one group: bounds the wait of those behind it
MAX_BYTES = 4 * 1024 * 1024
CHAINS = 2  # threads of a group that are woken at once, each wakes the next of its chain: all at once would fight for the interpreter

Topic = int | SeenTopic  # its id, or what it has to be still
Item = tuple[Topic, NewMessage]


class UndoneError(Exception):
    """A group was refused as a whole and nothing of it is stored: each of its messages is to be sent alone."""


class _Ticket:
    __slots__ = ("alone", "error", "item", "leads", "next", "result", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.result: Accepted | None = None
        self.error: BaseException | None = None
        self.leads = False  # its thread commits the next group
        self.alone = False  # its group was undone: its thread sends it alone
        self.next: _Ticket | None = None  # to be woken by this one's thread
        self.turn = threading.Lock()
        self.turn.acquire()  # released when there is something to do or to return


class Coalescer:
    """One commit at a time; whoever comes meanwhile queues, and the first of the queue commits the next group in its own thread.

    No thread of its own and no timer: when the process ends, whoever waits is answered as the commits end.
    """

    def __init__(
        self,
        *,
        one: Callable[[Topic, NewMessage], Accepted],
        group: Callable[[Sequence[Item]], list[Accepted]],
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._one = one
        self._group = group
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # the threads of the parent are not in the child

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many wait for the commit that is under way."""
        return len(self._queue)

    def send(self, topic: Topic, message: NewMessage) -> Accepted:
        """Store one message for good, alone or with others; returns, or raises what befell it, after its own commit."""
        ticket: _Ticket | None = None
        with self._lock:
            if self._busy:
                ticket = _Ticket((topic, message))
                self._queue.append(ticket)
            else:
                self._busy = True
        if ticket is None:
            try:
                return self._one(topic, message)
            finally:
                self._hand_over()
        _give_back()
        ticket.turn.acquire()
        if ticket.next is not None:
            ticket.next.turn.release()
        if ticket.leads:
            self._lead(ticket)
        if ticket.alone:
            return self._one(topic, message)
        if ticket.error is not None:
            raise copy.copy(ticket.error) from ticket.error  # the same object must not be raised in many threads
        assert ticket.result is not None
        return ticket.result

    def _hand_over(self) -> None:
        with self._lock:
            if self._queue:
                first = self._queue.popleft()
                first.leads = True
                first.turn.release()
            else:
                self._busy = False

    def _lead(self, own: _Ticket) -> None:
        tickets = self._take(own)
        try:
            if len(tickets) == 1:
                own.result = self._one(*own.item)
            else:
                for ticket, result in zip(tickets, self._group([t.item for t in tickets]), strict=True):
                    ticket.result = result
        except UndoneError:
            for ticket in tickets:
                ticket.alone = True
        except BaseException as error:
            # Nobody knows what became of it, as when a single send loses its connection.
            told = error if isinstance(error, Exception) else DatabaseError("the process was interrupted while it sent")
            for ticket in tickets:
                ticket.error = told
            if not isinstance(error, Exception):
                raise
        finally:
            self._hand_over()  # first: the next commit begins while these answer
            followers = tickets[1:]
            for ticket, following in zip(followers, followers[CHAINS:], strict=False):
                ticket.next = following
            for ticket in followers[:CHAINS]:
                ticket.turn.release()

    def _take(self, own: _Ticket) -> list[_Ticket]:
        tickets, size = [own], len(own.item[1].body)
        with self._lock:
            while self._queue and len(tickets) < self.max_messages:
                size += len(self._queue[0].item[1].body)
                if size > self.max_bytes:
                    break
                tickets.append(self._queue.popleft())
        return tickets


def _give_back() -> None:
    """A web process has fewer connections than threads: who only waits needs none."""
    if connection.connection is not None and connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
