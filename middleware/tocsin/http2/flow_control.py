"""Flow control of HTTP/2 where the relay does not leave it to the peers (RFC 9113, section 5.2).

In observe and annotate every byte of DATA passes as it came, and windows are the peers' own affair. A response that is
held, replaced or changed is another: then the relay keeps to the windows that the receiver gives (`SendWindow`), and
gives the sender windows of its own (`ReceiveWindow`), in both directions: callers who wait for answers that are held
should not wait for the upstream's leave to ask as well.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Any, Protocol

from tocsin.http2 import frames
from tocsin.http2.frames import (
    DATA,
    DEFAULT_MAX_FRAME_SIZE,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    WINDOW_UPDATE,
    FrameError,
    StreamError,
)
from tocsin.memory import MemoryAccount

INITIAL_WINDOW = 65_535  # that every peer begins with
LARGEST_WINDOW = (1 << 31) - 1
STREAM_WINDOW = 1 << 20  # that senders are given, a stream
CONNECTION_WINDOW = 1 << 22  # and a connection
MOST_UNWRITTEN = 1 << 18  # bytes that leave a queue before the socket has taken those before them

_MUCH_OF_STREAM, _MUCH_OF_CONNECTION = STREAM_WINDOW // 4, CONNECTION_WINDOW // 4  # credited at once
GUARANTEED_WINDOW = STREAM_WINDOW - _MUCH_OF_STREAM  # bytes that fit into any stream's window of which nothing waits

_INCREMENT = Struct(">L")


class Writes(Protocol):
    """A side of the relay, for what is to be written to its peer."""

    def put(self, frame: bytes) -> None:
        """Write a whole frame."""
        ...


class StreamSendQueue:
    """One stream's DATA towards the receiver: its window beyond the initial one, and what waits for it."""

    __slots__ = ("is_ready", "queue", "window")

    def __init__(self) -> None:
        self.window = 0
        self.queue: deque[tuple[bytes | memoryview, int | None]] | None = None  # payload, flags; None: a whole frame
        self.is_ready = False  # it has a turn among those that wait for the connection's window or the socket


