"""The bytes that Envoy sends as whole HTTP/2 frames and header blocks (RFC 9113).

The relay cuts frames with `http2.splitter.FrameSplitter`, which hands DATA over in pieces and passes on, as the same
bytes, what nobody takes. Envoy's frames have at most 16 KiB, and the processor takes all of them: cutting whole frames
costs it less, most of all where a frame comes in several reads.

A read may bring thousands of frames, and a frame as many messages: they are handled as the connection's turn comes
(`relay.fair_share`), and what is left waits, charged to the connection's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn

from tocsin.ext_proc.hosts import ConnectionHost
from tocsin.http2 import frames
from tocsin.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADER_SIZE,
    HEADERS,
    PREFACE,
    SETTINGS,
    FrameError,
    StreamError,
)
from tocsin.memory import MemoryAccount
from tocsin.relay.fair_share import FairShare

MOST_CONTINUATIONS: Final = 64


class FrameReader(ConnectionHost):
    """Cuts Envoy's bytes into frames and header blocks. Subclasses handle them; setting `is_closed` ends the cutting.

    What has come and is not handled yet is charged to `memory`: unfinished frames and header blocks, and what waits for
    the next turn of `share` (`is_behind`). A block has at most `longest_headers` bytes.
    """

    __slots__ = (
        "_at", "_block", "_block_flags", "_block_stream", "_charged", "_continuations", "_has_settings",
        "_longest_headers", "_received", "_share", "_steps", "is_behind", "is_closed", "is_greeted", "memory",
    )  # fmt: skip

    def __init__(self, memory: MemoryAccount, share: FairShare, longest_headers: int) -> None:
        self.memory = memory
        self.is_greeted = False
        self.is_closed = False
        self.is_behind = False
        self._share = share
        self._longest_headers = longest_headers
        self._received = b""
        self._at = 0  # where in it the next frame begins
        self._charged = 0  # bytes of it that are charged
        self._steps: list[tuple[Iterator[None], int]] = []  # of what was read last, and the bytes that they keep
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

    def _add(self, data: bytes) -> None:
        """More has come of Envoy."""
        self._received = self._received[self._at :] + data if self._received else data
        self._at = 0
        self.is_behind = True

    def _read_part(self) -> None:
        """Handle the frames that have come whole, as far as this turn allows: `is_behind` where there may be more of
        them. Raises FrameError.
        """
        data, at, share = self._received, self._at, self._share
        end = len(data)
        if self._steps and not self._take_steps():
            return
        if not self.is_greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise FrameError(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if end < len(PREFACE):
                self.is_behind = False
                return
            self.is_greeted = True
            at = self._at = len(PREFACE)
        while end - at >= HEADER_SIZE:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]  # faster than Struct, compiled
            kind, flags = data[at + 3], data[at + 4]
            stream = (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            if length > frames.DEFAULT_MAX_FRAME_SIZE:
                raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
            stop = at + HEADER_SIZE + length
            if stop > end:
                break
            self._on_frame(kind, flags, stream, data[at + HEADER_SIZE : stop])
            at = self._at = stop
            if self.is_closed or (self._steps and not self._take_steps()) or (at < end and share.is_spent):
                return
        self.is_behind = False
        if at == end:
            self._received, self._at = b"", 0

    def work(self, steps: Iterator[None], size: int) -> None:
        self._steps.append((steps, size))
        self.memory.charge(size)

    def _work_behind(self, steps: Iterator[None]) -> None:
        """Take these steps behind all others."""
        self._steps.insert(0, (steps, 0))

    def _take_steps(self) -> bool:
        """Go on with what takes longer, as far as this turn allows: whether that is all of it. Raises FrameError."""
        waiting, share = self._steps, self._share
        while waiting:
            entry = waiting[-1]
            for _ in entry[0]:
                break
            else:
                waiting.remove(entry)
                self.memory.release(entry[1])
            if self.is_closed or (waiting and share.is_spent):
                return False
        return True

    def _charge_received(self) -> None:
        """Charge what waits for its rest, or for the next turn."""
        size = len(self._received) - self._at
        if size > self._charged:
            self.memory.charge(size - self._charged)
        elif size < self._charged:
            self.memory.release(self._charged - size)
        self._charged = size

    def _forget_received(self) -> None:
        """Nothing more is read."""
        self._received, self._at = b"", 0
        self.is_behind = False
        self._charge_received()
        steps, self._steps = self._steps, []
        self.memory.release(sum([size for _, size in steps]))

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
