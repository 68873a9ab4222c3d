"""The reliable-message registry: applications online and offline, and worker ids that no two hosts share."""

import os
import signal
import struct
import sys

import pytest
from kazoo.client import KazooClient
from registry_world import Lines, wait_for
from test_sdk_registry_sessions import expire

from mqadmin_sdk.registry import Application, Applications, RegistryClosedError, RegistryError

PROGRAM = """
import sys
from mqadmin_sdk.registry import Applications

hosts, host, what = sys.argv[1:]
applications = Applications(hosts, host=host, session_timeout=2)
if what == "online":
    applications.register("shop", "producer", group="shop-producers")
print("ready", flush=True)
sys.stdin.readline()
"""

#: Forks fifty processes, each with a session of its own, which all ask when the pipe is closed.
FIFTY = """
import os, sys
from mqadmin_sdk.registry import Applications

readable, writable = os.pipe()
children = []
for number in range(50):
    child = os.fork()
    if child == 0:
        os.close(writable)
        applications = Applications(sys.argv[1], host=f"10.0.0.{number}")
        applications.applications()
        os.read(readable, 1)
        print(f"id 10.0.0.{number} {applications.worker_id('shop')}\\n", end="", flush=True)
        os._exit(0)
    children.append(child)
os.close(writable)
failed = [child for child in children if os.waitpid(child, 0)[1]]
print("failed" if failed else "all", flush=True)
"""


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def make(zk_chroot):
    """Makes hosts, each with a session of its own."""
    made = []

    def one(host, **options):
        made.append(Applications(zk_chroot, host=host, session_timeout=6 + len(made) / 1000, **options))
        return made[-1]

    yield one
    for found in made:
        found.close()


def test_nodes_are_the_java_registrys(make, raw):
    make("10.0.0.1").register("shop", "producer", group="shop-producers", namesrv_addr="mq:9876")
    make("10.0.0.2").register("shop", "consumer", group="shop-consumers", namesrv_addr="mq:9876")
    assert raw.get("/paascloud/registry/producer/shop")[0] == b'{"namesrvAddr":"mq:9876","producerGroup":"shop-producers"}'
    assert raw.get("/paascloud/registry/consumer/shop")[0] == b'{"consumerGroup":"shop-consumers","namesrvAddr":"mq:9876"}'
    data, stat = raw.get("/paascloud/registry/producer/shop/10.0.0.1")
    assert data.decode().endswith("Z")
    assert len(data) == len("2026-11-21T08:00:00.123Z")
    assert stat.ephemeralOwner
    assert raw.exists("/paascloud/registry/producer/shop").ephemeralOwner == 0


def test_the_first_host_makes_an_application_online_and_the_last_offline(make):
    heard, watching = [], make("10.0.0.9")
    watching.watch(heard.append)
    first, second = make("10.0.0.1"), make("10.0.0.2")
    first.register("shop", "producer", group="g")
    wait_for(lambda: heard and heard[-1] == Application("shop", "producer", ("10.0.0.1",), "g", ""))
    second.register("shop", "producer", group="g")
    wait_for(lambda: heard[-1].hosts == ("10.0.0.1", "10.0.0.2"))
    first.unregister("shop", "producer")
    wait_for(lambda: heard[-1].hosts == ("10.0.0.2",) and heard[-1].online)
    second.close()
    wait_for(lambda: heard[-1] == Application("shop", "producer", (), "g", "") and not heard[-1].online)
    assert watching.applications() == [Application("shop", "producer", (), "g", "")]


def test_a_watcher_is_told_of_what_is_there_before_watch_returns(make):
    make("10.0.0.1").register("shop", "consumer", group="g", namesrv_addr="mq:9876")
    heard = []
    make("10.0.0.9").watch(heard.append)
    assert heard == [Application("shop", "consumer", ("10.0.0.1",), "g", "mq:9876")]


def test_settings_that_cannot_be_read_are_unknown(make, raw):
    raw.create("/paascloud/registry/producer/old/10.0.0.7", b"2026-11-21 08:00:00", makepath=True)
    raw.set("/paascloud/registry/producer/old", b"[rubbish")
    assert make("10.0.0.9").applications() == [Application("old", "producer", ("10.0.0.7",), "", "")]


def test_a_host_that_is_killed_goes_offline_when_its_session_ends(zk_chroot, make):
    watching, heard = make("10.0.0.9"), []
    process = Lines([sys.executable, "-c", PROGRAM, zk_chroot, "10.0.0.1", "online"], dict(os.environ), stdin=True)
    process.expect("ready")
    watching.watch(heard.append)
    assert heard[-1].online
    process.signal(signal.SIGKILL)
    wait_for(lambda: not heard[-1].online)
    process.end()