class SendWindow:
    """DATA towards one receiver, within the windows it has given, and no faster than its socket takes it.

    What waits is charged to `memory`. No step costs more for the streams that wait for windows of their own, except
    a change of SETTINGS_INITIAL_WINDOW_SIZE, which concerns all of them.
    """

    def __init__(self, side: Writes, memory: MemoryAccount) -> None:
        self._side = side
        self._memory = memory
        self._window = INITIAL_WINDOW
        self._initial = INITIAL_WINDOW
        self._announced: deque[int | None] = deque()
        self._queues: dict[int, StreamSendQueue] = {}
        self._blocked: dict[int, None] = {}  # streams that have something waiting
        self._ready: deque[int] = deque()  # those that do not wait for a window of their own, in turn
        self._widest = 0  # the largest window beyond the initial one that a stream ever had
        self._unwritten = 0
        self.is_paused = False  # the socket takes no more
        self.waiting = 0  # bytes that wait

    @property
    def may_go_on(self) -> bool:
        """Whether something waits for the socket alone."""
        return self._window > 0 and bool(self._ready)

    @property
    def streams_waiting(self) -> int:
        """How many streams have something waiting."""
        return len(self._blocked)

    def blocked(self, stream: int) -> bool:
        """Whether something of a stream waits."""
        return stream in self._blocked

    def open(self, stream: int) -> None:
        """A stream has begun."""
        self._queues[stream] = StreamSendQueue()

    def try_consume(self, stream: int, length: int) -> bool:
        """Whether a whole DATA frame of that length may pass now as it is; then it is accounted for."""
        send_queue = self._queues.get(stream) or self._queue_of(stream)
        window, of_stream = self._window - length, send_queue.window - length
        if window < 0 or self._initial + of_stream < 0 or self.is_paused or stream in self._blocked:
            return False
        self._window, send_queue.window = window, of_stream
        return True

    def send(self, stream: int, payload: bytes, flags: int = 0) -> bool:
        """Send DATA as soon as the windows allow, after what waits of this stream; whether all of it is sent."""
        send_queue, size = self._queues.get(stream) or self._queue_of(stream), len(payload)
        queue = send_queue.queue
        if not queue and size <= DEFAULT_MAX_FRAME_SIZE:
            if not size:
                if flags:
                    self._side.put(frames.frame(DATA, flags, stream))
                return True
            unwritten, window, of_stream = self._unwritten + size, self._window - size, send_queue.window - size
            if window >= 0 and self._initial + of_stream >= 0 and unwritten <= MOST_UNWRITTEN and not self.is_paused:
                self._unwritten, self._window, send_queue.window = unwritten, window, of_stream
                self._side.put(frames.frame(DATA, flags, stream, payload))
                return True
        elif not size and not flags:
            return stream not in self._blocked
        if queue is None:
            queue = send_queue.queue = deque()
        self._wait(size)
        if queue:
            last, last_flags = queue[-1]
            if last_flags == 0 and len(last) + size <= DEFAULT_MAX_FRAME_SIZE:
                # Many small pieces would take far more memory than they hold.
                queue[-1] = bytes(last) + payload, flags
                return False
        queue.append((payload, flags))
        return stream not in self._blocked and self._pump(stream, send_queue)

    def enqueue_after_data(self, stream: int, frame: bytes) -> None:
        """Send another frame of this stream, after what waits of it."""
        send_queue = self._queues.get(stream)
        if send_queue is None or not send_queue.queue:
            self._side.put(frame)
        else:
            self._wait(len(frame))
            send_queue.queue.append((frame, None))

    def credit(self, stream: int, payload: bytes) -> list[int]:
        """A WINDOW_UPDATE has come; the streams of which nothing waits any more.

        Raises FrameError or StreamError where it is malformed, or opens a window too far.
        """
        if len(payload) != _INCREMENT.size:
            raise FrameError(frames.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
        increment = _INCREMENT.unpack(payload)[0] & LARGEST_WINDOW
        if stream:
            if not increment:
                raise StreamError(stream, frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            send_queue = self._queues.get(stream)
            if send_queue is None:  # it has ended
                return []
            send_queue.window += increment
            if send_queue.window > self._widest:
                self._widest = send_queue.window
            if self._initial + send_queue.window > LARGEST_WINDOW:
                raise StreamError(stream, FLOW_CONTROL_ERROR, f"the window of stream {stream} is too large")
            return [stream] if stream in self._blocked and self._pump(stream, send_queue) else []
        if not increment:
            raise FrameError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self._window += increment
        if self._window > LARGEST_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "the connection's window is too large")
        return self.pump()

    def announced(self, window: int | None) -> None:
        """SETTINGS have come, with SETTINGS_INITIAL_WINDOW_SIZE or none; they count once acknowledged. Raises
        FrameError.
        """
        if window is not None and window > LARGEST_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
        self._announced.append(window)

    def acknowledged(self) -> list[int]:
        """The oldest SETTINGS announced are acknowledged, and the receiver goes by them from here on; the streams of
        which nothing waits any more. Raises FrameError where a window becomes too large by that.
        """
        window = self._announced.popleft() if self._announced else None
        if window is None or window == self._initial:
            return []
        if window + self._widest > LARGEST_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE makes a stream's window too large")
        self._initial = window
        for stream in self._blocked:
            send_queue = self._queues[stream]
            if window + send_queue.window > 0 and not send_queue.is_ready:
                send_queue.is_ready = True
                self._ready.append(stream)
        return self.pump()

    def pump(self) -> list[int]:
        """Send what the connection's window and the socket allow, stream by stream in turn; the streams of which
        nothing waits any more.
        """
        finished = []
        for _ in range(len(self._ready)):
            if self._window <= 0 or self.is_paused or self._unwritten >= MOST_UNWRITTEN:
                break
            stream = self._ready.popleft()
            send_queue = self._queues.get(stream)
            if send_queue is None or not send_queue.is_ready:  # it has ended meanwhile
                continue
            send_queue.is_ready = False
            if self._pump(stream, send_queue):
                finished.append(stream)
        return finished

    def on_socket_written(self) -> bool:
        """The socket has been given what was put; whether more could follow now."""
        if not self._unwritten:
            return False
        self._unwritten = 0
        return bool(self._ready) and self._window > 0 and not self.is_paused

    def close(self, stream: int) -> None:
        """The stream has ended, or nobody reads it any more."""
        send_queue = self._queues.pop(stream, None)
        if send_queue is not None and send_queue.queue:
            self._wait(-sum([len(payload) for payload, _ in send_queue.queue]))
            self._blocked.pop(stream, None)

    def drop(self) -> None:
        """The receiver is gone."""
        self._wait(-self.waiting)
        self._queues.clear()
        self._blocked.clear()
        self._ready.clear()

    def _wait(self, size: int) -> None:
        """So many bytes more wait, or fewer."""
        self.waiting += size
        if size > 0:
            self._memory.charge(size)
        else:
            self._memory.release(-size)

    def _queue_of(self, stream: int) -> StreamSendQueue:
        send_queue = self._queues.get(stream)
        if send_queue is None:
            send_queue = self._queues[stream] = StreamSendQueue()
        return send_queue

    def _pump(self, stream: int, send_queue: StreamSendQueue) -> bool:
        """Send what the windows and the socket allow; whether nothing is left."""
        put, queue = self._side.put, send_queue.queue
        assert queue is not None
        while queue:
            payload, flags = queue[0]
            size = len(payload)
            if flags is None:
                put(bytes(payload))
                queue.popleft()
                self._wait(-size)
                continue
            if size:
                if self.is_paused or self._unwritten >= MOST_UNWRITTEN:
                    break
                room = min(self._window, self._initial + send_queue.window, DEFAULT_MAX_FRAME_SIZE)
                if room <= 0:
                    break
                if size > room:
                    rest = memoryview(payload)
                    put(frames.data_frame(flags & ~END_STREAM, stream, rest[:room]))
                    queue[0] = (_lean(rest[room:]), flags)
                    size = room
                else:
                    put(frames.data_frame(flags, stream, payload))
                    queue.popleft()
            else:
                put(frames.frame(DATA, flags, stream))
                queue.popleft()
            self._window -= size
            send_queue.window -= size
            self._unwritten += size
            self._wait(-size)
        if queue:
            self._blocked[stream] = None
            if self._initial + send_queue.window > 0 and not send_queue.is_ready:
                send_queue.is_ready = True
                self._ready.append(stream)
            return False
        self._blocked.pop(stream, None)
        return True


class ReceiveWindow:
    """Windows that one sender is given, and that it must keep to.

    The connection's window is given back as soon as the relay has the bytes, so that no stream that is not read stops
    another; a stream's once they are out of the way, at once or when the receiver has caught up (`defer_credit`,
    `release_credit`). Where a slow receiver lets too much pile up in `send_window`, the connection's waits as well.
    """

    def __init__(self, side: Writes, send_window: SendWindow, memory: MemoryAccount) -> None:
        self._side = side
        self._send_window = send_window
        self._memory = memory
        self.uncredited = 0  # bytes to be credited, to the connection
        self._streams: dict[int, int] = {}  # and to streams, less than _MUCH_OF_STREAM each
        self.later: dict[int, int] = {}  # of streams of which something waits for the receiver
        self._is_open = False

    def begin(self) -> bytes:
        """What opens the connection's window, to be written after the first SETTINGS; later nothing."""
        if self._is_open:
            return b""
        self._is_open = True
        return window_update(0, CONNECTION_WINDOW - INITIAL_WINDOW)

    def admit(self, stream: int, length: int) -> None:
        """A DATA frame of that length has begun. Raises FrameError where it exceeds the windows that were given.

        Whoever reads frames need not ask while nothing is owed `later`, and neither the frame is larger than SURE nor
        what is `uncredited`.
        """
        if self.uncredited + length > CONNECTION_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        uncredited = self._streams.get(stream, 0)
        if self.later:
            uncredited += self.later.get(stream, 0)
        if uncredited + length > STREAM_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, f"DATA beyond the window of stream {stream}")

    def credit(self, stream: int, size: int, *, ended: bool = False) -> None:
        """So many bytes of a stream have gone on, or were dropped."""
        uncredited = self.uncredited = self.uncredited + size
        if uncredited >= _MUCH_OF_CONNECTION:
            self.resume()
        if not ended or self._streams:
            self._credit_stream(stream, size, ended)

    def defer_credit(self, stream: int, size: int) -> None:
        """So many bytes of a stream wait for the receiver."""
        self.uncredited += size
        if self.uncredited >= _MUCH_OF_CONNECTION:
            self.resume()
        self.later[stream] = self.later.get(stream, 0) + size

    def release_credit(self, stream: int, *, ended: bool) -> None:
        """The receiver of a stream has caught up, or none of it is wanted any more."""
        if stream in self.later:
            self._credit_stream(stream, self.later.pop(stream), ended)

    def resume(self) -> None:
        """Give the connection's window back, unless too much waits for the receiver."""
        if self.uncredited >= _MUCH_OF_CONNECTION and not self._memory.is_held_back(self._send_window.waiting):
            self._side.put(window_update(0, self.uncredited))
            self.uncredited = 0

    def close(self, stream: int) -> None:
        """The stream has ended."""
        if self.later:
            self.release_credit(stream, ended=True)
        self._streams.pop(stream, None)

    def _credit_stream(self, stream: int, size: int, ended: bool) -> None:
        streams = self._streams
        if ended:
            streams.pop(stream, None)
            return
        due = streams.get(stream, 0) + size
        if due >= _MUCH_OF_STREAM:
            self._side.put(window_update(stream, due))
            due = 0
        streams[stream] = due


def _lean(rest: memoryview) -> bytes | memoryview:
    """What is left of a payload, which may not keep all of it in memory for ever."""
    buffer: Any = rest.obj
    return rest if len(rest) > len(buffer) >> 1 else bytes(rest)


def pass_on(
    send_window: SendWindow, receive_window: ReceiveWindow, stream: int, payload: bytes, size: int, flags: int
) -> None:
    """Send DATA, which took `size` bytes of its sender's windows, as the receiver's allow."""
    if send_window.send(stream, payload, flags & END_STREAM):
        receive_window.credit(stream, size, ended=bool(flags & END_STREAM))
    else:
        receive_window.defer_credit(stream, size)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frames.frame(WINDOW_UPDATE, 0, stream, _INCREMENT.pack(increment))
