"""What the upstream sends: its settings and the responses."""

from __future__ import annotations

import asyncio
from typing import cast

from tocsin.http2 import frames
from tocsin.http2.flow_control import STREAM_WINDOW, SURE, pass_on
from tocsin.http2.frames import ACK, END_STREAM, GOAWAY, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.http2.headers import CONTENT_LENGTH, HeaderError, without
from tocsin.relay.endpoint import LAST_KNOWN, Endpoint
from tocsin.relay.holding import HeldStream
from tocsin.relay.response_block import KNOWN_BLOCKS, read_response_block, unread_response_block

COMPRESSION_ERROR = 0x9  # of HTTP/2


class Upstream(Endpoint):
    """The upstream's socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.write()
        self.connection.end_requests()

    def data_received(self, data: bytes) -> None:
        if self.connection.is_passthrough:
            self.connection.downstream.out.append(data)
            self.connection.downstream.write()
            return
        super().data_received(data)
        if self.out:  # what the upstream is credited
            self.write()

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        if open_stream is None and (connection.responses is not None or stream in connection.closed_streams):
            # Where responses are judged, none passes that belongs to no call; not even after the upstream has reset it.
            return b""
        if open_stream is not None and open_stream.response_ended:
            return b""
        try:
            received = KNOWN_BLOCKS.get(block) or read_response_block(block)
        except HeaderError as error:
            connection.relay.not_understood["headers"] += 1
            if connection.relay.fails_closed:  # who knows what the caller reads in it, and what it does to his table
                raise frames.FrameError(COMPRESSION_ERROR, f"{error}") from None
            received = unread_response_block(block)
        if open_stream is None:
            return self._header_frames(stream, received.block, flags) if received.verdicts else None
        if flags & END_STREAM:
            open_stream.response_ended = True
            instead = open_stream.trailers(received)
            if isinstance(open_stream, HeldStream):
                return instead
            if not open_stream.holding:
                connection.end(stream)
            if instead is None and received.verdicts:
                instead = self._header_frames(stream, received.block, END_STREAM)
            if connection.responses is not None and connection.responses.blocked(stream):
                frame = frames.header_frames(stream, block, end_stream=True)
                connection.responses.enqueue_after_data(stream, instead or frame)
                return b""
            return instead
        if open_stream.call is None or received.is_informational:  # after which the answer is still to come
            open_stream.headers_sent = open_stream.headers_sent or not received.is_informational
            return self._header_frames(stream, received.block, 0) if received.verdicts else None
        if received.foreign and open_stream.pass_unread(received):
            return b""
        open_stream.headers_sent = True
        open_stream.response_encoding = received.encoding
        if isinstance(open_stream, HeldStream) and not received.foreign:
            try:
                shorter = without(received.block, *CONTENT_LENGTH)
            except HeaderError:
                return None
            if shorter is not received.block and shorter != received.block:  # what goes out may have another length
                return self._header_frames(stream, shorter, 0)
        return self._header_frames(stream, received.block, 0) if received.verdicts else None

    def _header_frames(self, stream: int, block: bytes, flags: int) -> bytes:
        """A header block as frames for the client."""
        ended = bool(flags & END_STREAM)
        return frames.header_frames(stream, block, end_stream=ended, largest=self.connection.downstream.largest_frame)

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        connection.data_frames += 1
        open_stream = connection.streams.get(stream)
        send_window, receive_window = connection.responses, connection.from_server
        ended = bool(flags & END_STREAM)
        if send_window is None or receive_window is None:
            if open_stream is not None and open_stream.response_ended:
                return True
            if open_stream is not None:
                if open_stream.call is not None:
                    open_stream.response_data(payload)
                if ended:
                    connection.end(stream)
            return False
        if receive_window.later or length > SURE or receive_window.uncredited > SURE:
            receive_window.admit(stream, length)
        if open_stream is None or open_stream.response_ended:
            receive_window.credit(stream, size, ended=True)
            return True
        if isinstance(open_stream, HeldStream):
            open_stream.take(payload, size, ended)
            return True
        if open_stream.call is not None:
            open_stream.response_data(payload)
        passes = send_window.try_consume(stream, length)
        if passes:
            receive_window.credit(stream, size, ended=ended)
        else:
            pass_on(send_window, receive_window, stream, payload, size, flags)
        if ended:
            connection.end(stream)
        return not passes

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        ended = bool(flags & END_STREAM)
        if connection.from_server is not None and (open_stream is None or not is_taken):
            connection.from_server.credit(stream, size, ended=ended or open_stream is None)
        if open_stream is None:
            return
        if is_taken:
            if open_stream.response_ended:  # nothing has a place behind the end
                if connection.from_server is not None:
                    connection.from_server.credit(stream, size, ended=True)
                return
            if isinstance(open_stream, HeldStream):
                open_stream.take(payload, size, ended)
                return
            assert connection.responses is not None and connection.from_server is not None
            pass_on(connection.responses, connection.from_server, stream, payload, size, flags)
        if open_stream.call is not None:
            open_stream.response_data(payload)
        if ended:
            connection.end(stream)

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS and flags & ACK:
            if connection.responses is None:
                return None
            connection.downstream.put(frame)
            connection.client_caught_up(connection.responses.acknowledged())
            return b""
        if kind == SETTINGS:
            payload = frame[frames.HEADER_SIZE :]
            wanted = frames.read_settings(payload)
            self.take_frames_up_to(wanted.get(frames.MAX_FRAME_SIZE))
            if connection.requests is None:
                return frames.stateless_settings(payload)
            assert connection.from_client is not None
            connection.requests.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
            return frames.stateless_settings(payload, STREAM_WINDOW) + connection.from_client.begin()
        if kind == WINDOW_UPDATE:
            if connection.requests is not None:
                connection.upstream_caught_up(connection.requests.credit(stream, frame[frames.HEADER_SIZE :]))
                return b""
            return b"" if stream in connection.closed_streams else None
        if kind == RST_STREAM:
            return self._reset(stream, frame)
        if kind == GOAWAY:
            connection.relay.goaways += 1
            return connection.goaway_from_upstream(frame)
        if kind == PING:
            if connection.responses is not None:
                if not flags & ACK:
                    self.reply(frames.frame(PING, ACK, 0, frame[frames.HEADER_SIZE :]))
                return b""
            if not flags & ACK:
                connection.pings_to_client += 1
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
        return None

    def _reset(self, stream: int, frame: bytes) -> bytes | None:
        connection = self.connection
        open_stream = connection.streams.get(stream)
        if open_stream is None:
            if connection.closed_streams.pop(stream, None) or connection.responses is not None:
                return b""
        elif open_stream.holding or isinstance(open_stream, HeldStream):
            open_stream.hold(frame)
            return b""
        else:
            connection.end(stream)
        if connection.responses is not None and connection.responses.blocked(stream):
            connection.responses.enqueue_after_data(stream, frame)
            return b""
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        connection = self.connection
        connection.doubt_upstream()
        connection.upstream_lost(f"upstream {connection.listener.upstream} closed the connection")
        if connection.downstream.closed:
            connection.break_cycle()
