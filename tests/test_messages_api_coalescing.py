"""Group commit in a live Granian: at SIGTERM everybody whose message waits for a commit is answered after it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from messages_world import world  # noqa: F401 - a fixture

from benchmarks.rest import Rest, serving
from tests.store_world import WAITING_SENDERS, session, until

SENDERS = 8
CONNECTIONS = 3


def waiting_for_the_lock():
    with session() as observer:
        return observer.execute(f"SELECT count(*) FROM {WAITING_SENDERS}").fetchone()[0]


def test_sigterm_answers_everybody_who_waits_for_a_commit(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        topic, other = world.topic(), world.group(world.topic())
        body = json.dumps({"body": "x"}).encode()
        answered = threading.Semaphore(0)

        def send(rest):
            rest.connection.request("POST", f"/api/v1/topics/{topic.name}/messages", body, rest.headers)
            response = rest.connection.getresponse()
            answer = json.loads(response.read())
            answered.release()
            return response.status, answer["messages"][0]["id"]

        with ThreadPoolExecutor(SENDERS + 1) as threads, session(autocommit=False) as lock:
            serves = serving(threads=SENDERS + 4, connections=CONNECTIONS)
            port = serves.__enter__()
            clients = [Rest(port, world.secret) for _ in range(SENDERS)]
            Rest(port, world.secret).post(f"topics/{topic.name}/messages", body)  # everything is loaded
            lock.execute("LOCK TABLE mq_message IN EXCLUSIVE MODE")
            sent = [threads.submit(send, rest) for rest in clients]
            until(lambda: waiting_for_the_lock() == 1)
            # more senders than connections, and yet another request is served: those who wait hold none
            pulled = Rest(port, world.secret).post(f"consumer-groups/{other.name}/pull", b"{}")
            assert json.loads(pulled)["reason"] == "empty"
            assert waiting_for_the_lock() == 1
            ends = threads.submit(serves.__exit__, None, None, None)
            with pytest.raises(TimeoutError):
                ends.result(timeout=0.5)  # it waits for those who wait
            assert not answered.acquire(blocking=False)
            lock.rollback()
            found = [s.result(timeout=10) for s in sent]
            ends.result(timeout=15)
        assert [status for status, _id in found] == [201] * SENDERS
        with session() as looked:
            ids = [message_id for _status, message_id in found]
            stored = looked.execute("SELECT count(*), count(DISTINCT xmin::text) FROM mq_message WHERE id = ANY (%s)", (ids,)).fetchone()
        assert stored[0] == SENDERS
        assert stored[1] < SENDERS, "nothing was shared"  # 2, if all had come before the lock went
