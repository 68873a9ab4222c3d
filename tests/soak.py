"""Load over REST while processes are killed: what was acknowledged is delivered to every group, what was acked does not come back.

    make soak            # fifty rounds, and the store's own tortures at length
    make soak ARGS=200

A round is one fault, chosen by the seed, in the middle of sends, retries and acks. Who sends keeps the ids that were acknowledged and
repeats what was not, with the same ids; who consumes keeps what was confirmed. Nothing is looked up in the database before the end.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import redis
from supervised import wait_for

from mqadmin.supervisor.packages import find

TOPIC, GROUPS = "soak", ("soak_a", "soak_b")
#: Acks do not wait for the disk (docs/message-store.md, Durability): of these last seconds a crash of Postgres itself may take some back.
UNWRITTEN = 1.0
PATIENCE = 90.0


class Ledger:
    """What was promised to whom, as the clients saw it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = {}  # name -> not before (Unix time)
        self.given = {group: Counter() for group in GROUPS}
        self.confirmed = {group: {} for group in GROUPS}  # name -> (when its ack was asked for, and confirmed)
        self.wrong = []
        self.crashes, self.taken_back = [], 0  # of Postgres
        self.repeated = self.refused = 0

    def deliver(self, group, asked, name, not_before):
        with self.lock:
            self.given[group][name] += 1
            _acked, confirmed = self.confirmed[group].get(name, (asked, asked))
            if confirmed < asked and not self.lost(group, name):
                self.wrong.append(f"{name} came back to {group} {self.told(asked)}, though its ack was confirmed {self.told(confirmed)}")
            if time.time() < not_before:
                self.wrong.append(f"{name} came {not_before - time.time():.3f} s too early to {group}")

    def confirm(self, group, asked, name):
        with self.lock:
            now, before = time.monotonic(), self.confirmed[group].get(name)
            if before is not None and not self.lost(group, name):
                self.wrong.append(f"the ack of {name} in {group} was confirmed twice: {self.told(before[1])} and {self.told(now)}")
            self.confirmed[group][name] = asked, now

    def lost(self, group, name):
        """Whether a crash of Postgres may have taken this ack back; it is forgotten then.

        The answer may come after the crash: a long poll settles first, and answers when it has pulled again.
        """
        asked, confirmed = self.confirmed[group][name]
        if not any(asked < crash + UNWRITTEN and confirmed > crash - UNWRITTEN for crash in self.crashes):
            return False
        self.taken_back += 1
        del self.confirmed[group][name]
        return True

    def told(self, moment):
        """A moment by the last crash before the end of the next second."""
        crashes = [crash for crash in self.crashes if crash < moment + UNWRITTEN]
        return f"{moment - crashes[-1]:+.2f} s from crash {len(crashes)}" if crashes else "before any crash"


class Load:
    """Producers and consumers, each a thread with a connection of its own; they go on until they are told."""

    def __init__(self, running, seed):
        self.running, self.seed, self.ledger = running, seed, Ledger()
        self.sending, self.consuming, self.broken = threading.Event(), threading.Event(), []
        self.sending.set()
        self.consuming.set()
        parts = [(self.produce, i, None) for i in range(2)] + [(self.consume, 10 + i, GROUPS[i % 2]) for i in range(4)]
        self.threads = [threading.Thread(target=self.guarded, args=part) for part in parts]
        for thread in self.threads:
            thread.start()

    def guarded(self, work, number, group):
        try:
            with httpx.Client(timeout=20, headers={"Authorization": f"Token {self.running.settings['MQADMIN_ADMIN_TOKEN']}"}) as client:
                work(client, number, group, random.Random(self.seed + number))
        except Exception as error:
            self.broken.append(error)

    def call(self, client, path, body):
        """The answer, or None when there was none, or when a part is away: nobody knows then what became of it."""
        try:
            response = client.post(f"{self.running.url}/api/v1/{path}", json=body)
        except httpx.TransportError:
            time.sleep(0.1)
            return None
        if response.status_code in {429, 500, 502, 503, 504}:
            time.sleep(0.1)
            return None
        return response

    def produce(self, client, number, _group, rng):
        made = 0
        while self.sending.is_set():
            batch, due = [], {}
            for _ in range(rng.choice([1, 1, 5, 40])):
                made += 1
                name, delay = f"p{number}-{made}", rng.choice([0, 0, 0, 400, 2500])
                due[name] = time.time() + delay / 1000 if delay else 0.0
                batch.append({"id": name, "body": json.dumps([name, due[name]]), **({"delay_ms": delay} if delay else {})})
            until = time.monotonic() + PATIENCE
            while (answer := self.call(client, f"topics/{TOPIC}/messages", {"messages": batch})) is None:
                self.ledger.repeated += 1
                assert time.monotonic() < until, "the API did not come back"
            assert answer.status_code == 201, answer.text
            with self.ledger.lock:
                self.ledger.accepted |= due
            time.sleep(rng.random() * 0.03)

    def consume(self, client, _number, group, rng):
        hand, names = {}, {}
        while self.consuming.is_set():
            asked = time.monotonic()
            answer = self.call(client, f"consumer-groups/{group}/next", {"max": 50, "wait_ms": 300, "visibility_ms": 5000, **hand})
            if answer is None:  # the acks may have been done or not: then they are refused as a whole, or come again
                self.ledger.refused += len(names)
                hand, names = {}, {}
                continue
            assert answer.status_code in {200, 409}, answer.text
            body = answer.json()
            for result in body.get("acks", []):
                if result["status"] == "succeeded":
                    self.ledger.confirm(group, asked, names[result["id"]])
            hand, names = {}, {}
            if body.get("lease"):
                for message in body["messages"]:
                    name, not_before = json.loads(message["body"])
                    names[message["id"]] = name
                    self.ledger.deliver(group, asked, name, not_before)
                words = [rng.choices(["succeeded", "failed", "later"], [18, 1, 1])[0] for _ in names]
                hand = {"lease": body["lease"], "acks": [{"id": i, "status": word} for i, word in zip(names, words, strict=True)]}

    def end(self):
        """Stop sending, let the groups come to their end, stop."""
        self.sending.clear()
        for thread in self.threads[:2]:
            thread.join(PATIENCE)
        try:
            wait_for(lambda: self.broken or all(self.settled(group) for group in GROUPS), PATIENCE, "the end of the backlog")
        finally:
            self.consuming.clear()
            for thread in self.threads:
                thread.join(PATIENCE)

    def settled(self, group):
        counts = self.running.ok("GET", f"consumer-groups/{group}/status")["counts"]
        with self.ledger.lock:
            return counts["succeeded"] >= len(self.ledger.accepted) and not any(n for word, n in counts.items() if word != "succeeded")


