"""HTTP/2 peers by hand: a client, and a server that follows a script; they send whatever bytes they are given."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from hpack import Decoder
from hpack.exceptions import HPACKError

from benchmarks.harness.raw_http2 import ACK, END_HEADERS, END_STREAM, PREFACE, Kind, frame, settings


class Frame(NamedTuple):
    """A frame that was received; `fields` where it ended a header block."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    fields: tuple[tuple[str, str], ...] = ()


class RawPeer:
    """One end of a connection. If it `reads`, a thread collects what is received into `frames`, acknowledges SETTINGS,
    and hands each frame to `on_frame`. `closed` once the other end is gone.
    """

    def __init__(
        self, connection: socket.socket, *, reads: bool = True, on_frame: Callable[[Frame], None] | None = None
    ) -> None:
        self.socket = connection
        self.frames: list[Frame] = []
        self.closed = False
        self._on_frame = on_frame
        self._decoder = Decoder(max_header_list_size=1 << 20)
        self._block = b""
        self._changed, self._sending = threading.Condition(), threading.Lock()
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def send(self, *parts: bytes) -> bool:
        """Send bytes; False when the other end is gone."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(b"".join(parts))
            return True
        return False

    def until(self, claim: Callable[[], object], seconds: float = 60.0) -> bool:
        """Wait until a claim about what was received comes true; whether it did."""
        with self._changed:
            return bool(self._changed.wait_for(claim, seconds))

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """The frames of a type that were received, of one stream or of all."""
        return [
            received for received in list(self.frames) if received.kind == kind and stream in (None, received.stream)
        ]

    def data(self, stream: int | None = None) -> bytes:
        """The DATA that was received, of one stream or of all."""
        return b"".join(received.payload for received in self.of(Kind.DATA, stream))

    def fields(self, stream: int) -> dict[str, str]:
        """The header and trailer fields of a stream."""
        return {name: value for received in self.of(Kind.HEADERS, stream) for name, value in received.fields}

    def has_ended(self, stream: int) -> bool:
        """Whether a stream has ended or was reset."""
        ended = any(
            received.kind in (0, 1) and received.flags & END_STREAM
            for received in list(self.frames)
            if received.stream == stream
        )
        return ended or bool(self.of(Kind.RST_STREAM, stream))

    def ping(self, seconds: float = 60.0) -> bool:
        """A PING, waited for; whether it was acknowledged."""
        payload = struct.pack(">Q", 1 + len(self.of(Kind.PING)))
        self.send(frame(Kind.PING, 0, 0, payload))
        self.until(lambda: self.closed or self._acknowledged(payload), seconds)
        return self._acknowledged(payload)

    def _acknowledged(self, payload: bytes) -> bool:
        return any(received.flags & ACK and received.payload == payload for received in self.of(Kind.PING))

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self.socket.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                length = int.from_bytes(head[:3], "big")
                payload = stream.read(length)
                self._received(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        fields: tuple[tuple[str, str], ...] = ()
        if kind in (Kind.HEADERS, Kind.CONTINUATION):
            self._block += payload
            if flags & END_HEADERS:
                with contextlib.suppress(HPACKError, UnicodeDecodeError):
                    fields = tuple((str(name), str(value)) for name, value in self._decoder.decode(self._block))
                self._block = b""
        received = Frame(kind, flags, stream, payload, fields)
        with self._changed:
            self.frames.append(received)
            self._changed.notify_all()
        if kind == Kind.SETTINGS and not flags & ACK:
            self.send(frame(Kind.SETTINGS, ACK, 0))
        if self._on_frame is not None:
            self._on_frame(received)


def connect(target: str, first: bytes | None = None, *, receive_buffer: int = 0, reads: bool = True) -> RawPeer:
    """A client. It has sent `first`, and nothing else; or else its preface and empty SETTINGS, and the server's are
    acknowledged. One that does not read never empties its receive buffer.
    """
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    host, _, port = target.rpartition(":")
    connection.connect((host, int(port)))
    connection.settimeout(None)
    connection.sendall(PREFACE + settings() if first is None else first)  # an acknowledgement must not go out before
    peer = RawPeer(connection, reads=reads)
    _clients.append(peer)
    if first is None and reads:
        peer.until(lambda: peer.closed or len(peer.of(Kind.SETTINGS)) >= 2)
    return peer


_clients: list[RawPeer] = []


def close_clients() -> None:
    """Close every client that is still open, such as those of a test that has failed."""
    while _clients:
        _clients.pop().close()


class ScriptedUpstream:
    """A server that sends by hand: `script(peer, stream)` is called, in a thread of its connection, once a request's
    header block is complete. `opening` are its first SETTINGS.
    """

    def __init__(self) -> None:
        self.script: Callable[[RawPeer, int], None] = lambda peer, stream: None
        self.opening = settings()
        self.peers: list[RawPeer] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            remaining = len(PREFACE)
            while remaining and (got := connection.recv(remaining)):
                remaining -= len(got)
            if remaining:
                connection.close()
                return
            peers: list[RawPeer] = []
            ready = threading.Event()

            def on_frame(received: Frame) -> None:
                if received.fields and (received.kind == Kind.HEADERS or received.kind == Kind.CONTINUATION):
                    ready.wait(60)
                    self.script(peers[0], received.stream)

            connection.sendall(self.opening)  # before anything is read: nothing may go out ahead of SETTINGS
            peers.append(RawPeer(connection, on_frame=on_frame))
            self.peers.append(peers[0])
            ready.set()

    def close(self) -> None:
        """Close everything."""
        self._listener.close()
        for peer in self.peers:
            peer.close()


@contextmanager
def scripted_upstream() -> Iterator[ScriptedUpstream]:
    """A scripted server, closed at the end."""
    server = ScriptedUpstream()
    try:
        yield server
    finally:
        server.close()


def eventually(claim: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether a claim that is looked at every few milliseconds comes true."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if claim():
            return True
        time.sleep(0.01)
    return bool(claim())
