"""A RabbitMQ of the tests' own: one node on free ports of the loopback address, with an epmd of its own."""

import os
import socket
import ssl
import subprocess
import time
import uuid
from pathlib import Path

import pika
import pytest
from certificates import Authority
from pika.exceptions import AMQPError
from zookeeper_server import free_port

from mqadmin.supervisor import packages


class RabbitServer:
    """One node; its data survives `kill` and `start`."""

    def __init__(self, directory: Path) -> None:
        self.program = packages.find().rabbitmq
        assert self.program, "These tests need RabbitMQ: apt-get install rabbitmq-server (make test does it)"
        self.directory = directory
        self.port, self.secure_port, self._epmd_port, dist = (free_port() for _ in range(4))
        self.process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(directory / "tls")
        certificate, key, _both = self.authority.issue("rabbitmq", "127.0.0.1")
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "listeners.ssl.1": f"127.0.0.1:{self.secure_port}",
            "ssl_options.cacertfile": self.authority.certificate,
            "ssl_options.certfile": certificate,
            "ssl_options.keyfile": key,
            "distribution.listener.interface": "127.0.0.1",
            "distribution.listener.port_range.min": dist,
            "distribution.listener.port_range.max": dist,
            "raft.wal_max_size_bytes": 16_000_000,
            "disk_free_limit.absolute": 1_000_000,
            "log.file": "false",
            "log.console": "true",
            "log.console.level": "warning",
        }
        (directory / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        (directory / "enabled_plugins").write_text("[].\n")
        self._environment = os.environ | {
            "HOME": str(directory),  # of the cookie
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "1",  # no shell between us and the node
            "ERL_CRASH_DUMP": "/dev/null",
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def secure(self, password: str = "guest") -> dict[str, object]:
        """What an application sets to come in by TLS and a password."""
        return {"ssl": ssl.create_default_context(cafile=self.authority.certificate), "username": "guest", "password": password}

    def start(self) -> "RabbitServer":
        with (self.directory / "log").open("ab") as log:
            if self._epmd is None:
                epmd = [packages.which("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"]
                self._epmd = subprocess.Popen(epmd, stdout=log, stderr=log)
            self.process = subprocess.Popen(
                [self.program], env=self._environment, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self.connect().close()
            except (OSError, AMQPError):
                time.sleep(0.1)
            else:
                return self
        raise AssertionError((self.directory / "log").read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def end(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait(10)

    def connect(self) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, socket_timeout=5, blocked_connection_timeout=30))

    def group(self, name: str, *topics: str) -> str:
        """What a group's consumer declares at its first start."""
        connection = self.connect()
        channel = connection.channel()
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
        for topic in topics:
            channel.exchange_declare(topic, "fanout", durable=True)
            channel.queue_bind(name, topic)
        connection.close()
        return name

    def publish(self, topic: str, body: bytes, **properties: object) -> None:
        """Send as a program without the SDK does."""
        connection = self.connect()
        connection.channel().basic_publish(topic, "", body, pika.BasicProperties(**properties))
        connection.close()

    def waiting(self, queue: str) -> int:
        """How many messages of a queue nobody has in hand."""
        connection = self.connect()
        try:
            return connection.channel().queue_declare(queue, passive=True).method.message_count
        finally:
            connection.close()

    def take(self, queue: str, count: int) -> list:
        """Take so many messages out of a queue: pairs of properties and body."""
        connection = self.connect()
        channel = connection.channel()
        found, until = [], time.monotonic() + 30
        while len(found) < count and time.monotonic() < until:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                time.sleep(0.05)
            else:
                found.append((properties, body))
        connection.close()
        return found


def named(what: str) -> str:
    return f"{what}_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory):
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield server.start()
    finally:
        server.end()
