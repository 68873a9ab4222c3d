"""The producer above the seam of transports: switching clusters, retries, batches, order, back-pressure, transactions, forks."""

import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace

import pytest

from mqadmin_sdk import (
    BatchError,
    Busy,
    ClusterMetadata,
    ConflictError,
    InvalidError,
    MqadminError,
    NotPublishedError,
    SendResult,
    TopicMetadata,
    TransportError,
    UndecidedError,
    UnreachableError,
    UnsupportedError,
)
from mqadmin_sdk.message import SHADOW, SHADOW_HEADER, Outgoing
from mqadmin_sdk.producing import Producer, mending
from mqadmin_sdk.producing.transactions import check_back
from mqadmin_sdk.transports import HalfMessage

A, B = ClusterMetadata("a", "h1:1", "memory"), ClusterMetadata("b", "h2:1", "memory")


def refusal(code, status=409):
    kind = ConflictError if status == 409 else InvalidError
    return kind(status=status, document={"code": code, "detail": code})


class Transport:
    """A cluster in memory. `faults` are raised by the next sends; `gate` holds them up; `poison` is a body that is refused."""

    def __init__(self, world, cluster):
        self.world, self.cluster = world, cluster
        self.stored, self.batches, self.faults, self.numbers = [], [], [], {}
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.poison = None
        self.halves, self.decided = {}, {}
        self.flushed = self.closed = False
        self.under_way = 0

    def send(self, topic, messages, *, timeout):
        assert not self.closed, "sent through a transport that is closed"
        self.under_way += 1
        try:
            self.entered.release()
            self.gate.wait(timeout)
            self.batches.append([message.body for message in messages])
            if self.faults:
                fault = self.faults.pop(0)
                if isinstance(fault, Exception):
                    raise fault
                return [self._store(topic, message) if one is None else one for message, one in zip(messages, fault, strict=True)]
            if self.poison in {message.body for message in messages}:
                raise refusal("body_too_large", 413)
            return [self._store(topic, message) for message in messages]
        finally:
            self.under_way -= 1

    def _store(self, topic, message):
        with self.lock:
            known = message.id in self.numbers
            number = self.numbers.setdefault(message.id, len(self.stored))
            if not known:
                self.stored.append(message)
        return SendResult(str(number), topic, self.cluster.name, duplicate=known)

    def prepare(self, topic, message, *, check_after, timeout):
        if self.faults:
            raise self.faults.pop(0)
        half = SendResult(str(len(self.halves) + 1), topic, self.cluster.name, state="half")
        self.halves[half.id] = message
        return half

    def decide(self, half, decision, *, timeout):
        if self.faults:
            raise self.faults.pop(0)
        if self.decided.setdefault(half.id, decision) != decision:
            raise refusal("already_committed")

    def undecided(self, topic, *, limit, timeout):
        return [
            HalfMessage(SendResult(number, topic, state="half"), message.id, message.key, message.tag, message.headers)
            for number, message in self.halves.items()
            if number not in self.decided
        ][:limit]

    def flush(self, *, timeout=0):
        self.flushed = True

    def close(self):
        assert self.flushed
        assert not self.under_way, "closed under a send"
        self.closed = True

    @property
    def bodies(self):
        return [int(message.body) for message in self.stored]


class World:
    """Published topics, the transports that were built, and a producer."""

    def __init__(self, **options):
        self.published, self.callbacks, self.transports, self.refuse = {}, {}, [], None
        self.producer = Producer(watch=self.watch, read=self.read, make=self.make, **options)

    def watch(self, name, callback):
        self.callbacks[name] = callback
        if name in self.published:
            callback(self.published[name])

    def read(self, name, _timeout):
        if name not in self.published:
            raise NotPublishedError(f"topic {name} is not published")
        return self.published[name]

    def make(self, cluster):
        if self.refuse:
            raise self.refuse
        self.transports.append(Transport(self, cluster))
        return self.transports[-1]

    def publish(self, cluster, name="t", generation=1):
        self.published[name] = TopicMetadata(name, cluster, generation)
        if name in self.callbacks:
            self.callbacks[name](self.published[name])

    def open(self, *names):
        for name in names or ("t",):
            self.producer.topic(name)
        return self.transports[-1]