# --- faults -------------------------------------------------------------------------------------------------------------------


def _kill(*words):
    def fault(running, _rng, _ledger):
        os.kill(running.pid(*words), signal.SIGKILL)

    return fault


def _stop_postgres_at_once(running, _rng, ledger):
    """Immediate shutdown: no checkpoint, recovery at the next start."""
    status = Path(f"/proc/{running.pid('checkpointer')}/status").read_text()
    with ledger.lock:
        ledger.crashes.append(time.monotonic())
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGQUIT)


def _empty_redis(running, _rng, _ledger):
    redis.Redis.from_url(running.env["CELERY_BROKER_URL"]).flushall()


def _freeze(running, rng, _ledger):
    words = rng.choice([("redis-server",), ("storekeeper",), ("ZooKeeperServerMain",), ("celery", "--concurrency 2")])
    pid = running.pid(*words)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(3)
    finally:
        os.kill(pid, signal.SIGCONT)


def _dump(running, _rng, _ledger):
    dump = max(find().postgres)[1] / "pg_dump"
    arguments = [dump, "-d", running.env["DATABASE_URL"], "-Fc", "--no-sync", "-f", os.devnull]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


FAULTS = {
    "kill -9 web": _kill("granian"),
    "immediate shutdown of Postgres": _stop_postgres_at_once,
    "Redis emptied": _empty_redis,
    "kill -9 worker": _kill("celery", "--concurrency 2"),
    "kill -9 beat": _kill("manage.py", "beat"),
    "kill -9 storekeeper": _kill("storekeeper"),
    "kill -9 registrar": _kill("registrar"),
    "kill -9 Redis": _kill("redis-server"),
    "freeze a process": _freeze,
    "pg_dump": _dump,
}


def answers(running):
    with contextlib.suppress(httpx.HTTPError):
        return running.client.get(f"{running.url}/healthz").status_code == 200 and running.ready()["missing"] == []
    return False


def run(running, *, rounds, seed):
    """The rounds, and then what must be true. Returns the ledger."""
    topic = {"name": TOPIC, "application": "shop", "expected_rate": 1, "message_bytes": 100, "partitions": 1, "reason": "soak"}
    running.ok("POST", "topics", topic)
    running.ok("POST", f"topics/{TOPIC}/approval", {"cluster": "builtin"}, person="OPERATOR")
    for group in GROUPS:
        body = {"name": group, "application": "shop", "subscriptions": [{"topic": TOPIC}], "consume_from": "earliest", "reason": "soak"}
        running.ok("POST", "consumer-groups", {**body, "max_attempts": 100, "backoff_ms": 100, "backoff_max_ms": 500})
        running.ok("POST", f"consumer-groups/{group}/approval", {}, person="OPERATOR")
    rng, load = random.Random(seed), Load(running, seed)
    try:
        order = []
        for number in range(rounds):
            order = order or rng.sample(list(FAULTS), len(FAULTS))
            name = list(FAULTS)[number] if rounds <= 4 else order.pop()
            time.sleep(0.3 + rng.random())
            began = time.monotonic()
            FAULTS[name](running, rng, load.ledger)
            wait_for(lambda: load.broken or answers(running), PATIENCE, f"readiness after: {name}")
            assert not load.broken, (name, load.broken)
            took, accepted = time.monotonic() - began, len(load.ledger.accepted)
            print(f"  round {number + 1}: {name}, ready after {took:.1f} s, {accepted} accepted", flush=True)
        time.sleep(0.5)
    finally:
        load.end()
    ledger = load.ledger
    assert not load.broken, load.broken
    assert not ledger.wrong, ledger.wrong[:20]
    for group in GROUPS:
        assert ledger.accepted.keys() <= ledger.given[group].keys(), "an acknowledged message was not delivered"
        assert ledger.given[group].keys() <= ledger.accepted.keys(), "something was delivered that nobody sent"
        counts = running.ok("GET", f"consumer-groups/{group}/status")["counts"]
        assert {word: n for word, n in counts.items() if n} == {"succeeded": len(ledger.accepted)}
    twice = {group: sum(n > 1 for n in ledger.given[group].values()) for group in GROUPS}
    print(
        f"  {len(ledger.accepted)} messages, {ledger.repeated} requests repeated, {ledger.refused} acks without an answer,"
        f" {ledger.taken_back} that a crash of Postgres took back, delivered more than once: {twice}"
    )
    return ledger
