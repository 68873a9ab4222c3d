"""Group commit of single sends: nobody waits for nothing, each is answered after its own commit, an error is its own sender's."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction

from core.errors import Problem
from messages import sending, services
from messages.coalescing import Coalescer, UndoneError
from messages.types import Accepted, NewMessage
from tests.store_world import WAITING_SENDERS, Threads, bodies, new_group, new_id, pull, session, sql, until

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def groups(monkeypatch):
    """The groups that were committed, as lists of bodies; singles are not among them."""
    seen = []

    def spy(items):
        seen.append([m.body.decode() for _t, m in items])
        return sending._send_group(items)

    monkeypatch.setattr(sending._coalescer, "_group", spy)
    return seen


class Held:
    """Holds the first commit by a lock that every append needs, until those who come meanwhile have queued."""

    def __enter__(self):
        self.session = session(autocommit=False)
        self.session.execute("LOCK TABLE mq_message IN EXCLUSIVE MODE")
        return self

    def wait_for(self, n):
        until(lambda: sending._coalescer.waiting == n)

    def __exit__(self, *_):
        self.session.rollback()
        self.session.close()


def send_all(items, held_by=None):
    """Send each (topic, message) in a thread of its own while the first commit is held; results or problems in their order."""
    results, threads = [None] * len(items), Threads()

    def one(i):
        try:
            (results[i],) = services.send(topic_id=items[i][0], messages=[items[i][1]])
        except (Problem, DatabaseError) as error:
            results[i] = error

    def first():
        with contextlib.suppress(OperationalError):  # a test ends its connection
            services.send(topic_id=new_id(), messages=[NewMessage(b"first")])

    with Held() as held:
        threads.start(first)
        until(lambda: sending._coalescer._busy)
        for i in range(len(items)):
            threads.start(one, i)
            if held_by is None:
                held.wait_for(i + 1)
        if held_by is not None:
            held_by(held)
    threads.join()
    return results


def test_those_who_come_while_a_commit_is_under_way_share_the_next_one(groups):
    one, other = new_id(), new_id()
    group = new_group(one)
    elsewhere = new_group(other)
    found = send_all([(other if i % 5 == 0 else one, NewMessage(f"{i}".encode(), key=f"k{i}", headers={"n": f"{i}"})) for i in range(20)])
    assert groups == [[f"{i}" for i in range(20)]]
    assert [f.id for f in found] == sorted(f.id for f in found)
    assert {f.state for f in found} == {"accepted"}
    got = pull(group).messages
    assert [(m.body, m.key, m.headers["n"]) for m in got] == [(f"{i}".encode(), f"k{i}", f"{i}") for i in range(20) if i % 5]
    assert [m.id for m in got] == [found[i].id for i in range(20) if i % 5]
    assert bodies(pull(elsewhere)) == ["0", "5", "10", "15"]
    assert sql("SELECT count(DISTINCT xmin::text) FROM mq_message WHERE topic_id = ANY (%s)", [one, other]) == 1


def test_a_lone_sender_waits_for_nobody_and_is_in_no_group(groups):
    topic = new_id()
    for i in range(5):
        services.send(topic_id=topic, messages=[NewMessage(b"%d" % i)])
    assert groups == []
    assert not sending._coalescer._busy


def test_producers_ids_count_once_within_a_group_and_against_the_past(groups):
    topic, other = new_id(), new_id()
    group = new_group(topic)
    (old,) = services.send(topic_id=topic, messages=[NewMessage(b"old", producer_id="old")])
    due = datetime.now(UTC) + timedelta(hours=1)
    (old_late,) = services.send(topic_id=topic, messages=[NewMessage(b"late", producer_id="late", deliver_at=due)])
    a, a2, again, plain, elsewhere, late = send_all(
        [
            (topic, NewMessage(b"a", producer_id="a")),
            (topic, NewMessage(b"a", producer_id="a")),
            (topic, NewMessage(b"old", producer_id="old")),
            (topic, NewMessage(b"plain")),
            (other, NewMessage(b"other", producer_id="a")),
            (topic, NewMessage(b"late", producer_id="late")),
        ]
    )
    assert len(groups) == 1
    assert (a.duplicate, a2.id, a2.duplicate) == (False, a.id, True)
    assert (again.id, again.duplicate, again.state) == (old.id, True, "accepted")
    assert (late.id, late.duplicate, late.state, late.deliver_at) == (old_late.id, True, "delayed", due)
    assert (plain.duplicate, elsewhere.duplicate) == (False, False)
    assert elsewhere.id != a.id
    assert bodies(pull(group)) == ["old", "a", "plain"]
    (retry,) = services.send(topic_id=topic, messages=[NewMessage(b"a", producer_id="a")])
    assert (retry.id, retry.duplicate) == (a.id, True)


def test_delayed_messages_in_a_group_wait_for_their_time(groups):
    topic = new_id()
    group = new_group(topic)
    due = datetime.now(UTC) + timedelta(hours=1)
    found = send_all(
        [
            (topic, NewMessage(b"now")),
            (topic, NewMessage(b"later", deliver_at=due)),
            (topic, NewMessage(b"mine", deliver_at=due, producer_id="p")),
            (topic, NewMessage(b"too", producer_id="q")),
        ]
    )
    assert len(groups) == 1
    assert [(f.state, f.deliver_at) for f in found] == [("accepted", None), ("delayed", due), ("delayed", due), ("accepted", None)]
    assert bodies(pull(group)) == ["now", "too"]
    services.cancel_delayed(message_id=found[1].id)
    services.reschedule_delayed(message_id=found[2].id, deliver_at=datetime.now(UTC))
    until(services.promote)
    (m,) = until(lambda: pull(group).messages)
    assert (m.body, m.origin_id) == (b"mine", found[2].id)


def test_an_invalid_message_is_its_own_senders_problem():
    topic = new_id()
    group = new_group(topic)
    found = send_all(
        [(topic, NewMessage(b"a")), (topic, NewMessage(b"b", tag="no tag")), (topic, NewMessage(b"c"))],
        held_by=lambda held: held.wait_for(2),
    )
    assert found[1].code == "invalid_tag"
    assert sorted(bodies(pull(group))) == ["a", "c"]
    assert {found[0].state, found[2].state} == {"accepted"}


def test_a_message_that_postgres_refuses_harms_nobody_else(monkeypatch):
    """Each of the group then goes alone; nothing is stored twice."""
    topic = new_id()
    group = new_group(topic)
    monkeypatch.setattr(sending, "storable", lambda _text: True)
    found = send_all([(topic, NewMessage(b"a")), (topic, NewMessage(b"b", key="nul\x00")), (topic, NewMessage(b"c", producer_id="c"))])
    assert isinstance(found[1], DatabaseError | Problem)
    assert sorted(bodies(pull(group))) == ["a", "c"]
    assert {found[0].state, found[2].state} == {"accepted"}


def test_an_id_that_is_in_somebodys_open_transaction_keeps_only_its_own_sender_waiting():
    topic = new_id()
    results, threads = {}, Threads()

    def one(name, **fields):
        (results[name],) = services.send(topic_id=topic, messages=[NewMessage(name.encode(), **fields)])

    with session(autocommit=False) as open_:
        open_.execute("INSERT INTO mq_producer_id (topic_id, producer_id, claim, ord) VALUES (%s, 'p', -1, 1)", (topic,))
        with Held() as held:
            threads.start(one, "first")
            until(lambda: sending._coalescer._busy)
            for i, (name, fields) in enumerate({"a": {}, "blocked": {"producer_id": "p"}, "c": {"producer_id": "c"}}.items()):
                threads.start(lambda name=name, fields=fields: one(name, **fields))
                held.wait_for(i + 1)
        until(lambda: results.keys() >= {"first", "a", "c"})
        (later,) = services.send(topic_id=topic, messages=[NewMessage(b"x")])
        assert later.state == "accepted"
        assert "blocked" not in results
        open_.rollback()
    threads.join()
    assert (results["blocked"].state, results["blocked"].duplicate) == ("accepted", False)


def test_groups_are_bounded_in_messages_and_bytes(groups, monkeypatch):
    topic = new_id()
    monkeypatch.setattr(sending._coalescer, "max_messages", 4)
    send_all([(topic, NewMessage(b"%d" % i)) for i in range(10)])
    assert groups == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    groups.clear()
    monkeypatch.setattr(sending._coalescer, "max_messages", 100)
    monkeypatch.setattr(sending._coalescer, "max_bytes", 25)
    send_all([(topic, NewMessage(b"%010d" % i)) for i in range(4)] + [(topic, NewMessage(b"x" * 100))])
    assert [len(g) for g in groups] == [2, 2]  # and the big one alone
    assert sql("SELECT count(*) FROM mq_message WHERE topic_id = %s", topic) == 15


def test_in_a_transaction_nothing_is_shared():
    """Its messages must come and go with it."""
    topic = new_id()
    with Held():
        threads = Threads()
        threads.start(lambda: services.send(topic_id=topic, messages=[NewMessage(b"first")]))
        until(lambda: sending._coalescer._busy)
        with pytest.raises(OperationalError), transaction.atomic():  # noqa: PT012 - for the lock, not for the queue
            sql("SET LOCAL lock_timeout = '50ms'")
            services.send(topic_id=topic, messages=[NewMessage(b"x")])
        assert sending._coalescer.waiting == 0
    threads.join()


class Stub:
    """A coalescer over functions that the test steps through."""

    def __init__(self, group=None):
        self.go = threading.Semaphore(0)
        self.groups = []
        self._group = group
        self.coalescer = Coalescer(one=self.one, group=self.group)
        self.answers, self.threads = {}, Threads()

    def one(self, _topic, m):
        self.go.acquire()
        return Accepted(int(m.body), "accepted")

    def group(self, items):
        self.go.acquire()
        self.groups.append([m.body for _t, m in items])
        if self._group:
            raise self._group
        return [Accepted(int(m.body), "accepted") for _t, m in items]

    def start(self, n):
        def run():
            try:
                self.answers[n] = self.coalescer.send(1, NewMessage(b"%d" % n)).id
            except Exception as error:
                self.answers[n] = error

        waiting = self.coalescer.waiting
        self.threads.start(run)
        until(lambda: self.coalescer.waiting == waiting + 1 if n else self.coalescer._busy)


def test_each_is_answered_after_its_own_commit_and_before_the_next():
    stub = Stub()
    stub.start(0)
    stub.start(1)
    stub.start(2)
    stub.go.release()
    until(lambda: 0 in stub.answers and stub.coalescer.waiting == 0)
    assert stub.answers == {0: 0}  # the group is under way
    waiting = threading.Thread(target=stub.start, args=(3,))
    waiting.start()
    waiting.join()
    stub.go.release()
    until(lambda: len(stub.answers) == 3)
    stub.go.release()
    stub.threads.join()
    assert stub.answers == {0: 0, 1: 1, 2: 2, 3: 3}
    assert stub.groups == [[b"1", b"2"]]
    assert not stub.coalescer._busy


@pytest.mark.parametrize("error", [OperationalError("the connection is gone"), UndoneError()])
def test_a_group_whose_fate_is_unknown_is_an_error_for_each_one_that_was_undone_is_sent_again(error):
    stub = Stub(group=error)
    for i in range(3):
        stub.start(i)
    for _ in range(5):
        stub.go.release()
    stub.threads.join()
    if isinstance(error, UndoneError):
        assert stub.answers == {0: 0, 1: 1, 2: 2}
    else:
        assert stub.answers[0] == 0
        assert [str(stub.answers[i]) for i in (1, 2)] == ["the connection is gone"] * 2
        assert stub.answers[1] is not stub.answers[2]
    assert not stub.coalescer._busy


def test_a_lost_connection_reaches_its_senders_and_the_next_ones_go_on():
    topic = new_id()
    found = send_all([(topic, NewMessage(b"a")), (topic, NewMessage(b"b"))], held_by=lambda held: (held.wait_for(2), kill_senders()))
    assert all(isinstance(f, Accepted | OperationalError) for f in found)
    connection.close()
    assert services.send(topic_id=topic, messages=[NewMessage(b"c")])[0].state == "accepted"
    assert not sending._coalescer._busy


def kill_senders():
    until(lambda: sql(f"SELECT count(*) FROM {WAITING_SENDERS}"))
    sql(f"SELECT pg_terminate_backend(pid) FROM {WAITING_SENDERS}")


def test_kill_9_in_the_middle_loses_nothing_that_was_answered():
    topic = new_id()
    group = new_group(topic)
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings", "MQADMIN_DB_POOL_SIZE": "6"}
    program = f"""
import django, os, threading; django.setup()
from django.db import connection
from messages import sending, services
from messages.types import NewMessage
def run(n):
    i = 0
    while True:
        i += 1
        (a,) = services.send(topic_id={topic}, messages=[NewMessage(b"x", producer_id=f"{{n}}:{{i}}" if n % 2 else None)])
        os.write(1, b"%d\\n" % a.id)
        connection.close()
for n in range(24): threading.Thread(target=run, args=(n,)).start()
"""
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(400)]
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
    told = [int(line) for line in told if line.endswith("\n")]
    assert len(set(told)) == len(told) >= 400
    assert sql("SELECT count(*) FROM mq_message WHERE topic_id = %s AND id = ANY (%s)", topic, told) == len(told)
    assert sql("SELECT count(*) - count(DISTINCT xmin::text) FROM mq_message WHERE topic_id = %s", topic) > 100, "nothing was coalesced"
    got, end = set(), time.monotonic() + 20
    while not got >= set(told) and time.monotonic() < end:
        got |= {m.id for m in pull(group, limit=1000).messages}
    assert got >= set(told)
