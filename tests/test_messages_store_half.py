"""Half messages in the store: prepared, decided once and for good, asked after; killed between every two steps."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.conf import settings
from django.db import connection, transaction

from accounts.models import Application, User
from core.approvals.outbox import signature
from core.errors import Problem
from messages import callbacks, checking, services
from messages.models import CheckBack
from messages.types import NewMessage
from tests.messages_world import world  # noqa: F401 - a fixture
from tests.store_world import Threads, bodies, new_group, new_id, pull, send, session, settle, sql, until

pytestmark = pytest.mark.usefixtures("store")


def prepare(topic, body="x", check_after_ms=None, **fields):
    return services.prepare_half(topic_id=topic, message=NewMessage(body.encode(), **fields), check_after_ms=check_after_ms)


def decide(message_id, decision, by="producer"):
    return services.decide_half(message_id=message_id, decision=decision, by=by)[0]


def due_now(*ids):
    sql("UPDATE mq_half SET check_at = clock_timestamp() - interval '1 ms' WHERE id = ANY (%s)", list(ids))


def state(message_id):
    return services.half_message(message_id=message_id).state


def test_nobody_sees_a_half_message_and_its_id_finds_it_before_and_after_the_commit():
    topic = new_id()
    group = new_group(topic)
    half = prepare(topic, "pay", key="order-1", tag="paid", sharding_key="s", headers={"a": "b"})
    assert (half.state, half.duplicate) == ("half", False)
    assert pull(group).reason == "empty"
    found = services.message(message_id=half.id)
    assert (found.state, found.body, found.key) == ("half", b"pay", "order-1")
    assert services.message_status(message_id=half.id) == []
    done = decide(half.id, "commit")
    batch = pull(group)
    (got,) = batch.messages
    assert (got.body, got.key, got.tag, got.sharding_key, got.headers) == (b"pay", "order-1", "paid", "s", {"a": "b"})
    assert got.origin_id == half.id
    assert got.id == done.message_id > half.id
    settle(group, batch)
    found = services.message(message_id=half.id)
    assert (found.state, found.id, found.origin_id) == ("accepted", got.id, half.id)
    assert sql("SELECT octet_length(body) FROM mq_half WHERE id = %s", half.id) == 0  # it is in the log now


def test_a_decision_again_is_the_same_answer_and_the_other_one_is_refused():
    topic = new_id()
    group = new_group(topic)
    kept, dropped = prepare(topic, "kept").id, prepare(topic, "dropped").id
    first, thrown = decide(kept, "commit"), decide(dropped, "rollback")
    assert decide(kept, "commit") == first
    assert decide(dropped, "rollback") == thrown
    for message_id, decision, code in ((kept, "rollback", "already_committed"), (dropped, "commit", "already_rolled_back")):
        with pytest.raises(Problem) as refused:
            decide(message_id, decision)
        assert (refused.value.code, refused.value.status) == (code, 409)
    assert bodies(pull(group)) == ["kept"]
    with pytest.raises(Problem, match="no message"):
        services.message(message_id=dropped)
    with pytest.raises(Problem) as unknown:
        decide(new_id(), "commit")
    assert unknown.value.code == "not_found"


def test_many_decide_at_once_and_one_message_comes_of_it():
    topic = new_id()
    group = new_group(topic)
    ids = [prepare(topic, str(i)).id for i in range(20)]
    rng, said, lock = random.Random(1), {i: set() for i in ids}, threading.Lock()

    def work():
        for message_id in rng.sample(ids, len(ids)):
            decision = rng.choice(["commit", "rollback"])
            try:
                word = decide(message_id, decision).state
            except Problem as problem:
                word = {"already_committed": "committed", "already_rolled_back": "rolled_back"}[problem.code]
            with lock:
                said[message_id].add(word)

    threads = Threads()
    for _ in range(6):
        threads.start(work)
    threads.join()
    assert all(len(words) == 1 for words in said.values()), said
    committed = {str(i) for i, message_id in enumerate(ids) if said[message_id] == {"committed"}}
    batch = pull(group)
    assert set(bodies(batch)) == committed
    assert len(batch.messages) == len(committed)


def test_the_producers_own_id_stands_for_its_half_message_in_prepare_and_send():
    topic = new_id()
    group = new_group(topic)
    first = prepare(topic, "a", producer_id="order-1")
    again = prepare(topic, "a", producer_id="order-1")
    assert (again.id, again.state, again.duplicate) == (first.id, "half", True)
    (sent,) = services.send(topic_id=topic, messages=[NewMessage(b"a", producer_id="order-1")])
    assert (sent.id, sent.state, sent.duplicate) == (first.id, "half", True)
    decide(first.id, "commit")
    assert prepare(topic, "a", producer_id="order-1").state == "accepted"
    batch = services.send(topic_id=topic, messages=[NewMessage(b"a", producer_id="order-1"), NewMessage(b"b", producer_id="order-2")])
    assert [(m.state, m.duplicate) for m in batch] == [("accepted", True), ("accepted", False)]
    gone = prepare(topic, "c", producer_id="order-3").id
    decide(gone, "rollback")
    assert (prepare(topic, "c", producer_id="order-3").id, prepare(topic, "c", producer_id="order-3").state) == (gone, "rolled_back")
    (before,) = send(topic, "d", producer_id="order-4")
    assert (prepare(topic, "d", producer_id="order-4").id, prepare(topic, "d", producer_id="order-4").state) == (before, "accepted")
    assert bodies(pull(group)) == ["a", "b", "d"]


def test_with_a_delivery_time_it_is_delayed_from_its_commit_on():
    topic = new_id()
    group = new_group(topic)
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(seconds=5)
    later, now = prepare(topic, "later", deliver_at=soon).id, prepare(topic, "now", deliver_at=past).id
    assert decide(later, "commit").message_id is None
    assert decide(now, "commit").message_id is not None
    assert bodies(pull(group)) == ["now"]
    assert services.message(message_id=later).state == "delayed"
    services.reschedule_delayed(message_id=later, deliver_at=datetime.now(UTC))
    until(lambda: services.promote() or services.message(message_id=later).state == "accepted", 30)
    assert bodies(pull(group)) == ["later"]
    assert services.message(message_id=later).origin_id == later


def test_bad_input_changes_nothing():
    topic = new_id()
    for message, fields, code in (
        (NewMessage(b"x", tag="no tag"), {}, "invalid_tag"),
        (NewMessage(b"x" * (1024 * 1024 + 1)), {}, "body_too_large"),
        (NewMessage(b"x"), {"check_after_ms": 999}, "invalid_check"),
        (NewMessage(b"x"), {"check_after_ms": 86_400_001}, "invalid_check"),
        (NewMessage(b"x", deliver_at=datetime.now(UTC) + timedelta(days=4000)), {}, "delay_out_of_range"),
    ):
        with pytest.raises(Problem) as refused:
            services.prepare_half(topic_id=topic, message=message, **fields)
        assert refused.value.code == code
    assert services.half_messages(topic_id=topic).items == []


def test_a_producer_asks_for_its_open_ones_and_each_is_given_out_once_in_its_time():
    topic = new_id()
    young, old, undecided, decided = (prepare(topic, b).id for b in ("young", "old", "undecided", "decided"))
    sql("UPDATE mq_half SET prepared_at = prepared_at - interval '1 hour' WHERE id = ANY (%s)", [old, undecided, decided])
    sql("UPDATE mq_half SET state = 'U' WHERE id = %s", undecided)
    decide(decided, "rollback")
    assert [m.id for m in services.ask_for_open(topic_id=topic, limit=10)] == [old, undecided]
    assert services.ask_for_open(topic_id=topic, limit=10) == []
    sql("UPDATE mq_half SET asked_at = asked_at - interval '1 hour' WHERE topic_id = %s", topic)
    assert [m.id for m in services.ask_for_open(topic_id=topic, limit=1)] == [old]
    assert state(young) == "open"
    assert decide(undecided, "commit").state == "committed"


def test_half_messages_are_listed_and_decided_ones_forgotten_after_a_week():
    topic = new_id()
    ids = [prepare(topic, str(i)).id for i in range(5)]
    page = services.half_messages(topic_id=topic, limit=2)
    rest = services.half_messages(topic_id=topic, limit=3, cursor=page.next)
    assert [m.id for m in [*page.items, *rest.items]] == ids[::-1]
    assert rest.next is None
    decide(ids[0], "commit")
    decide(ids[1], "rollback")
    assert [m.id for m in services.half_messages(topic_id=topic, state="committed").items] == [ids[0]]
    assert len(services.half_messages(topic_id=topic).items) == 3
    sql("UPDATE mq_half SET decided_at = decided_at - interval '8 days' WHERE id = %s", ids[0])
    sql("SELECT mq_half_purge()")
    with pytest.raises(Problem):
        services.half_message(message_id=ids[0])
    assert state(ids[1]) == "rolled_back"
    assert services.message(message_id=ids[0]).state == "accepted"


# --- check-back -----------------------------------------------------------------------------------------------------------


class Callback(ThreadingHTTPServer):
    """An application's other end: `answer` gets the question and returns (status, body); `hold` keeps it silent."""

    daemon_threads = True

    def __init__(self):
        self.got, self.answer, self.hold = [], lambda _question: (200, {"decisions": []}), threading.Event()
        self.hold.set()
        self.drop = False  # hang up instead of answering
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/check"

    def decide(self, decision):
        self.answer = lambda question: (200, {"decisions": [{"id": m["id"], "decision": decision} for m in question["half_messages"]]})

    def asked(self):
        return [m["id"] for _headers, body in self.got for m in json.loads(body)["half_messages"]]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.server.hold.wait(30)
        if self.server.drop:
            return
        code, answer = self.server.answer(json.loads(body))
        sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def shop(world, settings):  # noqa: F811
    """An application with an address to be asked at, and a topic of its own."""
    settings.OUTBOUND_ALLOW, settings.OUTBOUND_HTTP = ["127.0.0.0/8"], True
    server = Callback()
    topic = world.topic()
    made, server.secret, _changed = callbacks.put(actor=world.admin, application=topic.application, url=server.url, seen=None)
    server.topic, server.callback = topic.pk, CheckBack.objects.get(pk=made.pk)
    yield server
    server.hold.set()
    made.delete()
    server.shutdown()
    server.server_close()
    sql("DELETE FROM mq_half")


