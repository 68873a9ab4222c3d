"""Sticky groups under fire: workers that come, leave and are killed -9; a key is in one worker's hands at a time, and nothing is lost."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.db import fetch
from messages.types import STATUS_WORDS, NewMessage, Outcome
from tests.store_world import counts, expire_now, new_group, new_id, pull, sql, until

pytestmark = pytest.mark.usefixtures("store")
SEED = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))
KEYS = [f"k{i}" for i in range(12)]

# --- real processes ---------------------------------------------------------------------------------------------------------

# One process has Django at hand and forks a real worker for each name that it reads. A worker works until SIGTERM, then it leaves. It says
# when it had which message, by the machine's clock; a line is one write, since the processes share a pipe.
HOST = """
import os, random, signal, sys, time
import django; django.setup()
from django.db import connections
from messages import services as s
from messages.types import Outcome
group = int(sys.argv[1])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

def work(name):
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    rng, lease, done = random.Random(name), None, []
    while going or lease:
        if going:
            take = {"limit": rng.choice([1, 5, 20]), "visibility_ms": 60_000, "consumer": name}
            settled, b = s.next(group_id=group, lease=lease, outcomes=done, **take)
        else:
            settled, b = s.settle(group_id=group, lease=lease, outcomes=done), None
        for x in settled:
            say("end", name, x.id, x.status or x.problem_code)
        lease, done = (b.lease, []) if b else (None, [])
        for m in b.messages if b else ():
            say("got", name, m.id, m.sharding_key, time.monotonic())
        for m in b.messages if b else ():
            time.sleep(rng.random() * 0.002)
            done.append(Outcome(m.id, rng.choices(["succeeded", "failed", "later"], [90, 5, 5])[0], rng.choice([0, 5])))
            say("did", name, m.id, m.sharding_key, time.monotonic())
        if not done:
            time.sleep(0.005)
    s.leave_group(group_id=group, name=name)
    say("left", name)

say("up")
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            work(line.strip())
        finally:
            os._exit(0)
    say("pid", line.strip(), pid)
"""


class Host:
    """The workers' processes, and what they say."""

    def __init__(self, group):
        database = connection.settings_dict
        password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
        address = f"postgres://{database['USER']}{password}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
        env = {**os.environ, "DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": "mqadmin.settings"}
        command = [sys.executable, "-c", HOST, str(group)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes)
        self.said, self.pids = [], {}
        self.reader = threading.Thread(target=lambda: self.said.extend(line.split() for line in self.process.stdout), daemon=True)
        self.reader.start()
        until(lambda: ["up"] in list(self.said), 60)

    def start(self, name):
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        self.pids[name] = until(lambda: next((int(w[2]) for w in list(self.said) if w[:2] == ["pid", name]), None), 60)
        until(lambda: any(w[:2] == ["got", name] for w in list(self.said)), 60)

    def end(self):
        for pid in self.pids.values():
            os.kill(pid, signal.SIGTERM)
        self.process.stdin.close()
        self.process.wait(60)
        self.reader.join(60)


@pytest.fixture
def hosted():
    made = []

    def host(group):
        made.append(Host(group))
        return made[0]

    yield host
    for one in made:
        with contextlib.suppress(ProcessLookupError):  # with its workers, whatever went wrong
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait(60)


def overlaps(said):
    """Pairs of workers that had a message of one key at the same time; who was killed had none from then on."""
    had, found = {}, []
    for word, *rest in said:
        if word == "got":
            name, i, key, at = rest
            had[name, i] = [key, float(at), float(at)]
        elif word == "did":
            had[rest[0], rest[1]][2] = float(rest[3])
    spans = sorted((key, begin, end, name) for (name, _i), (key, begin, end) in had.items() if key != "None")
    for n, (key, _begin, end, name) in enumerate(spans):
        for other, began, _ended, who in spans[n + 1 :]:
            if other != key or began >= end:
                break
            if who != name:
                found.append((key, name, who))
    return found


