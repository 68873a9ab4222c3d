"""The registry on ZooKeeper, whatever becomes of the connection, the session, the server, the nodes and the process."""

import contextlib
import json
import os
import queue
import signal
import stat
import sys
import threading

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.protocol.connection import _CONNECTION_DROP
from registry_world import Lines, wait_for
from test_sdk_registry_dubbo import SERVICE, Heard, consumer, provider
from zookeeper_server import zookeeper_server  # noqa: F401

from mqadmin_sdk.registry import RegistryUnavailableError, ServiceUrl
from mqadmin_sdk.registry.cache import FileCache
from mqadmin_sdk.registry.leaves import RENEWAL
from mqadmin_sdk.registry.urls import encode
from mqadmin_sdk.registry.zookeeper import ZooKeeperRegistry
from mqadmin_sdk.zk import Client

PROVIDERS = f"/dubbo/{SERVICE}/providers"
LEAF = f"{PROVIDERS}/{encode(str(provider()))}"

PROGRAM = """
import signal, sys, threading
from mqadmin_sdk.registry import ServiceUrl, open_registry

hosts, timeout, how = sys.argv[1:]
if how == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
registry = open_registry("zookeeper://" + hosts, session_timeout=float(timeout))
registry.register(ServiceUrl.parse("dubbo://10.0.0.1:20880/com.example.Orders?application=shop"))
print("registered", flush=True)
if how == "exit":
    sys.stdin.readline()
else:
    threading.Event().wait()
"""


def opened(hosts, **options):
    return ZooKeeperRegistry(ServiceUrl.parse(f"zookeeper://{hosts}"), **{"session_timeout": 6, **options})


def look(hosts):
    client = KazooClient(hosts, timeout=10)
    client.start(timeout=30)
    return client


def end(client):
    client.stop()
    client.close()


def hit(client, what):
    """As if the server did it."""
    client._queue.append((what, None))
    client._connection._write_sock.send(b"\0")


def expire(hosts, client):
    """End its session as an administrator may: whoever has its password closes it."""
    before = client.session
    thief = KazooClient(hosts, timeout=6, client_id=(client._session_id, client._session_passwd))
    thief.start(timeout=30)
    end(thief)
    wait_for(lambda: client.session != before and client.connected, what="a new session")


@pytest.fixture
def raw(zk_chroot):
    client = look(zk_chroot)
    yield client
    end(client)


@pytest.fixture
def registry(zk_chroot):
    with opened(zk_chroot) as found:
        yield found


@pytest.fixture
def seen(zk_chroot):
    """What a watcher of the tree hears."""
    client, events = Client(zk_chroot), queue.Queue()
    client.start(timeout=15)
    client.watch_tree("/dubbo", events.put)
    assert events.get(timeout=30).kind == "established"
    yield events
    end(client)


def happened(events, path):
    """The kinds of events at a path, up to the first deletion."""
    kinds = []
    while not kinds or kinds[-1] != "deleted":
        event = events.get(timeout=30)
        if event.path == path:
            kinds.append(event.kind)
    return kinds


# --- the registry cannot be reached ---------------------------------------------------------------------------------------------


def test_a_registration_that_fails_is_an_error_or_is_made_up_for_without_giving_up(zookeeper_server):  # noqa: F811
    zookeeper_server.kill()
    with opened(zookeeper_server.hosts, timeout=0.3) as registry:
        with pytest.raises(RegistryUnavailableError, match=r"was not reached within 0\.3 s"):
            registry.register(provider(1))
        with pytest.raises(RegistryUnavailableError):
            registry.lookup(consumer())
        registry.register(provider(2, check="false"))
        registry.register(consumer(category="consumers"))
        registry.register(provider(3, check="false"))
        registry.unregister(provider(3, check="false"))
        heard = Heard()
        registry.subscribe(consumer(category="providers,consumers"), heard)
        assert heard.notes == []
        assert not registry.is_available()
        zookeeper_server.start()
        wait_for(lambda: heard.last() == ["10.0.0.2"] and heard.last("consumers") == ["10.1.0.1"])
        raw = look(zookeeper_server.hosts)
        assert raw.get_children(PROVIDERS) == [encode(str(provider(2, check="false")))]
        end(raw)


