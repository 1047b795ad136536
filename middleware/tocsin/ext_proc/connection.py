"""One HTTP/2 connection from Envoy: its streams, its windows and its limits (RFC 9113).

Envoy opens one connection for each of its workers, and on it one stream for each exchange. The connection's window is
given back as soon as bytes have arrived. The streams' windows and the memory budget bound what waits.
"""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn, cast

from tocsin.ext_proc.frame_reader import FrameReader
from tocsin.ext_proc.hosts import ConnectionHost, ProcessorHost
from tocsin.ext_proc.stream import ProcessorStream
from tocsin.http2 import frames
from tocsin.http2.frames import (
    ACK,
    END_STREAM,
    GOAWAY,
    LAST_STREAM,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    FrameError,
    StreamError,
)
from tocsin.http2.headers import HeaderError, HeaderFilter, HeaderReader, HeadersTooLong
from tocsin.http2.receive_window import STREAM_WINDOW, ReceiveWindow
from tocsin.http2.send_window import SendWindow
from tocsin.relay.frame_rate import FrameRateLimit

# Bytes of one read behind which others get their turn: an event loop goes on reading one socket for as long as it can.
LARGE_READ = 1 << 16
MOST_UNREAD = 1 << 20  # bytes of acknowledgements that a peer which does not read may leave waiting
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 0x3, 0x6

_WANTED = HeaderFilter((":method", ":path", "content-type", "grpc-encoding"))


