"""A part is away: reads, edits and sends go on, publication waits and says so, readiness names the part, and nothing is lost afterwards."""

import os
import signal
import time

import httpx
import pytest
import soak
from kazoo.client import KazooClient
from supervised import Supervisor, environment, free_port, processes_of, wait_for

from mqadmin.demo import read_settings

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
ROUNDS = int(os.environ.get("MQADMIN_SOAK", "4"))
TOPIC = {"name": "t", "application": "shop", "expected_rate": 1, "message_bytes": 100, "partitions": 1, "reason": "test"}


class Running:
    """What `make run` started, with the API in the name of both people."""

    def __init__(self, home):
        self.home = home
        self.supervisor = Supervisor("run", env=environment(home, free_port()))
        try:
            self.supervisor.wait_for("mqadmin is at http", 120)
        except BaseException:
            self.supervisor.end()
            raise
        self.settings = read_settings(home / "credentials.env")
        self.env = read_settings(home / "env")
        self.url = self.settings["MQADMIN_URL"]
        self.client = httpx.Client(timeout=20)

    def call(self, method, path, body=None, person="ADMIN"):
        headers = {"Authorization": f"Token {self.settings[f'MQADMIN_{person}_TOKEN']}"}
        return self.client.request(method, f"{self.url}/api/v1/{path}", json=body, headers=headers)

    def ok(self, *arguments, **more):
        response = self.call(*arguments, **more)
        assert response.is_success, response.text
        return response.json()

    def pid(self, *words):
        found = [pid for pid, title in processes_of(self.home).items() if all(word in title for word in words)]
        assert found, (words, processes_of(self.home))
        return min(found)

    def ready(self):
        return self.client.get(f"{self.url}/readyz").json()

    def node(self, path):
        zookeeper = KazooClient(self.env["ZOOKEEPER_HOSTS"])
        zookeeper.start(timeout=15)
        try:
            return zookeeper.get(path)[0]
        finally:
            zookeeper.stop()
            zookeeper.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One instance for the module: each test leaves it whole."""
    instance = Running(tmp_path_factory.mktemp("faults") / "home")
    try:
        instance.ok("POST", "applications", {"name": "shop"})
        instance.ok("POST", "topics", TOPIC)
        instance.ok("POST", "topics/t/approval", {"cluster": "builtin"}, person="OPERATOR")
        instance.ok("POST", "consumer-groups", {"name": "g", "application": "shop", "subscriptions": [{"topic": "t"}], "reason": "test"})
        instance.ok("POST", "consumer-groups/g/approval", {}, person="OPERATOR")
        instance.ok("POST", "clusters", {"name": "k", "kind": "kafka", "address": "10.0.0.1:9092"})
        yield instance
    finally:
        instance.client.close()
        instance.supervisor.end()


class stopped:  # noqa: N801 - reads as a word
    """A process frozen by SIGSTOP while the block runs: connections stay open, nothing answers."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_error):
        os.kill(self.pid, signal.SIGCONT)


def test_with_zookeeper_frozen_a_topic_is_edited_and_published_afterwards(running):
    wait_for(lambda: running.ok("GET", "topics/t")["status"]["state"] == "published", 20, "the first publication")
    with stopped(running.pid("ZooKeeperServerMain")):
        time.sleep(1)
        began = time.monotonic()
        moved = running.ok("POST", "topics/t/moves", {"cluster": "k", "reason": "while ZooKeeper is away"})
        running.ok("POST", "topics/t/moves", {"cluster": "builtin", "reason": "and back"})
        sent = running.ok("POST", "topics/t/messages", {"body": "while ZooKeeper is away"})
        assert time.monotonic() - began < 10
        assert moved["status"]["state"] in {"pending", "failing"}
        wait_for(lambda: "zookeeper" in running.ready()["missing"], 40, "readiness naming ZooKeeper")
        assert running.ok("GET", "topics/t")["status"]["published_generation"] == 1
    assert sent["messages"][0]["id"]
    wait_for(lambda: running.ok("GET", "topics/t")["status"]["state"] == "published", 60, "publication after the outage")
    assert b"clusterName=builtin\n" in running.node("/zms/topic/t")
    assert b"mqadmin.generation=3\n" in running.node("/zms/topic/t")
    wait_for(lambda: running.ready()["missing"] == [], 40, "readiness")


def test_with_redis_frozen_sends_and_edits_go_on_and_delayed_messages_come_afterwards(running):
    drain(running)
    with stopped(running.pid("redis-server")):
        time.sleep(1)
        running.ok("POST", "topics/t/messages", {"body": "at once"})
        running.ok("POST", "topics/t/messages", {"body": "delayed", "delay_ms": 1000})
        running.ok("POST", "consumer-groups/g/suspension", {"reason": "while Redis is away"})
        running.ok("POST", "consumer-groups/g/resumption", {})
        assert taken(running, 5000) == ["at once"]
        wait_for(lambda: "celery_broker" in running.ready()["missing"], 30, "readiness naming the broker")
    assert taken(running, 30000) == ["delayed"]
    wait_for(lambda: running.ready()["missing"] == [], 40, "readiness")


@pytest.mark.parametrize(
    "words",
    [
        ("registrar",),
        ("storekeeper",),
        ("manage.py", "beat"),
        ("celery", "--concurrency 2"),
        ("push@",),
        ("granian",),
        ("redis-server",),
        ("ZooKeeperServerMain",),
    ],
)
def test_after_kill_9_of_any_process_the_work_goes_on(running, words):
    drain(running)
    os.kill(running.pid(*words), signal.SIGKILL)
    time.sleep(0.2)
    wait_for(lambda: answers(running) and running.ready()["missing"] == [], 60, "readiness after the kill")
    running.ok("POST", "topics/t/messages", {"body": "again", "delay_ms": 300})
    assert taken(running, 30000) == ["again"]


@pytest.mark.timeout(600 + 60 * ROUNDS)
def test_under_load_and_faults_nothing_accepted_is_lost_and_nothing_acked_comes_back(running):
    """As many rounds as `make soak` asks for; here the four faults that hit what is being written."""
    seed = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}")
    ledger = soak.run(running, rounds=ROUNDS, seed=seed)
    assert len(ledger.accepted) > 100
    assert ledger.repeated, "no request was hit by a fault: this proves nothing"


def answers(running):
    try:
        return running.client.get(f"{running.url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def taken(running, wait_ms):
    """The bodies that come next, acked at once: on a slow machine a lease would end before the next test."""
    hand = running.ok("POST", "consumer-groups/g/pull", {"max": 10, "wait_ms": wait_ms})
    acks = [{"lease": hand["lease"], "id": message["id"], "status": "succeeded"} for message in hand["messages"]]
    if acks:
        running.ok("POST", "consumer-groups/g/acks", {"acks": acks})
    return [message["body"] for message in hand["messages"]]


def drain(running):
    """Settle what earlier tests left."""
    hand = {}
    while True:
        answer = running.ok("POST", "consumer-groups/g/next", {"max": 100, "wait_ms": 500, **hand})
        if not answer.get("lease"):
            return
        hand = {"lease": answer["lease"], "acks": [{"id": message["id"], "status": "succeeded"} for message in answer["messages"]]}
