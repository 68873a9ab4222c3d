"""Delivery by webhook, to a real receiver in a process of its own: what it gets, in which order, how often, and who is held up."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from celery import current_app
from django.conf import settings as live
from django.db import connection
from messages_world import world  # noqa: F401 - fixture
from store_world import counts, send, sql, status
from store_world import until as until_soon

from clusters.drivers import builtin
from consumers import push
from consumers.models import ConsumerGroup
from core.approvals.outbox import signature
from messages import pushing, services, tasks

until = partial(until_soon, seconds=30)
CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker, settings):  # noqa: F811
    settings.OUTBOUND_ALLOW, settings.OUTBOUND_HTTP = ["127.0.0.1/32"], True
    with django_db_blocker.unblock():
        yield
        ConsumerGroup.objects.exclude(push_url="").update(push_url="")  # nobody else's rounds begin with it


class Hook:
    """A running receiver."""

    def __init__(self):
        script = Path(__file__).with_name("receiver.py")
        self.process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.base}/hook"

    def rule(self, **rules):
        httpx.post(f"{self.base}/control", json=rules, trust_env=False)

    def _seen(self):
        return httpx.get(f"{self.base}/log", trust_env=False).json()

    @property
    def log(self):
        found = self._seen()["log"]
        for entry in found:
            entry["message"] = json.loads(entry["body"])["message"]
        return found

    @property
    def most(self):
        return self._seen()["most"]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.end()


@pytest.fixture
def made(world, hook):  # noqa: F811
    return pushed(world, hook.url)


def pushed(world, url, *, max_attempts=3, **fields):  # noqa: F811
    """A topic and an active group with a webhook."""
    topic = world.topic()
    group = world.group(topic, max_attempts=max_attempts)
    ConsumerGroup.objects.filter(pk=group.pk).update(push_url=url, **fields)
    group.refresh_from_db()
    push.ensure_secret(group)
    return SimpleNamespace(topic=topic, group=group, id=group.pk)


def ready(group_id):
    """Whether a pull would find something: what was sent is closed by a tick."""
    services.tick()
    return group_id in pushing.due()


def sent(made, *bodies, **fields):
    ids = send(made.topic.pk, *bodies, **fields)
    until(lambda: ready(made.id))
    return ids


def row(group_id):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT delivered, failed, misses, quiet_until > clock_timestamp(), error FROM mq_push WHERE group_id = %s", [group_id]
        )
        return SimpleNamespace(**dict(zip(("delivered", "failed", "misses", "quiet", "error"), cursor.fetchone(), strict=True)))


# --- what the receiver gets ---------------------------------------------------------------------------------------------


def test_a_message_is_posted_signed_and_succeeded(made, hook):
    [number] = sent(made, "订单 1", key="order-1", tag="paid", headers={"x-tenant": "cn"})
    assert pushing.deliver(group_id=made.id) == 1
    [got] = hook.log
    assert got["message"] | {"sent_at": "…"} == {
        "id": number, "topic": made.topic.name, "key": "order-1", "tag": "paid", "sharding_key": None, "headers": {"x-tenant": "cn"},
        "attempt": 1, "sent_at": "…", "origin_id": None, "body": "订单 1",
    }  # fmt: skip
    said = {name: got["headers"][name] for name in got["headers"] if name.startswith("X-Mqadmin")}
    stamp = said.pop("X-Mqadmin-Timestamp")
    assert said == {
        "X-Mqadmin-Event": "message", "X-Mqadmin-Group": made.group.name, "X-Mqadmin-Topic": made.topic.name,
        "X-Mqadmin-Message": str(number), "X-Mqadmin-Attempt": "1",
        "X-Mqadmin-Signature": "sha256=" + signature(push.signing_secrets(made.id)[0], stamp, got["body"].encode()),
    }  # fmt: skip
    assert got["headers"]["Content-Type"] == "application/json"
    assert counts(made.id) == {"succeeded": 1}
    found = status(number, made.id)
    assert (found.status, found.consumer) == ("succeeded", "webhook")
    assert (row(made.id).delivered, row(made.id).failed) == (1, 0)


def test_the_example_of_the_documentation_verifies_it(made, hook):
    sent(made, "x")
    old = push.signing_secrets(made.id)[0]
    new = push.renew_secret(actor=made.group.owner, group=made.group)
    pushing.deliver(group_id=made.id)
    [got] = hook.log
    page = (CHECKOUT / "docs" / "message-store.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?def verify.*?)```", page, re.DOTALL)[1], names)
    headers, body = {name.lower(): value for name, value in got["headers"].items()}, got["body"].encode()
    assert names["verify"](new, headers, body)
    assert names["verify"](old, headers, body)  # for a day
    assert not names["verify"]("another", headers, body)
    assert not names["verify"](new, headers, body + b" ")
    assert not names["verify"](new, {**headers, "x-mqadmin-timestamp": "1"}, body)
    push.PushSecret.objects.filter(group=made.group).update(renewed_at="2026-01-01T00:00:00Z")
    assert push.signing_secrets(made.id) == [new]


def test_bytes_travel_as_base64(made, hook):
    services.send(topic_id=made.topic.pk, messages=[pushing_message(b"\xff\x00")])
    until(lambda: ready(made.id))
    pushing.deliver(group_id=made.id)
    [got] = hook.log
    assert got["message"]["body_base64"] == "/wA="
    assert "body" not in got["message"]


def pushing_message(body):
    from messages.types import NewMessage

    return NewMessage(body=body)


# --- failures -----------------------------------------------------------------------------------------------------------


def test_what_is_refused_is_tried_again_and_dead_at_the_limit(world, hook):  # noqa: F811
    made = pushed(world, hook.url, max_attempts=2)
    hook.rule(status=500)
    [number] = sent(made, "x")
    until(lambda: pushing.deliver(group_id=made.id) or counts(made.id) == {"dead": 1})
    assert counts(made.id) == {"dead": 1}
    assert [got["message"]["attempt"] for got in hook.log] == [1, 2]
    assert status(number, made.id).last_error == "The receiver answered 500."
    found = pushing.state(made.group)
    assert (found.failed, found.recent_failed, found.error, found.failure_rate) == (2, 2, "The receiver answered 500.", 1.0)


def test_a_redirection_is_not_followed(made, hook):
    hook.rule(status=302, location=f"{hook.base}/elsewhere")
    [number] = sent(made, "x")
    pushing.deliver(group_id=made.id)
    assert status(number, made.id).last_error == "The receiver answered 302."


def test_an_address_that_is_not_allowed_any_more_is_not_connected_to(made, hook, settings):
    [number] = sent(made, "x")
    settings.OUTBOUND_ALLOW = []
    pushing.deliver(group_id=made.id)
    assert hook.log == []
    assert "not allowed" in status(number, made.id).last_error
    assert row(made.id).quiet


def test_who_does_not_answer_is_left_in_peace_and_holds_up_nobody(world, made, hook):  # noqa: F811
    """The others are delivered while it is quiet; then one message is tried, and when that goes through all of them."""
    silent = pushed(world, hook.url, push_timeout_ms=300, push_concurrency=2)
    hook.rule(hold=True)
    numbers = sent(silent, *[f"m{i}" for i in range(12)])
    tried = pushing.deliver(group_id=silent.id)
    assert 1 <= tried <= 2
    assert (row(silent.id).misses, row(silent.id).quiet) == (1, True)
    assert pushing.state(silent.group).state == "quiet"
    assert silent.id not in pushing.due()
    assert pushing.deliver(group_id=silent.id) == 0
    hook.rule(hold=False)
    sent(made, "of another group")
    assert pushing.due() == [made.id]
    assert pushing.deliver(group_id=made.id) == 1

    hook.rule(hold=True)
    sql("UPDATE mq_push SET quiet_until = '-infinity' WHERE group_id = %s", silent.id)
    assert pushing.deliver(group_id=silent.id) == 1
    assert row(silent.id).misses == 2
    hook.rule(hold=False)
    sql("UPDATE mq_push SET quiet_until = '-infinity' WHERE group_id = %s", silent.id)

    def all_through():
        pushing.deliver(group_id=silent.id)
        return counts(silent.id) == {"succeeded": len(numbers)}

    until(all_through)
    assert (row(silent.id).misses, row(silent.id).quiet) == (0, False)


def test_a_secret_that_no_key_opens_is_shown_as_the_error(made, hook):
    sent(made, "x")
    sql("UPDATE consumers_pushsecret SET secret = 'gAAAA' WHERE group_id = %s", made.id)
    assert pushing.deliver(group_id=made.id) == 0
    assert (row(made.id).quiet, row(made.id).error[:6]) == (True, "No key")
    assert hook.log == []
    assert counts(made.id) == {"waiting": 1}


def test_who_says_that_it_is_overloaded_is_left_in_peace_too(made, hook):
    hook.rule(status=503)
    sent(made, "x")
    pushing.deliver(group_id=made.id)
    assert row(made.id).quiet


# --- many at once -------------------------------------------------------------------------------------------------------


def test_as_many_at_once_as_the_group_wants_and_no_more(world, hook):  # noqa: F811
    made = pushed(world, hook.url, push_concurrency=3)
    hook.rule(together=3, delay=0.02)  # nobody is answered before three are there
    sent(made, *[f"m{i}" for i in range(12)])
    assert pushing.deliver(group_id=made.id) == 12
    assert hook.most == 3
    assert counts(made.id) == {"succeeded": 12}


def test_messages_of_one_key_go_one_after_the_other(world, hook):  # noqa: F811
    made = pushed(world, hook.url, push_concurrency=8)
    hook.rule(delay=0.01)
    for i in range(6):
        for key in ("a", "b", "c"):
            send(made.topic.pk, f"{key}{i}", sharding_key=key)
    until(lambda: ready(made.id))
    while counts(made.id) != {"succeeded": 18}:
        pushing.deliver(group_id=made.id)
    for key in ("a", "b", "c"):
        own = [got for got in hook.log if got["message"]["sharding_key"] == key]
        assert [got["message"]["body"] for got in own] == [f"{key}{i}" for i in range(6)]
        assert all(before["end"] <= after["begin"] for before, after in pairwise(own))


def test_no_transaction_is_open_and_no_lock_held_while_the_receiver_thinks(made, hook):
    hook.rule(hold=True)
    sent(made, "x")
    thread = threading.Thread(target=_in_thread, args=(made.id,))
    thread.start()
    try:
        until(lambda: hook.log)
        idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%%'"
        assert sql(idle) == 0
        assert sql("SELECT group_id FROM mq_group WHERE group_id = %s FOR UPDATE NOWAIT", made.id) == made.id
        assert pushing.state(made.group).state == "delivering"
        assert pushing.deliver(group_id=made.id) == 0  # another process has it
    finally:
        hook.rule(hold=False)
        thread.join(30)
    assert counts(made.id) == {"succeeded": 1}


def _in_thread(group_id):
    try:
        pushing.deliver(group_id=group_id)
    finally:
        connection.close()


def test_what_waits_too_long_for_its_lane_is_given_back_without_an_attempt(world, hook, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pushing, "MARGIN", pushing.RESOLVE - 0.1)  # a lease is as long as two deliveries, hardly more
    made = pushed(world, hook.url, push_concurrency=2, push_timeout_ms=1000)
    hook.rule(delay=0.9)
    numbers = [number for i in range(4) for number in send(made.topic.pk, f"m{i}", sharding_key="k")]
    until(lambda: ready(made.id))
    pushing.deliver(group_id=made.id)
    until(lambda: pushing.deliver(group_id=made.id) or counts(made.id) == {"succeeded": 4})
    assert [got["message"]["attempt"] for got in hook.log] == [1] * len(hook.log)
    assert {got["message"]["id"] for got in hook.log} == set(numbers)


# --- workers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(world):  # noqa: F811
    """A Celery worker on the queue of deliveries, on the test's database."""
    there = connection.settings_dict
    password = f":{there['PASSWORD']}" if there["PASSWORD"] else ""
    environment = {
        **os.environ,
        "DATABASE_URL": f"postgres://{there['USER']}{password}@{there['HOST']}:{there['PORT']}/{there['NAME']}",
        "MQADMIN_OUTBOUND_ALLOW": "127.0.0.1/32",
        "MQADMIN_OUTBOUND_HTTP": "true",
        "MQADMIN_ENCRYPTION_KEYS": ",".join(live.ENCRYPTION_KEYS),
    }
    command = [
        sys.executable, "-m", "celery", "-A", "mqadmin", "--quiet", "--skip-checks", "worker", "--queues", "push", "--pool", "threads",
        "--concurrency", "4", "--without-gossip", "--without-mingle", "--loglevel", "ERROR",
    ]  # fmt: skip
    with current_app.connection_for_write() as broker:
        broker.default_channel.queue_purge("push")
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, start_new_session=True)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(180)
def test_a_worker_that_is_killed_in_the_middle_delivers_again_after_the_lease(worker, world, hook):  # noqa: F811
    made = pushed(world, hook.url, push_timeout_ms=30_000)

    def called():
        services.tick()
        tasks.push()

    send(made.topic.pk, "first")
    until(lambda: called() or counts(made.id) == {"succeeded": 1}, seconds=90)
    hook.rule(hold=True)
    [number] = send(made.topic.pk, "second")
    until(lambda: called() or number in [got["message"]["id"] for got in hook.log])
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    hook.rule(hold=False)
    assert status(number, made.id).status == "processing"
    assert made.id not in pushing.due()  # its claim and its lease end by themselves; here time passes at once
    sql("UPDATE mq_push SET claimed_until = clock_timestamp() WHERE group_id = %s", made.id)
    sql("UPDATE mq_lease SET lease_until = clock_timestamp() WHERE group_id = %s", made.id)
    services.expire()
    until(lambda: pushing.deliver(group_id=made.id) or status(number, made.id).status == "succeeded")
    assert [got["message"]["body"] for got in hook.log] == ["first", "second", "second"]
    assert counts(made.id) == {"succeeded": 2}