def loud(shop):
    """The application may be asked again at once."""
    CheckBack.objects.filter(pk=shop.callback.pk).update(quiet_until=None)


def test_an_application_is_asked_by_a_signed_question_and_its_answer_decides(shop):
    yes, no, later = (prepare(shop.topic, b, key=b, producer_id=f"{b}-1").id for b in ("yes", "no", "later"))
    young = prepare(shop.topic, "young").id
    due_now(yes, no, later)
    words = {yes: "commit", no: "rollback", later: "unknown"}
    shop.answer = lambda question: (200, {"decisions": [{"id": m["id"], "decision": words[m["id"]]} for m in question["half_messages"]]})
    assert services.check_back() == 3
    assert [state(i) for i in (yes, no, later, young)] == ["committed", "rolled_back", "open", "open"]
    ((headers, body),) = shop.got
    assert headers["X-Mqadmin-Signature"] == "sha256=" + signature(shop.secret, headers["X-Mqadmin-Timestamp"], body)
    question = json.loads(body)
    assert question["application"] == "shop"
    assert {m["producer_id"]: m["check"] for m in question["half_messages"]} == {"yes-1": 1, "no-1": 1, "later-1": 1}
    half = services.half_message(message_id=later)
    assert half.checks == 1
    assert half.last_error
    assert half.next_check_at > datetime.now(UTC) + timedelta(seconds=10)
    assert services.half_message(message_id=yes).decided_by == "check-back"
    assert services.check_back() == 0  # not due again yet


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"decisions": []}),
        (200, b"yes"),
        (200, {"decisions": [{"id": 1, "decision": "commit"}]}),
        (200, {"decisions": "all"}),
        (200, []),
        (302, b""),
        (200, b"[" * 100_000),
    ],
)
def test_a_failing_check_back_changes_nothing_and_ends_with_a_person(shop, settings, answer):
    settings.HALF_CHECKS = 2
    first = prepare(shop.topic, "a").id
    shop.answer = lambda _question: answer
    for checks in (1, 2):
        due_now(first)
        loud(shop)
        assert services.check_back() == 1
        half = services.half_message(message_id=first)
        assert (half.state, half.checks) == ("open", checks)
        assert half.last_error
    due_now(first)
    loud(shop)
    assert services.check_back() == 0
    half = services.half_message(message_id=first)
    assert (half.state, half.next_check_at) == ("undecided", None)
    assert services.message(message_id=first).body == b"a"
    assert len(shop.got) == 2


