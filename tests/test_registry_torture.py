"""Three registrars killed at random under 200 changes a second, ZooKeeper and Postgres failing too: no generation falls, none is lost.

make soak ARGS=6     # a minute (ten seconds a round), with Postgres itself killed; here a dozen seconds
"""

import contextlib
import json
import os
import queue
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from registry_world import Lines, committed, wait_for  # noqa: F401
from supervised import Supervisor, environment, processes_of
from zookeeper_server import Ensemble

LONG = "MQADMIN_SOAK" in os.environ
pytestmark = [pytest.mark.system, pytest.mark.timeout(900 if LONG else 240)]
SECONDS = 60 if LONG else 10
RATE = 200


class Watcher(threading.Thread):
    """An independent client of every topic, as ZMS has them: one-shot watches, read again at each event. Keeps what it saw."""

    def __init__(self, hosts, paths):
        super().__init__(daemon=True)
        self.hosts, self.paths = hosts, paths
        self.seen, self.backwards, self.reads = {}, [], 0
        self._over = threading.Event()
        self.start()

    def run(self):
        while not self._over.is_set():
            client = KazooClient(self.hosts, timeout=4)
            with contextlib.suppress(KazooException, KazooTimeoutError):
                client.start(timeout=5)
                client.sync("/")  # another server may be behind the one that we read from before
                self._follow(client)
            client.stop()
            client.close()

    def _follow(self, client):
        events = queue.SimpleQueue()
        for path in self.paths:
            events.put(path)
        while not self._over.is_set() and client.connected:
            try:
                path = events.get(timeout=0.5)
            except queue.Empty:
                continue
            fired = lambda event, path=path: events.put(path) if event.type != "NONE" else None  # noqa: E731
            try:
                self._see(path, client.get(path, watch=fired)[0])
            except NoNodeError:
                if client.exists(path, watch=fired) is not None:
                    events.put(path)

    def _see(self, path, data):
        self.reads += 1
        generation = int(data.partition(b"mqadmin.generation=")[2].split(b"\n")[0])
        if generation < self.seen.get(path, 0):
            self.backwards.append((path, self.seen[path], generation, f"{datetime.now(UTC):%H:%M:%S.%f}"))
        self.seen[path] = max(generation, self.seen.get(path, 0))

    def end(self):
        self._over.set()
        self.join(30)


class SharedPostgres:
    """The tests' own database, which nobody else uses meanwhile: its connections are cut, and refused for a while."""

    def __init__(self):
        from django.db import connection

        of = connection.settings_dict
        auth = of["USER"] + (f":{of['PASSWORD']}" if of["PASSWORD"] else "")
        self._server, self._name = f"postgres://{auth}@{of['HOST']}:{of['PORT'] or 5432}", of["NAME"]
        self.url = f"{self._server}/{self._name}"

    def restart(self):
        from django.db import connection

        connection.close()  # else the test itself would find its own cut
        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
            try:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self._name])
                time.sleep(0.5)
            finally:
                admin.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')

    def end(self):
        """It stays."""


class OwnPostgres:
    """A server of our own under the supervisor: killed without a checkpoint, it recovers and is there again."""

    def __init__(self, home):
        given = environment(home, ZOOKEEPER_HOSTS="none:2181", CELERY_BROKER_URL="redis://none/0")
        self._supervisor = Supervisor("services", "--", "sh", "-c", 'echo "db=$DATABASE_URL"; exec sleep 3600', env=given)
        self.url = self._supervisor.wait_for(r"db=(\S+)", 90)[1]
        self._home = home

    def restart(self):
        pid = next(pid for pid, title in processes_of(self._home).items() if "checkpointer" in title)
        status = Path(f"/proc/{pid}/status").read_text()
        os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGQUIT)
        wait_for(self._answers, 60, "Postgres after its crash")

    def _answers(self):
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def end(self):
        self._supervisor.end()


