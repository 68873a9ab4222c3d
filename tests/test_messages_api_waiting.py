"""Long polls against a live Granian: a send wakes the waiting pull, and those who wait hold no connection to the database."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from messages_world import world  # noqa: F401 - a fixture

from benchmarks.rest import Rest, serving
from tests.store_world import until

WAITING = 10
CONNECTIONS = 3


@pytest.mark.django_db
def test_a_wait_must_be_bounded(api):
    """The mark prepares the database for this module."""
    assert api("POST", "consumer-groups/any/pull", {"wait_ms": 30_001}).body["code"] == "invalid"


@pytest.fixture(scope="module")
def web(world, django_db_blocker):  # noqa: F811
    """A web process with few connections, and a storekeeper that ticks."""
    from messages.storekeeper import Storekeeper

    with django_db_blocker.unblock():
        keeper = Storekeeper()
        ticking = threading.Thread(target=keeper.run)
        ticking.start()
        try:
            with serving(threads=WAITING + 8, connections=CONNECTIONS) as port:
                yield port
        finally:
            keeper.stop()
            ticking.join()


def post(port, secret, path, fields):
    started = time.monotonic()
    rest = Rest(port, secret)
    answer = json.loads(rest.post(path, json.dumps(fields).encode()))
    rest.connection.close()
    return answer, time.monotonic() - started


def connections_of_web():
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()"
            " AND (state <> 'active' OR now() - query_start > interval '1 second')"
        )
        return cursor.fetchone()[0]


def test_a_send_wakes_one_who_waits_and_nobody_holds_a_connection(world, web, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        topic = world.topic()
        groups = [world.group(topic) if i == 0 else world.group(world.topic()) for i in range(WAITING)]
        with ThreadPoolExecutor(WAITING) as threads:
            waits = [
                threads.submit(post, web, world.secret, f"consumer-groups/{group.name}/pull", {"wait_ms": 20_000 if i == 0 else 6000})
                for i, group in enumerate(groups)
            ]
            time.sleep(1.5)
            assert not any(wait.done() for wait in waits)
            assert connections_of_web() == 0  # idle in the pool or in LISTEN, none in a transaction or at work
            # more wait than there are connections, and yet others are served
            sent, _spent = post(web, world.secret, f"topics/{topic.name}/messages", {"body": "wake up"})
            assert not any(wait.done() for wait in waits[1:])
            found, waited = waits[0].result(timeout=30)
            assert waited < 20
            assert [m["id"] for m in found["messages"]] == [sent["messages"][0]["id"]]
            for wait in waits[1:]:
                empty, waited = wait.result(timeout=30)
                assert (empty["messages"], empty["reason"]) == ([], "empty")
                assert waited > 5.5


def test_next_waits_too_after_it_has_settled(world, web, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        topic = world.topic()
        group = world.group(topic)
        path = f"consumer-groups/{group.name}/next"
        first, _spent = post(web, world.secret, f"topics/{topic.name}/messages", {"body": "one"})
        taken, _spent = post(web, world.secret, path, {"wait_ms": 5000})
        assert [m["id"] for m in taken["messages"]] == [first["messages"][0]["id"]]
        with ThreadPoolExecutor(1) as threads:
            acks = [{"id": first["messages"][0]["id"], "status": "succeeded"}]
            waiting = threads.submit(post, web, world.secret, path, {"lease": taken["lease"], "acks": acks, "wait_ms": 20_000})
            time.sleep(0.5)
            second, _spent = post(web, world.secret, f"topics/{topic.name}/messages", {"body": "two"})
            found, waited = waiting.result(timeout=40)
        assert [ack["status"] for ack in found["acks"]] == ["succeeded"]
        assert [m["id"] for m in found["messages"]] == [second["messages"][0]["id"]]
        assert waited < 20


def test_who_finds_all_places_taken_is_told_so_and_what_was_settled_stands(world, monkeypatch, django_db_blocker):  # noqa: F811
    from messages import services, waiting

    full = waiting.Lobby(0)
    monkeypatch.setattr(waiting, "lobby", lambda: full)
    with django_db_blocker.unblock():
        topic = world.topic()
        group = world.group(topic)
        pull, next_ = f"consumer-groups/{group.name}/pull", f"consumer-groups/{group.name}/next"
        answer = world.api("POST", pull, {"wait_ms": 5000})
        assert (answer.status_code, answer.body["code"], answer["Retry-After"]) == (429, "too_many_waiting", "2")
        assert world.api("POST", pull, {}).body["reason"] == "empty"  # who does not want to wait takes no place
        assert world.api("POST", f"topics/{topic.name}/messages", {"body": "x"}).status_code == 201
        services.tick()
        taken = until(lambda: batch if (batch := world.api("POST", pull, {}).body)["lease"] else None)
        acks = [{"id": taken["messages"][0]["id"], "status": "succeeded"}]
        answer = world.api("POST", next_, {"lease": taken["lease"], "acks": acks, "wait_ms": 5000})
    assert (answer.status_code, answer.body["reason"], answer["Retry-After"]) == (200, "crowded", "2")
    assert [ack["status"] for ack in answer.body["acks"]] == ["succeeded"]


def test_sigterm_answers_those_who_wait(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock(), serving(threads=WAITING + 8, connections=CONNECTIONS) as port:
        group = world.group(world.topic())
        with ThreadPoolExecutor(WAITING) as threads:
            path = f"consumer-groups/{group.name}/pull"
            waits = [threads.submit(post, port, world.secret, path, {"wait_ms": 30_000}) for _ in range(WAITING)]
            until(listening, 20)  # then somebody is parked; who comes a little later finds the lobby closed and is answered as well
            os.kill(server_of(port), signal.SIGTERM)
            for wait in waits:
                empty, waited = wait.result(timeout=25)
                assert (empty["messages"], empty["reason"]) == ([], "empty")
                assert waited < 25  # of the 30 that they had asked for


def listening():
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT * FROM mq_ready%%'")
        return cursor.fetchone()[0]


def server_of(port):
    """The process of the web server that this test has started."""
    for children in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in children.read_text().split():
            if f"--port\0{port}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise AssertionError(port)
