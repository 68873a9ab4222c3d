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

    def start(self, *options: str) -> "ZooKeeperServer":
        found = packages.find()
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
                    "org.apache.zookeeper.server.ZooKeeperServerMain",
                    str(self.directory / "zoo.cfg"),
                ],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                sock.sendall(b"srvr")
                if sock.recv(100).startswith(b"Zookeeper version"):
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
