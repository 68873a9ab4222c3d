"""A small pooler between a client and Postgres: lends its one server connection to many clients, transaction by transaction."""

import contextlib
import socket
import struct
import threading


def _exactly(sock, count):
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise ConnectionError
        data += chunk
    return data


def _message(sock):
    kind, length = struct.unpack("!ci", _exactly(sock, 5))
    return kind, _exactly(sock, length - 4)


def _bytes(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


class Pooler:
    """`lends`: as PgBouncer in transaction mode; otherwise each client keeps a server connection, as in session mode."""

    def __init__(self, address, *, lends):
        self._address, self._lends = address, lends
        self._shared, self._turn = None, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _from = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        holding = False
        with contextlib.suppress(ConnectionError, OSError), client, socket.create_connection(self._address) as own:
            self._shake_hands(client, own)
            with self._turn:
                self._shared = self._shared or socket.fromfd(own.fileno(), own.family, own.type)
            server = self._shared if self._lends else own
            try:
                while True:
                    kind, body = _message(client)
                    if kind == b"X":
                        return
                    if self._lends and not holding:
                        self._turn.acquire()
                        holding = True
                    server.sendall(_bytes(kind, body))
                    if kind not in {b"Q", b"S"}:
                        continue
                    answer = b""
                    while answer != b"Z":
                        answer, told = _message(server)
                        client.sendall(_bytes(answer, told))
                    if holding and told == b"I":
                        self._turn.release()
                        holding = False
            finally:
                if holding:
                    server.sendall(_bytes(b"Q", b"ROLLBACK\0"))
                    while _message(server)[0] != b"Z":
                        pass
                    self._turn.release()

    def _shake_hands(self, client, server):
        while True:
            length = struct.unpack("!i", _exactly(client, 4))[0]
            body = _exactly(client, length - 4)
            if length != 8:  # the start-up message; 8 is a question for encryption
                break
            client.sendall(b"N")
        server.sendall(struct.pack("!i", length) + body)
        kind = b""
        while kind != b"Z":
            kind, body = _message(server)
            if kind == b"K":  # a pooler makes its own number up
                body = struct.pack("!ii", 4_000_000, 1)
            client.sendall(_bytes(kind, body))
            if kind == b"R" and struct.unpack("!i", body[:4])[0] in {3, 5, 10, 11}:  # a password, or a step of SCRAM, is asked for
                server.sendall(_bytes(*_message(client)))