@pytest.fixture
def world():
    found = World()
    found.publish(A)
    yield found
    for transport in found.transports:
        transport.gate.set()
    found.producer.close(timeout=5)


def message(body, **fields):
    return Outgoing.of(str(body), **fields)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# --- switching ---


def test_the_new_transport_is_built_before_traffic_switches_and_the_old_one_closed_after_its_sends(world):
    old = world.open()
    old.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(world.producer.send, "t", message(1))
        assert old.entered.acquire(timeout=10)
        world.publish(B, generation=2)
        new = world.transports[-1]
        assert world.producer.send("t", message(2)).cluster == "b"  # while the old one still has the first
        assert not old.flushed
        old.gate.set()
        assert slow.result(10).cluster == "a"
    wait_for(lambda: old.closed)
    assert (old.bodies, new.bodies) == ([1], [2])


def test_while_topics_move_to_and_fro_nothing_is_lost_and_no_send_fails(world):
    world.open()
    stop = threading.Event()

    def sends(number):
        done = 0
        while not stop.is_set():
            world.producer.send("t", message(number * 1_000_000 + done))
            done += 1
        return done

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(sends, number) for number in range(4)]
        for generation in range(2, 62):
            world.publish(B if generation % 2 else replace(A, generation=generation), generation=generation)
        stop.set()
        total = sum(count.result(10) for count in counts)
    stored = [body for transport in world.transports for body in transport.bodies]
    assert (len(stored), len(set(stored))) == (total, total)
    wait_for(lambda: sum(not transport.closed for transport in world.transports) == 1)


def test_a_thousand_changes_leave_no_thread_behind(world):
    world.open()
    world.producer.send_async("t", message(0)).result(10)
    before = threading.active_count()
    for generation in range(2, 1002):
        world.publish(B if generation % 2 else A, generation=generation)
    wait_for(lambda: threading.active_count() <= before)
    assert sum(not transport.closed for transport in world.transports) == 1


def test_a_new_generation_of_the_same_cluster_keeps_the_transport(world):
    world.open()
    world.publish(replace(A, generation=9), generation=2)
    assert len(world.transports) == 1
    world.publish(replace(A, boot_addr="h9:1"), generation=3)
    assert len(world.transports) == 2


def test_topics_of_one_cluster_share_a_transport_until_the_last_leaves(world):
    world.publish(A, "u")
    shared = world.open("t", "u")
    assert len(world.transports) == 1
    world.publish(B, "t", 2)
    world.producer.send("u", message(1))
    assert not shared.flushed
    world.publish(B, "u", 2)
    wait_for(lambda: shared.closed)
    assert len(world.transports) == 2


def test_a_transport_that_cannot_be_built_changes_nothing_and_tells(world):
    old = world.open()
    world.refuse = UnsupportedError("pip install it")
    with pytest.raises(UnsupportedError):
        world.publish(B, generation=2)
    assert world.producer.send("t", message(1)).cluster == "a"
    world.refuse = None
    world.publish(B, generation=3)
    assert world.producer.send("t", message(2)).cluster == "b"
    wait_for(lambda: old.closed)


def test_one_that_may_be_built_later_is_tried_again_and_then_reported(world, monkeypatch):
    monkeypatch.setattr(mending, "_PAUSE", 0.02)
    old = world.open()
    [topic] = world.producer.all()
    reported = []
    topic.mended = reported.append
    world.refuse = OSError("no broker answers")
    with pytest.raises(OSError, match="no broker"):
        world.publish(B, generation=2)
    with pytest.raises(OSError, match="no broker"):  # the last state counts
        world.publish(replace(B, boot_addr="h3:1"), generation=3)
    assert world.producer.send("t", message(1)).cluster == "a"
    world.refuse = None
    wait_for(lambda: old.closed)
    assert world.producer.send("t", message(2)).cluster == "b"
    wait_for(lambda: reported)
    assert [(one.generation, one.cluster.boot_addr) for one in reported] == [(3, "h3:1")]
    wait_for(lambda: world.producer._mender._thread is None)


def test_a_topic_that_is_gone_goes_on_where_it_was(world):
    world.open()
    world.callbacks["t"](None)
    assert world.producer.send("t", message(1)).cluster == "a"


