"""ZooKeeper with ACLs and TLS: what the registrars protect, what clients without credentials can still do, and how wrong ones are told."""

import queue
import uuid

import pytest
from certificates import Authority
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import make_digest_acl
from registry_world import World, committed, published, put_cluster, put_group, put_topic, wait_for, why  # noqa: F401
from zookeeper_server import ZooKeeperServer, free_port

from mqadmin import service_checks
from mqadmin.health import PARTS
from mqadmin_sdk import Access, AccessError, Client, NotConnectedError
from mqadmin_sdk.zk import Client as ZooKeeper
from registry import services
from registry.models import Instance, Publication, RegistrarHeartbeat
from registry.protection import Protection

AUTH = "registrar:opensesame"
TREE = ["/zms", "/zms/cluster", "/zms/topic", "/zms/consumergroup", "/zpt", "/mqadmin", "/mqadmin/owner", "/zms/cluster/kafka-a"]


def readable(raw, path):
    """The ACL of a node in one line, users without their hashes."""
    names = {"ALL": "all", "READ": "r", "CREATE": "c", "DELETE": "d", "WRITE": "w"}
    entries = [f"{one.id.id.partition(':')[0]}:{''.join(names[word] for word in one.acl_list)}" for one in raw.get_acls(path)[0]]
    return " ".join(sorted(entries))


