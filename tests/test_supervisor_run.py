"""`make run` with the product's own processes: first start, second start, deaths, the end."""

import json
import os
import re
import shutil
import signal
import stat
import time
import urllib.error
import urllib.request

import psycopg
import pytest
from supervised import Supervisor, environment, free_port, processes_of, wait_for

from mqadmin.supervisor.home import read_env

pytestmark = pytest.mark.system

FIRST_START, LATER_START = 90, 45  # seconds, on a machine that other tests keep busy
READY = r"mqadmin is at (http://127.0.0.1:\d+)/admin/"


class Instance:
    """One home with its port; started when a test needs it running."""

    def __init__(self, home):
        self.home, self.port = home, free_port()
        self.now = None
        self.seconds = 0.0

    def start(self, patience=LATER_START):
        if self.now is None or self.now.process.poll() is not None:
            self.now = Supervisor("run", env=environment(self.home, self.port))
            self.now.wait_for(READY, patience)
            self.seconds = time.monotonic() - self.now.started
        return self.now

    def stop(self):
        self.start()
        return self.now.stop()

    def child(self, name):
        """The pid of a child by its name, as the home tells it."""
        rows = json.loads((self.home / "processes.json").read_text())
        return next((row["pid"] for row in rows if row["name"] == name), None)

    def status(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture(scope="module")
def first_start(tmp_path_factory):
    one = Instance(tmp_path_factory.mktemp("with space") / "home")
    one.start(FIRST_START)
    one.said_first = one.now.said
    yield one
    if one.now is not None:
        one.now.end()


@pytest.fixture
def instance(first_start):
    first_start.start()
    return first_start


def test_the_first_start_shows_address_and_passwords_once(first_start):
    people = read_env(first_start.home / "credentials.env")
    assert people["MQADMIN_URL"] == f"http://127.0.0.1:{first_start.port}"
    for name in ("MQADMIN_ADMIN", "MQADMIN_OPERATOR"):
        assert re.search(rf"{people[f'{name}_USER']}\s+password {re.escape(people[f'{name}_PASSWORD'])}", first_start.said_first)
        assert people[f"{name}_TOKEN"] not in first_start.said_first
    for name in ("credentials.env", "env", "secret_key", "encryption_keys", "state.json"):
        if (first_start.home / name).exists():  # `env` is there while it runs
            assert stat.S_IMODE((first_start.home / name).stat().st_mode) == 0o600


def test_everything_is_ready_and_each_process_is_named(instance):
    assert instance.status("/readyz") == 200
    rows = json.loads((instance.home / "processes.json").read_text())
    assert {row["name"] for row in rows} == {
        "postgres",
        "zookeeper",
        "redis",
        "web",
        "worker",
        "pusher",
        "beat",
        "registrar",
        "storekeeper",
    }
    for name in ("registrar", "storekeeper", "beat"):
        instance.now.wait_for(rf"(?m)^{name} +│ ", 15)


def test_the_environment_of_the_running_instance_is_there_for_other_tools(instance):
    values = read_env(instance.home / "env")
    assert {
        "DATABASE_URL",
        "ZOOKEEPER_HOSTS",
        "CELERY_BROKER_URL",
        "MQADMIN_URL",
        "MQADMIN_SECRET_KEY_FILE",
        "MQADMIN_ENCRYPTION_KEYS_FILE",
    } <= set(values)
    with psycopg.connect(values["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM django_migrations").fetchone()[0] > 0


@pytest.mark.parametrize("name", ["worker", "registrar"])
def test_a_child_that_dies_is_started_again_and_the_log_says_so(instance, name):
    old = instance.child(name)
    os.kill(old, signal.SIGKILL)
    instance.now.wait_for(rf"mqadmin +│ {name} was ended by SIGKILL; starting it again in [\d.]+ s", 10)
    new = wait_for(lambda: instance.child(name), 20, f"another {name}")
    assert new != old


def test_a_killed_web_process_leaves_no_second_listener_and_comes_back(instance):
    old = instance.child("web")
    os.kill(old, signal.SIGKILL)
    instance.now.wait_for(r"mqadmin +│ web was ended by SIGKILL; starting it again", 10)
    wait_for(lambda: instance.status("/healthz") == 200, 30, "an answer of the web process")
    web = [command for command in processes_of(instance.home).values() if "granian" in command and str(instance.port) in command]
    assert len(web) <= 2, web  # the main process and one worker


def test_it_stops_within_ten_seconds_leaves_no_orphan_and_starts_again_with_its_data(instance):
    before = read_env(instance.home / "credentials.env")
    assert instance.stop() < 10
    assert processes_of(instance.home) == {}
    assert instance.now.process.returncode == 0
    assert not (instance.home / "env").exists()
    instance.start()
    assert read_env(instance.home / "credentials.env") == before
    assert before["MQADMIN_ADMIN_PASSWORD"] not in instance.now.said
    assert str(instance.home / "credentials.env") in instance.now.said
    request = urllib.request.Request(
        f"http://127.0.0.1:{instance.port}/api/v1/topics", headers={"Authorization": f"Token {before['MQADMIN_ADMIN_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(instance):
    instance.now.process.kill()
    instance.now.process.wait()
    wait_for(lambda: not processes_of(instance.home), 10, "the end of all processes")
    instance.start()
    assert instance.status("/readyz") == 200


def test_a_database_that_was_lost_is_prepared_anew_with_new_people(instance):
    """Also what a restored home without its data directory looks like."""
    before = read_env(instance.home / "credentials.env")
    instance.stop()
    shutil.rmtree(json.loads((instance.home / "state.json").read_text())["postgres_data"])
    instance.start(FIRST_START)
    after = read_env(instance.home / "credentials.env")
    assert instance.status("/readyz") == 200, instance.now.said
    assert after["MQADMIN_ADMIN_PASSWORD"] != before["MQADMIN_ADMIN_PASSWORD"]
    instance.now.wait_for(re.escape(after["MQADMIN_ADMIN_PASSWORD"]), 5)