@pytest.mark.parametrize("ordered", [False, True])
def test_a_key_is_with_one_worker_while_workers_come_leave_and_are_killed(hosted, ordered):
    print(f"seed {SEED}")
    topic, rng = new_id(), random.Random(SEED)
    if ordered:
        builtin.set_ordering(topic_id=topic, ordering="key")
    group = new_group(topic, max_attempts=1000)
    builtin.set_balance(group_id=group, sticky=True)
    sent, quiet = [], threading.Event()

    def send():
        while not quiet.is_set():
            made = [NewMessage(b"x", sharding_key=rng.choice([*KEYS, None])) for _ in range(rng.choice([1, 5, 30]))]
            sent.extend(a.id for a in services.send(topic_id=topic, messages=made))
            services.tick()
            time.sleep(0.01)
        connection.close()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        workers = hosted(group)
        for name in "ab":
            workers.start(name)
        workers.start("c")
        victim = workers.pids.pop("b")
        os.kill(victim, signal.SIGKILL)
        until(lambda: sql("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid = %s)", victim), 30)
        workers.start("d")
        os.kill(workers.pids.pop("a"), signal.SIGTERM)  # what it has in hand it finishes, then it leaves
        until(lambda: ["left", "a"] in list(workers.said), 60)
        services.leave_group(group_id=group, name="b")
        kept = sum(w[:2] == ["got", "c"] for w in list(workers.said))
        until(lambda: sum(w[:2] == ["got", "c"] for w in list(workers.said)) > kept + 5, 60)
        expire_now_of(group, "b")
    finally:
        quiet.set()
        sender.join()
    services.tick()
    until(lambda: counts(group).keys() <= {"succeeded"}, 60)
    workers.end()
    assert counts(group) == {"succeeded": len(sent)}
    done = [int(w[2]) for w in workers.said if w[0] == "end" and w[3] == "succeeded"]
    assert len(done) == len(set(done)), "an acked message came back"
    assert len({w[1] for w in workers.said if w[0] == "got"}) == 4
    assert overlaps(workers.said) == []
    assert sql("SELECT sum(held) FROM mq_cursor WHERE group_id = %s", group) == 0


def expire_now_of(group, name):
    """The killed one's leases run out."""
    for table in ("mq_lease", "mq_exception"):
        past = "clock_timestamp() - interval '1 ms'"
        sql(f"UPDATE {table} SET lease_until = {past} WHERE group_id = %s AND consumer = %s AND lease_until > now()", group, name)
    services.expire()


def test_without_stickiness_the_same_workers_overlap(hosted):
    """The negative control: what is looked at above can be seen."""
    topic = new_id()
    group = new_group(topic, max_attempts=1000)
    for _round in range(40):
        services.send(topic_id=topic, messages=[NewMessage(b"x", sharding_key=k) for k in KEYS * 5])
    services.tick()
    workers = hosted(group)
    for name in "ab":
        workers.start(name)
    until(lambda: counts(group).keys() <= {"succeeded"}, 60)
    workers.end()
    assert overlaps(workers.said)


# --- random runs, one step after the other -----------------------------------------------------------------------------------

