"""Private services and what becomes of them, with stand-ins for the product's own processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import supervised
from supervised import Supervisor, environment, processes_of, wait_for

from mqadmin.supervisor.home import CHECKOUT

pytestmark = pytest.mark.system


@pytest.fixture
def start(home):
    begun = []

    def begin(*arguments, **kwargs):
        begun.append(Supervisor(*arguments, **kwargs))
        return begun[-1]

    yield begin
    for one in begun:
        one.end(keep=one.home == home)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home that exists already, in a path with a space and a letter outside ASCII."""
    path = tmp_path_factory.mktemp("a höme") / "data"
    yield path
    supervised.forget(path)


SHOW = ["--", "sh", "-c", 'echo "db=$DATABASE_URL zk=$ZOOKEEPER_HOSTS broker=$CELERY_BROKER_URL"; exec sleep 60']
GIVEN = {"ZOOKEEPER_HOSTS": "zk.example.com:2181", "CELERY_BROKER_URL": "redis://redis.example.com/3"}


def test_it_starts_private_services_in_a_path_with_a_space_and_stops_them(start, home):
    one = start("services", *SHOW, env=environment(home))
    said = one.wait_for(r"db=(\S+) zk=127.0.0.1:(\d+) broker=redis://:\S+@127.0.0.1:(\d+)/0", 60)
    with psycopg.connect(said[1]) as connection:
        settings = ("max_prepared_transactions", "idle_in_transaction_session_timeout", "fsync")
        values = [connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in settings]
        (superuser,) = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        (locale,) = connection.execute("SELECT datcollate FROM pg_database WHERE datname = current_database()").fetchone()
    assert values == ["0", "1min", "on"]
    assert (superuser, locale) == (False, "C.UTF-8")
    assert any(command.startswith("postgres: mqadmin-") for command in processes_of(home).values())
    assert one.stop() < 10
    assert processes_of(home) == {}


