"""What a client sends: its settings and its requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tocsin.relay import frames
from tocsin.relay.frames import ACK, PING, RST_STREAM, SETTINGS
from tocsin.relay.headers import HeaderError, HeaderReader
from tocsin.relay.side import LAST_KNOWN, Side

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

WAITING_FOR_UPSTREAM = 1 << 16  # bytes taken from a client before its upstream connection stands


class ClientSide(Side):
    """The client's socket."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._reader = HeaderReader(connection.relay.request_fields, stateful=True)
        self._preface = True  # still to come
        self.half_closed = False

    @property
    def peer(self) -> Side:
        return self.connection.server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.connection.open()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        server = connection.server
        if self._preface:
            data = self._greet(data)
        if connection.raw:
            server.out.append(data)
            server.write()
        elif data:
            super().data_received(data)
        if connection.refusing:
            server.out.clear()
            connection.answer_refused()
            self.write()
        elif server.transport is None and sum(map(len, server.out)) > WAITING_FOR_UPSTREAM:
            assert self.transport is not None
            self.transport.pause_reading()

    def _greet(self, data: bytes) -> bytes:
        """Pass the preface on; what follows it. Anything else than HTTP/2 is relayed unread."""
        data = self._tail + data
        self._tail = b""
        expected = frames.PREFACE[: len(data)]
        if data[: len(expected)] != expected:
            self._preface = False
            self.connection.raw = True
            self.connection.relay.not_understood["not_http2"] += 1
            return data
        if len(expected) < len(frames.PREFACE):
            self._tail = data
            return b""
        self._preface = False
        self.connection.server.out.append(frames.PREFACE)
        return data[len(expected) :]

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        try:
            fields = self._reader.read(block)
        except HeaderError:
            connection.relay.not_understood["headers"] += 1
            fields = {}
        if stream not in connection.streams:
            guard = connection.relay.guard
            opened = connection.begin(stream, guard.call(fields.get(":path", ""), fields))
            opened.request_encoding = fields.get("grpc-encoding", "")
        return None

    def data(self, stream: int, flags: int, payload: bytes) -> None:
        found = self.connection.streams.get(stream)
        if found is not None and found.call is not None:
            found.request_data(payload)

    def control(self, kind: int, flags: int, stream: int, whole: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS:
            if flags & ACK:
                self._reader.forget_state()
                return None
            wanted = frames.read_settings(whole[frames.HEADER_SIZE :])
            largest = wanted.get(frames.MAX_FRAME_SIZE, connection.largest_frame)
            connection.largest_frame = max(frames.DEFAULT_MAX_FRAME_SIZE, min(largest, frames.LARGEST_FRAME))
            return frames.stateless_settings(whole[frames.HEADER_SIZE :])
        if kind == RST_STREAM:
            connection.end(stream)
        elif kind == PING and connection.refusing and not flags & ACK:
            self.out.append(frames.frame(PING, ACK, 0, whole[frames.HEADER_SIZE :]))
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
        return None

    def eof_received(self) -> bool:
        """The client writes no more; what is under way may still be answered."""
        if not self.connection.streams:
            return False
        self.half_closed = True
        server = self.connection.server.transport
        if server is not None and not server.is_closing():
            server.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.connection.lost()
