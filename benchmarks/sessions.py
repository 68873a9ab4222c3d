"""Many ZooKeeper sessions in one process, a socket each: as many clients as a fleet has, without their threads.

    python -m benchmarks.sessions HOST:PORT COUNT PATH…
    python -m benchmarks.sessions HOST:PORT COUNT live

Each session sets a one-shot watch on every path, again after each event; `PATH NANOSECONDS` is printed when the last session has heard. Or,
with `live`, each has the ephemeral node of an instance with its report below one of the nodes that are read from stdin, a line each.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time

TIMEOUT = 60_000


class Session:
    """One session; it answers to nothing but what it asked for."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.number = number
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._xid, self._buffer = 0, b""
        self._frame(struct.pack(">iqiqi16s?", 0, 0, TIMEOUT, 0, 16, b"", False))
        (size,) = struct.unpack(">i", self._exactly(4))
        _version, milliseconds = struct.unpack_from(">ii", self._exactly(size))
        self.timeout = milliseconds / 1000  # seconds; the server has limits of its own

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data))
        return data

    def _frame(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">i", len(body)) + body)

    def _request(self, kind: int, body: bytes) -> None:
        self._xid += 1
        self._frame(struct.pack(">ii", self._xid, kind) + body)

    def watch(self, path: str) -> None:
        """Read the node and set a one-shot watch."""
        self._request(4, _text(path) + b"\1")

    def live(self, node: str) -> None:
        """Have the node of an instance below this one, as our SDK names and fills it."""
        name = f"10.0.{self.number // 256}.{self.number % 256}||DEFAULT_PRODUCER||1.0||2026-01-01T00:00:00||{self.number}"
        report = {"sdk": "mqadmin-python/1", "app": "bench", "pid": self.number, "generation": 1, "state": "running", "cluster": "fleet-0"}
        everybody = struct.pack(">ii", 1, 31) + _text("world") + _text("anyone")
        self._request(1, _text(f"{node}/{name}") + _text(json.dumps(report)) + everybody + struct.pack(">i", 1))

    def ping(self) -> None:
        """A sign of life."""
        self._frame(struct.pack(">ii", -2, 11))

    def read(self) -> list[str]:
        """The paths of the events that have come."""
        self._buffer += self.socket.recv(65536)
        events = []
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">i", self._buffer)
            if len(self._buffer) < 4 + size:
                break
            body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            xid, _zxid, error = struct.unpack_from(">iqi", body)
            if xid == -1:
                (length,) = struct.unpack_from(">i", body, 24)
                events.append(body[28 : 28 + length].decode())
            elif error and xid > 0:
                raise RuntimeError(f"session {self.number}: ZooKeeper's error {error}")
        return events


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">i", len(data)) + data


def main(hosts: str, count: int, paths: list[str]) -> None:
    """Until stdin ends."""
    host, _, port = hosts.partition(":")
    selector = selectors.DefaultSelector()
    sessions = [Session((host, int(port)), number) for number in range(count)]
    for session in sessions:
        selector.register(session.socket, selectors.EVENT_READ, session)
        for path in [] if paths == ["live"] else paths:
            session.watch(path)
    if paths == ["live"]:
        for session in sessions:
            session.live(sys.stdin.readline().strip())
        paths = []
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    heard = dict.fromkeys(paths, 0)
    alive = time.monotonic()
    os.write(1, b"ready 0\n")
    while True:
        for key, _mask in selector.select(1.0):
            if key.data is None:
                return
            for path in key.data.read():
                at = time.time_ns()
                key.data.watch(path)  # before anybody hears of it, who may make the next change at once
                heard[path] += 1
                if heard[path] == count:
                    heard[path] = 0
                    os.write(1, f"{path} {at}\n".encode())
        if time.monotonic() - alive > sessions[0].timeout / 4:
            alive = time.monotonic()
            for session in sessions:
                session.ping()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
