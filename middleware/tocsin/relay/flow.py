"""Flow control of HTTP/2 where the relay does not leave it to the peers (RFC 9113, section 5.2).

In observe and annotate every byte of DATA passes as it came, and windows are the peers' own affair. A response that is
held, replaced or changed is another: then the relay keeps to the windows that the receiver gives (`Outflow`), and
gives the sender windows of its own (`Inflow`), in both directions: callers who wait for answers that are held should
not wait for the upstream's leave to ask as well.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Protocol

from tocsin.relay import frames
from tocsin.relay.frames import DATA, END_STREAM, WINDOW_UPDATE, FrameError
from tocsin.relay.messages import Memory

INITIAL_WINDOW = 65_535  # that every peer begins with
LARGEST_WINDOW = (1 << 31) - 1
STREAM_WINDOW = 1 << 20  # that senders are given, a stream
CONNECTION_WINDOW = 1 << 22  # and a connection
FLOW_CONTROL_ERROR = 0x3

_MUCH_OF_STREAM, _MUCH_OF_CONNECTION = STREAM_WINDOW // 4, CONNECTION_WINDOW // 4  # credited at once

_INCREMENT = Struct(">L")


class Writes(Protocol):
    """A side of the relay, for what is to be written to its peer."""

    def put(self, whole: bytes) -> None:
        """Write a whole frame."""
        ...


class Lane:
    """One stream's DATA towards the receiver: its window, and what waits for it."""

    __slots__ = ("queue", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.queue: deque[tuple[bytes | memoryview, int | None]] | None = None  # payload, flags; None: a whole frame


class Outflow:
    """DATA towards one receiver, within the windows it has given. What waits for them counts as `memory`."""

    def __init__(self, side: Writes, memory: Memory) -> None:
        self._side = side
        self._memory = memory
        self._room = INITIAL_WINDOW
        self._initial = INITIAL_WINDOW
        self._announced: deque[int | None] = deque()
        self._lanes: dict[int, Lane] = {}
        self._blocked: dict[int, None] = {}  # streams that have something waiting, in turn
        self.waiting = 0  # bytes that wait for a window

    def blocked(self, stream: int) -> bool:
        """Whether something of a stream waits."""
        return stream in self._blocked

    def open(self, stream: int) -> None:
        """A stream has begun."""
        self._lane(stream)

    def passes(self, stream: int, length: int) -> bool:
        """Whether a whole DATA frame of that length may pass now as it is; then it is accounted for."""
        lane = self._lane(stream)
        if stream in self._blocked or length > self._room or length > lane.room:
            return False
        self._room -= length
        lane.room -= length
        return True

    def send(self, stream: int, payload: bytes, flags: int = 0) -> None:
        """Send DATA as soon as the windows allow, after what waits of this stream."""
        lane, size = self._lane(stream), len(payload)
        if not lane.queue and size <= frames.DEFAULT_MAX_FRAME_SIZE and size <= self._room and size <= lane.room:
            self._room -= size
            lane.room -= size
            self._side.put(frames.frame(DATA, flags, stream, payload))
            return
        if lane.queue is None:
            lane.queue = deque()
        lane.queue.append((payload, flags))
        self._wait(size)
        if stream not in self._blocked:
            self._pump(stream, lane)

    def follow(self, stream: int, whole: bytes) -> None:
        """Send another frame of this stream, after what waits of it."""
        lane = self._lanes.get(stream)
        if lane is None or not lane.queue:
            self._side.put(whole)
        else:
            lane.queue.append((whole, None))

    def credit(self, stream: int, payload: bytes) -> list[int]:
        """A WINDOW_UPDATE has come; the streams of which nothing waits any more.

        Raises FrameError where it is malformed, or opens a window too far.
        """
        if len(payload) != _INCREMENT.size:
            raise FrameError(frames.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
        increment = _INCREMENT.unpack(payload)[0] & LARGEST_WINDOW
        if not increment:
            raise FrameError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        if stream:
            lane = self._lanes.get(stream)
            if lane is None:  # it has ended
                return []
            lane.room += increment
            if lane.room > LARGEST_WINDOW:
                raise FrameError(FLOW_CONTROL_ERROR, f"the window of stream {stream} is too large")
            return [stream] if stream in self._blocked and self._pump(stream, lane) else []
        self._room += increment
        if self._room > LARGEST_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "the connection's window is too large")
        return [one for one in list(self._blocked) if self._room and self._pump(one, self._lanes[one])]

    def announced(self, window: int | None) -> None:
        """SETTINGS have come, with SETTINGS_INITIAL_WINDOW_SIZE or none; they count once acknowledged. Raises
        FrameError.
        """
        if window is not None and window > LARGEST_WINDOW:
            raise FrameError(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
        self._announced.append(window)

    def acknowledged(self) -> list[int]:
        """The oldest SETTINGS announced are acknowledged, and the receiver goes by them from here on; the streams of
        which nothing waits any more.
        """
        window = self._announced.popleft() if self._announced else None
        if window is None:
            return []
        change, self._initial = window - self._initial, window
        for lane in self._lanes.values():
            lane.room += change
        return [one for one in list(self._blocked) if self._pump(one, self._lanes[one])]

    def close(self, stream: int) -> None:
        """The stream has ended, or nobody reads it any more."""
        lane = self._lanes.pop(stream, None)
        if lane is not None and lane.queue:
            self._wait(-sum(len(payload) for payload, flags in lane.queue if flags is not None))
            self._blocked.pop(stream, None)

    def drop(self) -> None:
        """The receiver is gone."""
        self._wait(-self.waiting)
        self._lanes.clear()
        self._blocked.clear()

    def _wait(self, size: int) -> None:
        """So many bytes more wait for a window, or fewer."""
        self.waiting += size
        self._memory.left -= size

    def _lane(self, stream: int) -> Lane:
        lane = self._lanes.get(stream)
        if lane is None:
            lane = self._lanes[stream] = Lane(self._initial)
        return lane

    def _pump(self, stream: int, lane: Lane) -> bool:
        """Send what the windows allow; whether nothing is left."""
        put, queue = self._side.put, lane.queue
        assert queue is not None
        while queue:
            payload, flags = queue[0]
            if flags is None:
                put(bytes(payload))
                queue.popleft()
                continue
            room = min(self._room, lane.room, frames.DEFAULT_MAX_FRAME_SIZE)
            size = len(payload)
            if size > room and room <= 0:
                break
            if size > room:
                rest = memoryview(payload)
                put(frames.frame(DATA, flags & ~END_STREAM, stream, bytes(rest[:room])))
                queue[0] = (rest[room:], flags)
                size = room
            else:
                put(frames.frame(DATA, flags, stream, bytes(payload)))
                queue.popleft()
            self._room -= size
            lane.room -= size
            self._wait(-size)
        if queue:
            self._blocked[stream] = None
            return False
        self._blocked.pop(stream, None)
        return True


class Inflow:
    """Windows that one sender is given: what it has sent is credited once it is out of the way, at once or when the
    receiver has caught up (`owe`, `settle`).
    """

    def __init__(self, side: Writes) -> None:
        self._side = side
        self._connection = 0  # bytes to be credited, to the connection
        self._streams: dict[int, int] = {}  # and to streams
        self._later: dict[int, int] = {}  # of streams of which something waits for the receiver
        self._begun = False

    def begin(self) -> bytes:
        """What opens the connection's window, to be written after the first SETTINGS; later nothing."""
        if self._begun:
            return b""
        self._begun = True
        return window_update(0, CONNECTION_WINDOW - INITIAL_WINDOW)

    def credit(self, stream: int, size: int, *, ended: bool = False) -> None:
        """So many bytes of a stream have gone on, or were dropped."""
        self._connection += size
        if self._connection >= _MUCH_OF_CONNECTION:
            self._side.put(window_update(0, self._connection))
            self._connection = 0
        if ended:
            if self._streams:
                self._streams.pop(stream, None)
            return
        due = self._streams.get(stream, 0) + size
        if due >= _MUCH_OF_STREAM:
            self._side.put(window_update(stream, due))
            due = 0
        self._streams[stream] = due

    def owe(self, stream: int, size: int) -> None:
        """So many bytes of a stream wait for the receiver."""
        self._later[stream] = self._later.get(stream, 0) + size

    def settle(self, stream: int, *, ended: bool) -> None:
        """The receiver of a stream has caught up, or none of it is wanted any more."""
        if stream in self._later:
            self.credit(stream, self._later.pop(stream), ended=ended)

    def close(self, stream: int) -> None:
        """The stream has ended."""
        self.settle(stream, ended=True)
        self._streams.pop(stream, None)


def pass_on(outflow: Outflow, inflow: Inflow, stream: int, payload: bytes, size: int, flags: int) -> None:
    """Send DATA, which took `size` bytes of its sender's windows, as the receiver's allow."""
    outflow.send(stream, payload, flags & END_STREAM)
    if outflow.blocked(stream):
        inflow.owe(stream, size)
    else:
        inflow.credit(stream, size, ended=bool(flags & END_STREAM))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frames.frame(WINDOW_UPDATE, 0, stream, _INCREMENT.pack(increment))