def test_a_topic_that_is_not_published_is_an_error_at_once_and_works_when_it_is(world):
    with pytest.raises(NotPublishedError):
        world.producer.send("new", message(1), timeout=3600)
    world.publish(A, "new")
    assert world.producer.send("new", message(1)).topic == "new"


def test_the_store_may_know_of_a_move_first_the_send_waits_for_its_own_metadata(world):
    old = world.open()
    old.faults = [refusal("not_on_builtin_store")]
    with ThreadPoolExecutor(1) as threads:
        send = threads.submit(world.producer.send, "t", message(1))
        assert old.entered.acquire(timeout=10)
        wait_for(lambda: old.batches)
        world.publish(B, generation=2)
        assert send.result(10).cluster == "b"


def test_one_that_moved_to_where_this_process_cannot_send_is_told_so_at_once(world):
    old = world.open()
    world.refuse = UnsupportedError("pip install it")
    with pytest.raises(UnsupportedError):
        world.publish(B, generation=2)
    old.faults = [refusal("not_on_builtin_store")] * 9
    with pytest.raises(UnsupportedError, match="pip install it"):
        world.producer.send("t", message(1), timeout=3600)
    with pytest.raises(UnsupportedError), world.producer.transaction("t") as tx:
        tx.send("1")


def test_one_that_moved_to_where_nobody_knows_says_so_when_its_time_is_over(world):
    world.open().faults = [refusal("not_on_builtin_store")] * 9
    with pytest.raises(TransportError, match="has moved"):
        world.producer.send("t", message(1), timeout=0.3)


# --- retries ---


def test_a_temporary_fault_is_tried_again_under_the_same_id(world):
    transport = world.open()
    transport.faults = [UnreachableError("no"), TransportError("no", unknown=True)]
    sent = world.producer.send("t", message(1, id="mine"))
    assert (sent.id, len(transport.batches), [one.id for one in transport.stored]) == ("0", 3, ["mine"])


def test_one_that_was_stored_without_an_answer_is_not_stored_twice(world):
    transport = world.open()
    store, lost = transport._store, []

    def loses_the_answer(topic, one):
        result = store(topic, one)
        if not lost:
            lost.append(result)
            raise UnreachableError("the connection was lost", unknown=True)
        return result

    transport._store = loses_the_answer
    assert world.producer.send("t", message(1)).duplicate
    assert transport.bodies == [1]


def test_a_refusal_is_raised_at_once(world):
    transport = world.open()
    transport.faults = [refusal("invalid_tag", 400)] * 2
    with pytest.raises(InvalidError):
        world.producer.send("t", message(1))
    assert len(transport.batches) == 1


def test_when_its_time_is_over_the_last_error_is_raised(world):
    transport = world.open()
    transport.faults = [UnreachableError(f"try {i}") for i in range(1000)]
    with pytest.raises(UnreachableError):
        world.producer.send("t", message(1), timeout=2)
    assert len(transport.batches) > 1


def test_back_pressure_is_waited_out_if_that_can_help_and_told_if_not(world):
    transport = world.open()
    transport.faults = [Busy("full", retry_after=0.1)]
    assert world.producer.send("t", message(1))
    transport.faults = [Busy("full", retry_after=7200.0)]
    with pytest.raises(Busy) as caught:
        world.producer.send("t", message(2), timeout=3600)
    assert caught.value.retry_after == 7200.0


def test_of_a_batch_only_what_failed_for_a_while_is_sent_again(world):
    transport = world.open()
    transport.faults = [[None, TransportError("leader is away"), None]]
    results = world.producer.send_batch("t", [message(i) for i in range(3)])
    assert [len(batch) for batch in transport.batches] == [3, 1]
    assert sorted(transport.bodies) == [0, 1, 2]
    assert [one.id for one in results] == ["0", "2", "1"]


def test_a_batch_tells_what_became_of_each(world):
    transport = world.open()
    transport.faults = [[None, TransportError("too large", permanent=True)]]
    with pytest.raises(BatchError) as caught:
        world.producer.send_batch("t", [message(1), message(2)])
    assert [isinstance(one, SendResult) for one in caught.value.results] == [True, False]
    assert world.producer.send_batch("t", []) == []


# --- asynchronous ---