def test_a_registration_that_failed_is_not_there_later_although_the_server_had_it_in_hand(zookeeper_server):  # noqa: F811
    with opened(zookeeper_server.hosts, timeout=20) as registry:
        registry.register(provider(1))
        registry.timeout = 0.3
        zookeeper_server.pause()
        with pytest.raises(RegistryUnavailableError, match="did not answer"):
            registry.register(provider(2))
        with pytest.raises(RegistryUnavailableError, match="did not answer"):
            registry.register(provider(1))  # it is there already: this failure takes nothing away
        zookeeper_server.resume()
        registry.timeout = 20
        registry.register(provider(3))
        assert registry.lookup(consumer()) == [provider(1), provider(3)]


def test_closed_without_a_connection_it_says_goodbye_when_others_keep_the_session_alive(zookeeper_server):  # noqa: F811
    first = opened(zookeeper_server.hosts, session_timeout=30)
    second = ZooKeeperRegistry(ServiceUrl.parse(f"zookeeper://{zookeeper_server.hosts}?group=other"), session_timeout=30)
    first.register(provider(1))
    second.register(provider(1))
    session = second._keeper.client.session
    zookeeper_server.kill()
    wait_for(lambda: not second.is_available())
    first.close()
    zookeeper_server.start()
    raw = look(zookeeper_server.hosts)
    wait_for(lambda: raw.get_children(PROVIDERS) == [])
    assert raw.exists(LEAF.replace("/dubbo/", "/other/")).ephemeralOwner == session == second._keeper.client.session
    end(raw)
    second.close()


def test_a_subscription_that_fails_is_an_error_with_check(zookeeper_server):  # noqa: F811
    zookeeper_server.kill()
    with opened(zookeeper_server.hosts, timeout=0.3) as registry:
        heard = Heard()
        with pytest.raises(RegistryUnavailableError):
            registry.subscribe(ServiceUrl("dubbo", "10.1.0.1", 0, SERVICE), heard)
        zookeeper_server.start()
        wait_for(registry.is_available)
        registry.register(provider())
        assert registry.lookup(consumer()) == [provider()]
        assert heard.notes == []


def test_the_file_cache_gives_the_last_lists_as_stale_and_then_the_live_ones_come(zookeeper_server, tmp_path):  # noqa: F811
    file, heard = tmp_path / "cache" / "registry.json", Heard()
    with opened(zookeeper_server.hosts, cache=file) as registry:
        registry.register(provider(1, dynamic="false"))
        registry.subscribe(consumer(category="providers,routers"), heard)
    assert not any(note.stale for note in heard.notes)
    zookeeper_server.kill()
    again = Heard()
    with opened(zookeeper_server.hosts, timeout=0.3, cache=file) as registry:
        registry.subscribe(consumer(category="providers,routers"), again)
        assert [(note.category, [url.protocol for url in note.urls], note.stale) for note in again.notes] == [
            ("providers", ["dubbo"], True),
            ("routers", ["empty"], True),
        ]
        zookeeper_server.start()
        wait_for(lambda: len(again.notes) == 4)
        assert [note.stale for note in again.notes] == [True, True, False, False]
        assert again.last() == ["10.0.0.1"]


def test_the_file_cache_is_private_and_shared_by_processes_and_survives_rubbish(tmp_path):
    file = tmp_path / "registry.json"
    file.write_text("{rubbish")
    assert FileCache(file).read("a") == {}
    writers = [
        threading.Thread(target=lambda n=n: [FileCache(file).write({f"key-{n}": {"s": {"providers": [str(i)]}}}) for i in range(20)])
        for n in range(5)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [FileCache(file).read(f"key-{n}") for n in range(5)] == [{"s": {"providers": ["19"]}}] * 5
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry.json", "registry.json.lock"]


def test_the_servers_data_is_wiped_and_everything_is_made_again(zookeeper_server):  # noqa: F811
    with opened(zookeeper_server.hosts, session_timeout=2) as registry:
        heard = Heard()
        registry.register(provider(1))
        registry.subscribe(consumer(), heard)
        zookeeper_server.wipe()
        zookeeper_server.start()
        raw = look(zookeeper_server.hosts)
        wait_for(lambda: raw.exists(LEAF), what="the node in the new tree")
        raw.create(f"{PROVIDERS}/{encode(str(provider(2)))}", b"")
        wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])
        end(raw)


