"""One of the two sockets of a relayed connection: cuts what arrives into frames and hands it on as the same bytes."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tocsin.http2 import frames
from tocsin.http2.frames import FrameError, StreamError
from tocsin.http2.send_window import SendWindow
from tocsin.http2.splitter import FrameSplitter
from tocsin.relay.stream_host import StreamHost

MOST_UNREAD: Final = 1 << 20  # bytes of the relay's own answers that a peer which does not read them may leave waiting
MAX_JOINED_BYTES: Final = 1 << 16  # of pieces, up to which joining them is quicker than writing them one by one


class EndpointHost(StreamHost):
    """A connection, as its two endpoints know it."""

    __slots__ = ()

    def flush(self, side: Endpoint) -> None:
        """Write what waits for a side, unless it waits for a verdict of this batch."""
        raise NotImplementedError

    def caught_up(self, side: Endpoint) -> None:
        """A socket has taken what was written: send what waited for that."""
        raise NotImplementedError

    def end_faulty_stream(self, side: Endpoint, error: StreamError) -> None:
        """A peer broke the protocol on one stream: end that on both sides, and nothing else."""
        raise NotImplementedError

    def abort(self, side: Endpoint, error: FrameError) -> None:
        """A peer broke the protocol: tell it, as its peer would, and close both sides."""
        raise NotImplementedError

    def cut_off(self, limit: str, reason: str) -> None:
        """Others need what this client takes: end its connection without waiting for it to read anything."""
        raise NotImplementedError


class Endpoint(FrameSplitter):
    """An asyncio protocol for frames from one peer. Subclasses say what they mean in their direction.

    `out` is what waits to be written to this peer, `waiting` whole frames for which there is no place in it until a
    frame that is passing has ended. `largest_frame` is the largest that this peer takes, `send_window` its windows
    where the relay keeps to them.
    """

    __slots__ = (
        "_has_ended", "_host", "_rests", "_unread", "_unsent", "greeted", "half_closed", "is_closed", "is_paused",
        "largest_frame", "out", "peer", "send_window", "transport", "waiting",
    )  # fmt: skip
    __deletable__ = ("_host", "peer")  # where this is compiled: by whoever parts the two

    peer: Endpoint  # the other side

    def __init__(self, host: EndpointHost) -> None:
        super().__init__(host.memory)
        self._host = host
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes] = []
        self.waiting: list[bytes] = []
        self.send_window: SendWindow | None = None
        self.is_closed = False
        self.half_closed = False  # the peer writes no more
        self.greeted = False  # it has said what it speaks
        self.is_paused = False  # it does not read what was written
        self.largest_frame = frames.DEFAULT_MAX_FRAME_SIZE
        self._unsent = 0  # bytes that the socket does not take, as they were charged
        self._unread = 0  # of the relay's own answers, since the peer stopped reading
        self._has_ended = False  # nothing more is written
        self._rests = False  # nothing is read until the next turn of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a socket."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone

    def data_received(self, data: bytes) -> None:
        """Bytes from the socket."""
        host, peer = self._host, self.peer
        try:
            self.split(data, peer.out, peer.largest_frame)
        except FrameError as error:
            host.abort(self, error)
            return
        host.flush(peer)
        if self.out:  # such as credit for what was read
            host.flush(self)

    def rest(self) -> None:
        """Read no more in this turn of the event loop."""
        transport, peer = self.transport, self.peer
        if self._rests or peer.is_paused or peer.transport is None or transport is None or transport.is_closing():
            return
        self._rests = True
        transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Others have had their turn."""
        self._rests = False
        transport = self.transport
        if self.is_closed or transport is None or transport.is_closing() or self.peer.is_paused:
            return  # where the peer is paused, it has this read on once it has caught up
        transport.resume_reading()

    def eof_received(self) -> bool:
        """The peer writes no more; whether something may still be written to it."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        raise NotImplementedError

    def on_stream_error(self, error: StreamError) -> None:
        self._host.end_faulty_stream(self, error)

    def on_frame_passed(self) -> None:
        if self.peer.waiting:
            self.peer.place_waiting()

    def put(self, frame: bytes) -> None:
        """Write a frame to this peer, or several: whole ones, and not into the middle of another."""
        (self.out if self.peer.between_frames else self.waiting).append(frame)

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
                self._host.cut_off("unread", "answers are not read")
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
        elif sum(map(len, out)) <= MAX_JOINED_BYTES:
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
        if not self.is_closed:
            self._host.caught_up(self)

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
            self._host.caught_up(self)

    def break_cycle(self) -> None:
        """Hold nothing of the connection any more."""
        self.send_window = None
        del self._host, self.peer

    def close(self) -> None:
        """Write what waits and close the socket."""
        if self.transport is not None and not self.transport.is_closing():
            self.write()
            self.transport.close()
