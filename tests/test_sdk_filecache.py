"""The file that a start without ZooKeeper lives on: what is in it, who may read it, and many processes at it."""

import contextlib
import json
import multiprocessing
import os
import stat

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NotEmptyError
from registry_world import wait_for
from test_sdk_client import put
from test_sdk_following import report, topic
from zookeeper_server import zookeeper_server  # noqa: F401

from mqadmin_sdk import Client, NotConnectedError, NotPublishedError
from mqadmin_sdk.filecache import FileCache, default_directory


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path / "cache", app="shop", ensemble="b:2,a:1/x")


def deleted(raw, path):
    """Whether it is gone; an instance may have made its node there meanwhile."""
    with contextlib.suppress(NotEmptyError):
        raw.delete(path, recursive=True)
        return True
    return False


def again(cache):
    """As another process sees it."""
    return FileCache(cache.path.parent, app="shop", ensemble="a:1,b:2/x").read()


def test_a_start_without_zookeeper_has_the_last_state_and_is_put_right_later(zookeeper_server, tmp_path):  # noqa: F811
    where = {"zookeeper": zookeeper_server.hosts, "app": "shop", "session_timeout": 4, "cache_dir": tmp_path / "cache"}
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h1:1\nbrokerType=kafka\npassword=hunter2\n")
    put(raw, "/zms/cluster/b", "bootAddr=joe:hunter2@h2:1\nbrokerType=kafka\n")
    for name, cluster in (("same", "a"), ("moved", "a"), ("gone", "a"), ("secret", "b")):
        topic(raw, name, 1, cluster)
    put(raw, "/zms/topic/same", "clusterName=a\nmqadmin.generation=1\nowner=hunter2\n")
    first, second = [], []
    with Client(**where) as client:
        for name in ("same", "moved", "gone", "secret", "never"):
            client.watch_topic(name, first.append)
        wait_for(lambda: len(first) == 4)
    assert "hunter2" not in "".join(path.read_text() for path in (tmp_path / "cache").iterdir())
    raw.stop()
    raw.close()
    zookeeper_server.kill()
    with Client(**where) as client:
        followed = {name: client.watch_topic(name, lambda now, name=name: second.append((name, now and now.generation))) for name in
                    ("same", "moved", "gone", "secret", "never")}  # fmt: skip
        wait_for(lambda: sorted(second) == [("gone", 1), ("moved", 1), ("same", 1)])
        assert followed["same"].state.stale
        assert followed["same"].state.cluster.boot_addr == "h1:1"
        assert client.topic("same").stale
        zookeeper_server.start()
        raw = KazooClient(zookeeper_server.hosts)
        raw.start(timeout=30)
        topic(raw, "moved", 2)
        wait_for(lambda: deleted(raw, "/zms/topic/gone"))
        wait_for(lambda: {("moved", 2), ("gone", None), ("secret", 1)} <= set(second))
        wait_for(lambda: (said := report(raw, "same")) and said["generation"] == 1)
        assert not followed["same"].state.stale
        assert second.count(("same", 1)) == 1  # it was true: nothing to be told
    raw.stop()
    raw.close()


def test_a_topic_that_was_only_read_is_remembered_too(zookeeper_server, tmp_path):  # noqa: F811
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h1:1\nbrokerType=kafka\n")
    topic(raw, "orders", 3)
    raw.stop()
    raw.close()
    with Client(zookeeper=zookeeper_server.hosts, app="shop", cache_dir=tmp_path) as client:
        assert client.topic("orders").generation == 3
    zookeeper_server.kill()
    with Client(zookeeper=zookeeper_server.hosts, app="shop", cache_dir=tmp_path) as client:
        assert (client.topic("orders").generation, client.topic("orders").stale) == (3, True)
        with pytest.raises(NotConnectedError):
            client.topic("other", timeout=0.1)
    with Client(zookeeper=zookeeper_server.hosts, app="another", cache_dir=tmp_path) as client, pytest.raises(NotConnectedError):
        client.topic("orders", timeout=0.1)


def test_a_cluster_that_was_read_is_remembered_by_its_name(zookeeper_server, tmp_path):  # noqa: F811
    where = {"zookeeper": zookeeper_server.hosts, "app": "shop", "session_timeout": 4, "cache_dir": tmp_path}
    raw = KazooClient(zookeeper_server.hosts)
    raw.start(timeout=30)
    put(raw, "/zms/cluster/a", "bootAddr=h1:1\nbrokerType=kafka\nmqadmin.generation=4\n")
    put(raw, "/zms/cluster/b", "bootAddr=h2:1\nbrokerType=kafka\n")
    topic(raw, "orders", 1, "b")
    with Client(**where) as client:
        found = client.cluster("a")
        assert (found.boot_addr, found.generation, found.stale) == ("h1:1", 4, False)
        with pytest.raises(NotPublishedError):
            client.cluster("c")
        client.watch_topic("orders", lambda _now: None)
        wait_for(lambda: client.topic("orders").generation == 1)
        put(raw, "/zms/cluster/a", "bootAddr=h3:1\nbrokerType=kafka\nmqadmin.generation=5\n")
        assert client.cluster("a").boot_addr == "h3:1"
        raw.stop()
        raw.close()
        zookeeper_server.kill()
        wait_for(lambda: client.cluster("b", timeout=0.1).stale)  # read with the topic on it
        assert (client.cluster("a", timeout=0.1).boot_addr, client.cluster("a", timeout=0.1).stale) == ("h3:1", True)
    with Client(**where) as client:
        kept = client.cluster("a")
        assert (kept.boot_addr, kept.generation, kept.stale) == ("h3:1", 5, True)
        with pytest.raises(NotConnectedError):
            client.cluster("c", timeout=0.1)
        zookeeper_server.start()
        wait_for(lambda: not client.cluster("a").stale)


