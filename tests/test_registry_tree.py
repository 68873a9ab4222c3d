"""The live look into ZooKeeper, over REST and in the console, on a real server."""

import os

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from kazoo.client import KazooClient
from kazoo.security import make_acl
from registry_world import put_cluster, put_topic, wait_for
from zookeeper_server import zookeeper_server  # noqa: F401

from core.errors import Problem
from registry import tree
from registry.models import Publication

pytestmark = pytest.mark.django_db


@pytest.fixture
def raw(zk_chroot, settings):
    """A client of kazoo's own on the tree that the web process looks at."""
    settings.ZOOKEEPER_HOSTS = zk_chroot
    client = KazooClient(hosts=zk_chroot)
    client.start(timeout=15)
    yield client
    tree._client(zk_chroot).close()
    tree._client.cache_clear()
    client.stop()
    client.close()


def page_of(person, **query):
    client = Client()
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client.get(reverse("admin:registry_zookeeper"), query)


def test_a_node_is_shown_with_its_stat_and_against_what_is_wanted(api, raw):
    cluster = put_cluster()
    raw.create(cluster.path, bytes(cluster.data), makepath=True)
    stat = raw.set(cluster.path, bytes(cluster.data).replace(b"10.0.0.1", b"10.6.6.6"))
    body = api("GET", f"zookeeper?path={cluster.path}").body
    assert (body["format"], body["values"]["bootAddr"], body["matches"]) == ("properties", "10.6.6.6:9092", False)
    assert [(d["key"], d["wanted"], d["found"]) for d in body["differences"] if d["kind"] != "same"] == [
        ("bootAddr", "10.0.0.1:9092", "10.6.6.6:9092")
    ]
    assert (body["stat"]["version"], body["stat"]["mzxid"], body["stat"]["ephemeral_owner"]) == (1, stat.mzxid, None)
    assert body["publication"]["id"] == cluster.pk
    raw.set(cluster.path, bytes(cluster.data))
    assert api("GET", f"zookeeper?path={cluster.path}").body["matches"] is True
    raw.delete(cluster.path)
    gone = api("GET", f"zookeeper?path={cluster.path}").body
    assert (gone["stat"], gone["content"], gone["matches"]) == (None, None, False)


def test_children_come_in_pages_with_the_state_of_each(api, raw):
    topic = put_topic("t000")
    raw.ensure_path("/zms/topic")
    raw.create(topic.path, bytes(topic.data))
    for number in range(1, 6):
        raw.create(f"/zms/topic/t{number:03}", b"x")
    raw.create("/zms/topic/passing", b"", ephemeral=True)
    first = api("GET", "zookeeper?path=/zms/topic&limit=4").body
    assert [child["name"] for child in first["children"]] == ["passing", "t000", "t001", "t002"]
    assert first["children"][0]["ephemeral_owner"] == f"0x{raw.client_id[0]:x}"
    assert [child["state"] for child in first["children"]] == ["unknown", "pending", "unknown", "unknown"]
    assert (first["next"], first["stat"]["children"]) == ("t002", 7)
    rest = api("GET", f"zookeeper?path=/zms/topic&limit=4&after={first['next']}").body
    assert ([child["name"] for child in rest["children"]], rest["next"]) == (["t003", "t004", "t005"], None)
    assert [child["state"] for child in api("GET", "zookeeper?path=/zms").body["children"]] == [None]


def test_data_that_is_neither_is_shown_as_what_it_is(api, raw):
    raw.create("/zms/binary", b"\xff\x00\x01", makepath=True)
    body = api("GET", "zookeeper?path=/zms/binary").body
    assert (body["format"], body["content"], body["hexadecimal"]) == (None, None, "ff 00 01")
    raw.create("/zms/json", '{"enable":"1","task":"压测"}'.encode())
    assert api("GET", "zookeeper?path=/zms/json").body["values"] == {"enable": "1", "task": "压测"}
    raw.create("/zms/long", ("压" * 50_000).encode())
    assert api("GET", "zookeeper?path=/zms/long").body["content"].startswith("压压")


def test_what_is_not_there_or_no_path_or_not_readable_is_said_so(api, raw):
    raw.create("/closed", b"", acl=[make_acl("digest", "somebody:x", all=True)])
    for path, status, code in [
        ("/zms/nowhere", 404, "not_found"),
        ("zms", 400, "invalid_path"),
        ("/zms//topic", 400, "invalid_path"),
        ("/zms/../x", 400, "invalid_path"),
        ("/closed", 409, "zookeeper_denies"),
    ]:
        answer = api("GET", f"zookeeper?path={path}")
        assert (answer.status_code, answer.body["code"]) == (status, code), path
    assert api("GET", "zookeeper?limit=201").status_code == 400
    raw.delete("/closed")


def test_only_who_may_look_into_zookeeper_does(api_without_rights, raw):
    from conftest import Api, token_for

    from accounts.models import User
    from accounts.rolesync import group_of

    assert api_without_rights("GET", "zookeeper").status_code == 403
    for role, status in (("operator", 200), ("auditor", 200), ("developer", 403)):
        somebody = User.objects.create_user(f"a-{role}", is_staff=True)
        somebody.groups.add(group_of(role))
        assert Api(Client(), token_for(somebody))("GET", "zookeeper").status_code == status, role
        assert page_of(somebody).status_code == status, role


def test_the_page_shows_the_node_its_drift_and_its_children(admin_person, raw):
    topic = put_topic()
    raw.create(topic.path, bytes(topic.data).replace(b"kafka-a", b"elsewhere"), makepath=True)
    raw.create(f"{topic.path}/10.1.1.1||DEFAULT_PRODUCER||x||1", b"", ephemeral=True)
    page = page_of(admin_person, path=topic.path).content.decode()
    for words in ("It does not hold what mqadmin wants here.", "elsewhere", "kafka-a", "10.1.1.1||DEFAULT_PRODUCER||x||1"):
        assert words in page, words
    assert topic.path in page_of(admin_person, path="/zms/topic").content.decode()
    assert page_of(admin_person, path="/zms/nowhere").status_code == 404
    assert page_of(admin_person).status_code == 200


def test_a_zookeeper_that_is_away_is_said_to_be_so_and_is_asked_again_when_it_is_back(zookeeper_server, settings):  # noqa: F811
    settings.ZOOKEEPER_HOSTS = zookeeper_server.hosts
    cluster = put_cluster()
    try:
        assert tree.look(path="/").node is not None
        zookeeper_server.kill()
        with pytest.raises(Problem) as away:
            tree.look(path=cluster.path)
        assert (away.value.code, away.value.status) == ("zookeeper_away", 503)
        zookeeper_server.start()
        assert wait_for(_root_or_nothing, 30, "the session to come back").path == "/"
    finally:
        tree._client(zookeeper_server.hosts).close()
        tree._client.cache_clear()


def _root_or_nothing():
    try:
        return tree.look(path="/")
    except Problem:
        return None


def test_a_forked_child_gets_a_session_of_its_own(raw, settings):
    client = tree._client(settings.ZOOKEEPER_HOSTS)
    Publication.objects.exists()
    assert tree.look(path="/").node is not None
    parent, (out, into) = client.get().session, os.pipe()
    child = os.fork()
    if child == 0:  # nothing of the parent's database connection may be touched here
        own = client.get()
        wait_for(lambda: own.connected)
        os.write(into, f"{own.session:x}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    session = int(os.read(out, 100), 16)
    assert session not in {0, parent}
    assert client.get().session == parent
    assert connection.is_usable()
