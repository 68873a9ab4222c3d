"""A broker in memory behind the seam of transports: leases, attempts, ordered lanes; with faults that tests set."""

import threading
import time
from collections import Counter

from mqadmin_sdk.message import Message
from mqadmin_sdk.metadata import ClusterMetadata, GroupMetadata
from mqadmin_sdk.transports import Delivery, Pulled, Settled

CLUSTER = ClusterMetadata("one", "h:1", "memory")


def group(name="g", cluster=CLUSTER, **values):
    return GroupMetadata(name=name, cluster=cluster, binding_topic="t", subscriptions={"t": "*"}, **values)


class Broker:
    """Messages of one group. `fail` is raised by the next calls of a verb: {"next": error}."""

    def __init__(self, *, lease=60.0, ordered=False):
        self.lease, self.ordered = lease, ordered
        self.changed = threading.Condition()
        self.waiting, self.hands, self.outcomes, self.attempts = [], {}, {}, Counter()
        self.fail, self.calls, self.lost, self.leases = {}, Counter(), set(), 0
        self.suspended = False
        self.transports = []

    def send(self, *bodies, key=None, topic="t", headers=None):
        with self.changed:
            for body in bodies:
                number = str(len(self.attempts) + 1)
                self.attempts[number] = 0
                self.waiting.append((number, str(body).encode(), key, topic, headers or {}))
            self.changed.notify_all()

    def connect(self, group=None, cluster=None):
        transport = Transport(self)
        self.transports.append(transport)
        return transport

    def done(self, status="succeeded"):
        return [number for number, outcome in self.outcomes.items() if outcome == status]


class Transport:
    def __init__(self, broker):
        self.broker, self.closed = broker, False

    def _raise(self, verb):
        self.broker.calls[verb] += 1
        error = self.broker.fail.get(verb)
        if error is not None:
            raise error

    def next(self, *, settle, max_messages, wait):
        broker = self.broker
        self._raise("next")
        settled = self._settle(settle)
        until = time.monotonic() + wait
        with broker.changed:
            while not (found := self._free()) and (left := until - time.monotonic()) > 0 and not self.closed:
                broker.changed.wait(left)
            if self.closed:
                raise RuntimeError("closed")
            taken = found[:max_messages]
            broker.leases += 1
            deliveries = []
            for one in taken:
                number, body, key, topic, headers = one
                broker.waiting.remove(one)
                broker.attempts[number] += 1
                message = Message(number, topic, "g", body, sharding_key=key, headers=headers, attempt=broker.attempts[number])
                lane = None if key is None else (topic, key)
                delivery = Delivery(
                    message, f"L{broker.leases}", time.monotonic() + broker.lease, one, lane, broker.ordered and lane is not None
                )
                broker.hands[number] = delivery
                deliveries.append(delivery)
            return Pulled(deliveries, settled, None if deliveries else "empty")

    def _free(self):
        if self.broker.suspended:
            return []
        if not self.broker.ordered:
            return list(self.broker.waiting)
        busy = {delivery.lane for delivery in self.broker.hands.values()}
        return [one for one in self.broker.waiting if one[2] is None or (one[3], one[2]) not in busy]

    def settle(self, settlements):
        self._raise("settle")
        return self._settle(settlements)

    def _settle(self, settlements):
        broker = self.broker
        results = []
        with broker.changed:
            for one in settlements:
                number = one.delivery.message.id
                if broker.hands.get(number) is not one.delivery or one.delivery.lease in broker.lost:
                    done = broker.outcomes.get(number) == one.status
                    results.append(Settled(one, None, "already_settled" if done else "lease_expired", "refused"))
                    continue
                del broker.hands[number]
                broker.outcomes[number] = one.status
                if one.status in {"failed", "later"}:
                    again = [one.delivery.handle]
                    if one.delivery.ordered:
                        behind = [d for d in broker.hands.values() if d.lane == one.delivery.lane and d.lease == one.delivery.lease]
                        for delivery in behind:
                            del broker.hands[delivery.message.id]
                            again.append(delivery.handle)
                    broker.waiting[:0] = again
                results.append(Settled(one, one.status))
            broker.changed.notify_all()
        return results

    def extend(self, deliveries, *, seconds):
        self._raise("extend")
        held = []
        for one in deliveries:
            mine = self.broker.hands.get(one.message.id) is one and one.lease not in self.broker.lost
            if mine:
                one.expires = time.monotonic() + seconds
            held.append(mine)
        return held

    def close(self):
        with self.broker.changed:
            self.closed = True
            self.broker.changed.notify_all()


def lose_leases(broker):
    """All leases end now, as if the process had been frozen beyond them; what was in hand waits again."""
    with broker.changed:
        for number, delivery in list(broker.hands.items()):
            broker.lost.add(delivery.lease)
            del broker.hands[number]
            broker.waiting.append(delivery.handle)
        broker.changed.notify_all()
