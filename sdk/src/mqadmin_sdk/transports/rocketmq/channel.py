"""gRPC over one HTTP/2 connection: calls of many threads at once, and nothing that a fork or the interpreter's exit could hang in.

grpcio is not used: its threads and locks are not Python's, and a process that forks while a call is under way hangs, as does its child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_WINDOW = 16 * 1024 * 1024  # bytes that may be on their way to us


class CallError(Exception):
    """A call came to nothing. `maybe`: the server may have done it all the same."""

    def __init__(self, detail: str, *, maybe: bool = True) -> None:
        super().__init__(detail)
        self.maybe = maybe


class Call:
    """A call that is under way. `on_message` and `on_end` are called on the connection's thread and must not wait."""

    def __init__(self, channel: Channel, on_message: Callable[[bytes], object] | None, on_end: Callable[[Call], object] | None) -> None:
        self._channel = channel
        self._on_message, self._on_end = on_message, on_end
        self.id = 0
        self.began = time.monotonic()
        self.answers: list[bytes] = []
        self.error: CallError | None = None
        self.ended = threading.Event()
        self.status = ""
        self.outgoing = bytearray()
        self.open = False  # more requests may follow
        self.incoming = bytearray()

    def send(self, request: bytes) -> None:
        """Send one more request of a stream."""
        self._channel.write(self, request)

    def result(self, timeout: float) -> list[bytes]:
        """Return the answers when all are there. Raises CallError."""
        if not self.ended.wait(timeout):
            self._channel.give_up(self, f"no answer within {timeout:g} s")
            self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.answers

    def cancel(self) -> None:
        """Take no more answers."""
        self._channel.give_up(self, "cancelled")

    def received(self, data: bytes) -> None:
        """Take a part of the answers."""
        incoming = self.incoming
        incoming += data
        start = 0
        while len(incoming) - start >= 5:
            compressed, size = struct.unpack_from(">BI", incoming, start)
            if len(incoming) - start - 5 < size:
                break
            answer = bytes(incoming[start + 5 : start + 5 + size])
            start += 5 + size
            if compressed:
                raise CallError("the answer is compressed, which was not asked for")
            if self._on_message is None:
                self.answers.append(answer)
            else:
                self._on_message(answer)
        del incoming[:start]

    def end(self, error: CallError | None) -> None:
        """Take note of the end."""
        if self.ended.is_set():
            return
        self.error = error
        self.ended.set()
        if self._on_end is not None:
            self._on_end(self)


