"""What the tests of mqctl share: a deployment of its own (web, registrar, worker), and mqctl as a process."""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import httpx
import psycopg
import pytest
from django.conf import settings
from django.db import connection
from kazoo.client import KazooClient
from registry_world import CHECKOUT, Lines, wait_for
from supervised import free_port

from mqadmin.supervisor import packages
from mqadmin_sdk.cli import app

MQCTL = [sys.executable, "-m", "mqadmin_sdk.cli"]


class Mqctl:
    """mqctl in the name of somebody, in an environment that has nothing else of ours."""

    def __init__(self, home: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MQADMIN_", "PYTEST_", "XDG_"))}
        self.environment = kept | {"HOME": str(home), "PYTHONUNBUFFERED": "1", "TZ": "UTC"} | variables
        self.home = home

    def but(self, **variables: str | None) -> "Mqctl":
        other = Mqctl(self.home)
        other.environment = {name: value for name, value in (self.environment | variables).items() if value is not None}
        return other

    def __call__(self, *arguments: object, code: int = 0, stdin: str | bytes = b"") -> SimpleNamespace:
        """Run it to its end, in this process, which is quicker; it must end with this code."""
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        files = [io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", write_through=True) for content in (stdin, b"", b"")]
        before = dict(os.environ), sys.stdin, sys.stdout, sys.stderr
        try:
            os.environ.clear()
            os.environ.update(self.environment)
            sys.stdin, sys.stdout, sys.stderr = files
            ended = app.run([str(argument) for argument in arguments])
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            sys.stdin, sys.stdout, sys.stderr = before[1:]
        return self._told(arguments, ended, code, *(file.buffer.getvalue() for file in files[1:]))

    def process(self, *arguments: object, code: int = 0, stdin: bytes = b"") -> SimpleNamespace:
        """Run it to its end as a process."""
        done = subprocess.run(
            [*MQCTL, *map(str, arguments)], input=stdin, capture_output=True, env=self.environment, timeout=60, check=False
        )
        return self._told(arguments, done.returncode, code, done.stdout, done.stderr)

    @staticmethod
    def _told(arguments, ended, code, written, errors) -> SimpleNamespace:
        out, err = written.decode("utf-8", "surrogateescape"), errors.decode()
        assert ended == code, f"{arguments}: exit {ended}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return SimpleNamespace(out=out, err=err, lines=out.splitlines(), bytes=written)

    def json(self, *arguments: object, code: int = 0, stdin: str | bytes = b""):
        return json.loads(self(*arguments, "-o", "json", code=code, stdin=stdin).out)

    @contextlib.contextmanager
    def running(self, *arguments: object):
        """It as it runs on; its lines are read as they come."""
        process = Lines([*MQCTL, *map(str, arguments)], self.environment)
        try:
            yield process
        finally:
            process.end()


@pytest.fixture(scope="module")
def house(tmp_path_factory, django_db_setup):
    """A deployment of its own: nothing that happens here is seen by other tests. `operator` and `admin` are API clients."""
    home = tmp_path_factory.mktemp("mqctl")
    server = settings.DATABASES["default"]
    login = f"{server['USER']}:{server['PASSWORD']}" if server["PASSWORD"] else server["USER"]
    address = f"postgres://{login}@{server['HOST']}:{server['PORT']}"
    database, chroot, port = f"mq_ctl_{uuid.uuid4().hex[:10]}", f"/mqctl-{uuid.uuid4().hex[:10]}", free_port()
    hosts = settings.ZOOKEEPER_HOSTS.split("/", 1)[0]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MQADMIN_", "PYTEST_"))},
        "DATABASE_URL": f"{address}/{database}", "ZOOKEEPER_HOSTS": hosts + chroot, "MQADMIN_SECRET_KEY": "only-for-this-test-" + "x" * 40,
        "CELERY_BROKER_URL": f"redis+socket://{home / 'redis.sock'}", "MQADMIN_ENVIRONMENT": "test", "PYTHONUNBUFFERED": "1",
        "MQADMIN_ENCRYPTION_KEYS": os.environ["MQADMIN_ENCRYPTION_KEYS"], "MQADMIN_LOG_LEVEL": "ERROR",
        "MQADMIN_RATE_LIMIT": "", "MQADMIN_ANONYMOUS_RATE_LIMIT": "", "MQADMIN_DATA_RATE_LIMIT": "",
    }  # fmt: skip
    base = f"http://127.0.0.1:{port}"
    zookeeper = KazooClient(hosts=hosts)
    zookeeper.start(timeout=15)
    zookeeper.ensure_path(chroot)
    started = []

    def start(*arguments):
        started.append(Lines([sys.executable, *arguments], environment))

    with psycopg.connect(f"{address}/postgres", autocommit=True) as admin:
        template = server["TEST"].get("TEMPLATE") or connection.settings_dict["NAME"]  # alone, this run's own: all tables are there
        connection.close()
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (template,))
        admin.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        try:
            redis = ["--port", "0", "--unixsocket", str(home / "redis.sock"), "--save", "", "--dir", str(home)]
            started.append(Lines([str(packages.find().redis), *redis], environment))
            for arguments in (["migrate", "-v0"], ["create_people", "--file", str(home / "people")]):
                subprocess.run([sys.executable, "manage.py", *arguments], cwd=CHECKOUT, env=environment, check=True, capture_output=True)
            people = dict(shlex.split(line)[0].split("=", 1) for line in (home / "people").read_text().splitlines() if "=" in line)
            start("-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                  "--blocking-threads", "8", "--log-level", "error", "mqadmin.wsgi:application")  # fmt: skip
            start("manage.py", "registrar", "--skip-checks")
            start("-m", "celery", "-A", "mqadmin", "--quiet", "--skip-checks", "worker", "--pool", "solo", "--beat",
                  "--schedule", str(home / "beat"), "--without-gossip",
                  "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")  # fmt: skip
            clients = {
                name: httpx.Client(
                    base_url=f"{base}/api/v1/", headers={"Authorization": f"Token {people[f'MQADMIN_{name.upper()}_TOKEN']}"},
                    trust_env=False, timeout=60,
                )
                for name in ("admin", "operator")
            }  # fmt: skip
            wait_for(lambda: _answers(base), 120, "the web process")
            own = {"MQADMIN_URL": base, "MQADMIN_ZOOKEEPER": hosts + chroot, "NO_PROXY": "*"}
            mqctl = {name: Mqctl(home, **own, MQADMIN_TOKEN=people[f"MQADMIN_{name.upper()}_TOKEN"]) for name in clients}
            yield SimpleNamespace(base=base, zookeeper=hosts + chroot, home=home, people=people, mqctl=mqctl, **clients)
        finally:
            for process in started[::-1]:
                process.end()
                print("\n".join(process.seen[-30:]))
            admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
            zookeeper.delete(chroot, recursive=True)
            zookeeper.stop()
            zookeeper.close()


def _answers(base):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{base}/healthz", trust_env=False, timeout=2).status_code == 200


def good(answer, status=(200, 201, 202, 204)):
    assert answer.status_code in status, answer.text
    return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def orders(house):
    """An application with topics order_topic and mail_topic and the group order_bill_group, active and published."""
    good(house.admin.post("applications", json={"name": "order-service"}))
    for name in ("order_topic", "mail_topic"):
        fields = {"name": name, "application": "order-service", "expected_rate": 200, "message_bytes": 400, "reason": "orders"}
        good(house.admin.post("topics", json=fields))
        good(house.operator.post(f"topics/{name}/approval?wait=published", json={"cluster": "builtin"}))
    fields = {
        "name": "order_bill_group", "application": "order-service", "subscriptions": [{"topic": "order_topic", "tags": "created || paid"}],
        "max_attempts": 1, "reason": "bills",
    }  # fmt: skip
    good(house.admin.post("consumer-groups", json=fields))
    good(house.operator.post("consumer-groups/order_bill_group/approval?wait=published", json={}))
    good(house.admin.post("clusters", json={"name": "kafka-b", "kind": "kafka", "address": "127.0.0.1:9"}))
    return house


@pytest.fixture
def mqctl(orders):
    """mqctl as the operator."""
    return orders.mqctl["operator"]


@pytest.fixture
def admin(orders):
    """mqctl as the administrator."""
    return orders.mqctl["admin"]
