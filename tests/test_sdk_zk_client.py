"""The kazoo extensions, on a real ZooKeeper and under a chroot."""

import os
import queue
import socket
import threading
import time

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, NoAuthError
from kazoo.protocol.connection import _CONNECTION_DROP, _SESSION_EXPIRED
from kazoo.security import make_acl
from registry_world import wait_for
from zookeeper_server import zookeeper_server  # noqa: F401

from mqadmin_sdk.zk import Client, PerProcess, ServerTooOldError


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def client(zk_chroot):
    found = Client(zk_chroot, timeout=6)
    found.start(timeout=15)
    yield found
    found.stop()
    found.close()


def events(watch_queue, count, seconds=10):
    return [(event.kind, event.path) for event in (watch_queue.get(timeout=seconds) for _ in range(count))]


def hit(client, what):
    """As if the server did it: drop the connection, or expire the session."""
    client._queue.append((what, None))
    client._connection._write_sock.send(b"\0")


def test_one_watch_tells_of_every_node_below_for_ever(client, raw):
    seen = queue.Queue()
    client.watch_tree("/zms", seen.put)
    assert events(seen, 1) == [("established", "/zms")]
    raw.create("/zms", b"")
    raw.create("/zms/a", b"1")
    raw.create("/zms/a/b", b"", ephemeral=True)
    raw.set("/zms/a", b"2")
    raw.set("/zms/a", b"3")
    raw.create("/zmsx", b"")
    raw.delete("/zms/a/b")
    raw.delete("/zms/a")
    assert events(seen, 7) == [
        ("created", "/zms"),
        ("created", "/zms/a"),
        ("created", "/zms/a/b"),
        ("changed", "/zms/a"),
        ("changed", "/zms/a"),
        ("deleted", "/zms/a/b"),
        ("deleted", "/zms/a"),
    ]
    assert seen.empty()


def test_several_callbacks_and_overlapping_roots_each_hear_once(client, raw):
    first, second, inner = queue.Queue(), queue.Queue(), queue.Queue()
    watches = [client.watch_tree("/zms", first.put), client.watch_tree("/zms", second.put), client.watch_tree("/zms/topic", inner.put)]
    raw.ensure_path("/zms/topic")
    raw.create("/zms/topic/x", b"")
    for heard in (first, second, inner):
        wait_for(lambda heard=heard: [event.path for event in heard.queue].count("/zms/topic/x") == 1)
    watches[0].close()
    raw.set("/zms/topic/x", b"1")
    wait_for(lambda: second.queue[-1].kind == "changed")
    time.sleep(0.1)
    assert [event.kind for event in first.queue].count("changed") == 0
    assert [event.kind for event in inner.queue].count("changed") == 1


def test_a_callback_that_raises_disturbs_no_other_and_is_called_again(client, raw):
    seen, raised = queue.Queue(), []

    def bad(event):
        raised.append(event.kind)
        raise RuntimeError("a callback's own fault")

    client.watch_tree("/zms", bad)
    client.watch_tree("/zms", seen.put)
    events(seen, 1)
    raw.create("/zms", b"")
    raw.set("/zms", b"1")
    wait_for(lambda: {"created", "changed"} <= {event.kind for event in seen.queue})
    wait_for(lambda: {"created", "changed"} <= set(raised))
    assert client.connected


def test_the_root_of_a_chroot_is_watched_and_what_lies_beside_it_is_not(zk_chroot):
    hosts, _, chroot = zk_chroot.partition("/")
    outside, seen = KazooClient(hosts), queue.Queue()
    outside.start(timeout=15)
    outside.ensure_path(f"/{chroot}/inner")
    client = Client(f"{hosts}/{chroot}/inner", timeout=6)
    client.start(timeout=15)
    client.watch_tree("/", seen.put)
    assert events(seen, 1) == [("established", "/")]
    outside.create(f"/{chroot}/innermost", b"")
    outside.create(f"/{chroot}/inner/a", b"")
    outside.create(f"/{chroot}/inner/a/inner", b"")
    outside.set(f"/{chroot}/inner", b"1")
    assert events(seen, 3) == [("created", "/a"), ("created", "/a/inner"), ("changed", "/")]
    for one in (client, outside):
        one.stop()
        one.close()


