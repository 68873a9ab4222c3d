"""Private Postgres, ZooKeeper and Redis of one home: on 127.0.0.1, TCP only, supervised like everything else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mqadmin.supervisor import packages, users
from mqadmin.supervisor.home import CannotContinueError, Home, write_private
from mqadmin.supervisor.processes import Account, Program, start_time

if TYPE_CHECKING:
    from collections.abc import Callable

LOCALE_ENV = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
LOG_LIMIT = 20_000_000  # bytes after which a service's log is put aside at the next start, one generation kept
DATA_ELSEWHERE = Path("/var/lib/mqadmin")


def given(name: str) -> bool:
    """Tell whether the environment names a service of the operator's own (NAME or NAME_FILE)."""
    return bool(os.environ.get(name, "").strip() or os.environ.get(f"{name}_FILE", "").strip())


def private_environment() -> dict[str, str]:
    """Return a small environment for a server: nothing of ours leaks into it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", **LOCALE_ENV}


def turn_over(log: Path) -> Path:
    """Put a log that has grown big aside and return the path."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
    return log


class Postgres:
    """A cluster of our own with one role and one database, both called mqadmin."""

    name = "postgres"
    variable = "DATABASE_URL"

    def __init__(self, home: Home, found: packages.Found, *, durable: bool, say: Callable[[str], None]) -> None:
        self._home, self._durable, self._say = home, durable, say
        self._account = users.postgres_account()
        self.title = f"mqadmin-{home.tag}"
        self._data = self._choose_data()
        self._bin = self._choose_binaries(found)
        self.port, moved = home.port(self.name)
        if moved:
            say(f"  port {moved}, where Postgres was, is in use now: it moves to {self.port}")

    @property
    def url(self) -> str:
        """The database as Django takes it."""
        return f"postgres://mqadmin:{quote(self._home.secret('postgres_password'))}@127.0.0.1:{self.port}/mqadmin"

    def _choose_data(self) -> Path:
        remembered = self._home.remembered("postgres_data")
        if remembered and (Path(remembered) / "PG_VERSION").exists():
            return Path(remembered)
        inside = self._home.path / "postgres"
        chosen = inside
        if self._account and not users.can_work_in(self._account, self._home.path):
            chosen = DATA_ELSEWHERE / self._home.tag / "postgres"
            self._say(f"  the user {self._account.name} cannot enter {self._home.path}: Postgres keeps its data in {chosen}")
        self._home.remember("postgres_data", str(chosen))
        return chosen

    def _choose_binaries(self, found: packages.Found) -> Path:
        version_file = self._data / "PG_VERSION"
        if not version_file.exists():
            return max(found.postgres, key=lambda item: item[0])[1]
        major = int(version_file.read_text().strip())
        for candidate, directory in found.postgres:
            if candidate == major:
                return directory
        have = ", ".join(str(candidate) for candidate, _directory in found.postgres)
        raise CannotContinueError(
            f"The data in {self._data} was made by PostgreSQL {major}; installed: {have}. "
            f"Install postgresql-{major}, or dump and restore into a new MQADMIN_HOME."
        )

    def prepare(self) -> None:
        """Create the cluster if there is none, and write its configuration anew."""
        if (self._data / "PG_VERSION").exists() and not self._home.remembered("postgres_password"):
            # The home was removed, or its state: nobody knows this cluster's passwords any more. Nothing is deleted unasked.
            aside = self._data.with_name(f"postgres.before-{time.strftime('%Y%m%d-%H%M%S')}")
            self._data.rename(aside)
            self._say(f"  {self._data} belongs to an earlier home, whose passwords are gone: put aside as {aside}")
        if not (self._data / "PG_VERSION").exists():
            self._create()
        self._write_configuration()

    def _create(self) -> None:
        self._home.remember("prepared", "")  # an empty database has no migrations, whatever was applied to its predecessor
        self._data.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        fresh = self._data.with_name("postgres.new")  # renamed when complete: an interrupted start leaves no half cluster
        for path in (fresh, self._data):
            if path.exists():
                shutil.rmtree(path)
        fresh.mkdir(mode=0o700)
        if self._account:
            os.chown(fresh, self._account.uid, self._account.gid)
        password_file = fresh.parent / "postgres.password"
        write_private(password_file, self._home.secret("postgres_superuser_password") + "\n")
        if self._account:
            os.chown(password_file, self._account.uid, self._account.gid)
        try:
            self._run(
                "initdb", "--pgdata", str(fresh), "--username", "postgres", "--pwfile", str(password_file), "--auth", "scram-sha-256",
                "--encoding", "UTF8", "--locale", "C.UTF-8", "--data-checksums", *([] if self._durable else ["--no-sync"]),
            )  # fmt: skip
        finally:
            password_file.unlink()
        # Single-user mode: no server to wait for, no client programs needed.
        password = self._home.secret("postgres_password")
        script = f"CREATE ROLE mqadmin LOGIN CREATEDB PASSWORD '{password}'\nCREATE DATABASE mqadmin OWNER mqadmin\n"
        if not self._durable and int((fresh / "PG_VERSION").read_text()) >= 15:
            script += "GRANT SET ON PARAMETER deadlock_timeout TO mqadmin\n"  # tests of deadlocks need not wait a second for each
        self._run("postgres", "--single", "-D", str(fresh), "-c", "dynamic_shared_memory_type=mmap", "postgres", script=script)
        fresh.rename(self._data)
        # What an earlier database published belongs to a deployment that is no more; the registrar would rightly refuse the tree.
        tree = self._home.path / "zookeeper"
        if tree.exists():
            aside = tree.with_name(f"zookeeper.before-{time.strftime('%Y%m%d-%H%M%S')}")
            tree.rename(aside)
            self._say(f"  the database is new: the tree of private ZooKeeper is put aside as {aside}")

    def _run(self, program: str, *arguments: str, script: str = "") -> None:
        account = self._account
        done = subprocess.run(  # noqa: S603
            [str(self._bin / program), *arguments],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=private_environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        with (self._home.logs / "postgres.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0 or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
            raise CannotContinueError(f"{program} of {self._bin} failed:\n{(done.stderr or done.stdout).strip()}")

    def _write_configuration(self) -> None:
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": "''",  # a socket's path has a limit that a deep checkout exceeds
            "cluster_name": f"'{self.title}'",
            "max_connections": "200",
            "max_prepared_transactions": "0",  # the message store's horizon relies on it
            "idle_in_transaction_session_timeout": "'60s'",
            "dynamic_shared_memory_type": "mmap",  # containers have a /dev/shm of 64 MB
            "shared_buffers": "'128MB'",
            "password_encryption": "'scram-sha-256'",
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "log_line_prefix": "'%m [%p] %u@%d '",
            "log_min_messages": "warning",
            "jit": "off",
            "update_process_title": "on",  # the guard knows its processes by their title
        }
        if not self._durable:
            settings.update(fsync="off", full_page_writes="off", synchronous_commit="off")
        text = "# Written by mqadmin at each start. Your own settings: local.conf beside this file.\n"
        text += "".join(f"{name} = {value}\n" for name, value in settings.items()) + "include_if_exists 'local.conf'\n"
        path = self._data / "postgresql.conf"
        write_private(path, text)
        if self._account:
            os.chown(path, self._account.uid, self._account.gid)

    def _forget_stale_pid(self) -> None:
        """Remove the pid file of a cluster that was killed: its number may be anybody's by now, and Postgres would believe it."""
        pid_file = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(pid_file.read_text().split("\n", 1)[0])
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes() if start_time(pid) is not None else b""
            if os.fsencode(self._data) not in arguments.split(b"\0"):
                pid_file.unlink()

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return (self._data / "postmaster.pid").read_text().split("\n")[7].strip() == "ready"
        return False

    def program(self) -> Program:
        """Return the server as the supervisor runs it."""
        return Program(
            name=self.name,
            argv=[str(self._bin / "postgres"), "-D", str(self._data)],
            cwd=Path("/"),
            env=private_environment(),
            account=self._account,
            log=turn_over(self._home.logs / "postgres.log"),
            stop_signal=signal.SIGINT,  # fast shutdown: waits for no client
            death_signal=signal.SIGQUIT,  # immediate shutdown, takes its backends along
            ready=self._is_ready,
            before_start=self._forget_stale_pid,
            title=self.title,
        )


class ZooKeeper:
    """A standalone server of our own."""

    name = "zookeeper"
    variable = "ZOOKEEPER_HOSTS"

    def __init__(self, home: Home, found: packages.Found, *, durable: bool, say: Callable[[str], None]) -> None:
        self._home, self._durable = home, durable
        self._java, self._class_path = found.java, found.zookeeper
        self._directory = home.path / "zookeeper"
        self.port, moved = home.port(self.name)
        if moved:
            say(f"  port {moved}, where ZooKeeper was, is in use now: it moves to {self.port}")

    @property
    def url(self) -> str:
        """The server as kazoo takes it."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write the configuration and throw old snapshots away, which a standalone server never does by itself."""
        data = self._directory / "version-2"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {
            "tickTime": "500",
            "dataDir": str(self._directory),
            "clientPort": str(self.port),
            "clientPortAddress": "127.0.0.1",
            "admin.enableServer": "false",
            "maxClientCnxns": "0",
            "maxSessionTimeout": "60000",
            "4lw.commands.whitelist": "*",
        }
        write_private(self._directory / "zoo.cfg", "".join(f"{name}={property_value(value)}\n" for name, value in settings.items()))
        _purge(data, keep=5)

    def _is_ready(self) -> bool:
        return ask(self.port, b"srvr").startswith(b"Zookeeper version")

    def program(self) -> Program:
        """Return the server as the supervisor runs it."""
        options = [
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dzookeeper.preAllocSize=4096",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]
        if not self._durable:
            options.append("-Dzookeeper.forceSync=no")
        return Program(
            name=self.name,
            argv=[
                self._java,
                *options,
                "-cp",
                self._class_path,
                "org.apache.zookeeper.server.ZooKeeperServerMain",
                str(self._directory / "zoo.cfg"),
            ],
            cwd=self._directory,
            env=private_environment(),
            log=turn_over(self._home.logs / "zookeeper.log"),
            ready=self._is_ready,
        )


class Redis:
    """A broker for Celery's wake-up calls; it holds nothing that matters, so it writes nothing."""

    name = "redis"
    variable = "CELERY_BROKER_URL"

    def __init__(self, home: Home, found: packages.Found, *, durable: bool, say: Callable[[str], None]) -> None:
        del durable
        self._home, self._binary = home, found.redis
        self._directory = home.path / "redis"
        self.port, moved = home.port(self.name)
        if moved:
            say(f"  port {moved}, where Redis was, is in use now: it moves to {self.port}")

    @property
    def url(self) -> str:
        """The broker as Celery takes it."""
        return f"redis://:{quote(self._home.secret('redis_password'))}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Write the configuration; the password is in the file and not on a command line that everybody can read."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._home.secret('redis_password')}",
            "daemonize no",
            'save ""',
            "appendonly no",
            'logfile ""',
        ]
        write_private(self._directory / "redis.conf", "\n".join(lines) + "\n")

    def _is_ready(self) -> bool:
        return b"+PONG" in ask(self.port, f"AUTH {self._home.secret('redis_password')}\r\nPING\r\nQUIT\r\n".encode())

    def program(self) -> Program:
        """Return the server as the supervisor runs it, in its directory (`dir` in the file cannot take every path)."""
        return Program(
            name=self.name,
            argv=[self._binary, str(self._directory / "redis.conf")],
            cwd=self._directory,
            env=private_environment(),
            log=turn_over(self._home.logs / "redis.log"),
            ready=self._is_ready,
        )


