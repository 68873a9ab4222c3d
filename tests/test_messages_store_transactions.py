"""Transactions: all or nothing, once, and of the newest epoch only; with zombies at work, and killed between every two steps."""

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import connection

from core.errors import Problem
from messages import services, transactions
from messages.transactions import Acks, Send
from messages.types import NewMessage, Outcome
from tests.store_world import Threads, bodies, counts, expire_now, new_group, new_id, pull, send, session, sql, until

pytestmark = pytest.mark.usefixtures("store")


class Producer:
    """One of an application of its own, with an epoch."""

    def __init__(self, application=None, name="p"):
        self.application, self.name = application or new_id(), name
        self.epoch = transactions.open_epoch(application_id=self.application, producer=name)

    def commit(self, transaction_id, sends=(), acks=(), epoch=None):
        return transactions.commit(
            application_id=self.application, producer=self.name, epoch=epoch or self.epoch, transaction_id=transaction_id, sends=sends,
            acks=acks,
        )  # fmt: skip


def to(topic, *texts, **fields):
    return Send(topic, [NewMessage(text.encode(), **fields) for text in texts])


def acks(group, batch, word="succeeded", **fields):
    return Acks(group, batch.lease, [Outcome(m.id, word, **fields) for m in batch.messages])


def refusal(code, work, *args, **kwargs):
    with pytest.raises(Problem) as refused:
        work(*args, **kwargs)
    assert (refused.value.code, refused.value.status) == (code, 409), refused.value
    return refused.value


def of_topic(topic):
    with session() as other:
        rows = other.execute("SELECT body FROM mq_message WHERE topic_id = %s ORDER BY id", (topic,)).fetchall()
    return [body.decode() for (body,) in rows]


def test_sends_to_several_topics_and_acks_of_several_groups_are_one_commit():
    source, first, second = new_id(), new_id(), new_id()
    here, there = new_group(source), new_group(source)
    readers = [new_group(first), new_group(second)]
    send(source, "a", "b")
    batches = {group: pull(group) for group in (here, there)}
    outcomes = [Outcome(batches[there].messages[0].id, "failed", 60_000, "later"), Outcome(batches[there].messages[1].id, "dead")]
    producer = Producer()
    done = producer.commit(
        "t1",
        [to(first, "1", "2", key="k", tag="paid"), to(second, "3"), to(first, "4")],
        [acks(here, batches[here]), Acks(there, batches[there].lease, outcomes)],
    )
    assert [len(part) for part in done.sends] == [2, 1, 1]
    assert [[s.status for s in part] for part in done.acks] == [["succeeded", "succeeded"], ["later", "dead"]]
    assert counts(here) == {"succeeded": 2}
    assert counts(there) == {"later": 1, "dead": 1}
    got = pull(readers[0])
    assert (bodies(got), bodies(pull(readers[1]))) == (["1", "2", "4"], ["3"])
    assert [m.id for m in got.messages] == [done.sends[0][0].id, done.sends[0][1].id, done.sends[2][0].id]
    assert (got.messages[0].key, got.messages[0].tag) == ("k", "paid")


def test_the_same_id_again_returns_the_first_result_and_does_nothing():
    source, target = new_id(), new_id()
    group, reader = new_group(source), new_group(target)
    send(source, "a")
    batch = pull(group)
    producer = Producer()
    soon = datetime.now(UTC) + timedelta(hours=1)
    parts = [to(target, "1"), Send(target, [NewMessage(b"later", deliver_at=soon)])]
    first = producer.commit("t1", parts, [acks(group, batch, "failed", delay_ms=1000, error="x")])
    parts = [to(target, "1"), Send(target, [NewMessage(b"later", deliver_at=soon + timedelta(seconds=1))])]  # a delay counted anew
    again = producer.commit("t1", parts, [acks(group, batch, "failed", delay_ms=1000, error="x")])
    assert (again.duplicate, again.sends, again.acks) == (True, first.sends, first.acks)
    assert of_topic(target) == ["1"]
    assert bodies(pull(reader)) == ["1"]
    refusal("transaction_id_reused", producer.commit, "t1", [to(target, "2")])
    newer = Producer(producer.application)
    assert newer.commit("t1", parts, [acks(group, batch, "failed", delay_ms=1000, error="x")]).duplicate
    assert of_topic(target) == ["1"]
    assert not Producer().commit("t1", [to(target, "of another producer")]).duplicate


