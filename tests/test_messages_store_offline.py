"""Offline: whoever was away for days gets everything that was sent meanwhile when they return, and nobody else notices."""

import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.db import connection

from clusters.drivers import builtin
from messages import broadcast, services
from messages.types import NewMessage
from tests.store_world import bodies, counts, expire_now, new_group, new_id, pull, send, settle, sql, status, until
from tests.test_messages_store_broadcast import give_up, instance, new_broadcast, take_all, words
from tests.test_messages_store_broadcast import pull as pull_as
from tests.test_messages_store_broadcast import settle as settle_as
from tests.test_messages_store_retention import past  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(autouse=True)
def nothing_known():
    broadcast.forget_all()
    yield
    broadcast.forget_all()


def everything(group):
    found = []
    while (batch := pull(group)).messages:
        found += bodies(batch)
        settle(group, batch)
    return found


def test_a_group_that_was_away_for_days_gets_everything_and_its_own_retries(past):  # noqa: F811
    """Three days of messages, in partitions whose time is over; another group has done with them long ago."""
    topic, days = new_id(), []
    away, busy = new_group(topic, max_attempts=2), new_group(topic)
    for n, year in enumerate((2021, 2022, 2023)):
        days.append(past.partition(year))
        past.send(topic, days[-1] + 100, 10)
        everything(busy)
        if not n:  # the first day it was there: it has failed with one, rejected one, and was killed with the rest in its hands
            batch = pull(away, limit=8)
            settle(away, batch, messages=batch.messages[:3])
            settle(away, batch, "failed", messages=batch.messages[3:4])
            settle(away, batch, "dead", messages=batch.messages[4:5], error="poison")
    assert past.drop_all() == past.names  # all is kept for it
    services.send(topic_id=topic, messages=[NewMessage(b"today", key="t")])
    services.tick()
    expire_now(away)
    assert counts(away) == {"waiting": 23, "later": 4, "dead": 1, "succeeded": 3}
    got = everything(away)
    assert (len(got), got.count("today")) == (27, 1)
    assert counts(away) == {"succeeded": 30, "dead": 1}
    assert counts(busy) == {"succeeded": 30, "waiting": 1}  # got nothing twice
    assert [status(days[n] + 105, away).status for n in range(3)] == ["succeeded"] * 3
    kept = past.drop_all()
    assert kept == past.names  # the dead letter of the first day keeps its own, and those behind it, which go in their order
    batch = services.dead_letters(group_id=away).items
    assert [d.id for d in batch] == [days[0] + 104]
    services.run_at_once(services.start_purge(group_id=away, ids=[days[0] + 104], reason="not needed"))
    everything(busy)
    assert past.drop_all() == []


def test_a_broadcast_instance_that_was_away_for_days_gets_everything_and_the_others_nothing_again(past):  # noqa: F811
    topic, days = new_id(), []
    group = new_broadcast(topic)
    for n, year in enumerate((2021, 2022)):
        days.append(past.partition(year))
        past.send(topic, days[-1] + 100, 10)
        take_all(group, "here")
        if not n:
            batch = pull_as(group, "away", 4)
            settle_as(group, batch, messages=batch.messages[:2])  # and dies with two in its hands
    assert past.drop_all() == past.names
    sql("UPDATE mq_instance SET seen_at = seen_at - interval '6 days' WHERE group_id = %s AND name = 'away'", group)
    builtin.subscribe(group_id=group, topic_id=topic, tag_expression="*")  # a change that says nothing new takes nothing away
    expire_now(instance(group, "away").id)
    today = send(topic, "today")
    services.tick()
    broadcast.forget_all()
    assert (instance(group, "away").lag.messages, services.lag(group_ids=[group])[group].messages) == (17, 17)
    assert len(take_all(group, "away")) == 19
    assert take_all(group, "here") == ["today"]
    assert words(today[0], group) == {"away": "succeeded", "here": "succeeded"}
    assert counts(group) == {"succeeded": 42}
    assert past.drop_all() == []