SERVICES: tuple[type[Postgres | ZooKeeper | Redis], ...] = (Postgres, ZooKeeper, Redis)


def ask(port: int, question: bytes, timeout: float = 0.5) -> bytes:
    """Send bytes to a local port and return all of the answer, empty when there is none."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(question)
        while chunk := connection.recv(4096):
            answer += chunk
    return answer


def property_value(text: str) -> str:
    """Return the text as a Java properties file takes it: backslashes doubled, non-ASCII as UTF-16 escapes."""
    units = text.encode("utf-16-be")
    codes = (int.from_bytes(units[index : index + 2], "big") for index in range(0, len(units), 2))
    return "".join("\\\\" if code == 0x5C else chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)


def _purge(data: Path, keep: int) -> None:
    """Keep the newest snapshots and the transaction logs since the oldest of them (what ZooKeeper's PurgeTxnLog does)."""

    def number(path: Path) -> int:
        return int(path.name.rpartition(".")[2], 16)

    snapshots = sorted(data.glob("snapshot.*"), key=number)
    if len(snapshots) <= keep:
        return
    oldest = number(snapshots[-keep])
    logs = sorted(data.glob("log.*"), key=number)
    needed = max((number(path) for path in logs if number(path) <= oldest), default=0)
    for path in [*snapshots[:-keep], *(path for path in logs if number(path) < needed)]:
        path.unlink()


__all__ = ["SERVICES", "Account", "Postgres", "Redis", "ZooKeeper", "ask", "given"]
