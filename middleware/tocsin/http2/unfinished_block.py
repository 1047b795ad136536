"""A header block in several frames: HEADERS, and the CONTINUATION frames that follow it (RFC 9113, section 6.10)."""

from __future__ import annotations

from typing import Final

from tocsin.http2 import frames
from tocsin.http2.frames import CONTINUATION, END_HEADERS, HEADER_SIZE, FrameError
from tocsin.memory import MemoryAccount

MOST_CONTINUATIONS: Final = 64


class UnfinishedBlock:
    """The header block whose end is still to come, which is charged to `memory`. `stream` is its stream, 0 where there
    is no such block, and `flags` are those of its HEADERS. It has at most `largest` bytes.
    """

    def __init__(self, memory: MemoryAccount, largest: int) -> None:
        self.stream = 0
        self.flags = 0
        self._memory = memory
        self._largest = largest
        self._block = bytearray()
        self._frames = bytearray()  # the same as it came
        self._continuations = 0

    def begin(self, stream: int, flags: int, block: bytes, frame: bytes) -> None:
        """HEADERS without END_HEADERS: `block` is what they hold, `frame` all of them."""
        self.stream, self.flags, self._continuations = stream, flags, 0
        self._block += block
        self._frames += frame
        self._memory.charge(len(block) + len(frame))

    def check(self, kind: int, stream: int) -> None:
        """Raises FrameError where a frame of this type and stream may not come while the block is unfinished."""
        if self.stream and (kind != CONTINUATION or stream != self.stream):
            raise FrameError(frames.PROTOCOL_ERROR, "HEADERS without END_HEADERS are followed by another frame")

    def add(self, flags: int, frame: bytes) -> bool:
        """A CONTINUATION frame; whether the block is complete with it. Raises FrameError."""
        if not self.stream:
            raise FrameError(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._continuations += 1
        length = len(frame) - HEADER_SIZE
        if len(self._block) + length > self._largest or self._continuations > MOST_CONTINUATIONS:
            raise FrameError(frames.ENHANCE_YOUR_CALM, "a header block that is too long")
        self._block += frame[HEADER_SIZE:]
        self._frames += frame
        self._memory.charge(length + len(frame))
        return bool(flags & END_HEADERS)

    def take(self) -> tuple[bytes, bytes]:
        """The complete block, and its frames as they came. Nothing is kept of it any more."""
        block, as_it_came = bytes(self._block), bytes(self._frames)
        self._memory.release(len(block) + len(as_it_came))
        self._block, self._frames, self.stream = bytearray(), bytearray(), 0
        return block, as_it_came