def test_a_zombie_of_an_older_epoch_is_refused_and_changes_nothing():
    source, target = new_id(), new_id()
    group = new_group(source)
    send(source, "a")
    batch = pull(group)
    zombie = Producer()
    zombie.commit("t1", [to(target, "of the first")])
    newer = Producer(zombie.application)
    assert newer.epoch > zombie.epoch
    refused = refusal("producer_fenced", zombie.commit, "t2", [to(target, "of the zombie")], [acks(group, batch)])
    assert refused.extra == {"epoch": newer.epoch}
    refusal("producer_fenced", zombie.commit, "t1", [to(target, "of the first")])  # not even its own result
    refusal("producer_fenced", newer.commit, "t2", [to(target, "made up")], epoch=newer.epoch + 1)
    with pytest.raises(Problem, match="no producer"):
        transactions.commit(application_id=zombie.application, producer="q", epoch=1, transaction_id="t", sends=[to(target, "x")])
    assert counts(group) == {"processing": 1}
    newer.commit("t2", [to(target, "of the second")], [acks(group, batch)])
    assert of_topic(target) == ["of the first", "of the second"]


def test_an_outcome_that_cannot_be_taken_takes_everything_back():
    source, target = new_id(), new_id()
    group = new_group(source)
    send(source, "a", "b")
    batch, producer = pull(group), Producer()
    expire_now(group)
    refused = refusal("ack_refused", producer.commit, "t1", [to(target, "1", producer_id="mine")], [acks(group, batch)])
    assert [e.pointer for e in refused.errors] == ["/acks/0/acks/0", "/acks/0/acks/1"]
    assert {a["code"] for a in refused.extra["acks"]} == {"lease_expired"}
    assert of_topic(target) == []
    again = pull(group, limit=1)
    mixed = Acks(group, again.lease, [Outcome(again.messages[0].id, "succeeded"), Outcome(12345, "succeeded")])
    assert refusal("ack_refused", producer.commit, "t1", [to(target, "1")], [mixed]).errors[0].pointer == "/acks/0/acks/1"
    assert counts(group) == {"processing": 1, "later": 1}
    done = producer.commit("t1", [to(target, "1", producer_id="mine")], [acks(group, again)])  # the id was not used up
    assert (done.duplicate, done.sends[0][0].duplicate) == (False, False)
    assert counts(group) == {"succeeded": 1, "later": 1}


def test_producers_own_ids_and_delays_work_within_it():
    first, second, producer = new_id(), new_id(), Producer()
    (before,) = send(first, "old", producer_id="a")
    soon = datetime.now(UTC) + timedelta(hours=1)
    done = producer.commit(
        "t1",
        [to(first, "old", producer_id="a"), Send(first, [NewMessage(b"n", producer_id="b"), NewMessage(b"n", producer_id="b")]),
         Send(second, [NewMessage(b"d", producer_id="a", deliver_at=soon), NewMessage(b"now")])],
    )  # fmt: skip
    assert (done.sends[0][0].id, done.sends[0][0].duplicate) == (before, True)
    assert [m.duplicate for m in done.sends[1]] == [False, True]
    assert done.sends[1][0].id == done.sends[1][1].id
    assert [m.state for m in done.sends[2]] == ["delayed", "accepted"]
    assert (of_topic(first), of_topic(second)) == (["old", "n"], ["now"])
    (again,) = services.send(topic_id=second, messages=[NewMessage(b"d", producer_id="a")])
    assert (again.id, again.state, again.duplicate) == (done.sends[2][0].id, "delayed", True)
    assert send(first, "n", producer_id="b") == [done.sends[1][0].id]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({}, "empty_transaction", None),
        ({"sends": [Send(1, [])]}, "empty_transaction", None),
        ({"transaction_id": "", "sends": [to(1, "x")]}, "invalid_text", "/id"),
        ({"transaction_id": "x" * 256, "sends": [to(1, "x")]}, "invalid_text", "/id"),
        ({"producer": "a\x00", "sends": [to(1, "x")]}, "invalid_text", "/producer"),
        ({"sends": [to(1, "x"), to(2, "y"), to(2, "z", tag="a b")]}, "invalid_tag", "/sends/2/messages/0/tag"),
        ({"sends": [to(1, *"x" * 600), to(2, *"x" * 600)]}, "batch_too_large", None),
        ({"acks": [Acks(1, "1", [Outcome(i, "succeeded") for i in range(1, 1002)])]}, "too_many_acks", None),
    ],
)
def test_bad_input_is_refused(fields, code, pointer):
    with pytest.raises(Problem) as refused:
        transactions.commit(**{"application_id": 1, "producer": "p", "epoch": 1, "transaction_id": "t", **fields})
    assert refused.value.code == code
    assert [e.pointer for e in refused.value.errors] == ([pointer] if pointer else [])


