"""Torture: senders that sleep and roll back, workers that crash and fail, two tickers. Nothing lost, nothing acked twice, counts exact.

The same run with each negative control must lose messages: it shows that this test can fail.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Count

from clusters.drivers import builtin
from core.errors import Problem
from messages import redrives, services
from messages.models import Reset
from messages.transactions import Acks, Send
from messages.types import DeadFilter, DelayedFilter, NewMessage, Outcome
from tests import store_world
from tests.store_world import Threads, counts, hunt_deadlocks, new_group, new_id, session, sql

pytestmark = pytest.mark.usefixtures("store")
SECONDS = 60.0 if "MQADMIN_SOAK" in os.environ else 4.0
SEED = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))


class RollbackError(Exception):
    pass


def torture(*, send, tick, seconds, linger=(0, 0, 0.002, 0.03), moves=False, patience=5.0):
    """Run it; returns (ids committed, ids acked, times each was acked, the group)."""
    topic, lock = new_id(), threading.Lock()
    group = new_group(topic, max_attempts=1000, backoff_ms=(0, 5, 20))
    committed, acked = set(), {}
    end = time.monotonic() + seconds
    threads, quiet = Threads(), threading.Event()

    def sender(rng):
        while time.monotonic() < end:
            try:
                with transaction.atomic():
                    ids = send(topic, rng.choice([1, 1, 3, 30]), rng)
                    time.sleep(rng.choice(linger))
                    if rng.random() < 0.2:
                        raise RollbackError  # noqa: TRY301
                with lock:
                    committed.update(ids)
            except RollbackError:
                pass
            time.sleep(rng.random() * 0.01)

    def worker(rng):
        lease, outcomes = None, []
        while not quiet.is_set():
            settled, batch = services.next(
                group_id=group, lease=lease, outcomes=outcomes, limit=rng.choice([1, 5, 50]), visibility_ms=250, consumer="w"
            )
            with lock:
                for s in settled:
                    if s.status == "succeeded":
                        acked[s.id] = acked.get(s.id, 0) + 1
            if batch.lease and rng.random() < 0.1:
                with contextlib.suppress(Problem):  # it has expired already
                    services.extend(group_id=group, lease=batch.lease, visibility_ms=300)
            lease, outcomes = (
                batch.lease,
                [Outcome(m.id, rng.choices(["succeeded", "failed", "later"], [8, 1, 1])[0]) for m in batch.messages],
            )
            if rng.random() < 0.08 and time.monotonic() < end:  # crash
                lease, outcomes = None, []
            if not batch.messages:
                lease, outcomes = None, []
                time.sleep(0.01)

    def ticker():
        while not quiet.is_set():
            tick()
            time.sleep(0.005)

    def expirer():
        while not quiet.is_set():
            services.expire()
            time.sleep(0.02)

    def mover(rng):
        while time.monotonic() < end:
            with contextlib.suppress(Problem), transaction.atomic():
                if rng.random() < 0.7:  # else the group has gone on since the preview, mostly
                    sql("SELECT mq_lock_group(%s)", group)
                move(group, topic, rng)
            time.sleep(rng.random() * 0.05)

    if moves:
        threads.start(mover, random.Random(SEED + 200))
        threads.start(mover, random.Random(SEED + 201))
    for i in range(4):
        threads.start(sender, random.Random(SEED + i))
    for i in range(4):
        threads.start(worker, random.Random(SEED + 100 + i))
    for work in (ticker, ticker, expirer):
        threads.start(work)
    time.sleep(seconds)
    last, since = None, time.monotonic()
    while time.monotonic() < end + 30:
        now = len(acked), len(committed)
        if now != last:
            last, since = now, time.monotonic()
        if now[0] >= now[1] or time.monotonic() - since > patience:
            break
        time.sleep(0.05)
    time.sleep(0.1)
    quiet.set()
    threads.join()
    return committed, acked, group


def move(group, topic, rng):
    """A rewind or a skip somewhere, or the newest one taken back."""
    newest = Reset.objects.filter(group_id=group, topic_id=topic).order_by("-pk").first()
    if newest is not None and rng.random() < 0.4:
        services.undo_reset(reset_id=newest.pk)
        return
    some = sql("SELECT id FROM mq_message WHERE topic_id = %s ORDER BY random() LIMIT 1", topic)
    to = rng.choice(["earliest", "latest", some or "latest", some or "latest", datetime.now(UTC) - timedelta(seconds=rng.random())])
    plan = services.preview_reset(group_id=group, topic_id=topic, to=to)
    services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)


def send_well(topic, n, _rng):
    return [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"x")] * n)]


def send_nextval_first(topic, n, rng):
    """The fault of the laboratory: ids drawn, then a while, then the lock."""
    ids = [sql("SELECT nextval('mq_id_seq')") for _ in range(n)]
    time.sleep(rng.choice([0, 0.01]))
    for i in ids:
        sql("INSERT INTO mq_message (topic_id, id, body) VALUES (%s, %s, 'x')", topic, i)
    return ids


def tick_without_looking():
    """The other fault: closing at the last value without asking who might still commit."""
    sql("UPDATE mq_horizon SET closed_id = greatest(closed_id, (SELECT last_value FROM mq_id_seq))")


def test_torture_loses_nothing_acks_nothing_twice_and_counts_exactly():
    print(f"seed {SEED}")
    committed, acked, group = torture(send=send_well, tick=services.tick, seconds=SECONDS)
    assert len(committed) > 100
    assert committed - acked.keys() == set(), f"lost; seed {SEED}"
    assert acked.keys() - committed == set(), f"delivered although rolled back; seed {SEED}"
    assert {i: n for i, n in acked.items() if n > 1} == {}, f"acked twice; seed {SEED}"
    assert counts(group) == {"succeeded": len(committed)}


def test_torture_with_moves_of_the_position_stays_exact_and_loses_nothing():
    """While workers crash and fail, others rewind, skip and undo. Every count is that of the rows; from the beginning all comes again."""
    print(f"seed {SEED}")
    committed, acked, group = torture(send=send_well, tick=services.tick, seconds=0.75 * SECONDS, moves=True)
    topic = sql("SELECT topic_id FROM mq_cursor WHERE group_id = %s", group)
    assert acked.keys() <= committed
    made = dict(Reset.objects.filter(group_id=group).values_list("kind").annotate(n=Count("pk")))
    assert made, f"nothing was moved; seed {SEED}"
    print(made)
    words = "SELECT json_object_agg(status, n) FROM (SELECT s.status, count(*) AS n FROM mq_message m, mq_status(m.topic_id, m.id) s"
    letters = {"W": "waiting", "P": "processing", "S": "succeeded", "L": "later", "D": "dead", "F": "failed", "K": "skipped"}
    for _round in range(2):
        rows = sql(f"{words} WHERE m.topic_id = %s AND s.group_id = %s GROUP BY 1) x", topic, group)
        assert counts(group) == {letters[letter]: n for letter, n in rows.items()}, f"seed {SEED}"
        plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
        services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
        got = []
        while batch := services.pull(group_id=group, limit=1000, visibility_ms=60_000, consumer="w").messages:
            got += [m.id for m in batch]
        assert sorted(got) == sorted(committed), f"seed {SEED}"


@pytest.mark.parametrize("control", ["nextval before the lock", "no lock check"])
def test_torture_negative_control_loses_messages(control):
    send, tick = (send_nextval_first, services.tick) if control == "nextval before the lock" else (send_well, tick_without_looking)
    for _try in range(3):
        try:
            committed, acked, _group = torture(send=send, tick=tick, seconds=1.5, linger=(0.01, 0.05), patience=1.0)
        except DatabaseError as error:  # the store's own guards saw it before a message was lost
            assert any(words in str(error) for words in ("changed inside a lease", "below the horizon"))  # noqa: PT017
            return
        if committed - acked.keys():
            return
    pytest.fail(f"the control lost nothing: the torture proves nothing; seed {SEED}")


def kill_in_the_middle(program, env, after):
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "go\n"
        time.sleep(after)
        process.kill()
        return process.stdout.read().split()


def test_kill_9_of_senders_and_workers_as_processes_loses_nothing():
    topic = new_id()
    group = new_group(topic, max_attempts=1000)
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings"}
    head = "import django; django.setup(); from messages import services as s; from messages.types import *; print('go', flush=True)\n"
    sender = head + f"while True: print(*(a.id for a in s.send(topic_id={topic}, messages=[NewMessage(b'x')] * 25)), flush=True)"
    worker = head + (
        "lease, done = None, []\n"
        "while True:\n"
        f"  settled, b = s.next(group_id={group}, lease=lease, outcomes=done, limit=20, visibility_ms=300, consumer='w')\n"
        "  print(*(x.id for x in settled if x.status == 'succeeded'), flush=True)\n"
        "  lease, done = b.lease, [Outcome(m.id, 'succeeded') for m in b.messages]\n"
    )
    told, acked, threads = [], [], Threads()
    for after in (0.4, 0.7):
        threads.start(lambda after=after: told.extend(kill_in_the_middle(sender, env, after)))
        threads.start(lambda after=after: acked.extend(kill_in_the_middle(worker, env, after)))
    threads.join()
    told = {int(i) for i in told[:-1] if len(i) == len(told[0])}  # the last line may be cut
    got = {int(i) for i in acked if len(i) == len(told and str(next(iter(told))))}
    time.sleep(0.35)
    services.expire()
    end = time.monotonic() + 10
    while time.monotonic() < end and not counts(group).keys() <= {"succeeded"}:
        batch = services.pull(group_id=group, limit=1000, visibility_ms=60_000, consumer="w")
        if batch.lease:
            done = services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(m.id, "succeeded") for m in batch.messages])
            assert not {s.id for s in done} & got, "an acked message came back"
            got |= {s.id for s in done}
    assert told
    stored = sql("SELECT count(*) FROM mq_message WHERE topic_id = %s", topic)
    assert counts(group) == {"succeeded": stored}
    assert sql("SELECT count(*) FROM mq_message WHERE topic_id = %s AND id = ANY (%s)", topic, list(told)) == len(told)


def test_fault_11_no_pair_of_verbs_deadlocks(monkeypatch):
    topics = [new_id(), new_id(), new_id()]
    builtin.set_ordering(topic_id=topics[1], ordering="topic")
    builtin.set_ordering(topic_id=topics[2], ordering="key")
    groups = [new_group(*topics, max_attempts=3), new_group(*reversed(topics), max_attempts=3)]
    builtin.set_exhaustion(group_id=groups[0], stop_key=True)
    rng, ran = random.Random(SEED), {}

    def pull_settle():
        g = rng.choice(groups)
        batch = services.pull(group_id=g, limit=rng.randint(1, 20), visibility_ms=rng.choice([1, 5000]), consumer="w")
        if batch.lease:
            with contextlib.suppress(Problem):
                services.extend(group_id=g, lease=batch.lease, visibility_ms=rng.choice([1, 9000]))
            words = ["succeeded", "failed", "later", "dead"]
            services.settle(group_id=g, lease=batch.lease, outcomes=[Outcome(m.id, rng.choice(words), 0) for m in batch.messages[::-1]])

    def next_():
        g = rng.choice(groups)
        batch = services.pull(group_id=g, limit=5, visibility_ms=5000, consumer="w")
        done = [Outcome(m.id, rng.choice(["succeeded", "failed"])) for m in batch.messages]
        services.next(group_id=g, lease=batch.lease, outcomes=done, limit=5, visibility_ms=5000, consumer="w")

    monkeypatch.setattr(redrives, "open_topics", lambda _actor, ids: list(ids))

    whole = store_world.redrive(groups[0], only=DeadFilter())  # a redrive that has run; its chunks go on

    def redrive():
        """Now and then with all that an operation does; mostly its chunk, which takes a tenth of the time."""
        g, to = rng.choice(groups), rng.choice(["group", "topic"])
        if rng.random() < 0.2:
            store_world.redrive(g, only=DeadFilter(), to=to)
            return
        ids = [letter.id for letter in services.dead_letters(group_id=g, limit=50).items]
        if to == "group":
            sql("SELECT count(*) FROM mq_redrive(%s, %s::bigint[], %s, NULL)", g, ids, whole.pk)
        else:
            sql("SELECT count(*) FROM mq_redrive_to(%s, 'g', %s::bigint[], NULL, %s::bigint[], %s, NULL)", g, ids, topics, whole.pk)

    def of_dead():
        """One of them is edited, some are purged."""
        g = rng.choice(groups)
        builtin.subscribe(group_id=g, topic_id=topics[0])
        builtin.set_ceiling(group_id=g, max_outstanding=0)
        services.send(topic_id=topics[0], messages=[NewMessage(b"x")] * 3)
        services.tick()
        batch = services.pull(group_id=g, limit=100, visibility_ms=5000, consumer="w")
        if batch.lease:
            services.settle(group_id=g, lease=batch.lease, outcomes=[Outcome(m.id, "dead") for m in batch.messages])
        found = [letter.id for letter in services.dead_letters(group_id=g, limit=5).items]
        if not found:
            return
        try:
            edited = services.redrive_edited(group_id=g, message_id=found[0], edit=services.Edit(tag="edited"))
            ran["edited"] = ran.get("edited", 0) + (edited is not None)
        except Problem as problem:
            assert problem.code in {"not_dead", "not_subscribed", "not_found"}, problem  # noqa: PT017
        if rng.random() < 0.2:
            store_world.drive(services.start_purge(group_id=g, ids=found, reason="test"))
        sql("SELECT count(*) FROM mq_purge_dead(%s, %s::bigint[], 'test')", g, found[1:])

    def of_stopped():
        """Messages run out of attempts; a person decides on some that stop their keys."""
        g = groups[0]
        builtin.set_exhaustion(group_id=g, stop_key=rng.random() < 0.9)
        builtin.subscribe(group_id=g, topic_id=topics[2])
        builtin.update_group(group_id=g, max_attempts=1, backoff_ms=[0], suspended=False)
        builtin.set_ceiling(group_id=g, max_outstanding=0)
        services.send(topic_id=topics[2], messages=[NewMessage(b"x", sharding_key=f"{rng.random()}")] * 2)
        services.tick()
        batch = services.pull(group_id=g, limit=100, visibility_ms=5000, consumer="w")
        if batch.lease:
            services.settle(group_id=g, lease=batch.lease, outcomes=[Outcome(m.id, "failed", 0) for m in batch.messages])
        ids = [key.message_id for key in services.stopped_keys(group_id=g, limit=5)]
        if ids:
            done = services.decide_stopped(group_id=g, ids=ids, decision=rng.choice(["retry", "dead_letter", "skip"]), reason="test")
            ran["decided"] = ran.get("decided", 0) + sum(not refusal for refusal in done.values())

    def resubscribe():
        g, t = rng.choice(groups), rng.choice(topics)
        rng.choice([builtin.unsubscribe, builtin.subscribe, builtin.subscribe])(group_id=g, topic_id=t)

    def change():
        builtin.update_group(group_id=rng.choice(groups), max_attempts=rng.randint(1, 4), backoff_ms=[0], suspended=False)
        builtin.set_ceiling(group_id=rng.choice(groups), max_outstanding=rng.choice([0, 0, 30]))

    def send():
        batch = [NewMessage(b"x", producer_id=f"{rng.randint(0, 400)}", sharding_key=rng.choice("abc")) for _ in range(rng.randint(1, 40))]
        services.send(topic_id=rng.choice(topics), messages=batch)

    def delay():
        (a,) = services.send(topic_id=rng.choice(topics), messages=[NewMessage(b"x", deliver_at=datetime.now(UTC))])
        try:
            rng.choice(
                [
                    services.promote,
                    lambda: services.cancel_delayed(message_id=a.id),
                    lambda: services.reschedule_delayed(message_id=a.id, deliver_at=datetime.now(UTC) + timedelta(milliseconds=20)),
                ]
            )()
        except Exception as error:
            assert getattr(error, "code", "") in {"not_found", "not_delayed"}, error  # noqa: PT017

    def delay_many():
        """All of a topic at once: cancelled, or moved; now and then, since it takes long."""
        t = rng.choice(topics)
        if rng.random() < 0.7:
            services.promote()
            return
        services.send(topic_id=t, messages=[NewMessage(b"x", deliver_at=datetime.now(UTC) + timedelta(seconds=60))] * 3)
        only = DelayedFilter(topic_id=t)
        operation = services.start_cancelling(only=only) if rng.random() < 0.5 else services.start_rescheduling(only=only, deliver_at=None)
        store_world.drive(operation)

    def half():
        message = NewMessage(b"x", producer_id=f"{rng.randint(0, 400)}")
        made = services.prepare_half(topic_id=rng.choice(topics), message=message)
        services.ask_for_open(topic_id=rng.choice(topics), limit=3)
        waiting = [m.id for m in services.half_messages(limit=3).items]
        for message_id in rng.sample([made.id, *waiting], 2 if waiting else 1):
            try:
                services.decide_half(message_id=message_id, decision=rng.choice(["commit", "rollback"]), by="test")
            except Problem as problem:
                assert problem.code in {"not_found", "already_committed", "already_rolled_back"}, problem  # noqa: PT017

    def transact():
        g, t = rng.sample(groups, 2), rng.sample(topics, 2)
        batches = [(i, services.pull(group_id=i, limit=3, visibility_ms=rng.choice([1, 5000, 5000]), consumer="w")) for i in g]
        acks = [Acks(i, b.lease, [Outcome(m.id, rng.choice(["succeeded", "failed"])) for m in b.messages]) for i, b in batches if b.lease]
        sends = [Send(i, [NewMessage(b"x", producer_id=f"{rng.randint(0, 400)}") for _ in range(3)]) for i in t]
        fields = {"application_id": 1, "producer": rng.choice("ab"), "transaction_id": f"{rng.randint(0, 5000)}"}
        try:
            epoch = services.open_epoch(application_id=1, producer=fields["producer"])
            done = services.commit_transaction(epoch=epoch, sends=sends, acks=acks, **fields)
            ran["committed"] = ran.get("committed", 0) + (not done.duplicate)
        except Problem as problem:
            assert problem.code in {"producer_fenced", "unknown_producer", "transaction_id_reused", "ack_refused"}, problem  # noqa: PT017

    def housekeeping():
        chores = [
            lambda: sql("SELECT mq_cut(1000, 10)"),
            lambda: sql("SELECT mq_purge_claims('1 s')"),
            lambda: sql("SELECT mq_half_purge('0 s')"),
            lambda: sql("SELECT mq_transaction_purge('0 s')"),
            lambda: sql("SELECT mq_half_due(3)"),
            lambda: sql("SELECT mq_upkeep()"),
            lambda: sql("SELECT mq_mark_done(0)"),
            lambda: sql("SELECT mq_cut_at((SELECT closed_id FROM mq_horizon))"),
            lambda: sql("SELECT mq_push_claim(%s, '1 s')", rng.choice(groups)),
            lambda: sql("SELECT count(*) FROM mq_kept('0 s')"),
            lambda: services.counts(group_ids=groups),
            lambda: builtin.backlog(topic_id=rng.choice(topics)),
        ]
        for chore in rng.sample(chores, 4):
            chore()

    def limits():
        builtin.set_limits(topic_id=rng.choice(topics), ttl_seconds=rng.randint(0, 1), max_length=rng.choice([0, 5]))
        services.enforce(chunk=rng.choice([5, 1000]))

    def balance():
        g = rng.choice(groups)
        builtin.set_balance(group_id=g, sticky=rng.random() < 0.6)
        for name in rng.choices("wxyz", k=3):
            pulled = services.pull(group_id=g, limit=3, visibility_ms=rng.choice([1, 5000]), consumer=name)
            if pulled.worker is not None:
                sql("SELECT count(*) FROM mq_workers_ready(%s)", [pulled.worker])
        services.leave_group(group_id=g, name=rng.choice("wxyz"))
        services.drop_silent_workers(silence=timedelta(milliseconds=20))

    def retire():
        builtin.retire_topic(topic_id=rng.choice(topics))

    def moved():
        with contextlib.suppress(Problem):
            move(rng.choice(groups), rng.choice(topics), rng)

    verbs = [pull_settle, next_, services.expire, redrive, moved, resubscribe, change, send, delay, half, transact, housekeeping, retire]
    verbs += [services.tick, limits, of_dead, of_stopped, delay_many, balance]
    hunt_deadlocks(verbs, ran, seconds=0.05, seed=SEED)
    print({name: ran[name] for name in sorted(ran)})
    for name in ("committed", "edited", "decided"):  # not all of them were refused
        assert ran.pop(name, 0) > 0, name
    assert set(ran) == {v.__name__ for v in verbs}
    for group in groups:  # after all of that the counters still tell what the rows say
        found = services.counts(group_ids=[group])[group]
        rows = dict(
            session().execute("SELECT status::text, count(*) FROM mq_exception WHERE group_id = %s GROUP BY 1", (group,)).fetchall()
        )
        leased = sql("SELECT coalesce(sum(left_n), 0) FROM mq_lease WHERE group_id = %s", group)
        assert (found.later, found.dead, found.failed, found.processing) == (
            rows.get("L", 0),
            rows.get("D", 0),
            rows.get("F", 0),
            rows.get("P", 0) + leased,
        )
