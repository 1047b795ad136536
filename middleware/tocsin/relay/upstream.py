"""What the upstream sends: its settings and the responses."""

from __future__ import annotations

import asyncio

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, END_STREAM, GOAWAY, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.http2.headers import HeaderError
from tocsin.http2.splitter import LAST_KNOWN_KIND
from tocsin.relay.connection import Connection
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.holding import HeldStream
from tocsin.relay.response_block import KNOWN_BLOCKS, ResponseBlock, read_response_block, unread_response_block


class Upstream(Endpoint):
    """The upstream's socket."""

    __slots__ = ("connection",)
    __deletable__ = ("connection",)  # where this is compiled

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    # -- what the two kinds of connection do differently

    def is_for_nobody(self, stream: int) -> bool:
        """Whether what comes of a stream that is not under way goes nowhere."""
        raise NotImplementedError

    def data_waits(self, stream: int) -> bool:
        """Whether DATA of a stream waits for the client, so that frames have to be put behind it."""
        raise NotImplementedError

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        """What the client is told of the upstream's settings."""
        raise NotImplementedError

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        """The upstream has acknowledged settings; what to hand on in place of `frame`, None for the same bytes."""
        raise NotImplementedError

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        """The upstream gives more room; what to hand on in place of `frame`, None for the same bytes."""
        raise NotImplementedError

    def on_ping(self, flags: int, frame: bytes) -> bytes | None:
        """A PING, or the answer to one; what to hand on in its place, None for the same bytes."""
        raise NotImplementedError

    # -- an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write()
        self.connection.end_requests()

    def data_received(self, data: bytes) -> None:
        if self.connection.is_passthrough:
            self.connection.downstream.out.append(data)
            self.connection.downstream.write()
            return
        super().data_received(data)

    def eof_received(self) -> bool:
        """The upstream writes no more: asyncio closes the connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The upstream is gone."""
        self.is_closed = True
        connection = self.connection
        connection.doubt_upstream()
        connection.upstream_lost(f"upstream {connection.upstream_address} closed the connection")
        if connection.downstream.is_closed:
            connection.break_cycle()

    def break_cycle(self) -> None:
        super().break_cycle()
        del self.connection

    # -- frames

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            if self.is_for_nobody(stream):
                return b""
            received = self._read(block)
            return self._header_frames(stream, received.block, flags) if received.verdicts else None
        if open_stream.response_ended:
            return b""
        received = KNOWN_BLOCKS.get(block) or self._read(block)
        if flags & END_STREAM:
            open_stream.response_ended = True
            instead = open_stream.trailers(received)
            if isinstance(open_stream, HeldStream):
                return instead
            if not open_stream.holding:
                connection.end(stream)
            if instead is None and received.verdicts:
                instead = self._header_frames(stream, received.block, END_STREAM)
            if self.data_waits(stream):
                connection.put_after_data(stream, instead or frames.header_frames(stream, block, end_stream=True))
                return b""
            return instead
        call = open_stream.call
        if call is not None and received.begins_plainly:  # most are so
            open_stream.headers_sent = True
            open_stream.response_encoding = received.encoding
            if call.wants_initial:
                open_stream.note_initial(received)
            return None
        if call is None or received.is_informational:  # after which the answer is still to come
            open_stream.headers_sent = open_stream.headers_sent or not received.is_informational
            return self._header_frames(stream, received.block, 0) if received.verdicts else None
        if received.foreign and open_stream.on_foreign_response(received):
            return b""
        open_stream.headers_sent = True
        open_stream.response_encoding = received.encoding
        call = open_stream.call  # none any more, where it passes unread
        if call is not None and call.wants_initial:
            open_stream.note_initial(received)
        if received.without_length is not None and not received.foreign and isinstance(open_stream, HeldStream):
            return self._header_frames(stream, received.without_length, 0)  # what goes out may have another length
        return self._header_frames(stream, received.block, 0) if received.verdicts else None

    def _read(self, block: bytes) -> ResponseBlock:
        """A header block of a response. Raises FrameError where it cannot be read and nothing may pass unread."""
        context = self.connection.context
        try:
            return read_response_block(block)
        except HeaderError as error:
            context.not_understood["headers"] += 1
            if context.fails_closed:  # who knows what the caller reads in it, and what it does to his table
                raise frames.FrameError(frames.COMPRESSION_ERROR, f"{error}") from None
            return unread_response_block(block)

    def _header_frames(self, stream: int, block: bytes, flags: int) -> bytes:
        """A header block as frames for the client."""
        ended = bool(flags & END_STREAM)
        return frames.header_frames(stream, block, end_stream=ended, largest=self.connection.largest_frame)

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS and flags & ACK:
            return self.on_settings_acknowledged(frame)
        if kind == SETTINGS:
            payload = frame[frames.HEADER_SIZE :]
            wanted = frames.read_settings(payload)
            self.take_frames_up_to(wanted.get(frames.MAX_FRAME_SIZE))
            return self.settings_of(payload, wanted)
        if kind == WINDOW_UPDATE:
            return self.on_window_update(stream, frame)
        if kind == RST_STREAM:
            return self._reset(stream, frame)
        if kind == GOAWAY:
            connection.context.goaways += 1
            return connection.goaway.limit(frame)
        if kind == PING:
            return self.on_ping(flags, frame)
        if kind > LAST_KNOWN_KIND:
            connection.context.not_understood["frame"] += 1
        return None

    def _reset(self, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            if self.is_for_nobody(stream):
                connection.closed_streams.pop(stream, None)
                return b""
        elif open_stream.holding or isinstance(open_stream, HeldStream):
            open_stream.hold(frame)
            return b""
        else:
            connection.end(stream)
        if self.data_waits(stream):
            connection.put_after_data(stream, frame)
            return b""
        return None