def test_what_comes_while_a_batch_is_on_its_way_makes_the_next_one(world):
    transport = world.open()
    transport.gate.clear()
    first = world.producer.send_async("t", message(0))
    assert transport.entered.acquire(timeout=10)
    futures = [world.producer.send_async("t", message(i)) for i in range(1, 201)]
    transport.gate.set()
    assert first.result(10).topic == "t"
    assert [int(transport.stored[int(future.result(10).id)].body) for future in futures] == list(range(1, 201))
    assert [len(batch) for batch in transport.batches] == [1, 200]


def test_those_who_linger_share_a_batch():
    world = World(linger=5.0)
    world.publish(A)
    transport = world.open()
    futures = [world.producer.send_async("t", message(i)) for i in range(500)]  # a full batch goes at once
    assert all(future.result(3) for future in futures)
    assert sum(len(batch) for batch in transport.batches) == 500
    assert len(transport.batches) < 3
    world.producer.send_async("t", message(501))
    assert world.producer.flush(timeout=3)  # and so does what is flushed
    world.producer.close()


def test_of_one_sharding_key_the_order_is_kept_through_faults_and_switches(world):
    world.open()
    chance = random.Random(7)
    sent = Counter()
    futures = []
    for number in range(3000):
        if number % 100 == 0:
            world.publish(B if number % 200 else A, generation=number + 2)
            world.transports[-1].faults = [UnreachableError("no")] * chance.randrange(3)
        key = f"k{chance.randrange(7)}"
        futures.append(world.producer.send_async("t", message(sent[key], sharding_key=key)))
        sent[key] += 1
    assert all(future.result(30) for future in futures)
    for key, n in sent.items():
        assert [int(one.body) for transport in world.transports for one in transport.stored if one.sharding_key == key] == list(range(n))


def test_one_that_is_refused_spoils_no_other_of_its_batch(world):
    transport = world.open()
    transport.poison = b"13"
    transport.gate.clear()
    world.producer.send_async("t", message(0))
    assert transport.entered.acquire(timeout=10)
    futures = [world.producer.send_async("t", message(i)) for i in range(1, 40)]
    transport.gate.set()
    errors = [future.exception(10) for future in futures]
    assert [i for i, error in enumerate(errors, 1) if error is not None] == [13]
    assert transport.bodies == [0, *range(1, 13), *range(14, 40)]


def test_a_full_buffer_makes_the_caller_wait_and_then_says_so():
    world = World(buffer_messages=10)
    world.publish(A)
    transport = world.open()
    transport.gate.clear()
    futures = [world.producer.send_async("t", message(i)) for i in range(10)]
    with pytest.raises(Busy) as caught:
        world.producer.send_async("t", message(10), timeout=0.1)
    assert caught.value.code == "buffer_full"
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(world.producer.send_async, "t", message(11))
        transport.gate.set()
        futures.append(waits.result(10))
    assert all(future.result(10) for future in futures)
    world.producer.close()
    assert transport.bodies == [*range(10), 11]


def test_what_waits_too_long_fails_by_its_own_time(world):
    transport = world.open()
    transport.gate.clear()
    first = world.producer.send_async("t", message(0))
    assert transport.entered.acquire(timeout=10)
    late = world.producer.send_async("t", message(1), timeout=0.05)
    time.sleep(0.1)
    transport.gate.set()
    assert first.result(10)
    with pytest.raises(TransportError, match="time was over"):
        late.result(10)


def test_a_future_that_is_cancelled_in_time_is_not_sent(world):
    transport = world.open()
    transport.gate.clear()
    world.producer.send_async("t", message(0))
    assert transport.entered.acquire(timeout=10)
    doomed = world.producer.send_async("t", message(1))
    assert doomed.cancel()
    transport.gate.set()
    assert world.producer.flush(timeout=10)
    assert transport.bodies == [0]