def test_it_is_kept_for_an_application_and_an_ensemble_whatever_the_order_of_its_hosts(cache):
    cache.put({"/a": {"x": "1"}})
    assert cache.flush()
    assert again(cache) == {"/a": {"x": "1"}}
    for app, ensemble in (("other", "a:1,b:2/x"), ("shop", "a:1,b:2/y"), ("shop", "a:1/x")):
        assert FileCache(cache.path.parent, app=app, ensemble=ensemble).read() == {}


def test_only_its_owner_may_read_it(cache):
    cache.put({"/a": {}})
    cache.flush()
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700


def test_what_others_have_written_stays(cache):
    cache.put({"/a": {"x": "1"}, "/b": {"x": "1"}})
    cache.flush()
    other = FileCache(cache.path.parent, app="shop", ensemble="a:1,b:2/x")
    other.put({"/b": None, "/c": {"x": "2"}})
    other.flush()
    assert again(cache) == {"/a": {"x": "1"}, "/c": {"x": "2"}}


def _write(directory, number, rounds):
    cache = FileCache(directory, app="shop", ensemble="a:1,b:2/x")
    for count in range(rounds):
        cache.put({f"/{number}/{count}": {"by": str(os.getpid())}})
        assert cache.flush(wait=30)


def test_many_processes_write_at_once_and_nothing_of_any_is_lost_or_torn(cache):
    many = [multiprocessing.get_context("fork").Process(target=_write, args=(cache.path.parent, number, 20)) for number in range(6)]
    for process in many:
        process.start()
    while any(process.is_alive() for process in many):
        again(cache)  # never half of it, else it would be complained of
    assert [process.exitcode for process in many] == [0] * 6
    assert len(again(cache)) == 120
    assert sorted(path.name for path in cache.path.parent.iterdir()) == [cache.path.name, f"{cache.path.name}.lock"]


def test_one_that_is_writing_is_not_waited_for_and_a_forked_child_keeps_no_lock(cache):
    other = FileCache(cache.path.parent, app="shop", ensemble="a:1,b:2/x")
    cache.put({"/a": {}})
    cache.flush()
    other.put({"/b": {}})
    with cache._alone(0) as alone:
        assert alone
        assert not other.flush()
        assert other.dirty
        child = os.fork()  # in the middle of it
        if child == 0:
            import time

            time.sleep(60)
            os._exit(0)
    try:
        assert other.flush()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert set(again(cache)) == {"/a", "/b"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format":99,"values":{}}', '{"values":[]}', "\0\1"])
def test_what_makes_no_sense_is_said_and_written_anew(cache, caplog, content):
    cache.path.parent.mkdir()
    cache.path.write_text(content)
    assert cache.read() == {}
    assert str(cache.path) in caplog.text
    cache.put({"/a": {}})
    cache.flush()
    assert again(cache) == {"/a": {}}


def test_values_that_somebody_has_edited_are_no_state(cache):
    from mqadmin_sdk.known import Known

    known = Known(ip="10.0.0.1", labels={}, cache=None)
    good = {"/zms/topic/t": {"clusterName": "a"}, "/zms/cluster/a": {"bootAddr": "h:1"}}
    assert known.remembered("topic", "t", good).cluster.boot_addr == "h:1"
    for bad in (
        {"/zms/topic/t": []},
        {"/zms/topic/t": {"clusterName": 3}},
        {"/zms/cluster/a": None},
        {"/zms/topic/t": {"gatedCluster": 1}},
    ):
        assert known.remembered("topic", "t", {**good, **bad}) is None


def test_where_nothing_can_be_written_it_is_said_once_and_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FileCache(tmp_path / "file" / "cache", app="shop", ensemble="a:1")
    for number in range(3):
        cache.put({"/a": {"x": str(number)}})
        assert cache.flush()
    assert caplog.text.count("cannot be written") == 1


def test_what_a_killed_writer_left_is_cleared_away(cache):
    cache.path.parent.mkdir()
    (cache.path.parent / f".{cache.path.name}.abc").write_text("{")
    cache.put({"/a": {}})
    cache.flush()
    assert sorted(path.name for path in cache.path.parent.iterdir()) == [cache.path.name, f"{cache.path.name}.lock"]
    assert json.loads(cache.path.read_text())["app"] == "shop"


def test_the_environment_says_where_and_empty_means_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MQADMIN_CACHE_DIR", "")
    assert default_directory() is None
    monkeypatch.setenv("MQADMIN_CACHE_DIR", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("MQADMIN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "mqadmin"
