"""The bytes that Envoy sends as whole HTTP/2 frames and header blocks (RFC 9113).

The relay cuts frames with `http2.splitter.FrameSplitter`, which hands DATA over in pieces and passes on, as the same
bytes, what nobody takes. Envoy's frames have at most 16 KiB, and the processor takes all of them: cutting whole frames
costs it less, most of all where a frame comes in several reads.
"""

from __future__ import annotations

from typing import NoReturn

from tocsin.ext_proc.hosts import ConnectionHost
from tocsin.http2 import frames
from tocsin.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADER,
    HEADER_SIZE,
    HEADERS,
    LAST_STREAM,
    PREFACE,
    SETTINGS,
    FrameError,
    StreamError,
)
from tocsin.memory import MemoryAccount

MOST_CONTINUATIONS = 64


class FrameReader(ConnectionHost):
    """Cuts Envoy's bytes into frames and header blocks. Subclasses handle them; setting `is_closed` ends the cutting.

    Unfinished frames and header blocks are charged to `memory`. A block has at most `longest_headers` bytes.
    """

    def __init__(self, memory: MemoryAccount, longest_headers: int) -> None:
        self.memory = memory
        self.is_greeted = False
        self.is_closed = False
        self._longest_headers = longest_headers
        self._tail = b""
        self._has_settings = False
        self._block = bytearray()
        self._block_stream = self._block_flags = self._continuations = 0

    # -- for subclasses

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A DATA frame. Raises FrameError."""
        raise NotImplementedError

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """A whole header block, with the flags of its HEADERS frame. Raises FrameError."""
        raise NotImplementedError

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Any other frame. Raises FrameError or StreamError."""
        raise NotImplementedError

    def _on_stream_error(self, error: StreamError) -> None:
        """A frame broke the protocol in a way that ends its stream alone."""
        raise NotImplementedError

    def _refuse(self, limit: str, reason: str) -> NoReturn:
        """Count that a limit was exceeded. Raises FrameError."""
        raise NotImplementedError

    # -- cutting

    def _read(self, data: bytes) -> None:
        """Handle the frames that these bytes complete, and keep the rest. Raises FrameError."""
        if self._tail:
            self.memory.release(len(self._tail))
            data = self._tail + data
            self._tail = b""
        at, end = 0, len(data)
        if not self.is_greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise FrameError(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if end < len(PREFACE):
                self._keep(data)
                return
            self.is_greeted = True
            at = len(PREFACE)
        while end - at >= HEADER_SIZE:
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            length = high << 8 | low
            if length > frames.DEFAULT_MAX_FRAME_SIZE:
                raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
            stop = at + HEADER_SIZE + length
            if stop > end:
                break
            self._on_frame(kind, flags, stream & LAST_STREAM, data[at + HEADER_SIZE : stop])
            at = stop
            if self.is_closed:
                return
        if at < end:
            self._keep(data[at:])

    def _keep(self, tail: bytes) -> None:
        """Keep the beginning of a frame until its rest arrives."""
        self._tail = tail
        self.memory.charge(len(tail))

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._has_settings:
            if kind != SETTINGS or flags & ACK:
                raise FrameError(frames.PROTOCOL_ERROR, f"the first frame is of type {kind}, not SETTINGS")
            self._has_settings = True
        if self._block_stream and (kind != CONTINUATION or stream != self._block_stream):
            raise FrameError(frames.PROTOCOL_ERROR, "HEADERS without END_HEADERS are followed by another frame")
        if kind == DATA:
            self._on_data(flags, stream, payload)
        elif kind == HEADERS:
            self._on_headers(flags, stream, frames.header_block(flags, payload))
        elif kind == CONTINUATION:
            self._on_continuation(flags, stream, payload)
        else:
            frames.check_control(kind, flags, stream, len(payload))
            try:
                self._on_control(kind, flags, stream, payload)
            except StreamError as error:
                self._on_stream_error(error)

    def _on_headers(self, flags: int, stream: int, block: bytes) -> None:
        if not stream & 1:
            raise FrameError(frames.PROTOCOL_ERROR, f"HEADERS of stream {stream}")
        self._continuations = 0
        self._bound_block(len(block))
        if flags & END_HEADERS:
            self._on_block(flags, stream, block)
            return
        self._block_stream, self._block_flags = stream, flags
        self._block += block
        self.memory.charge(len(block))

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block_stream:
            raise FrameError(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._continuations += 1
        self._bound_block(len(self._block) + len(payload))
        self._block += payload
        self.memory.charge(len(payload))
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), bytearray()
            self.memory.release(len(block))
            self._block_stream = 0
            self._on_block(self._block_flags, stream, block)

    def _bound_block(self, size: int) -> None:
        """Refuse a header block that is larger, or in more frames, than allowed."""
        if size > self._longest_headers or self._continuations > MOST_CONTINUATIONS:
            self._refuse("headers", "a header block that is too long")