class Channel:
    """A connection, until it breaks or is closed; then `broken` is set and every call has ended. Thread-safe."""

    def __init__(self, address: tuple[str, int], *, tls: ssl.SSLContext | None, timeout: float) -> None:
        """Connect. Raises OSError."""
        self.authority = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        self._scheme = "http" if tls is None else "https"
        self._socket = socket.create_connection(address, timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=address[0])
            self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            self._h2.initiate_connection()
            self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW, h2.settings.SettingCodes.ENABLE_PUSH: 0})
            self._h2.increment_flow_control_window(_WINDOW)
            self._pid = os.getpid()
            self._lock = threading.RLock()
            self._calls: dict[int, Call] = {}
            self._leaving = False  # the server takes no new calls
            self._heard = time.monotonic()
            self._why = "the server is going away"
            self.broken = threading.Event()
            self._flush()
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._read, name=f"mqadmin-rocketmq-{self.authority}", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether calls may begin."""
        return not (self.broken.is_set() or self._leaving)

    def call(
        self,
        path: str,
        request: bytes | None,
        metadata: Sequence[tuple[str, str]],
        *,
        timeout: float | None,
        on_message: Callable[[bytes], object] | None = None,
        on_end: Callable[[Call], object] | None = None,
    ) -> Call:
        """Begin a call with one request, or with None a stream of them. After `timeout` the server gives up; here nobody does."""
        call = Call(self, on_message, on_end)
        call.open = request is None
        headers = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *([] if timeout is None else [("grpc-timeout", f"{max(1, round(timeout * 1000))}m")]),
            *metadata,
        ]
        error: CallError | None = None
        with self._lock:
            if not self.usable:
                error = CallError(f"the connection to {self.authority} is gone: {self._why}", maybe=False)
            else:
                try:
                    call.id = self._h2.get_next_available_stream_id()
                    self._h2.send_headers(call.id, headers)
                    self._calls[call.id] = call
                    if request is not None:
                        call.outgoing += struct.pack(">BI", 0, len(request)) + request
                        self._pump(call)
                    self._flush()
                except (h2.exceptions.H2Error, OSError) as cause:
                    self._fail(cause)
        if error is not None:
            call.end(error)
        return call

    def write(self, call: Call, request: bytes) -> None:
        """Send one more request."""
        with self._lock:
            if call.id in self._calls:
                call.outgoing += struct.pack(">BI", 0, len(request)) + request
                try:
                    self._pump(call)
                    self._flush()
                except (h2.exceptions.H2Error, OSError) as cause:
                    self._fail(cause)

    def give_up(self, call: Call, why: str) -> None:
        """End a call from here. A connection on which nothing has come since it began is taken for dead."""
        with self._lock:
            known = self._calls.pop(call.id, None)
            if known is not None:
                with contextlib.suppress(h2.exceptions.H2Error, OSError):
                    self._h2.reset_stream(call.id, 8)
                    self._flush()
                if why != "cancelled" and self._heard < call.began:
                    self._fail(TimeoutError("nothing comes any more"))
        call.end(CallError(why))

    def close(self) -> None:
        """Break it off. May be called twice; in a forked child it touches nothing, since the connection is the parent's."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self.broken.is_set():
                with contextlib.suppress(h2.exceptions.H2Error, OSError):
                    self._h2.close_connection()
                    self._flush()
            self._fail(ConnectionError("the connection is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._socket.sendall(data)

    def _pump(self, call: Call) -> None:
        """Send what the server has room for."""
        while call.outgoing:
            room = min(self._h2.local_flow_control_window(call.id), self._h2.max_outbound_frame_size, len(call.outgoing))
            if room <= 0:
                return
            self._h2.send_data(call.id, bytes(call.outgoing[:room]), end_stream=not call.open and room == len(call.outgoing))
            del call.outgoing[:room]

    def _fail(self, cause: BaseException) -> None:
        """End it: every call has failed."""
        if self.broken.is_set():
            return
        self._why = str(cause) or type(cause).__name__
        self.broken.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        calls, self._calls = [*self._calls.values()], {}
        # Not here: whoever is told may want the lock that a caller of ours has.
        threading.Thread(target=_end_all, args=(calls, f"the connection to {self.authority} broke: {self._why}"), daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                data = self._receive()
                self._heard = time.monotonic()
                with self._lock:
                    happened = self._h2.receive_data(data)
                    told = [told for event in happened if (told := self._take(event)) is not None]
                    self._flush()
                for tell in told:
                    tell()
        except (OSError, ValueError, h2.exceptions.H2Error) as cause:
            with self._lock:
                self._fail(cause)
        except Exception as cause:
            log.exception("A fault in the connection to %s", self.authority)
            with self._lock:
                self._fail(cause)

    def _receive(self) -> bytes:
        data = self._socket.recv(256 * 1024)
        if not data:
            raise ConnectionError("closed by the server")
        return data

    def _take(self, event: h2.events.Event) -> Callable[[], object] | None:
        """Take an event; returns what to do without the lock."""
        if isinstance(event, h2.events.DataReceived):
            if event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            call = self._calls.get(event.stream_id)
            return None if call is None else partial(call.received, event.data or b"")
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            call = self._calls.get(event.stream_id)
            if call is not None:
                headers = {_text(name): _text(value) for name, value in event.headers or ()}
                if headers.get(":status", "200") != "200":
                    call.status = f"HTTP status {headers[':status']}"
                elif headers.get("grpc-status", "0") != "0":
                    call.status = f"{unquote(headers.get('grpc-message', ''))} (gRPC status {headers['grpc-status']})"
            return None
        if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            call = self._calls.pop(event.stream_id, None)
            if call is None:
                return None
            status = call.status or ("the server has broken it off" if isinstance(event, h2.events.StreamReset) else "")
            return partial(call.end, CallError(status) if status else None)
        if isinstance(event, h2.events.WindowUpdated):
            calls = [self._calls[event.stream_id]] if event.stream_id in self._calls else [] if event.stream_id else [*self._calls.values()]
            for one in calls:
                self._pump(one)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            for one in [*self._calls.values()]:
                self._pump(one)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._leaving = True
            if event.additional_data:
                self._why = f"the server is going away: {event.additional_data.decode(errors='replace')}"
        return None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _end_all(calls: Sequence[Call], why: str) -> None:
    for call in calls:
        call.end(CallError(why))
