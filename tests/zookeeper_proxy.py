"""Stands between a client and ZooKeeper and counts round trips: answers wait until the client has nothing more to ask."""

import select
import socket
import struct
import threading

_QUIET = 0.15  # seconds without a request


class RoundTrips:
    """One client at a time. Each time answers are let through counts as one, however many they are; pings and events count as none."""

    def __init__(self, hosts: str) -> None:
        address, slash, chroot = hosts.partition("/")
        host, port = address.split(",")[0].split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.hosts = f"127.0.0.1:{self._listener.getsockname()[1]}{slash}{chroot}"
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with near, socket.create_connection(self._target) as far:
                self._serve(near, far)

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        first, held = True, b""
        while True:
            readable = select.select([near, far], [], [], _QUIET)[0]
            try:
                if near in readable:
                    if not (data := near.recv(1 << 20)):
                        return
                    far.sendall(data)
                elif far in readable:  # only when the client is silent
                    if not (data := far.recv(1 << 20)):
                        return
                    held += data
                elif held:
                    held, frames = self._frames(held)
                    answers = [frame for frame in frames if struct.unpack_from(">i", frame, 4)[0] > 0]
                    self.count += bool(answers) and not first
                    first = False
                    near.sendall(b"".join(frames))
            except OSError:
                return

    @staticmethod
    def _frames(data: bytes) -> tuple[bytes, list[bytes]]:
        frames = []
        while len(data) >= 4 and len(data) >= (size := 4 + struct.unpack_from(">i", data)[0]):
            frames.append(data[:size])
            data = data[size:]
        return data, frames

    def close(self) -> None:
        self._listener.close()