# --- connections and sessions -----------------------------------------------------------------------------------------------------


def test_after_a_lost_connection_lists_are_compared_and_what_was_missed_is_notified(registry, raw, monkeypatch):
    heard, client = Heard(), registry._keeper.client
    registry.register(provider(1))
    registry.subscribe(consumer(), heard)
    session = client.session
    monkeypatch.setattr(client, "dispatch", lambda _event: None)  # what a connection that is just breaking does
    raw.create(f"{PROVIDERS}/{encode(str(provider(2)))}", b"")
    raw.sync("/")
    hit(client, _CONNECTION_DROP)
    wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])
    monkeypatch.undo()
    raw.create(f"{PROVIDERS}/{encode(str(provider(3)))}", b"")
    wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    assert client.session == session
    assert raw.exists(LEAF).ephemeralOwner == session


def test_after_expiry_nodes_belong_to_the_new_session_and_subscriptions_go_on(zk_chroot, registry, raw):
    heard, client = Heard(), registry._keeper.client
    registry.register(provider(1))
    registry.subscribe(consumer(), heard)
    before = client.session
    expire(zk_chroot, client)
    owner = wait_for(lambda: (found := raw.exists(LEAF)) and found.ephemeralOwner)
    assert owner == client.session != before
    raw.create(f"{PROVIDERS}/{encode(str(provider(2)))}", b"")
    wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])


def test_many_registrations_are_back_after_expiry(zk_chroot, registry, raw):
    urls = [provider(1, id=str(number)) for number in range(300)]
    for url in urls:
        registry.register(url)
    expire(zk_chroot, registry._keeper.client)
    wait_for(lambda: len(raw.get_children(PROVIDERS)) == 300)
    session = registry._keeper.client.session
    wait_for(lambda: {raw.exists(f"{PROVIDERS}/{name}").ephemeralOwner for name in raw.get_children(PROVIDERS)} == {session})


# --- nodes that go by hand ----------------------------------------------------------------------------------------------------------


def test_after_a_parent_is_deleted_by_hand_registering_goes_on(registry, raw):
    """Dubbo: NoNode for ever."""
    registry.register(provider(1))
    registry.unregister(provider(1))
    raw.delete("/dubbo", recursive=True)
    registry.register(provider(2))
    assert registry.lookup(consumer()) == [provider(2)]


def test_a_registration_deleted_by_hand_is_made_again_with_its_parents(registry, raw):
    registry.register(provider())
    made = raw.exists(LEAF).czxid
    by_hand = raw.transaction()  # it would be there again before its parent is deleted
    for path in (LEAF, PROVIDERS, f"/dubbo/{SERVICE}"):
        by_hand.delete(path)
    by_hand.commit()
    wait_for(lambda: (found := raw.exists(LEAF)) and found.czxid > made)


def test_a_registration_whose_deletion_nobody_heard_is_made_again_within_a_renewal(zk_chroot, raw):
    assert RENEWAL < 1 / 2  # of the session time-out
    with opened(zk_chroot, session_timeout=2) as registry:
        registry.register(provider())
        registry._leaves._enqueue = lambda _run: None

        def gone():  # unless a renewal is just then
            with contextlib.suppress(NoNodeError):
                raw.delete(LEAF)
            return raw.exists(LEAF) is None

        wait_for(gone)
        wait_for(lambda: raw.exists(LEAF), what="the node after a renewal")