names = st.sampled_from("abc")
words = st.lists(st.sampled_from(["succeeded", "succeeded", "failed", "later", "dead", None]), min_size=6, max_size=6)
STEP = st.one_of(
    st.tuples(st.just("send"), st.lists(st.sampled_from([*KEYS[:6], None]), min_size=1, max_size=8)),
    st.tuples(st.just("pull"), names, st.integers(1, 6)),
    st.tuples(st.just("pull"), names, st.integers(1, 6)),
    st.tuples(st.just("settle"), words, st.integers(0, 5)),
    st.tuples(st.just("settle"), words, st.integers(0, 5)),
    st.tuples(st.just("leave"), names),
    st.tuples(st.just("expire")),
    st.tuples(st.just("switch")),
    st.tuples(st.just("move"), st.integers(0, 30)),
    st.tuples(st.just("undo")),
)
ALIKE = {
    "max_examples": int(os.environ.get("MQADMIN_TEST_EXAMPLES", "6")),
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


class World:
    def __init__(self, ordered):
        self.topic, self.ids, self.keys, self.made = new_id(), [], {}, None
        if ordered:
            builtin.set_ordering(topic_id=self.topic, ordering="key")
        self.group, self.sticky = new_group(self.topic, max_attempts=2), True
        builtin.set_balance(group_id=self.group, sticky=True)
        self.leases = {}  # token -> (worker, ids that are in its hands)

    def send(self, keys):
        made = services.send(topic_id=self.topic, messages=[NewMessage(b"", sharding_key=k) for k in keys])
        services.tick()
        self.keys.update(zip((a.id for a in made), keys, strict=True))
        self.ids += [a.id for a in made]

    def pull(self, name, limit):
        batch = pull(self.group, consumer=name, limit=limit)
        ids = [m.id for m in batch.messages]
        assert len(set(ids)) == len(ids) <= limit
        in_hand = {i for _name, held in self.leases.values() for i in held}
        assert not in_hand & set(ids), "handed out twice"
        if self.sticky:
            slots = "SELECT mq_slot(mq_wkey(0::smallint, 0, %s)) = ANY (slots) FROM mq_worker WHERE group_id = %s AND name = %s"
            for key in {self.keys[i] for i in ids} - {None}:
                assert sql(slots, key, self.group, name), "another worker's key"
                assert not [who for who, held in self.leases.values() if who != name and any(self.keys[i] == key for i in held)], (
                    "in two hands"
                )
        if ids:
            self.leases[batch.lease] = (name, ids)

    def settle(self, said, which):
        if not self.leases:
            return
        lease = sorted(self.leases)[which % len(self.leases)]
        name, held = self.leases[lease]
        outcomes = [Outcome(i, w, 0) for i, w in zip(held, said, strict=False) if w]
        services.settle(group_id=self.group, lease=lease, outcomes=outcomes)
        rows = fetch("SELECT msg_id FROM mq_exception WHERE group_id = %s AND status = 'B'", (self.group,))  # taken back behind a failure
        left = [i for i in held if i not in {o.id for o in outcomes} | {row[0] for row in rows}]
        self.leases[lease] = (name, left)
        if not left:
            del self.leases[lease]

    def move(self, to):
        plan = services.preview_reset(group_id=self.group, topic_id=self.topic, to=to)
        if plan.changes:
            self.made = services.reset(group_id=self.group, topic_id=self.topic, position=plan.position, fingerprint=plan.fingerprint)
            if plan.kind == "rewind":
                self.leases.clear()  # what was in hand is not any more

    def undo(self):
        made, self.made = self.made, None
        if made is not None and not self.leases:  # else who has what is for the tests of moves to say
            services.undo_reset(reset_id=made.pk)
            expire_now(self.group)

    def check(self):
        said = fetch(
            "SELECT s.status FROM mq_message m, mq_status(m.topic_id, m.id) s WHERE m.topic_id = %s AND s.group_id = %s",
            (self.topic, self.group),
        )
        found = [STATUS_WORDS[row[0]] for row in said]
        assert counts(self.group) == {word: found.count(word) for word in found}

    def finish(self):
        """Everything comes to an end, whoever is left."""
        expire_now(self.group)
        for _round in range(300):
            batches = [pull(self.group, consumer=name) for name in "abc"]
            for batch in batches:
                services.settle(group_id=self.group, lease=batch.lease or "", outcomes=[Outcome(m.id, "succeeded") for m in batch.messages])
            if not any(batch.messages for batch in batches):
                break
        assert counts(self.group).keys() <= {"succeeded", "dead", "skipped"}
        assert sum(counts(self.group).values()) == len(self.ids)
        assert sql("SELECT held FROM mq_cursor WHERE group_id = %s", self.group) == 0


@pytest.mark.parametrize("ordered", [False, True])
@settings(**ALIKE)
@given(steps=st.lists(STEP, min_size=10, max_size=50))
def test_random_runs_keep_keys_apart_and_counts_exact(ordered, steps):
    world = World(ordered)
    for name, *args in steps:
        note((name, args))
        if name in {"send", "pull", "settle"}:
            getattr(world, name)(*args)
        elif name == "leave":
            services.leave_group(group_id=world.group, name=args[0])
        elif name == "expire":
            expire_now(world.group)
            world.leases.clear()
        elif name == "switch":
            world.sticky = not world.sticky
            builtin.set_balance(group_id=world.group, sticky=world.sticky)
        elif name == "move":
            world.move(["earliest", *world.ids, "latest"][args[0] % (len(world.ids) + 2)])
        elif name == "undo":
            try:
                world.undo()
            except Problem as problem:
                assert problem.code == "nothing_left_to_undo"  # noqa: PT017
        world.check()
    world.finish()
    world.check()
