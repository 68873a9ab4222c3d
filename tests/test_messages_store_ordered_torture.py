"""Ordered topics under fire: no message of a key overtakes another, nothing is lost or stuck, counts are exact; and the proof can fail."""

import os
import random
import threading
import time

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.db import fetch
from messages.types import STATUS_WORDS, DeadFilter, NewMessage, Outcome
from tests.store_world import Threads, counts, expire_now, new_group, new_id, pull, redrive, sql

pytestmark = pytest.mark.usefixtures("store")
SEED = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))
KEYS = [*"abcdef", None]


class Run:
    """Senders, workers that crash, fail, postpone and bury, an expirer. What happens is written down in one order for all threads."""

    def __init__(self, *, ordered, seconds):
        self.topic, self.lock, self.quiet = new_id(), threading.Lock(), threading.Event()
        if ordered:
            builtin.set_ordering(topic_id=self.topic, ordering="key")
        self.group = new_group(self.topic, max_attempts=1000, backoff_ms=(0, 5, 20))
        self.events, self.sent, self.ended = [], {}, {}  # ended: id -> (place of the try in events, "succeeded" or "dead")
        self.end = time.monotonic() + seconds

    def note(self, *event):
        with self.lock:
            self.events.append(event)
            return len(self.events) - 1

    def sender(self, rng):
        while time.monotonic() < self.end:
            keys = rng.choices(KEYS, k=rng.choice([1, 1, 3, 10]))
            made = services.send(topic_id=self.topic, messages=[NewMessage(b"x", sharding_key=k) for k in keys])
            with self.lock:
                self.sent.update(zip((a.id for a in made), keys, strict=True))
            time.sleep(rng.random() * 0.04)

    def worker(self, rng):
        lease, outcomes = None, []
        while not self.quiet.is_set():
            tried = {o.id: self.note("try", o.id) for o in outcomes}
            settled, batch = services.next(
                group_id=self.group, lease=lease, outcomes=outcomes, limit=rng.choice([1, 5, 30]), visibility_ms=500, consumer="w"
            )
            for s in settled:
                if s.status in {"succeeded", "dead"}:
                    assert s.id not in self.ended, f"{s.id} ended twice"
                    self.ended[s.id] = tried[s.id], s.status
            for m in batch.messages:
                self.note("got", m.id, batch.lease)
            words = ["succeeded", "failed", "later", "dead"]
            outcomes = [Outcome(m.id, rng.choices(words, [90, 6, 3, 1])[0]) for m in batch.messages]
            lease = batch.lease
            if lease and rng.random() < 0.2:  # a part of it on its own; the rest with the next
                part = rng.sample(outcomes, rng.randint(1, len(outcomes)))
                tried = {o.id: self.note("try", o.id) for o in part}
                for s in services.settle(group_id=self.group, lease=lease, outcomes=part):
                    if s.status in {"succeeded", "dead"}:
                        assert s.id not in self.ended, f"{s.id} ended twice"
                        self.ended[s.id] = tried[s.id], s.status
                outcomes = [o for o in outcomes if o not in part]
            if rng.random() < 0.03 and time.monotonic() < self.end:  # crash
                lease, outcomes = None, []
            if not batch.messages:
                lease, outcomes = None, []
                time.sleep(0.005)

    def housekeeper(self):
        while not self.quiet.is_set():
            services.tick()
            services.expire()
            time.sleep(0.01)

    def go(self):
        threads = Threads()
        for i in range(3):
            threads.start(self.sender, random.Random(SEED + i))
        for i in range(4):
            threads.start(self.worker, random.Random(SEED + 100 + i))
        threads.start(self.housekeeper)
        while time.monotonic() < self.end + 60 and not threads.errors:
            with self.lock:
                over = time.monotonic() > self.end and len(self.ended) >= len(self.sent)
            if over:
                break
            time.sleep(0.05)
        time.sleep(0.1)
        self.quiet.set()
        threads.join()

    def overtaken(self):
        """Messages that were handed out while one before them of their key was neither done nor in the same lease."""
        earlier, before = {}, {}
        for i, key in sorted(self.sent.items()):
            before[i] = list(earlier.get(key, [])) if key is not None else []
            earlier.setdefault(key, []).append(i)
        with_lease = {(e[1], e[2]) for e in self.events if e[0] == "got"}
        found = []
        for place, event in enumerate(self.events):
            if event[0] == "got":
                _word, i, lease = event
                found += [(i, j) for j in before[i] if self.ended.get(j, (place + 1,))[0] > place and (j, lease) not in with_lease]
        return found


def test_ordered_torture_no_message_overtakes_another_of_its_key():
    print(f"seed {SEED}")
    run = Run(ordered=True, seconds=2.5)
    run.go()
    assert len(run.sent) > 100
    assert run.sent.keys() - run.ended.keys() == set(), f"lost or stuck; seed {SEED}; {counts(run.group)}"
    assert run.overtaken() == [], f"seed {SEED}"
    ends = [word for _place, word in run.ended.values()]
    assert counts(run.group) == {word: ends.count(word) for word in set(ends)}
    assert sql("SELECT held FROM mq_cursor WHERE group_id = %s", run.group) == 0
    assert sql("SELECT count(*) FROM mq_exception WHERE group_id = %s AND status <> 'D'", run.group) == 0


