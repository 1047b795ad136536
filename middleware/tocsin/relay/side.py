"""One of the two sockets of a relayed connection: cuts what arrives into frames and hands it on as the same bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tocsin.relay import frames
from tocsin.relay.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADER,
    HEADERS,
    PADDED,
    FrameError,
)

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

LARGEST_CONTROL = 1 << 18  # bytes of a frame other than DATA, and of a header block with its continuations
MOST_CONTINUATIONS = 64
FEW, LITTLE = 2, 1 << 16  # pieces, and bytes, up to which joining them is quicker than writing them one by one
LAST_KNOWN = CONTINUATION
DRESSED = PADDED | HAS_PRIORITY


class Side(asyncio.Protocol):
    """Frames from one peer. Subclasses say what headers, data and control frames mean in their direction.

    `out` is what waits to be written to this peer, `waiting` whole frames for which there is no place in it until a
    frame that is passing has ended. `orderly` tells that other things are written to the peer than what is read here.
    """

    __deletable__ = ("connection",)  # where this is compiled: by whoever parts the two

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes] = []
        self.waiting: list[bytes] = []
        self.orderly = False
        self.closed = False
        self._tail = b""
        self._inside = 0  # bytes of a DATA payload still to come
        self._inside_stream = 0
        self._inside_flags = 0
        self._inside_taken = False

    @property
    def between_frames(self) -> bool:
        """Whether everything handed on from this side so far is whole frames."""
        return not self._inside or self._inside_taken

    @property
    def peer(self) -> Side:
        """The other side."""
        raise AssertionError("a side is of one direction")

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        """A header block; what to hand on in its place, None for the same bytes."""
        raise AssertionError("a side is of one direction")

    def data(self, stream: int, flags: int, payload: bytes, length: int) -> bool:
        """The first piece of a DATA payload, mostly all of it, of `length` bytes with padding: whether it is taken,
        so that the frame is not handed on. END_STREAM is in the flags of the last piece alone.
        """
        raise AssertionError("a side is of one direction")

    def more_data(self, stream: int, flags: int, payload: bytes, taken: bool) -> None:
        """A further piece, of a frame that was taken or not."""
        raise AssertionError("a side is of one direction")

    def control(self, kind: int, flags: int, stream: int, whole: bytes) -> bytes | None:
        """Any other frame; what to hand on in its place, None for the same bytes."""
        raise AssertionError("a side is of one direction")

    def data_received(self, data: bytes) -> None:
        """Bytes from the socket."""
        try:
            self._cut(data)
        except FrameError as error:
            self.connection.abort(self, error)
            return
        self.connection.flush(self.peer)
        if self.out:  # such as credit for what was read
            self.connection.flush(self)

    def _cut(self, data: bytes) -> None:
        if self._tail:
            data = self._tail + data
            self._tail = b""
        out, orderly = self.peer.out, self.orderly
        end = len(data)
        start = at = 0  # what lies between start and at goes on unchanged
        if self._inside:
            at = self._finish_data(data, end)
            start = at if self._inside_taken else 0
            if not self._inside and self.peer.waiting:  # at once, before anything that follows is handed on
                if at > start:
                    out.append(data[start:at])
                start = at
                out += self.peer.waiting
                self.peer.waiting.clear()
        while end - at >= 9:
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if orderly and at > start:  # what is written while this frame is read comes after those before it
                out.append(data[start:at])
                start = at
            if kind == DATA:
                if stop > end:
                    if flags & PADDED:
                        break
                    taken = self.data(stream, flags & ~END_STREAM, data[at + 9 : end], high << 8 | low)
                    self._inside, self._inside_stream, self._inside_flags = stop - end, stream, flags
                    self._inside_taken = taken
                    if taken:
                        if at > start:
                            out.append(data[start:at])
                        start = end
                    at = end
                    break
                payload = data[at + 9 : stop]
                content = frames.unpadded(payload) if flags & PADDED else payload
                if self.data(stream, flags, content, len(payload)):
                    if at > start:
                        out.append(data[start:at])
                    start = stop
                at = stop
                continue
            if stop - at > LARGEST_CONTROL:
                raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {stop - at - 9} bytes")
            if stop > end:
                break
            if kind == HEADERS:
                block = data[at + 9 : stop]
                if flags & DRESSED:
                    block = frames.header_block(flags, block)
                if not flags & END_HEADERS:
                    joined = self._continued(data, stop, stream, block)
                    if joined is None:
                        break
                    block, stop = joined
                instead = self.headers(stream, flags, block)
            else:
                instead = self.control(kind, flags, stream, data[at:stop])
            if instead is not None:
                if at > start:
                    out.append(data[start:at])
                out.append(instead)
                start = stop
            at = stop
        if at > start:
            out.append(data if start == 0 and at == end else data[start:at])
        self._tail = data[at:]

    def _finish_data(self, data: bytes, end: int) -> int:
        """The rest of a DATA payload that began earlier; the position after what there is of it."""
        stop = min(self._inside, end)
        flags = self._inside_flags if stop == self._inside else self._inside_flags & ~END_STREAM
        self.more_data(self._inside_stream, flags, data[:stop], self._inside_taken)
        self._inside -= stop
        return stop

    def _continued(self, data: bytes, at: int, stream: int, block: bytes) -> tuple[bytes, int] | None:
        """A block with its CONTINUATION frames and the position after them, None while some are missing."""
        parts = [block]
        size = len(block)
        while len(data) - at >= 9:
            high, low, kind, flags, owner = HEADER.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if kind != CONTINUATION or owner != stream:
                raise FrameError(frames.PROTOCOL_ERROR, "HEADERS without END_HEADERS are followed by another frame")
            size += stop - at - 9
            if size > LARGEST_CONTROL or len(parts) > MOST_CONTINUATIONS:
                raise FrameError(frames.ENHANCE_YOUR_CALM, "a header block that is too long")
            if stop > len(data):
                return None
            parts.append(data[at + 9 : stop])
            at = stop
            if flags & END_HEADERS:
                return b"".join(parts), at
        return None

    def put(self, whole: bytes) -> None:
        """Write a whole frame to this peer, not into the middle of another."""
        (self.out if self.peer.between_frames else self.waiting).append(whole)

    def write(self) -> None:
        """Write what waits, once there is a socket."""
        transport, out = self.transport, self.out
        if transport is None or not out or transport.is_closing():
            return
        if len(out) == 1:
            transport.write(out[0])
        elif len(out) <= FEW or sum(map(len, out)) <= LITTLE:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)  # without another copy of what is large
        out.clear()

    def pause_writing(self) -> None:
        """This peer reads slowly: stop reading from the other one."""
        other = self.peer.transport
        if other is not None and not other.is_closing():
            other.pause_reading()

    def resume_writing(self) -> None:
        """This peer has caught up."""
        other = self.peer.transport
        if other is not None and not other.is_closing():
            other.resume_reading()

    def close(self) -> None:
        """Write what waits and close the socket."""
        if self.transport is not None and not self.transport.is_closing():
            self.write()
            self.transport.close()
