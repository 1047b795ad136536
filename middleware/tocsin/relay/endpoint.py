"""One of the two sockets of a relayed connection: cuts what arrives into frames and hands it on as the same bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tocsin.http2 import frames
from tocsin.http2.flow_control import SendWindow
from tocsin.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADER,
    HEADERS,
    LAST_STREAM,
    PADDED,
    SETTINGS,
    FrameError,
    StreamError,
)

if TYPE_CHECKING:
    from tocsin.relay.connection import Connection

LARGEST_CONTROL = 1 << 18  # bytes of a frame other than DATA, and of a header block with its continuations
MOST_CONTINUATIONS = 64
MOST_UNREAD = 1 << 20  # bytes of the relay's own answers that a peer which does not read them may leave waiting
FEW, LITTLE = 2, 1 << 16  # pieces, and bytes, up to which joining them is quicker than writing them one by one
LAST_KNOWN = CONTINUATION
PADDED_OR_PRIORITY = PADDED | HAS_PRIORITY
PLAIN = PADDED_OR_PRIORITY | END_HEADERS


class Endpoint(asyncio.Protocol):
    """Frames from one peer. Subclasses say what headers, data and control frames mean in their direction.

    `out` is what waits to be written to this peer, `waiting` whole frames for which there is no place in it until a
    frame that is passing has ended. `preserves_order` tells that other things are written to the peer than what is read
    here.
    `largest_frame` is the largest that this peer takes, `send_window` its windows where the relay keeps to them.
    """

    __deletable__ = ("connection", "peer")  # where this is compiled: by whoever parts the two

    peer: Endpoint  # the other side

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes] = []
        self.waiting: list[bytes] = []
        self.send_window: SendWindow | None = None
        self.preserves_order = False
        self.closed = False
        self.is_paused = False  # the peer does not read what was written
        self.largest_frame = frames.DEFAULT_MAX_FRAME_SIZE
        self._memory = connection.memory
        self._unsent = 0  # bytes that the socket does not take, as they were charged
        self._unread = 0  # of the relay's own answers, since the peer stopped reading
        self._has_ended = False  # nothing more is written
        self._is_greeted = False  # the first frame, which must be SETTINGS, has come
        self._tail = bytearray()  # of a frame that is unfinished
        self._needed = 0  # bytes until it is finished, or more is known of it
        self._block = bytearray()  # a header block whose continuations are to come
        self._block_frames = bytearray()  # the same as it came
        self._block_stream = 0
        self._block_flags = 0
        self._continuations = 0
        self._partial_data = 0  # bytes of a DATA payload still to come
        self._partial_padding = 0  # how many of them are padding
        self._partial_stream = 0
        self._partial_flags = 0
        self._partial_is_taken = False

    @property
    def between_frames(self) -> bool:
        """Whether everything handed on from this side so far is whole frames."""
        return not self._partial_data or self._partial_is_taken

    def headers(self, stream: int, flags: int, block: bytes) -> bytes | None:
        """A header block; what to hand on in its place, None for the same bytes."""
        raise AssertionError("a side is of one direction")

    def data(self, stream: int, flags: int, payload: bytes, length: int, size: int) -> bool:
        """The first piece of a DATA frame's content, mostly all of it: whether it is taken, so that the frame is not
        handed on.

        `length` is what the whole frame takes of windows, `size` what this piece of it does: padding counts too.
        END_STREAM is in the flags of the last piece alone.
        """
        raise AssertionError("a side is of one direction")

    def more_data(self, stream: int, flags: int, payload: bytes, size: int, is_taken: bool) -> None:
        """A further piece, of a frame that was taken or not."""
        raise AssertionError("a side is of one direction")

    def control(self, kind: int, flags: int, stream: int, frame: bytes) -> bytes | None:
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
            self._tail += data
            self._memory.charge(len(data))
            if len(self._tail) < self._needed:
                return
            data = bytes(self._tail)
            self._memory.release(len(data))
            self._tail = bytearray()
        out, preserves_order = self.peer.out, self.preserves_order
        largest = self.peer.largest_frame
        usual = min(largest, LARGEST_CONTROL)
        end = len(data)
        start = at = 0  # what lies between start and at goes on unchanged
        needed = 9
        if self._partial_data:
            at = self._finish_data(data, end)
            start = at if self._partial_is_taken else 0
            if not self._partial_data and self.peer.waiting:  # at once, before anything that follows is handed on
                if at > start:
                    out.append(data[start:at])
                start = at
                self.peer.place_waiting()
        if not self._is_greeted and end - at >= 9:
            self._greet_with(data[at + 3], data[at + 4])
        in_block = self._block_stream
        if in_block:
            usual = -1  # nothing is, until the block has ended
        while end - at >= 9:
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            length = high << 8 | low
            stop = at + 9 + length
            if preserves_order and at > start:  # what is written while this frame is read comes after those before it
                out.append(data[start:at])
                start = at
            if stop <= end and length <= usual and 0 < stream <= LAST_STREAM:  # most are so
                if kind == DATA and not flags & PADDED:
                    if self.data(stream, flags, data[at + 9 : stop], length, length):
                        if at > start:
                            out.append(data[start:at])
                        start = stop
                    at = stop
                    continue
                if kind == HEADERS and flags & PLAIN == END_HEADERS:
                    instead = self.headers(stream, flags, data[at + 9 : stop])
                    if instead is not None:
                        if at > start:
                            out.append(data[start:at])
                        out.append(instead)
                        start = stop
                    at = stop
                    continue
            reserved = stream > LAST_STREAM
            if reserved:  # the reserved bit, which means nothing
                stream &= LAST_STREAM
            if length > largest:
                raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
            if in_block and (kind != CONTINUATION or stream != in_block):
                raise FrameError(frames.PROTOCOL_ERROR, "HEADERS without END_HEADERS are followed by another frame")
            if kind == DATA:
                if not stream:
                    raise FrameError(frames.PROTOCOL_ERROR, "DATA of no stream")
                if stop > end:
                    padding = 0
                    content = at + 9
                    if flags & PADDED:
                        if content >= end:
                            needed = 10
                            break
                        padding = data[content]
                        content += 1
                        if padding >= length:
                            raise FrameError(frames.PROTOCOL_ERROR, "DATA padding longer than the frame")
                    piece = data[content : max(content, min(end, stop - padding))]
                    is_taken = self.data(stream, flags & ~END_STREAM, piece, length, end - at - 9)
                    self._partial_data, self._partial_padding = stop - end, padding
                    self._partial_stream, self._partial_flags, self._partial_is_taken = stream, flags, is_taken
                    if is_taken:
                        if at > start:
                            out.append(data[start:at])
                        start = end
                    elif reserved:
                        out += [data[start:at], HEADER.pack(high, low, kind, flags, stream)]
                        start = at + 9
                    at = end
                    break
                payload = data[at + 9 : stop]
                if flags & PADDED:
                    payload = frames.unpadded(payload)
                if self.data(stream, flags, payload, length, length):
                    if at > start:
                        out.append(data[start:at])
                    start = stop
                elif reserved:
                    out += [data[start:at], HEADER.pack(high, low, kind, flags, stream)]
                    start = at + 9
                at = stop
                continue
            if length > LARGEST_CONTROL:
                raise FrameError(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
            if stop > end:
                needed = stop - at
                break
            if reserved:
                frame = HEADER.pack(high, low, kind, flags, stream) + data[at + 9 : stop]
            elif kind == HEADERS and flags & END_HEADERS:
                frame = b""  # which nobody asks for
            else:
                frame = data[at:stop]
            if kind == HEADERS:
                if not stream:
                    raise FrameError(frames.PROTOCOL_ERROR, "HEADERS of no stream")
                block = data[at + 9 : stop]
                if flags & PADDED_OR_PRIORITY:
                    block = frames.header_block(flags, block)
                if flags & END_HEADERS:
                    instead = self.headers(stream, flags, block)
                else:
                    self._begin_block(stream, flags, block, frame)
                    in_block, usual = stream, -1
                    instead = b""
            elif kind == CONTINUATION:
                instead = self._continue_block(stream, flags, frame)
                in_block = self._block_stream
                usual = -1 if in_block else min(largest, LARGEST_CONTROL)
            else:
                frames.check_control(kind, flags, stream, length)
                try:
                    instead = self.control(kind, flags, stream, frame)
                except StreamError as error:
                    self.connection.end_faulty_stream(self, error)
                    instead = b""
            if instead is None and reserved:
                instead = frame
            if instead is not None:
                if at > start:
                    out.append(data[start:at])
                out.append(instead)
                start = stop
            at = stop
        if at > start:
            out.append(data if start == 0 and at == end else data[start:at])
        if at < end:
            self._tail += data[at:]
            self._needed = needed
            self._memory.charge(end - at)

    def _greet_with(self, kind: int, flags: int) -> None:
        """The first frame, which must be SETTINGS."""
        if kind != SETTINGS or flags & ACK:
            raise FrameError(frames.PROTOCOL_ERROR, f"the first frame is of type {kind}, not SETTINGS")
        self._is_greeted = True

    def _finish_data(self, data: bytes, end: int) -> int:
        """The rest of a DATA payload that began earlier; the position after what there is of it."""
        stop = min(self._partial_data, end)
        flags = self._partial_flags if stop == self._partial_data else self._partial_flags & ~END_STREAM
        content = max(0, min(stop, self._partial_data - self._partial_padding))
        self.more_data(self._partial_stream, flags, data[:content], stop, self._partial_is_taken)
        self._partial_data -= stop
        return stop

    def _begin_block(self, stream: int, flags: int, block: bytes, frame: bytes) -> None:
        """A header block that goes on in CONTINUATION frames."""
        self._block_stream, self._block_flags, self._continuations = stream, flags, 0
        self._block += block
        self._block_frames += frame
        self._memory.charge(len(block) + len(frame))

    def _continue_block(self, stream: int, flags: int, frame: bytes) -> bytes | None:
        """A CONTINUATION; what to hand on once the block is complete."""
        if not self._block_stream:
            raise FrameError(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._continuations += 1
        length = len(frame) - 9
        if len(self._block) + length > LARGEST_CONTROL or self._continuations > MOST_CONTINUATIONS:
            raise FrameError(frames.ENHANCE_YOUR_CALM, "a header block that is too long")
        self._block += frame[9:]
        self._block_frames += frame
        self._memory.charge(length + len(frame))
        if not flags & END_HEADERS:
            return b""
        block, as_it_came = bytes(self._block), bytes(self._block_frames)
        self._memory.release(len(block) + len(as_it_came))
        self._block, self._block_frames, self._block_stream = bytearray(), bytearray(), 0
        instead = self.headers(stream, self._block_flags, block)
        return as_it_came if instead is None else instead

    def put(self, frame: bytes) -> None:
        """Write a whole frame to this peer, not into the middle of another."""
        peer = self.peer
        (self.waiting if peer._partial_data and not peer._partial_is_taken else self.out).append(frame)

    def take_frames_up_to(self, size: int | None) -> None:
        """This peer takes frames up to that size, as its SETTINGS say; None: they do not say."""
        if size is not None:
            if not frames.DEFAULT_MAX_FRAME_SIZE <= size <= frames.LARGEST_FRAME:
                raise FrameError(frames.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {size:,}")
            self.largest_frame = size

    def place_waiting(self) -> None:
        """No frame is passing any more: what waited for its end follows."""
        self.out += self.waiting
        self.waiting.clear()
        if not self.is_paused:
            self._forget_unread()

    def _forget_unread(self) -> None:
        self._memory.release(self._unread)
        self._unread = 0

    def reply(self, frame: bytes) -> None:
        """Write an answer of the relay's own, which nothing else holds back: a peer that does not read what it asks
        for is cut off.
        """
        if self.is_paused or self.waiting:
            self._unread += len(frame)
            self._memory.charge(len(frame))
            if self._unread > MOST_UNREAD:
                self.connection.cut_off("unread", "answers are not read")
                return
        self.put(frame)

    def write(self) -> None:
        """Write what waits, once there is a socket."""
        transport, out = self.transport, self.out
        if transport is None or not out:
            return
        if self._has_ended or transport.is_closing():
            out.clear()
            return
        if len(out) == 1:
            transport.write(out[0])
        elif len(out) <= FEW or sum(map(len, out)) <= LITTLE:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)  # without another copy of what is large
        out.clear()
        if self.send_window is not None and self.send_window.on_socket_written():
            asyncio.get_running_loop().call_soon(self._go_on)

    def end_writing(self) -> None:
        """Write what waits, and nothing after it."""
        self.write()
        transport = self.transport
        if transport is not None and not self._has_ended and not transport.is_closing() and transport.can_write_eof():
            self._has_ended = True
            transport.write_eof()

    def _go_on(self) -> None:
        """The socket has taken what was written: more may follow."""
        if not self.closed:
            self.connection.caught_up(self)

    def pause_writing(self) -> None:
        """This peer reads slowly: stop reading from the other one, and count what waits."""
        self.is_paused = True
        if self.send_window is not None:
            self.send_window.is_paused = True
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self._memory.charge(self._unsent)
        other = self.peer.transport
        if other is not None and not other.is_closing():
            other.pause_reading()

    def resume_writing(self) -> None:
        """This peer has caught up."""
        self.is_paused = False
        self._memory.release(self._unsent)
        self._unsent = 0
        self._forget_unread()
        other = self.peer.transport
        if other is not None and not other.is_closing():
            other.resume_reading()
        if self.send_window is not None:
            self.send_window.is_paused = False
            self.connection.caught_up(self)

    def break_cycle(self) -> None:
        """Hold nothing of the connection any more."""
        self.send_window = None
        del self.connection, self.peer

    def close(self) -> None:
        """Write what waits and close the socket."""
        if self.transport is not None and not self.transport.is_closing():
            self.write()
            self.transport.close()
