"""System checks of the services, against real ones: what is wrong is found, what is right is not blamed."""

import contextlib
import shutil
import socket
import socketserver
import subprocess
import threading
import time

import pytest
import redis
from django.conf import settings as django_settings
from django.core import checks
from django.db import connections
from django.db.utils import ConnectionHandler

from mqadmin import service_checks
from mqadmin.supervisor import packages
from mqadmin.supervisor.home import Home
from mqadmin.supervisor.services import DATA_ELSEWHERE, Postgres
from tests.pooler import Pooler


@pytest.fixture
def unblocked(django_db_blocker):
    """For tests with connections of their own."""
    with django_db_blocker.unblock():
        yield


def ids(found):
    return sorted(message.id.removeprefix("mqadmin.") for message in found)


def database(**changes):
    known = {**django_settings.DATABASES["default"], "OPTIONS": {"connect_timeout": 5}, **changes}
    return ConnectionHandler({"default": known})["default"]


# --- none of it without being asked --------------------------------------------------------------------------------------------


def test_a_plain_check_asks_no_service(settings, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a plain check went to the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(service_checks, "_postgres", refuse)
    settings.ZOOKEEPER_HOSTS, settings.CELERY_BROKER_URL = "127.0.0.1:1", "redis://127.0.0.1:1/0"
    assert not [m for m in checks.run_checks() if m.id.startswith("mqadmin.E0") and m.id >= "mqadmin.E010"]


@pytest.mark.django_db
def test_the_services_of_the_tests_themselves_pass():
    found = checks.run_checks(tags=["services"], databases=["default"], include_deployment_checks=True)
    assert ids(found) == []


# --- Postgres --------------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "good", "bad", "number"),
    [
        ("synchronous_commit", "on", "off", "E013"),
        ("default_transaction_isolation", "read committed", "repeatable read", "E015"),
        ("default_transaction_read_only", "off", "on", "E016"),
        ("idle_in_transaction_session_timeout", "60s", "0", "W011"),
    ],
)
def test_a_setting_of_postgres_that_loses_or_blocks_is_found(name, good, bad, number):
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SET LOCAL {name} = '{good}'")  # the server of the tests may itself be a careless one
        before = ids(service_checks._postgres(connections["default"]))
        assert number not in before
        cursor.execute(f"SET LOCAL {name} = '{bad}'")
    assert ids(service_checks._postgres(connections["default"])) == sorted([*before, number])


