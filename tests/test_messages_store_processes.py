"""Processes that behave badly: a sender that keeps its transaction open, a consumer that never acks, a message that kills its worker."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from django.db import connection

from messages import services
from tests.store_world import bodies, counts, new_group, new_id, pull, send, session, settle, sql, until
from tests.test_messages_store_horizon import ACTIVE

pytestmark = pytest.mark.usefixtures("store")
HEAD = """
import os, signal, sys, time
import django
django.setup()
from django.db import transaction
from messages import services
from messages.types import NewMessage, Outcome
topic, group = int(sys.argv[1]), int(sys.argv[2])
def say(word):
    print(word, flush=True)
"""
HOLDS = """
with transaction.atomic():
    services.send(topic_id=topic, messages=[NewMessage(b"held")])
    say("sent")
    sys.stdin.readline()
say("committed")
"""
NEVER_ACKS = """
say("here")
while os.getppid() == int(sys.argv[3]):
    batch = services.pull(group_id=group, limit=10, visibility_ms=100, consumer="never acks")
    if batch.messages:
        say("took " + " ".join(m.body.decode() for m in batch.messages))
    time.sleep(0.02)
"""
# What starts workers again, as a supervisor does: each is a process of its own, and what kills it is SIGKILL.
DIES_OF_IT = """
supervisor = os.getpid()
while True:
    worker = os.fork()
    if not worker:
        while os.getppid() == supervisor:
            batch = services.pull(group_id=group, limit=10, visibility_ms=400, consumer="dies")
            if any(m.body == b"poison" for m in batch.messages):
                os.kill(os.getpid(), signal.SIGKILL)
            if batch.lease:
                services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(m.id, "succeeded") for m in batch.messages])
            else:
                time.sleep(0.02)
        os._exit(0)
    say("started")
    os.waitpid(worker, 0)
    say("died")
"""
KEEPS = """
from django.core.management import call_command
call_command("storekeeper")
say("ended")
"""


@contextlib.contextmanager
def process(program, topic, group):
    """A process of its own on this database; what it says is read from its `stdout`. It is killed in the end."""
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings"}
    command = [sys.executable, "-c", HEAD + program, str(topic), str(group), str(os.getpid())]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("end", ["it commits", "it is killed"])
def test_a_sender_that_keeps_its_transaction_open_holds_up_others_and_health_says_so(end):
    topic, idle = new_id(), new_id()
    group, other = new_group(topic), new_group(idle)
    send(idle, "before")
    services.tick()
    with process(HOLDS, topic, group) as sender:
        assert sender.stdout.readline() == "sent\n"
        send(topic, "quick")
        send(idle, "of another topic")
        for _ in range(3):
            services.tick()
        assert pull(group).messages == []
        assert bodies(pull(other)) == ["before"]  # what was closed before is handed out
        health = services.health()
        assert health.last_id > health.closed_id
        if end == "it commits":
            sender.stdin.write("\n")
            sender.stdin.flush()
            assert sender.stdout.readline() == "committed\n"
        else:
            sender.send_signal(signal.SIGKILL)

        def come():
            services.tick()
            return pull(group).messages

        got = [m.body.decode() for m in until(come, 30)]
        assert got == (["held", "quick"] if end == "it commits" else ["quick"])
        assert bodies(pull(other)) == ["of another topic"]


def test_a_consumer_that_never_acks_loses_nothing_and_what_it_alone_holds_is_buried_at_the_limit():
    topic = new_id()
    group, beside = new_group(topic, max_attempts=2), new_group(topic)
    send(topic, "a", "b", "c")
    services.tick()
    with process(NEVER_ACKS, topic, group) as consumer:
        assert consumer.stdout.readline() == "here\n"
        assert consumer.stdout.readline() == "took a b c\n"

        def ended():
            services.expire()
            return counts(group) == {"dead": 3}

        until(ended, 60)
        consumer.kill()
        alone = [line.split()[1:] for line in consumer.stdout if line.startswith("took")]
    assert sorted(alone) == [["a"], ["a"], ["b"], ["b"], ["c"], ["c"]]  # after the first time each is in nobody's company
    letters = services.dead_letters(group_id=group).items
    assert {letter.attempts for letter in letters} == {2}
    batch = pull(beside)
    assert bodies(batch) == ["a", "b", "c"]  # the other group has noticed nothing
    settle(beside, batch)
    assert counts(beside) == {"succeeded": 3}


def test_a_message_that_kills_its_worker_each_time_is_buried_at_the_limit_and_takes_no_other_with_it():
    topic = new_id()
    group = new_group(topic, max_attempts=3)
    ids = send(topic, "1", "2", "poison", "3", "4")
    services.tick()
    with process(DIES_OF_IT, topic, group) as supervisor:

        def ended():
            services.expire()
            return counts(group) == {"succeeded": 4, "dead": 1}

        until(ended, 60)
        send(topic, "5")
        services.tick()
        until(lambda: counts(group) == {"succeeded": 5, "dead": 1}, 30)  # and the work goes on
        supervisor.kill()
        said = supervisor.stdout.read().split()
    (letter,) = services.dead_letters(group_id=group).items
    assert (letter.id, letter.attempts) == (ids[2], 3)
    assert said.count("died") == 4  # once with the others, uncounted, and three times alone


def test_a_storekeeper_ends_when_it_is_told_to_whatever_its_step_waits_for():
    with process(KEEPS, 0, 0) as keeper, session(autocommit=False) as other:
        until(lambda: sql(f"SELECT count(*) FROM {ACTIVE}") == 1, 30)
        other.execute("LOCK TABLE mq_horizon IN ACCESS EXCLUSIVE MODE")
        until(lambda: sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'mq_horizon'::regclass"), 30)
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(60) == 0  # the lock is still held
        assert "ended\n" in keeper.stdout.read()
    assert services.tick() is not None
