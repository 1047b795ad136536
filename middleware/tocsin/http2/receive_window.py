"""Flow control towards a sender (RFC 9113, section 5.2): the windows that it is given, and that it must keep to."""

from __future__ import annotations

from typing import Final

from tocsin.http2.frames import END_STREAM, FLOW_CONTROL_ERROR, FrameError, window_update
from tocsin.http2.send_window import INITIAL_WINDOW, SendWindow, Writes
from tocsin.memory import MemoryAccount

STREAM_WINDOW: Final = 1 << 20  # that senders are given, a stream
CONNECTION_WINDOW: Final = 1 << 22  # and a connection

_MUCH_OF_STREAM: Final = STREAM_WINDOW // 4  # credited at once
_MUCH_OF_CONNECTION: Final = CONNECTION_WINDOW // 4
GUARANTEED_WINDOW: Final = (
    STREAM_WINDOW - _MUCH_OF_STREAM
)  # bytes that fit into any stream's window of which nothing waits


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
        self.much_of_connection = _MUCH_OF_CONNECTION
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

        Whoever reads frames need not ask while nothing is owed `later`, and neither the frame nor what is
        `uncredited` is larger than GUARANTEED_WINDOW.
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
        if uncredited >= self.much_of_connection:
            self.resume()
        if not ended or self._streams:
            self._credit_stream(stream, size, ended)

    def defer_credit(self, stream: int, size: int) -> None:
        """So many bytes of a stream wait for the receiver."""
        self.uncredited += size
        if self.uncredited >= self.much_of_connection:
            self.resume()
        self.later[stream] = self.later.get(stream, 0) + size

    def release_credit(self, stream: int, *, ended: bool) -> None:
        """The receiver of a stream has caught up, or none of it is wanted any more."""
        if stream in self.later:
            self._credit_stream(stream, self.later.pop(stream), ended)

    def resume(self) -> None:
        """Give the connection's window back, unless too much waits for the receiver."""
        if self.uncredited >= self.much_of_connection and not self._memory.is_held_back(self._send_window.waiting):
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


def pass_on(
    send_window: SendWindow, receive_window: ReceiveWindow, stream: int, payload: bytes, size: int, flags: int
) -> None:
    """Send DATA, which took `size` bytes of its sender's windows, as the receiver's allow."""
    if send_window.send(stream, payload, flags & END_STREAM):
        receive_window.credit(stream, size, ended=bool(flags & END_STREAM))
    else:
        receive_window.defer_credit(stream, size)