def test_futures_are_those_of_the_standard_library(world):
    transport = world.open()
    transport.poison = message(3).body
    transport.gate.clear()
    first = world.producer.send_async("t", message(0))
    assert transport.entered.acquire(timeout=10)
    futures = [world.producer.send_async("t", message(i)) for i in range(1, 6)]
    assert isinstance(first, Future)
    assert (first.running(), first.done(), futures[0].running(), futures[0].done()) == (True, False, False, False)
    assert not first.cancel()
    with pytest.raises(FutureTimeout):
        futures[0].result(0.01)
    called = []
    futures[1].add_done_callback(called.append)
    transport.gate.set()
    assert world.producer.flush(timeout=10)
    assert called == [futures[1]]
    asked_early, asked_late = futures[0], futures[4]
    assert (asked_early.result(0).cluster, asked_late.result(0).cluster) == ("a", "a")
    assert (asked_early.exception(0), asked_late.exception(0)) == (None, None)
    assert all(one.done() and not one.running() and not one.cancelled() for one in futures)
    with pytest.raises(InvalidError):
        futures[2].result(0)
    assert isinstance(futures[2].exception(0), InvalidError)
    futures[3].add_done_callback(called.append)
    assert called == [futures[1], futures[3]]
    assert {id(one) for one in as_completed(futures)} == {id(one) for one in futures}


def test_many_threads_wait_for_the_same_futures_while_they_are_settled(world):
    world.open()

    def send_and_wait(_n):
        futures = [world.producer.send_async("t", message(i)) for i in range(50)]
        return len(wait(futures, timeout=30).done) + sum(one.result(30).cluster == "a" for one in futures)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(send_and_wait, range(80))) == [100] * 80


def test_a_future_that_is_kept_keeps_no_message(world):
    transport = world.open()
    outgoing = message(1)
    before = sys.getrefcount(outgoing)
    future = world.producer.send_async("t", outgoing)
    assert world.producer.flush(timeout=10)
    assert future.result(10)
    transport.stored.clear()
    assert sys.getrefcount(outgoing) == before


def test_what_fails_on_a_one_way_send_is_logged(world, caplog):
    transport = world.open()
    transport.poison = message(2).body
    for i in range(4):
        world.producer.send_oneway("t", message(i))
    assert world.producer.flush(timeout=10)
    assert transport.bodies == [0, 1, 3]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "topic t: a one-way message was not sent: body_too_large [413 body_too_large]"
    ]


def test_close_sends_what_is_buffered_and_fails_what_is_left():
    world = World()
    world.publish(A)
    transport = world.open()
    futures = [world.producer.send_async("t", message(i)) for i in range(100)]
    world.producer.close(timeout=10)
    assert all(future.result(0) for future in futures)
    assert transport.closed
    with pytest.raises(MqadminError, match="closed"):
        world.producer.send_async("t", message(1))

    world = World()
    world.publish(A)
    world.open().gate.clear()
    kept = world.producer.send_async("t", message(0), timeout=1)
    assert world.transports[0].entered.acquire(timeout=10)
    left = world.producer.send_async("t", message(1))
    closing = threading.Thread(target=world.producer.close, kwargs={"timeout": 0.1})
    closing.start()
    with pytest.raises(MqadminError, match="closed before"):
        left.result(10)
    world.transports[0].gate.set()
    closing.join(10)
    assert kept.result(10)


