"""What the upstream sends: its settings and the responses."""

from __future__ import annotations

import asyncio
from typing import cast

from tocsin.relay import frames
from tocsin.relay.flow import STREAM_WINDOW, SURE, pass_on
from tocsin.relay.frames import ACK, END_STREAM, GOAWAY, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.relay.headers import CONTENT_LENGTH, HeaderError, without
from tocsin.relay.holding import HeldStream
from tocsin.relay.response_block import KNOWN_BLOCKS, read_response_block, unread_response_block
from tocsin.relay.side import LAST_KNOWN, Side

COMPRESSION_ERROR = 0x9  # of HTTP/2


class ServerSide(Side):
    """The upstream's socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.write()
        self.connection.end_requests()

    def data_received(self, data: bytes) -> None:
        if self.connection.raw:
            self.connection.client.out.append(data)
            self.connection.client.write()
            return
        super().data_received(data)
        if self.out:  # what the upstream is credited
            self.write()

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        found = connection.streams.get(stream)
        if found is None and (connection.responses is not None or stream in connection.gone):
            # Where responses are judged, none passes that belongs to no call; not even after the upstream has reset it.
            return b""
        if found is not None and found.response_ended:
            return b""
        try:
            received = KNOWN_BLOCKS.get(block) or read_response_block(block)
        except HeaderError as error:
            connection.relay.not_understood["headers"] += 1
            if connection.relay.closed:  # who knows what the caller reads in it, and what it does to his table
                raise frames.FrameError(COMPRESSION_ERROR, f"{error}") from None
            received = unread_response_block(block)
        if found is None:
            return self._whole(stream, received.block, flags) if received.verdicts else None
        if flags & END_STREAM:
            found.response_ended = True
            instead = found.trailers(received)
            if isinstance(found, HeldStream):
                return instead
            if not found.holding:
                connection.end(stream)
            if instead is None and received.verdicts:
                instead = self._whole(stream, received.block, END_STREAM)
            if connection.responses is not None and connection.responses.blocked(stream):
                whole = frames.header_frames(stream, block, end_stream=True)
                connection.responses.follow(stream, instead or whole)
                return b""
            return instead
        if found.call is None or received.is_informational:  # after which the answer is still to come
            found.answered = found.answered or not received.is_informational
            return self._whole(stream, received.block, 0) if received.verdicts else None
        if received.foreign and found.pass_unread(received):
            return b""
        found.answered = True
        found.response_encoding = received.encoding
        if isinstance(found, HeldStream) and not received.foreign:
            try:
                shorter = without(received.block, *CONTENT_LENGTH)
            except HeaderError:
                return None
            if shorter is not received.block and shorter != received.block:  # what goes out may have another length
                return self._whole(stream, shorter, 0)
        return self._whole(stream, received.block, 0) if received.verdicts else None

    def _whole(self, stream: int, block: bytes, flags: int) -> bytes:
        """A header block as frames for the client."""
        ended = bool(flags & END_STREAM)
        return frames.header_frames(stream, block, end_stream=ended, largest=self.connection.client.largest_frame)

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        connection = self.connection
        connection.data_frames += 1
        found = connection.streams.get(stream)
        outflow, inflow = connection.responses, connection.from_server
        ended = bool(flags & END_STREAM)
        if outflow is None or inflow is None:
            if found is not None and found.response_ended:
                return True
            if found is not None:
                if found.call is not None:
                    found.response_data(payload)
                if ended:
                    connection.end(stream)
            return False
        if inflow.later or length > SURE or inflow.uncredited > SURE:
            inflow.admit(stream, length)
        if found is None or found.response_ended:
            inflow.credit(stream, size, ended=True)
            return True
        if isinstance(found, HeldStream):
            found.take(payload, size, ended)
            return True
        if found.call is not None:
            found.response_data(payload)
        passes = outflow.passes(stream, length)
        if passes:
            inflow.credit(stream, size, ended=ended)
        else:
            pass_on(outflow, inflow, stream, payload, size, flags)
        if ended:
            connection.end(stream)
        return not passes

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, taken: bool) -> None:
        connection = self.connection
        found = connection.streams.get(stream)
        ended = bool(flags & END_STREAM)
        if connection.from_server is not None and (found is None or not taken):
            connection.from_server.credit(stream, size, ended=ended or found is None)
        if found is None:
            return
        if taken:
            if found.response_ended:  # nothing has a place behind the end
                if connection.from_server is not None:
                    connection.from_server.credit(stream, size, ended=True)
                return
            if isinstance(found, HeldStream):
                found.take(payload, size, ended)
                return
            assert connection.responses is not None and connection.from_server is not None
            pass_on(connection.responses, connection.from_server, stream, payload, size, flags)
        if found.call is not None:
            found.response_data(payload)
        if ended:
            connection.end(stream)

    def control(self, kind: int, flags: int, stream: int, whole: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS and flags & ACK:
            if connection.responses is None:
                return None
            connection.client.put(whole)
            connection.client_caught_up(connection.responses.acknowledged())
            return b""
        if kind == SETTINGS:
            payload = whole[frames.HEADER_SIZE :]
            wanted = frames.read_settings(payload)
            self.take_frames_up_to(wanted.get(frames.MAX_FRAME_SIZE))
            if connection.requests is None:
                return frames.stateless_settings(payload)
            assert connection.from_client is not None
            connection.requests.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
            return frames.stateless_settings(payload, STREAM_WINDOW) + connection.from_client.begin()
        if kind == WINDOW_UPDATE:
            if connection.requests is not None:
                connection.upstream_caught_up(connection.requests.credit(stream, whole[frames.HEADER_SIZE :]))
                return b""
            return b"" if stream in connection.gone else None
        if kind == RST_STREAM:
            return self._reset(stream, whole)
        if kind == GOAWAY:
            connection.relay.goaways += 1
            return connection.goaway_from_upstream(whole)
        if kind == PING:
            if connection.responses is not None:
                if not flags & ACK:
                    self.reply(frames.frame(PING, ACK, 0, whole[frames.HEADER_SIZE :]))
                return b""
            if not flags & ACK:
                connection.pings_to_client += 1
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
        return None

    def _reset(self, stream: int, whole: bytes) -> bytes | None:
        connection = self.connection
        found = connection.streams.get(stream)
        if found is None:
            if connection.gone.pop(stream, None) or connection.responses is not None:
                return b""
        elif found.holding or isinstance(found, HeldStream):
            found.hold(whole)
            return b""
        else:
            connection.end(stream)
        if connection.responses is not None and connection.responses.blocked(stream):
            connection.responses.follow(stream, whole)
            return b""
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        connection = self.connection
        connection.doubt_upstream()
        connection.upstream_lost(f"upstream {connection.listener.upstream} closed the connection")
        if connection.client.closed:
            connection.part()