def test_after_expiry_a_host_is_online_in_the_new_session_and_settings_are_there_after_a_deletion_by_hand(zk_chroot, make, raw):
    found = make("10.0.0.1")
    found.register("shop", "producer", group="g")
    expire(zk_chroot, found._keeper.client)
    path = "/paascloud/registry/producer/shop/10.0.0.1"
    wait_for(lambda: (stat := raw.exists(path)) and stat.ephemeralOwner == found._keeper.client.session)
    made = raw.exists(path).czxid
    by_hand = raw.transaction()
    by_hand.delete(path)
    by_hand.delete("/paascloud/registry/producer/shop")
    by_hand.commit()
    wait_for(lambda: (stat := raw.exists(path)) and stat.czxid > made)
    wait_for(lambda: raw.get("/paascloud/registry/producer/shop")[0] == b'{"namesrvAddr":"","producerGroup":"g"}')


def test_of_two_processes_on_a_host_the_application_stays_online_when_one_goes(make):
    first, second = make("10.0.0.1"), make("10.0.0.1")
    first.register("shop", "producer", group="g")
    second.register("shop", "producer", group="g")
    second.close()
    wait_for(lambda: first.applications()[0].online)


def test_closed_is_closed(make):
    found = make("10.0.0.1")
    found.close()
    for call in (
        lambda: found.register("shop", "producer", group="g"),
        lambda: found.unregister("shop", "producer"),
        lambda: found.watch(print),
        lambda: found.worker_id("shop"),
        found.applications,
    ):
        with pytest.raises(RegistryClosedError):
            call()


@pytest.mark.parametrize("call", [("a/b", "producer"), ("", "producer"), ("shop", "both")])
def test_names_that_make_no_node_are_refused(make, call):
    with pytest.raises(ValueError, match=r"name|role"):
        make("10.0.0.1").register(*call, group="g")


# --- worker ids -----------------------------------------------------------------------------------------------------------------


def test_a_host_keeps_its_worker_id_and_no_other_gets_it(make, raw):
    assert make("10.0.0.1").worker_id("shop") == 1
    assert make("10.0.0.2").worker_id("shop") == 2
    assert make("10.0.0.1").worker_id("shop") == 1
    assert make("10.0.0.1").worker_id("billing") == 3
    assert raw.get("/paascloud/registry/id/shop/10.0.0.2")[0] == b"2"
    assert raw.exists("/paascloud/registry/id/shop/10.0.0.2").ephemeralOwner == 0
    assert raw.get("/paascloud/seq")[0] == struct.pack(">i", 3)


@pytest.mark.parametrize(("counter", "taken", "left"), [(b"", 1, 4), (struct.pack(">i", 41), 42, 4), (struct.pack(">q", 41), 42, 8)])
def test_a_counter_of_curators_is_understood_and_kept(make, raw, counter, taken, left):
    raw.create("/paascloud/seq", counter, makepath=True)
    assert make("10.0.0.1").worker_id("shop") == taken
    assert raw.get("/paascloud/seq")[0] == taken.to_bytes(left, "big")


def test_what_is_no_counter_is_said(make, raw):
    raw.create("/paascloud/seq", b"forty-one", makepath=True)
    with pytest.raises(RegistryError, match="not four or eight bytes"):
        make("10.0.0.1").worker_id("shop")


def test_a_counter_that_was_deleted_begins_above_the_ids_in_use(make, raw):
    make("10.0.0.1").worker_id("shop")
    make("10.0.0.2").worker_id("shop")
    raw.delete("/paascloud/seq")
    assert make("10.0.0.3").worker_id("shop") == 3


def test_an_id_node_that_the_java_registry_left_empty_is_filled(make, raw):
    raw.create("/paascloud/registry/id/shop/10.0.0.1", b"", makepath=True)
    assert make("10.0.0.1").worker_id("shop") == 1
    assert raw.get("/paascloud/registry/id/shop/10.0.0.1")[0] == b"1"


def test_fifty_processes_that_start_at_once_get_fifty_ids_and_the_same_ones_after_a_restart(zk_chroot):
    def start():
        process = Lines([sys.executable, "-c", FIFTY, zk_chroot], dict(os.environ))
        process.expect("all")
        process.end()
        return dict(line.split()[1:] for line in process.seen if line.startswith("id "))

    first = start()
    assert sorted(map(int, first.values())) == list(range(1, 51))
    assert len(first) == 50
    assert start() == first