@pytest.mark.parametrize("second", [{"decision": "rollback"}, {"decision": "maybe"}, {}])
def test_an_answer_that_is_wrong_in_part_decides_nothing(shop, second):
    first = prepare(shop.topic, "a").id
    due_now(first)
    shop.answer = lambda _question: (200, {"decisions": [{"id": first, "decision": "commit"}, {"id": first, **second}]})
    assert services.check_back() == 1
    assert state(first) == "open"


def test_a_silent_application_holds_up_no_other_and_is_left_alone_for_a_while(shop, world, monkeypatch):  # noqa: F811
    monkeypatch.setattr(checking, "BUDGET", 30.0)
    monkeypatch.setattr(checking, "TIMEOUT", 20.0)
    monkeypatch.setattr(checking, "POLL", 0.02)
    other = Callback()
    other.decide("commit")
    application = Application.objects.create(name="depot", owner=User.objects.get(username="wang"))
    made, _secret, _changed = callbacks.put(actor=world.admin, application=application, url=other.url, seen=None)
    depot = world.topic()
    type(depot).objects.filter(pk=depot.pk).update(application=application)
    mine, first, second = prepare(shop.topic).id, prepare(depot.pk).id, prepare(depot.pk).id
    shop.hold.clear()
    due_now(mine, first)
    threads = Threads()
    threads.start(services.check_back)
    until(lambda: shop.got and state(first) == "committed", 30)
    due_now(second)  # comes while the silent one is still being asked
    until(lambda: state(second) == "committed", 30)
    assert services.check_back() == 0  # one process at a time asks
    assert not connection.in_atomic_block
    assert sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%' AND datname = current_database()") == 0
    shop.drop = True
    shop.hold.set()
    threads.join()
    due_now(mine)
    assert CheckBack.objects.get(pk=shop.callback.pk).quiet_until > datetime.now(UTC)
    assert services.check_back() == 0
    made.delete()
    other.shutdown()
    other.server_close()


