"""A Kafka of the tests' own: one KRaft node on free ports of the loopback address; `make test` fetches its jars.

It listens twice: in the clear, and over TLS for those who bring a password (`secure`).
"""

import base64
import os
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from certificates import Authority
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from zookeeper_server import free_port

from mqadmin.supervisor import jars, packages
from mqadmin.supervisor.home import CHECKOUT

JAVA = ["-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
PASSWORD = "shop's own"  # of the user shop


class KafkaServer:
    """One broker, which is its own controller."""

    def __init__(self, directory: Path) -> None:
        home = Path(os.environ.get("MQADMIN_HOME") or CHECKOUT / ".mqadmin")
        self.jars = jars.directory_of(home, "kafka")
        assert self.jars.exists(), "These tests need Kafka's jars: `make test` fetches them, with Maven (apt-get install maven)"
        self.directory = directory
        self.port, self.secure_port, controller = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},SECURE://127.0.0.1:{self.secure_port},CONTROLLER://127.0.0.1:{controller}"
        self.authority = Authority(directory / "tls")
        _certificate, _key, both = self.authority.issue("kafka", "127.0.0.1")
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": f'{login} user_shop="{PASSWORD}";',
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(both),
            "log.dirs": str(directory / "data"),
            "num.partitions": "4",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.cleaner.enable": "false",
        }
        (directory / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def secure(self, password: str = PASSWORD) -> dict[str, str]:
        """What an application sets to come in by TLS and a password."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.certificate),
            "sasl.mechanism": "PLAIN",
            "sasl.username": "shop",
            "sasl.password": password,
        }

    def _java(self, *words: str) -> list[str]:
        return [packages.find().java, *JAVA, "-cp", f"{self.jars}/*", *words]

    def start(self) -> "KafkaServer":
        settings = str(self.directory / "server.properties")
        with (self.directory / "log").open("ab") as log:
            if not (self.directory / "data").exists():
                cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
                subprocess.run(
                    self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", settings),
                    check=True,
                    stdout=log,
                    stderr=log,
                    timeout=60,
                )
            self.process = subprocess.Popen(self._java("kafka.Kafka", settings), stdout=log, stderr=log)
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self.admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
                self.admin.list_topics(timeout=10)
            except (OSError, KafkaException):
                time.sleep(0.1)
            else:
                return self
        raise AssertionError((self.directory / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def topic(self, name: str, partitions: int = 4) -> str:
        [made] = self.admin.create_topics([NewTopic(name, partitions, 1)]).values()
        made.result(30)
        return name

    def _reader(self, group: str) -> Consumer:
        return Consumer({"bootstrap.servers": self.address, "group.id": group, "auto.offset.reset": "earliest"})

    def messages(self, topic: str, count: int) -> list:
        """The first so many messages of a topic."""
        reader = self._reader(f"reader-{uuid.uuid4().hex}")
        try:
            reader.subscribe([topic])
            found, until = [], time.monotonic() + 30
            while len(found) < count and time.monotonic() < until:
                found += [one for one in reader.consume(count - len(found), 0.2) if one.error() is None]
            return found
        finally:
            reader.close()

    def lag(self, group: str, topic: str) -> dict[int, int]:
        """By partition, how many messages the group has not committed."""
        reader = self._reader(group)
        try:
            places = [TopicPartition(topic, number) for number in reader.list_topics(topic, timeout=10).topics[topic].partitions]
            lag = {}
            for place in reader.committed(places, timeout=10):
                low, high = reader.get_watermark_offsets(place, timeout=10)
                lag[place.partition] = high - (place.offset if place.offset >= 0 else low)
            return lag
        finally:
            reader.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    server = KafkaServer(tmp_path_factory.mktemp("kafka")).start()
    yield server
    server.kill()