@pytest.fixture(scope="module")
def careless(tmp_path_factory):
    """A Postgres that nobody should keep messages in; gives the parameters of a connection to it."""
    home = Home(tmp_path_factory.mktemp("careless"))
    home.open()
    server = Postgres(home, packages.find(), durable=False, say=lambda _text: None)
    server.prepare()
    program = server.program()
    conf = server._data / "local.conf"
    conf.write_text("max_connections = 30\nmax_locks_per_transaction = 10\nmax_wal_senders = 0\n")
    conf.chmod(0o644)
    account = program.account
    process = subprocess.Popen(
        program.argv, cwd="/", env=program.env, stderr=subprocess.DEVNULL,
        user=account.uid if account else None, group=account.gid if account else None, extra_groups=[] if account else None,
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while not program.ready():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        login = {"HOST": "127.0.0.1", "PORT": server.port, "NAME": "postgres"}
        yield {
            "owner": {**login, "USER": "mqadmin", "NAME": "mqadmin", "PASSWORD": home.secret("postgres_password")},
            "superuser": {**login, "USER": "postgres", "PASSWORD": home.secret("postgres_superuser_password")},
        }
    finally:
        process.send_signal(program.stop_signal)
        process.wait(20)
        home.close()
        shutil.rmtree(DATA_ELSEWHERE / home.tag, ignore_errors=True)


def test_a_postgres_without_durability_is_an_error(careless, unblocked):
    one = database(**careless["owner"])
    found = list(service_checks._postgres(one))
    assert {"E012", "E013", "W012"} <= set(ids(found))
    assert {m.msg.split(" ")[0] for m in found if m.id == "mqadmin.E012"} == {"fsync", "full_page_writes"}
    assert not {"W010", "W014", "E018", "E017"} & set(ids(found))
    assert all(m.hint for m in found)
    one.close()


def test_rights_locks_and_encoding_are_looked_at(careless, unblocked):
    one = database(**careless["superuser"])
    with one.cursor() as cursor:
        cursor.execute("CREATE TABLE mq_message (id bigint) PARTITION BY RANGE (id)")
        cursor.execute("CREATE INDEX ON mq_message (id)")
        for i in range(10):
            cursor.execute(f"CREATE TABLE p{i} PARTITION OF mq_message FOR VALUES FROM ({i}) TO ({i + 1})")
        cursor.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
        found = ids(service_checks._postgres(one))
        cursor.execute("DROP TABLE mq_message; CREATE ROLE stranger LOGIN PASSWORD 'x'; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    one.close()
    assert {"W010", "W013"} <= set(found)
    for changes, number in (({"NAME": "latin"}, "E014"), ({"USER": "stranger", "PASSWORD": "x"}, "E017")):
        one = database(**{**careless["superuser"], **changes})
        assert number in ids(service_checks._postgres(one))
        one.close()


def test_a_postgres_that_is_not_there_is_one_clear_error(monkeypatch, unblocked):
    gone = database(HOST="127.0.0.1", PORT=1)
    monkeypatch.setattr(service_checks, "connections", {"default": gone})
    found = service_checks.postgres(databases=["default"])
    assert ids(found) == ["E010"]
    assert "DATABASE_URL" in found[0].hint


@pytest.mark.parametrize(("lends", "number"), [(True, "E018"), (False, "W014")])
def test_a_pooler_in_between_is_found_and_its_mode(careless, unblocked, lends, number):
    pooler = Pooler(("127.0.0.1", careless["owner"]["PORT"]), lends=lends)
    one = database(**{**careless["owner"], "PORT": pooler.port})
    try:
        assert ids(service_checks._pooler(one)) == [number]
    finally:
        one.close()
        pooler.close()


def test_an_old_version_is_refused(monkeypatch, unblocked):
    monkeypatch.setattr(service_checks, "OLDEST_POSTGRES", 990000)
    one = database(NAME="postgres")
    assert "E011" in ids(service_checks._postgres(one))
    one.close()


# --- clocks ------------------------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_off_is_named(monkeypatch, unblocked):
    assert ids(service_checks._skewed("Postgres", 5.0, 0.1)) == ["W020"]
    assert "behind" in next(service_checks._skewed("ZooKeeper", -5.0, 0.1)).msg
    assert ids(service_checks._skewed("Postgres", 5.0, 4.0)) == []  # a slow answer proves nothing
    one, real = database(NAME="postgres"), time.time
    monkeypatch.setattr(service_checks.time, "time", lambda: real() - 60)
    assert "W020" in ids(service_checks._postgres(one))
    one.close()


def test_the_clock_of_zookeeper_is_measured(zk_chroot):
    from registry import ensemble

    seconds, uncertain = ensemble.skew(zk_chroot)
    assert abs(seconds) <= uncertain + 2
    assert ensemble.skew("127.0.0.1:1", timeout=0.3) is None


# --- ZooKeeper ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(text):
    """A server that answers srvr with this text."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(text.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Zookeeper version: 3.4.14-abc, built on 2019\nMode: standalone\n", "E021"),
        ("Zookeeper version: 3.5.9-abc\nMode: follower\n", "E021"),
        ("Zookeeper version: 3.8.1-abc\nMode: read-only\n", "E022"),
        ("srvr is not executed because it is not in the whitelist.\n", "W022"),
        ("Zookeeper version: 3.10.0-abc\nMode: leader\n", None),
    ],
)
def test_version_and_mode_of_zookeeper(settings, monkeypatch, text, number):
    monkeypatch.setattr("registry.ensemble.skew", lambda _hosts: None)
    with answering(text) as where:
        settings.ZOOKEEPER_HOSTS = f"{where}/chroot"
        assert ids(service_checks._zookeeper()) == ([number] if number else [])


def test_a_zookeeper_that_is_away_is_named(settings, monkeypatch):
    monkeypatch.setattr("registry.ensemble.skew", lambda _hosts: None)
    settings.ZOOKEEPER_HOSTS = "127.0.0.1:1/x"
    assert ids(service_checks._zookeeper()) == ["E020"]
    with answering("Zookeeper version: 3.8.1\nMode: leader\n") as where:
        settings.ZOOKEEPER_HOSTS = f"{where},127.0.0.1:1/x"
        assert ids(service_checks._zookeeper()) == ["W021"]  # the others serve
    settings.ZOOKEEPER_HOSTS = "127.0.0.1:1,127.0.0.1:2"
    assert ids(service_checks._zookeeper()) == ["E020", "W021", "W021"]


# --- the broker -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "number"), [("allkeys-lru", "W030"), ("noeviction", None)])
def test_a_redis_that_throws_queues_away_is_warned_of(settings, tmp_path, policy, number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [packages.find().redis, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory", "20mb",
         "--maxmemory-policy", policy],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(redis.RedisError), contextlib.closing(redis.Redis(port=port)) as client:
                if client.ping():
                    break
            time.sleep(0.05)
        settings.CELERY_BROKER_URL = f"redis://127.0.0.1:{port}/0"
        assert ids(service_checks._broker()) == ([number] if number else [])
    finally:
        process.terminate()
        process.wait(10)
    assert ids(service_checks._broker()) == ["E030"]


# --- settings of production --------------------------------------------------------------------------------------------------------------


def test_names_that_others_use_want_https(settings):
    settings.ALLOWED_HOSTS, settings.HTTPS, settings.DEBUG = ["mq.example.com"], False, False
    assert "mqadmin.W002" in [m.id for m in checks.run_checks()]
    settings.HTTPS = True
    assert "mqadmin.W002" not in [m.id for m in checks.run_checks()]
    settings.ALLOWED_HOSTS = ["*"]
    assert "mqadmin.W003" in [m.id for m in checks.run_checks()]


def test_a_proxy_that_is_no_network_is_an_error(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/8", "nginx"]
    assert "nginx" in next(m.msg for m in checks.run_checks() if m.id == "mqadmin.E004")