def test_without_an_address_time_alone_ends_with_a_person(settings):
    settings.HALF_CHECKS = 2
    first = prepare(new_id()).id
    for _ in range(3):
        due_now(first)
        assert services.check_back() == 0
    assert state(first) == "undecided"
    assert services.half_message(message_id=first).checks == 2
    decide(first, "rollback")


def test_an_answer_that_comes_too_late_is_refused_and_changes_nothing(shop):
    first = prepare(shop.topic).id
    due_now(first)

    def answer(question):
        with session() as other:  # the producer rolls back meanwhile
            other.execute("SELECT mq_half_decide(%s, false, 'producer')", (first,))
        return 200, {"decisions": [{"id": m["id"], "decision": "commit"} for m in question["half_messages"]]}

    shop.answer = answer
    assert services.check_back() == 1
    half = services.half_message(message_id=first)
    assert (half.state, half.decided_by) == ("rolled_back", "producer")


# --- killed between every two steps -----------------------------------------------------------------------------------------

# One process has Django at hand and forks a real one for each step at which it shall be killed.
HEAD = """
import os, signal, sys, django; django.setup()
from django.conf import settings
from django.db import connection, transaction
from messages import checking, services as s
from messages.types import NewMessage
topic = int(sys.argv[1])
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def step(word):
    if word == stop:
        say(stop, "stands", os.getpid())
        while True: signal.pause()
"""
TAIL = """
for stop in map(str.strip, sys.stdin):
    if os.fork() == 0:
        run()
        say(stop, "was missed", 0)
        os._exit(0)
"""
PRODUCER = """
def run():
    step("begin")
    half = s.prepare_half(topic_id=topic, message=NewMessage(stop.encode(), producer_id=stop))
    say(stop, "id", half.id)
    step("prepared")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO shop_orders (name) VALUES (%s)", [stop])
        step("in-the-order")
    step("ordered")
    with transaction.atomic():
        s.decide_half(message_id=half.id, decision="commit", by="producer")
        step("in-the-commit")
    step("committed")
"""
ASKER = """
begin, take, decide = checking._begin, checking._take, checking.decide
def _begin(*args):
    ids = begin(*args)
    if ids: step("claimed")
    return ids
def _take(*args):
    step("answered"); take(*args)
def _decide(**kwargs):
    found = decide(**kwargs); step("one-decided"); return found
checking._begin, checking._take, checking.decide = _begin, _take, _decide
run = s.check_back
"""


