"""What a client sends: its settings and its requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tocsin.relay import frames
from tocsin.relay.asking import AskingStream
from tocsin.relay.flow import STREAM_WINDOW, pass_on, window_update
from tocsin.relay.frames import ACK, END_STREAM, PADDED, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE
from tocsin.relay.headers import HeaderError, HeaderReader
from tocsin.relay.limits import Allowance
from tocsin.relay.refusal import RESOURCE_EXHAUSTED, UNAVAILABLE
from tocsin.relay.side import LAST_KNOWN, Side
from tocsin.relay.stream import Stream
from tocsin.relay.verdict_fields import MAX_HEADER_LIST_SIZE
from tocsin.verdict import USUAL_LIST_SIZE

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

WAITING_FOR_UPSTREAM = 1 << 16  # bytes taken from a client before its upstream connection stands


class ClientSide(Side):
    """The client's socket."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._reader = HeaderReader(connection.relay.request_fields, stateful=True)
        self._preface = True  # still to come
        self._allowance = Allowance(connection.relay)
        self.half_closed = False

    @property
    def peer(self) -> Side:
        return self.connection.server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self.connection.made(transport)

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
            if connection.responses is not None:
                connection.flush(self)
        if connection.refusing:
            server.out.clear()
            connection.answer_refused()
            self.write()
        elif server.transport is None and sum(map(len, server.out)) > WAITING_FOR_UPSTREAM:
            assert self.transport is not None
            self.transport.pause_reading()

    def _greet(self, data: bytes) -> bytes:
        """Pass the preface on; what follows it. Anything else than HTTP/2 is relayed unread, or not at all."""
        data = self._tail + data
        self._tail = b""
        expected = frames.PREFACE[: len(data)]
        if data[: len(expected)] != expected:
            self._preface = False
            self.connection.relay.not_understood["not_http2"] += 1
            if self.connection.relay.closed:
                self.connection.close()
                return b""
            self.connection.raw = True
            return data
        if len(expected) < len(frames.PREFACE):
            self._tail = data
            return b""
        self._preface = False
        self.connection.server.out.append(frames.PREFACE)
        return data[len(expected) :]

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        connection = self.connection
        known = connection.streams.get(stream)
        if known is None and stream in connection.gone:
            return b""
        every: list[tuple[str, str]] = []
        readable = True
        try:
            if connection.relay.keeps_fields and known is None:
                fields, every = self._reader.read_all(block)
            else:
                fields = self._reader.read(block)
        except HeaderError:
            connection.relay.not_understood["headers"] += 1
            fields, readable = {}, False
        if known is None:
            if connection.outdated and not self._reader.stateful:
                self.put(frames.reset(stream, frames.REFUSED_STREAM))  # which clients send again by themselves
                connection.remember(stream)
                connection.written()
                return b""
            relay = connection.relay
            if len(connection.streams) >= relay.most_streams or len(block) > relay.longest_headers or not readable:
                refusal = self._refusal(block, readable)
                if refusal is not None:
                    connection.refuse_stream(stream, *refusal, ended=bool(flags & END_STREAM))
                    return b""
            path = fields.get(":path", "")
            opened = connection.begin(stream, relay.guard.call(path, fields, connection.model, connection.name))
            if "grpc-encoding" in fields:
                opened.request_encoding = fields["grpc-encoding"]
            if every:
                opened.fields = every
        else:
            opened = known
        if flags & END_STREAM:
            opened.request_ended = True
        if (
            connection.requests is not None
            and isinstance(opened, AskingStream)
            and (known is None or flags & END_STREAM)
        ):
            return opened.request_headers(flags, block)
        return None

    def _refusal(self, block: bytes, readable: bool) -> tuple[str, str] | None:
        """Why a new stream is not taken: a status and the reason."""
        relay = self.connection.relay
        why = None
        if len(self.connection.streams) >= relay.most_streams:
            why = "streams", RESOURCE_EXHAUSTED, f"more than {relay.most_streams:,} calls at once on a connection"
        elif len(block) > relay.longest_headers:
            why = "headers", RESOURCE_EXHAUSTED, f"the header block holds {len(block):,} bytes"
        elif not readable and relay.closed:
            why = "unreadable", UNAVAILABLE, "the header block cannot be read, and nothing may pass unread"
        if why is None:
            return None
        relay.limited[why[0]] += 1
        if self._reader.stateful:  # to leave a block out would put the upstream's decoder in disorder
            raise frames.FrameError(frames.ENHANCE_YOUR_CALM, why[2])
        return why[1:]

    def data(self, stream: int, flags: int, payload: bytes, length: int) -> bool:
        connection = self.connection
        if not length and not flags & END_STREAM:
            self._allowance.control()
        found = connection.streams.get(stream)
        if found is None:
            return self._for_nobody(stream, length, length if flags & PADDED else len(payload))
        taken = False
        if connection.requests is not None:
            taken = self._pass_on(found, stream, flags, payload, length)
        elif found.call is not None:
            found.request_data(payload)
        if flags & END_STREAM:
            found.request_ended = True
        return taken

    def _pass_on(self, found: Stream, stream: int, flags: int, payload: bytes, length: int) -> bool:
        """Requests within the upstream's windows; whether this one was taken, and is not to pass as it came."""
        requests, from_client = self.connection.requests, self.connection.from_client
        assert requests is not None and from_client is not None
        size, ended = length if flags & PADDED else len(payload), bool(flags & END_STREAM)
        if isinstance(found, AskingStream) and found.take_request(payload, ended):
            from_client.credit(stream, size, ended=ended)  # `max_memory` bounds what it keeps
            return True
        if found.call is not None:
            found.request_data(payload)
        if requests.passes(stream, length):
            from_client.credit(stream, size, ended=ended)
            return False
        pass_on(requests, from_client, stream, payload, size, flags)
        return True

    def _for_nobody(self, stream: int, length: int, came: int) -> bool:
        """DATA of a stream that has ended, of which so much has come; whether it is dropped."""
        connection = self.connection
        if connection.from_client is not None:
            if stream not in connection.gone:  # the upstream has answered before it was asked all, and knows no end
                connection.remember(stream)
                connection.server.put(frames.reset(stream, frames.CANCEL))
            connection.from_client.credit(stream, came, ended=True)
        elif stream not in connection.gone:
            return False
        elif length:
            self.put(window_update(0, length))
        return True

    def more_data(self, stream: int, flags: int, payload: bytes, taken: bool) -> None:
        connection = self.connection
        found = connection.streams.get(stream)
        requests, from_client = connection.requests, connection.from_client
        ended = bool(flags & END_STREAM)
        keeps = isinstance(found, AskingStream) and taken and found.take_request(payload, ended)
        if from_client is not None and (found is None or not taken or keeps):
            from_client.credit(stream, len(payload), ended=ended or found is None)
        if found is None:
            return
        if found.call is not None and not keeps:
            found.request_data(payload)
        if requests is not None and from_client is not None and taken and not keeps:
            pass_on(requests, from_client, stream, payload, len(payload), flags)
        if ended:
            found.request_ended = True

    def control(self, kind: int, flags: int, stream: int, whole: bytes) -> bytes | None:
        connection = self.connection
        if kind == SETTINGS:
            if flags & ACK:
                self._reader.forget_state()
                if connection.requests is None:
                    return None
                connection.server.put(whole)
                connection.upstream_caught_up(connection.requests.acknowledged())
                return b""
            self._allowance.control()
            return self._settings(whole)
        if kind == WINDOW_UPDATE:
            if connection.responses is None:
                return None
            connection.client_caught_up(connection.responses.credit(stream, whole[frames.HEADER_SIZE :]))
            return b""
        if kind == RST_STREAM:
            if stream not in connection.streams:
                return b"" if connection.gone.pop(stream, None) else None
            self._allowance.reset()
            connection.forsake(stream)
        elif kind == PING:
            if not flags & ACK:
                self._allowance.control()
                if connection.refusing:
                    self.out.append(frames.frame(PING, ACK, 0, whole[frames.HEADER_SIZE :]))
        elif kind > LAST_KNOWN:
            connection.relay.not_understood["frame"] += 1
        return None

    def _settings(self, whole: bytes) -> bytes:
        connection = self.connection
        payload = whole[frames.HEADER_SIZE :]
        wanted = frames.read_settings(payload)
        largest = wanted.get(frames.MAX_FRAME_SIZE, connection.largest_frame)
        connection.largest_frame = max(frames.DEFAULT_MAX_FRAME_SIZE, min(largest, frames.LARGEST_FRAME))
        connection.largest_list = min(wanted.get(MAX_HEADER_LIST_SIZE, connection.largest_list), USUAL_LIST_SIZE)
        if connection.responses is None:
            return frames.stateless_settings(payload)
        assert connection.from_server is not None
        connection.responses.announced(wanted.get(frames.INITIAL_WINDOW_SIZE))
        return frames.stateless_settings(payload, STREAM_WINDOW) + connection.from_server.begin()

    def eof_received(self) -> bool:
        """The client writes no more; what is under way may still be answered."""
        if not self.connection.streams:
            return False
        self.half_closed = True
        server = self.connection.server.transport
        if server is not None and not server.is_closing() and server.can_write_eof():
            server.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.connection.lost()
