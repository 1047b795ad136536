"""Flow control towards a receiver (RFC 9113, section 5.2): DATA goes out within the windows that it gives.

In observe and annotate every byte of DATA passes as it came, and windows are the peers' own affair. A response that is
held, replaced or changed is another one: the relay then keeps to the receiver's windows itself (`SendWindow`), and
gives the sender windows of its own (`tocsin.http2.receive_window`). It does so in both directions, so that callers
whose answers are held can still send requests.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Any, Final, Protocol

from tocsin.http2 import frames
from tocsin.http2.frames import DATA, DEFAULT_MAX_FRAME_SIZE, END_STREAM, FLOW_CONTROL_ERROR, FrameError, StreamError
from tocsin.memory import MemoryAccount

INITIAL_WINDOW: Final = 65_535  # that every peer begins with
LARGEST_WINDOW: Final = (1 << 31) - 1
MOST_UNWRITTEN: Final = 1 << 18  # bytes that leave a queue before the socket has taken those before them

_INCREMENT: Final = Struct(">L")


class Writes(Protocol):
    """A side of the relay, for what is to be written to its peer."""

    def put(self, frame: bytes) -> None:
        """Write a frame, or several, none of them in part."""
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
                # Whole frames: where the last one passes what may be unwritten, none follows it.
                unwritten_room = MOST_UNWRITTEN - self._unwritten + DEFAULT_MAX_FRAME_SIZE - 1
                unwritten_room -= unwritten_room % DEFAULT_MAX_FRAME_SIZE
                room = min(self._window, self._initial + send_queue.window, unwritten_room)
                if room <= 0:
                    break
                if size > room:
                    rest = memoryview(payload)
                    put(frames.data_frames(flags & ~END_STREAM, stream, rest[:room]))
                    queue[0] = (_lean(rest[room:]), flags)
                    size = room
                else:
                    put(frames.data_frames(flags, stream, payload))
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


def _lean(rest: memoryview) -> bytes | memoryview:
    """What is left of a payload, which may not keep all of it in memory for ever."""
    buffer: Any = rest.obj
    return rest if len(rest) > len(buffer) >> 1 else bytes(rest)
