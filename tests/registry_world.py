"""What the tests of publication share: a committed database, an independent ZooKeeper client, registrars and SDK programs as processes."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kazoo.client import KazooClient

CHECKOUT = Path(__file__).resolve().parent.parent


def wait_for(condition, seconds: float = 40.0, what: str = "the condition"):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


class Lines:
    """A process whose lines are read as they come."""

    def __init__(self, argv: list[str], env: dict[str, str], *, stdin: bool = False) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            argv, stdin=pipe if stdin else None, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=env, cwd=CHECKOUT
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.seen.append(line.rstrip("\n"))
            self._lines.put(line.rstrip("\n"))

    def expect(self, part: str, seconds: float = 60.0) -> str:
        """The next line that contains this; lines before it are skipped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=min(left, 1.0))
                if part in line:
                    return line
                continue
            if self.process.poll() is not None and not self._reader.is_alive() and self._lines.empty():
                break
        raise AssertionError(f"no line with {part!r} within {seconds} s; it said:\n" + "\n".join(self.seen[-40:]))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code


class World:
    """One deployment: the test database, one ZooKeeper tree, and processes on both."""

    def __init__(self, hosts: str) -> None:
        self.hosts = hosts
        self.processes: list[Lines] = []
        self._clients: list[KazooClient] = []

    @property
    def environment(self) -> dict[str, str]:
        from django.db import connection

        of = connection.settings_dict
        auth = of["USER"] + (f":{of['PASSWORD']}" if of["PASSWORD"] else "")
        return os.environ | {
            "DATABASE_URL": f"postgres://{auth}@{of['HOST']}:{of['PORT'] or 5432}/{of['NAME']}",
            "ZOOKEEPER_HOSTS": self.hosts,
            "ZOOKEEPER_SESSION_TIMEOUT": "4",
            "DJANGO_SETTINGS_MODULE": "mqadmin.settings",
            "PYTHONUNBUFFERED": "1",
        }

    def registrar(self, *arguments: str, ready: bool = True, hosts: str | None = None, **settings: str) -> Lines:
        env = self.environment | ({"ZOOKEEPER_HOSTS": hosts} if hosts else {}) | settings
        process = Lines([sys.executable, "manage.py", "registrar", "--skip-checks", *arguments], env)  # as `make run` does
        self.processes.append(process)
        process.expect("registrar_started")
        if ready:
            from registry.models import RegistrarHeartbeat

            wait_for(lambda: RegistrarHeartbeat.objects.watching().filter(pid=process.process.pid).exists(), what="a live watch")
        return process

    def example(self, *arguments: str, session_timeout: float = 4.0) -> Lines:
        argv = [sys.executable, "sdk/examples/watch.py", "--zookeeper", self.hosts, "--session-timeout", str(session_timeout), *arguments]
        process = Lines(argv, dict(os.environ))
        self.processes.append(process)
        process.expect("watching")
        return process

    def raw(self, hosts: str | None = None) -> KazooClient:
        """An independent client: kazoo as it comes, none of our code."""
        client = KazooClient(hosts=hosts or self.hosts, timeout=10)
        client.start(timeout=15)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for process in self.processes:
            process.end()
            print("\n".join(process.seen[-60:]))  # pytest shows it where a test failed
        for client in self._clients:
            with contextlib.suppress(Exception):
                client.stop()
                client.close()


@pytest.fixture
def committed(django_db_setup, django_db_blocker):
    """The database with real commits, as other processes see it; the room's tables are empty meanwhile, and afterwards as before."""
    from django.db import connection

    from registry.discovery_models import Service, WorkerId
    from registry.models import Deployment, Drift, DriftPolicy, Instance, Publication, RegistrarHeartbeat

    def empty():
        for model in (Publication, Instance, RegistrarHeartbeat, Deployment, Drift, Service, WorkerId):
            model.objects.all().delete()
        DriftPolicy.objects.update(policy="repair")

    with django_db_blocker.unblock():
        before = list(Publication.objects.all())
        empty()
        yield
        empty()
        Publication.objects.bulk_create(before)
        connection.close()


@pytest.fixture
def world(committed, zk_chroot):
    """A deployment on a chroot of its own."""
    found = World(zk_chroot)
    yield found
    found.close()


def why(message="a test", **values):
    """A change, as the rooms above make one for each verb."""
    from registry.releases import Change

    return Change(**{"author": None, "message": message, **values})


def put_cluster(name="kafka-a", address="10.0.0.1:9092", kind="kafka"):
    from registry import services

    return services.publish_properties(
        path=f"/zms/cluster/{name}", zms={"bootAddr": address, "brokerType": kind, "serverIps": ""}, own={}, change=why()
    )


def put_topic(name="orders", cluster="kafka-a"):
    from registry import services

    return services.publish_properties(
        path=f"/zms/topic/{name}",
        zms={"clusterName": cluster, "type": "topic", "gatedIps": "", "gatedCluster": "", "statisticsLogger": "disk"},
        own={"mqadmin.drainClusters": ""},
        requires=[f"/zms/cluster/{cluster}"],
        change=why(),
    )


def put_group(name="billing", cluster="kafka-a", *, suspend=False, topic="orders"):
    from registry import services

    return services.publish_properties(
        path=f"/zms/consumergroup/{name}",
        zms={
            "clusterName": cluster,
            "type": "consumergroup",
            "bindingTopic": topic,
            "broadcast": "false",
            "consumeFrom": "earliest",
            "suspend": "true" if suspend else "false",
            "gatedIps": "",
            "gatedCluster": "",
            "statisticsLogger": "disk",
        },
        own={"mqadmin.drainClusters": "", "mqadmin.subscriptions": '{"orders":"created || paid"}', "mqadmin.maxAttempts": "16"},
        requires=[f"/zms/cluster/{cluster}"],
        change=why(),
    )


def published(*rows, seconds=40.0):
    """Wait until the registrars have written these rows' last generations."""
    from registry.models import Publication

    paths = [getattr(row, "path", row) for row in rows]
    wait_for(lambda: all(row.is_published for row in Publication.objects.filter(path__in=paths)), seconds, f"publication of {paths}")
