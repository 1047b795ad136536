"""What a client sends: its settings and its requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tocsin.http2 import frames
from tocsin.http2.flow_control import STREAM_WINDOW, SURE, pass_on, window_update
from tocsin.http2.frames import ACK, END_STREAM, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.relay.admission import Admission
from tocsin.relay.asking import AskingStream
from tocsin.relay.endpoint import LAST_KNOWN, Endpoint
from tocsin.relay.frame_rate import FrameRateLimit
from tocsin.relay.stream import Stream
from tocsin.relay.verdict_fields import MAX_HEADER_LIST_SIZE
from tocsin.verdict import USUAL_LIST_SIZE

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

STREAMS_A_CONTROL = 16  # calls waiting for windows that make SETTINGS count once more among control frames
UPDATES_A_FRAME, FREE_UPDATES = 16, 64  # window updates for each frame of DATA, and for frames that are none
WAITING_FOR_UPSTREAM = 1 << 16  # bytes taken from a client before its upstream connection stands


class Downstream(Endpoint):
    """The client's socket."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._admission = Admission(connection)
        self._preface = True  # still to come
        self._frame_rate = FrameRateLimit(connection.relay)
        self.half_closed = False
        self._data_at_ping = 0  # frames of DATA when the last PING came
        self._updates = 0

    @property
    def greeted(self) -> bool:
        """Whether the client has said what it speaks."""
        return not self._preface

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.connection.on_connected(transport)

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        server = connection.upstream
        if self._preface:
            data = self._greet(data)
        if connection.is_passthrough:
            if connection.upstream_error:
                connection.close()
                return
            server.out.append(data)
            server.write()
        elif data:
            super().data_received(data)
            if connection.responses is not None:
                connection.flush(self)
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
            self._preface = False
            self.connection.relay.not_understood["not_http2"] += 1
            if self.connection.relay.fails_closed:
                self.connection.close()
                return b""
            self.connection.is_passthrough = True
            return data
        if len(expected) < len(frames.PREFACE):
            self._tail += data
            return b""
        self._preface = False
        self.connection.upstream.out.append(frames.PREFACE)
        if self.connection.upstream_error:
            self.connection.greet_refused()
        return data[len(expected) :]

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        return self._admission.headers(stream, flags, block)

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        if payload:
            connection.data_frames += 1
        elif not length and not flags & END_STREAM:
            self._frame_rate.control()
        open_stream = connection.streams.get(stream)
        receive_window = connection.from_client
        if receive_window is not None and (receive_window.later or length > SURE or receive_window.uncredited > SURE):
            receive_window.admit(stream, length)
        if open_stream is None:
            return self._for_nobody(stream, length, size)
        if open_stream.request_ended:  # nothing has a place behind the end
            if connection.from_client is not None:
                connection.from_client.credit(stream, size, ended=True)
                return True
            return False
        is_taken = False
        if connection.requests is not None:
            is_taken = self._pass_on(open_stream, stream, flags, payload, length, size)
        elif open_stream.call is not None:
            open_stream.request_data(payload)
        if flags & END_STREAM:
            open_stream.request_ended = True
        return is_taken

    def _pass_on(self, open_stream: Stream, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        """Requests within the upstream's windows; whether this one was taken, and is not to pass as it came."""
        requests, from_client = self.connection.requests, self.connection.from_client
        assert requests is not None and from_client is not None
        ended = bool(flags & END_STREAM)
        if isinstance(open_stream, AskingStream) and open_stream.take_request(payload, ended):
            from_client.credit(stream, size, ended=ended)  # `max_memory` bounds what it keeps
            return True
        if open_stream.call is not None:
            open_stream.request_data(payload)
        if requests.try_consume(stream, length):
            from_client.credit(stream, size, ended=ended)
            return False
        pass_on(requests, from_client, stream, payload, size, flags)
        return True

    def _for_nobody(self, stream: int, length: int, came: int) -> bool:
        """DATA of a stream that has ended, of which so much has come; whether it is dropped."""
        connection = self.connection
        connection.check_begun(stream)
        if connection.from_client is not None:
            if (
                stream not in connection.closed_streams
            ):  # the upstream has answered before it was asked all, and knows no end
                connection.mark_closed(stream)
                connection.upstream.put(frames.reset(stream, frames.CANCEL))
            connection.from_client.credit(stream, came, ended=True)
        elif stream not in connection.closed_streams:
            return False
        elif length:
            self.put(window_update(0, length))
        return True

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        requests, from_client = connection.requests, connection.from_client
        ended = bool(flags & END_STREAM)
        if open_stream is not None and open_stream.request_ended:
            if from_client is not None:
                from_client.credit(stream, size, ended=True)
            return
        keeps = isinstance(open_stream, AskingStream) and is_taken and open_stream.take_request(payload, ended)
        if from_client is not None and (open_stream is None or not is_taken or keeps):
            from_client.credit(stream, size, ended=ended or open_stream is None)
        if open_stream is None:
            return
        if open_stream.call is not None and not keeps:
            open_stream.request_data(payload)
        if requests is not None and from_client is not None and is_taken and not keeps:
            pass_on(requests, from_client, stream, payload, size, flags)
        if ended:
            open_stream.request_ended = True

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS:
            if flags & ACK:
                self._admission.drop_dynamic_table()
                if connection.requests is None:
                    return None
                connection.upstream.put(frame)
                connection.upstream_caught_up(connection.requests.acknowledged())
                return b""
            return self._settings(frame)
        if kind == WINDOW_UPDATE:
            if stream:
                connection.check_begun(stream)
            self._updates += 1
            if self._updates > UPDATES_A_FRAME * (connection.data_frames + connection.last_stream + FREE_UPDATES):
                self._frame_rate.control()
            if connection.responses is None:
                return None
            connection.client_caught_up(connection.responses.credit(stream, frame[frames.HEADER_SIZE :]))
            return b""
        if kind == RST_STREAM:
            connection.check_begun(stream)
            if stream not in connection.streams:
                return b"" if connection.closed_streams.pop(stream, None) else None
            self._frame_rate.reset()
            connection.on_stream_reset(stream)
        elif kind == PING:
            return self._ping(flags, frame)
        elif kind == PUSH_PROMISE:
            raise frames.FrameError(frames.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
            self._frame_rate.control()
        elif kind == PRIORITY:
            self._frame_rate.control()
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
                self._frame_rate.control()
            return None if connection.responses is None else b""
        if connection.data_frames == self._data_at_ping:
            self._frame_rate.control()
        self._data_at_ping = connection.data_frames
        if connection.responses is None and not connection.upstream_error:
            return None
        # DATA may wait here that the upstream would miss between two PINGs: the relay answers each side itself.
        self.reply(frames.frame(PING, ACK, 0, frame[frames.HEADER_SIZE :]))
        return b""

    def _settings(self, frame: bytes) -> bytes:
        connection = self.connection
        payload = frame[frames.HEADER_SIZE :]
        wanted = frames.read_settings(payload)
        # A change of windows concerns every call that waits for one, and costs as much.
        waiting = 0 if connection.responses is None else connection.responses.streams_waiting
        self._frame_rate.control(1 + waiting // STREAMS_A_CONTROL)
        self.take_frames_up_to(wanted.get(frames.MAX_FRAME_SIZE))
        connection.largest_list = min(wanted.get(MAX_HEADER_LIST_SIZE, connection.largest_list), USUAL_LIST_SIZE)
        if connection.responses is None:
            return frames.stateless_settings(payload)
        assert connection.from_server is not None
        connection.responses.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
        return frames.stateless_settings(payload, STREAM_WINDOW) + connection.from_server.begin()

    def break_cycle(self) -> None:
        self._admission.break_cycle()
        super().break_cycle()

    def eof_received(self) -> bool:
        """The client writes no more; what is under way may still be answered."""
        if not self.connection.streams and not self.connection.is_passthrough:
            return False
        self.half_closed = True
        self.connection.end_requests()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.connection.on_downstream_closed()
