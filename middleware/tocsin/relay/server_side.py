"""What the upstream sends: its settings and the responses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tocsin.relay import frames
from tocsin.relay.frames import ACK, END_STREAM, GOAWAY, RST_STREAM, SETTINGS
from tocsin.relay.headers import HeaderError, HeaderReader
from tocsin.relay.side import LAST_KNOWN, Side

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection


class ServerSide(Side):
    """The upstream's socket."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._reader = HeaderReader(("grpc-encoding", "grpc-status"))

    @property
    def peer(self) -> Side:
        return self.connection.client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.write()
        if self.connection.client.half_closed:
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        if self.connection.raw:
            self.connection.client.out.append(data)
            self.connection.client.write()
            return
        super().data_received(data)

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        found = connection.streams.get(stream)
        if found is None:
            return None
        fields: dict[str, str] = {}
        if found.call is not None:
            try:
                fields = self._reader.read(block)
            except HeaderError:
                connection.relay.not_understood["headers"] += 1
        if flags & END_STREAM:
            instead = found.trailers(block, fields.get("grpc-status", ""))
            if not found.holding:
                connection.end(stream)
            return instead
        found.answered = True
        found.response_encoding = fields.get("grpc-encoding", "")
        return None

    def data(self, stream: int, flags: int, payload: bytes) -> None:
        found = self.connection.streams.get(stream)
        if found is None:
            return
        if found.call is not None:
            found.response_data(payload)
        if flags & END_STREAM:
            self.connection.end(stream)

    def control(self, kind: int, flags: int, stream: int, whole: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS and not flags & ACK:
            return frames.stateless_settings(whole[frames.HEADER_SIZE :])
        if kind == RST_STREAM:
            found = connection.streams.get(stream)
            if found is not None and found.holding:
                found.hold(whole)
                return b""
            connection.end(stream)
        elif kind == GOAWAY:
            connection.relay.goaways += 1
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.connection.upstream_lost(f"upstream {self.connection.relay.config.upstream} closed the connection")