class ExtProcConnection(FrameReader, ConnectionHost, asyncio.Protocol):
    """One connection from an Envoy worker. Streams reply by `put`; `flush` writes what was put."""

    def __init__(self, server: ProcessorHost) -> None:
        super().__init__(server.memory.open(self._evict), server.longest_headers)
        self.server = server
        self.name = server.name_connection()
        self.send_window = SendWindow(self, self.memory)
        self.receive_window = ReceiveWindow(self, self.send_window, self.memory)
        self.streams: dict[int, ProcessorStream] = {}
        self.idle_since = time.monotonic()
        self.is_reading = False  # what is put now is written once all is read
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._is_draining = False
        self._is_paused = False
        self._unread = 0
        self._reader = HeaderReader(_WANTED, stateful=True, largest=server.longest_headers)
        self._last_stream = 0
        self._frame_rate = FrameRateLimit(server.context.frame_limits)

    @property
    def open_streams(self) -> int:
        return len(self.streams)

    # -- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        if not self.server.admit(self):
            self._transport.abort()
            return
        limits = self.server.context.config.limits
        said = (
            (frames.HEADER_TABLE_SIZE, 0),
            (MAX_CONCURRENT_STREAMS, limits.streams),
            (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_HEADER_LIST_SIZE, self.server.longest_headers),
        )
        payload = b"".join([setting.to_bytes(2, "big") + value.to_bytes(4, "big") for setting, value in said])
        self.put(frames.frame(SETTINGS, 0, 0, payload))
        self.put(self.receive_window.begin())
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self.is_reading = True
        try:
            self._read(data)
        except FrameError as error:
            self._abort(error)
            return
        finally:
            self.is_reading = False
        self.flush()
        if len(data) >= LARGE_READ and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self.server.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Others have had their turn."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.is_closed = True
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.on_closed()
        self.send_window.drop()
        self.memory.close()
        self.server.on_connection_closed(self)

    def pause_writing(self) -> None:
        self._is_paused = self.send_window.is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = self.send_window.is_paused = False
        self.memory.release(self._unread)
        self._unread = 0
        self._go_on()

    def put(self, frame: bytes) -> None:
        self._out.append(frame)

    def flush(self) -> None:
        transport, out = self._transport, self._out
        if not out or transport is None:
            return
        if transport.is_closing():
            out.clear()
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.send_window.on_socket_written():
            self.server.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The socket has taken what was written, so that more may follow."""
        if not self.is_closed:
            self._caught_up(self.send_window.pump())
            self.flush()

    def _caught_up(self, streams: list[int]) -> None:
        """Nothing waits for these streams' windows any more."""
        for stream_id in streams:
            self.receive_window.release_credit(stream_id, ended=stream_id not in self.streams)
            if stream_id not in self.streams:
                self.remove(stream_id)

    # -- the end

    def drain(self) -> None:
        if self.is_closed or self._is_draining:
            return
        self._is_draining = True
        self.put(frames.goaway(LAST_STREAM, frames.NO_ERROR))
        self.flush()
        self._close_when_idle()

    def close(self) -> None:
        if self._transport is not None and not self.is_closed:
            self.put(frames.goaway(self._last_stream, frames.NO_ERROR))
            self.flush()
            self._transport.close()

    def _close_when_idle(self) -> None:
        if self._is_draining and not self.streams and self._transport is not None:
            self.server.loop.call_later(self.server.LINGER, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.streams:
            self.close()

    def _evict(self) -> None:
        """The memory budget is spent, and this connection uses most of it."""
        self.cut_off("memory")

    def cut_off(self, limit: str) -> None:
        self.server.context.limited[limit] += 1
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _abort(self, error: FrameError) -> None:
        """Envoy broke the protocol: send GOAWAY and close."""
        self.server.context.not_understood["frame" if self.is_greeted else "not_http2"] += 1
        self.is_closed = True
        if self.is_greeted:
            self.put(frames.goaway(self._last_stream, error.code, str(error)))
        self.flush()
        if self._transport is not None:
            self._transport.close()

    # -- frames

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not stream_id or stream_id > self._last_stream:
            raise FrameError(frames.PROTOCOL_ERROR, "DATA of no stream")
        self.receive_window.admit(stream_id, size)
        if flags & PADDED:
            payload = frames.unpadded(payload)
        if not payload and not flags & END_STREAM:
            self._frame_rate.control()
        stream = self.streams.get(stream_id)
        ended = stream is None or bool(flags & END_STREAM)
        if stream is None:  # it has ended here
            self.receive_window.credit(stream_id, size, ended=True)
            return
        if payload:
            stream.on_data(payload)
        if stream_id not in self.streams:
            ended = True
        elif flags & END_STREAM:
            stream.on_half_closed()
        if not ended and self.send_window.blocked(stream_id):
            self.receive_window.defer_credit(stream_id, size)
        else:
            self.receive_window.credit(stream_id, size, ended=ended)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            fields = self._reader.read(block)
        except HeadersTooLong as error:
            self._refuse("headers", str(error))
        except HeaderError as error:
            raise FrameError(frames.COMPRESSION_ERROR, str(error)) from None
        stream = self.streams.get(stream_id)
        if stream is not None:  # trailers
            if not flags & END_STREAM:
                raise FrameError(frames.PROTOCOL_ERROR, "HEADERS within a stream")
            stream.on_half_closed()
            return
        if stream_id <= self._last_stream:
            return  # trailers of a stream that has ended here
        self._last_stream = stream_id
        if len(self.streams) >= self.server.context.config.limits.streams:
            self.server.context.limited["streams"] += 1
            self.put(frames.reset(stream_id, frames.REFUSED_STREAM))
            return
        self.send_window.open(stream_id)
        stream = self.streams[stream_id] = ProcessorStream(self, stream_id)
        stream.begin(fields, ended=bool(flags & END_STREAM))

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            if stream_id > self._last_stream:
                raise FrameError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of no stream")
            self._frame_rate.control(0 if len(payload) == 4 and self.streams else 1)
            self._caught_up(self.send_window.credit(stream_id, payload))
        elif kind == RST_STREAM:
            if stream_id > self._last_stream:
                raise FrameError(frames.PROTOCOL_ERROR, "RST_STREAM of no stream")
            stream = self.streams.get(stream_id)
            if stream is not None:
                if not stream.has_messages:
                    self._frame_rate.reset()
                stream.on_closed()
            self.remove(stream_id)
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PING:
            if not flags & ACK:
                self._frame_rate.control()
                self._acknowledge(frames.frame(PING, ACK, 0, payload))
        elif kind == PUSH_PROMISE:
            raise FrameError(frames.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind not in (GOAWAY, PRIORITY):
            self._frame_rate.control()

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._reader.drop_dynamic_table()
            return
        self._frame_rate.control()
        settings = frames.read_settings(payload)
        self.send_window.announced(settings.get(frames.INITIAL_WINDOW_SIZE))
        self._caught_up(self.send_window.acknowledged())
        self._acknowledge(frames.frame(SETTINGS, ACK, 0))

    def _acknowledge(self, frame: bytes) -> None:
        """Write an answer that no window holds back. A peer that does not read such answers is cut off."""
        if self._is_paused:
            self._unread += len(frame)
            self.memory.charge(len(frame))
            if self._unread > MOST_UNREAD:
                self.cut_off("unread")
                return
        self.put(frame)

    def _on_stream_error(self, error: StreamError) -> None:
        stream = self.streams.get(error.stream)
        if stream is not None:
            self.put(frames.reset(error.stream, error.code))
            stream.on_closed()
            self.remove(error.stream)

    def on_stream_ended(self, stream_id: int) -> None:
        if self.send_window.blocked(stream_id):
            self.streams.pop(stream_id, None)
        else:
            self.remove(stream_id)

    def remove(self, stream_id: int) -> None:
        """A stream has ended."""
        self.streams.pop(stream_id, None)
        self.send_window.close(stream_id)
        self.receive_window.close(stream_id)
        self.idle_since = time.monotonic()
        if self._is_draining:
            self._close_when_idle()

    def _refuse(self, limit: str, reason: str) -> NoReturn:
        self.server.context.limited[limit] += 1
        raise FrameError(frames.ENHANCE_YOUR_CALM, reason)