def test_what_came_by_other_ways_while_it_was_away_is_there_too():
    """Delayed messages that became due, half messages that were committed, a filter that was changed, a suspension and its end."""
    topic = new_id()
    group, shared = new_broadcast(topic, tag_expression="a"), new_group(topic, tag_expression="a")
    take_all(group, "away")
    sent = send(topic, "a1", tag="a") + send(topic, "b1", tag="b")
    services.send(topic_id=topic, messages=[NewMessage(b"later", tag="a", deliver_at=sql("SELECT now() + interval '1 hour'"))])
    half = services.prepare_half(topic_id=topic, message=NewMessage(b"half", tag="a"))
    services.decide_half(message_id=half.id, decision="commit", by="test")
    for one in (group, shared):
        builtin.update_group(group_id=one, max_attempts=3, backoff_ms=[0], suspended=True)
        builtin.change_filter(group_id=one, topic_id=topic, tag_expression="*")
    send(topic, "b2", tag="b")
    sql("UPDATE mq_delayed SET deliver_at = now() - interval '1 minute' WHERE topic_id = %s", topic)
    services.promote()
    services.tick()
    assert (pull_as(group, "away").reason, pull(shared).reason) == ("suspended", "suspended")
    for one in (group, shared):
        builtin.update_group(group_id=one, max_attempts=3, backoff_ms=[0], suspended=False)
    assert sorted(take_all(group, "away")) == sorted(everything(shared)) == ["a1", "b1", "b2", "half", "later"]
    assert [words(i, group) for i in sent] == [{"away": "succeeded"}] * 2


def test_an_instance_that_was_given_up_begins_anew_and_held_nothing_up(past):  # noqa: F811
    topic = new_id()
    low = past.partition(2021)
    group = new_broadcast(topic, consume_from="earliest")
    past.send(topic, low + 100, 10)
    take_all(group, "here")
    settle_as(group, pull_as(group, "gone", 3), "dead")
    assert past.drop_all() == past.names
    give_up(group, "gone")
    while sql("SELECT mq_forget_instances()"):
        pass
    assert past.drop_all() == []
    send(topic, "today")
    services.tick()
    broadcast.forget_all()
    assert take_all(group, "gone") == ["today"]  # from the earliest that is kept, as this group says


def succeeded(group, name):
    """How many an instance has done; its process may not have begun yet."""
    return next((one.counts.succeeded for one in services.instances(group_id=group).items if one.name == name), 0)


PROGRAM = """
import sys, django
django.setup()
from messages import services as s
from messages.types import Outcome
group, name, settles = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lease, done = None, []
while True:
    settled, b = s.next(group_id=group, lease=lease, outcomes=done, limit=7, visibility_ms=60_000, consumer=name, broadcast=True)
    for x in settled: print(x.id, x.status, flush=True)
    settles -= 1
    if settles == 0: print("stands", flush=True); sys.stdin.read()
    lease, done = b.lease, [Outcome(m.id, "succeeded") for m in b.messages]
"""


def test_an_instance_whose_process_was_killed_finds_everything_when_it_starts_again():
    """Two instances as processes; one is killed -9 with a lease in its hands, messages go on coming, it starts anew under its name."""
    topic = new_id()
    group = new_broadcast(topic)
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {
        **os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings",
        "MQADMIN_ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
    }  # fmt: skip

    def start(name, settles):
        command = [sys.executable, "-c", PROGRAM, str(group), name, str(settles)]
        return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    ids = send(topic, *(str(n) for n in range(40)))
    services.tick()
    with start("killed", 3) as killed, start("other", -1) as other:
        said = []
        while (line := killed.stdout.readline()) != "stands\n":
            assert line
            said.append(line)
        killed.kill()
        assert len(said) == 14  # two batches; the third is in its hands
        ids += send(topic, *(str(n) for n in range(40, 60)))
        services.tick()
        until(lambda: succeeded(group, "other") == 60, 30)
        other.kill()
    assert instance(group, "killed").counts.processing == 7
    expire_now(instance(group, "killed").id)
    with start("killed", -1) as again:
        until(lambda: succeeded(group, "killed") == 60, 30)
        again.kill()
        told = {int(line.split()[0]) for line in again.stdout.read().splitlines()}
    assert told == set(ids) - {int(line.split()[0]) for line in said}
    assert counts(group) == {"succeeded": 120}
    assert {tuple(words(i, group).items()) for i in ids} == {(("killed", "succeeded"), ("other", "succeeded"))}