def test_a_call_without_anything_to_do_calls_nobody(made, monkeypatch):
    called = []
    monkeypatch.setattr(tasks.push_group, "apply_async", lambda arguments, **_more: called.append(arguments))
    assert tasks.push() == 0
    sent(made, "x")
    monkeypatch.setattr(tasks, "_queued", lambda: tasks.MAX_QUEUED)  # no worker takes them: they must not fill the broker
    assert tasks.push() == 0
    assert called == []
    monkeypatch.setattr(tasks, "_queued", lambda: 0)
    assert tasks.push() == 1
    assert called == [(made.id,)]
    ConsumerGroup.objects.filter(pk=made.id).update(suspended=True)
    assert tasks.push() == 0
    assert pushing.deliver(group_id=made.id) == 0


def test_messages_that_nobody_delivers_are_shown(made):
    assert pushing.state(made.group).state == "idle"
    sent(made, "x")
    sql("UPDATE mq_group SET created_at = clock_timestamp() - interval '1 minute' WHERE group_id = %s", made.id)
    assert pushing.state(made.group).state == "unserved"


@pytest.mark.parametrize("ordering", ["key", "topic"])
def test_an_ordered_topic_keeps_its_order_over_failures(made, hook, ordering):
    builtin.set_ordering(topic_id=made.topic.pk, ordering=ordering)
    builtin.set_exhaustion(group_id=made.id, stop_key=True)
    for i in range(4):
        for key in ("a", "b"):
            send(made.topic.pk, f"{key}{i}", sharding_key=key)
    until(lambda: ready(made.id))
    hook.rule(status=500)
    pushing.deliver(group_id=made.id)
    assert {got["message"]["body"] for got in hook.log} <= ({"a0", "b0"} if ordering == "key" else {"a0"})  # nothing behind a failure
    hook.rule(status=200)
    before = len(hook.log)
    stopped = [one.message_id for one in services.stopped_keys(group_id=made.id)]
    services.decide_stopped(group_id=made.id, ids=stopped, decision="retry", reason="tests")
    until(lambda: pushing.deliver(group_id=made.id) is not None and counts(made.id) == {"succeeded": 8})
    taken = [got["message"]["body"] for got in hook.log[before:]]
    assert len(taken) == 8
    for key in ("a", "b"):
        assert [body for body in taken if body[0] == key] == [f"{key}{i}" for i in range(4)]
    if ordering == "topic":
        assert taken == [f"{key}{i}" for i in range(4) for key in ("a", "b")]