class Killed:
    """Processes that stand still where they are told to, and are killed -9 there."""

    def __init__(self, program, topic):
        db = connection.settings_dict
        env = {
            **os.environ, "DJANGO_SETTINGS_MODULE": "mqadmin.settings",
            "MQADMIN_OUTBOUND_ALLOW": "127.0.0.0/8", "MQADMIN_OUTBOUND_HTTP": "true",
            "DATABASE_URL": f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}",
            "MQADMIN_ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
        }  # fmt: skip
        command = [sys.executable, "-c", HEAD + program + TAIL, str(topic)]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def at(self, *stops):
        """Let one run to each of these steps, kill it there; ids of half messages that they told, by step."""
        for stop in stops:
            print(stop, file=self.process.stdin, flush=True)
        standing, ids = {}, {}
        while len(standing) < len(stops):
            stop, word, number = self.process.stdout.readline().split()
            assert word != "missed", stop
            (standing if word == "stands" else ids)[stop] = int(number)
        for pid in standing.values():
            os.kill(pid, signal.SIGKILL)
        return ids


def test_a_producer_killed_between_every_two_steps_delivers_what_it_ordered_and_nothing_else(shop):
    group = new_group(shop.topic)
    sql("CREATE TABLE IF NOT EXISTS shop_orders (name text PRIMARY KEY)")

    def answer(question):
        with session() as other:
            orders = {row[0] for row in other.execute("SELECT name FROM shop_orders").fetchall()}
        decided = [{"id": m["id"], "decision": "commit" if m["producer_id"] in orders else "rollback"} for m in question["half_messages"]]
        return 200, {"decisions": decided}

    shop.answer = answer
    steps = ["begin", "prepared", "in-the-order", "ordered", "in-the-commit", "committed"]
    with Killed(PRODUCER, shop.topic) as producers:
        prepared = producers.at(*steps)
    # What a killed session held goes once Postgres has noticed.
    until(lambda: sql("SELECT count(*) FROM pg_locks WHERE relation IN ('mq_half'::regclass, 'shop_orders'::regclass)") == 0, 30)
    assert set(prepared) == set(steps[1:])
    due_now(*prepared.values())
    services.check_back()
    wanted = {"ordered", "in-the-commit", "committed"}
    got = []

    def all_there():
        services.tick()
        batch = pull(group)
        if batch.lease:
            settle(group, batch)
            got.extend(bodies(batch))
        return len(got) >= len(wanted) or None

    until(all_there, 30)
    assert sorted(got) == sorted(wanted)
    assert {stop: state(i) for stop, i in prepared.items()} == {
        "prepared": "rolled_back", "in-the-order": "rolled_back", "ordered": "committed", "in-the-commit": "committed",
        "committed": "committed",
    }  # fmt: skip
    assert pull(group).reason == "empty"
    sql("DROP TABLE shop_orders")


def test_a_worker_killed_while_it_asks_has_changed_nothing_but_a_count(shop):
    group = new_group(shop.topic)
    shop.decide("commit")
    with Killed(ASKER, shop.topic) as workers:
        for stop, left in (("claimed", 2), ("answered", 2), ("one-decided", 1)):
            ids = [prepare(shop.topic, f"{stop} {b}").id for b in "ab"]
            due_now(*ids)
            workers.at(stop)
            until(lambda: not locked(), 30)  # the killed one's session goes once Postgres has noticed
            assert [state(i) for i in ids].count("open") == left
            assert [services.half_message(message_id=i).checks for i in ids] == [1, 1]
            due_now(*ids)
            assert services.check_back() == left
            assert [state(i) for i in ids] == ["committed", "committed"]
            batch = until(lambda: services.tick() and (found := pull(group)).lease and found, 30)
            settle(group, batch)
            assert sorted(bodies(batch)) == [f"{stop} a", f"{stop} b"]
    assert pull(group).reason == "empty"


def locked():
    return sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s", checking.LOCK)


def test_a_commit_that_is_rolled_back_with_its_transaction_leaves_it_open():
    topic = new_id()
    group = new_group(topic)
    first = prepare(topic, "a").id

    def interrupted():
        with transaction.atomic():
            decide(first, "commit")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert state(first) == "open"
    decide(first, "commit")
    assert bodies(pull(group)) == ["a"]
