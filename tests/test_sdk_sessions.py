"""The SDK in a process of its own, whatever becomes of its session: the right state afterwards, its instance owned by the new session."""

import contextlib
import json
import os
import signal
import sys
import time

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from registry_world import Lines, wait_for
from test_sdk_client import later, running
from zookeeper_server import zookeeper_server  # noqa: F401

PROGRAM = """
import sys, threading, time
from mqadmin_sdk import Client

client = Client(zookeeper=sys.argv[1], app="order-service", session_timeout=float(sys.argv[2]), ip="10.0.0.1")
zookeeper = client._follower.connection.get()


def state(now):
    if now == "CONNECTED":
        print("session", f"{zookeeper.session:x}", zookeeper._session_passwd.hex(), time.time(), flush=True)


zookeeper.add_listener(state)
client.watch_topic("orders", lambda now: print("applied", now and now.generation, flush=True))
client.watch_shadow(lambda now: print("shadow", now.running, now.reason, flush=True), groups=["billing"])
print("ready", flush=True)
threading.Event().wait()
"""


class Process:
    """An application on the SDK, and what an independent client sees of it."""

    def __init__(self, server, session_timeout=2):
        self.server = server
        self.lines = Lines([sys.executable, "-c", PROGRAM, server.hosts, str(session_timeout)], dict(os.environ))
        self.lines.expect("ready")
        self.raw = None

    def look(self):
        """An independent client; none of it outlives a server that is stopped."""
        self.close_raw()
        self.raw = KazooClient(self.server.hosts, timeout=10)
        self.raw.start(timeout=30)
        return self.raw

    def session(self):
        """The session that it said to be in last, and when."""
        _word, number, password, at = [line for line in self.lines.seen if line.startswith("session ")][-1].split()
        return int(number, 16), bytes.fromhex(password), float(at)

    def instance(self):
        """Name, report and stat of its one instance, or None."""
        with contextlib.suppress(NoNodeError, KazooException):
            names = self.raw.get_children("/zms/topic/orders")
            if len(names) == 1:
                data, stat = self.raw.get(f"/zms/topic/orders/{names[0]}")
                return names[0], json.loads(data), stat
        return None

    def settled(self, generation, *, after=0):
        """Wait until its one instance reports this generation, in the session that it is in, which is another than `after`."""

        def found():
            seen = self.instance()
            now = self.session()[0]
            return seen if seen and seen[1]["generation"] == generation and seen[2].ephemeralOwner == now != after else None

        seen = wait_for(found, what=f"an instance at generation {generation} in a new session")
        took = seen[2].ctime / 1000 - self.session()[2]
        print(f"owned by the new session {took:.3f} s after reconnecting")
        if "MQADMIN_SOAK" in os.environ:
            assert took < 1
        return seen

    def close_raw(self):
        if self.raw is not None:
            with contextlib.suppress(Exception):
                self.raw.stop()
                self.raw.close()
            self.raw = None


def topic(raw, generation):
    for path, text in (
        ("/zms/cluster/a", "bootAddr=h\nbrokerType=kafka\n"),
        ("/zms/topic/orders", f"clusterName=a\ntype=topic\ngatedIps=\ngatedCluster=\nmqadmin.generation={generation}\n"),
    ):
        raw.ensure_path(path.rpartition("/")[0])
        if raw.exists(path):
            raw.set(path, text.encode())
        else:
            raw.create(path, text.encode())


def shadow(raw, seconds):
    document = {"enable": "1", "task": "stress", "group": "billing", "topic": "orders", "leaseUntil": later(seconds), "generation": 1}
    raw.ensure_path("/zpt/order-service/stress")
    raw.create("/zpt/order-service/stress/billing", json.dumps(document).encode())


@pytest.fixture
def program(request, zookeeper_server):  # noqa: F811
    """A process that follows a topic in its first generation; the parameter is its session's time-out."""
    found = Process(zookeeper_server, getattr(request, "param", 2))
    topic(found.look(), 1)
    found.lines.expect("applied 1")
    found.settled(1)
    yield found
    found.close_raw()
    found.lines.end()
    print("\n".join(found.lines.seen[-40:]))


def test_started_while_zookeeper_is_away(zookeeper_server):  # noqa: F811
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=30)
    topic(raw, 7)
    raw.stop()
    raw.close()
    zookeeper_server.kill()
    process = Process(zookeeper_server)
    try:
        assert process.lines.process.poll() is None
        zookeeper_server.start()
        process.lines.expect("applied 7")
        process.look()
        process.settled(7)
    finally:
        process.close_raw()
        process.lines.end()


def test_a_session_that_is_ended_for_it(program):
    """As an administrator, or a server that counts differently, may do it."""
    number, password, _at = program.session()
    name = program.instance()[0]

    def ended():  # the process takes its session back within moments: then once more
        thief = KazooClient(program.server.hosts, timeout=2, client_id=(number, password))
        with contextlib.suppress(thief.handler.timeout_exception):
            thief.start(timeout=30)
        thief.stop()
        thief.close()
        return program.session()[0] != number

    wait_for(ended, what="the end of the session")
    topic(program.raw, 2)
    seen = program.settled(2, after=number)
    assert seen[0] == name
    program.lines.expect("applied 2")


def test_frozen_past_its_session_and_resumed(program):
    number = program.session()[0]
    shadow(program.raw, 3)
    program.lines.expect("shadow True")
    wait_for(lambda: running(program.raw), what="the shadow consumer")
    program.lines.signal(signal.SIGSTOP)
    wait_for(lambda: program.raw.get_children("/zms/topic/orders") == [], what="the end of its session")
    topic(program.raw, 2)
    topic(program.raw, 3)
    frozen_until = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > frozen_until)  # the lease has passed as well
    program.lines.signal(signal.SIGCONT)
    program.settled(3, after=number)
    program.lines.expect("shadow False lease")
    assert "applied 2" not in program.lines.seen
    wait_for(lambda: not running(program.raw), what="the shadow consumer to be gone")


@pytest.mark.parametrize(
    ("program", "longer"), [(30, False), (2, True)], ids=["for a moment", "for longer than its session"], indirect=["program"]
)
def test_the_server_stops_and_starts(program, longer):
    number, _password, at = program.session()
    program.close_raw()
    program.server.kill()
    if longer:
        until = time.monotonic() + 4
        wait_for(lambda: time.monotonic() > until)
    program.server.start()
    wait_for(lambda: program.session()[2] > at, what="a connection")
    topic(program.look(), 2)
    program.lines.expect("applied 2")
    seen = program.settled(2, after=number if longer else 0)
    assert longer == (seen[2].ephemeralOwner != number)


def test_the_servers_data_is_wiped(program):
    number, _password, at = program.session()
    program.close_raw()
    program.server.wipe()
    program.server.start()
    wait_for(lambda: program.session()[2] > at, what="a connection")
    topic(program.look(), 2)
    program.lines.expect("applied 2")
    program.settled(2, after=number)