def test_transactions_are_forgotten_after_a_day():
    producer, target = Producer(), new_id()
    for name in ("old", "new"):
        producer.commit(name, [to(target, name)])
    sql("UPDATE mq_transaction SET at = at - interval '25 hours' WHERE application_id = %s AND id = 'old'", producer.application)
    sql("SELECT mq_transaction_purge()")
    assert producer.commit("new", [to(target, "new")]).duplicate
    assert not producer.commit("old", [to(target, "old")]).duplicate


def test_an_epoch_waits_for_the_transaction_under_way_and_refuses_the_next():
    target, old = new_id(), Producer()
    opened = []
    with session(autocommit=False) as under_way:
        under_way.execute("SELECT mq_transaction_begin(%s, 'p', %s, 't1', '', '{}')", (old.application, old.epoch))
        under_way.execute("SELECT mq_append(%s, '{\"\"}', '{NULL}', '{NULL}', '{NULL}', ARRAY['\\x31'::bytea])", (target,))
        threads = Threads()
        threads.start(lambda: opened.append(Producer(old.application)))
        until(lambda: sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"), 30)
        assert opened == []
        under_way.commit()
    threads.join()
    assert of_topic(target) == ["1"]
    refusal("producer_fenced", old.commit, "t2", [to(target, "2")])


def test_two_who_say_the_same_at_once_do_it_once():
    target, producer, done = new_id(), Producer(), []
    threads, barrier = Threads(), threading.Barrier(6)

    def work():
        barrier.wait(30)
        done.append(producer.commit("t1", [to(target, "1", "2")]))

    for _ in range(6):
        threads.start(work)
    threads.join()
    assert sorted(d.duplicate for d in done) == [False] + [True] * 5
    assert len({m.id for d in done for m in d.sends[0]}) == 2
    assert of_topic(target) == ["1", "2"]


# --- read, process, write, with zombies and crashes ---------------------------------------------------------------------------


def test_read_process_write_beside_zombies_gives_each_input_one_output_in_both_topics():
    """Workers that stall beyond their lease and go on under an epoch that another has taken: nothing twice, nothing in part."""
    seed = int(os.environ.get("MQADMIN_TEST_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    source, first, second = new_id(), new_id(), new_id()
    group, application = new_group(source, max_attempts=1000), new_id()
    inputs = send(source, *(str(i) for i in range(40)))
    quiet, refused, lock, torn = threading.Event(), [], threading.Lock(), []

    def worker(rng, name):
        producer, number = Producer(application, name), 0
        while not quiet.is_set():
            batch = pull(group, limit=rng.choice([1, 3, 10]), visibility_ms=250, consumer=name)
            if not batch.lease:
                quiet.wait(0.02)
                continue
            if rng.random() < 0.1:
                continue  # crashed
            if rng.random() < 0.15:
                quiet.wait(0.3)  # stalled beyond its lease
            number += 1
            texts = bodies(batch)
            try:
                producer.commit(f"{producer.epoch}/{number}", [to(first, *texts), to(second, *texts)], [acks(group, batch)])
            except Problem as problem:
                with lock:
                    refused.append(problem.code)
                quiet.wait(rng.random() * 0.1)  # or two of a name would fence each other for ever
                producer = Producer(application, name)

    def usurper(rng):
        while not quiet.wait(0.05) and ("producer_fenced" not in refused or rng.random() < 0.9):
            Producer(application, rng.choice("ab"))

    def reader():
        while not quiet.is_set():
            with session(autocommit=False) as other:
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                count = "SELECT count(*) FROM mq_message WHERE topic_id = %s"
                numbers = [other.execute(count, (topic,)).fetchone()[0] for topic in (first, second)]
            if numbers[0] != numbers[1]:
                torn.append(numbers)
            services.expire()
            services.tick()

    threads = Threads()
    for i, name in enumerate("aabb"):  # two instances of each: one of them is the zombie
        threads.start(worker, random.Random(seed + i), name)
    threads.start(usurper, random.Random(seed + 10))
    threads.start(reader)
    try:
        until(lambda: counts(group) == {"succeeded": len(inputs)} or threads.errors, 60)
    finally:
        quiet.set()
    threads.join()
    assert torn == []
    wanted = sorted(str(i) for i in range(40))
    assert (sorted(of_topic(first)), sorted(of_topic(second))) == (wanted, wanted), f"seed {seed}"
    assert "producer_fenced" in refused
    assert set(refused) <= {"producer_fenced", "ack_refused"}


PROGRAM = """
import os, signal, sys, django; django.setup()
from messages import services as s, transactions as t
from messages.types import NewMessage, Outcome
application, group, first, second = map(int, sys.argv[1:])
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def step(word):
    if word == stop:
        say("stands", os.getpid())
        while True: signal.pause()
begun, settled, sent = t._check_epoch, t._settle, t._send
def _begin(*a):
    r = begun(*a); step("begun"); return r
def _settle(*a):
    r = settled(*a); step("settled"); return r
def _send(*a):
    r = sent(*a); step("sent"); return r
t._check_epoch, t._settle, t._send = _begin, _settle, _send
for stop in map(str.strip, sys.stdin):
    if os.fork() == 0:
        epoch = t.open_epoch(application_id=application, producer="p")
        b = s.pull(group_id=group, limit=10, visibility_ms=60000, consumer="w")
        step("pulled")
        t.commit(application_id=application, producer="p", epoch=epoch, transaction_id=stop,
                 sends=[t.Send(x, [NewMessage(m.body) for m in b.messages]) for x in (first, second)],
                 acks=[t.Acks(group, b.lease, [Outcome(m.id, "succeeded") for m in b.messages])])
        step("committed")
        say("missed", 0)
        os._exit(0)
"""


def test_killed_between_every_two_steps_it_is_done_whole_or_not_at_all():
    source, first, second, application = new_id(), new_id(), new_id(), new_id()
    group = new_group(source, max_attempts=1000)
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {
        **os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings",
        "MQADMIN_ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, *map(str, (application, group, first, second))]
    expected = []
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
        for stop in ("pulled", "begun", "settled", "sent", "committed"):
            send(source, stop)
            until(lambda: services.tick() and sql("SELECT count(*) FROM mq_ready(%s)", [group]), 30)
            print(stop, file=workers.stdin, flush=True)
            word, pid = workers.stdout.readline().split()
            assert word == "stands", stop
            assert of_topic(first) == of_topic(second) == (expected if stop != "committed" else [*expected, stop])
            os.kill(int(pid), signal.SIGKILL)
            until(lambda: not sql("SELECT count(*) FROM pg_locks WHERE relation = 'mq_transaction'::regclass"), 30)
            if stop == "committed":
                expected.append(stop)
                assert counts(group) == {"succeeded": len(expected)}
                break
            assert of_topic(first) == of_topic(second) == expected
            expire_now(group)  # what it had in hand, another one gets
            batch, heir = pull(group), Producer(application)
            assert bodies(batch) == [stop]
            assert not heir.commit(stop, [to(first, stop), to(second, stop)], [acks(group, batch)]).duplicate
            expected.append(stop)
        workers.stdin.close()
    assert of_topic(first) == of_topic(second) == expected
    assert counts(group) == {"succeeded": 5}


def test_a_repetition_gets_its_first_result_at_any_backlog_and_a_new_one_is_refused():
    application, topic = new_id(), new_id()
    new_group(topic)
    epoch = services.open_epoch(application_id=application, producer="p")

    def commit(number):
        sends = [Send(topic, [NewMessage(b"x")], ceiling=1)]
        return services.commit_transaction(application_id=application, producer="p", epoch=epoch, transaction_id=number, sends=sends)

    first = commit("one")
    assert commit("one") == replace(first, duplicate=True)
    with pytest.raises(Problem) as refused:
        commit("two")
    assert refused.value.code == "backlog_full"