def test_a_watch_closed_by_one_thread_while_another_opens_one_at_the_same_path_is_not_lost(client, raw):
    raw.create("/zms", b"")
    for round_ in range(30):
        old, seen = client.watch_tree("/zms", lambda _event: None), queue.Queue()
        closer = threading.Thread(target=old.close)
        closer.start()
        new = client.watch_tree("/zms", seen.put)
        closer.join()
        wait_for(lambda seen=seen: [event.kind for event in seen.queue][:1] == ["established"])
        raw.set("/zms", str(round_).encode())
        wait_for(lambda seen=seen: "changed" in [event.kind for event in seen.queue], what=f"the change of round {round_}")
        new.close()


@pytest.mark.parametrize("blow", [_CONNECTION_DROP, _SESSION_EXPIRED], ids=["connection lost", "session expired"])
def test_the_watch_is_set_again_after_a_reconnection(client, raw, blow):
    seen = queue.Queue()
    client.watch_tree("/zms", seen.put)
    events(seen, 1)
    session = client.session
    hit(client, blow)
    assert events(seen, 2) == [("interrupted", "/zms"), ("established", "/zms")]
    assert (client.session == session) == (blow is _CONNECTION_DROP)
    raw.create("/zms", b"")
    assert events(seen, 1) == [("created", "/zms")]


def test_a_thousand_watches_are_set_again_after_a_reconnection(client, raw):
    """More than the pipe to kazoo's connection thread holds, which sets them."""
    heard = [queue.Queue() for _ in range(1000)]
    for number, told in enumerate(heard):
        client.watch_tree(f"/tree-{number}", told.put)
    wait_for(lambda: all(told.qsize() == 1 for told in heard))
    hit(client, _CONNECTION_DROP)
    wait_for(lambda: all(told.qsize() == 3 for told in heard))
    assert all([event.kind for event in told.queue] == ["established", "interrupted", "established"] for told in heard)
    raw.create("/tree-999", b"")
    wait_for(lambda: heard[999].qsize() == 4)


def test_established_comes_before_the_first_event_however_late_answers_are_looked_at(client, raw, monkeypatch):
    seen, late = queue.Queue(), []
    with monkeypatch.context() as busy:
        busy.setattr(client.handler.completion_queue, "put", late.append)  # the thread of answers is busy
        client.watch_tree("/zms", seen.put)
        wait_for(lambda: late)
        raw.create("/zms", b"")
        assert events(seen, 2) == [("established", "/zms"), ("created", "/zms")]


def test_many_nodes_are_read_in_one_go(client, raw):
    raw.create("/a", b"1")
    raw.create("/a/x", b"")
    raw.create("/b", b"\xff" * 1000)
    zxid, nodes = client.multi_read(["/a", "/none", "/b"])
    assert [node and node.data for node in nodes] == [b"1", None, b"\xff" * 1000]
    assert nodes[0].stat == raw.get("/a")[1]
    assert zxid >= nodes[2].stat.czxid
    children = client.multi_children(["/", "/a", "/none"])[1]
    assert [names and sorted(names) for names in children] == [["a", "b"], ["x"], None]
    raw.create("/closed", b"", acl=[make_acl("world", "anyone", write=True)])
    with pytest.raises(NoAuthError):
        client.multi_read(["/a", "/closed"])
    raw.delete("/closed")


def test_more_nodes_than_one_request_takes(client, raw):
    with raw.transaction() as transaction:
        transaction.create("/many", b"")
        for number in range(1200):
            transaction.create(f"/many/{number:04}", str(number).encode())
    _, nodes = client.multi_read([f"/many/{number:04}" for number in range(1200)])
    assert [node.data for node in nodes] == [str(number).encode() for number in range(1200)]