def connect(hosts, *credentials):
    client = KazooClient(hosts, auth_data=[("digest", one) for one in credentials])
    client.start(timeout=15)
    return client


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A ZooKeeper for this module: nobody could clean the protected trees out of a shared one."""
    found = ZooKeeperServer(tmp_path_factory.mktemp("acl") / "zookeeper").start()
    yield found
    found.kill()


@pytest.fixture
def world(committed, server):  # noqa: F811
    """A deployment on a tree of its own, which stays behind."""
    found = World(f"{server.hosts}/{uuid.uuid4().hex}")
    client = connect(server.hosts)
    client.ensure_path(found.hosts.partition("/")[2])
    client.stop()
    client.close()
    yield found
    found.close()


# --- ACLs ---------------------------------------------------------------------------------------------------------------------


def test_protected_nodes_are_read_by_all_and_written_by_registrars_only(world, java):
    shadow = services.publish_json(path="/zpt/shop/stress/billing", document={"enable": "0"}, change=why())
    rows = [put_cluster(), put_cluster("kafka-b", "10.0.0.7:9092"), put_topic(), put_group(), shadow]
    world.registrar(ZOOKEEPER_AUTH=AUTH)
    published(*rows)
    raw = world.raw()
    for path in [*TREE, "/zpt/shop", "/zpt/shop/stress", "/zpt/shop/stress/billing"]:
        assert readable(raw, path) == "anyone:r registrar:all", path
    for path in ["/zms/topic/orders", "/zms/consumergroup/billing", "/zpt-instances"]:
        assert readable(raw, path) == "anyone:rcd registrar:all", path
    for path in ["/zms/topic/orders", "/zms/cluster/kafka-a", "/zpt/shop/stress/billing", "/mqadmin/owner"]:
        with pytest.raises(NoAuthError):
            raw.set(path, b"evil")
        with pytest.raises(NoAuthError):
            raw.delete(path)
        with pytest.raises(NoAuthError):
            raw.set_acls(path, [make_digest_acl("evil", "evil", all=True)])
    with pytest.raises(NoAuthError):
        raw.create("/zms/topic/another", b"")

    # A plain ZMS client and our SDK, both without credentials, come, follow, report and go.
    java.follow(world.hosts, "topic", "orders")
    assert java.next() == "orders build kafka-a 10.0.0.1:9092"
    seen = queue.Queue()
    with Client(zookeeper=world.hosts, app="shop") as client:
        client.watch_topic("orders", lambda topic: seen.put(topic and topic.cluster.name))
        assert seen.get(timeout=30) == "kafka-a"
        published(put_topic(cluster="kafka-b"))
        assert java.next() == "orders rebuild kafka-b 10.0.0.7:9092"
        assert seen.get(timeout=30) == "kafka-b"
        reported = Instance.objects.online().filter(plain=False, applied_generation=2)
        wait_for(reported.exists, what="the SDK's report")
        assert Instance.objects.online().filter(plain=True).count() == 1
    java.ask("leave", "orders")
    wait_for(lambda: not Instance.objects.online().exists(), what="both to be gone")


def test_existing_nodes_get_the_acl_when_it_is_switched_on_changed_and_switched_off(world):
    rows = [put_cluster(), put_topic(), services.publish_json(path="/zpt/shop/stress/billing", document={"enable": "0"}, change=why())]
    first = world.registrar()
    published(*rows)
    raw = world.raw()
    assert {readable(raw, path) for path in [*TREE, "/zms/topic/orders"]} == {"anyone:all"}
    version = raw.get("/zms/topic/orders")[1].version

    def everywhere(acl, topic, **settings):
        nonlocal first
        first.end()
        first = world.registrar(**settings)
        for path in [*TREE, "/zpt/shop/stress", "/zpt/shop/stress/billing"]:
            wait_for(lambda path=path: readable(raw, path) == acl, what=f"the ACL of {path}")
        wait_for(lambda: readable(raw, "/zms/topic/orders") == topic, what="the ACL of the topic")

    everywhere("anyone:r registrar:all", "anyone:rcd registrar:all", ZOOKEEPER_AUTH=AUTH)
    everywhere("anyone:r next:all", "anyone:rcd next:all", ZOOKEEPER_AUTH=f"next:pw,{AUTH}")  # the first owns
    everywhere("anyone:all", "anyone:all", ZOOKEEPER_AUTH="next:pw", ZOOKEEPER_ACL="open")
    assert raw.get("/zms/topic/orders")[1].version == version, "setting an ACL must not look like a change of the data"


def test_a_wrong_password_and_a_missing_one_are_told_and_cured(world):
    cluster = put_cluster()
    first = world.registrar(ZOOKEEPER_AUTH=AUTH)
    published(cluster)
    first.end()
    put_cluster(address="another:1")
    refused = [world.registrar(ready=False, ZOOKEEPER_AUTH="registrar:mistyped"), world.registrar(ready=False)]
    row = wait_for(lambda: Publication.objects.exclude(last_error="").filter(pk=cluster.pk).first(), what="the reason on the row")
    assert "ZOOKEEPER_AUTH" in row.last_error
    assert "only registrar" in row.last_error
    wait_for(lambda: RegistrarHeartbeat.objects.filter(zookeeper="refused", error=row.last_error).count() == 2, what="both heartbeats")
    assert row.last_error in PARTS["zookeeper"]()
    for one in refused:
        one.end()
        assert "mistyped" not in "\n".join(one.seen)
    world.registrar(ZOOKEEPER_AUTH=AUTH)
    published(cluster)
    assert Publication.objects.get(pk=cluster.pk).last_error == ""


def test_a_single_node_that_belongs_to_others_is_named_and_the_rest_goes_on(world):
    rows = [put_cluster(), put_topic(), put_topic("secret")]
    world.registrar(ZOOKEEPER_AUTH=AUTH)
    published(*rows)
    ours, acl = connect(world.hosts, AUTH), [make_digest_acl("else", "else", all=True)]
    try:
        ours.set_acls("/zms/topic/secret", acl)  # nobody else may even read it
        ours.set_acls("/zms/topic/orders", [*acl, *Protection("protected", ["x:y"]).acl("/zms/cluster/x")[1:]])
    finally:
        ours.stop()
        ours.close()
    changed = [put_cluster("kafka-b"), put_topic(cluster="kafka-b"), put_topic("secret", "kafka-b"), put_topic("third", "kafka-b")]
    published(changed[0], changed[3])
    for path in ("/zms/topic/orders", "/zms/topic/secret"):
        wait_for(lambda path=path: "ZOOKEEPER_AUTH" in Publication.objects.get(path=path).last_error, what=f"the reason on {path}")
    world.registrar(ZOOKEEPER_AUTH=AUTH)  # one that begins now looks at all ACLs
    beat = wait_for(lambda: RegistrarHeartbeat.objects.filter(error__contains="other credentials").first(), what="the heartbeat")
    assert "2 nodes" in beat.error
    assert beat.zookeeper == "connected"


def test_a_server_that_takes_no_credentials_is_told_and_waited_for(committed, tmp_path):  # noqa: F811
    server = ZooKeeperServer(tmp_path / "zookeeper").start("-Dzookeeper.DigestAuthenticationProvider.enabled=false")
    world = World(server.hosts)
    try:
        cluster = put_cluster()
        world.registrar(ready=False, ZOOKEEPER_AUTH=AUTH)
        wait_for(lambda: "refuses the credentials" in Publication.objects.get(pk=cluster.pk).last_error, what="the reason on the row")
        wait_for(lambda: RegistrarHeartbeat.objects.filter(error__contains="refuses the credentials").exists(), what="the heartbeat")
        server.kill()
        server.start()
        published(cluster)
    finally:
        world.close()
        server.kill()


# --- TLS ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A server with TLS that wants certificates of its clients, and what opens it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "pki")
    port = free_port()
    both = authority.issue("server", "127.0.0.1")[2]
    server = ZooKeeperServer(
        folder / "zookeeper",
        **{
            "secureClientPort": str(port),
            "ssl.keyStore.location": str(both),
            "ssl.trustStore.location": str(authority.certificate),
            "ssl.clientAuth": "need",
        },
    ).start("-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory")
    certificate, key, _both = authority.issue("client")
    server.secure_hosts = f"127.0.0.1:{port}"
    server.access = Access(ca=str(authority.certificate), certificate=str(certificate), key=str(key))
    server.wrong = Access(ca=str(Authority(folder / "other").certificate), certificate=str(certificate), key=str(key))
    yield server
    server.kill()


def tls_settings(access):
    return {"ZOOKEEPER_TLS_CA": access.ca, "ZOOKEEPER_TLS_CERT": access.certificate, "ZOOKEEPER_TLS_KEY": access.key}


def test_registrar_and_sdk_speak_tls_and_show_their_certificates(committed, secure, settings):  # noqa: F811
    world = World(secure.secure_hosts)
    seen = queue.Queue()
    try:
        rows = [put_cluster(), put_topic()]
        wrong = world.registrar(ready=False, **tls_settings(secure.wrong))
        wait_for(lambda: "certificate verify failed" in Publication.objects.get(pk=rows[0].pk).last_error, what="the reason on the row")
        wait_for(lambda: RegistrarHeartbeat.objects.filter(error__contains="certificate verify failed").exists(), what="the heartbeat")
        wrong.end()
        world.registrar(ZOOKEEPER_AUTH=AUTH, **tls_settings(secure.access))
        published(*rows)
        with Client(zookeeper=secure.secure_hosts, app="shop", access=secure.access) as client:
            client.watch_topic("orders", lambda topic: seen.put(topic.cluster.boot_addr))
            assert seen.get(timeout=30) == "10.0.0.1:9092"
            assert client.topic("orders").cluster.name == "kafka-a"
        settings.ZOOKEEPER_HOSTS = secure.secure_hosts
        for name, value in tls_settings(secure.access).items():
            setattr(settings, name, value)
        assert list(service_checks._zookeeper()) == []
    finally:
        world.close()


def test_over_tls_a_wrong_ca_and_a_wrong_name_are_refused_with_the_reason(secure):
    for hosts, access in ((secure.secure_hosts, secure.wrong), (secure.secure_hosts.replace("127.0.0.1", "localhost"), secure.access)):
        with (
            Client(zookeeper=hosts, app="shop", access=access) as client,
            pytest.raises(NotConnectedError, match="certificate verify failed"),
        ):
            client.topic("orders", timeout=2)


def test_over_tls_many_answers_in_one_go_are_all_read(secure):
    client = ZooKeeper(secure.secure_hosts, access=secure.access)
    client.start(timeout=15)
    try:
        client.ensure_path("/many")
        answers = [client.create_async(f"/many/{number}", b"x" * 100) for number in range(500)]
        assert len({answer.get(timeout=20) for answer in answers}) == 500
        _zxid, nodes = client.multi_read([f"/many/{number}" for number in range(500)] * 4, timeout=20)
        assert {node.data for node in nodes} == {b"x" * 100}
    finally:
        client.stop()
        client.close()


# --- settings -----------------------------------------------------------------------------------------------------------------


def test_credentials_are_not_logged_at_any_level(server, caplog):
    client = ZooKeeper(server.hosts, access=Access(auth=AUTH))
    with caplog.at_level(1, "kazoo"):
        client.start(timeout=15)
        client.stop()
        client.close()
    assert "scheme='digest'" in caplog.text, "the log was not at DEBUG: this proves nothing"
    assert "opensesame" not in caplog.text


def test_credentials_and_certificates_that_cannot_be_are_refused_and_never_shown(tmp_path, settings):
    for wrong in ({"auth": "nobody"}, {"auth": "a:b,:c"}, {"key": "/k"}, {"ca": "/c", "certificate": "/x"}, {"ca": str(tmp_path / "none")}):
        with pytest.raises(AccessError):
            Access(**wrong)
    (tmp_path / "auth").write_text("a:opensesame\n")
    access = Access.from_env(environ={"MQADMIN_ZOOKEEPER_AUTH_FILE": str(tmp_path / "auth")})
    assert access.credentials == ["a:opensesame"]
    assert "opensesame" not in repr(access) + repr(access.options())
    from mqadmin.checks import zookeeper_access

    assert zookeeper_access() == []
    for wrong in ({"ZOOKEEPER_AUTH": "nobody"}, {"ZOOKEEPER_ACL": "protected"}, {"ZOOKEEPER_ACL": "secret"}, {"ZOOKEEPER_TLS_CA": "/none"}):
        for name in ("ZOOKEEPER_AUTH", "ZOOKEEPER_TLS_CA"):
            setattr(settings, name, wrong.get(name, ""))
        settings.ZOOKEEPER_ACL = wrong.get("ZOOKEEPER_ACL", "open")
        assert [found.id for found in zookeeper_access()] == ["mqadmin.E023"], wrong