def test_the_second_start_keeps_data_and_ports(start, home):
    pattern = r"db=(\S+) zk=(\S+)"
    one = start("services", *SHOW, env=environment(home))
    first = one.wait_for(pattern, 60)
    with psycopg.connect(first[1]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    one.stop()
    two = start("services", *SHOW, env=environment(home))
    second = two.wait_for(pattern, 20)
    assert second.groups() == first.groups()
    with psycopg.connect(second[1]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    two.stop()


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(start, home):
    # The grandchildren are in no reach of the kernel's death signal, and deaf to all that can be ignored.
    stubborn = 'trap "" TERM INT HUP; for n in 1 2 3; do (trap "" TERM INT HUP; sleep 600) & done; echo running; wait'
    one = start("services", "--", "sh", "-c", stubborn, env=environment(home))
    one.wait_for("running", 60)
    assert len([command for command in processes_of(home).values() if command == "sleep 600"]) == 3
    one.process.kill()
    wait_for(lambda: not processes_of(home), 8, "the end of all processes")
    two = start("services", "--", "echo", "works again", env=environment(home))
    two.wait_for("works again", 30)
    two.process.wait(15)
    assert two.process.returncode == 0


def test_what_a_killed_supervisor_and_its_killed_guard_left_is_ended_by_the_next_start(start, home):
    one = start("services", "--", "sh", "-c", "echo running; setsid true; sleep 601", env=environment(home))
    one.wait_for("running", 60)
    guard = next(pid for pid, command in processes_of(home).items() if "guard.py" in command)
    os.kill(one.process.pid, signal.SIGSTOP)  # else it would start another guard
    os.kill(guard, signal.SIGKILL)
    one.process.kill()
    two = start("services", "--", "echo", "works again", env=environment(home))
    two.wait_for("works again", 40)
    two.process.wait(15)
    assert processes_of(home) == {}


def test_a_cluster_whose_passwords_are_gone_is_put_aside_not_deleted(start, tmp_path):
    given = environment(tmp_path / "home", ZOOKEEPER_HOSTS="zk.example.com", CELERY_BROKER_URL="redis://redis.example.com/3")
    one = start("services", *SHOW, env=given)
    one.wait_for(r"db=(\S+)", 60)
    one.stop()
    (tmp_path / "home" / "services" / "state.json").unlink()
    two = start("services", *SHOW, env=given)
    url = two.wait_for(r"db=(\S+)", 60)[1]
    aside = two.wait_for(r"put aside as (\S+)", 5)[1]
    assert (Path(aside) / "PG_VERSION").exists()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    two.stop()


def test_a_killed_postgres_comes_back(start, home):
    one = start("services", *SHOW, env=environment(home))
    url = one.wait_for(r"db=(\S+)", 60)[1]
    with psycopg.connect(url) as connection:
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        # While the connection is open: its backend is gone a moment after the block.
        postmaster = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(postmaster, signal.SIGKILL)
    one.wait_for(r"postgres was ended by SIGKILL; starting it again", 5)

    def answers():
        try:
            with psycopg.connect(url, connect_timeout=2) as again:
                return again.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    wait_for(answers, 20, "a Postgres that answers")
    one.stop()


def test_a_command_that_ignores_every_signal_does_not_delay_the_end(start, home):
    one = start("services", "--", "sh", "-c", 'trap "" TERM INT HUP; echo deaf; while :; do sleep 1; done', env=environment(home))
    one.wait_for("deaf", 60)
    assert one.stop() < 10
    assert processes_of(home) == {}


def test_a_second_supervisor_on_the_same_home_is_refused(start, tmp_path):
    given = environment(tmp_path / "home", DATABASE_URL="postgres://db.example.com/mq", **GIVEN)
    one = start("services", "--", "sh", "-c", "echo first; sleep 60", env=given)
    one.wait_for("first", 30)
    two = start("services", "--", "true", env=given)
    said = two.wait_for(r"already runs on (.*) \(process (\d+)\)", 10)
    assert int(said[2]) == one.process.pid
    two.process.wait(5)
    assert two.process.returncode == 1
    assert one.process.poll() is None
    one.stop()


def test_two_copies_run_side_by_side(start, home, tmp_path):
    one = start("services", *SHOW, env=environment(home))
    two = start("services", *SHOW, env=environment(tmp_path / "other"))
    first, second = one.wait_for(r"db=(\S+) zk=(\S+) broker=(\S+)", 60), two.wait_for(r"db=(\S+) zk=(\S+) broker=(\S+)", 60)
    assert not set(first.groups()) & set(second.groups())
    two.stop()
    with psycopg.connect(first[1]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    one.stop()


def test_servers_that_the_environment_names_are_used_and_none_is_started(start, tmp_path):
    given = {"DATABASE_URL": "postgres://someone@db.example.com/mq", **GIVEN}
    one = start("services", *SHOW, env=environment(tmp_path / "home", **given))
    one.wait_for("db=postgres://someone@db.example.com/mq zk=zk.example.com:2181 broker=redis://redis.example.com/3", 30)
    assert "Private services" not in one.said
    assert sorted(path.name for path in (tmp_path / "home" / "services").iterdir() if path.is_dir()) == ["log"]
    one.stop()


def test_each_service_is_its_own_decision(start, tmp_path):
    one = start("services", *SHOW, env=environment(tmp_path / "home", DATABASE_URL="postgres://someone@db.example.com/mq"))
    one.wait_for(r"db=postgres://someone@db.example.com/mq zk=127.0.0.1:\d+ broker=redis://:", 30)
    assert one.wait_for("Private services: (.*)", 5)[1].count("127.0.0.1") == 2
    one.stop()


def test_a_port_in_use_is_named_with_the_variable_to_change_it(start, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        one = start("run", env=environment(tmp_path / "home", port))
        said = one.wait_for(rf"Port {port} on 127.0.0.1 is in use by another program. Choose another one: MQADMIN_PORT=(\d+) make run", 10)
        assert int(said[1]) != port
        one.process.wait(5)
    assert one.process.returncode == 1
    assert time.monotonic() - began < 30


def test_the_status_of_the_command_is_passed_on(tmp_path):
    given = environment(tmp_path / "home", DATABASE_URL="postgres://db.example.com/mq", **GIVEN)
    done = subprocess.run(
        [sys.executable, "-m", "mqadmin.supervisor", "services", "--", "sh", "-c", "exit 7"], cwd=CHECKOUT, env=given, check=False
    )
    assert done.returncode == 7


def test_make_help_lists_every_target():
    said = subprocess.run(["make"], cwd=CHECKOUT, env=environment(supervised.CHECKOUT), capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "lint", "bench", "fuzz", "demo", "help"):
        assert f"make {target}" in said