def test_a_forked_child_sends_by_transports_of_its_own_and_nothing_of_its_parent(world):
    transport = world.open()
    transport.gate.clear()
    world.producer.send_async("t", message(1))
    assert transport.entered.acquire(timeout=10)
    buffered = world.producer.send_async("t", message(2))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            world.producer.after_fork()
            world.callbacks["t"](world.published["t"])  # as the client does
            world.producer.send("t", message(3))
            future = world.producer.send_async("t", message(4))
            future.result(10)
            os.write(write, repr((len(world.transports), world.transports[-1].bodies, world.producer.buffered)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert said.read() == b"(2, [3, 4], 0)"
    os.waitpid(pid, 0)
    transport.gate.set()
    assert buffered.result(10)
    assert transport.bodies == [1, 2]


# --- what is put into messages ---


def test_what_is_sent_while_shadow_traffic_is_handled_is_marked(world):
    transport = world.open()
    token = SHADOW.set("stress-1")
    try:
        world.producer.send("t", message(1))
        future = world.producer.send_async("t", message(2, headers={"x": "y"}))
    finally:
        SHADOW.reset(token)
    future.result(10)
    world.producer.send("t", message(3))
    assert [dict(one.headers) for one in transport.stored] == [{SHADOW_HEADER: "stress-1"}, {"x": "y", SHADOW_HEADER: "stress-1"}, {}]


def test_interceptors_see_and_change_each_message_and_its_topic(world):
    world.publish(A, "other")
    world.producer.interceptors.append(lambda topic, one: ("other" if one.tag == "odd" else topic, replace(one, headers={"trace": "1"})))
    world.open()
    results = world.producer.send_batch("t", [message(i, tag="odd" if i % 2 else "") for i in range(4)])
    assert [one.topic for one in results] == ["t", "other", "t", "other"]
    assert all(one.headers == {"trace": "1"} for one in world.transports[0].stored)


# --- transactions ---


def test_half_messages_are_committed_when_the_block_ends(world):
    transport = world.open()
    with world.producer.transaction("t") as tx:
        assert tx.send({"id": 1}, key="order-1").state == "half"
        tx.send("2")
        assert transport.decided == {}
    assert transport.decided == {"1": "commit", "2": "commit"}


def test_they_are_rolled_back_when_it_raises(world):
    transport = world.open()
    with pytest.raises(ZeroDivisionError), world.producer.transaction("t") as tx:  # noqa: PT012
        tx.send("1")
        1 / 0  # noqa: B018
    assert transport.decided == {"1": "rollback"}
    with pytest.raises(RuntimeError):
        tx.send("2")


def test_the_cluster_that_has_a_half_message_decides_it_though_the_topic_has_moved(world):
    old = world.open()
    with world.producer.transaction("t") as tx:
        tx.send("1")
        world.publish(B, generation=2)
        tx.send("2")
        assert not old.flushed
    assert (old.decided, world.transports[-1].decided) == ({"1": "commit"}, {"1": "commit"})
    wait_for(lambda: old.closed)


def test_temporary_faults_of_either_step_are_tried_again(world):
    transport = world.open()
    transport.faults = [UnreachableError("no")]
    with world.producer.transaction("t") as tx:
        tx.send("1")
        transport.faults = [UnreachableError("no"), Busy("no", retry_after=0.01)]
    assert transport.decided == {"1": "commit"}


def test_a_commit_without_an_answer_says_what_is_open_and_the_check_back_decides_it(world):
    transport = world.open()
    with pytest.raises(UndecidedError) as caught, world.producer.transaction("t", timeout=1) as tx:  # noqa: PT012
        tx.send("1", id="order-1")
        tx.send("2", id="order-2")
        transport.faults = [UnreachableError("no")] * 1000
    assert [half.id for half in caught.value.undecided] == ["1", "2"]
    transport.faults = []
    topic = world.producer.topic("t")
    answers = {"order-1": "commit", "order-2": "unknown"}
    assert check_back(topic, lambda half: answers[half.producer_id], limit=10, timeout=10) == 1
    assert transport.decided == {"1": "commit"}


def test_a_rollback_without_an_answer_does_not_hide_the_error_of_the_block(world, caplog):
    transport = world.open()
    caplog.set_level(logging.WARNING)
    with pytest.raises(ZeroDivisionError), world.producer.transaction("t", timeout=1) as tx:  # noqa: PT012
        tx.send("1")
        transport.faults = [UnreachableError("no")] * 1000
        1 / 0  # noqa: B018
    assert "not rolled back" in caplog.text


def test_a_cluster_without_half_messages_says_so(world):
    transport = world.open()
    with pytest.raises(UnsupportedError, match="half"), world.producer.transaction("t") as tx:  # noqa: PT012
        world.producer.topic("t").current.transport = type("Plain", (), {"flush": transport.flush, "close": transport.close})()
        transport.flushed = True
        tx.send("1")


def test_it_counts_what_it_does(world):
    transport = world.open()
    transport.faults = [UnreachableError("no"), UnreachableError("no")]
    world.producer.send("t", message(1))
    transport.faults = [refusal("invalid_tag", 400)]
    with pytest.raises(InvalidError):
        world.producer.send("t", message(2))
    world.publish(B, generation=2)
    world.producer.send_async("t", message(3)).result(10)
    [topic] = world.producer.all()
    wait_for(lambda: topic.counts["sent"] == 2)
    assert (topic.name, dict(topic.counts)) == ("t", {"sent": 2, "failed": 1, "retried": 2, "switched": 1})
    assert topic.seconds > 0
