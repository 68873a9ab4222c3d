"""A ZooKeeper of a test's own, on a free port: to be paused, killed, started again and wiped."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mqadmin.supervisor import packages


class ZooKeeperServer:
    """One standalone server; nothing of it outlives the test."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.number = 0  # in an ensemble
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "zoo.cfg").write_text(
            f"tickTime=500\ndataDir={directory / 'data'}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\nmaxClientCnxns=0\nmaxSessionTimeout=60000\n"
            + "".join(f"{name}={value}\n" for name, value in settings.items()),
        )

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self, *options: str) -> None:
        """Start the process; whether it serves is another matter."""
        found = packages.find()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        if self.number:
            (data / "myid").write_text(str(self.number))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    found.java,
                    "-Xmx96m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-Dzookeeper.preAllocSize=4096",
                    "-Dzookeeper.forceSync=no",
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    *options,
                    "-cp",
                    found.zookeeper,
                    f"org.apache.zookeeper.server.{'quorum.QuorumPeerMain' if self.number else 'ZooKeeperServerMain'}",
                    str(self.directory / "zoo.cfg"),
                ],
                stdout=log,
                stderr=log,
            )

    def mode(self) -> str:
        """`standalone`, `leader` or `follower`; empty if it does not serve."""
        answer = b""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
            sock.sendall(b"srvr")
            while chunk := sock.recv(4096):
                answer += chunk
        return answer.partition(b"Mode: ")[2].split(b"\n")[0].decode()

    def start(self, *options: str) -> "ZooKeeperServer":
        self.launch(*options)
        return self.serving()

    def serving(self) -> "ZooKeeperServer":
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.mode():
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text()[-2000:])

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on; one that was killed stays so."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # also a paused one
            self.process.wait(10)

    def wipe(self) -> None:
        self.kill()
        shutil.rmtree(self.directory / "data")


class Ensemble:
    """Three servers that elect a leader."""

    def __init__(self, directory: Path) -> None:
        peers = {f"server.{number}": f"127.0.0.1:{free_port()}:{free_port()}" for number in (1, 2, 3)}
        more = {"initLimit": "20", "syncLimit": "10", **peers}
        self.servers = [ZooKeeperServer(directory / str(number), **more) for number in (1, 2, 3)]
        for number, server in enumerate(self.servers, 1):
            server.number = number

    @property
    def hosts(self) -> str:
        return ",".join(server.hosts for server in self.servers)

    def start(self) -> "Ensemble":
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.launch()
        for server in self.servers:
            server.serving()
        return self

    def leader(self) -> ZooKeeperServer:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for server in self.servers:
                if server.mode() == "leader":
                    return server
            time.sleep(0.05)
        raise AssertionError("no leader was elected")

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def wipe(self) -> None:
        self.kill()
        for server in self.servers:
            server.wipe()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def zookeeper_server(tmp_path):
    """A running server that the test may treat badly."""
    server = ZooKeeperServer(tmp_path / "zookeeper").start()
    yield server
    server.kill()