def test_without_order_the_same_run_overtakes():
    """The negative control: the run above sees it when nobody keeps the order."""
    run = Run(ordered=False, seconds=1.5)
    run.go()
    assert run.overtaken(), f"the control kept the order: the torture proves nothing; seed {SEED}"


# --- random runs, one step after the other --------------------------------------------------------------------------------

OPEN = {"waiting", "processing", "later"}
words = st.lists(st.sampled_from(["succeeded", "succeeded", "failed", "later", "dead", None]), min_size=6, max_size=6)
STEP = st.one_of(
    st.tuples(st.just("send"), st.lists(st.sampled_from(["a", "a", "b", "c", None]), min_size=1, max_size=5)),
    st.tuples(st.just("pull"), st.integers(1, 6)),
    st.tuples(st.just("work"), st.integers(1, 6), words),
    st.tuples(st.just("work"), st.integers(1, 6), words),
    st.tuples(st.just("settle"), words, st.integers(0, 5)),
    st.tuples(st.just("settle"), words, st.integers(0, 5)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("redrive")),
    st.tuples(st.just("decide"), st.sampled_from(["retry", "dead_letter", "skip"])),
)
MOVE = st.one_of(STEP, STEP, st.tuples(st.just("move"), st.integers(0, 30)), st.tuples(st.just("undo")))
ALIKE = {
    "max_examples": int(os.environ.get("MQADMIN_TEST_EXAMPLES", "3")),
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


def statuses(topic, group):
    """What the store says of each message of a topic."""
    sql = "SELECT m.id, s.status FROM mq_message m, mq_status(m.topic_id, m.id) s WHERE m.topic_id = %s::bigint AND s.group_id = %s::bigint"
    return {i: STATUS_WORDS[letter] for i, letter in fetch(sql, (topic, group))}


class World:
    def __init__(self, stop_key):
        self.topic = new_id()
        builtin.set_ordering(topic_id=self.topic, ordering="key")
        self.group = new_group(self.topic, max_attempts=2)
        builtin.set_exhaustion(group_id=self.group, stop_key=stop_key)
        self.keys, self.status, self.leases = {}, {}, {}  # leases: token -> ids, those in hand

    def send(self, keys):
        for accepted, key in zip(
            services.send(topic_id=self.topic, messages=[NewMessage(b"", sharding_key=k) for k in keys]), keys, strict=True
        ):
            self.keys[accepted.id], self.status[accepted.id] = key, "waiting"
        services.tick()

    def before(self, i):
        """Those of its key that have to be done before it."""
        return [j for j, key in self.keys.items() if key is not None and key == self.keys[i] and j < i and self.status[j] in OPEN]

    def pull(self, limit):
        batch = pull(self.group, limit=limit)
        ids = [m.id for m in batch.messages]
        assert ids == sorted(set(ids))
        for i in ids:
            assert self.status[i] in {"waiting", "later"}
            assert set(self.before(i)) <= set(ids), "one before it of its key is open"
            in_hand = {j for held in self.leases.values() for j in held if self.keys[j] == self.keys[i]}
            assert self.keys[i] is None or not in_hand, "its key is in hand"
        for i in ids:
            self.status[i] = "processing"
        if ids:
            self.leases[batch.lease] = ids

    def settle(self, said, which):
        if not self.leases:
            return
        lease = sorted(self.leases)[which % len(self.leases)]
        held = self.leases[lease]
        outcomes = [Outcome(i, w) for i, w in zip(held, said, strict=False) if w]
        broken = set()
        for o, result in zip(outcomes, services.settle(group_id=self.group, lease=lease, outcomes=outcomes), strict=True):
            key = self.keys[o.id]
            if key in broken:
                assert result.problem_code == "held_back"
                continue
            assert result.problem_code is None
            self.status[o.id] = result.status
            held.remove(o.id)
            if result.status == "later" and key is not None:
                broken.add(key)
                for j in [j for j in held if self.keys[j] == key and j > o.id]:
                    self.status[j] = "waiting"
        self.leases[lease] = [i for i in held if self.status[i] == "processing"]
        self.leases = {token: ids for token, ids in self.leases.items() if ids}

    def expire(self):
        expire_now(self.group)
        said = statuses(self.topic, self.group)
        for ids in self.leases.values():
            for i in ids:
                self.status[i] = said[i]
                assert self.status[i] in {"later", "waiting", "dead"}
        self.leases = {}

    def step(self, name, *args):
        if name == "work":
            self.pull(args[0])
            self.settle(args[1], len(self.leases) - 1)
        elif name == "redrive":
            redrive(self.group, only=DeadFilter())
            said = statuses(self.topic, self.group)
            for i, word in self.status.items():
                if word == "dead":
                    self.status[i] = said[i]
                    assert self.status[i] in {"waiting", "later"}
        elif name == "decide":
            stopped = [s.message_id for s in services.stopped_keys(group_id=self.group)]
            if stopped:
                done = services.decide_stopped(group_id=self.group, ids=stopped, decision=args[0], reason="tests")
                assert set(done.values()) == {""}
                for i in stopped:
                    self.status[i] = {"retry": "later", "dead_letter": "dead", "skip": "failed"}[args[0]]
        else:
            getattr(self, name)(*args)

    def check(self):
        """What the store says of each message, and its counts, are the model's; a released one is later to it and waiting to us."""
        tally, said = {}, statuses(self.topic, self.group)
        for i, word in self.status.items():
            real = said[i]
            assert real == word or {real, word} == {"later", "waiting"}, (i, real, word)
            tally[real] = tally.get(real, 0) + 1
        assert counts(self.group) == tally
        held = sql("SELECT count(*) FROM mq_exception WHERE group_id = %s AND status = 'B'", self.group)
        assert sql("SELECT held FROM mq_cursor WHERE group_id = %s", self.group) == held

    def finish(self):
        """Nothing is stuck: all that is open can be had, in order, and is done in the end."""
        self.expire()
        for _round in range(200):
            self.step("decide", "retry")
            self.pull(100)
            if not self.leases:
                break
            self.settle(["succeeded"] * 100, 0)
        assert {w for w in self.status.values() if w in OPEN} == set(), counts(self.group)
        self.check()


@pytest.mark.parametrize("stop_key", [False, True])
@settings(**ALIKE)
@given(steps=st.lists(STEP, min_size=30, max_size=60))
def test_random_runs_keep_order_counts_and_statuses(stop_key, steps):
    world = World(stop_key)
    world.send(["a", "b", "a", None, "a"])
    for step in steps:
        note(step)
        world.step(*step)
        note(counts(world.group))
    world.check()
    world.finish()


@settings(**ALIKE)
@given(steps=st.lists(MOVE, min_size=30, max_size=50))
def test_moves_of_the_position_lose_nothing_and_stay_exact(steps):
    """Order across a move is for nobody to promise; that counts are those of the statuses, and that nothing is stuck, is."""
    world = World(stop_key=True)
    world.send(["a", "b", "a", None, "a"])
    ids, made, leases = list(world.keys), None, []

    def tally():
        said = list(statuses(world.topic, world.group).values())
        return {word: said.count(word) for word in said}

    for name, *args in steps:
        note((name, args))
        if name == "send":
            ids += [a.id for a in services.send(topic_id=world.topic, messages=[NewMessage(b"", sharding_key=k) for k in args[0]])]
            services.tick()
        elif name in {"pull", "work"}:
            batch = pull(world.group, limit=args[0])
            leases += [batch] if batch.lease else []
        if name in {"settle", "work"} and leases:
            said, batch = args[-2] if name == "settle" else args[-1], leases.pop(args[-1] % len(leases) if name == "settle" else -1)
            outcomes = [Outcome(m.id, w) for m, w in zip(batch.messages, said, strict=False) if w]
            services.settle(group_id=world.group, lease=batch.lease, outcomes=outcomes)
        elif name == "expire":
            expire_now(world.group)
        elif name == "redrive":
            redrive(world.group, only=DeadFilter())
        elif name == "decide":
            if stopped := [s.message_id for s in services.stopped_keys(group_id=world.group)]:
                services.decide_stopped(group_id=world.group, ids=stopped, decision=args[0], reason="tests")
        elif name == "move":
            to = ["earliest", *ids, "latest"][args[0] % (len(ids) + 2)]
            plan = services.preview_reset(group_id=world.group, topic_id=world.topic, to=to)
            try:
                made = services.reset(group_id=world.group, topic_id=world.topic, position=plan.position, fingerprint=plan.fingerprint)
            except Problem as problem:
                assert problem.code == "nothing_changes"  # noqa: PT017
        elif name == "undo" and made is not None:
            try:
                services.undo_reset(reset_id=made.pk)
            except Problem as problem:
                assert problem.code == "nothing_left_to_undo"  # noqa: PT017
            made = None
        assert counts(world.group) == tally()
    expire_now(world.group)
    for _round in range(300):
        if stopped := [s.message_id for s in services.stopped_keys(group_id=world.group)]:
            services.decide_stopped(group_id=world.group, ids=stopped, decision="skip", reason="tests")
        batch = pull(world.group)
        if batch.lease is None:
            break
        services.settle(group_id=world.group, lease=batch.lease, outcomes=[Outcome(m.id, "succeeded") for m in batch.messages])
    assert counts(world.group).keys() <= {"succeeded", "dead", "failed", "skipped"}
    assert counts(world.group) == tally()
