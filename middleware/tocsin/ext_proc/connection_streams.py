"""The streams of a connection from Envoy: each exchange is one, and has its windows (RFC 9113).

The connection's window is given back as soon as bytes have arrived. The streams' windows and the memory budget bound
what waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NoReturn

from tocsin.ext_proc.frame_reader import FrameReader
from tocsin.ext_proc.hosts import ProcessorHost
from tocsin.ext_proc.stream import ProcessorStream
from tocsin.http2 import frames
from tocsin.http2.frames import (
    ACK,
    END_STREAM,
    GOAWAY,
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
from tocsin.http2.receive_window import ReceiveWindow
from tocsin.http2.send_window import SendWindow
from tocsin.memory import MemoryAccount, StreamAllowance
from tocsin.relay.frame_rate import FrameRateLimit

STREAM_BYTES: Final = 3_072  # that an open exchange takes, without what waits in it
MOST_UNREAD: Final = 1 << 20  # bytes of acknowledgements that a peer which does not read may leave waiting

_WANTED: Final = HeaderFilter((":method", ":path", "content-type", "grpc-encoding"))


class EnvoyStreams(FrameReader):
    """Opens streams, hands them what Envoy sends, and keeps their windows. The subclass has the socket.

    `_is_paused`: the socket takes nothing for now; `_unread` bytes of acknowledgements wait for it.
    """

    __slots__ = (
        "_allowance", "_frame_rate", "_is_paused", "_last_stream", "_reader", "_unread", "idle_since",
        "receive_window", "send_window", "server", "streams",
    )  # fmt: skip

    def __init__(self, server: ProcessorHost, memory: MemoryAccount) -> None:
        super().__init__(memory, server.share, server.longest_headers)
        self.server = server
        self._is_paused = False
        self._unread = 0
        self.send_window = SendWindow(self, memory)
        self.receive_window = ReceiveWindow(self, self.send_window, memory)
        self.streams: dict[int, ProcessorStream] = {}
        self._allowance = StreamAllowance(memory, STREAM_BYTES)
        self.idle_since = time.monotonic()
        self._reader = HeaderReader(_WANTED, stateful=True, largest=server.longest_headers)
        self._last_stream = 0
        self._frame_rate = FrameRateLimit(server.context.frame_limits)

    @property
    def open_streams(self) -> int:
        return len(self.streams)

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
        if stream is None:  # it has ended here
            self.receive_window.credit(stream_id, size, ended=True)
            return
        if payload:
            stream.on_data(payload)
        if self._steps:
            self._work_behind(self._ending_data(flags, stream_id, size))
        else:
            self._end_data(flags, stream_id, size)

    def _ending_data(self, flags: int, stream_id: int, size: int) -> Iterator[None]:
        self._end_data(flags, stream_id, size)
        yield

    def _end_data(self, flags: int, stream_id: int, size: int) -> None:
        """A DATA frame of so many bytes is read."""
        ended = bool(flags & END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is None:
            ended = True
        elif ended:
            stream.on_half_closed()
        if not ended and self.send_window.blocked(stream_id):
            self.receive_window.defer_credit(stream_id, size)
        else:
            self.receive_window.credit(stream_id, size, ended=ended)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            fields = self._reader.read(block)
        except HeadersTooLong as too_long:
            self._refuse("headers", str(too_long))
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
        if not self._may_open():
            self.put(frames.reset(stream_id, frames.REFUSED_STREAM))
            return
        self.send_window.open(stream_id)
        stream = self.streams[stream_id] = ProcessorStream(self, stream_id)
        stream.begin(fields, ended=bool(flags & END_STREAM))

    def _may_open(self) -> bool:
        """Whether there may be one more stream than there are."""
        context, count = self.server.context, len(self.streams)
        if count >= context.config.limits.streams:
            context.limited["streams"] += 1
        elif not self._allowance.extend(count):
            context.limited["memory"] += 1
        else:
            return True
        return False

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame without DATA or header fields: keep windows, end streams, acknowledge. Raises FrameError."""
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
        self._allowance.shrink(len(self.streams))
        self.idle_since = time.monotonic()

    def _caught_up(self, streams: list[int]) -> None:
        """Nothing waits for these streams' windows any more."""
        for stream_id in streams:
            self.receive_window.release_credit(stream_id, ended=stream_id not in self.streams)
            if stream_id not in self.streams:
                self.remove(stream_id)

    def _refuse(self, limit: str, reason: str) -> NoReturn:
        self.server.context.limited[limit] += 1
        raise FrameError(frames.ENHANCE_YOUR_CALM, reason)