def test_requests_fail_at_once_while_disconnected(zookeeper_server):  # noqa: F811
    client = Client(zookeeper_server.hosts, timeout=6)
    client.start(timeout=15)
    zookeeper_server.kill()
    wait_for(lambda: not client.connected)
    started = time.monotonic()
    with pytest.raises(ConnectionLoss):
        client.get("/")
    with pytest.raises(ConnectionLoss):
        client.multi_read(["/"])
    assert time.monotonic() - started < 6  # the session's time-out
    zookeeper_server.start()
    wait_for(lambda: client.connected)
    assert client.exists("/")
    client.stop()
    client.close()


def test_a_server_with_wiped_data_is_accepted_when_the_session_is_over(zookeeper_server):  # noqa: F811
    client, seen = Client(zookeeper_server.hosts, timeout=2), queue.Queue()
    client.start(timeout=15)
    for number in range(30):
        client.create(f"/n{number}", b"")
    client.watch_tree("/n0", seen.put)
    events(seen, 1)
    zookeeper_server.wipe()
    zookeeper_server.start()
    assert events(seen, 2, 20) == [("interrupted", "/n0"), ("interrupted", "/n0")]
    assert events(seen, 1, 20) == [("established", "/n0")]
    assert client.exists("/n0") is None
    client.stop()
    client.close()


def test_a_missing_chroot_is_made_whole(zookeeper_server):  # noqa: F811
    client = Client(f"{zookeeper_server.hosts}/a/b/c", timeout=6)
    client.start_async().wait(15)
    client.ensure_chroot()
    client.ensure_chroot()
    client.create("/x", b"")
    client.stop()
    client.close()
    plain = KazooClient(zookeeper_server.hosts)
    plain.start(timeout=15)
    assert plain.exists("/a/b/c/x")
    plain.stop()
    plain.close()


def test_a_forked_child_has_a_session_of_its_own_and_leaves_the_parents_alone(zk_chroot):
    mine = PerProcess(zk_chroot, timeout=6)
    client = mine.get()
    wait_for(lambda: client.connected)
    client.create("/parent", b"", ephemeral=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        own = mine.get()
        own._live.wait(10)
        own.create("/child", b"", ephemeral=True)
        os.write(write, b"1" if own is not client and own.session not in (0, client.session) else b"0")
        os._exit(0)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    assert client.exists("/parent").ephemeralOwner == client.session
    assert mine.get() is client
    mine.close()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("said", "fine"), [("3.4.14", False), ("3.5.9", False), ("3.6.0", True), ("3.9.3", True), ("4.0", True)])
def test_servers_older_than_3_6_are_refused(zk_chroot, said, fine):
    server = _Claims(zk_chroot.split("/")[0], said)
    client = Client(f"127.0.0.1:{server.port}", timeout=6)
    client.start(timeout=15)
    if fine:
        assert client.check_server()[:2] == tuple(map(int, said.split(".")[:2]))
    else:
        with pytest.raises(ServerTooOldError, match=f"{said} is too old: 3.6 or newer"):
            client.check_server()
    client.stop()
    client.close()
    server.close()


def test_a_server_that_does_not_tell_its_version_is_not_refused_for_that(zk_chroot):
    server = _Claims(zk_chroot.split("/")[0], None)
    client = Client(f"127.0.0.1:{server.port}", timeout=6)
    client.start(timeout=15)
    assert client.check_server() is None
    client.stop()
    client.close()
    server.close()


class _Claims:
    """Passes everything on to a real server, but answers `srvr` itself."""

    def __init__(self, hosts, version):
        self._target = (hosts.split(":")[0], int(hosts.split(":")[1].split(",")[0]))
        answer = (
            f"Zookeeper version: {version}-abc, built on 2020" if version else "srvr is not executed because it is not in the whitelist."
        )
        self._answer = answer.encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            first = near.recv(65536)
            if first == b"srvr":
                near.sendall(self._answer)
                near.close()
                continue
            far = socket.create_connection(self._target)
            far.sendall(first)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def close(self):
        self._listener.close()
