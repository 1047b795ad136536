"""Bytes of an HTTP/2 connection into frames, and what is handed on in their place."""

from __future__ import annotations

from typing import Final

from tocsin.http2 import frames
from tocsin.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADER,
    HEADER_SIZE,
    HEADERS,
    LAST_STREAM,
    PADDED,
    SETTINGS,
    FrameError,
    StreamError,
)
from tocsin.http2.unfinished_block import UnfinishedBlock
from tocsin.memory import MemoryAccount

LARGEST_CONTROL: Final = 1 << 18  # bytes of a frame other than DATA, and of a header block with its continuations
LAST_KNOWN_KIND: Final = CONTINUATION
PADDED_OR_PRIORITY: Final = PADDED | HAS_PRIORITY
PLAIN: Final = PADDED_OR_PRIORITY | END_HEADERS


class FrameSplitter:
    """Cuts what one peer sends into frames. Subclasses say what becomes of them.

    Whatever nobody takes or replaces goes on as the same bytes, into the `out` of `split`. DATA is handed over as it
    comes, in pieces where a frame is large; other frames, and header blocks with their continuations, when they are
    whole. Unfinished frames are charged to `memory`.

    `between_frames` tells whether everything handed on so far is whole frames.
    `preserves_order`: whoever reads a frame may write into `out` as well, so that what came before it must be there.
    `joins_data`: plain DATA frames of one stream that follow each other are handed over together (`data_together`).
    """

    __slots__ = (
        "_is_greeted", "_memory", "_needed", "_partial_data", "_partial_flags", "_partial_is_taken", "_partial_padding",
        "_partial_stream", "_tail", "_unfinished_block", "between_frames", "joins_data", "preserves_order",
    )  # fmt: skip

    def __init__(self, memory: MemoryAccount) -> None:
        self._memory = memory
        self.preserves_order = False
        self.joins_data = False
        self.between_frames = True
        self._is_greeted = False  # the first frame, which must be SETTINGS, has come
        self._tail = bytearray()  # of a frame that is unfinished
        self._needed = 0  # bytes until it is finished, or more is known of it
        self._unfinished_block = UnfinishedBlock(memory, LARGEST_CONTROL)
        self._partial_data = 0  # bytes of a DATA payload still to come
        self._partial_padding = 0  # how many of them are padding
        self._partial_stream = 0
        self._partial_flags = 0
        self._partial_is_taken = False

    # -- for subclasses

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        """A header block; what to hand on in its place, None for the same bytes."""
        raise NotImplementedError

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        """The first piece of a DATA frame's content, mostly all of it: whether it is taken, so that the frame is not
        handed on.

        `length` is what the whole frame takes of windows, `size` what this piece of it does: padding counts too.
        END_STREAM is in the flags of the last piece alone.
        """
        raise NotImplementedError

    def data_together(self, stream: int, data: bytes, places: list[tuple[int, int]]) -> bool:
        """Consecutive DATA frames without END_STREAM, whose contents are at these places of `data`; whether they are
        taken, as by `data`.
        """
        raise NotImplementedError

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        """A further piece, of a frame that was taken or not."""
        raise NotImplementedError

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
        """Any other frame; what to hand on in its place, None for the same bytes."""
        raise NotImplementedError

    def on_stream_error(self, error: StreamError) -> None:
        """A frame broke the protocol in a way that ends its stream alone."""
        raise NotImplementedError

    def on_frame_passed(self) -> None:
        """A frame that was handed on in pieces has ended."""
        raise NotImplementedError

    # -- cutting

    def split(self, data: bytes, out: list[bytes], largest: int) -> None:
        """The next bytes. What goes on is appended to `out`, for a receiver of frames up to `largest` bytes. Raises
        FrameError where the peer breaks the protocol.
        """
        if self._tail:
            self._tail += data
            self._memory.charge(len(data))
            if len(self._tail) < self._needed:
                return
            data = bytes(self._tail)
            self._memory.release(len(data))
            self._tail = bytearray()
        preserves_order, joins_data = self.preserves_order, self.joins_data
        end = len(data)
        last = end - HEADER_SIZE  # where the last frame header may begin
        start = at = 0  # what lies between start and at goes on unchanged
        if self._partial_data:
            start, at = self._finish_data(data, end, out)
        if not self._is_greeted and at <= last:
            self._greet_with(data[at + 3], data[at + 4])
        limit = min(largest, LARGEST_CONTROL)
        usual = -1 if self._unfinished_block.stream else limit  # nothing is, until a header block has ended
        self._needed = HEADER_SIZE
        while at <= last:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]  # faster than Struct, compiled
            kind, flags = data[at + 3], data[at + 4]
            stream = data[at + 5] << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            stop = at + HEADER_SIZE + length
            if preserves_order and at > start:  # what is written while this frame is read comes after those before it
                out.append(data[start:at])
                start = at
            if stop <= end and length <= usual and 0 < stream <= LAST_STREAM:  # most are so
                if not kind and not flags & PADDED:  # DATA
                    if (
                        joins_data
                        and not flags
                        and stop <= last
                        and not data[stop + 3]
                        and data[stop + 8] == stream & 0xFF
                    ):  # more of it, most likely
                        places: list[tuple[int, int]] = []
                        stop = frames.consecutive_data(data, at, usual, places)
                        if self.data_together(stream, data, places):
                            if at > start:
                                out.append(data[start:at])
                            start = stop
                    elif self.data(stream, flags, data[at + HEADER_SIZE : stop], length, length):
                        if at > start:
                            out.append(data[start:at])
                        start = stop
                    at = stop
                    continue
                if kind == HEADERS and flags & PLAIN == END_HEADERS:
                    instead = self.headers(stream, flags, data[at + HEADER_SIZE : stop])
                    if instead is not None:
                        if at > start:
                            out.append(data[start:at])
                        if instead:
                            out.append(instead)
                        start = stop
                    at = stop
                    continue
            if kind == DATA:
                start, stop = self._unusual_data(data, start, at, length, largest, out)
            else:
                start, stop = self._other(data, start, at, length, largest, out)
            if stop == at:  # the rest of it is to come
                break
            at = stop
            usual = -1 if self._unfinished_block.stream else limit
        if at > start:
            out.append(data if start == 0 and at == end else data[start:at])
        if at < end:
            self._tail += data[at:]
            self._memory.charge(end - at)

    def _greet_with(self, kind: int, flags: int) -> None:
        """The first frame, which must be SETTINGS."""
        if kind != SETTINGS or flags & ACK:
            raise FrameError(frames.PROTOCOL_ERROR, f"the first frame is of type {kind}, not SETTINGS")
        self._is_greeted = True

    def _check(self, kind: int, stream: int, length: int, largest: int) -> None:
        """Whether a frame may come here. Raises FrameError."""
        if length > largest:
            raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
        self._unfinished_block.check(kind, stream)

    def _unusual_data(
        self, data: bytes, start: int, at: int, length: int, largest: int, out: list[bytes]
    ) -> tuple[int, int]:
        """A DATA frame that is padded, has the reserved bit, or has not come whole; where what goes on begins, and
        where the frame ends, `at` if more of it must come first.
        """
        high, low, kind, flags, stream = HEADER.unpack_from(data, at)
        reserved = stream > LAST_STREAM  # the reserved bit, which means nothing
        stream &= LAST_STREAM
        self._check(kind, stream, length, largest)
        if not stream:
            raise FrameError(frames.PROTOCOL_ERROR, "DATA of no stream")
        end, content = len(data), at + HEADER_SIZE
        stop = content + length
        if stop <= end:
            payload = data[content:stop]
            if flags & PADDED:
                payload = frames.unpadded(payload)
            is_taken = self.data(stream, flags, payload, length, length)
        else:
            padding = 0
            if flags & PADDED:
                if content >= end:
                    self._needed = HEADER_SIZE + 1
                    return start, at
                padding = data[content]
                if padding >= length:
                    raise FrameError(frames.PROTOCOL_ERROR, "DATA padding longer than the frame")
                content += 1
            piece = data[content : max(content, min(end, stop - padding))]
            is_taken = self.data(stream, flags & ~END_STREAM, piece, length, end - at - HEADER_SIZE)
            self._partial_data, self._partial_padding = stop - end, padding
            self._partial_stream, self._partial_flags, self._partial_is_taken = stream, flags, is_taken
            self.between_frames = is_taken
            stop = end
        if is_taken:
            if at > start:
                out.append(data[start:at])
            return stop, stop
        if reserved:
            out += [data[start:at], HEADER.pack(high, low, kind, flags, stream)]
            start = at + HEADER_SIZE
        return start, stop

    def _other(self, data: bytes, start: int, at: int, length: int, largest: int, out: list[bytes]) -> tuple[int, int]:
        """A frame other than DATA; where what goes on begins, and where the frame ends, `at` if it is not whole."""
        high, low, kind, flags, stream = HEADER.unpack_from(data, at)
        reserved = stream > LAST_STREAM
        stream &= LAST_STREAM
        self._check(kind, stream, length, min(largest, LARGEST_CONTROL))
        stop = at + HEADER_SIZE + length
        if stop > len(data):
            self._needed = stop - at
            return start, at
        frame = HEADER.pack(high, low, kind, flags, stream) + data[at + HEADER_SIZE : stop] if reserved else b""
        if kind == HEADERS:
            if not stream:
                raise FrameError(frames.PROTOCOL_ERROR, "HEADERS of no stream")
            block = data[at + HEADER_SIZE : stop]
            if flags & PADDED_OR_PRIORITY:
                block = frames.header_block(flags, block)
            if flags & END_HEADERS:
                instead = self.headers(stream, flags, block)
            else:
                self._unfinished_block.begin(stream, flags, block, frame or data[at:stop])
                instead = b""
        elif kind == CONTINUATION:
            instead = self._continue_block(stream, flags, frame or data[at:stop])
        else:
            frames.check_control(kind, flags, stream, length)
            try:
                instead = self.control(kind, flags, stream, frame or data[at:stop])
            except StreamError as error:
                self.on_stream_error(error)
                instead = b""
        if instead is None and reserved:
            instead = frame
        if instead is None:
            return start, stop
        if at > start:
            out.append(data[start:at])
        if instead:
            out.append(instead)
        return stop, stop

    def _finish_data(self, data: bytes, end: int, out: list[bytes]) -> tuple[int, int]:
        """The rest of a DATA payload that began earlier; where what goes on begins, and where this ends."""
        stop = min(self._partial_data, end)
        flags = self._partial_flags if stop == self._partial_data else self._partial_flags & ~END_STREAM
        content = max(0, min(stop, self._partial_data - self._partial_padding))
        self.more_data(self._partial_stream, flags, data[:content], stop, self._partial_is_taken)
        self._partial_data -= stop
        if self._partial_data:
            return (stop if self._partial_is_taken else 0), stop
        self.between_frames = True
        if not self._partial_is_taken:  # at once, before anything that follows is handed on
            out.append(data[:stop])
        self.on_frame_passed()
        return stop, stop

    def _continue_block(self, stream: int, flags: int, frame: bytes) -> bytes | None:
        """A CONTINUATION; what to hand on once the block is complete."""
        unfinished = self._unfinished_block
        if not unfinished.add(flags, frame):
            return b""
        block, as_it_came = unfinished.take()
        instead = self.headers(stream, unfinished.flags, block)
        return as_it_came if instead is None else instead
