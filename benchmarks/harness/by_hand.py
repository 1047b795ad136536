"""Peers that speak HTTP/2 by hand: a server of frames, and a transport that only keeps what is written."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpack import Encoder
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame

from benchmarks.harness.parts import inline_guard, settings
from tocsin.relay.connection import Connection
from tocsin.relay.server import Relay


class Pipe:
    """A transport for the relay that collects bytes and can be closed."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RawServer:
    """A TCP server that speaks HTTP/2 frames by hand: `behave` gets the socket once a request's HEADERS came."""

    def __init__(self, behave: Callable[[socket.socket, int], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            stream = peer.makefile("rb")
            stream.read(24)
            peer.sendall(SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())
            while head := stream.read(9):
                frame, length = Frame.parse_frame_header(memoryview(head))
                stream.read(length)
                if isinstance(frame, HeadersFrame):
                    self._behave(peer, frame.stream_id)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def upstream(behave: Callable[[socket.socket, int], None]) -> Iterator[int]:
    server = RawServer(behave)
    try:
        yield server.port
    finally:
        server.close()


def fields(*pairs: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(list(pairs)))


def until(claim: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for a claim to come true; a server that is not there yet is waited for too."""
    ends = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if claim():
                return
        assert time.monotonic() < ends, "it did not come true"
        time.sleep(0.05)


def enforcing_by_hand(bundle: Path) -> tuple[Relay, Connection, Pipe, Pipe]:
    """A relay that enforces, a connection of it, and what that writes to client and server."""
    return relaying_by_hand(bundle, "enforce")


def relaying_by_hand(bundle: Path, mode: str, **more: Any) -> tuple[Relay, Connection, Pipe, Pipe]:
    """The same in any mode, with more settings."""
    config = settings(1, bundle, mode=mode, **more)
    relay = Relay(config, inline_guard(config))
    relay.context.start()
    connection = relay.connection(unconnected(relay))
    to_client, to_server = Pipe(), Pipe()
    connection.upstream.connection_made(to_server)  # type: ignore[arg-type]
    connection.downstream.connection_made(to_client)  # type: ignore[arg-type]
    return relay, connection, to_client, to_server


def unconnected(relay: Relay) -> Any:
    """The relay's first port, which connects to nobody: the test is both peers."""
    port: Any = relay.ports[0]

    async def nobody(protocol: Any, *, is_http1: bool = False) -> None:
        del protocol, is_http1

    port.connect_upstream, port.keep_alive = nobody, lambda transport: None
    return port