class Deployment:
    """Three registrars and the changes, on one database and one ZooKeeper."""

    def __init__(self, postgres, hosts, *, seed, unconditional=False):
        self.env = os.environ | {
            "DATABASE_URL": postgres.url,
            "ZOOKEEPER_HOSTS": hosts,
            "ZOOKEEPER_SESSION_TIMEOUT": "4",
            "MQADMIN_LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
        }
        self.hosts, self._unconditional = hosts, unconditional
        self.said = []  # of registrars that were killed
        self.registrars = [self._registrar() for _ in range(3)]
        self.load = self._python("tests/publication_load.py", str(seed), str(RATE), stdin=True)
        self.load.expect("changing")

    def _python(self, *arguments, stdin=False):
        return Lines([sys.executable, *arguments], self.env, stdin=stdin)

    def _registrar(self):
        return self._python("tests/racing_registrar.py", *(["--unconditional"] if self._unconditional else []))

    def replace(self, rng):
        """Kill one registrar as it stands and start another."""
        number = rng.randrange(3)
        self.registrars[number].signal(signal.SIGKILL)
        self.registrars[number].end()
        self.said += self.registrars[number].seen
        self.registrars[number] = self._registrar()

    def stop_changing(self):
        self.load.process.stdin.close()
        return json.loads(self.load.expect("committed"))

    def verify(self):
        checking = self._python("tests/publication_load.py", "verify", self.hosts)
        try:
            return json.loads(checking.expect("generations", 150))
        finally:
            checking.end()

    def about(self, paths):
        """What the registrars have logged of these paths, in its order."""
        lines = self.said + [line for registrar in self.registrars for line in registrar.seen]
        return sorted(line for line in lines if any(f"path={path} " in f"{line} " for path in paths))

    def end(self):
        for process in [self.load, *self.registrars]:
            process.end()


def test_no_generation_falls_and_no_change_is_lost_under_kills_and_faults(request, tmp_path):
    seed = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}")
    rng = random.Random(seed)
    if LONG:
        postgres = OwnPostgres(tmp_path / "home")
        Lines([sys.executable, "manage.py", "migrate"], os.environ | {"DATABASE_URL": postgres.url}).process.wait(180)
    else:
        request.getfixturevalue("committed")
        postgres = SharedPostgres()
    ensemble = Ensemble(tmp_path / "ensemble").start()
    world = watchers = None
    try:
        world = Deployment(postgres, ensemble.hosts, seed=seed)
        watchers = [Watcher(ensemble.hosts, [f"/zms/topic/t{number}" for number in range(40)]) for _ in range(2)]

        def kill(server):
            server.kill()
            time.sleep(rng.random())
            server.start()

        def pause(server, seconds):
            server.pause()
            time.sleep(seconds)
            server.resume()

        def restart_all(how):
            how()
            ensemble.start()

        faults = {
            "kill -9 of a registrar": lambda: world.replace(rng),
            "kill -9 of another registrar": lambda: world.replace(rng),
            "kill -9 of ZooKeeper's leader": lambda: kill(ensemble.leader()),
            "ZooKeeper's leader frozen": lambda: pause(ensemble.leader(), 1 + 2 * rng.random()),
            "Postgres restarted": postgres.restart,
            "ZooKeeper wiped": lambda: restart_all(ensemble.wipe),
            "kill -9 of a ZooKeeper": lambda: kill(rng.choice(ensemble.servers)),
            "kill -9 of all ZooKeepers": lambda: restart_all(ensemble.kill),
            "a ZooKeeper frozen for longer than sessions live": lambda: pause(rng.choice(ensemble.servers), 6),
        }
        began, names = time.monotonic(), []
        while time.monotonic() < began + SECONDS or names:
            if not names:
                names = list(faults) if LONG else list(faults)[:6]
                rng.shuffle(names)
            name = names.pop()
            started = time.monotonic()
            faults[name]()
            print(f"  {time.monotonic() - began:5.1f} s: {name}, {time.monotonic() - started:.1f} s", flush=True)
            if name == "ZooKeeper wiped":
                faults.pop(name)  # several in a minute would use up the repair budget, which is there for fights
            time.sleep(0.3 + rng.random() * 0.5)
        told = world.stop_changing()
        after = world.verify()
        assert after["wrong"] == {}, "\n".join(world.about(after["wrong"]))
        lost = {path: (n, after["generations"].get(path)) for path, n in told["committed"].items() if after["generations"].get(path, 0) < n}
        assert lost == {}
        fell = [one for watcher in watchers for one in watcher.backwards]
        assert fell == [], "\n".join([f"{fell}", *world.about({path for path, *_rest in fell})])
        assert told["made"] > 100
        rate = told["made"] / told["seconds"]
        seen = sum(watcher.reads for watcher in watchers)
        print(f"  {told['made']} changes, {rate:.0f} a second, {told['refused']} refused, {seen} states seen")
        assert all(watcher.reads > 20 for watcher in watchers), "hardly anything was seen: this proves nothing"
    finally:
        for watcher in watchers or []:
            watcher.end()
        if world is not None:
            world.end()
        ensemble.kill()
        postgres.end()


def test_with_unconditional_writes_generations_do_fall(committed, zk_chroot):  # noqa: F811
    """The negative control: the same races, without the versions that make them harmless."""
    world = Deployment(SharedPostgres(), zk_chroot, seed=1, unconditional=True)
    watcher = Watcher(zk_chroot, [f"/zms/topic/t{number}" for number in range(40)])
    try:
        wait_for(lambda: watcher.backwards, 60, "a generation that falls")
    finally:
        watcher.end()
        world.end()
