"""What a client sends: its settings and its requests."""

from __future__ import annotations

import asyncio
from typing import Final

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, END_STREAM, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.http2.splitter import LAST_KNOWN_KIND
from tocsin.relay.admission import Admission
from tocsin.relay.connection import Connection
from tocsin.relay.endpoint import Endpoint
from tocsin.relay.frame_rate import FrameRateLimit
from tocsin.relay.verdict_fields import MAX_HEADER_LIST_SIZE
from tocsin.verdict import USUAL_LIST_SIZE

STREAMS_A_CONTROL: Final = 16  # calls waiting for windows that make SETTINGS count once more among control frames
UPDATES_A_FRAME: Final = 16  # window updates for each frame of DATA,
FREE_UPDATES: Final = 64  # and for frames that are none
# Streams that one read begins, behind which others get their turn: an event loop goes on reading one socket for as long
# as it can.
MANY_STREAMS: Final = 256
WAITING_FOR_UPSTREAM: Final = 1 << 16  # bytes taken from a client before its upstream connection stands


class Downstream(Endpoint):
    """The client's socket."""

    __slots__ = ("_admission", "_data_at_ping", "_updates", "connection", "frame_rate")
    __deletable__ = ("connection",)  # where this is compiled

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection
        self._admission = Admission(connection)
        self.frame_rate = FrameRateLimit(connection.context.frame_limits)
        self._data_at_ping = 0  # frames of DATA when the last PING came
        self._updates = 0

    # -- what the two kinds of connection do differently

    def settings_of(self, payload: bytes, wanted: dict[int, int]) -> bytes:
        """What the upstream is told of the client's settings."""
        raise NotImplementedError

    def on_settings_acknowledged(self, frame: bytes) -> bytes | None:
        """The client has acknowledged settings; what to hand on in place of `frame`, None for the same bytes."""
        raise NotImplementedError

    def on_window_update(self, stream: int, frame: bytes) -> bytes | None:
        """The client gives more room; what to hand on in place of `frame`, None for the same bytes."""
        raise NotImplementedError

    @property
    def answers_pings(self) -> bool:
        """Whether the relay answers PINGs itself: where DATA may wait here, the upstream would miss what is between two
        of them.
        """
        raise NotImplementedError

    @property
    def settings_cost(self) -> int:
        """Streams that a change of windows concerns."""
        return 0

    # -- an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connection.on_connected(transport)

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        server = connection.upstream
        if not self.greeted:
            data = self._greet(data)
        if connection.is_passthrough:
            if connection.upstream_error:
                connection.close()
                return
            server.out.append(data)
            server.write()
        elif data:
            before = connection.last_stream
            super().data_received(data)
            if connection.last_stream - before >= 2 * MANY_STREAMS:
                self.rest()
        if connection.upstream_error:
            server.out.clear()
            connection.answer_refused()
            self.write()
        elif server.transport is None and sum(map(len, server.out)) > WAITING_FOR_UPSTREAM:
            assert self.transport is not None
            self.transport.pause_reading()

    def _greet(self, data: bytes) -> bytes:
        """Pass the preface on; what follows it. Anything else than HTTP/2 is relayed unread, or not at all."""
        data = bytes(self._tail) + data
        self._tail = bytearray()
        expected = frames.PREFACE[: len(data)]
        if data[: len(expected)] != expected:
            self.greeted = True
            self.connection.context.not_understood["not_http2"] += 1
            if self.connection.context.fails_closed:
                self.connection.close()
                return b""
            self.connection.is_passthrough = True
            return data
        if len(expected) < len(frames.PREFACE):
            self._tail += data
            return b""
        self.greeted = True
        self.connection.upstream.out.append(frames.PREFACE)
        if self.connection.upstream_error:
            self.connection.greet_refused()
        return data[len(expected) :]

    def eof_received(self) -> bool:
        """The client writes no more; what is under way may still be answered."""
        if not self.connection.streams and not self.connection.is_passthrough:
            return False
        self.half_closed = True
        self.connection.end_requests()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self.is_closed = True
        self.connection.on_downstream_closed()

    def break_cycle(self) -> None:
        self._admission.break_cycle()
        super().break_cycle()
        del self.connection

    # -- frames

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        return self._admission.headers(stream, flags, block)

    def count_empty(self, flags: int, length: int) -> None:
        """A DATA frame without content has come: many of them are a flood."""
        if not length and not flags & END_STREAM:
            self.frame_rate.control()

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS:
            if not flags & ACK:
                return self._settings(frame)
            self._admission.drop_dynamic_table()
            return self.on_settings_acknowledged(frame)
        if kind == WINDOW_UPDATE:
            if stream:
                connection.check_begun(stream)
            self._updates += 1
            if self._updates > UPDATES_A_FRAME * (connection.data_frames + connection.last_stream + FREE_UPDATES):
                self.frame_rate.control()
            return self.on_window_update(stream, frame)
        if kind == RST_STREAM:
            connection.check_begun(stream)
            if stream not in connection.streams:
                return b"" if connection.closed_streams.pop(stream, None) else None
            self.frame_rate.reset()
            connection.on_stream_reset(stream)
        elif kind == PING:
            return self._ping(flags, frame)
        elif kind == PUSH_PROMISE:
            raise frames.FrameError(frames.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind > LAST_KNOWN_KIND:
            connection.context.not_understood["frame"] += 1
            self.frame_rate.control()
        elif kind == PRIORITY:
            self.frame_rate.control()
        return None

    def _ping(self, flags: int, frame: bytes) -> bytes | None:
        """A PING, or the answer to one. Clients that measure the bandwidth send one with every round trip of data, so
        only those count as a flood that come while no data does.
        """
        connection = self.connection
        if flags & ACK:
            if connection.pings_to_client:
                connection.pings_to_client -= 1
            else:
                self.frame_rate.control()
            return b"" if self.answers_pings else None
        if connection.data_frames == self._data_at_ping:
            self.frame_rate.control()
        self._data_at_ping = connection.data_frames
        if not self.answers_pings and not connection.upstream_error:
            return None
        self.reply(frames.frame(PING, ACK, 0, frame[frames.HEADER_SIZE :]))
        return b""

    def _settings(self, frame: bytes) -> bytes:
        connection = self.connection
        payload = frame[frames.HEADER_SIZE :]
        wanted = frames.read_settings(payload)
        self.frame_rate.control(1 + self.settings_cost // STREAMS_A_CONTROL)
        self.take_frames_up_to(wanted.get(frames.MAX_FRAME_SIZE))
        connection.largest_frame = self.largest_frame
        connection.largest_list = min(wanted.get(MAX_HEADER_LIST_SIZE, connection.largest_list), USUAL_LIST_SIZE)
        return self.settings_of(payload, wanted)
