"""What a consumer has in hand, and what it has to do next: no I/O, no thread and no clock. Whoever calls holds a lock and says the time."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mqadmin_sdk.transports import Settlement

if TYPE_CHECKING:
    from mqadmin_sdk.transports import Delivery, Settled

Status = Literal["succeeded", "failed", "later", "dead"]

GRACE = 0.02  # seconds for quick handlers after a pull that brought all there was: their outcomes then go with the next pull
SETTLE_WITHIN = 0.02  # seconds an outcome waits for others while a pull waits
SETTLE_LATEST = 0.5  # seconds an outcome waits where there is no room to pull
SPAN = 0.5  # seconds of work to have in hand
MAX_ACKS = 1000


class Item:
    """A delivery in hand. `lost`: its outcome does not count any more, and it is not begun."""

    __slots__ = ("delivery", "given_up", "lane", "lost", "ordered", "source", "started")

    def __init__(self, delivery: Delivery, source: Source) -> None:
        self.delivery, self.source = delivery, source
        self.lane = delivery.lane
        self.ordered = delivery.ordered
        self.started = 0.0
        self.lost = False
        self.given_up = False


class Source:
    """What came by one transport."""

    def __init__(self, *, lease: float) -> None:
        self.lease = lease
        self.pulling = True  # False: what comes is given back
        self.asking = False  # a pull is under way
        self.polling = False  # and waits: outcomes go by themselves
        self.open: dict[int, Item] = {}  # by the identity of the delivery: neither settled nor lost
        self.outbox: list[Settlement] = []
        self.since: float | None = None  # when the oldest of the outbox came
        self.again: set[int] = set()  # identities of settlements whose answer was lost
        self.sending = 0  # settlements on their way
        self.look_at = math.inf  # when leases have to be looked at
        self.doubtful: set[str] = set()  # leases of which a settlement was refused
        self.partial = False  # the last pull brought less than was asked for
        self.last = -math.inf  # when something was brought last

    @property
    def empty(self) -> bool:
        """Nothing is in hand, nothing may come, and nothing is left to say."""
        return not (self.open or self.outbox or self.sending or self.asking)


class Ask(NamedTuple):
    """What to pull now: so many, waiting so long for a first one; with `messages` 0 nothing before `wait` seconds have passed."""

    messages: int
    wait: float


class Core:
    """All that is in hand of one group, from one or several sources, for `concurrency` handlers.

    `prefetch` bounds what is in hand; below it as much is asked for as half a second of handlers takes. A handler may take
    `max_handling` seconds, then its message is given up as failed and what it returns counts no more. A pull waits `poll` seconds.
    """

    def __init__(self, *, concurrency: int, prefetch: int, max_handling: float, poll: float = 5.0) -> None:
        self.concurrency, self.prefetch, self.max_handling, self.poll = concurrency, max(prefetch, concurrency), max_handling, poll
        self.window = min(self.prefetch, 2 * concurrency)
        self.ready: deque[Item] = deque()
        self.running: set[Item] = set()
        self.held = 0  # open items of all sources
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0  # that handlers took
        self._lanes: dict[Hashable, deque[Item]] = {}  # of each lane that has one ready or running: those behind it
        self._handled, self._busy = 0, 0.0  # since the window was measured: outcomes, and seconds with something in hand
        self._busy_since: float | None = None

    # --- pulling --------------------------------------------------------------------------------------------------------

    def ask(self, source: Source, now: float) -> Ask:
        """Say how much to pull now: half of the window at most, so that the other half is handled while the next one is on its way."""
        half = (self.window + 1) // 2
        if self.held == 0:
            return Ask(half, self.poll)
        room = min(half, self.window - self.held)
        if room < half:
            return Ask(0, self.poll)
        if not source.partial:
            return Ask(room, 0.0)
        early = source.last + GRACE - now
        return Ask(0, early) if early > 0 else Ask(room, self.poll)

    def accept(self, source: Source, deliveries: Sequence[Delivery], asked: int, now: float) -> int:
        """Take what a pull brought; returns how many handlers may begin."""
        source.partial = len(deliveries) < asked
        if not deliveries:
            return 0
        self._measure(now)
        source.last = now
        before = len(self.ready)
        for delivery in deliveries:
            item = Item(delivery, source)
            source.open[id(delivery)] = item
            self.held += 1
            if item.lane is None:
                self.ready.append(item)
            elif (behind := self._lanes.get(item.lane)) is not None:
                behind.append(item)
            else:
                self._lanes[item.lane] = deque()
                self.ready.append(item)
        if deliveries[0].expires is not None:
            source.look_at = min(source.look_at, deliveries[0].expires - source.lease / 2)
        self.counts["received"] += len(deliveries)
        if not source.pulling:
            self.give_back(source, now)
        return len(self.ready) - before

    def _measure(self, now: float) -> None:
        """Ask for as much as handlers take in half a second, and four times as much as before at most."""
        if self._busy_since is not None:
            self._busy += now - self._busy_since
        self._busy_since = now
        if self._busy > (0 if self._handled >= max(1, self.window // 2) else 2 * SPAN):
            wanted = int(self._handled / self._busy * SPAN)
            self.window = min(self.prefetch, max(2 * self.concurrency, min(wanted, self.window * 4)))
            self._handled, self._busy = 0, 0.0

    # --- handling -------------------------------------------------------------------------------------------------------

    def take(self, now: float) -> Item | None:
        """Return what a handler may begin with, or None. What others may have by now is not begun."""
        ready = self.ready
        while ready:
            item = ready.popleft()
            if not item.lost:
                expires = item.delivery.expires
                if expires is None or expires > now:
                    item.started, item.delivery.begun = now, True
                    self.running.add(item)
                    return item
                self._lose(item, "expired")
            if item.lane is not None:
                self._advance(item.lane)
        return None

    def finish(self, item: Item, status: Status, delay: float | None, error: str | None, now: float) -> bool:
        """Take what a handler made of an item; False if that counts no more."""
        self.running.discard(item)
        self.seconds += now - item.started
        counts = not item.lost
        if counts:
            self._settle(item, status, delay, error, now)
            self._handled += 1
            self.counts[status] += 1
            if item.ordered and status in {"failed", "later"}:
                self._drop_behind(item)
        elif not item.given_up:
            self.counts["thrown_away"] += 1
        if item.lane is not None:
            self._advance(item.lane)
        if self.held == 0 and self._busy_since is not None:
            self._busy, self._busy_since = self._busy + now - self._busy_since, None
        return counts

    def overdue(self, now: float) -> list[Item]:
        """Give up what has been handled for too long: it is failed, and its handler's outcome will not count."""
        late = [item for item in self.running if not item.lost and item.started + self.max_handling <= now]
        for item in late:
            self._settle(item, "failed", None, f"the handler did not return within {self.max_handling:g} s", now)
            self.counts["given_up"] += 1
            item.lost = item.given_up = True
            self._drop_behind(item)
            if item.lane is not None:  # its lane stays blocked until the handler returns: others may have what is behind
                for behind in self._lanes[item.lane]:
                    self._return(behind, now)
                self._lanes[item.lane].clear()
        return late

    def next_overdue(self) -> float:
        """Return when a handler will have taken too long, if it does not return."""
        return min((item.started for item in self.running if not item.lost), default=math.inf) + self.max_handling

    # --- leases ---------------------------------------------------------------------------------------------------------

    def to_extend(self, source: Source, now: float) -> list[Delivery]:
        """Return what has to be held for longer."""
        if now < source.look_at:
            return []
        half = source.lease / 2
        found, source.look_at = [], math.inf
        for item in source.open.values():
            expires = item.delivery.expires
            if expires is None:
                continue
            if expires - half <= now or item.delivery.lease in source.doubtful:
                found.append(item.delivery)
            else:
                source.look_at = min(source.look_at, expires - half)
        source.doubtful.clear()
        return found

    def extended(self, source: Source, deliveries: Sequence[Delivery], held: Sequence[bool]) -> list[Item]:
        """Note what an extension came to; returns what is lost."""
        lost = []
        for delivery, kept in zip(deliveries, held, strict=False):
            item = source.open.get(id(delivery))
            if item is None:
                continue  # settled meanwhile
            if not kept:
                self._lose(item, "lost")
                lost.append(item)
            elif delivery.expires is not None:
                source.look_at = min(source.look_at, delivery.expires - source.lease / 2)
        return lost

    def not_extended(self, source: Source, deliveries: Sequence[Delivery], now: float) -> None:
        """Nobody answered: try again in a moment."""
        source.doubtful.update(one.lease for one in deliveries)
        source.look_at = min(source.look_at, now + min(1.0, source.lease / 10))

    def moved(self, source: Source) -> None:
        """The group's position was moved: find out which leases still hold."""
        self.counts["moved"] += 1
        source.doubtful.update(item.delivery.lease for item in source.open.values())
        source.look_at = -math.inf

    # --- settling -------------------------------------------------------------------------------------------------------

    def collect(self, source: Source, now: float, *, everything: bool) -> list[Settlement]:
        """Take out what is to be said: everything, or with a pull those of one lease, since one request settles one, and what is late."""
        box = source.outbox
        if not box:
            return []
        if everything or (source.since is not None and now - source.since > SETTLE_LATEST):
            taken, source.outbox = box[:MAX_ACKS], box[MAX_ACKS:]
        else:
            lease = box[0].delivery.lease
            rest: list[Settlement] = []
            taken = []
            for one in box:
                (taken if one.delivery.lease == lease and len(taken) < MAX_ACKS else rest).append(one)
            source.outbox = rest
        source.since = now if source.outbox else None
        source.sending += len(taken)
        return taken

    def unsent(self, source: Source, settlements: Sequence[Settlement], now: float) -> None:
        """Nobody knows what became of these: say them again."""
        source.sending -= len(settlements)
        source.outbox[:0] = settlements
        source.again.update(id(one) for one in settlements)
        if settlements:
            source.since = now

    def settled(self, source: Source, sent: Sequence[Settlement], results: Sequence[Settled]) -> list[Settled]:
        """Note what became of settlements; returns those that were refused although a handler had done its work."""
        source.sending -= len(sent)
        wasted = []
        for result in results:
            if result.problem is None:
                continue
            if result.problem == "already_settled" and id(result.settlement) in source.again:
                continue
            if result.problem not in {"held_back", "already_settled"}:  # what else came with it may be lost, too
                source.doubtful.add(result.settlement.delivery.lease)
                source.look_at = -math.inf
            if result.settlement.status == "succeeded":
                self.counts["refused"] += 1
                wasted.append(result)
        if source.again:
            source.again.difference_update(id(one) for one in sent)
        return wasted

    def due(self, source: Source) -> float:
        """Return when the outbox has to go, if no pull takes it along."""
        if source.since is None:
            return math.inf
        if not source.pulling:
            return -math.inf
        return source.since + (SETTLE_WITHIN if source.polling else SETTLE_LATEST)

    # --- ending ---------------------------------------------------------------------------------------------------------

    def give_back(self, source: Source, now: float) -> int:
        """Let others have what was not begun; returns how many."""
        before = self.counts["given_back"]
        for item in [*source.open.values()]:
            if item not in self.running:
                self._return(item, now)
        if any(item.lost for item in self.ready):
            self.ready = deque(item for item in self.ready if not self._gone(item))
        for behind in self._lanes.values():
            if any(item.lost for item in behind):
                kept = [item for item in behind if not item.lost]
                behind.clear()
                behind.extend(kept)
        return self.counts["given_back"] - before

    def _gone(self, item: Item) -> bool:
        """Whether an item that was ready is lost; the next one of its lane takes its place with the next `take`."""
        if item.lost and item.lane is not None:
            behind = self._lanes[item.lane]
            while behind and behind[0].lost:
                behind.popleft()
            if behind:
                return False  # `take` passes it and goes on with its lane
            del self._lanes[item.lane]
        return item.lost

    def _return(self, item: Item, now: float) -> None:
        if item.lost:
            return
        self._settle(item, "later", 0.0, None, now)
        self.counts["given_back"] += 1
        item.lost = True

    # --- one item -------------------------------------------------------------------------------------------------------

    def _settle(self, item: Item, status: Status, delay: float | None, error: str | None, now: float) -> None:
        source = item.source
        del source.open[id(item.delivery)]
        self.held -= 1
        source.outbox.append(Settlement(item.delivery, status, delay, error))
        if source.since is None:
            source.since = now

    def _lose(self, item: Item, why: str) -> None:
        if item.lost:
            return
        del item.source.open[id(item.delivery)]
        self.held -= 1
        item.lost = True
        self.counts[why] += 1

    def _drop_behind(self, item: Item) -> None:
        """Forget what stands behind an item of an ordered lane that comes again: the broker has taken it back."""
        if not item.ordered or item.lane is None:
            return
        behind = self._lanes[item.lane]
        kept = []
        for other in behind:
            if other.source is item.source and other.delivery.lease == item.delivery.lease:
                self._lose(other, "held_back")
            else:
                kept.append(other)
        behind.clear()
        behind.extend(kept)

    def _advance(self, lane: Hashable) -> None:
        """One of a lane is through: the next one may begin."""
        behind = self._lanes[lane]
        while behind:
            item = behind.popleft()
            if not item.lost:
                self.ready.append(item)
                return
        del self._lanes[lane]

    def report(self) -> dict[str, Any]:
        """Return numbers for people: what is in hand, and what was done so far."""
        return {"in_hand": self.held, "running": len(self.running), **self.counts}
