"""Java's own opinion: `tests/java/Reader.java` in one JVM that answers line by line, compiled once per test run."""

import base64
import contextlib
import os
import queue
import subprocess
import threading
import time
from pathlib import Path

from mqadmin.supervisor import packages

SOURCE = Path(__file__).parent / "java" / "Reader.java"


def to_hex(text: str) -> str:
    return text.encode("utf-16-be", "surrogatepass").hex()


def from_hex(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-16-be", "surrogatepass")


class Java:
    """A JVM that reads properties and ZooKeeper for us."""

    def __init__(self, directory: Path) -> None:
        found = packages.find()
        assert found.javac, "These tests need a Java compiler: apt-get install default-jdk-headless (make test does it)"
        compiler = [found.javac, "--release", "11", "-proc:none", "-cp", found.zookeeper, "-d", str(directory), str(SOURCE)]
        subprocess.run(compiler, check=True, timeout=120)
        self.process = subprocess.Popen(
            [
                found.java, "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                "-cp", os.pathsep.join([str(directory), found.zookeeper]), "Reader",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        self._events: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._answers.get(timeout=60) == "ready"

    def _read(self) -> None:
        for line in self.process.stdout:
            (self._events if line.startswith("event ") else self._answers).put(line.rstrip("\n"))

    def ask(self, *words: str) -> str:
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        answer = self._answers.get(timeout=60)
        if answer.startswith("error "):
            raise ValueError(answer)
        return answer

    def load(self, data: bytes) -> list[tuple[str, str]]:
        """The pairs that `Properties.load(InputStream)` finds, each time it puts one."""
        pairs = [word.partition("=")[::2] for word in self.ask("load", base64.b64encode(data).decode()).split(" ")[1:]]
        return [(from_hex(key), from_hex(value)) for key, value in pairs]

    def store(self, pairs: dict[str, str]) -> bytes:
        """What `Properties.store(OutputStream)` writes."""
        words = [f"{to_hex(key)}={to_hex(value)}" for key, value in pairs.items()]
        return base64.b64decode(self.ask("store", *words).split(" ")[1])

    def get(self, hosts: str, path: str) -> bytes:
        """A node by ZooKeeper's own client."""
        return base64.b64decode(self.ask("get", hosts, path).partition(" ")[2])

    def follow(self, hosts: str, kind: str, name: str, ip: str = "10.7.7.7") -> None:
        """Begin to behave like a ZMS client."""
        self.ask("follow", hosts, kind, name, ip)

    def next(self, seconds: float = 40.0) -> str:
        """What the next client would do at its next change."""
        return self._events.get(timeout=seconds).removeprefix("event ")

    def silent(self) -> bool:
        """Whether nothing more was said."""
        return self._events.empty()

    def all(self, seconds: float = 0.0) -> list[str]:
        """All that was said and not taken yet, and what comes within the seconds."""
        said, until = [], time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while True:
                said.append(self._events.get(timeout=max(0.0, until - time.monotonic()) or 0.001).removeprefix("event "))
        return said

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(5)
        self.process.stdout.close()
