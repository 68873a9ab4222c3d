"""A RocketMQ of the tests' own: a name server, and a proxy with a broker within, on free ports; `make test` fetches its jars."""

import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from zookeeper_server import free_port

from mqadmin.supervisor import jars, packages
from mqadmin.supervisor.home import CHECKOUT

JAVA = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.security.egd=file:/dev/urandom"]
CREATE_TOPIC, CREATE_GROUP, SET_BROKER = 17, 200, 25  # RequestCode of RocketMQ's remoting protocol


class RocketmqServer:
    """One broker."""

    def __init__(self, directory: Path) -> None:
        home = Path(os.environ.get("MQADMIN_HOME") or CHECKOUT / ".mqadmin")
        self.jars = jars.directory_of(home, "rocketmq")
        assert self.jars.exists(), "These tests need RocketMQ's jars: `make test` fetches them, with Maven (apt-get install maven)"
        self.directory = directory
        self.port, self.names_port, remoting = free_port(), free_port(), free_port()
        self.broker_port = _with_the_second_below()
        self.processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "names.conf").write_text(f"listenPort={self.names_port}\nbindAddress=127.0.0.1\n")
        broker = {
            "brokerClusterName": "tests",
            "brokerName": "broker-a",
            "brokerId": 0,
            "brokerIP1": "127.0.0.1",
            "bindAddress": "127.0.0.1",
            "listenPort": self.broker_port,
            "haListenPort": free_port(),
            "storePathRootDir": directory / "store",
            "mappedFileSizeCommitLog": 16 * 1024 * 1024,
            "mappedFileSizeConsumeQueue": 60_000,
            "maxIndexNum": 4000,
            "maxHashSlotNum": 1000,
            "diskMaxUsedSpaceRatio": 99,
            "autoCreateTopicEnable": "false",
            "autoCreateSubscriptionGroup": "true",
        }
        (directory / "broker.conf").write_text("".join(f"{name}={value}\n" for name, value in broker.items()))
        proxy = {
            "rocketMQClusterName": "tests",
            "namesrvAddr": self.names,
            "localServeAddr": "127.0.0.1",
            "grpcServerPort": self.port,
            "remotingListenPort": remoting,
            "topicRouteServiceCacheRefreshSeconds": 1,  # so soon it sees that a topic is there
            "topicConfigCacheRefreshSeconds": 1,
            "subscriptionGroupConfigCacheRefreshSeconds": 1,
        }
        (directory / "proxy.json").write_text(json.dumps(proxy))

    @property
    def address(self) -> str:
        """Of the proxy."""
        return f"127.0.0.1:{self.port}"

    @property
    def names(self) -> str:
        """The name server."""
        return f"127.0.0.1:{self.names_port}"

    def _java(self, heap: str, *words: str) -> subprocess.Popen[bytes]:
        home = f"-Duser.home={self.directory}"  # where its logs go
        line = [packages.find().java, heap, *JAVA, home, "-cp", f"{self.jars}/*", *words]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(line, stdout=log, stderr=log, env={**os.environ, "ROCKETMQ_HOME": str(self.directory)})

    def start(self) -> "RocketmqServer":
        if not self.processes:
            self.processes = [self._java("-Xmx96m", "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", f"{self.directory}/names.conf")]
            _listening(self.names_port, self)
        files = ["-bc", f"{self.directory}/broker.conf", "-pc", f"{self.directory}/proxy.json"]
        proxy = self._java("-Xmx400m", "org.apache.rocketmq.proxy.ProxyStartup", "-pm", "local", "-n", self.names, *files)
        self.processes = [self.processes[0], proxy]
        _listening(self.port, self)
        self._ask(SET_BROKER, b"brokerPermission=6\n")  # it registers at the name server, which it does after ten seconds otherwise
        return self

    def kill(self, *, names: bool = True) -> None:
        """Kill broker and proxy, and the name server with them."""
        for process in self.processes if names else self.processes[1:]:
            process.kill()
            process.wait(10)

    def topic(self, name: str, kind: str = "NORMAL", queues: int = 4) -> str:
        """Make a topic, or have it readable."""
        self._ask(
            CREATE_TOPIC,
            topic=name,
            defaultTopic="TBW102",
            readQueueNums=queues,
            writeQueueNums=queues,
            perm=6,
            topicFilterType="SINGLE_TAG",
            topicSysFlag=0,
            order="false",
            attributes=f"+message.type={kind}",
        )
        return name

    def ordered_group(self, name: str) -> None:
        """Make a group that gets the messages of a queue one after the other."""
        group = {"groupName": name, "consumeEnable": True, "consumeMessageOrderly": True, "retryQueueNums": 1, "retryMaxTimes": 16}
        self._ask(CREATE_GROUP, json.dumps(group).encode())

    def _ask(self, code: int, body: bytes = b"", **fields: object) -> None:
        """Send a request of RocketMQ's own protocol to the broker."""
        extra = {name: str(value) for name, value in fields.items()}
        header = json.dumps({"code": code, "language": "OTHER", "version": 477, "opaque": 1, "flag": 0, "extFields": extra}).encode()
        with socket.create_connection(("127.0.0.1", self.broker_port), 10) as connection:
            connection.settimeout(30)
            connection.sendall(struct.pack(">ii", 4 + len(header) + len(body), len(header)) + header + body)
            answers = connection.makefile("rb")
            _length, size = struct.unpack(">ii", answers.read(8))
            answer = json.loads(answers.read(size & 0xFFFFFF))
        assert answer["code"] == 0, answer


def _with_the_second_below() -> int:
    """A free port for a broker, which also takes the one two below it."""
    while True:
        found = free_port()
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", found - 2))
            except OSError:
                continue
        return found


def _listening(port: int, server: RocketmqServer) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and server.processes[-1].poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError((server.directory / "log").read_text()[-2000:])


@pytest.fixture(scope="session")
def rocketmq(tmp_path_factory):
    server = RocketmqServer(tmp_path_factory.mktemp("rocketmq")).start()
    yield server
    server.kill()