def test_of_two_processes_with_one_url_the_last_has_it_and_the_first_takes_over_when_that_one_goes(zk_chroot, registry, raw):
    registry.register(provider())
    other = opened(zk_chroot, session_timeout=6.5)
    other.register(provider())
    assert raw.exists(LEAF).ephemeralOwner == other._keeper.client.session
    expire(zk_chroot, registry._keeper.client)  # who comes back takes over again, and nobody fights
    wait_for(lambda: raw.exists(LEAF).ephemeralOwner == registry._keeper.client.session)
    other.close()
    assert raw.exists(LEAF).ephemeralOwner == registry._keeper.client.session
    third = opened(zk_chroot, session_timeout=6.6)
    third.register(provider())
    third.close()
    wait_for(lambda: (found := raw.exists(LEAF)) and found.ephemeralOwner == registry._keeper.client.session)


def test_a_registration_carries_its_time_and_its_process(registry, raw):
    registry.register(provider())
    data, node = raw.get(LEAF)
    said = json.loads(data)
    assert sorted(said) == ["host", "pid", "registeredAt", "sdk"]
    assert said["pid"] == os.getpid()
    assert said["sdk"].startswith("mqadmin-python/")
    assert said["registeredAt"].endswith("Z")
    assert node.version == 0


# --- going offline ------------------------------------------------------------------------------------------------------------------


def run(hosts, timeout, how):
    process = Lines([sys.executable, "-c", PROGRAM, hosts, str(timeout), how], dict(os.environ), stdin=True)
    process.expect("registered")
    return process


@pytest.mark.parametrize(
    ("how", "code"), [("exit", 0), ("plain", -signal.SIGTERM), ("handler", 7)], ids=["returns", "SIGTERM", "SIGTERM with a handler"]
)
def test_a_normal_exit_takes_the_registration_away_at_once_with_a_goodbye(zk_chroot, raw, seen, how, code):
    process = run(zk_chroot, 40, how)  # so long that its session's end cannot be what is seen
    if how == "exit":
        process.process.stdin.close()
    else:
        process.signal(signal.SIGTERM)
    assert happened(seen, LEAF) == ["created", "changed", "deleted"]
    assert process.process.wait(30) == code
    process.process.stdin.close()
    process.end()
    assert raw.get_children(PROVIDERS) == []


def test_kill_9_takes_it_away_when_the_session_ends_without_a_goodbye(zk_chroot, seen):
    process = run(zk_chroot, 2, "plain")
    process.signal(signal.SIGKILL)
    assert happened(seen, LEAF) == ["created", "deleted"]
    process.end()


def test_unregistering_and_closing_say_goodbye(registry, seen):
    registry.register(provider(1))
    registry.unregister(provider(1))
    assert happened(seen, LEAF) == ["created", "changed", "deleted"]
    registry.register(provider(1))
    registry.close()
    assert happened(seen, LEAF) == ["created", "changed", "deleted"]


def test_a_frozen_process_that_resumes_registers_again(zk_chroot, raw):
    process = run(zk_chroot, 2, "plain")
    first = raw.exists(LEAF).ephemeralOwner
    process.signal(signal.SIGSTOP)
    wait_for(lambda: raw.exists(LEAF) is None, what="the end of its session")
    process.signal(signal.SIGCONT)
    second = wait_for(lambda: raw.exists(LEAF), what="its registration").ephemeralOwner
    assert second != first
    process.end()


def test_a_forked_child_follows_but_offers_nothing_and_leaves_the_parents_registration_alone(zk_chroot, raw):
    registry, heard = opened(zk_chroot), Heard()
    registry.register(provider(1))
    registry.subscribe(consumer(), heard)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            heard.notes.clear()
            os.write(writable, b"r")
            wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])
            registry.register(provider(3))
            registry.close()
            os.write(writable, b"ok")
        finally:
            os._exit(0)
    assert os.read(readable, 1) == b"r"
    raw.create(f"{PROVIDERS}/{encode(str(provider(2)))}", b"")
    assert os.read(readable, 2) == b"ok"
    os.waitpid(child, 0)
    os.close(readable)
    os.close(writable)
    wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])
    assert raw.exists(LEAF).ephemeralOwner == registry._keeper.client.session
    registry.close()
    with pytest.raises(NoNodeError):
        raw.get(LEAF)
